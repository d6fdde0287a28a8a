"""Runs that are killed, damaged, repeated, repeated with something else, or run twice at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import pytest
from support import ROOT, Notes, extract, make_cells, write_model

import scstore
from scstore import fsio
from scstore.errors import (
    CellsError,
    FeatureSpaceError,
    LockedError,
)
from scstore.store.layout import chunk_path, record_path

VIEWS = ("readout_wmean_l3", "readout_last_l3", "genept", "genept_random", "X")


def killed(tmp_path: Path, source: Path, model: Path, *, after: int, when: str) -> subprocess.CompletedProcess[str]:
    """Extract in a process that is killed (SIGKILL) at its commit number `after`, before or after it."""
    script = f"""
import os, signal, sys
import scstore
import scstore.extraction.extract as workflow
real, done = workflow.commit_shard, []
def commit(*words, **named):
    if len(done) == {after} and {when!r} == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*words, **named)
    done.append(1)
    if len(done) > {after} and {when!r} == "after":
        os.kill(os.getpid(), signal.SIGKILL)
workflow.commit_shard = commit
scstore.extract(sys.argv[1], sys.argv[2], model=sys.argv[3], shard_rows=16)
"""
    out = tmp_path / "store.zarr"
    return subprocess.run([sys.executable, "-c", script, source, out, model], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(("after", "when"), [(0, "before"), (1, "after"), (3, "before")])
def test_killed_and_repeated_it_ends_in_the_same_store_byte_for_byte(
    cells_file: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, when: str
) -> None:
    """RELIABILITY 21, I1–I3: and no finished shard is computed twice."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    extract(cells_file, tmp_path / "a" / "store.zarr", llama, shard_rows=16)
    assert killed(tmp_path / "b", cells_file, llama, after=after, when=when).returncode == -9
    store = scstore.open(tmp_path / "b" / "store.zarr")
    finished = int(store.committed.sum())
    assert finished == 16 * (after + (when == "after"))
    assert store.path.with_name(f"{store.path.name}.lock").exists()

    commits: list[int] = []
    import scstore.extraction.extract as workflow

    real = workflow.commit_shard

    def commit(root: Path, plan: Any, shard: int, *words: Any, **named: Any) -> None:
        commits.append(shard)
        real(root, plan, shard, *words, **named)

    monkeypatch.setattr(workflow, "commit_shard", commit)
    resumed = extract(cells_file, tmp_path / "b" / "store.zarr", llama, shard_rows=16)
    assert commits == list(range(finished // 16, 4))
    assert resumed.is_complete
    assert fsio.digest_tree(tmp_path / "a" / "store.zarr") == fsio.digest_tree(tmp_path / "b" / "store.zarr")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["store.genes.h5ad", "store.zarr"]


def test_a_finished_store_is_left_alone(cells_file: Path, llama: Path, tmp_path: Path) -> None:
    extract(cells_file, tmp_path / "s.zarr", llama)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "s.zarr").rglob("*")}
    extract(cells_file, tmp_path / "s.zarr", llama)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "s.zarr").rglob("*")}


@pytest.mark.parametrize("damage", ["flip", "delete", "record"])
def test_damaged_shards_alone_are_redone(cells_file: Path, llama: Path, tmp_path: Path, damage: str) -> None:
    """RELIABILITY 30: extract redoes just those."""
    root = tmp_path / "s.zarr"
    extract(cells_file, root, llama, shard_rows=16)
    whole = fsio.digest_tree(root)
    sound = chunk_path(root, "genept", 0).stat().st_mtime_ns
    file = record_path(root, 2) if damage == "record" else chunk_path(root, "readout_last_l3", 2)
    if damage == "delete":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[30] ^= 1
        file.write_bytes(data)
    notes = Notes()
    extract(cells_file, root, llama, shard_rows=16, progress=notes)
    assert fsio.digest_tree(root) == whole
    assert chunk_path(root, "genept", 0).stat().st_mtime_ns == sound
    assert any("redoing a damaged shard" in note for note in notes.said)


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
    cells_file: Path, llama: Path, tmp_path: Path, options: dict[str, Any], field: str
) -> None:
    """RELIABILITY 28."""
    extract(cells_file, tmp_path / "s.zarr", llama)
    whole = fsio.digest_tree(tmp_path / "s.zarr")
    with pytest.raises(FeatureSpaceError, match=field):
        extract(cells_file, tmp_path / "s.zarr", llama, **options)
    assert fsio.digest_tree(tmp_path / "s.zarr") == whole


def test_resuming_with_another_model_is_refused(cells_file: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 28: another model."""
    extract(cells_file, tmp_path / "s.zarr", llama)
    with pytest.raises(FeatureSpaceError, match=r"model\.digest"):
        extract(cells_file, tmp_path / "s.zarr", write_model(tmp_path / "other", seed=3))


def reordered(cells: anndata.AnnData) -> anndata.AnnData:
    return cells[::-1].copy()


def removed(cells: anndata.AnnData) -> anndata.AnnData:
    return cells[:-1].copy()


def recounted(cells: anndata.AnnData) -> anndata.AnnData:
    cells.X[0, 0] += 1
    return cells


@pytest.mark.parametrize("change", [reordered, removed, recounted])
def test_resuming_with_other_cells_is_refused(
    cells: anndata.AnnData, cells_file: Path, llama: Path, tmp_path: Path, change: Any
) -> None:
    """RELIABILITY 13 and 29: the input changed, cells reordered or removed."""
    extract(cells_file, tmp_path / "s.zarr", llama)
    change(cells).write_h5ad(cells_file)
    with pytest.raises(FeatureSpaceError, match=r"input\.digest"):
        extract(cells_file, tmp_path / "s.zarr", llama)
    memory = tmp_path / "memory.zarr"
    extract(make_cells(), memory, llama)
    with pytest.raises(FeatureSpaceError, match=r"input\.digest"):
        extract(change(make_cells()), memory, llama)


def test_an_input_that_changes_while_it_is_read_is_refused(
    cells_file: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 13: the input file changes during the run."""
    import scstore.extraction.sequence_plan as workflow

    real = workflow.lognorm_rows

    def meddle(*words: Any, **named: Any) -> Any:
        for block in real(*words, **named):
            os.utime(cells_file, ns=(1, 1))
            yield block

    monkeypatch.setattr(workflow, "lognorm_rows", meddle)
    with pytest.raises(CellsError, match="changed while it was read"):
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


def test_a_second_writer_is_refused(cells_file: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 25."""
    root = tmp_path / "s.zarr"
    with fsio.lock(root.with_name(f"{root.name}.lock")), pytest.raises(LockedError):
        extract(cells_file, root, llama)
