"""Rows of expression that is kept as AnnData's CSR group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.sparse import csr_matrix

from scstore.errors import DamagedError
from scstore.store.decoding import decoding

__all__ = ["checked_csr", "csr_rows"]


def checked_csr(group: Any, folder: Path) -> Any:
    """The group, all chunks of which are there: a Zarr chunk that was lost would read as zeros, with no error."""
    for name in ("data", "indices", "indptr"):
        array = group[name]
        if isinstance(array, zarr.Array) and (lost := array.nchunks - array.nchunks_initialized):
            msg = f"{folder / name}: {lost:,} of {array.nchunks:,} chunks are missing. Restore the store from a copy."
            raise DamagedError(msg)
    return group


def csr_rows(group: Any, start: int, stop: int, *, source: Path) -> csr_matrix:
    """Rows ``start`` to ``stop`` of a CSR group; ``source`` is the store, for messages."""
    with decoding(source, f"the expression of cells {start:,} to {stop - 1:,}"):
        indptr = np.asarray(group["indptr"][start : stop + 1])
        first, last = int(indptr[0]), int(indptr[-1])
        n_genes = int(group.attrs["shape"][1])
        return csr_matrix(
            (np.asarray(group["data"][first:last]), np.asarray(group["indices"][first:last]), indptr - first),
            shape=(stop - start, n_genes),
        )
