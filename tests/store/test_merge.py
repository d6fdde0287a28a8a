from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from broken_disk import BrokenDisk, Killed, as_if_another_process, in_place_of_the_disk
from support import Run, make_cells, make_store

import scstore
from scstore import fsio
from scstore.errors import (
    CellsError,
    DamagedError,
    FeatureSpaceError,
    IncompleteStoreError,
    NotAStoreError,
    OptionError,
    OutputError,
)
from scstore.panels.panel import save_panel
from scstore.sealed import fingerprint
from scstore.store.ledger import SEEN_BY_PANEL, chunk_path, record_path

CELLS = make_cells(50, empty=3)
HOW: dict[str, Any] = {"pool": (), "companions": ("genept", "genept_random"), "shard_rows": 8}

Part = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gene table, and the store of all cells in one go."""
    folder = tmp_path_factory.mktemp("merge")
    scstore.build_genes(folder / "genes.h5ad", cells=CELLS, encoder="random:8", organism="human")
    scstore.extract(CELLS, folder / "whole.zarr", genes=str(folder / "genes.h5ad"), **HOW)
    return folder


@pytest.fixture(scope="module")
def part(folder: Path) -> Part:
    """Gives ``part(start, stop)``: the store of a run of the cells, or of other ones; each made once."""

    def make(start: int, stop: int, *, name: str = "", cells: anndata.AnnData = CELLS, **how: Any) -> Path:
        path = folder / f"{start}-{stop}{name}.zarr"
        if not path.exists():
            scstore.extract(cells[start:stop].copy(), path, **{"genes": str(folder / "genes.h5ad"), **HOW, **how})
        return path

    return make


@pytest.fixture
def own(part: Part, tmp_path: Path) -> list[Path]:
    """Two parts to be changed."""
    return [Path(shutil.copytree(part(*ends), tmp_path / "parts" / part(*ends).name)) for ends in ((0, 16), (16, 50))]


def linked(store: Path) -> list[int]:
    """Shards of which all files have another name elsewhere."""
    shards = range(len(list(store.glob("obsm/genept/c/*"))))
    views = ("genept", "genept_random")
    return [i for i in shards if all(chunk_path(store, view, i).stat().st_nlink > 1 for view in views)]


@pytest.mark.parametrize(("cuts", "links"), [((16, 32), range(7)), ((13, 33), [0]), ((3, 5, 45), []), ((), range(7))])
def test_parts_give_the_store_of_one_run_byte_for_byte(
    part: Part, folder: Path, tmp_path: Path, cuts: tuple[int, ...], links: list[int]
) -> None:
    """But for the record; what lies on the bounds of shards is not copied, the parts stay as they are."""
    parts = [part(*ends) for ends in pairwise((0, *cuts, 50))]
    before = [fsio.digest_tree(one) for one in parts]
    merged, whole = scstore.merge(parts, tmp_path / "m.zarr"), scstore.open(folder / "whole.zarr")
    for inside in ("obsm", "X", "obs", "var"):
        assert fsio.digest_tree(merged.path / inside) == fsio.digest_tree(whole.path / inside)
    pd.testing.assert_frame_equal(merged.obs, whole.obs)
    assert (merged.views, merged.default_view) == (whole.views, whole.default_view)
    np.testing.assert_array_equal(merged.view("genept")[:], whole.view("genept")[:])
    assert linked(merged.path) == list(links)
    found = scstore.verify(merged.path, deep=True)
    assert (found.findings, found.notes) == ((), ())
    assert [fsio.digest_tree(one) for one in parts] == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.zarr"]


def test_stage_2_gives_the_same_on_it(part: Part, folder: Path, tmp_path: Path) -> None:
    merged = scstore.merge([part(0, 13), part(13, 33), part(33, 50)], tmp_path / "m.zarr")
    whole = scstore.open(folder / "whole.zarr")
    new = make_cells(20, seed=1)
    made = []
    for store in (merged, whole):
        head = scstore.fit(store, label="cell_type", views=["genept", "X"], head="linear")
        like = tmp_path / f"{store.path.name}.new.zarr"
        scstore.extract(new.copy(), like, like=store.path)
        made.append(
            (
                scstore.predict(like, head),
                scstore.query(like, store, k=3).table,
                scstore.annotate(new.copy(), head, umap=False).obs,
                scstore.evaluate(store, label="cell_type", folds=3, views=["genept", "X"]).regimes[0].scored.scores,
            )
        )
    for ours, wanted in zip(*made, strict=True):
        pd.testing.assert_frame_equal(ours, wanted)


def test_readouts_are_those_of_one_run(llama: Path, tmp_path: Path) -> None:
    """Up to which cells share a batch."""
    cells, how = make_cells(40), {"shard_rows": 16, "panel": "all"}
    scstore.build_genes(tmp_path / "genes.h5ad", cells=cells, encoder="random:8", organism="human")
    how["genes"] = tmp_path / "genes.h5ad"
    whole = make_store(cells, tmp_path / "whole" / "s.zarr", llama, **how)
    parts = [make_store(cells[a:b].copy(), tmp_path / f"{a}" / "s.zarr", llama, **how) for a, b in ((0, 16), (16, 40))]
    merged = scstore.merge([one.path for one in parts], tmp_path / "merged" / "s.zarr")
    for name in whole.views[:-1]:
        np.testing.assert_allclose(merged.view(name)[:], whole.view(name)[:], rtol=2e-3, atol=2e-3)
    heads = [scstore.fit(store, label="cell_type", views=["readout", "X"]) for store in (merged, whole)]
    labels = [scstore.predict(whole, head)["best_label"] for head in heads]
    assert (labels[0] == labels[1]).all()


def test_what_is_written_anew_has_shards_of_a_usual_size(part: Part, tmp_path: Path) -> None:
    parts = [part(*ends, name="s", keep_expression=False) for ends in ((0, 5), (5, 12), (12, 18))]
    merged = scstore.merge(parts, tmp_path / "m.zarr")
    assert merged.plan is not None
    assert (merged.plan.shard_rows, merged.n_obs) == (18, 18)
    assert merged.views == ("genept", "genept_random")
    assert scstore.verify(merged.path, deep=True).ok


def test_where_files_cannot_be_linked_they_are_copied(
    part: Part, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLinks(fsio.Disk):
        def link(self, file: Path, name: Path) -> bool:
            return name.parent.parent.parent.name == "genept" and super().link(file, name)  # the first view alone

    monkeypatch.setattr(fsio, "disk", NoLinks())
    before = fsio.digest_tree(part(0, 16))
    merged = scstore.merge([part(0, 16), part(16, 50)], tmp_path / "m.zarr")
    assert linked(merged.path) == []
    assert fsio.digest_tree(merged.path / "obsm") == fsio.digest_tree(folder / "whole.zarr" / "obsm")
    assert fsio.digest_tree(part(0, 16)) == before


def test_linked_files_are_never_written_in_place(own: list[Path], folder: Path, tmp_path: Path) -> None:
    """A part whose shard is extracted again, or which is replaced or deleted, leaves the merged store as it is."""
    merged = scstore.merge(own, tmp_path / "m.zarr")
    ours, theirs = (chunk_path(root, "genept", 1) for root in (merged.path, own[0]))
    before = fsio.digest_tree(merged.path)
    assert ours.samefile(theirs)
    record_path(own[0], 1).unlink()
    scstore.extract(CELLS[:16].copy(), own[0], genes=str(folder / "genes.h5ad"), **HOW)
    assert not ours.samefile(theirs)
    scstore.extract(CELLS[20:40].copy(), own[1], genes=str(folder / "genes.h5ad"), **HOW, overwrite=True)
    shutil.rmtree(own[0])
    assert fsio.digest_tree(merged.path) == before
    assert scstore.verify(merged.path, deep=True).ok


def test_the_record_holds_those_of_the_parts(part: Part, tmp_path: Path) -> None:
    """With their digests; a merged store is merged again; files of options are found from the new folder."""
    first = scstore.merge([part(0, 16), part(16, 32)], tmp_path / "deep" / "first.zarr")
    both = scstore.merge([first.path, part(32, 50)], tmp_path / "both.zarr")
    assert both.record is not None
    shared = {name: value for name, value in both.record.items() if name != "parts"}
    assert [one["name"] for one in both.record["parts"]] == ["first.zarr", "32-50.zarr"]
    assert [one["n_obs"] for one in both.record["parts"]] == [32, 18]
    for one, path in zip(both.record["parts"], (first.path, part(32, 50)), strict=True):
        found = {**shared, **one["record"]}
        assert found == scstore.open(path).record
        assert one["digest"] == fingerprint(found)
    assert [one["name"] for one in both.record["parts"][0]["record"]["parts"]] == ["0-16.zarr", "16-32.zarr"]
    assert (both.path.parent / both.record["options"]["genes"]).samefile(part(0, 16).parent / "genes.h5ad")


def test_columns_of_any_part_are_kept(folder: Path, part: Part, tmp_path: Path) -> None:
    a, b = CELLS[:16].copy(), CELLS[16:32].copy()
    a.obs["age"], b.obs["age"] = 30, 41.5
    a.obs["sex"] = pd.Categorical(["f"] * 16, categories=["f"])
    b.obs["sex"] = pd.Categorical(["m"] * 16, categories=["m"])
    a.obs["only here"], b.obs["checked"] = "yes", True
    parts = [part(0, 16, name=name, cells=cells) for name, cells in (("a", a), ("b", b))]
    obs = scstore.merge(parts, tmp_path / "m.zarr").obs
    wanted = anndata.concat([anndata.AnnData(obs=scstore.open(one).obs) for one in parts], join="outer").obs
    assert list(obs.columns) == list(wanted.columns)
    assert list(obs["sex"].cat.categories) == ["f", "m"]
    assert obs["age"].tolist() == [30.0] * 16 + [41.5] * 16
    assert obs["only here"].isna().tolist() == [False] * 16 + [True] * 16
    assert obs["checked"].isna().tolist() == [True] * 16 + [False] * 16
    assert scstore.verify(tmp_path / "m.zarr").ok


def test_a_part_whose_panel_saw_no_labels_has_no_marked_cells(folder: Path, part: Part, tmp_path: Path) -> None:
    """Panels of the same genes are one feature space, whatever they were fitted on."""
    labelled = scstore.panel(CELLS, folder / "labelled.h5ad", label="cell_type", n_genes=40)
    save_panel(replace(labelled, label="", trained_on=()), folder / "free.h5ad")
    ends = {"labelled": (0, 16), "free": (16, 32)}
    parts = [part(*ends[name], panel=str(folder / f"{name}.h5ad"), name=name) for name in ends]
    obs = scstore.merge(parts, tmp_path / "m.zarr").obs
    assert obs[SEEN_BY_PANEL].tolist() == [True] * 16 + [False] * 16


def test_what_cannot_stand_in_one_store_is_refused(part: Part, folder: Path, tmp_path: Path) -> None:
    scstore.build_genes(folder / "other.h5ad", cells=CELLS, encoder="random:12", organism="human")
    out, first = tmp_path / "m.zarr", part(0, 16)

    def refused(other: Path, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            scstore.merge([first, other], out)

    refused(part(16, 32, name="genes", genes=str(folder / "other.h5ad")), FeatureSpaceError, "the gene table")
    refused(part(16, 32, name="top", top_genes=7), FeatureSpaceError, "top_genes: 2048 → 7")
    refused(part(16, 32, name="dtype", store_dtype="float32"), FeatureSpaceError, "dtype: .*float32")
    refused(part(16, 32, name="less", companions=("genept",)), FeatureSpaceError, "views: ")
    refused(part(16, 32, name="noX", keep_expression=False), CellsError, "keep_expression=False")
    refused(part(16, 32, name="fewer", cells=CELLS[:, :-2]), CellsError, "GENE38")
    refused(part(10, 20), CellsError, "id_prefix_from=")
    CELLS.write_h5ad(tmp_path / "cells.h5ad")
    refused(tmp_path / "cells.h5ad", NotAStoreError, "cells.h5ad")
    with pytest.raises(OptionError):
        scstore.merge([], out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cells.h5ad"]


def test_an_incomplete_or_damaged_part_is_refused(own: list[Path], part: Part, tmp_path: Path) -> None:
    out, record = tmp_path / "m.zarr", record_path(own[1], 2)
    text = record.read_bytes()
    record.unlink()
    with pytest.raises(IncompleteStoreError, match="8 of 34"):
        scstore.merge(own, out)
    record.write_bytes(text.replace(b'"start": 16', b'"start": 17'))
    with pytest.raises(DamagedError, match="000002"):
        scstore.merge(own, out)
    record.write_bytes(text)
    chunk = chunk_path(own[1], "genept", 2)
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-2])
    with pytest.raises(DamagedError, match="bytes"):
        scstore.merge(own, out)
    chunk.write_bytes(b"\1" + data[1:])
    with pytest.raises(DamagedError, match="digest"):  # what is written anew is read, and so compared
        scstore.merge([part(0, 13), own[1]], out)
    assert [file.name for file in tmp_path.iterdir()] == ["parts"]
    merged = scstore.merge(own, out)  # what is linked keeps the digest of the sound bytes
    found = scstore.verify(out, deep=True)
    assert [finding.shard for finding in found.findings] == [4]
    assert any("merge" in note for note in found.notes)
    with pytest.raises(DamagedError):
        merged.view("genept")[:]


def test_ids_are_told_apart_by_a_column(part: Part, tmp_path: Path) -> None:
    a, b = CELLS[:16].copy(), CELLS[:16].copy()
    a.obs["patient"], b.obs["patient"] = "p1", "p2"
    parts = [part(0, 16, name=name, cells=cells) for name, cells in (("p1", a), ("p2", b))]
    merged = scstore.merge(parts, tmp_path / "m.zarr", id_prefix_from="patient")
    assert list(merged.obs.index[[0, 16]]) == ["p1:cell0", "p2:cell0"]
    assert linked(merged.path) == [0, 1, 2, 3]
    assert scstore.verify(merged.path, deep=True).ok
    assert scstore.merge(parts[0], tmp_path / "one.zarr").n_obs == 16


def test_only_a_store_is_replaced(part: Part, tmp_path: Path) -> None:
    out = tmp_path / "m.zarr"
    scstore.merge([part(0, 16)], out)
    with pytest.raises(OutputError, match="overwrite=True"):
        scstore.merge([part(0, 16), part(16, 32)], out)
    assert scstore.merge([out, part(16, 32)], out, overwrite=True).n_obs == 32
    (tmp_path / "notes").write_text("years of work")
    with pytest.raises(OutputError, match="notes"):
        scstore.merge([part(0, 16)], tmp_path / "notes", overwrite=True)


@pytest.mark.parametrize("fault", ["kill", "eio"])
def test_no_broken_operation_leaves_a_part_of_a_store(part: Part, tmp_path: Path, fault: str) -> None:
    """A part of the operations; the store is not there, or whole, and the parts stay as they are."""
    parts, out = [part(0, 13), part(13, 33)], tmp_path / "m.zarr"
    scstore.merge(parts, out)
    wanted, before = fsio.digest_tree(out), [fsio.digest_tree(one) for one in parts]
    shutil.rmtree(out)
    counted = BrokenDisk()
    with in_place_of_the_disk(counted):
        scstore.merge(parts, out)
    assert "link" in {what for what, _ in counted.trace}
    for at in range(90 * (fault == "eio"), len(counted.trace), 180):
        shutil.rmtree(out, ignore_errors=True)
        with in_place_of_the_disk(BrokenDisk(at, fault)), pytest.raises((OSError, Killed, scstore.ScstoreError)):
            scstore.merge(parts, out)
        as_if_another_process(tmp_path)
        assert not out.exists() or fsio.digest_tree(out) == wanted
        scstore.merge(parts, out, overwrite=True)
        assert fsio.digest_tree(out) == wanted
        assert [file.name for file in tmp_path.iterdir()] == ["m.zarr"]
    assert [fsio.digest_tree(one) for one in parts] == before


def test_on_the_command_line(part: Part, tmp_path: Path, scstore_command: Run) -> None:
    out = str(tmp_path / "m.zarr")
    parts = [str(part(0, 16)), str(part(16, 32))]
    found = json.loads(scstore_command("--json", "merge", *parts, "-o", out).stdout)
    assert (found["n_obs"], found["complete"]) == (32, True)
    assert "32 cells of 2 stores" in scstore_command("merge", *parts, "-o", out, "--overwrite").stdout
    assert "input: '0-16.zarr', '16-32.zarr', merged from 2 stores" in scstore_command("info", out).stdout
