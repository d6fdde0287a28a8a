"""Extraction on a GPU, where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import make_cells

import scstore
from scstore.extraction import model_reader
from scstore.store.reader import Store

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

COMPILED = 0.0


@pytest.fixture
def extract(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an extraction of the same cells, with the layers compiled."""
    monkeypatch.setattr(model_reader, "COMPILED_FROM", 0.0)
    cells, genes = make_cells(60, empty=2), tmp_path / "first.genes.h5ad"
    scstore.extract(cells, tmp_path / "first.zarr", model=str(llama), device="cpu", dtype="float32")

    def run(name: str, **options: Any) -> Store:
        return scstore.extract(cells, tmp_path / name, model=str(llama), genes=genes, shard_rows=16, **options)

    return run


def rows(store: Store) -> np.ndarray:
    return np.concatenate([np.asarray(store.view(name)[:], np.float64) for name in store.views if "readout" in name], 1)


def near(a: Store, b: Store) -> float:
    """The smallest cosine between rows of cells that have genes."""
    first, second = rows(a), rows(b)
    done = np.linalg.norm(first, axis=1) > 0
    first, second = first[done], second[done]
    return float(((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).min())


def test_rows_are_those_of_the_cpu(extract: Any) -> None:
    exact = extract("cpu.zarr", device="cpu", dtype="float32")
    assert near(exact, extract("single.zarr", dtype="float32")) > 0.99999
    half = extract("half.zarr")
    assert half.record["run"]["device"] == "cuda"
    assert half.record["run"]["dtype"] == "bfloat16"
    assert near(exact, half) > 0.99
    assert near(exact, extract("small.zarr", dtype="float8")) > 0.9


def test_parts_make_the_store_of_one_run(extract: Any) -> None:
    whole = extract("whole.zarr")
    for part in ("1/2", "0/2"):
        parted = extract("parts.zarr", shard=part)
    np.testing.assert_array_equal(rows(parted), rows(whole))
