"""``scstore index``: a compressed index of a view, beside the store, for searches among many cells."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import DamagedError, InputError, NotAStoreError, OptionError
from scstore.heads.compressed import EXACT_BELOW, Probing, fit_compression, held_out_again
from scstore.heads.exact_search import centre_of, unit_view
from scstore.heads.index_file import FETCH, Index, check_target, index_bytes, open_index, write_index
from scstore.heads.rows import RowSubset, iter_raw_blocks
from scstore.progress import Reporter
from scstore.store.ledger import ids_digest, read_record
from scstore.store.reader import Store, open_store
from scstore.store.views import View

__all__ = ["BuiltIndex", "build_index", "fitting_index", "index_path", "searchable_view"]

FEWEST = 100
"""Cells of which an index can be made at all."""


@dataclass(frozen=True)
class BuiltIndex:
    """What :func:`build_index` did.

    Attributes
    ----------
    path
        Folder of the index; ``None`` where none is needed.
    view
        Its view.
    n_cells
        Cells that may be found.
    added
        How many of them were put in by this run.
    probing
        Lists a query looks into, and the recall measured; ``None`` where there is no index.
    components, n_lists
        Dimensions that are kept, and number of lists; 0 where there is no index.
    n_bytes
        Size of the index.
    """

    path: Path | None
    view: str
    n_cells: int
    added: int = 0
    probing: Probing | None = None
    components: int = 0
    n_lists: int = 0
    n_bytes: int = 0


def build_index(
    store: str | os.PathLike[str] | Store,
    output: str | os.PathLike[str] | None = None,
    *,
    view: str | None = None,
    add: bool = False,
    recall: float = 0.95,
    exact_below: int = EXACT_BELOW,
    seed: int = 0,
    allow_partial: bool = False,
    progress: Reporter | None = None,
) -> BuiltIndex:
    """Make the index that ``query`` searches when there are many cells; a cache, to be made again from the store.

    The store is read three times, in blocks. An index that fits the cells and was made for the same ``recall`` and
    ``seed`` is left as it is.

    Parameters
    ----------
    store
        The cells to be found.
    output
        Folder of the index; beside the store by default, where ``query`` finds it by itself.
    view
        The feature matrix; the readout by default.
    add
        Put the cells that were extracted since into the index that is there, with its components and centroids.
        Implies ``allow_partial``.
    recall
        Share of the 10 nearest neighbours that is to be found, more than 0 and less than 1. Fewest components and
        fewest lists searched are chosen for it; what is reached is measured on other cells and said.
    exact_below
        Cells below which no index is made.
    seed
        The same seed gives the same index.
    allow_partial
        Index the cells that are extracted so far.
    progress
        Told what happens.

    Raises
    ------
    OptionError
        If ``recall`` is out of its range.
    OutputError
        If something else is at ``output``.
    NotAStoreError, DamagedError, InputError
        With ``add``: if there is no index to add to, or it is damaged, or it is of other cells.
    """
    if not 0 < recall < 1:
        msg = f"--recall {recall}: must be more than 0 and less than 1."
        raise OptionError(msg)
    progress = progress or Reporter()
    cells = store if isinstance(store, Store) else open_store(store)
    matrix = searchable_view(cells, view)
    rows = cells.usable_rows(allow_partial=allow_partial or add)
    path = Path(output) if output is not None else index_path(cells, matrix.name)
    if len(rows) < max(exact_below, FEWEST):
        return BuiltIndex(None, matrix.name, len(rows))
    check_target(path)
    record = _record(cells, matrix, rows)
    old = None
    try:
        old = open_index(path)
    except (NotAStoreError, DamagedError, InputError):
        if add:
            raise
    wanted = {"recall": recall, "seed": seed}
    if old is not None and _same(old.record, record) and (add or _same(old.record, wanted)):
        return _built(path, matrix.name, old, added=0)
    progress.note(f"reading {len(rows):,} cells of {matrix.name} three times, in blocks")
    if add and old is not None:
        n_old = _rows_kept(cells, old, record)
        new, prepared = rows[~np.isin(rows, n_old)], unit_view(matrix, old.mean)
        held_out = held_out_again(prepared, old.own, among=rows, k=old.probing.k)
        write_index(
            path, RowSubset(prepared, new), new, mean=old.mean, compression=old.compression, held_out=held_out,
            target=recall, record={**record, **wanted}, onto=old,
        )  # fmt: skip
        added = len(new)
    else:
        chosen = RowSubset(matrix, rows)
        mean = centre_of(chosen)
        prepared = unit_view(chosen, mean)
        compression, found = fit_compression(prepared, fetch=FETCH, target=recall, seed=seed)
        write_index(
            path, prepared, rows, mean=mean, compression=compression, held_out=found.renumbered(rows), target=recall,
            record={**record, **wanted},
        )  # fmt: skip
        added = len(rows)
    built = _built(path, matrix.name, open_index(path), added=added)
    if built.probing is not None and built.probing.recall < recall:
        cure = " Make it anew, without --add." if add else " Pass --exact to query where that matters."
        progress.warn(f"recall {built.probing.recall:.3f} is all that was reached; {recall} was wanted.{cure}")
    return built


def searchable_view(store: Store, name: str | None) -> View:
    """The feature matrix of a store that is to be searched, its default one where none is named.

    Raises
    ------
    OptionError
        If it is expression.
    """
    matrix = store.view(name or store.default_view)
    if matrix.name == "X":
        msg = "--view X: expression is not searched. Name an obsm matrix."
        raise OptionError(msg)
    return matrix


def index_path(store: Store, view: str) -> Path:
    """Where the index of a view lies by default: ``ref.zarr.VIEW.index``, beside the store."""
    return store.path.with_name(f"{store.path.name}.{re.sub(r'[^A-Za-z0-9._-]', '_', view)}.index")


def fitting_index(
    store: Store, matrix: View, rows: NDArray[np.int64], *, path: str | os.PathLike[str] | None = None
) -> tuple[Index | None, str]:
    """The index of some rows of a view, if it is there, whole, and of exactly these.

    Parameters
    ----------
    store, matrix, rows
        The cells to be found.
    path
        The folder, where it is not beside the store.

    Returns
    -------
    index, why
        ``None`` and why it is not used, in words; no words where there is none and none was named.

    Raises
    ------
    NotAStoreError, InputError, DamagedError
        If a named one cannot be used.
    """
    folder = Path(path) if path is not None else index_path(store, matrix.name)
    try:
        index = open_index(folder)
        if _same(index.record, _record(store, matrix, rows)):
            return index, ""
        msg = f"{folder}: it is of other cells or features. Bring it up to date: scstore index {store.path}."
        raise InputError(msg)
    except (NotAStoreError, InputError, DamagedError) as error:
        if path is not None:
            raise
        return None, "" if isinstance(error, NotAStoreError) else f"the index is not used. {error}"


def _record(store: Store, matrix: View, rows: NDArray[np.int64]) -> dict[str, Any]:
    """What an index must have been made of."""
    return {
        "view": matrix.name,
        "fingerprint": matrix.fingerprint,
        "n": len(rows),
        "ids": ids_digest(store.obs.index[rows].tolist()),
        "parts": _parts(store, matrix),
    }


def _parts(store: Store, matrix: View) -> list[dict[str, Any]]:
    """Runs of rows with the digest of their values: a store's shards as recorded, or all rows at once."""
    if store.plan is None:
        digest = hashlib.sha256(str((matrix.shape, matrix.dtype)).encode())
        for _, block in iter_raw_blocks(matrix):
            digest.update(np.ascontiguousarray(block).data)
        return [{"start": 0, "stop": len(matrix), "digest": f"sha256:{digest.hexdigest()}"}]
    records = (read_record(store.path, shard) for shard in range(store.plan.n_shards))
    return [
        {"start": record["start"], "stop": record["stop"], "digest": record["views"][matrix.name]["digest"]}
        for record in records
        if record is not None
    ]


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old.get(field) == new[field] for field in new)


def _rows_kept(store: Store, old: Index, record: dict[str, Any]) -> NDArray[np.int64]:
    """The rows that an index has, all of which must still be as they were."""
    parts = old.record.get("parts")
    same = isinstance(parts, list) and all(part in record["parts"] for part in parts)
    if same and old.record.get("fingerprint") == record["fingerprint"]:
        inside = np.zeros(store.n_obs, dtype=bool)
        for part in old.record["parts"]:
            inside[part["start"] : part["stop"]] = True
        rows = np.flatnonzero(inside & ~store.empty)
        if ids_digest(store.obs.index[rows].tolist()) == old.record.get("ids"):
            return rows
    msg = f"{old.path}: cells in it have changed since, so none can be added. Make it anew: scstore index {store.path}."
    raise InputError(msg)


def _built(path: Path, view: str, index: Index, *, added: int) -> BuiltIndex:
    width = index.compression.centroids.shape[1]
    return BuiltIndex(path, view, index.n, added, index.probing, width, len(index.sizes), index_bytes(path))
