"""What a store says about its own files: the manifest of what never changes, and a record of every shard.

A shard counts once its record is on disk, and only while its bytes match it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scstore import fsio
from scstore.errors import DamagedError
from scstore.sealed import read_sealed_json
from scstore.spec import canonical_json, seal
from scstore.store.layout import FORMAT, MANIFEST, StorePlan, chunk_path, is_inside, record_path

__all__ = [
    "check_fixed_files",
    "check_shard",
    "committed_shards",
    "ids_digest",
    "read_manifest",
    "read_record",
    "write_manifest",
    "write_record",
]

MANIFEST_LIMIT = 1 << 28
RECORD_LIMIT = 1 << 20
"""Bytes of a shard's record; a view takes about 150."""

CURE = "Restore the store from a copy."
REDO = "Run the same `scstore extract` again to redo this shard."


def write_manifest(root: Path, names: Iterable[str]) -> None:
    """Write size and digest of files that never change again.

    Parameters
    ----------
    root
        The store.
    names
        The files, relative to it.
    """
    files = {
        name: {"bytes": (root / name).stat().st_size, "digest": fsio.digest_file(root / name)} for name in sorted(names)
    }
    fsio.write_json(root / MANIFEST, seal({"format": FORMAT, "files": files}))


def _are_files(value: object) -> bool:
    """Whether a value has the form of sizes and digests, by names that stay inside the store."""
    return isinstance(value, dict) and all(
        is_inside(name)
        and isinstance(file, dict)
        and _is_count(file.get("bytes"))
        and isinstance(file.get("digest"), str)
        for name, file in value.items()
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_manifest(root: Path) -> dict[str, dict[str, Any]]:
    """``{"bytes": size, "digest": sha256}`` of every file that never changes, by its name in the store.

    Raises
    ------
    DamagedError
        If the manifest is missing, or is not byte for byte as it was written.
    """
    file = root / MANIFEST
    try:
        body = read_sealed_json(file, limit=MANIFEST_LIMIT, cure=CURE)
    except FileNotFoundError:
        msg = f"{file} is missing, so the store's files cannot be checked. {CURE}"
        raise DamagedError(msg) from None
    if not _are_files(body.get("files")):
        msg = f"{file} does not list files of the store. {CURE}"
        raise DamagedError(msg)
    files: dict[str, dict[str, Any]] = body["files"]
    return files


def check_fixed_files(root: Path, folder: str) -> None:
    """Compare the files of a folder that never change with the manifest, before they are decoded.

    Parameters
    ----------
    root
        The store.
    folder
        Its name in it, such as ``obs``.

    Raises
    ------
    DamagedError
        If a file is missing or another, or the manifest is damaged.
    """
    for name, expected in read_manifest(root).items():
        if name.startswith(f"{folder}/"):
            file = root / name
            there = file.is_file()
            if not there or file.stat().st_size != expected["bytes"] or fsio.digest_file(file) != expected["digest"]:
                what = "does not match its digest" if there else "is missing"
                msg = f"{file} {what}. Restore the store from a copy; `scstore verify {root}` lists all that is wrong."
                raise DamagedError(msg)


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
        if not file.stat().st_size:  # a file system that lost the bytes in a power cut, not the name
            return None
        body = read_sealed_json(file, limit=RECORD_LIMIT, cure=REDO, has_format=False)
    except FileNotFoundError:
        return None
    views = body.get("views")
    if (
        body.get("shard") != shard
        or not isinstance(views, dict)
        or not all("/" not in view and is_inside(view) for view in views)
    ):
        msg = f"{file} is not the record of this shard. {REDO}"
        raise DamagedError(msg)
    return body


def committed_shards(root: Path, plan: StorePlan) -> list[bool]:
    """Which shards have a record that is not empty, by number; the bytes are not looked at."""
    return [_has_bytes(record_path(root, shard)) for shard in range(plan.n_shards)]


def _has_bytes(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


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
