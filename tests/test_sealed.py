from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scstore
from scstore import fsio
from scstore.errors import DamagedError, NewerFormatError, NotAStoreError, OptionError, OutputError
from scstore.genes.table import GeneTable, load_gene_table, save_gene_table
from scstore.heads.artifact import HEAD
from scstore.model.projector import PROJECTOR, load_projector
from scstore.panels.panel import Panel, load_panel, save_panel
from scstore.sealed import (
    FORMAT,
    FolderKind,
    canonical_json,
    check_format,
    differences,
    fingerprint,
    read_sealed_folder,
    seal,
    unseal,
    write_sealed_folder,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
SPACES = st.dictionaries(st.text(), LEAVES | st.dictionaries(st.text(), LEAVES), max_size=6)


@given(SPACES)
def test_the_order_of_keys_does_not_matter(space: dict[str, object]) -> None:
    turned = dict(reversed(list(space.items())))
    assert fingerprint(turned) == fingerprint(space)
    assert differences(space, turned) == []


@given(SPACES, SPACES)
def test_equal_fingerprints_mean_equal_spaces(left: dict[str, object], right: dict[str, object]) -> None:
    assert (fingerprint(left) == fingerprint(right)) == (canonical_json(left) == canonical_json(right))


def test_the_fingerprint_never_changes() -> None:
    space = {"layer": 6, "model": {"digest": "sha256:aa"}, "instruction": "what is «it»?"}
    assert fingerprint(space) == "sha256:a06db376bdf444aca5970dccba3adb3f1e3bc05e0d4e6eae5ba11b787c13f97a"


def test_differences_name_nested_fields_old_and_new() -> None:
    old = {"model": {"digest": "a"}, "layer": 1, "panel": None}
    new = {"model": {"digest": "b"}, "layer": 1, "seed": 0}
    assert differences(old, new) == ['model.digest: "a" → "b"', "panel: null → (absent)", "seed: (absent) → 0"]


def test_differences_are_words_where_values_mean_nothing_to_a_reader() -> None:
    """No digests and no lists of tokens."""
    old = {"genes": {"digest": "sha256:1"}, "panel": {"digest": None}, "layout": {"prefix": [1, 2]}, "ids": "sha256:a"}
    new = {
        "genes": {"digest": "sha256:2"},
        "panel": {"digest": "sha256:3"},
        "layout": {"prefix": [3]},
        "ids": "sha256:b",
    }
    assert differences(old, new) == [
        "the gene table: another one",
        "the cells' ids: another one",
        "the words before the genes: others",
        "the panel: none → one",
    ]


@given(SPACES)
def test_a_sealed_value_opens_and_a_changed_one_does_not(space: dict[str, object]) -> None:
    body = {key: value for key, value in space.items() if key != "digest"}
    assert unseal(seal(body)) == body
    assert unseal({**seal(body), "another": 1}) is None
    assert unseal(body) is None


@pytest.mark.parametrize("value", [None, [], "text", 3, {"digest": 1}])
def test_what_was_never_sealed_does_not_open(value: object) -> None:
    assert unseal(value) is None


def test_nan_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"value": math.nan})


KIND = FolderKind("parcel", "parcel.json", "parcel.safetensors", "scstore wrap")
DOCUMENT = {"name": "naïve T\n", "n": [1, 2.5, None, {"a": True}]}
ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([3, 4])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sealed_folder(tmp_path / "p", KIND, DOCUMENT, ARRAYS)


def reseal(file: Path, **changes: Any) -> None:
    """Change a description as somebody would who knows how its digest is made."""
    document = json.loads(file.read_bytes())
    del document["digest"]
    file.write_bytes(fsio.json_bytes(seal({**document, **changes})))


def test_what_is_written_is_read_back(folder: Path) -> None:
    document, arrays = read_sealed_folder(folder, KIND)
    about = {"format": FORMAT, "weights": fsio.digest_file(folder / KIND.weights), "copies": {}}
    assert document == DOCUMENT | about
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)


def test_the_same_content_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_sealed_folder(tmp_path / "q", KIND, dict(reversed(DOCUMENT.items())), dict(reversed(ARRAYS.items())))
    assert fsio.digest_tree(again) == fsio.digest_tree(folder)


