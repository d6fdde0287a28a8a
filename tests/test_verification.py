from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import flipped
from support import Run, make_cells, make_store

import scstore
from scstore.errors import NotAStoreError, OptionError


@pytest.fixture(scope="module")
def made(evaluation_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    make_cells().write_h5ad(folder / "cells.h5ad")
    scstore.panel(folder / "cells.h5ad", folder / "panel.h5ad", label="cell_type", n_genes=15)
    scstore.build_genes(folder / "genes.h5ad", cells=folder / "cells.h5ad", encoder="random:8")
    scstore.fit(evaluation_store, folder / "head", label="cell_type", head="knn")
    scstore.export(evaluation_store, folder / "store.h5ad")
    return folder


KINDS = {"panel.h5ad": "panel", "genes.h5ad": "gene table", "head": "head"}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_known_and_sound(made: Path, name: str) -> None:
    found = scstore.verify(made / name, deep=True)
    assert (found.kind, found.findings) == (KINDS[name], ())
    assert found.n_bytes


@pytest.mark.parametrize(("name", "where"), [("panel.h5ad", "obs/symbol"), ("genes.h5ad", "X")])
def test_a_changed_value_is_found(made: Path, tmp_path: Path, name: str, where: str) -> None:
    file = tmp_path / name
    file.write_bytes((made / name).read_bytes())
    with h5py.File(file, "r+") as opened:
        values = opened[where] if isinstance(opened[where], h5py.Dataset) else opened[where]["values"]
        values[...] = np.asarray(values)[::-1]
    (finding,) = scstore.verify(file).findings
    assert (finding.problem, name in finding.message) == ("damaged", True)


@pytest.mark.parametrize("size", [0.5, 0.98])
def test_a_truncated_table_is_found(made: Path, tmp_path: Path, size: float) -> None:
    file = tmp_path / "genes.h5ad"
    whole = (made / "genes.h5ad").read_bytes()
    file.write_bytes(whole[: int(len(whole) * size)])
    try:
        assert not scstore.verify(file).ok
    except NotAStoreError as error:  # so short that nothing says what it was
        assert "genes.h5ad" in str(error)


def test_all_of_a_head_is_listed(made: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    head.mkdir()
    (head / "head.json").write_bytes((made / "head" / "head.json").read_bytes().replace(b"knn", b"kxn"))
    (head / "weights.safetensors").write_bytes(b"1234")
    found = scstore.verify(head)
    assert [finding.file for finding in found.findings] == ["head.json", "weights.safetensors"]
    (head / "head.json").unlink()
    assert [finding.problem for finding in scstore.verify(head).findings] == ["missing", "damaged"]


def test_other_files_in_a_head_are_not_looked_at(made: Path, tmp_path: Path) -> None:
    """RELIABILITY 39: foreign index file beside a head."""
    head = tmp_path / "head"
    head.mkdir()
    for file in (made / "head").iterdir():
        (head / file.name).write_bytes(file.read_bytes())
    (head / "index.faiss").write_bytes(b"1")
    found = scstore.verify(head)
    assert found.ok
    assert "index.faiss" in found.notes[0]


def test_what_scstore_did_not_write_is_refused(made: Path, tmp_path: Path) -> None:
    for path in (made / "cells.h5ad", made / "store.h5ad", tmp_path, tmp_path / "absent"):
        with pytest.raises(NotAStoreError):
            scstore.verify(path)


@pytest.mark.parametrize("option", ["gc", "repair"])
def test_mending_is_for_stores(made: Path, option: str) -> None:
    with pytest.raises(OptionError, match=f"{option}=.*head"):
        scstore.verify(made / "head", **{option: True})


def test_the_command_lists_all_and_exits_with_3(evaluation_store: Path, tmp_path: Path, scstore_command: Run) -> None:
    root = shutil.copytree(evaluation_store, tmp_path / "s.zarr")
    assert "nothing wrong" in scstore_command("verify", "s.zarr", "--deep").stdout
    (root / "obs" / "zarr.json").unlink()
    chunk = root / "obsm" / "genept" / "c" / "0" / "0"
    chunk.write_bytes(b"\0" + chunk.read_bytes()[1:-1] + b"\0")
    done = scstore_command("verify", "s.zarr", "--deep", code=3)
    assert "missing: s.zarr/obs/zarr.json" in done.stdout
    assert "damaged: s.zarr/obsm/genept/c/0/0" in done.stdout
    assert "Traceback" not in done.stderr
    found = json.loads(scstore_command("--json", "verify", "s.zarr", "--deep", code=3).stdout)
    assert [finding["problem"] for finding in found["findings"]] == ["missing", "damaged"]


def test_verify_never_imports_torch() -> None:
    script = "import sys, scstore.verification; print(*(n for n in ('torch', 'transformers') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_copies_in_a_head_are_checked_byte_by_byte(tmp_path: Path, llama: Path) -> None:
    make_store(make_cells(60), tmp_path / "ref.zarr", llama)
    scstore.fit(tmp_path / "ref.zarr", head := tmp_path / "head", label="cell_type", views=["genept", "X"])
    assert scstore.verify(head).ok
    copy = head / "genes.h5ad"
    for place in (100, copy.stat().st_size // 2, copy.stat().st_size - 9):
        with flipped(copy, place, 255):
            assert [(one.file, one.problem) for one in scstore.verify(head).findings] == [("genes.h5ad", "damaged")]
    copy.unlink()
    assert [(one.file, one.problem) for one in scstore.verify(head).findings] == [("genes.h5ad", "missing")]
