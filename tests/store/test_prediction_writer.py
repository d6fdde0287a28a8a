from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from broken_disk import FAULTS, NOBODY, BrokenDisk, Killed, in_place_of_the_disk
from support import make_cells

import scstore
from scstore import fsio
from scstore.errors import DamagedError, LockedError, OptionError, OutputError, ScstoreError
from scstore.store.layout import lock_path
from scstore.store.ledger import read_manifest
from scstore.store.locks import Part, part_lock
from scstore.store.prediction_writer import check_prediction, open_prediction

EVERY = 31
"""Of the operations of a run, which are broken; each fault begins elsewhere."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without predictions."""
    folder = tmp_path_factory.mktemp("plain")
    cells = make_cells(10, 8)
    scstore.build_genes(folder / "genes.h5ad", cells=cells, encoder="random:8")
    scstore.extract(
        cells, folder / "s.zarr", genes=str(folder / "genes.h5ad"), pool=(), companions=("genept",), shard_rows=4
    )
    return folder / "s.zarr"


@pytest.fixture
def root(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "s.zarr")


def frame(label: str) -> pd.DataFrame:
    index = pd.Index([f"cell{i}" for i in range(10)], name="cell_id")
    columns = {"label": np.array([label] * 10, dtype=object), "confidence": np.linspace(0, 1, 10)}
    if label == "new":  # another shape, so that one's columns would not do for the other
        columns["novelty"] = np.ones(10)
    return pd.DataFrame(columns, index=index)


def write(root: Path, label: str) -> None:
    with open_prediction(scstore.open(root), "types", about={"head": {}, "options": {}}) as writer:
        writer.write(frame(label)[:6])
        writer.write(frame(label)[6:])


@pytest.mark.parametrize(("before", "fault"), [("nothing", "kill"), *(("old", fault) for fault in FAULTS)])
def test_no_broken_operation_leaves_half_a_prediction(plain: Path, tmp_path: Path, before: str, fault: str) -> None:
    """RELIABILITY 21, 22: one sees the old prediction, none, or the new one; the store stays what it was."""
    begun = shutil.copytree(plain, tmp_path / "begun.zarr")
    if before == "old":
        write(begun, "old")
    root, disk = tmp_path / "s.zarr", BrokenDisk()
    shutil.copytree(begun, root)
    with in_place_of_the_disk(disk):
        write(root, "new")
    whole = fsio.digest_tree(root)
    for at in range(FAULTS.index(fault) * EVERY // len(FAULTS), len(disk.trace), EVERY):
        shutil.rmtree(root)
        shutil.copytree(begun, root)
        with in_place_of_the_disk(BrokenDisk(at, fault)), pytest.raises((OSError, ScstoreError, Killed)):
            write(root, "new")
        if lock_path(root).exists():  # of a process that is dead
            lock_path(root).write_text(json.dumps({"host": os.uname().nodename, "pid": NOBODY}))
        assert scstore.verify(root, deep=True).findings == (), (at, disk.trace[at])
        store = scstore.open(root)
        for name in store.predictions:
            found = store.prediction(name).astype({"label": object})
            assert any(found.equals(frame(label)) for label in ("old", "new"))
        write(root, "new")
        assert scstore.verify(root, deep=True, gc=True).ok
        assert fsio.digest_tree(root) == whole


def test_the_operations_are_enough_to_break(root: Path) -> None:
    disk = BrokenDisk()
    with in_place_of_the_disk(disk):
        write(root, "new")
    listed = disk.trace.index(("rename", str(root / "zarr.json")))
    assert listed > 20
    assert disk.trace.index(("rename", str(root / "obsm" / "types"))) < listed
    flushed = [file for what, file in disk.trace[:listed] if what == "sync"]
    assert any(file.endswith("label/codes/c/0") for file in flushed)


def test_a_finished_prediction_that_was_not_listed_is_a_leftover(root: Path) -> None:
    whole = (root / "zarr.json").read_bytes()
    write(root, "new")
    (root / "zarr.json").write_bytes(whole)  # as if killed before the last step
    found = scstore.verify(root, deep=True)
    assert (found.ok, scstore.open(root).predictions) == (True, ())
    assert "leftovers" in found.notes[0]
    assert scstore.verify(root, gc=True).removed == ("obsm/types",)
    assert not (root / "obsm" / "types").exists()


def test_predictions_of_other_cells_or_too_few_are_refused(root: Path) -> None:
    before = fsio.digest_tree(root)
    for some in (frame("new")[::-1], frame("new")[:9]):
        with (
            pytest.raises(ValueError, match="cells"),
            open_prediction(scstore.open(root), "types", about={}) as writer,
        ):
            writer.write(some)
    assert fsio.digest_tree(root) == before


def test_the_store_is_locked(root: Path) -> None:
    with part_lock(root, Part(1, 2)), pytest.raises(LockedError, match="part 1 of 2"):
        write(root, "new")
    write(root, "new")
    assert not lock_path(root).exists()


def test_a_store_whose_metadata_was_changed_is_refused(root: Path) -> None:
    content = json.loads((root / "zarr.json").read_bytes())
    content["attributes"]["mine"] = 1
    (root / "zarr.json").write_text(json.dumps(content, indent=2))
    with pytest.raises(DamagedError, match=r"zarr\.json: does not match its digest.*verify"):
        write(root, "new")
    assert read_manifest(root)


def test_names(root: Path, tmp_path: Path) -> None:
    store = scstore.open(root)
    for name in ("../x", "", "a/b", "a b", ".hidden", "x" * 101):
        with pytest.raises(OptionError, match="letters, digits"):
            check_prediction(store, name)
    for name in ("genept", "Genept", "readout", "X"):
        with pytest.raises(OptionError, match="view of that name"):
            check_prediction(store, name, overwrite=True)
    check_prediction(store, "types")
    write(root, "new")
    with pytest.raises(OutputError, match="--overwrite"):
        check_prediction(store, "types")
    check_prediction(store, "types", overwrite=True)
    cells = make_cells(20)
    cells.obsm["X_pca"] = np.eye(20)
    cells.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(OutputError, match="-o annotated.h5ad"):
        check_prediction(scstore.open(tmp_path / "a.h5ad"), "types")


def test_labels_whose_file_names_would_collide_are_told_apart(root: Path) -> None:
    values = frame("new")
    for name in ("p(a/b)", "p(a b)", "p(A_b)", "p()", "zarr.json"):
        values[name] = np.arange(10.0)
    with open_prediction(scstore.open(root), "types", about={"head": {}, "options": {}}) as writer:
        writer.write(values)
    found = scstore.open(root).prediction("types")
    assert list(found.columns) == list(values.columns)
    assert scstore.open(root).stored_prediction("types").columns[3:].tolist() == [
        "p_a_b",
        "p_a_b_2",
        "p_A_b_3",
        "p",
        "zarr_json",
    ]
