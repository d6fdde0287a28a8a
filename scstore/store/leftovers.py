"""What killed runs leave in a store and beside it: nobody reads it, and it may be deleted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from scstore import fsio
from scstore.store.layout import LEDGER, SCRATCH_EXPRESSION, chunk_path
from scstore.store.locks import creation_lock

__all__ = ["leftovers_beside", "leftovers_inside", "remove_leftovers"]

ZARR_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""How zarr-python ends the names of files that it has not finished."""

MADE_BESIDE = (".genes.h5ad", ".panel.h5ad")
"""What `extract` writes beside a store, behind its name without ``.zarr``."""


def leftovers_inside(root: Path, *, complete: bool, views: Sequence[str], uncommitted: Iterable[int]) -> list[str]:
    """Names, relative to the store, of files and folders in it that nothing refers to.

    Parameters
    ----------
    root
        The store.
    complete
        Whether all shards are extracted, so that the expression that extraction worked from is not needed.
    views, uncommitted
        The store's, and the shards without a record: their chunks were never finished.
    """
    found = []
    for folder, folders, names in os.walk(root):
        found += [Path(folder) / name for name in [*names, *folders] if fsio.PARTIAL in name]
        found += [Path(folder) / name for name in names if ZARR_PARTIAL.search(name)]
        folders[:] = [name for name in folders if fsio.PARTIAL not in name]
    if complete:
        found.append(root / SCRATCH_EXPRESSION)
    shards = list(uncommitted)
    found += [chunk_path(root, view, shard) for view in views for shard in shards]
    return sorted({file.relative_to(root).as_posix() for file in found if file.exists()})


def leftovers_beside(root: Path) -> list[str]:
    """Names of what a killed run was still making in the store's folder, its lock among them.

    Whoever asks holds the store's lock, or only wants to know.
    """
    names = [root.name, *(f"{root.stem}{ending}" for ending in MADE_BESIDE)]
    starts = tuple(f".{name}{fsio.PARTIAL}" for name in names)
    found = [file.name for file in root.parent.iterdir() if file.name.startswith(starts)]
    lock = creation_lock(root)
    return sorted([*found, lock.name] if lock.exists() else found)


def remove_leftovers(root: Path, inside: Sequence[str], beside: Sequence[str]) -> tuple[str, ...]:
    """Delete them, and the folders of chunks that are empty then; gives their names, with ``../`` those beside.

    The caller holds the store's lock.
    """
    for name in inside:
        fsio.remove_tree(root / name)
        parent = (root / name).parent
        if not name.startswith(LEDGER) and not any(parent.iterdir()):
            parent.rmdir()
    for name in beside:
        fsio.remove_tree(root.parent / name)
    return (*inside, *(f"../{name}" for name in beside))
