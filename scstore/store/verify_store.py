"""Checking a store against its own digests: every file of it, and all that is wrong, not the first."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scstore import fsio
from scstore.errors import DamagedError, InputError, NotAStoreError, UnreadableError
from scstore.progress import Reporter
from scstore.sealed import fingerprint
from scstore.store import ledger
from scstore.store.ledger import LEDGER, MANIFEST, StorePlan, chunk_path, file_beside, record_path
from scstore.store.reader import Store

# Files that are read at once: SHA-256 runs outside Python's lock, so as many cores hash.
MAX_THREADS = 8

# How zarr-python ends the names of files that it has not finished.
ZARR_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a file, named relative to what was verified, or (empty) with the whole.

    ``problem`` is ``missing``, ``damaged``, ``unexpected``, ``inconsistent``, or ``unreadable`` where the system
    refused to read the file, which may be whole. ``shard`` is the one it belongs to, which `extract` can redo; ``None``
    for what `extract` cannot mend.
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
    kind: str  # a store, head, projector, gene table or panel
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


class _Check:
    """What was compared so far, and what is wrong."""

    def __init__(self, root: Path, *, deep: bool, progress: Reporter) -> None:
        self.root, self.deep, self.progress = root, deep, progress
        self.findings: list[Finding] = []
        self.sizes: list[int] = []  # bytes of files that were compared with digests

    def compare(self, files: Sequence[tuple[str, Mapping[str, Any], int | None]], what: str) -> None:
        """Compare files, each with its size and digest, and the shard that it belongs to."""

        def look(file: tuple[str, Mapping[str, Any], int | None]) -> Finding | None:
            name, expected, shard = file
            hashed = self.deep or not _is_bulk(name)
            try:
                problem = ledger.file_problem(self.root / name, expected, hashed=hashed)
            except (DamagedError, OSError) as error:
                return finding_of(error, name)
            if hashed:
                self.sizes.append(expected["bytes"])
            return None if problem is None else Finding(name, *problem, shard)

        threads = min(MAX_THREADS, os.cpu_count() or 1)
        with self.progress.track(f"verifying {what}", len(files), what) as track, ThreadPoolExecutor(threads) as pool:
            for found in pool.map(look, files):
                self.findings += [] if found is None else [found]
                track.advance()


def verify_store(
    root: Path, *, deep: bool = False, gc: bool = False, repair: bool = False, progress: Reporter | None = None
) -> Verification:
    """Compare a store with its manifest and records; the options are those of :func:`scstore.verify`."""
    with ledger.part_lock(root, ledger.Part()) if gc or repair else nullcontext():
        return _verify(_Check(root, deep=deep, progress=progress or Reporter()), gc=gc, repair=repair)


def _verify(check: _Check, *, gc: bool, repair: bool) -> Verification:
    root, findings, notes = check.root, check.findings, []
    fixed = _check_fixed_files(check)
    # damaged metadata is not parsed: a length in it may be anything
    store = None if any(not _is_bulk(finding.file) for finding in findings) else _open(root, findings)
    plan = None if store is None else store.plan
    ids = None if store is None else [str(name) for name in store.obs.index]
    if store is not None and ids is not None:
        findings += _record_findings(store.record or {}, ids)
    uncommitted, n_shards = _check_shards(check, plan, ids)
    damaged = sorted({finding.shard for finding in findings if finding.shard is not None})
    message = "scstore did not write this file, and other readers may take it for data"
    findings += [Finding(name, "unexpected", message) for name in _unexpected(root, fixed, plan)]
    if uncommitted:
        n = len(uncommitted)
        notes.append(f"{n:,} of {n_shards:,} shards are not extracted yet: run the same `scstore extract`")
    if damaged and store is not None and "parts" in (store.record or {}):
        notes.append("merged from other stores, which no extraction redoes: merge them again with overwrite=True")
    if repair and damaged:  # without its record a shard counts as not extracted
        for shard in damaged:
            fsio.disk.delete(record_path(root, shard))
        fsio.fsync_dir(record_path(root, 0).parent)
        uncommitted += damaged
    left = [*_leftovers_inside(root, plan, uncommitted), *_leftovers_beside(root)]
    if gc:
        _remove(root, left)
    elif left:
        notes.append(f"{len(left):,} leftovers of killed runs, which are never read: gc=True removes them")
    findings.sort(key=lambda finding: (finding.file, finding.message))
    removed, marked = tuple(left) if gc else (), tuple(damaged) if repair else ()
    sizes = len(check.sizes), sum(check.sizes)
    return Verification(root, "store", check.deep, tuple(findings), tuple(notes), *sizes, removed, marked)


def _is_bulk(name: str) -> bool:
    """Whether only ``deep`` reads a file: a chunk of the expression or of a view."""
    return name.startswith(("X/", "obsm/")) and not name.endswith("zarr.json")


def _check_fixed_files(check: _Check) -> set[str]:
    """Compare the files that never change with the manifest; return their names."""
    try:
        files = ledger.read_manifest(check.root)
        check.sizes.append((check.root / MANIFEST).stat().st_size)
    except (DamagedError, OSError) as error:
        check.findings.append(finding_of(error, MANIFEST))
        return {name for name in fsio.files_below(check.root) if not name.startswith((f"{LEDGER}/", "obsm/"))}
    check.compare([(name, expected, None) for name, expected in files.items()], "files")
    return set(files)


def _open(root: Path, findings: list[Finding]) -> Store | None:
    try:
        store = Store(root)
        return store if store.plan is not None and store.obs is not None else None
    except Exception as error:  # any error of a library on a broken store is a finding
        if isinstance(error, InputError) and not isinstance(error, NotAStoreError):
            raise  # a newer format is not damage
        findings.append(finding_of(error, ""))
        return None


def _record_findings(record: Mapping[str, Any], ids: list[str]) -> Iterator[Finding]:
    """Compare the run's record with itself and with the cells."""
    for name, view in record["views"].items():
        if fingerprint(view["space"]) != view["fingerprint"]:
            yield Finding("uns/scstore/record", "inconsistent", f"{name}: its feature space has another fingerprint")
    if len(set(ids)) < len(ids):
        yield Finding("obs/_index", "inconsistent", "cell ids repeat")
    if "input" in record and record["input"]["ids"] != ledger.ids_digest(ids):
        yield Finding("obs/_index", "inconsistent", "the cells are not those of the run's record")


