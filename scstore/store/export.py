"""A store as one ``.h5ad`` file, for a laptop or a collaborator."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import anndata
import h5py
import numpy as np
from anndata.io import write_elem
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.matrices import fitting_names, plain_frame
from scstore.cells.opening import open_cells
from scstore.hdf5_output import OutputFile, hdf5_output, open_to_read
from scstore.options import Option, Overwrite, public
from scstore.sealed import FORMAT
from scstore.store.reader import Store, open_store
from scstore.store.views import ARRAY, View, write_csr

# Attribute of the files that are written here: only they are ever replaced.
MADE_HERE = "scstore"

# Rows that are on their way from the store to the file at once.
BLOCK_ROWS = 4096


@public
def export(
    store: Annotated[str | os.PathLike[str], Option("A finished store.", argument=True)],
    output: Annotated[str | os.PathLike[str], Option("The .h5ad file to write.", flags=("--output", "-o"))],
    *,
    views: Annotated[Sequence[str] | None, Option("Views to include; all by default.", flags=("--view",))] = None,
    overwrite: Overwrite = False,
) -> Path:
    """Write a store's cells, views and record into one ``.h5ad``; stage 2 reads it as it reads the store.

    The file appears whole; an existing one stays until then.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    IncompleteStoreError
        If the store is not finished.
    OutputError
        If the file exists, or is to be replaced and is not one that scstore wrote.
    """
    target = check_h5ad_output(output, overwrite=overwrite)
    opened = open_store(store)
    with fsio.atomic_path(target, overwrite=overwrite) as partial:
        write_h5ad(opened, partial, views=views)
    return target


def check_h5ad_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Check that cells can be written to a file; of those that exist only one is replaced that this module wrote."""
    return fsio.check_output(path, overwrite=overwrite, problem=_problem)


def _problem(path: Path) -> str | None:
    with suppress(Exception), open_to_read(path) as file:  # HDF5 raises anything
        if MADE_HERE in file.attrs:
            return None
    return "is not a file of cells that scstore wrote, or another program has changed it"


def write_h5ad(
    store: Store, path: Path, *, views: Sequence[str] | None = None, rows: NDArray[np.int64] | None = None
) -> None:
    """Write cells with their views to a new file: from block to block, but for an AnnData, which is read whole."""
    if isinstance(store.source, anndata.AnnData):
        with hdf5_output(path) as file, anndata.settings.override(allow_write_nullable_strings=True):
            write_elem(file, "/", store.source if rows is None else store.source[rows])
            file.attrs[MADE_HERE] = FORMAT
        return
    if not store.is_sharded and store.is_anndata_on_disk:
        _write_anndata(store.to_anndata(views, rows=rows), path)
        return
    names = list(store.views if views is None else dict.fromkeys(store.view(name).name for name in views))
    frame = store.to_anndata([], rows=rows)
    if store.is_sharded:
        expression, genes = (store.view("X"), store.expression_genes) if "X" in names else (None, None)
    else:  # the counts of a 10x input as they are
        cells = open_cells(store.path)
        matrix, genes = cells.matrix("X"), cells.var("X")
        expression = View("X", matrix.shape, np.float32, {}, matrix.rows)
    _write_anndata(anndata.AnnData(obs=frame.obs, var=genes, uns=frame.uns), path)
    chosen = np.arange(store.n_obs) if rows is None else rows
    with hdf5_output(path, "r+") as file:
        for name in names:
            if name != "X":
                _write_dense(file, store.view(name), chosen)
        if expression is not None:
            if "X" in file:
                del file["X"]
            write_csr(file.create_group("X"), _blocks(file, expression, chosen), expression.shape[1])


def _write_anndata(adata: anndata.AnnData, path: Path) -> None:
    """Write what :meth:`anndata.AnnData.write_h5ad` would, whatever the names and types of columns."""
    for name in ("obs", "var"):
        plain = plain_frame(getattr(adata, name))
        setattr(adata, name, plain.set_axis(fitting_names(plain.columns), axis="columns"))
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    with hdf5_output(path) as file, anndata.settings.override(allow_write_nullable_strings=True):
        write_elem(file, "/", adata)
        file.attrs[MADE_HERE] = FORMAT


def is_legacy(path: Path) -> bool:
    """Whether anndata before 0.7 wrote a file: nothing can be added to its obs."""
    with open_to_read(path) as file:
        return isinstance(file["obs"], h5py.Dataset)


def _blocks(file: OutputFile, view: View, rows: NDArray[np.int64]) -> Iterator[Any]:
    for start in range(0, len(rows), BLOCK_ROWS):
        file.check()
        yield view[rows[start : start + BLOCK_ROWS]]


def _write_dense(file: OutputFile, view: View, rows: NDArray[np.int64]) -> None:
    array = file.require_group("obsm").create_dataset(view.name, shape=(len(rows), view.shape[1]), dtype=view.dtype)
    array.attrs.update(ARRAY)
    start = 0
    for block in _blocks(file, view, rows):
        array[start : start + len(block)] = block
        start += len(block)
