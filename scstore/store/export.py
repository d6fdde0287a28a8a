"""A store as one ``.h5ad`` file, for a laptop or a collaborator."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.store.reader import Store, open_store
from scstore.store.views import View

__all__ = ["export_h5ad", "write_h5ad"]

BLOCK_BYTES = 1 << 25
"""Bytes of a block of rows on their way from the store to the file."""

SPARSE_ROWS = 4096


def export_h5ad(
    store: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    views: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a store's cells, views and record into one ``.h5ad``; stage 2 reads it as it reads the store.

    Parameters
    ----------
    store
        A finished store.
    output
        The file to write; atomically, so an existing one stays whole until the new one is.
    views
        Which views; all by default.
    overwrite
        Replace an existing file.

    Raises
    ------
    IncompleteStoreError
        If the store is not finished.
    OutputError
        If the file exists.
    """
    target = fsio.check_output(output, overwrite=overwrite)
    opened = open_store(store)
    with fsio.atomic_path(target) as partial:
        write_h5ad(opened, partial, views=views)
    return target


def write_h5ad(
    store: Store, path: Path, *, views: Sequence[str] | None = None, rows: NDArray[np.int64] | None = None
) -> None:
    """Write cells with their views to a new file, in bounded memory beside ``obs``.

    An ``.h5ad`` of which all is wanted is copied as it is. Of an AnnData Zarr that scstore did not make, which may
    hold anything, and of part of an ``.h5ad``, all that is wanted is read first.

    Parameters
    ----------
    store
        The cells.
    path
        The file; it must not exist.
    views, rows
        As for :meth:`Store.to_anndata`.
    """
    if not store.is_sharded:
        if store.path.is_file() and views is None and rows is None:
            shutil.copyfile(store.path, path)
        else:
            store.to_anndata(views, rows=rows).write_h5ad(path)
        return
    names = list(store.views if views is None else dict.fromkeys(store.view(name).name for name in views))
    frame = store.to_anndata([], rows=rows)
    if "X" in names:
        frame = anndata.AnnData(obs=frame.obs, var=store.expression_genes, uns=frame.uns)
    frame.write_h5ad(path)
    chosen = np.arange(store.n_obs) if rows is None else rows
    with h5py.File(path, "r+") as file:
        for name in names:
            if name == "X":
                _write_sparse(file, store.view(name), chosen)
            else:
                _write_dense(file.require_group("obsm"), store.view(name), chosen)


def _write_dense(group: Any, view: View, rows: NDArray[np.int64]) -> None:
    step = max(1, BLOCK_BYTES // (view.dtype.itemsize * max(1, view.shape[1])))
    array = group.create_dataset(view.name, shape=(len(rows), view.shape[1]), dtype=view.dtype)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        array[start : start + len(part)] = np.asarray(view[part])


def _write_sparse(file: Any, view: View, rows: NDArray[np.int64]) -> None:
    if "X" in file:
        del file["X"]
    group = file.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = np.array([len(rows), view.shape[1]], dtype=np.int64)
    parts = {
        name: group.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(1 << 16,), dtype=dtype)
        for name, dtype in (("data", np.float32), ("indices", np.int32))
    }
    indptr = np.zeros(len(rows) + 1, dtype=np.int64)
    for start in range(0, len(rows), SPARSE_ROWS):
        block = view[rows[start : start + SPARSE_ROWS]]
        first = indptr[start]
        indptr[start + 1 : start + 1 + block.shape[0]] = first + block.indptr[1:]
        for name, array in parts.items():
            array.resize((first + block.nnz,))
            array[first:] = getattr(block, name)
    group.create_dataset("indptr", data=indptr)
