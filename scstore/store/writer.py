"""Writing a store: its fixed shape once, then one shard at a time.

The whole shape appears in one rename, so a store that exists is a valid AnnData from its first moment. A shard's files
are flushed to disk before its record is: what has a record is there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from zarr.codecs import ZstdCodec

from scstore import fsio
from scstore.errors import DamagedError, LockedError, NumericsError
from scstore.spec import seal
from scstore.store.disk_store import DiskStore
from scstore.store.layout import (
    FORMAT,
    LEDGER,
    SCRATCH_EXPRESSION,
    StorePlan,
    ViewSpec,
    chunk_path,
    record_path,
)
from scstore.store.ledger import check_shard, ids_digest, read_record, write_manifest, write_record

__all__ = ["GrowingArray", "StoreBuilder", "build_store", "commit_shard", "write_scratch_expression"]

SPARSE_CHUNK = 1 << 20
"""Values in a chunk of the expression: 4 MB before compression."""

CHECKED: dict[str, Any] = {
    # level 1: expression compresses about as well as at higher levels, in half the time
    "compressors": ZstdCodec(level=1, checksum=True),
    "config": {"write_empty_chunks": True},
}
"""How the expression is kept: a damaged chunk is an error to any reader, and an absent one was lost."""

ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}
"""How AnnData marks an array."""

STORABLE = frozenset({"string", "boolean", "integer", "floating", "empty"})
"""Kinds of columns that AnnData stores as they are."""


class StoreBuilder:
    """A store that is being shaped, in a folder nobody sees yet.

    Parameters
    ----------
    root
        The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._zarr = DiskStore(root)
        self._group = zarr.open_group(self._zarr, mode="w", zarr_format=3)

    def write_expression(self, blocks: Iterable[csr_matrix], *, n_genes: int, keep: bool) -> None:
        """Write the cells' log-normalised expression, block by block.

        Parameters
        ----------
        blocks
            ``(n, n_genes)`` each, in the order of the cells.
        n_genes
            Number of columns.
        keep
            As the AnnData's ``X``; otherwise in a scratch place that is deleted when the run ends.
        """
        if keep:
            _write_csr(self._group.create_group("X"), blocks, n_genes)
        else:
            write_scratch_expression(self.root, blocks, n_genes=n_genes)

    def write_frames(self, obs: pd.DataFrame, var: pd.DataFrame, record: Mapping[str, Any]) -> None:
        """Write the cells' and genes' metadata, and the run's record under ``uns["scstore"]``."""
        self._group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        uns = {"scstore": {"format": FORMAT, "record": json.dumps(seal(record), ensure_ascii=False)}}
        elements: dict[str, Any] = {"obs": _storable(obs), "var": _storable(var), "uns": uns}
        elements |= {name: {} for name in ("obsm", "varm", "obsp", "varp", "layers")}
        with anndata.settings.override(auto_shard_zarr_v3=False):
            for name, value in elements.items():
                write_elem(self._group, name, value)

    def create_views(self, plan: StorePlan) -> None:
        """Create the feature matrices, all rows missing (NaN)."""
        obsm = self._group.require_group("obsm")
        for view in plan.views:
            obsm.create_array(
                view.name,
                shape=(plan.n_obs, view.width),
                chunks=(plan.shard_rows, view.width),
                dtype=view.dtype,
                fill_value=np.nan,
                compressors=None,
                filters=None,
                attributes=ARRAY,
            )
        fsio.disk.make_folder(self.root / LEDGER / "shards")

    def seal(self) -> None:
        """Consolidate the metadata and write the digest of every file that will never change again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr: consolidated metadata is not in the v3 specification yet
            zarr.consolidate_metadata(self._zarr)
        names = [file.relative_to(self.root).as_posix() for file in self.root.rglob("*") if file.is_file()]
        write_manifest(self.root, (name for name in names if not name.startswith(f"{SCRATCH_EXPRESSION}/")))


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns that AnnData has no form for (dates, intervals, sets) as text."""
    frame = frame.copy()
    frame.columns = frame.columns.astype(str)
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            categories = column.cat.categories
            if pd.api.types.infer_dtype(categories, skipna=True) not in STORABLE:
                frame[name] = column.cat.rename_categories(categories.astype(str))
            continue
        kind = pd.api.types.infer_dtype(column, skipna=True)
        if kind not in STORABLE or (column.dtype == object and kind not in ("string", "empty")):
            frame[name] = column.astype(str).where(column.notna())
        if frame[name].dtype == object and column.isna().any():
            frame[name] = frame[name].astype("category")  # a text column has no form for missing values
    return frame


@contextmanager
def build_store(path: Path, *, overwrite: bool = False) -> Iterator[StoreBuilder]:
    """Shape a store; it appears at ``path`` complete and sealed when the block ends without an error."""
    with fsio.atomic_folder(path, overwrite=overwrite) as folder:
        builder = StoreBuilder(folder)
        yield builder
        builder.seal()


def write_scratch_expression(root: Path, blocks: Iterable[csr_matrix], *, n_genes: int) -> None:
    """Write the expression that extraction works from beside the AnnData; it is deleted when the run ends."""
    with fsio.atomic_folder(root / SCRATCH_EXPRESSION) as folder:
        _write_csr(zarr.open_group(DiskStore(folder), mode="w", zarr_format=3), blocks, n_genes)


