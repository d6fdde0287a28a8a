"""A fitted head as a folder: ``head.json`` and ``weights.safetensors``, nothing that can run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from scstore.errors import DamagedError
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.base import JSON
from scstore.heads.fusion import FusedHead
from scstore.sealed import FolderKind, read_sealed_folder, write_sealed_folder
from scstore.untrusted.safetensors import WEIGHTS_LIMIT

__all__ = ["HEAD", "AnyHead", "load_head", "save_head"]

AnyHead = FusedHead | AcrossGenesHead
"""What can be saved and loaded."""

HEAD = FolderKind("head", "head.json", "weights.safetensors", "scstore fit")


def save_head(
    head: AnyHead, path: str | os.PathLike[str], *, record: Mapping[str, JSON], overwrite: bool = False
) -> None:
    """Write a fitted head, whole or not at all. The same head and record give the same bytes.

    Parameters
    ----------
    head
        Fitted.
    path
        The folder to make.
    record
        What to keep with it, as JSON: feature spaces by view, label column, training data.
    overwrite
        Replace a head that exists.

    Raises
    ------
    OutputError
        If ``path`` exists and ``overwrite`` is not set, or it is not a head, or cannot be written.
    OptionError
        If the record or a parameter is not JSON, or the record is too large.
    """
    arrays, state = head.to_arrays()
    write_sealed_folder(path, HEAD, {**state, "record": dict(record)}, arrays, overwrite=overwrite)


def load_head(path: str | os.PathLike[str], *, limit: int = WEIGHTS_LIMIT) -> tuple[AnyHead, dict[str, JSON]]:
    """Read a head that :func:`save_head` wrote. Other files in the folder are ignored.

    Parameters
    ----------
    path
        The folder.
    limit
        Most bytes of weights to read.

    Returns
    -------
    head, record
        The fitted head, which gives the same probabilities bit for bit, and its record.

    Raises
    ------
    NotAStoreError
        If ``path`` holds no head.
    NewerFormatError
        If a newer scstore wrote it.
    DamagedError
        If any byte of it differs from what was written.
    """
    document, arrays = read_sealed_folder(path, HEAD, limit=limit)
    record = document.get("record")
    if not isinstance(record, dict):
        msg = f"{Path(path) / HEAD.description} has no record. Restore the head from a copy, or fit it again."
        raise DamagedError(msg)
    made: type[AnyHead] = AcrossGenesHead if document.get("kind") == KIND else FusedHead
    head = made.from_arrays(arrays, document)
    head.record_ = record
    return head, record
