"""Runs that are killed, damaged, repeated, repeated with something else, or run twice at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import anndata
import pytest
from broken_disk import Killed
from support import extract, make_cells, write_model

import scstore
from scstore import fsio
from scstore.errors import (
    CellsError,
    DamagedError,
    FeatureSpaceError,
    LockedError,
)
from scstore.store.ledger import chunk_path, record_path

VIEWS = ("readout_wmean_l3", "readout_last_l3", "genept", "genept_random", "X")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of cells, which no test changes."""
    path = tmp_path_factory.mktemp("source") / "cells.h5ad"
    make_cells().write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def whole(source: Path, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that an uninterrupted run makes, in 4 shards. Not to be written to."""
    return extract(source, tmp_path_factory.mktemp("whole") / "s.zarr", llama, shard_rows=16).path


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be written to, at the same distance from the cells."""
    for file in whole.parent.iterdir():
        (shutil.copytree if file.is_dir() else shutil.copy)(file, tmp_path / file.name)
    return tmp_path / whole.name


@pytest.mark.parametrize("after", [0, 2, 3])
def test_stopped_and_repeated_it_ends_in_the_same_store_byte_for_byte(
    source: Path, whole: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """RELIABILITY 21, I1–I3: and no finished shard is computed twice."""
    import scstore.extraction.extract as workflow

    real, commits, stop = workflow.commit_shard, [], True

    def commit(root: Path, plan: Any, shard: int, *words: Any, **named: Any) -> None:
        if stop and len(commits) == after:
            raise Killed
        real(root, plan, shard, *words, **named)
        commits.append(shard)

    monkeypatch.setattr(workflow, "commit_shard", commit)
    with pytest.raises(Killed):
        extract(source, tmp_path / "s.zarr", llama, shard_rows=16)
    store, stop = scstore.open(tmp_path / "s.zarr"), False
    assert store.committed.sum() == 16 * len(commits) == 16 * after
    assert extract(source, store.path, llama, shard_rows=16).is_complete
    assert commits == [0, 1, 2, 3]
    assert fsio.digest_tree(store.path) == fsio.digest_tree(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.genes.h5ad", "s.zarr"]


def test_a_finished_store_is_left_alone(source: Path, llama: Path, root: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    extract(source, root, llama, shard_rows=16)
    assert before == {file: file.stat().st_mtime_ns for file in root.rglob("*")}


@pytest.mark.parametrize("damage", ["flip", "delete", "record"])
def test_damaged_shards_alone_are_redone(source: Path, llama: Path, root: Path, damage: str) -> None:
    """RELIABILITY 30: extract redoes just those."""
    whole = fsio.digest_tree(root)
    sound = chunk_path(root, "genept", 0).stat().st_mtime_ns
    file = record_path(root, 2) if damage == "record" else chunk_path(root, "readout_last_l3", 2)
    if damage == "delete":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[30] ^= 1
        file.write_bytes(data)
    extract(source, root, llama, shard_rows=16)
    assert fsio.digest_tree(root) == whole
    assert chunk_path(root, "genept", 0).stat().st_mtime_ns == sound


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"instruction": "cell type?"}, "layout.instruction"),
        ({"layers": (2,)}, "readout_wmean_l2"),
        ({"projector": "random"}, "projector.kind"),
        ({"top_genes": 5}, "top_genes"),
        ({"expression_scaling": "multiply"}, "expression_scaling"),
        ({"store_dtype": "float32"}, "dtype"),
        ({"shard_rows": 10}, "shard_rows"),
        ({"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_resuming_with_other_options_lists_what_differs(
    source: Path, llama: Path, whole: Path, options: dict[str, Any], field: str
) -> None:
    """RELIABILITY 28."""
    before = fsio.digest_tree(whole)
    with pytest.raises(FeatureSpaceError, match=field):
        extract(source, whole, llama, **{"shard_rows": 16, **options})
    assert fsio.digest_tree(whole) == before


def test_resuming_with_another_model_is_refused(source: Path, whole: Path, tmp_path: Path) -> None:
    """RELIABILITY 28: another model."""
    with pytest.raises(FeatureSpaceError, match="the model: another one"):
        extract(source, whole, write_model(tmp_path / "other", seed=3), shard_rows=16)


def reordered(cells: anndata.AnnData) -> anndata.AnnData:
    return cells[::-1].copy()


def removed(cells: anndata.AnnData) -> anndata.AnnData:
    return cells[:-1].copy()


def recounted(cells: anndata.AnnData) -> anndata.AnnData:
    cells.X[0, 0] += 1
    return cells


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("change", [reordered, removed, recounted])
def test_resuming_with_other_cells_is_refused(
    llama: Path, whole: Path, tmp_path: Path, change: Any, in_memory: bool
) -> None:
    """RELIABILITY 13 and 29: the input changed, cells reordered or removed."""
    changed = change(make_cells())
    changed.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(FeatureSpaceError, match="the cells: another one"):
        extract(changed if in_memory else tmp_path / "cells.h5ad", whole, llama, shard_rows=16)


def test_an_input_that_changes_while_it_is_read_is_refused(
    cells_file: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 13: the input file changes during the run."""
    import scstore.extraction.sequence_plan as workflow

    real = workflow.lognorm_block

    def meddle(*words: Any, **named: Any) -> Any:
        os.utime(cells_file, ns=(1, 1))
        return real(*words, **named)

    monkeypatch.setattr(workflow, "lognorm_block", meddle)
    with pytest.raises(CellsError, match="cells.h5ad"):
        extract(cells_file, tmp_path / "s.zarr", llama)
    assert not (tmp_path / "s.zarr").exists()


def test_a_damaged_store_without_expression_is_mended_from_the_cells(
    cells_file: Path, llama: Path, tmp_path: Path
) -> None:
    root = tmp_path / "s.zarr"
    extract(cells_file, root, llama, keep_expression=False, shard_rows=16)
    whole = fsio.digest_tree(root)
    chunk_path(root, "genept", 1).unlink()
    extract(cells_file, root, llama, keep_expression=False, shard_rows=16)
    assert whole == fsio.digest_tree(root)


def test_a_shard_of_another_store_is_redone(source: Path, llama: Path, root: Path, tmp_path: Path) -> None:
    """RELIABILITY 59: chunks and record of a store of the same shape, every digest right."""
    whole = fsio.digest_tree(root)
    other = extract(make_cells(seed=1), tmp_path / "other" / "s.zarr", llama, shard_rows=16).path
    files = [record_path(root, 1), *(chunk_path(root, view, 1) for view in scstore.open(root).views[:-1])]
    for file in files:
        shutil.copy(other / file.relative_to(root), file)
    extract(source, root, llama, shard_rows=16)
    assert fsio.digest_tree(root) == whole


@pytest.mark.parametrize("name", ["X", "obs", "var"])
def test_an_unfinished_store_is_not_gone_on_with_from_other_expression(
    source: Path, llama: Path, root: Path, tmp_path: Path, name: str
) -> None:
    """RELIABILITY 59: X, cells or genes of another version, whole and with right checksums."""
    record_path(root, 1).unlink()
    renamed = make_cells(n_genes=44, seed=1)[:, 4:].copy()
    renamed.obs["donor"] = "d"
    other = extract(renamed, tmp_path / "other" / "s.zarr", llama, shard_rows=16).path
    shutil.rmtree(root / name)
    shutil.copytree(other / name, root / name)
    with pytest.raises(DamagedError):
        extract(source, root, llama, shard_rows=16)
    assert not record_path(root, 1).exists()


def stop_here(*_: object, **__: object) -> None:
    raise Killed


def test_a_second_writer_is_refused(cells_file: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 25."""
    root = tmp_path / "s.zarr"
    with fsio.lock(root.with_name(f"{root.name}.lock")), pytest.raises(LockedError):
        extract(cells_file, root, llama)
