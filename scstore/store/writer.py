"""Writing a store: its fixed shape, in one rename, then one shard at a time: its files, flushed, then its record."""

import asyncio
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
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from scstore import fsio
from scstore.cells.matrices import plain_frame
from scstore.errors import DamagedError, LockedError, NumericsError
from scstore.sealed import FORMAT, seal
from scstore.store.ledger import (
    LEDGER,
    RECORD_LIMIT,
    StorePlan,
    ViewSpec,
    check_shard,
    chunk_path,
    read_record,
    record_path,
    write_manifest,
    write_record,
)
from scstore.store.views import ARRAY, write_csr

# What lies in a store's folder.
PARTS = (LEDGER, "X", "layers", "obs", "obsm", "obsp", "raw", "uns", "var", "varm", "varp", "zarr.json")

# Views are stored as they are, with NaN where rows are missing.
RAW: dict[str, Any] = {"fill_value": np.nan, "compressors": None, "filters": None, "attributes": ARRAY}


class DiskStore(LocalStore):
    """A Zarr store in a temporary folder, which is flushed and renamed as a whole: files go straight to their names."""

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        path = self.root / key
        if not path.parent.exists():
            fsio.disk.make_folder(path.parent)
        with path.open("wb") as file:
            fsio.disk.write(file, memoryview(value.as_buffer_like()))


class StoreBuilder:
    """A store that is being shaped, in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._zarr = DiskStore(root)
        self._group = zarr.open_group(self._zarr, mode="w", zarr_format=3)

    def write_expression(self, blocks: Iterable[csr_matrix], *, n_genes: int) -> None:
        """Write log-normalised expression as the AnnData's ``X``."""
        write_csr(self._group.create_group("X"), blocks, n_genes)

    def write_frames(self, obs: pd.DataFrame, var: pd.DataFrame, record: Mapping[str, Any]) -> None:
        """Write the metadata of cells and genes, and the run's record under ``uns["scstore"]``."""
        self._group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        uns = {"scstore": {"format": FORMAT, "record": json.dumps(seal(record), ensure_ascii=False)}}
        elements: dict[str, Any] = {"obs": plain_frame(obs), "var": plain_frame(var), "uns": uns}
        elements |= {name: {} for name in ("obsm", "varm", "obsp", "varp", "layers")}
        with anndata.settings.override(auto_shard_zarr_v3=False):
            for name, value in elements.items():
                write_elem(self._group, name, value)

    def create_views(self, plan: StorePlan) -> None:
        obsm = self._group.require_group("obsm")
        for view in plan.views:
            shape, chunks = (plan.n_obs, view.width), (plan.shard_rows, view.width)
            obsm.create_array(view.name, shape=shape, chunks=chunks, dtype=view.dtype, **RAW)
        fsio.disk.make_folder(self.root / LEDGER / "shards")

    def seal(self) -> None:
        """Consolidate the metadata and write the digest of every file that will never change again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr: consolidated metadata is not in the v3 specification yet
            zarr.consolidate_metadata(self._zarr)
        write_manifest(self.root, fsio.files_below(self.root))


def store_problem(path: Path) -> str | None:
    """Return why a path is no store of scstore's, or holds other things; ``None`` if it may be replaced by one."""
    return fsio.folder_problem(path, "a store", marker=LEDGER, parts=PARTS)


@contextmanager
def build_store(path: Path, *, overwrite: bool = False) -> Iterator[StoreBuilder]:
    """Shape a store; it appears at ``path`` complete and sealed when the block ends without an error."""
    with fsio.atomic_folder(path, overwrite=overwrite) as folder:
        builder = StoreBuilder(folder)
        yield builder
        builder.seal()


def commit_shard(
    root: Path, plan: StorePlan, shard: int, views: Mapping[str, NDArray[np.float32]], *, ids: list[str]
) -> None:
    """Write a shard's finite rows of every view, ``(n_rows, width)`` by name, then its record; the first wins."""
    chunks = {view.name: chunk_bytes(_cast(views[view.name], view, ids), plan.shard_rows) for view in plan.views}
    written = {name: {"bytes": data.nbytes, "digest": fsio.digest_bytes(data)} for name, data in chunks.items()}
    # no other process writes this shard, unless locks do not lock, as on some network file systems
    before = _record(root, shard)
    if before is not None and check_shard(root, plan, shard, ids=ids) is None:
        _same_or_refuse(root, shard, before, written)
        return
    mirror = fsio.mirror_of(root)
    for name, data in chunks.items():
        file = chunk_path(root, name, shard)
        if mirror is not None:
            mirror.put(file, data)
            continue
        made = [folder for folder in (file.parent, file.parent.parent) if not folder.exists()]
        if made:
            fsio.disk.make_folder(file.parent)
        fsio.write_bytes(file, data)
        for folder in made:
            fsio.fsync_dir(folder.parent)
    if (meanwhile := _record(root, shard)) is not None and meanwhile != before:
        _same_or_refuse(root, shard, meanwhile, written)
    write_record(root, plan, shard, ids=ids, views=written)
    if mirror is not None:
        _same_or_refuse(root, shard, _record(root, shard) or {"views": {}}, written)


def chunk_bytes(rows: NDArray[Any], shard_rows: int) -> memoryview:
    """Return the bytes of a shard's file: its rows, then rows of NaN where it is not full."""
    chunk = np.full((shard_rows, rows.shape[1]), np.nan, dtype=rows.dtype)
    chunk[: len(rows)] = rows
    return chunk.reshape(-1).view(np.uint8).data


def _record(root: Path, shard: int) -> dict[str, Any] | None:
    try:
        if (mirror := fsio.mirror_of(root)) is not None:
            mirror.get(record_path(root, shard), limit=RECORD_LIMIT)
        return read_record(root, shard)
    except DamagedError:
        return None


def _same_or_refuse(root: Path, shard: int, record: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    if record["views"] != written:
        why = "another process wrote other values, so locks do not hold on this file system"
        raise LockedError(f"{record_path(root, shard)}: {why}. Run one process, or give each its shard='i/n'.")


def _cast(rows: NDArray[np.float32], view: ViewSpec, ids: list[str]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = rows.astype(np.dtype(view.dtype).newbyteorder("<"))
    cast += 0  # makes -0 a plain zero: the sign of what underflows depends on the number of threads
    if (finite := np.isfinite(cast).all(axis=1)).all():
        return cast
    cell = int(finite.argmin())
    if np.isfinite(rows[cell]).all():
        why = f"reaches {np.abs(rows[cell]).max():.3g}, more than {view.dtype} can hold"
        cure = "Extract into a new store with store_dtype='float32'."
    else:
        why, cure = "is not finite", "Run with dtype='bfloat16' or 'float32', which do not overflow as float16 does."
    raise NumericsError(f"Cell {ids[cell][:200]!r}: its {view.name} {why}, so its shard was not written. {cure}")
