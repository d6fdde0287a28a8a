"""Stores and heads by address: small files come when one is opened, rows when they are read; a shape is sent whole."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import DamagedError, NotAStoreError, OptionError, OutputError, ScstoreError
from scstore.progress import Reporter
from scstore.remote import FILE_LIMIT, POOL, REQUESTS, Expected, Mirror, is_bulk, mount, split_address
from scstore.sealed import DESCRIPTION_LIMIT, read_sealed_json
from scstore.store.ledger import (
    CURE,
    LEDGER,
    MANIFEST,
    MANIFEST_LIMIT,
    RECORD_LIMIT,
    StorePlan,
    ViewSpec,
    chunk_path,
    is_inside,
    read_manifest,
    read_record,
    record_path,
)
from scstore.store.views import Part, ShardView

HEAD, WEIGHTS, PROJECTOR = "head.json", "weights.safetensors", ("projector.json", "projector.safetensors")

# The share of a file's rows from which it is fetched whole, and compared with its digest; each reading of a few counts
# as a part of it.
WHOLE, VISIT = 1 / 4, 1 / 16


def local(path: Any) -> Any:
    """Return what stands for an address on this machine; anything else as it is."""
    if not (address := fsio.address_of(path)):
        return path
    if address.startswith("file:"):
        name = unquote(address.removeprefix("file://"))
        return Path(name if name[1:2] == ":" else f"/{name}")
    mirror, root = mount(address)
    before = (root / MANIFEST).read_bytes() if (root / MANIFEST).is_file() else b""
    is_there = mirror.get(root / MANIFEST, limit=MANIFEST_LIMIT)
    if is_there and before not in (b"", (root / MANIFEST).read_bytes()):  # another store than when it was last opened
        fsio.disk.delete(root)
        is_there = mirror.get(root / MANIFEST, limit=MANIFEST_LIMIT)
    if is_there and (root / MANIFEST).stat().st_size:  # not while a new one is sent
        small = {root / name: one for name, one in read_manifest(root).items() if not is_bulk(name)}
        if sum(one["bytes"] for one in small.values()) > FILE_LIMIT:
            raise DamagedError(f"{root / MANIFEST} lists more than {FILE_LIMIT:,} bytes of metadata. {CURE}")
        mirror.fetch(small)
    elif mirror.get(root / HEAD, limit=DESCRIPTION_LIMIT):
        _fetch_head(mirror, root)
    else:
        cure = f"There is neither {MANIFEST} nor {HEAD}. Of any other file give a copy on disk"
        raise NotAStoreError(f"{address}: no store and no head of scstore's lies there. {cure}.")
    return root


def _fetch_head(mirror: Mirror, root: Path) -> None:
    document = read_sealed_json(root / HEAD, limit=DESCRIPTION_LIMIT, cure=CURE)
    copies = document.get("copies")
    if not isinstance(copies, dict) or not all(map(is_inside, copies)):
        raise DamagedError(f"{root / HEAD} is not the description of a head. {CURE}")
    mirror.fetch({root / WEIGHTS: {"digest": str(document.get("weights"))}})
    for name in copies:  # which are compared when they are used
        for file in [root / name] if name.endswith(".h5ad") else [root / name / part for part in PROJECTOR]:
            mirror.get(file)


def place_for(address: str, *, overwrite: bool) -> Path:
    """Return what stands for the address of a store that is to be written; refuse where it cannot be."""
    if not address.startswith(("s3:", "gs:", "az:")) or not split_address(address)[1]:
        why = "a store is written to an address such as s3://bucket/ref.zarr, gs://… or az://…"
        raise OptionError(f"{address}: {why}. Or extract to disk, then `scstore push`.")
    if overwrite:
        raise OptionError(f"overwrite=True: nothing at an address is replaced. Delete {address} there first.")
    mirror, root = mount(address)
    if not (names := mirror.names(root)):
        fsio.disk.delete(root)  # of a store that was there
    elif LEDGER not in names:  # in which the manifest comes first
        raise OutputError(f"{address}: something else lies there, and is not replaced. Choose another address.")
    return root


def send_shape(built: Path, root: Path, beside: Iterable[Path], progress: Reporter) -> None:
    """Send a store without shards: an empty manifest, which keeps others away, all files, then the manifest."""
    mirror: Mirror = fsio.mirror_of(root)
    manifest, files = (built / MANIFEST).read_bytes(), read_manifest(built)
    kept = {root / MANIFEST: b"", **{file: file.read_bytes() for file in beside if file.is_file()}}
    for place, data in kept.items():
        if not mirror.put(place, data, over="create"):
            raise OutputError(f"{place}: something else lies there, and is not replaced. Choose another address.")
    # all have ended when the lock is let go of
    with progress.track(f"sending to {root}", len(files), "files") as track, ThreadPoolExecutor(REQUESTS) as pool:
        for _ in pool.map(lambda name: mirror.put(root / name, (built / name).read_bytes()), files):
            track.advance()
    mirror.put(root / MANIFEST, manifest)


def fetch_records(mirror: Mirror, root: Path, plan: StorePlan) -> None:
    """Fetch the records of a store in a mirror anew, as far as they are there."""
    files = (record_path(root, shard) for shard in range(plan.n_shards))
    list(POOL.map(lambda file: mirror.get(file, limit=RECORD_LIMIT), files))


class MirroredView(ShardView):
    """Rows of a view of a store by address: of a shard's file the rows alone, or all of it, which is then kept."""

    def __init__(self, root: Path, plan: StorePlan, spec: ViewSpec, ids: Sequence[str], *, mirror: Mirror) -> None:
        super().__init__(root, plan, spec, ids)
        self._compared = ()  # with its digest a file is compared when it comes
        self._mirror = mirror
        self._expected: dict[int, Expected] = {}
        self._visited: dict[int, float] = {}  # share of each shard's rows that was read in pieces
        self._next, self._ahead = 0, 0  # the shard after the last, and how many after it are on their way

    def _gather(self, n_rows: int, parts: Sequence[Part]) -> NDArray[Any]:
        out: NDArray[Any] = np.empty((n_rows, self.shape[1]), dtype=self.dtype)
        few = {shard: rows for shard, _, rows in parts if not self._is_whole(shard, rows)}
        begun = {shard: POOL.submit(self._pieces, shard, rows) for shard, rows in few.items()}
        self._fetch_ahead([shard for shard, _, _ in parts if shard not in few])
        for shard, where, rows in parts:
            found = begun[shard].result() if shard in begun else None
            out[where] = self._shard(shard)[rows] if found is None else found
        return out

    def _is_whole(self, shard: int, rows: slice | NDArray[np.int64]) -> bool:
        self._expect(shard)
        n = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        self._visited[shard] = self._visited.get(shard, 0) + max(VISIT, n / self._plan.shard_rows)
        return self._visited[shard] >= WHOLE or chunk_path(self._root, self.name, shard).exists()

    def _expect(self, shard: int) -> Expected:
        """Return size and digest of a shard's file, from its record."""
        if shard not in self._expected:
            self._verify(shard)
            self._expected[shard] = (read_record(self._root, shard) or {})["views"][self.name]
        return self._expected[shard]

    def _shard(self, shard: int) -> NDArray[Any]:
        while True:
            self._mirror.fetch({chunk_path(self._root, self.name, shard): self._expect(shard)})
            with suppress(FileNotFoundError):  # the cache is small, and others needed the room
                return super()._shard(shard)

    def _fetch_ahead(self, whole: Sequence[int]) -> None:
        """Begin to fetch files, and ever more of those after them while all are read in their order."""
        if not whole:
            return
        follows = whole[0] in (self._next - 1, self._next)
        self._next, self._ahead = whole[-1] + 1, min(2 * REQUESTS, 4 * self._ahead or 4) if follows else 0
        for shard in (*whole, *range(self._next, min(self._next + self._ahead, self._plan.n_shards))):
            with suppress(ScstoreError):  # not extracted: an error to who reads it
                self._mirror.begin(chunk_path(self._root, self.name, shard), self._expect(shard))

    def _pieces(self, shard: int, rows: slice | NDArray[np.int64]) -> NDArray[Any] | None:
        """Return rows of a shard; ``None`` where they may not be what was written, and its file has to be compared."""
        width = self.shape[1] * self.dtype.itemsize
        wanted, places = np.unique(np.arange(self._plan.shard_rows)[rows], return_inverse=True)
        file = chunk_path(self._root, self.name, shard)
        found = self._mirror.rows(file, (wanted * width).tolist(), width)
        if found is None:
            return None
        block = np.stack([np.frombuffer(one, self.dtype) for one in found])
        return block[places] if np.isfinite(block).all() and block.any(axis=1).all() else None
