"""What a path holds or an object is, in words: for messages about one that is given in another's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py

from scstore.hdf5_output import open_to_read

# Of scstore's own folders, by a file in them.
FOLDERS = {
    "head.json": "a head",
    "projector.json": "a projector",
    "_scstore": "a store",
}

# Of scstore's own files, by the key of their header.
FILES = {"panel": "a panel of genes", "genes": "a gene table", "record": "a store as one file"}

# What has cells in it, or may have.
STORES = ("", FOLDERS["_scstore"], FILES["record"])


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
            own: Any = file
            for name in ("uns", "scstore"):
                if not isinstance(own.get(name, getlink=True), h5py.HardLink):  # no link is followed
                    return ""
                own = own[name]
            return next((words for key, words in FILES.items() if key in own), "")
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError):
        return ""
