"""A store as one ``.h5ad`` file, for a laptop or a collaborator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scstore import fsio
from scstore.stores.reader import open_store

__all__ = ["export_h5ad"]


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
    adata = open_store(store).to_anndata(views)
    with fsio.atomic_path(target) as partial:
        adata.write_h5ad(partial)
    return target
