"""Where things are in a store. The specification in words is ``stores/README.md``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scstore.sealed import FORMAT
from scstore.spec import Space, fingerprint

__all__ = [
    "FORMAT",
    "LEDGER",
    "MANIFEST",
    "SCRATCH_EXPRESSION",
    "SEEN_BY_PANEL",
    "SEEN_BY_PROJECTOR",
    "STATUS",
    "STATUS_EMPTY",
    "STATUS_OK",
    "StorePlan",
    "ViewSpec",
    "chunk_path",
    "default_shard_rows",
    "is_inside",
    "lock_path",
    "record_path",
]

LEDGER = "_scstore"
"""Folder of scstore's own JSON beside the Zarr nodes."""

MANIFEST = f"{LEDGER}/manifest.json"
SCRATCH_EXPRESSION = f"{LEDGER}/expression"
"""Where the cells' expression waits until the run ends, when the user does not want it kept as ``X``."""

STATUS = "scstore_status"
STATUS_OK = "ok"
STATUS_EMPTY = "empty"
"""In ``obs``: a cell without any expressed gene of the table (and panel); its rows are zeros."""

SEEN_BY_PANEL = "scstore_seen_by_panel"
SEEN_BY_PROJECTOR = "scstore_seen_by_projector"
"""Columns of ``obs``, bool, there only where a panel fitted on labels or a trained projector was used: whether it saw
this cell's label. `evaluate` does not score such cells unasked."""

SHARD_BYTES = 16 * 2**20
MAX_SHARD_ROWS = 4096


@dataclass(frozen=True)
class ViewSpec:
    """One feature matrix of a store.

    Attributes
    ----------
    name
        Its key in ``obsm``.
    width
        Number of columns.
    dtype
        ``float16`` or ``float32``.
    space
        The feature space its rows live in.
    """

    name: str
    width: int
    dtype: str
    space: Space

    def as_json(self) -> dict[str, Any]:
        """The view's part of the run's record."""
        return {
            "width": self.width,
            "dtype": self.dtype,
            "space": dict(self.space),
            "fingerprint": fingerprint(self.space),
        }


@dataclass(frozen=True)
class StorePlan:
    """The fixed shape of a store.

    Attributes
    ----------
    n_obs
        Number of cells.
    shard_rows
        Rows of a shard: one chunk of every view, the unit of commit.
    views
        The feature matrices.
    """

    n_obs: int
    shard_rows: int
    views: tuple[ViewSpec, ...]

    @property
    def n_shards(self) -> int:
        """Number of shards; the last may hold fewer rows."""
        return -(-self.n_obs // self.shard_rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """First row of a shard and the row after its last."""
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, self.n_obs)

    def shards(self) -> Iterator[tuple[int, int, int]]:
        """``(shard, start, stop)`` for every shard."""
        for shard in range(self.n_shards):
            yield shard, *self.bounds(shard)


def default_shard_rows(n_obs: int, views: list[tuple[int, str]]) -> int:
    """Rows that make the largest view's chunk about 16 MB, and at most 4,096 so that a kill never loses more.

    Parameters
    ----------
    n_obs
        Number of cells; a store is never made larger than one whole shard for fewer.
    views
        ``(width, dtype)`` of each.
    """
    row_bytes = max(width * np.dtype(dtype).itemsize for width, dtype in views)
    return max(1, min(MAX_SHARD_ROWS, SHARD_BYTES // row_bytes, n_obs))


def is_inside(name: object) -> bool:
    """Whether a name that stands in a file is of something below the store, so that no path leaves its root."""
    if not isinstance(name, str) or "\\" in name or "\0" in name or name[1:2] == ":":  # a drive of Windows
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def chunk_path(root: Path, view: str, shard: int) -> Path:
    """The file that holds a shard's rows of a view: raw little-endian, C order."""
    return root / "obsm" / view / "c" / str(shard) / "0"


def record_path(root: Path, shard: int) -> Path:
    """The record that makes a shard count."""
    return root / LEDGER / "shards" / f"{shard:06d}.json"


def lock_path(root: Path) -> Path:
    """The lock of whoever extracts into a store; beside it, since the store may not exist yet."""
    return root.with_name(root.name + ".lock")
