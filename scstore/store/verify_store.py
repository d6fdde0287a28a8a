"""Checking a store against its own digests: every file of it, and all that is wrong, not the first."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scstore import fsio
from scstore.errors import DamagedError, InputError, NotAStoreError, UnreadableError
from scstore.progress import Reporter
from scstore.sealed import fingerprint
from scstore.store import ledger
from scstore.store.layout import LEDGER, MANIFEST, SCRATCH_EXPRESSION, StorePlan, chunk_path, file_beside, record_path
from scstore.store.reader import Store

# Files that are read at once: SHA-256 runs outside Python's lock, so as many cores hash.
MAX_THREADS = 8

# How zarr-python ends the names of files that it has not finished.
ZARR_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")

# Endings of the files that `extract` writes beside a store, after its name without ``.zarr``.
MADE_BESIDE = (".genes.h5ad", ".panel.h5ad")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a file, named relative to what was verified, or (empty) with the whole.

    ``problem`` is ``missing``, ``damaged``, ``unexpected``, ``inconsistent``, ``not finite`` (of files without a digest
    of their bytes), or ``unreadable`` where the system refused to read the file, which may be whole. ``shard`` is the
    one it belongs to, which `extract` can redo; ``None`` for what `extract` cannot mend.
    """

    file: str
    problem: str
    message: str
    shard: int | None = None


def finding_of(error: Exception, name: str) -> Finding:
    """Return what an error says about a file: damage, or no more than that it could not be read."""
    try:
        fsio.check_read(error, "it")
    except UnreadableError as failed:
        return Finding(name, "unreadable", str(failed))
    return Finding(name, "damaged", str(error).splitlines()[0] if str(error) else type(error).__name__)


@dataclass(frozen=True)
class Verification:
    """Result of a verification."""

    path: Path
    kind: str  # a store, exported store, head, projector, gene table or panel
    deep: bool  # whether every byte was read
    findings: tuple[Finding, ...] = ()  # all that is wrong
    notes: tuple[str, ...] = ()  # not wrong: shards that are not extracted yet, leftovers of killed runs
    n_files: int = 0  # that were compared with digests
    n_bytes: int = 0
    removed: tuple[str, ...] = ()  # leftovers that were deleted
    marked: tuple[int, ...] = ()  # damaged shards that count as not extracted from now on

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def damaged(self) -> bool:
        """Whether anything is wrong beside files that could not be read."""
        return any(finding.problem != "unreadable" for finding in self.findings)

    @property
    def damaged_shards(self) -> tuple[int, ...]:
        """Shards that `extract` has to redo."""
        return tuple(sorted({finding.shard for finding in self.findings if finding.shard is not None}))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "ok": self.ok}


@dataclass
class _Tally:
    findings: list[Finding] = field(default_factory=list)
    n_files: int = 0
    n_bytes: int = 0

    def add(self, other: _Tally) -> None:
        self.findings += other.findings
        self.n_files += other.n_files
        self.n_bytes += other.n_bytes


def _compare(root: Path, name: str, expected: Mapping[str, Any], *, hashed: bool, shard: int | None = None) -> _Tally:
    try:
        problem = ledger.file_problem(root / name, expected, hashed=hashed)
    except OSError as error:
        return _Tally([finding_of(error, name)])
    findings = [] if problem is None else [Finding(name, *problem, shard)]
    return _Tally(findings, int(hashed), int(expected["bytes"]) if hashed else 0)


def verify_store(
    root: Path, *, deep: bool = False, gc: bool = False, repair: bool = False, progress: Reporter | None = None
) -> Verification:
    """Compare a store with its manifest and records; the options are those of :func:`scstore.verify`."""
    with ledger.part_lock(root, ledger.Part()) if gc or repair else nullcontext():
        return _verify(root, deep=deep, gc=gc, repair=repair, progress=progress or Reporter())


