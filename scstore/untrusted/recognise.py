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
    "state.json": "a training that was begun",
    "evaluation.json": "an evaluation",
}

# Of scstore's own files, by the key of their header.
FILES = {"panel": "a panel of genes", "genes": "a gene table", "record": "a store as one file"}

TABLES = {".csv": "a CSV table", ".tsv": "a table", ".parquet": "a Parquet table", ".xlsx": "a spreadsheet"}

OBJECTS = {
    "Store": "a store",
    "FusedHead": "a head",
    "AcrossGenesHead": "a head",
    "AnnData": "an AnnData in memory",
    "DataFrame": "a DataFrame",
    "Panel": "a panel of genes",
    "GeneTable": "a gene table",
    "ProjectorFile": "a projector",
}


def what_is(thing: Any) -> str:
    """Return what a path or an object is, such as ``a head``; empty where scstore has no word for it."""
    if not isinstance(thing, str | os.PathLike):
        name = type(thing).__name__
        return OBJECTS.get(name, f"of the type {name}")
    path = Path(thing)
    if path.is_dir():
        return next((words for name, words in FOLDERS.items() if (path / name).exists()), "")
    return _header(path) or TABLES.get(path.suffix.lower(), "") if path.is_file() else ""


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