def _write_csr(group: zarr.Group, blocks: Iterable[csr_matrix], n_genes: int) -> None:
    data = GrowingArray(group, "data", np.dtype(np.float32))
    indices = GrowingArray(group, "indices", np.dtype(np.int32))
    ends: list[NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
    for block in blocks:
        data.extend(block.data)
        indices.extend(block.indices)
        ends.append(block.indptr[1:].astype(np.int64) + ends[-1][-1])
    data.close()
    indices.close()
    indptr = np.concatenate(ends)
    group.create_array("indptr", data=indptr, chunks=(SPARSE_CHUNK,), **CHECKED)
    group["indptr"].attrs.update(ARRAY)
    shape = [len(indptr) - 1, n_genes]
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})


class GrowingArray:
    """A one-dimensional Zarr array of unknown length, written in whole chunks, as AnnData encodes arrays.

    Parameters
    ----------
    group, name
        Where.
    dtype
        Of its values.
    chunk
        Values in a chunk.
    """

    def __init__(self, group: zarr.Group, name: str, dtype: np.dtype[Any], *, chunk: int = SPARSE_CHUNK) -> None:
        self._array = group.create_array(name, shape=(0,), chunks=(chunk,), dtype=dtype, attributes=ARRAY, **CHECKED)
        self._chunk = chunk
        self._waiting: list[NDArray[Any]] = []
        self._size = 0

    def extend(self, values: NDArray[Any]) -> None:
        """Append values."""
        self._waiting.append(values.astype(self._array.dtype, copy=False))
        if sum(map(len, self._waiting)) >= 4 * self._chunk:
            self._flush(final=False)

    def close(self) -> None:
        """Write what is left."""
        self._flush(final=True)

    def _flush(self, *, final: bool) -> None:
        values = np.concatenate([np.zeros(0, dtype=self._array.dtype), *self._waiting])
        ready = len(values) if final else len(values) // self._chunk * self._chunk
        self._array.resize((self._size + ready,))
        if ready:
            self._array[self._size : self._size + ready] = values[:ready]
        self._size += ready
        self._waiting = [values[ready:].copy()]


def commit_shard(
    root: Path, plan: StorePlan, shard: int, views: Mapping[str, NDArray[np.float32]], *, ids: list[str]
) -> None:
    """Write a shard's rows of every view, then its record.

    Parameters
    ----------
    root
        The store.
    plan
        Its shape.
    shard
        Which shard.
    views
        ``(n_rows, width) float32`` by name.
    ids
        Its cells' ids, for the record and for messages.

    Raises
    ------
    NumericsError
        If a value is not finite, or does not fit the view's precision; nothing is written then.
    LockedError
        If another process has committed the shard meanwhile, with other bytes: the first record wins.
    """
    start, stop = plan.bounds(shard)
    chunks = {view.name: _chunk(_cast(views[view.name], view, ids), plan.shard_rows) for view in plan.views}
    written = {name: {"bytes": data.nbytes, "digest": fsio.digest_bytes(data)} for name, data in chunks.items()}
    # nobody else writes this shard, unless locks do not lock, as on some network file systems
    before = _record(root, shard)
    if before is not None and check_shard(root, shard) is None:
        _same_or_refuse(root, shard, before, written)
        return
    for name, data in chunks.items():
        file = chunk_path(root, name, shard)
        made = [folder for folder in (file.parent, file.parent.parent) if not folder.exists()]
        if made:
            fsio.disk.make_folder(file.parent)
        fsio.write_bytes(file, data)
        for folder in made:
            fsio.fsync_dir(folder.parent)
    if (meanwhile := _record(root, shard)) is not None and meanwhile != before:
        _same_or_refuse(root, shard, meanwhile, written)
    write_record(root, shard, start=start, stop=stop, ids=ids_digest(ids), views=written)


def _chunk(rows: NDArray[Any], shard_rows: int) -> memoryview:
    """The bytes of a shard's file: its rows, and rows of NaN where it is the last and not full."""
    chunk = np.full((shard_rows, rows.shape[1]), np.nan, dtype=rows.dtype)
    chunk[: len(rows)] = rows
    return chunk.reshape(-1).view(np.uint8).data


def _record(root: Path, shard: int) -> dict[str, Any] | None:
    try:
        return read_record(root, shard)
    except DamagedError:
        return None


def _same_or_refuse(root: Path, shard: int, record: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    if record["views"] != written:
        msg = (
            f"{record_path(root, shard)}: another process committed this shard meanwhile, with other values. Locks do "
            "not hold on this file system: run one process, or give each its part with --shard i/n."
        )
        raise LockedError(msg)


def _cast(rows: NDArray[np.float32], view: ViewSpec, ids: list[str]) -> NDArray[Any]:
    if not np.isfinite(rows).all():
        cell = ids[int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])]
        msg = (
            f"Cell {cell[:200]!r}: its {view.name} is not finite, so its shard was not written. Run in --dtype "
            "bfloat16 or "
            "float32, which do not overflow as float16 does."
        )
        raise NumericsError(msg)
    with np.errstate(over="ignore"):
        cast = rows.astype(np.dtype(view.dtype).newbyteorder("<"))
    if not np.isfinite(cast).all():
        cell = ids[int(np.flatnonzero(~np.isfinite(cast).all(axis=1))[0])]
        msg = (
            f"Cell {cell[:200]!r}: its {view.name} reaches {np.abs(rows).max():.3g}, more than {view.dtype} can hold, "
            "so its "
            "shard was not written. Extract into a new store with --store-dtype float32."
        )
        raise NumericsError(msg)
    return cast
