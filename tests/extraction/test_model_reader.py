from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import extract, make_cells

import scstore
import scstore.extraction.extract as workflow
from scstore.extraction.model_reader import cells_per_second
from scstore.tokens.sequences import RankedCells


class SlowReader:
    """Takes some seconds a cell, by its own clock, and more for the first time."""

    def __init__(self, seconds: float, *, first: float = 0) -> None:
        self.seconds, self.waiting, self.now = seconds, first, 0.0
        self.read_cells: list[int] = []

    def read(self, ranked: RankedCells, _track: object) -> None:
        assert (ranked.lengths > 0).all()
        self.read_cells.append(len(ranked))
        self.now += self.seconds * len(ranked) + self.waiting
        self.waiting = 0.0

    def clock(self) -> float:
        return self.now


def ranked(n_cells: int, *, empty: int = 0) -> RankedCells:
    lengths = np.repeat([0, 3], [empty, n_cells])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return RankedCells(offsets, np.tile(np.arange(3), n_cells), np.ones(3 * n_cells, np.float32))


@pytest.mark.parametrize("seconds", [120.0, 1.5, 0.02, 0.0001])
def test_the_speed_is_that_of_the_first_cells_and_not_of_the_warm_up(seconds: float) -> None:
    """RELIABILITY 69: and a slow model is not asked for more cells than it takes to know that."""
    reader: Any = SlowReader(seconds, first=8)
    rate = cells_per_second(reader, ranked(1000, empty=2), clock=reader.clock)
    assert rate == pytest.approx(1 / seconds, rel=0.1)
    assert reader.now < max(130, 8 + 8 * seconds)


def test_without_a_cell_to_read_there_is_no_limit() -> None:
    reader: Any = SlowReader(1)
    assert cells_per_second(reader, ranked(0, empty=3), clock=reader.clock) == np.inf


def test_shards_follow_the_speed_and_a_resumed_run_keeps_them(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 69 and 70: how a store is cut decides no value."""
    cells = make_cells(100)
    # batches are formed in runs of 32 cells
    options: dict[str, Any] = {"tokens_per_batch": 60, "top_genes": 40}
    stores = {}
    for rate, rows in ((0.6, 32), (1.2, 64), (1e6, 100)):
        monkeypatch.setattr(workflow, "cells_per_second", lambda *_, rate=rate: rate)
        store = extract(cells, tmp_path / f"{rows}.zarr", llama, genes=table_of(tmp_path), **options)
        assert store.record is not None
        assert (store.record["shard_rows"], store.plan.shard_rows) == (rows, rows)
        stores[rows] = store
    for name in stores[100].views:
        for rows in (32, 64):
            a, b = (stores[n].view(name)[:] for n in (rows, 100))
            a, b = (one if name != "X" else one.toarray() for one in (a, b))
            assert a.tobytes() == b.tobytes(), name
    (tmp_path / "32.zarr" / "_scstore" / "shards" / "000001.json").unlink()
    monkeypatch.setattr(workflow, "cells_per_second", lambda *_: pytest.fail("it is measured once"))
    assert extract(cells, tmp_path / "32.zarr", llama, genes=table_of(tmp_path), **options).is_complete


def table_of(folder: Path) -> str:
    """A gene table that all extractions of a test share."""
    file = folder / "genes.h5ad"
    if not file.exists():
        make_cells().write_h5ad(folder / "cells.h5ad")
        scstore.build_genes(file, cells=folder / "cells.h5ad", encoder="random:8")
    return str(file)


def test_without_a_model_shards_are_as_large_as_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "cells_per_second", lambda *_: pytest.fail("there is no model"))
    options: dict[str, Any] = {"pool": (), "companions": ("genept",), "genes": table_of(tmp_path)}
    store = scstore.extract(make_cells(), tmp_path / "s.zarr", **options)
    assert store.plan is not None
    assert store.plan.shard_rows == 60
