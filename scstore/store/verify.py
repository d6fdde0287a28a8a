"""Checking a store against what it says about itself: every file of it, and all that is wrong, not the first.

Every file is covered by a digest: what never changes by the manifest, a shard's chunks by its record, manifest and
records by their own digest and by being written in one way only. The digests find damage; they are no signatures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scstore import fsio
from scstore.errors import DamagedError, InputError, NotAStoreError
from scstore.progress import Reporter
from scstore.spec import fingerprint
from scstore.store.layout import LEDGER, MANIFEST, StorePlan, chunk_path, record_path
from scstore.store.ledger import ids_digest, read_manifest, read_record
from scstore.store.leftovers import leftovers_beside, leftovers_inside, remove_leftovers
from scstore.store.locks import Part, part_lock
from scstore.store.reader import Store

__all__ = ["Finding", "Verification", "rows_that_are_not_finite", "verify_store"]

MAX_THREADS = 8
"""Files that are read at once: SHA-256 runs outside Python's lock, so as many cores hash."""

BLOCK_ROWS = 4096

CACHED_BYTES = 1 << 18

EXPONENT: dict[str, tuple[np.dtype[Any], int]] = {
    "float16": (np.dtype("<u2"), 0x7C00),
    "float32": (np.dtype("<u4"), 0x7F800000),
}
"""By dtype: an integer of its size, and the bits of its exponent."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    file
        Relative to what was verified; empty where it is about the whole.
    problem
        ``missing``, ``damaged``, ``unexpected``, ``inconsistent`` or ``not finite``.
    message
        In words.
    shard
        The shard it belongs to: `extract` can redo it. ``None`` for what `extract` cannot mend.
    """

    file: str
    problem: str
    message: str
    shard: int | None = None


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes
    ----------
    path, kind
        What was verified: a ``store``, ``exported store``, ``head``, ``projector``, ``index``, ``gene table`` or
        ``panel``.
    deep
        Whether every byte was read.
    findings
        All that is wrong; empty where nothing is.
    notes
        What is worth knowing and not wrong: shards that are not extracted yet, leftovers of killed runs.
    n_files, n_bytes
        Whose digests were compared.
    removed
        Leftovers that were deleted.
    marked
        Damaged shards that count as not extracted from now on.
    """

    path: Path
    kind: str
    deep: bool
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    n_files: int = 0
    n_bytes: int = 0
    removed: tuple[str, ...] = ()
    marked: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def damaged_shards(self) -> tuple[int, ...]:
        """Shards that `extract` has to redo."""
        return tuple(sorted({finding.shard for finding in self.findings if finding.shard is not None}))

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "deep": self.deep,
            "ok": self.ok,
            "findings": [vars(finding) for finding in self.findings],
            "notes": list(self.notes),
            "n_files": self.n_files,
            "n_bytes": self.n_bytes,
            "removed": list(self.removed),
            "marked": list(self.marked),
        }


@dataclass
class _Check:
    """A verification under way."""

    root: Path
    deep: bool
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_files: int = 0
    n_bytes: int = 0

    def say(self, file: Path | str, problem: str, message: str, *, shard: int | None = None) -> None:
        name = file if isinstance(file, str) else file.relative_to(self.root).as_posix()
        self.findings.append(Finding(name, problem, message, shard))


def verify_store(
    path: str | os.PathLike[str],
    *,
    deep: bool = False,
    gc: bool = False,
    repair: bool = False,
    progress: Reporter | None = None,
) -> Verification:
    """Compare a store with its manifest and records.

    Parameters
    ----------
    path
        The store's folder.
    deep
        Read every byte; otherwise of the views and of the expression only the sizes are looked at.
    gc
        Delete what killed runs have left behind; nothing that a record or the manifest names.
    repair
        Let damaged shards count as not extracted, so that the next `extract` redoes just those.
    progress
        Told how far it is.

    Raises
    ------
    LockedError
        If ``gc`` or ``repair`` is asked for while somebody extracts into the store.
    """
    root = Path(path)
    if gc or repair:
        with part_lock(root, Part()):
            return _verify(root, deep=deep, gc=gc, repair=repair, progress=progress or Reporter())
    return _verify(root, deep=deep, gc=False, repair=False, progress=progress or Reporter())


def _verify(root: Path, *, deep: bool, gc: bool, repair: bool, progress: Reporter) -> Verification:
    check = _Check(root, deep)
    fixed = _check_fixed_files(check, progress)
    # what is damaged is not parsed: a length in it may be anything
    store = None if any(not _is_bulk(finding.file) for finding in check.findings) else _open(check)
    plan = None if store is None else store.plan
    if store is not None:
        _check_record(check, store)
    records = _check_shards(check, store, plan, progress)
    if store is not None and deep and not any(finding.file.startswith("X/") for finding in check.findings):
        _check_expression(check, store)
    damaged = sorted({finding.shard for finding in check.findings if finding.shard is not None})
    uncommitted = [shard for shard, record in records.items() if record is None]
    views = () if plan is None else tuple(view.name for view in plan.views)
    complete = plan is not None and not uncommitted and not damaged
    for name in _unexpected(root, fixed, plan, leftovers_inside(root, complete=True, views=(), uncommitted=())):
        check.say(name, "unexpected", "scstore did not write this file, and other readers may take it for data")
    if uncommitted:
        check.notes.append(
            f"{len(uncommitted):,} of {len(records):,} shards are not extracted yet: run the same `scstore extract`"
        )
    marked = _mark(root, damaged) if repair else ()
    inside = leftovers_inside(root, complete=complete, views=views, uncommitted=[*uncommitted, *marked])
    beside = leftovers_beside(root)
    removed = remove_leftovers(root, inside, beside) if gc else ()
    if (left := len(inside) + len(beside)) and not gc:
        check.notes.append(f"{left:,} leftovers of killed runs, which nobody reads: `scstore verify --gc` removes them")
    return Verification(
        path=root,
        kind="store",
        deep=deep,
        findings=tuple(sorted(check.findings, key=lambda finding: (finding.file, finding.message))),
        notes=tuple(check.notes),
        n_files=check.n_files,
        n_bytes=check.n_bytes,
        removed=removed,
        marked=marked,
    )


def _is_bulk(name: str) -> bool:
    """Whether only ``deep`` reads a file of the manifest: the chunks of the expression."""
    return name.startswith("X/") and not name.endswith("zarr.json")


def _check_fixed_files(check: _Check, progress: Reporter) -> set[str]:
    """Compare the files that never change with the manifest; gives their names."""
    try:
        files = read_manifest(check.root)
    except DamagedError as error:
        check.say(MANIFEST, "damaged", str(error))
        return {name for name in _files(check.root) if not name.startswith((f"{LEDGER}/", "obsm/"))}
    check.n_files += 1
    check.n_bytes += (check.root / MANIFEST).stat().st_size
    todo = [(name, expected, check.deep or not _is_bulk(name)) for name, expected in files.items()]
    with (
        progress.track("verifying files", len(todo), "files") as track,
        ThreadPoolExecutor(_threads(), "scstore-verify") as pool,
    ):
        results = pool.map(lambda item: _differs(check.root / item[0], item[1], hashed=item[2]), todo)
        for (name, expected, hashed), problem in zip(todo, results, strict=True):
            if problem is not None:
                check.say(name, *problem)
            check.n_files += hashed
            check.n_bytes += int(expected["bytes"]) if hashed else 0
            track.advance()
    return set(files)


def _differs(file: Path, expected: Mapping[str, Any], *, hashed: bool) -> tuple[str, str] | None:
    """How a file differs from what is known of it, as problem and message."""
    try:
        if (size := file.stat().st_size) != expected["bytes"]:
            return "damaged", f"{size:,} bytes where {expected['bytes']:,} were written"
        if hashed and fsio.digest_file(file) != expected["digest"]:
            return "damaged", "does not match its digest"
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "the file is missing"
    except OSError as error:
        return "damaged", f"cannot be read ({error.strerror})"
    return None


def _threads() -> int:
    return min(MAX_THREADS, os.cpu_count() or 1)


def _open(check: _Check) -> Store | None:
    try:
        store = Store(check.root)
        return store if store.plan is not None and store.obs is not None else None
    except Exception as error:  # whatever a library makes of a broken store is a finding
        if isinstance(error, InputError) and not isinstance(error, NotAStoreError):
            raise  # a newer format is no damage
        check.say("", "damaged", f"the store cannot be opened: {str(error).splitlines()[0]}")
        return None


def _check_record(check: _Check, store: Store) -> None:
    """The run's record against itself, and against the cells."""
    record = store.record or {}
    where = "uns/scstore/record"
    for name, view in record["views"].items():
        if fingerprint(view["space"]) != view["fingerprint"]:
            check.say(where, "inconsistent", f"{name}: its feature space does not have the fingerprint it states")
    ids = [str(name) for name in store.obs.index]
    if len(set(ids)) < len(ids):
        check.say("obs/_index", "inconsistent", "cell ids repeat")
    if "input" in record and record["input"]["ids"] != ids_digest(ids):
        check.say("obs/_index", "inconsistent", "the cells are not those of the run's record")