def _check_shards(check: _Check, plan: StorePlan | None, ids: list[str] | None) -> tuple[list[int], int]:
    """Compare records with the store, and shards with records; return those without one, and how many there are."""
    root = check.root
    with_record = (int(file.stem) for file in record_path(root, 0).parent.glob("[0-9]*.json"))
    shards = sorted(with_record) if plan is None else range(plan.n_shards)
    uncommitted, chunks = [], []
    for shard in shards:
        file = record_path(root, shard)
        name = file.relative_to(root).as_posix()
        try:
            record = ledger.read_record(root, shard)
            if record is None:
                uncommitted.append(shard)
                continue
            check.sizes.append(file.stat().st_size)
        except DamagedError as error:
            check.findings.append(Finding(name, "damaged", str(error), shard))
            continue
        except OSError as error:
            check.findings.append(finding_of(error, name))
            continue
        own = None if plan is None or ids is None else ids[slice(*plan.bounds(shard))]
        if plan is not None and (fields := ledger.foreign_fields(record, plan, shard, own)):
            message = f"belongs to another store or run (other {', '.join(fields)})"
            check.findings.append(Finding(name, "inconsistent", message, shard))
            continue
        views = record["views"].items()
        chunks += [(chunk_path(root, view, shard).relative_to(root).as_posix(), size, shard) for view, size in views]
    check.compare(chunks, "files of shards")
    return uncommitted, len(shards)


def _unexpected(root: Path, fixed: set[str], plan: StorePlan | None) -> list[str]:
    """Return files that are neither the store's nor a leftover. Without its shape, any chunk may belong to it."""
    known = {*fixed, MANIFEST}
    if plan is not None:
        for shard in range(plan.n_shards):
            files = [record_path(root, shard), *(chunk_path(root, view.name, shard) for view in plan.views)]
            known |= {file.relative_to(root).as_posix() for file in files}
    ours = (*_leftovers_inside(root), *(() if plan is not None else (f"{LEDGER}/shards/", "obsm/")))
    return sorted(name for name in fsio.files_below(root) if name not in known and not name.startswith(ours))


def _leftovers_beside(root: Path) -> list[str]:
    """Return names, with ``../``, of what killed runs left beside a store."""
    made = [root.name, *(file_beside(root, ending).name for ending in ledger.MADE_BESIDE)]
    starts = tuple(f".{name}{fsio.PARTIAL}" for name in made)
    locks = (ledger.creation_lock(root).name, *(fsio.writing_lock(root.with_name(name)).name for name in made))
    names = (file.name for file in root.parent.iterdir())
    return sorted(f"../{name}" for name in names if name.startswith(starts) or name in locks)


def _leftovers_inside(root: Path, plan: StorePlan | None = None, uncommitted: Sequence[int] = ()) -> list[str]:
    """Return names of what nothing in a store refers to: temporary files, chunks of shards without a record."""
    found = [p for p in root.rglob("*") if fsio.PARTIAL in p.name or p.suffix == ".lock" or ZARR_PARTIAL.search(p.name)]
    for view in () if plan is None else plan.views:
        found += [file for shard in uncommitted if (file := chunk_path(root, view.name, shard)).exists()]
    return sorted({file.relative_to(root).as_posix() for file in found})


def _remove(root: Path, leftovers: list[str]) -> None:
    """Delete leftovers, and the folders of chunks that are empty then. The caller holds the store's lock."""
    for name in leftovers:
        fsio.disk.delete(root / name)
        parent = (root / name).parent
        if not name.startswith((LEDGER, "../")) and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