@pytest.mark.parametrize("name", [KIND.description, KIND.weights])
def test_any_changed_byte_is_found(name: str, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    changed = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    for content in (*changed, whole[:-1], whole + b"\n", b"", b"[]", b"{}", b"[" * 200_000, b"\xff"):
        (folder / name).write_bytes(content)
        with pytest.raises((DamagedError, NewerFormatError), match=name):
            read_sealed_folder(folder, KIND)
    (folder / name).unlink()
    with pytest.raises((DamagedError, NotAStoreError), match=name):
        read_sealed_folder(folder, KIND)


@pytest.mark.parametrize("change", [{"format": None}, {"format": "1"}, {"format": "9" * 5000}, {"weights": None}])
def test_a_sealed_description_without_sense_is_damage(change: dict[str, Any], folder: Path) -> None:
    reseal(folder / KIND.description, **change)
    with pytest.raises(DamagedError):
        read_sealed_folder(folder, KIND)


def test_a_description_beyond_any_size_is_not_read(folder: Path) -> None:
    """RELIABILITY 38: memory bounded."""
    with (folder / KIND.description).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError):
        read_sealed_folder(folder, KIND)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, (1, 2), {3: 1}, "x" * 1000])
def test_what_json_cannot_hold_is_refused(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scstore.sealed.DESCRIPTION_LIMIT", 500)
    with pytest.raises(OptionError):
        write_sealed_folder(tmp_path / "p", KIND, {"value": value}, ARRAYS)
    assert not list(tmp_path.iterdir())


def test_only_the_same_kind_is_replaced(folder: Path, tmp_path: Path) -> None:
    """RELIABILITY 57."""
    with pytest.raises(OutputError):
        write_sealed_folder(folder, KIND, {}, ARRAYS)
    assert read_sealed_folder(folder, KIND)[0]["name"] == DOCUMENT["name"]
    write_sealed_folder(folder, KIND, {}, ARRAYS, overwrite=True)
    assert "name" not in read_sealed_folder(folder, KIND)[0]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError):
        write_sealed_folder(tmp_path / "home", KIND, {}, ARRAYS, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("found", ["1.0", "1.9", "0.4"])
def test_known_formats_pass(found: str) -> None:
    check_format(Path("f"), found)


def _newer_folder(path: Path, kind: FolderKind) -> None:
    write_sealed_folder(path, kind, {"future": 1}, ARRAYS)
    reseal(path / kind.description, format="2.0")


def _newer_file(path: Path, key: str) -> None:
    obs = {"symbol": ["A"], "ensembl_id": [""], "median": [1.0]}
    table = anndata.AnnData(np.ones((1, 2), np.float32), obs=obs, uns={"scstore": {"trained_on": np.array(["c"])}})
    table.obs_names = ["A"]
    for column in ("gene_id", "synonyms", "organism", "text", "text_source"):
        table.obs[column] = ""
    if key == "genes":
        save_gene_table(GeneTable(table.obs, np.ones((1, 2), np.float32), {}, "none"), path)
    else:
        save_panel(Panel(table.obs, "", ()), path)
    with h5py.File(path, "r+") as file:
        header = json.loads(file[f"uns/scstore/{key}"].asstr()[()])
        del file[f"uns/scstore/{key}"], file["obs"]  # a later format may hold anything
        file[f"uns/scstore/{key}"] = json.dumps(header | {"format": "2.0"})


NEWER: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "head": (lambda path: _newer_folder(path, HEAD), scstore.load_head),
    "projector": (lambda path: _newer_folder(path, PROJECTOR), load_projector),
    "genes.h5ad": (lambda path: _newer_file(path, "genes"), load_gene_table),
    "panel.h5ad": (lambda path: _newer_file(path, "panel"), load_panel),
}


@pytest.mark.parametrize("name", NEWER)
def test_a_newer_format_is_named_and_not_called_damage(name: str, tmp_path: Path) -> None:
    """RELIABILITY 34: format one version newer, when it is read and when it is verified."""
    make, load = NEWER[name]
    make(tmp_path / name)
    for read in (load, scstore.verify):
        with pytest.raises(NewerFormatError, match=r"2\.0") as refused:
            read(tmp_path / name)
        assert refused.value.kind == "newer_format"