def _check_shards(
    check: _Check, store: Store | None, plan: StorePlan | None, progress: Reporter
) -> dict[int, dict[str, Any] | None]:
    """Compare the shards with their records; gives the records, by shard, ``None`` where there is none."""
    if plan is None or store is None:  # the shape is unknown: those that have a record
        shards = sorted(int(file.stem) for file in record_path(check.root, 0).parent.glob("[0-9]*.json"))
        ids: list[str] | None = None
    else:
        shards, ids = list(range(plan.n_shards)), [str(name) for name in store.obs.index]

    def one(shard: int) -> tuple[dict[str, Any] | None, list[Finding], int, int]:
        part = _Check(check.root, check.deep)
        record = _check_shard(part, shard, plan, ids)
        return record, part.findings, part.n_files, part.n_bytes

    records: dict[int, dict[str, Any] | None] = {}
    with (
        progress.track("verifying shards", len(shards), "shards") as track,
        ThreadPoolExecutor(_threads(), "scstore-verify") as pool,
    ):
        for shard, (record, findings, n_files, n_bytes) in zip(shards, pool.map(one, shards), strict=True):
            records[shard] = record
            check.findings += findings
            check.n_files += n_files
            check.n_bytes += n_bytes
            track.advance()
    return records


def _check_shard(check: _Check, shard: int, plan: StorePlan | None, ids: list[str] | None) -> dict[str, Any] | None:
    file = record_path(check.root, shard)
    try:
        record = read_record(check.root, shard)
        if record is None:
            return None
        size = file.stat().st_size
    except (DamagedError, OSError) as error:
        check.say(file, "damaged", str(error), shard=shard)
        return {}
    check.n_files += 1
    check.n_bytes += size
    if plan is not None and ids is not None and (wrong := _contradicts(record, shard, plan, ids)):
        check.say(file, "inconsistent", wrong, shard=shard)
        return record
    for name, expected in record["views"].items():
        chunk = chunk_path(check.root, name, shard)
        if (problem := _differs(chunk, expected, hashed=check.deep)) is not None:
            check.say(chunk, *problem, shard=shard)
        elif check.deep:
            check.n_files += 1
            check.n_bytes += int(expected["bytes"])
            if plan is not None and (row := _row_not_finite(chunk, name, shard, plan)) is not None:
                check.say(chunk, "not finite", f"cell {row:,} has NaN or infinity", shard=shard)
    return record


