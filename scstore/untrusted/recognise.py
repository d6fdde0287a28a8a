"""What a path holds or an object is, in words: for messages about one that is given in another's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py

from scstore.hdf5_output import open_to_read

# Of scstore's own folders, by a file in them.
FOLDERS = {"head.json": "a head", "projector.json": "a projector", "_scstore": "a store"}

# Of scstore's own files, by the key of their header.
FILES = {"panel": "a panel of genes", "genes": "a gene table", "record": "a store as one file"}

# What has cells in it, or may have.
STORES = ("", "an AnnData", FOLDERS["_scstore"], FILES["record"])


def what_is(thing: Any) -> str:
    """Return what a path or an object is, such as ``a head``; empty where scstore has no word for it."""
    if not isinstance(thing, str | os.PathLike):
        return f"an object of the type {type(thing).__name__}"
    path = Path(thing)
    if path.is_dir():
        found = (words for name, words in FOLDERS.items() if (path / name).is_file() or (path / name).is_dir())
        return next(found, "")
    return _header(path) if path.is_file() else ""


def _header(path: Path) -> str:
    try:
        with open_to_read(path) as file:
            own, words = file, "an AnnData" if _holds(file, "obs") else ""
            for name in ("uns", "scstore"):
                if not _holds(own, name):
                    return words
                own = own[name]
            return next((said for key, said in FILES.items() if _holds(own, key)), words)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError):
        return ""


def _holds(group: Any, name: str) -> bool:
    """Whether a group has a member of its own; no link is followed."""
    links, key = group.id.links, name.encode()
    return bool(links.exists(key) and links.get_info(key).type == h5py.h5l.TYPE_HARD)
