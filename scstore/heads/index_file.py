"""A compressed index as a folder: ``index.json``, ``arrays.safetensors``, ``lists.bin``.

``lists.bin`` holds the lists one after the other: a list's codes (half precision), then its row numbers (int64). It
is mapped when searched. Nothing in the folder is FAISS's own format, whose reader trusts what it reads: there are
numbers alone, whose sizes are checked. The digests find damage and files that are not ours; they are checksums, no
signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from scstore import fsio
from scstore.errors import DamagedError, InputError, NotAStoreError, OutputError
from scstore.heads.base import take_array
from scstore.heads.compressed import Compression, HeldOut, ListSearch, Probing, choose_probes, encode
from scstore.heads.exact_search import apart, unit_rows
from scstore.heads.rows import BLOCK_BYTES, Rows, iter_blocks, read
from scstore.heads.rows import fetch as stored
from scstore.spec import seal, unseal
from scstore.untrusted.safetensors import read_weights

__all__ = [
    "DESCRIPTION",
    "DIGESTS",
    "FETCH",
    "FORMAT",
    "Index",
    "check_target",
    "index_bytes",
    "open_index",
    "write_index",
]

FORMAT = "1.0"
KIND = "scstore index"
DESCRIPTION = "index.json"
ARRAYS = "arrays.safetensors"
LISTS = "lists.bin"
SCRATCH = "codes.scratch"
DIGESTS = {ARRAYS: "arrays", LISTS: "lists"}
"""Fields of the description that hold the digests of the other files, by file."""

DESCRIPTION_LIMIT = 1 << 26
"""Bytes of ``index.json``; a shard takes about 130."""

ARRAYS_LIMIT = 1 << 30
"""Bytes of ``arrays.safetensors``: the components of 5,120 dimensions take five million."""

FETCH = 2
"""Codes looked up for each neighbour asked for; with the exact distances of twice as many, far fewer dimensions do."""

REFINE_BYTES = 4 * BLOCK_BYTES
"""Bytes of float32 of the reference rows that are read at a time for the distances."""


@dataclass(frozen=True, eq=False)
class Index:
    """An opened index.

    Attributes
    ----------
    path
        Its folder.
    record
        What the caller had kept with it.
    mean
        ``(d,) float32`` around which cosines are taken.
    compression
        Components and centroids.
    sizes
        ``(n_lists,) int64`` rows in each list.
    own
        ``(m,) int64`` row numbers of the held-out rows that its recall was measured on.
    probing
        Lists a query looks into, and the recall measured.
    search
        Finds row numbers.
    """

    path: Path
    record: dict[str, Any]
    mean: NDArray[np.float32]
    compression: Compression
    sizes: NDArray[np.int64]
    own: NDArray[np.int64]
    probing: Probing
    search: ListSearch

    @property
    def n(self) -> int:
        """How many rows it holds."""
        return int(self.sizes.sum())

    def nearest(
        self, reference: Rows, queries: Rows, *, k: int, chosen: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest rows found, with the exact distances of those.

        Parameters
        ----------
        reference
            ``(n_obs, d)`` the matrix that the index was made of: the rows found are read from it.
        queries
            ``(m, d)``.
        k
            Neighbours a query, at most as many as may be found.
        chosen
            ``(n_obs,) bool``: which of the rows it holds may be found; all by default.

        Returns
        -------
        distances
            ``(m, k) float32``: 1 − cosine around :attr:`mean`, ascending.
        indices
            ``(m, k) int64`` rows of ``reference``.
        """
        m = queries.shape[0]
        distances, indices = np.empty((m, k), dtype=np.float32), np.empty((m, k), dtype=np.int64)
        n_chosen = self.n if chosen is None else int(chosen.sum())
        fetch = min(self.probing.fetch * k, n_chosen)
        probes = int(np.ceil(self.probing.probes * self.n / max(1, n_chosen)))
        # so many queries at a time that the rows of all they find fit
        step_bytes = min(BLOCK_BYTES, max(1, REFINE_BYTES // fetch))
        for start, block in iter_blocks(queries, block_bytes=step_bytes):
            part = slice(start, start + len(block))
            units = unit_rows(block, self.mean)
            codes = self.compression.project(units)
            _, found = self.search.search(codes, k=fetch, probes=probes, chosen=chosen)
            if found.min() < 0 or found.max() >= reference.shape[0]:
                msg = f"{self.path / LISTS}: it holds row numbers that {reference.shape[0]:,} cells do not have."
                raise DamagedError(msg)
            rows, where = np.unique(found, return_inverse=True)
            exact = apart(stored(reference, rows), where.reshape(found.shape), units, self.mean)
            if not np.isfinite(exact).all():
                read(reference, rows)  # says which of them is not finite
            order = np.argsort(exact, axis=1, kind="stable")[:, :k]
            distances[part] = np.take_along_axis(exact, order, axis=1)
            indices[part] = np.take_along_axis(found, order, axis=1)
        return np.clip(distances, 0, 2), indices


def check_target(path: Path) -> None:
    """Refuse to put an index where something else is.

    Raises
    ------
    OutputError
        If the path exists and is no index, or its folder cannot be written to.
    """
    fsio.check_output(path, overwrite=True)
    if path.exists() and not (path / DESCRIPTION).is_file():
        msg = f"{path} exists and is no index, so it is not replaced. Choose another place: -o."
        raise OutputError(msg)


def write_index(
    path: Path,
    rows: Rows,
    numbers: NDArray[np.int64],
    *,
    mean: NDArray[np.float32],
    compression: Compression,
    held_out: HeldOut,
    target: float,
    record: Mapping[str, Any],
    onto: Index | None = None,
) -> Probing:
    """Write an index, whole or not at all; one that is there is replaced.

    Parameters
    ----------
    path
        The folder.
    rows
        ``(n, d)`` prepared rows to put in, read once.
    numbers
        ``(n,)`` the row number that each has in the matrix it is of.
    mean
        ``(d,)`` around which they were prepared.
    compression
        How they are compressed.
    held_out
        What recall is measured on, by the same row numbers, among all rows of the new index.
    target
        Recall wanted.
    record
        What else to keep, as JSON.
    onto
        An index whose rows come along; made with the same ``mean`` and ``compression``.

    Returns
    -------
    The lists a query looks into, and the recall measured.
    """
    n_lists, width = compression.centroids.shape
    with fsio.atomic_folder(path, overwrite=True) as folder:
        codes = np.lib.format.open_memmap(folder / SCRATCH, "w+", np.float16, (rows.shape[0], width))
        lists = encode(rows, compression, codes)
        sizes = np.bincount(lists, minlength=n_lists).astype(np.int64)
        _write_lists(folder / LISTS, codes, lists, numbers, n_lists=n_lists, onto=onto)
        if onto is not None:
            sizes += onto.sizes
        del codes
        (folder / SCRATCH).unlink()
        search = ListSearch.on_disk(compression, folder / LISTS, sizes)
        probing = choose_probes(search, held_out, fetch=FETCH, target=target)
        del search
        arrays = save(
            {
                "mean": mean,
                "components": compression.components,
                "centroids": compression.centroids,
                "sizes": sizes,
                "own": np.asarray(held_out.own, dtype=np.int64),
            }
        )
        fsio.write_bytes(folder / ARRAYS, arrays)
        document = {
            "format": FORMAT,
            "kind": KIND,
            "arrays": fsio.digest_bytes(arrays),
            "lists": fsio.digest_file(folder / LISTS),
            "shape": {"n_lists": n_lists, "components": width, "width": len(mean), "held_out": len(held_out.own)},
            "probing": asdict(probing),
            "record": dict(record),
        }
        fsio.write_json(folder / DESCRIPTION, seal(document))
    return probing


def _write_lists(
    file: Path,
    codes: NDArray[np.float16],
    lists: NDArray[np.int32],
    numbers: NDArray[np.int64],
    *,
    n_lists: int,
    onto: Index | None,
) -> None:
    width = codes.shape[1]
    order = np.argsort(lists, kind="stable")
    bounds = np.searchsorted(lists[order], np.arange(n_lists + 1))
    old = None if onto is None else np.memmap(onto.path / LISTS, mode="r", dtype=np.uint8)
    place = 0
    with file.open("wb") as out:
        for i in range(n_lists):
            rows = order[bounds[i] : bounds[i + 1]]
            parts = [codes[rows].tobytes(), numbers[rows].astype("<i8").tobytes()]
            if old is not None and onto is not None:
                size = int(onto.sizes[i])
                middle, end = place + 2 * width * size, place + (2 * width + 8) * size
                parts = [old[place:middle].tobytes(), parts[0], old[middle:end].tobytes(), parts[1]]
                place = end
            for part in parts:
                out.write(part)


def open_index(path: Path) -> Index:
    """Open an index that :func:`write_index` wrote.

    Raises
    ------
    NotAStoreError
        If there is none.
    InputError
        If it is in another format.
    DamagedError
        If anything in it is not as it was written.
    """
    file = path / DESCRIPTION
    if not file.is_file():
        msg = f"{path}: no index there. Make one with: scstore index STORE."
        raise NotAStoreError(msg)
    document = unseal(fsio.read_json(file, limit=DESCRIPTION_LIMIT))
    if document is None or document.get("kind") != KIND:
        _refuse(file, "it does not match its own digest, or is something else")
    if document.get("format") != FORMAT:
        found = str(document.get("format"))[:20]
        msg = f"{file}: index format {found!r}; this scstore reads {FORMAT}. Make it anew: scstore index."
        raise InputError(msg)
    shape, probing, record = document.get("shape"), document.get("probing"), document.get("record")
    if not (isinstance(shape, dict) and isinstance(probing, dict) and isinstance(record, dict)):
        _refuse(file, "fields are missing")
    try:
        n_lists, components, width, m = (int(shape[key]) for key in ("n_lists", "components", "width", "held_out"))
        measured = Probing(**probing)
        sound = 1 <= measured.probes <= n_lists and 0 <= measured.recall <= 1 and 1 <= measured.fetch <= 100
        sound = sound and min(components, width, m) > 0
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        _refuse(file, "its numbers make no sense")
    if not (path / ARRAYS).is_file() or not (path / LISTS).is_file():
        _refuse(path, "a file is missing")
    arrays = read_weights(path / ARRAYS, digest=str(document.get("arrays")), limit=ARRAYS_LIMIT)
    mean = take_array(arrays, "mean", shape=(width,))
    projection = take_array(arrays, "components", shape=(width, components))
    centroids = take_array(arrays, "centroids", shape=(n_lists, components))
    sizes = take_array(arrays, "sizes", shape=(n_lists,), kind="i")
    own = take_array(arrays, "own", shape=(m,), kind="i")
    lists = path / LISTS
    if sizes.min() < 0 or lists.stat().st_size != int(sizes.sum()) * (2 * components + 8):
        _refuse(lists, "it is not as long as its lists")
    if fsio.digest_file(lists) != document.get("lists"):
        _refuse(lists, "it does not match its digest")
    if any(array.dtype != np.float32 for array in (mean, projection, centroids)) or sizes.dtype != np.int64:
        _refuse(path / ARRAYS, "its arrays are of other types")
    compression = Compression(projection, centroids)
    search = ListSearch.on_disk(compression, lists, sizes)
    return Index(path, record, mean, compression, sizes, own, measured, search)


def index_bytes(path: Path) -> int:
    """Bytes of an index on disk."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def _refuse(file: Path, why: str) -> NoReturn:
    msg = f"{file}: {why}. The index is damaged or not scstore's: make it anew with scstore index."
    raise DamagedError(msg)
