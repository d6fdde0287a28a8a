"""``scstore query``: the nearest reference cells of every cell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scstore import fsio
from scstore.errors import FeatureSpaceError, InputError, OptionError, OutputError
from scstore.heads.rows import RowSubset
from scstore.heads.search import nearest
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.stores.reader import Store, open_store

__all__ = ["FORMATS", "query"]

FORMATS = (".parquet", ".csv")


def query(
    store: str | os.PathLike[str] | Store,
    reference: str | os.PathLike[str] | Store,
    output: str | os.PathLike[str] | None = None,
    *,
    k: int = 15,
    view: str | None = None,
    columns: Sequence[str] | None = None,
    allow_partial: bool = False,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> pd.DataFrame:
    """Find the ``k`` nearest reference cells of every cell, by cosine distance around the reference's mean.

    Parameters
    ----------
    store
        The cells to look up.
    reference
        The cells to look among.
    output
        ``.parquet`` or ``.csv``; not written when ``None``.
    k
        Neighbours a cell.
    view
        The feature matrix both have; the readout by default.
    columns
        Columns of the reference's ``obs`` to bring along; all by default.
    allow_partial
        Search what is extracted so far.
    overwrite
        Replace an existing output.
    progress
        Told what happens.

    Returns
    -------
    DataFrame
        One row a cell and neighbour, nearest first: ``cell_id``, ``rank`` (from 1), ``neighbour`` (reference cell's
        id), ``distance`` (1 − cosine, 0 to 2), then the reference's columns. Empty cells have no rows.

    Raises
    ------
    FeatureSpaceError
        If the two live in different feature spaces.
    OptionError
        If ``k`` is not at least one and at most the number of reference cells.
    """
    if output is not None:
        target = Path(output)
        if target.suffix not in FORMATS:
            msg = f"{target}: the name must end in one of {', '.join(FORMATS)}."
            raise OutputError(msg)
        fsio.check_output(target, overwrite=overwrite)
    progress = progress or Reporter()
    cells = store if isinstance(store, Store) else open_store(store)
    others = reference if isinstance(reference, Store) else open_store(reference)
    wanted, among = cells.view(view or others.default_view), others.view(view or others.default_view)
    if wanted.name == "X":
        msg = "--view X: expression is not searched. Name an obsm matrix."
        raise OptionError(msg)
    if wanted.fingerprint != among.fingerprint:
        fields = "\n  ".join(differences(among.space, wanted.space))
        msg = (
            f"{cells.path} and {others.path}: {among.name} lives in two feature spaces. What differs (reference → "
            "cells):\n"
            f"  {fields}\nExtract the cells with --like {others.path}."
        )
        raise FeatureSpaceError(msg)
    if columns is not None and (unknown := [name for name in columns if name not in others.obs]):
        msg = f"{others.path} has no obs column {unknown[0]!r}. It has: {', '.join(map(str, others.obs.columns))}."
        raise InputError(msg)
    rows, other_rows = (side.usable_rows(allow_partial=allow_partial) for side in (cells, others))
    if not 1 <= k <= len(other_rows):
        msg = f"-k {k}: {others.path} has {len(other_rows):,} cells to choose from; k must be between 1 and that."
        raise OptionError(msg)
    progress.note(f"searching {len(other_rows):,} reference cells for each of {len(rows):,}, by {among.name}")
    distances, indices = nearest(RowSubset(among, other_rows), RowSubset(wanted, rows), k=k)
    metadata = others.obs.iloc[other_rows[indices.ravel()]]
    ids = cells.obs.index[rows].astype(str)
    frame = pd.DataFrame(
        {
            "cell_id": np.repeat(ids.to_numpy(dtype=object), k),
            "rank": np.tile(np.arange(1, k + 1), len(rows)),
            "neighbour": metadata.index.astype(str).to_numpy(dtype=object),
            "distance": distances.ravel(),
        }
    )
    kept = metadata[list(columns)] if columns is not None else metadata
    kept = kept.rename(columns={name: f"neighbour_{name}" for name in kept.columns if name in frame.columns})
    frame = pd.concat([frame, kept.reset_index(drop=True)], axis=1)
    if output is not None:
        with fsio.atomic_path(target) as partial:
            if target.suffix == ".csv":
                frame.to_csv(partial, index=False)
            else:
                frame.to_parquet(partial, index=False)
    return frame
