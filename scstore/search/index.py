"""Approximate indexes of large references, kept in the user's cache folder and built again whenever in doubt."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from scstore import fsio
from scstore.errors import ScstoreError
from scstore.heads.neighbour_search import (
    FETCH,
    RECALL,
    ApproximateIndex,
    MeasuredRecall,
    build_index,
    centre_of,
    cosine_distances_to,
    unit_rows,
    unit_view,
)
from scstore.heads.rows import BLOCK_BYTES, Rows, RowSubset, fetch, iter_blocks, iter_raw_blocks, read
from scstore.progress import Reporter
from scstore.sealed import canonical_json
from scstore.store.ledger import read_record
from scstore.store.reader import Store
from scstore.store.views import View

FORMAT = "2.2"
REFINE_BYTES = 4 * BLOCK_BYTES  # float32 of the reference rows that are read at a time for exact distances


@dataclass(frozen=True, eq=False)
class CosineIndex:
    """An approximate index of reference rows ``(n, d)``, centred on ``mean`` ``(d,)`` and of length 1."""

    mean: NDArray[np.float32]
    rows: ApproximateIndex

    def nearest(
        self, reference: Rows, queries: Rows, *, k: int, chosen: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return exact cosine distances, ascending, and numbers of ``chosen`` rows near each query, ``(m, k)`` each."""
        m, n_chosen = queries.shape[0], int(chosen.sum())
        distances, indices = np.empty((m, k), dtype=np.float32), np.empty((m, k), dtype=np.int64)
        found_each = min(FETCH * k, n_chosen)
        probes = int(np.ceil(self.rows.measured.probes * len(chosen) / n_chosen))
        allowed = None if n_chosen == len(chosen) else chosen
        for start, block in iter_blocks(queries, block_bytes=min(BLOCK_BYTES, max(1, REFINE_BYTES // found_each))):
            part = slice(start, start + len(block))
            units = unit_rows(block, self.mean)
            found = self.rows.search(self.rows.project(units), k=found_each, probes=probes, chosen=allowed)
            distinct, where = np.unique(found, return_inverse=True)
            exact = cosine_distances_to(fetch(reference, distinct), where.reshape(found.shape), units, self.mean)
            if not np.isfinite(exact).all():
                read(reference, distinct)  # raises and names the row that is not finite
            order = np.argsort(exact, axis=1, kind="stable")[:, :k]
            distances[part] = np.take_along_axis(exact, order, axis=1)
            indices[part] = np.take_along_axis(found, order, axis=1)
        return np.clip(distances, 0, 2), indices

    def to_bytes(self) -> bytes:
        """Return the index as bytes for :meth:`from_bytes`."""
        import faiss

        index, measured = faiss.serialize_index(self.rows.faiss_index), np.array(astuple(self.rows.measured))
        return save({"mean": self.mean, "components": self.rows.components, "index": index, "measured": measured})

    @classmethod
    def from_bytes(cls, raw: bytes) -> CosineIndex:
        """Return the index; only for bytes that this module wrote, since FAISS trusts what it reads."""
        import faiss

        parts = load(raw)
        probes, recall, k, n_queries = parts["measured"].tolist()
        measured = MeasuredRecall(int(probes), recall, int(k), int(n_queries))
        rows = ApproximateIndex(parts["components"], faiss.deserialize_index(parts["index"]), measured)
        return cls(parts["mean"], rows)


def build_cosine_index(reference: Rows) -> CosineIndex:
    """Build the index of reference rows ``(n, d)``, in three passes over them."""
    mean = centre_of(reference)
    return CosineIndex(mean, build_index(unit_view(reference, mean), refined=True))


def cached_index(store: Store, matrix: View, rows: NDArray[np.int64], *, progress: Reporter) -> CosineIndex:
    """Return the index of some rows of a view, kept in the cache if its file is in order, else built and kept."""
    file = fsio.cache_folder() / "indexes" / f"{_key(store, matrix, rows)}.index"
    index = _read(file)
    if index is None:
        progress.note(f"building an index of {len(rows):,} cells of {matrix.name}, once; later queries reuse it")
        index = build_cosine_index(RowSubset(matrix, rows))
        _keep(index, file, progress)
    measured = index.rows.measured
    progress.note(
        f"approximate search: recall at {measured.k} is {measured.recall:.3f} on {measured.n_queries} held-out cells; "
        "exact=True compares all cells"
    )
    if measured.recall < RECALL:
        progress.warn(f"{store.path}: a recall below {RECALL}. Pass exact=True where each neighbour matters.")
    return index


def _read(file: Path) -> CosineIndex | None:
    """Return a kept index whose digest matches, if the file belongs to this user."""
    try:
        if not fsio.is_own(file):
            return None
        digest, _, raw = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    return CosineIndex.from_bytes(raw) if digest.decode("latin-1") == fsio.digest_bytes(raw) else None


def _keep(index: CosineIndex, file: Path, progress: Reporter) -> None:
    raw = index.to_bytes()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with fsio.atomic_path(file) as partial, partial.open("xb") as written:
            for part in (fsio.digest_bytes(raw).encode() + b"\n", raw):
                fsio.disk.write(written, part)
    except (OSError, ScstoreError) as error:
        progress.warn(f"{file.parent}: the index cannot be kept there ({error}). The next query builds it again.")


def _key(store: Store, matrix: View, rows: NDArray[np.int64]) -> str:
    """Return a digest of everything that an index is made of."""
    import faiss

    made_of: dict[str, Any] = {
        "format": FORMAT,
        "faiss": faiss.__version__,
        "recall": RECALL,
        "view": matrix.name,
        "fingerprint": matrix.fingerprint,
        "rows": fsio.digest_bytes(np.ascontiguousarray(rows, dtype="<i8").data),
        "values": _values_digest(store, matrix),
    }
    return fsio.digest_bytes(canonical_json(made_of).encode()).removeprefix("sha256:")


def _values_digest(store: Store, matrix: View) -> Any:
    """Return the digests of a store's shards as recorded, or that of all rows of another AnnData."""
    if store.plan is not None:
        records = (read_record(store.path, shard) for shard in range(store.plan.n_shards))
        return [None if record is None else record["views"][matrix.name]["digest"] for record in records]
    digest = hashlib.sha256(str((matrix.shape, matrix.dtype)).encode())
    for _, block in iter_raw_blocks(matrix):
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()
