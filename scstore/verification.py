"""``scstore verify``: whatever scstore wrote, against its own digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from scstore.errors import DamagedError, InputError, NewerFormatError, NotAStoreError, OptionError
from scstore.progress import Reporter
from scstore.store.layout import LEDGER
from scstore.store.verify import Finding, Verification, rows_that_are_not_finite, verify_store
from scstore.untrusted.hdf5 import check_hdf5

__all__ = ["verify"]

HEAD = ("head.json", "weights.safetensors")
PROJECTOR = ("projector.json", "projector.safetensors")
BLOCK_ROWS = 4096


def verify(
    path: str | os.PathLike[str],
    *,
    deep: bool = False,
    gc: bool = False,
    repair: bool = False,
    progress: Reporter | None = None,
) -> Verification:
    """Look for damage in a store, head, projector, gene table or panel: all of it, not the first.

    A digest finds damage. It is no signature: whoever changes a file on purpose can change its digest too.

    Parameters
    ----------
    path
        What scstore wrote.
    deep
        Of a store: read every byte. Otherwise of views and expression only the sizes are looked at. The other kinds
        are always read whole.
    gc
        Of a store: delete what killed runs have left behind.
    repair
        Of a store: let damaged shards count as not extracted, so that the next `extract` redoes just those.
    progress
        Told how far it is.

    Returns
    -------
    Verification
        Its ``findings`` are what is wrong; ``ok`` says whether there are none.

    Raises
    ------
    NotAStoreError
        If scstore did not write it, so that there are no digests to compare with.
    OptionError
        If ``gc`` or ``repair`` is asked for of what is no store.
    DamagedError
        If it is an HDF5 file on which HDF5 loops or crashes, so that what it is cannot be told.
    LockedError
        If ``gc`` or ``repair`` is asked for while somebody extracts into the store.

    Examples
    --------
    >>> scstore.verify("stores/ref.zarr", deep=True).ok  # doctest: +SKIP
    True
    """
    target = Path(path)
    kind, check = _kind(target)
    if check is None:
        return verify_store(target, deep=deep, gc=gc, repair=repair, progress=progress)
    if gc or repair:
        option, article = "--gc" if gc else "--repair", "an" if kind[0] == "e" else "a"
        msg = f"{option}: {target} is {article} {kind}. It is for stores that `scstore extract` wrote."
        raise OptionError(msg)
    findings = tuple(check(target))
    sizes = [file.stat().st_size for file in ([target] if target.is_file() else target.iterdir()) if file.is_file()]
    whole = deep or kind != "exported store"
    return Verification(target, kind, whole, findings, _notes(target, kind), len(sizes), sum(sizes))


def _kind(path: Path) -> tuple[str, Callable[[Path], Iterator[Finding]] | None]:
    """What a path holds, and what checks it; ``None`` for a store."""
    if not path.exists():
        msg = f"{path}: no such file or folder."
        raise NotAStoreError(msg)
    if path.is_dir():
        if (path / LEDGER).is_dir():
            return "store", None
        if any((path / name).exists() for name in HEAD):
            return "head", _check_head
        if any((path / name).exists() for name in PROJECTOR):
            return "projector", _check_projector
    elif h5py.is_hdf5(path):
        check_hdf5(path)
        for key, kind, check in _SEALED:
            if key in _keys(path):
                return kind, check
    msg = (
        f"{path}: not written by scstore, so there are no digests to compare with. verify takes a store, the .h5ad "
        "exported from one, a head, a projector, a gene table or a panel."
    )
    raise NotAStoreError(msg)


def _keys(path: Path) -> list[str]:
    try:
        with h5py.File(path, "r") as file:
            return list(file["uns/scstore"])
    except (OSError, KeyError, RuntimeError, TypeError, ValueError):
        return []


def _notes(path: Path, kind: str) -> tuple[str, ...]:
    if kind == "exported store":
        return ("an exported file has no digests of its bytes: its record and its values were checked",)
    if path.is_file():
        return ("the digest covers the content: genes, texts, vectors; not the bytes that HDF5 leaves unused",)
    known = {*HEAD, *PROJECTOR}
    others = sorted(file.name for file in path.iterdir() if file.name not in known)
    return (f"not looked at, since nobody reads it: {', '.join(others)}",) if others else ()


def _check_head(path: Path) -> Iterator[Finding]:
    from scstore.heads.artifact import load_head

    yield from _check_pair(path, HEAD, lambda: load_head(path))


def _check_projector(path: Path) -> Iterator[Finding]:
    from scstore.model.projector_file import load_projector

    yield from _check_pair(path, PROJECTOR, lambda: load_projector(path))


def _check_pair(path: Path, names: tuple[str, str], load: Callable[[], Any]) -> Iterator[Finding]:
    """A description in JSON and its weights: the weights' own structure too where the description is damaged."""
    from scstore.untrusted.safetensors import check_layout

    description, weights = names
    if missing := [name for name in names if not (path / name).is_file()]:
        yield from (Finding(name, "missing", "the file is missing") for name in missing)
        present = [name for name in names if name not in missing]
    else:
        try:
            load()
            return
        except InputError:
            raise  # a newer format is no damage
        except Exception as error:  # noqa: BLE001  # whatever a library makes of a broken file is a finding
            named = str(path / weights) in str(error)
            yield Finding(weights if named else description, "damaged", str(error))
            present = [] if named else [weights]
    if weights in present:
        try:
            check_layout(path / weights)
        except DamagedError as error:
            yield Finding(weights, "damaged", str(error))


def _check_table(path: Path) -> Iterator[Finding]:
    from scstore.genes.table import load_gene_table

    yield from _check_content(path, lambda: load_gene_table(path).vectors)


def _check_panel(path: Path) -> Iterator[Finding]:
    from scstore.panels.panel import load_panel

    yield from _check_content(path, lambda: load_panel(path).obs.select_dtypes("number"))


def _check_content(path: Path, load: Callable[[], Any]) -> Iterator[Finding]:
    try:
        values = load()
    except NewerFormatError:
        raise  # a newer format is not damage
    except Exception as error:  # noqa: BLE001  # whatever a library makes of a broken file is a finding
        yield Finding("", "damaged", str(error))
        return
    if bad := rows_that_are_not_finite(np.asarray(values)):
        yield Finding("", "not finite", f"{bad:,} genes have NaN or infinity")


def _check_export(path: Path) -> Iterator[Finding]:
    from scstore.spec import fingerprint
    from scstore.store.reader import open_store

    try:
        store = open_store(path)
        for name, view in (store.record or {})["views"].items():
            if fingerprint(view["space"]) != view["fingerprint"]:
                message = f"{name}: its feature space does not have the fingerprint it states"
                yield Finding("uns/scstore/record", "inconsistent", message)
        for name in store.views:
            view, bad = store.view(name), 0
            for start in range(0, view.shape[0], BLOCK_ROWS):
                bad += rows_that_are_not_finite(view[start : start + BLOCK_ROWS])
            if bad:
                yield Finding(name, "not finite", f"{bad:,} cells have NaN or infinity")
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a library makes of a broken file is a finding
        yield Finding("", "damaged", str(error))


_SEALED: tuple[tuple[str, str, Callable[[Path], Iterator[Finding]]], ...] = (
    ("genes", "gene table", _check_table),
    ("panel", "panel", _check_panel),
    ("record", "exported store", _check_export),
)
"""Keys of ``uns["scstore"]`` in an ``.h5ad``, and what the file is then."""
