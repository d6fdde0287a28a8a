"""A trained head as a folder: ``head.json`` and ``weights.safetensors``, nothing that can run.

``head.json`` names the format, describes the head, and holds the digest of the weights and its own. It is written
in one way only, and a file that differs from that in a single byte is refused. The digests find damage; they are
checksums, not signatures: whoever can write the folder can write them too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors.numpy import save

from scstore.errors import DamagedError, InputError, NotAStoreError, OptionError, OutputError
from scstore.fsio import atomic_folder, check_output, digest_bytes, write_bytes
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.base import JSON
from scstore.heads.fusion import FusedHead
from scstore.spec import canonical_json
from scstore.untrusted.weights import WEIGHTS_LIMIT, read_weights

__all__ = ["DESCRIPTION", "FORMAT", "AnyHead", "load_head", "save_head"]

AnyHead = FusedHead | AcrossGenesHead
"""What can be saved and loaded."""

FORMAT = "1.0"
DESCRIPTION = "head.json"
WEIGHTS = "weights.safetensors"

DESCRIPTION_LIMIT = 1 << 26
"""Bytes of ``head.json``, at writing and at reading."""


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
        What the caller wants kept beside it, as JSON: feature spaces by view, label column, training data.
    overwrite
        Whether to replace a head that is there.

    Raises
    ------
    OutputError
        If ``path`` exists and is not to be replaced or is no head, or cannot be written.
    OptionError
        If the record or a parameter is not JSON, or the record is too large.
    """
    target = check_output(path, overwrite=overwrite)
    if target.exists() and not (target / DESCRIPTION).is_file():
        msg = f"{target} exists and is no head, so it is not replaced. Choose another name."
        raise OutputError(msg)
    arrays, state = head.to_arrays()
    weights = save(dict(sorted(arrays.items())))
    document = {"format": FORMAT, **state, "record": dict(record), "weights": digest_bytes(weights)}
    try:
        document["digest"] = digest_bytes(canonical_json(document).encode())
        text = _render(document)
        same = json.loads(text) == document
    except (TypeError, ValueError) as error:
        msg = f"record: cannot be written as JSON ({error}). Give text, finite numbers, lists and mappings."
        raise OptionError(msg) from error
    if not same or len(text) > DESCRIPTION_LIMIT:
        msg = (
            f"record: {len(text):,} bytes of JSON where at most {DESCRIPTION_LIMIT:,} are kept. Keep less."
            if same
            else "record: would not come back from JSON as it is. Give lists for tuples and text for keys."
        )
        raise OptionError(msg)
    with atomic_folder(target, overwrite=overwrite) as folder:
        write_bytes(folder / WEIGHTS, weights)
        write_bytes(folder / DESCRIPTION, text)


def load_head(path: str | os.PathLike[str], *, limit: int = WEIGHTS_LIMIT) -> tuple[AnyHead, dict[str, JSON]]:
    """Read a head that :func:`save_head` wrote. Other files in the folder are not looked at.

    Parameters
    ----------
    path
        The folder.
    limit
        Most bytes of weights to read.

    Returns
    -------
    head, record
        The fitted head, which gives the same probabilities bit for bit, and the caller's record.

    Raises
    ------
    NotAStoreError
        If ``path`` holds no head.
    InputError
        If the head was written in a newer format.
    DamagedError
        If anything in it is not as it was written.
    """
    folder = Path(path)
    file, weights = folder / DESCRIPTION, folder / WEIGHTS
    if not file.is_file():
        msg = f"{folder}: no head there (a folder with {DESCRIPTION} and {WEIGHTS}). Make one with: scstore fit."
        raise NotAStoreError(msg)
    document = _read_description(file)
    if not weights.is_file():
        _refuse(weights, "the file is missing")
    arrays = read_weights(weights, digest=document["weights"], limit=limit)
    made: type[AnyHead] = AcrossGenesHead if document.get("kind") == KIND else FusedHead
    head = made.from_arrays(arrays, document)
    head.record_ = document["record"]
    return head, document["record"]


def _read_description(file: Path) -> dict[str, Any]:
    """``head.json``, in this format and byte for byte as it was written."""
    if (size := file.stat().st_size) > DESCRIPTION_LIMIT:
        _refuse(file, f"{size:,} bytes is more than a head's description ever has")
    raw = file.read_bytes()
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        _refuse(file, f"not readable as JSON ({error})")
    if not isinstance(document, dict) or not isinstance(document.get("format"), str):
        _refuse(file, "it names no format")
    _check_format(file, document["format"])
    try:
        unsigned = {name: value for name, value in document.items() if name != "digest"}
        intact = document.get("digest") == digest_bytes(canonical_json(unsigned).encode()) and raw == _render(document)
    except (ValueError, RecursionError) as error:
        _refuse(file, f"it holds what is never written ({error})")
    if not intact:
        _refuse(file, "its digest does not match its content")
    if not isinstance(document.get("weights"), str) or not isinstance(document.get("record"), dict):
        _refuse(file, "it has no digest of the weights or no record")
    return document


def _check_format(file: Path, found: str) -> None:
    if found == FORMAT:
        return
    if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", found):
        _refuse(file, f"its format {found[:20]!r} is no version")
    newer = tuple(map(int, found.split("."))) > tuple(map(int, FORMAT.split(".")))
    cure = "Update scstore: pip install -U scstore" if newer else "Fit the head again"
    msg = f"{file}: head format {found}; this scstore reads {FORMAT}. {cure}."
    raise InputError(msg)


def _render(document: Mapping[str, JSON]) -> bytes:
    """The one way in which ``head.json`` is written."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _refuse(file: Path, why: str) -> NoReturn:
    msg = f"{file}: {why}. The file is damaged or not scstore's: restore the head from a copy, or fit it again."
    raise DamagedError(msg)
