"""Files of users, mutated: a few here, 10,000 in `benchmarks/faults.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mutations import crash, make_inputs

KINDS = (
    "cells Zarr", "store", "store verified", "head", "projector", "gene_info", "orthologs CSV", "gene texts TSV",
)  # fmt: skip
"""Not HDF5, whose library may hang or crash on damaged bytes; the benchmark counts how often."""

Inputs = dict[str, tuple[Path, Callable[[Path], object]]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("mutations"))


@pytest.mark.filterwarnings("ignore")  # damaged files make libraries warn
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_read_or_refused(inputs: Inputs, kind: str) -> None:
    """RELIABILITY 14, 38, 40, I4: never a traceback."""
    assert [found for i in range(12) if (found := crash(inputs, kind, i))] == []
    path, read = inputs[kind]
    read(path)  # as it was
