"""Where things are in a store, what it may hold, how it is opened. ``stores/README.md`` specifies it in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from scstore.errors import DamagedError
from scstore.sealed import Space, fingerprint
from scstore.untrusted.guards import reading

# Folder of scstore's own JSON beside the Zarr nodes.
LEDGER = "_scstore"

MANIFEST = f"{LEDGER}/manifest.json"

# Begins the names of all ``obs`` columns that scstore writes.
PREFIX = "scstore_"

STATUS = "scstore_status"
STATUS_OK = "ok"
# In ``obs``: a cell without any expressed gene of the table (and panel); its rows are zeros.
STATUS_EMPTY = "empty"

SEEN_BY_PANEL = "scstore_seen_by_panel"
# Boolean columns of ``obs``, present only where a panel fitted on labels or a trained projector was used: whether it
# saw this cell's label. `evaluate` does not score such cells unless asked.
SEEN_BY_PROJECTOR = "scstore_seen_by_projector"

# What a stopped run may lose.
SHARD_SECONDS = 60
SHARD_BYTES = 16 * 2**20
MAX_SHARD_ROWS = 4096

STORED_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class ViewSpec:
    """One feature matrix of a store: its key in ``obsm``, width, dtype (``float16`` or ``float32``), feature space."""

    name: str
    width: int
    dtype: str
    space: Space

    def as_json(self) -> dict[str, Any]:
        space = {"space": dict(self.space), "fingerprint": fingerprint(self.space)}
        return {"width": self.width, "dtype": self.dtype, **space}


@dataclass(frozen=True)
class StorePlan:
    """The fixed shape of a store; ``run`` is the digest of its run's record, which every shard's record repeats."""

    n_obs: int
    shard_rows: int
    views: tuple[ViewSpec, ...]
    run: str = ""

    @property
    def n_shards(self) -> int:
        """Number of shards; the last may hold fewer rows."""
        return -(-self.n_obs // self.shard_rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return a shard's first row and the row after its last."""
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, self.n_obs)

    def shards(self) -> Iterator[tuple[int, int, int]]:
        yield from ((shard, *self.bounds(shard)) for shard in range(self.n_shards))


def default_shard_rows(n_obs: int, views: Iterable[ViewSpec], *, rate: float = inf) -> int:
    """Return the rows of about a minute at a rate (cells/s): a power of two up to 16 MB and 4,096 rows, or all."""
    row_bytes = max(view.width * np.dtype(view.dtype).itemsize for view in views)
    most = int(max(1, min(MAX_SHARD_ROWS, SHARD_BYTES // row_bytes, SHARD_SECONDS * rate)))
    return min(n_obs, 1 << most.bit_length() - 1)


def view_specs(record: Mapping[str, Any]) -> dict[str, ViewSpec]:
    """Return the views that a run's record describes, by name; ``ValueError`` if one leads out or has no shape."""
    views = record["views"].items()
    specs = {name: ViewSpec(name, int(one["width"]), str(one["dtype"]), one["space"]) for name, one in views}
    if any("/" in name or not is_inside(name) for name in specs):
        raise ValueError("the name of a view leads out of the store")
    if int(record["shard_rows"]) < 1 or any(s.width < 1 or s.dtype not in STORED_DTYPES for s in specs.values()):
        raise ValueError("a shard has no rows, or a view has no width or an unknown dtype")
    return specs


def is_inside(name: object) -> bool:
    """Return whether a name from a file stays below the store, so that no path leaves its root."""
    if not isinstance(name, str) or "\\" in name or "\0" in name or name[1:2] == ":":  # a drive of Windows
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def chunk_path(root: Path, view: str, shard: int) -> Path:
    """Return the file of a shard's rows of a view: raw little-endian, C order."""
    return root / "obsm" / view / "c" / str(shard) / "0"


def file_beside(root: Path, ending: str) -> Path:
    """Return the file that is made for a store and lies beside it: ``ref.zarr`` has ``ref.genes.h5ad``."""
    return root.with_name(root.name.removesuffix(".zarr") + ending)


def record_path(root: Path, shard: int) -> Path:
    """Return the file of the record that commits a shard."""
    return root / LEDGER / "shards" / f"{shard:06d}.json"


def decoding(source: object, name: str) -> AbstractContextManager[None]:
    """Turn any error of a library that decodes a part of ``source`` into :class:`DamagedError`."""
    return reading(source, name, error=DamagedError, cure=f"It is damaged: `scstore verify {source}` says where.")