def _contradicts(record: Mapping[str, Any], shard: int, plan: StorePlan, ids: list[str]) -> str | None:
    """What in a shard's record does not go with the store's shape and cells."""
    start, stop = plan.bounds(shard)
    if (record["start"], record["stop"]) != (start, stop):
        return f"holds rows {record['start']:,} to {record['stop']:,} where the shard has {start:,} to {stop:,}"
    if record["ids"] != ids_digest(ids[start:stop]):
        return "is of other cells"
    if set(record["views"]) != {view.name for view in plan.views}:
        return f"holds the views {', '.join(sorted(record['views']))} where the store has others"
    for view in plan.views:
        size = plan.shard_rows * view.width * np.dtype(view.dtype).itemsize
        if record["views"][view.name]["bytes"] != size:
            return f"{view.name}: {record['views'][view.name]['bytes']:,} bytes where a shard of it has {size:,}"
    return None


def _row_not_finite(chunk: Path, view: str, shard: int, plan: StorePlan) -> int | None:
    spec = next(spec for spec in plan.views if spec.name == view)
    start, stop = plan.bounds(shard)
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    rows = np.memmap(chunk, mode="r", shape=(plan.shard_rows, spec.width), dtype=dtype)
    bits, exponent = EXPONENT[spec.dtype]
    step = max(1, CACHED_BYTES // (spec.width * dtype.itemsize))
    for first in range(0, stop - start, step):
        block = rows[first : min(first + step, stop - start)]
        # all ones in the exponent is NaN or infinity; several times as fast as isfinite on half precision
        if (block.view(bits) & exponent).max() == exponent:
            return start + first + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
    return None


def rows_that_are_not_finite(rows: Any) -> int:
    """Number of rows of a dense or CSR block with NaN or infinity."""
    if hasattr(rows, "indptr"):
        return len(np.unique(np.searchsorted(rows.indptr, np.flatnonzero(~np.isfinite(rows.data)), side="right")))
    return int((~np.isfinite(rows).all(axis=1)).sum())


def _check_expression(check: _Check, store: Store) -> None:
    """Finite values, and columns that are there."""
    if "X" not in store.views:
        return
    try:
        view = store.view("X")
        for start in range(0, view.shape[0], BLOCK_ROWS):
            rows = view[start : start + BLOCK_ROWS]
            if bad := rows_that_are_not_finite(rows):
                check.say("X", "not finite", f"{bad:,} of cells {start:,} to {start + rows.shape[0] - 1:,}")
            if rows.nnz and not 0 <= rows.indices.min() <= rows.indices.max() < view.shape[1]:
                check.say("X", "inconsistent", f"cells {start:,} …: a column outside the {view.shape[1]:,} genes")
    except DamagedError as error:
        check.say("X", "damaged", str(error))


def _files(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield (Path(folder) / name).relative_to(root).as_posix()


def _unexpected(root: Path, fixed: set[str], plan: StorePlan | None, leftovers: list[str]) -> list[str]:
    """Files that are neither the store's nor a leftover. Where its shape is unknown, any chunk may be one of it."""
    known = {*fixed, MANIFEST}
    if plan is not None:
        for shard in range(plan.n_shards):
            files = [record_path(root, shard), *(chunk_path(root, view.name, shard) for view in plan.views)]
            known |= {file.relative_to(root).as_posix() for file in files}
    ours = tuple(leftovers) + (() if plan is not None else (f"{LEDGER}/shards/", "obsm/"))
    return sorted(name for name in _files(root) if name not in known and not name.startswith(ours))


def _mark(root: Path, shards: list[int]) -> tuple[int, ...]:
    """Delete the records of shards, so that they count as not extracted."""
    for shard in shards:
        fsio.disk.delete(record_path(root, shard))
    if shards:
        fsio.fsync_dir(record_path(root, 0).parent)
    return tuple(shards)