def _verify(root: Path, *, deep: bool, gc: bool, repair: bool, progress: Reporter) -> Verification:
    tally = _Tally()
    fixed = _check_fixed_files(root, tally, deep=deep, progress=progress)
    # damaged metadata is not parsed: a length in it may be anything
    store = None if any(not _is_bulk(finding.file) for finding in tally.findings) else _open(root, tally)
    plan = None if store is None else store.plan
    ids = None if store is None else [str(name) for name in store.obs.index]
    if store is not None and ids is not None:
        tally.findings += record_findings(store.record or {}, ids)
    uncommitted, n_shards = _check_shards(root, tally, plan, ids, deep=deep, progress=progress)
    damaged = sorted({finding.shard for finding in tally.findings if finding.shard is not None})
    complete = plan is not None and not uncommitted and not damaged
    message = "scstore did not write this file, and other readers may take it for data"
    tally.findings += [Finding(name, "unexpected", message) for name in _unexpected(root, fixed, plan)]
    notes = []
    if uncommitted:
        n = len(uncommitted)
        notes.append(f"{n:,} of {n_shards:,} shards are not extracted yet: run the same `scstore extract`")
    if repair:  # without its record a shard counts as not extracted
        for shard in damaged:
            fsio.disk.delete(record_path(root, shard))
        if damaged:
            fsio.fsync_dir(record_path(root, 0).parent)
    without_record = [*uncommitted, *(damaged if repair else ())]
    views = () if plan is None else tuple(view.name for view in plan.views)
    left = _leftovers(root, complete=complete, views=views, uncommitted=without_record)
    if gc:
        _remove(root, left)
    elif left:
        notes.append(f"{len(left):,} leftovers of killed runs, which are never read: gc=True removes them")
    findings = tuple(sorted(tally.findings, key=lambda finding: (finding.file, finding.message)))
    removed, marked = tuple(left) if gc else (), tuple(damaged) if repair else ()
    return Verification(root, "store", deep, findings, tuple(notes), tally.n_files, tally.n_bytes, removed, marked)


def _is_bulk(name: str) -> bool:
    """Return whether only ``deep`` reads a fixed file: a chunk of the expression."""
    return name.startswith("X/") and not name.endswith("zarr.json")


def _in_threads(check: Callable[[T], R], items: Collection[T], what: str, progress: Reporter) -> Iterator[R]:
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with progress.track(f"verifying {what}", len(items), what) as track, ThreadPoolExecutor(threads) as pool:
        for result in pool.map(check, items):
            yield result
            track.advance()


def _check_fixed_files(root: Path, tally: _Tally, *, deep: bool, progress: Reporter) -> set[str]:
    """Compare the files that never change with the manifest; return their names."""
    try:
        files = ledger.read_manifest(root)
    except (DamagedError, OSError) as error:
        tally.findings.append(finding_of(error, MANIFEST))
        return {name for name in fsio.files_below(root) if not name.startswith((f"{LEDGER}/", "obsm/"))}

    def compare(name: str) -> _Tally:
        return _compare(root, name, files[name], hashed=deep or not _is_bulk(name))

    tally.add(_Tally(n_files=1, n_bytes=(root / MANIFEST).stat().st_size))
    for own in _in_threads(compare, files, "files", progress):
        tally.add(own)
    return set(files)


def _open(root: Path, tally: _Tally) -> Store | None:
    try:
        store = Store(root)
        return store if store.plan is not None and store.obs is not None else None
    except Exception as error:  # any error of a library on a broken store is a finding
        if isinstance(error, InputError) and not isinstance(error, NotAStoreError):
            raise  # a newer format is not damage
        tally.findings.append(finding_of(error, ""))
        return None


def record_findings(record: Mapping[str, Any], ids: list[str] | None = None) -> Iterator[Finding]:
    """Compare the run's record with itself and, unless a file may hold some of them only, with the cells."""
    for name, view in record["views"].items():
        if fingerprint(view["space"]) != view["fingerprint"]:
            yield Finding("uns/scstore/record", "inconsistent", f"{name}: its feature space has another fingerprint")
    if ids is None:
        return
    if len(set(ids)) < len(ids):
        yield Finding("obs/_index", "inconsistent", "cell ids repeat")
    if "input" in record and record["input"]["ids"] != ledger.ids_digest(ids):
        yield Finding("obs/_index", "inconsistent", "the cells are not those of the run's record")


def _check_shards(
    root: Path, tally: _Tally, plan: StorePlan | None, ids: list[str] | None, *, deep: bool, progress: Reporter
) -> tuple[list[int], int]:
    """Compare the shards with their records; return those without a record, and the number of shards."""
    if plan is None:  # the shape is unknown: those that have a record
        shards = sorted(int(file.stem) for file in record_path(root, 0).parent.glob("[0-9]*.json"))
    else:
        shards = list(range(plan.n_shards))

    def check(shard: int) -> _Tally | None:
        return _check_shard(root, shard, plan, ids, deep=deep)

    uncommitted = []
    for shard, own in zip(shards, _in_threads(check, shards, "shards", progress), strict=True):
        if own is None:
            uncommitted.append(shard)
        else:
            tally.add(own)
    return uncommitted, len(shards)


