"""``scstore verify``: anything that scstore wrote, against its own digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np

from scstore import fsio
from scstore.errors import DamagedError, InputError, NewerFormatError, NotAStoreError, OptionError, ScstoreError
from scstore.fsio import check_read
from scstore.options import Option, Progress, public
from scstore.sealed import CARD, DESCRIPTION_LIMIT, FolderKind
from scstore.store.layout import LEDGER
from scstore.store.reader import open_store
from scstore.store.verify_store import (
    Finding,
    Verification,
    finding_of,
    record_findings,
    rows_that_are_not_finite,
    verify_store,
)
from scstore.untrusted.guards import check_layout, check_path
from scstore.untrusted.hdf5 import open_hdf5

BLOCK_ROWS = 4096

# Kinds of files by their key in ``uns["scstore"]``.
KINDS = {"genes": "gene table", "panel": "panel", "record": "exported store"}

SEALED_NOTE = "the digest covers the content: genes, texts, vectors; not the bytes that HDF5 leaves unused"
EXPORT_NOTE = "an exported file has no digests of its bytes: its record and its values were checked"

Check = Callable[[Path], Iterator[Finding]]


@public
def verify(
    path: Annotated[str | os.PathLike[str], Option("Anything that scstore wrote.", argument=True)],
    *,
    deep: Annotated[bool, Option("Read every byte of a store, its views and expression too.")] = False,
    gc: Annotated[bool, Option("Delete what killed runs left in a store and beside it.")] = False,
    repair: Annotated[bool, Option("Count damaged shards as not extracted, so that extract redoes them.")] = False,
    progress: Progress = None,
) -> Verification:
    """Look for damage in what scstore wrote: all of it, not the first.

    A digest finds damage. It is not a signature: anyone who can change a file can change its digest too.

    Returns
    -------
    Verification
        ``findings`` lists what is wrong; ``ok`` says whether nothing is.

    Raises
    ------
    NotAStoreError
        If scstore did not write it, so that there are no digests to compare with.
    NewerFormatError
        If a newer scstore wrote it.
    OptionError
        If ``gc`` or ``repair`` is set for anything but a store.
    LockedError
        If ``gc`` or ``repair`` is set while another process extracts into the store.

    Examples
    --------
    >>> scstore.verify("stores/ref.zarr", deep=True).ok  # doctest: +SKIP
    True
    """
    target = Path(path)
    fsio.mend(target)
    if (target / LEDGER).is_dir():
        return verify_store(target, deep=deep, gc=gc, repair=repair, progress=progress)
    kind, check, note = _kind(target)
    if gc or repair:
        raise OptionError(f"{'gc' if gc else 'repair'}=True is for stores alone; {target} is an artifact: {kind}.")
    findings = tuple(_findings(check, target))
    sizes = [file.stat().st_size for file in ([target] if target.is_file() else target.iterdir()) if file.is_file()]
    whole = deep or kind != "exported store"
    return Verification(target, kind, whole, findings, (note,) if note else (), len(sizes), sum(sizes))


def _findings(check: Check, path: Path) -> Iterator[Finding]:
    try:
        yield from check(path)
    except (NewerFormatError, NotAStoreError):
        raise  # that is not damage
    except Exception as error:  # noqa: BLE001  # any error of a library on a broken file is a finding
        yield finding_of(error, "")


def _kind(path: Path) -> tuple[str, Check, str]:
    """Return what a path holds, its check, and a note."""
    check_path(path, error=NotAStoreError)
    if path.is_dir() and (found := _folder_kind(path)) is not None:
        folder, load = found
        others = {file.name for file in path.iterdir()} - {folder.description, folder.weights, CARD, *folder.parts}
        note = f"not checked, since scstore never reads it: {', '.join(sorted(others))}" if others else ""
        return folder.name, partial(_check_folder, kind=folder, load=load), note
    kind = None if path.is_dir() else file_kind(path)
    if kind == "exported store":
        return kind, _check_export, EXPORT_NOTE
    if kind is not None:
        return kind, partial(_check_content, kind=kind), SEALED_NOTE
    raise NotAStoreError(f"{path} was not written by scstore, so there are no digests to compare with.")


def _folder_kind(path: Path) -> tuple[FolderKind, Callable[[Path], Any]] | None:
    from scstore.heads.artifact import HEAD, load_head
    from scstore.model.projector_file import PROJECTOR, load_projector

    kinds: list[tuple[FolderKind, Callable[[Path], Any]]] = [(HEAD, load_head), (PROJECTOR, load_projector)]
    found = (k for k in kinds if (path / k[0].description).exists() or (path / k[0].weights).exists())
    return next(found, None)


def file_kind(path: Path) -> str | None:
    """Return what scstore wrote into a file: ``gene table``, ``panel`` or ``exported store``; ``None`` for others."""
    with path.open("rb") as file:  # h5py takes what it cannot read for another kind of file
        file.read(1)
    if not h5py.is_hdf5(path):
        return None
    try:
        with open_hdf5(path, error=DamagedError, unreadable=NotAStoreError) as opened:
            keys = list(opened["uns/scstore"])
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ScstoreError):
            raise
        check_read(error, str(path))
        return None
    return next((kind for key, kind in KINDS.items() if key in keys), None)


def _check_folder(path: Path, *, kind: FolderKind, load: Callable[[Path], Any]) -> Iterator[Finding]:
    """Check a description and its weights, the weights' own structure too where the description is damaged; copies."""
    wrong = {name for name in (kind.description, kind.weights) if not (path / name).is_file()}
    yield from (Finding(name, "missing", "is missing") for name in sorted(wrong))
    if not wrong:
        try:
            load(path)
            yield from _check_copies(path, fsio.read_json(path / kind.description, limit=DESCRIPTION_LIMIT)["copies"])
            return
        except InputError:
            raise  # a newer format is not damage
        except Exception as error:  # noqa: BLE001  # any error of a library on a broken file is a finding
            name = kind.weights if str(path / kind.weights) in f"{error}{error.__cause__}" else kind.description
            wrong.add(name)
            yield finding_of(error, name)
    if kind.weights not in wrong:
        try:
            check_layout(path / kind.weights)
        except (DamagedError, OSError) as error:
            yield finding_of(error, kind.weights)


def _check_copies(path: Path, digests: dict[str, str]) -> Iterator[Finding]:
    for name, digest in digests.items():
        if not (path / name).exists():
            yield Finding(name, "missing", "is missing")
        elif fsio.digest_tree(path / name) != digest:
            yield Finding(name, "damaged", "does not match its digest")


def _check_content(path: Path, *, kind: str) -> Iterator[Finding]:
    from scstore.genes.table import load_gene_table
    from scstore.panels.panel import load_panel

    values = load_gene_table(path).vectors if kind == "gene table" else load_panel(path).obs.select_dtypes("number")
    if bad := rows_that_are_not_finite(np.asarray(values)):
        yield Finding("", "not finite", f"{bad:,} genes have NaN or infinity")


def _check_export(path: Path) -> Iterator[Finding]:
    store = open_store(path)
    yield from record_findings(store.record or {})
    for name in store.views:
        view = store.view(name)
        blocks = (view[start : start + BLOCK_ROWS] for start in range(0, view.shape[0], BLOCK_ROWS))
        if bad := sum(map(rows_that_are_not_finite, blocks)):
            yield Finding(name, "not finite", f"{bad:,} cells have NaN or infinity")
