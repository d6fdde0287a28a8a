"""Records of the shards: a shard counts once its record is on disk, and only while its bytes match it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scstore import fsio
from scstore.errors import DamagedError
from scstore.spec import canonical_json, seal, unseal
from scstore.stores.layout import StorePlan, chunk_path, record_path

__all__ = ["check_shard", "committed_shards", "ids_digest", "read_record", "write_record"]


def ids_digest(ids: Sequence[str]) -> str:
    """SHA-256 of cell ids in their order."""
    return fsio.digest_bytes(canonical_json(list(ids)).encode())


def write_record(root: Path, shard: int, *, start: int, stop: int, ids: str, views: dict[str, dict[str, Any]]) -> None:
    """Commit a shard whose files are all on disk.

    Parameters
    ----------
    root
        The store.
    shard, start, stop
        Its number and rows.
    ids
        Digest of its cells' ids.
    views
        ``{"bytes": size, "digest": sha256}`` of the file of each view.
    """
    record = {"shard": shard, "start": start, "stop": stop, "ids": ids, "views": views}
    fsio.write_json(record_path(root, shard), seal(record))


def read_record(root: Path, shard: int) -> dict[str, Any] | None:
    """A shard's record, or ``None`` when it is not committed.

    Raises
    ------
    DamagedError
        If the record does not match its own digest.
    """
    file = record_path(root, shard)
    try:
        record = fsio.read_json(file, limit=1 << 20)
    except FileNotFoundError:
        return None
    body = unseal(record)
    if body is None or body.get("shard") != shard:
        msg = (
            f"{file}: the record does not match its own digest. Run the same `scstore extract` again to redo this "
            "shard."
        )
        raise DamagedError(msg)
    return body


def committed_shards(root: Path, plan: StorePlan) -> list[bool]:
    """Which shards have a record, by number; the bytes are not looked at."""
    return [record_path(root, shard).exists() for shard in range(plan.n_shards)]


def check_shard(root: Path, shard: int, *, ids: str | None = None) -> str | None:
    """Why a shard must be extracted again, or ``None`` when it is committed and every byte matches.

    Parameters
    ----------
    root
        The store.
    shard
        Its number.
    ids
        Digest of the ids its cells should have, to be compared with the record's.
    """
    try:
        record = read_record(root, shard)
    except DamagedError as error:
        return str(error)
    if record is None:
        return "not extracted yet"
    if ids is not None and record["ids"] != ids:
        return "its record is of other cells"
    for view, expected in record["views"].items():
        file = chunk_path(root, view, shard)
        if not file.exists():
            return f"{file} is missing"
        if file.stat().st_size != expected["bytes"] or fsio.digest_file(file) != expected["digest"]:
            return f"{file} does not match its digest"
    return None