def _check_shard(root: Path, shard: int, plan: StorePlan | None, ids: list[str] | None, *, deep: bool) -> _Tally | None:
    """Compare a shard with its record, and that with the store's shape and cells; ``None`` without a record."""
    file = record_path(root, shard)
    name = file.relative_to(root).as_posix()
    try:
        record = ledger.read_record(root, shard)
        if record is None:
            return None
        own = _Tally(n_files=1, n_bytes=file.stat().st_size)
    except DamagedError as error:
        return _Tally([Finding(name, "damaged", str(error), shard)])
    except OSError as error:
        return _Tally([finding_of(error, name)])
    if plan is not None and ids is not None:
        start, stop = plan.bounds(shard)
        if fields := ledger.foreign_fields(record, plan, shard, ids[start:stop]):
            message = f"belongs to another store or run (other {', '.join(fields)})"
            own.findings.append(Finding(name, "inconsistent", message, shard))
            return own
    for view, expected in record["views"].items():
        chunk = chunk_path(root, view, shard).relative_to(root).as_posix()
        own.add(_compare(root, chunk, expected, hashed=deep, shard=shard))
    return own


def rows_that_are_not_finite(rows: Any) -> int:
    """Return the number of rows of a dense or CSR block with NaN or infinity."""
    if hasattr(rows, "indptr"):
        return len(np.unique(np.searchsorted(rows.indptr, np.flatnonzero(~np.isfinite(rows.data)), side="right")))
    return int((~np.isfinite(rows).all(axis=1)).sum())


def _unexpected(root: Path, fixed: set[str], plan: StorePlan | None) -> list[str]:
    """Return files that are neither the store's nor a leftover. Without its shape, any chunk may belong to it."""
    known = {*fixed, MANIFEST}
    if plan is not None:
        for shard in range(plan.n_shards):
            files = [record_path(root, shard), *(chunk_path(root, view.name, shard) for view in plan.views)]
            known |= {file.relative_to(root).as_posix() for file in files}
    left = _leftovers_inside(root, complete=True, views=(), uncommitted=[])
    ours = (*left, *(() if plan is not None else (f"{LEDGER}/shards/", "obsm/")))
    return sorted(name for name in fsio.files_below(root) if name not in known and not name.startswith(ours))


def _leftovers(root: Path, *, complete: bool, views: Iterable[str], uncommitted: list[int]) -> list[str]:
    """Return names of what killed runs left in a store and, with ``../``, beside it, its creation lock included."""
    inside = _leftovers_inside(root, complete=complete, views=views, uncommitted=uncommitted)
    made = [root.name, *(file_beside(root, ending).name for ending in MADE_BESIDE)]
    starts = tuple(f".{name}{fsio.PARTIAL}" for name in made)
    locks = (ledger.creation_lock(root).name, *(fsio.writing_lock(root.with_name(name)).name for name in made))
    beside = [file.name for file in root.parent.iterdir() if file.name.startswith(starts) or file.name in locks]
    return [*inside, *(f"../{name}" for name in sorted(beside))]


def _leftovers_inside(root: Path, *, complete: bool, views: Iterable[str], uncommitted: list[int]) -> list[str]:
    """Return names of what nothing refers to: temporary files, chunks without a record, expression of an ended run."""
    found = []
    for folder, folders, names in os.walk(root):
        found += [Path(folder) / name for name in [*names, *folders] if fsio.PARTIAL in name or name.endswith(".lock")]
        found += [Path(folder) / name for name in names if ZARR_PARTIAL.search(name)]
        folders[:] = [name for name in folders if fsio.PARTIAL not in name]
    if complete:
        found.append(root / SCRATCH_EXPRESSION)
    found += [chunk_path(root, view, shard) for view in views for shard in uncommitted]
    return sorted({file.relative_to(root).as_posix() for file in found if file.exists()})


def _remove(root: Path, leftovers: list[str]) -> None:
    """Delete leftovers, and the folders of chunks that are empty then. The caller holds the store's lock."""
    for name in leftovers:
        fsio.disk.delete(root / name)
        parent = (root / name).parent
        if not name.startswith((LEDGER, "../")) and not any(parent.iterdir()):
            parent.rmdir()
