"""Canonical JSON, fingerprints of feature spaces, and artifacts with a format and digests: folders and AnnData files.

A digest finds damage. It is not a signature: anyone who can write the files can write their digests too.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anndata
import h5py
from anndata.io import write_elem
from numpy.typing import NDArray
from safetensors.numpy import save

from scstore import fsio
from scstore.errors import DamagedError, GenesError, NewerFormatError, NotAStoreError, OptionError
from scstore.hdf5_output import hdf5_output
from scstore.untrusted.guards import FILES, WEIGHTS_LIMIT, read_weights, reading, what_else, what_is
from scstore.untrusted.hdf5 import open_hdf5

LONGEST = 400  # characters of two values that are shown side by side

Space = Mapping[str, Any]  # a JSON object that names a feature space


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces; ``ValueError`` for NaN, ``TypeError`` for what is not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(space: Space) -> str:
    """Return the SHA-256 of the canonical JSON of a feature space, as ``sha256:<64 hex digits>``."""
    return fsio.digest_bytes(canonical_json(space).encode())


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping with a field ``digest``: the fingerprint of the mapping without that field."""
    return {**value, "digest": fingerprint(value)}


def unseal(value: Any) -> dict[str, Any] | None:
    """Return a sealed mapping without its digest; ``None`` when the digest does not match."""
    if not isinstance(value, dict):
        return None
    body = {key: item for key, item in value.items() if key != "digest"}
    try:
        return body if value.get("digest") == fingerprint(body) else None
    except (ValueError, RecursionError):  # NaN, infinity, a lone surrogate, endless nesting: never sealed
        return None


def flatten(space: Space, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted field, value)`` for every leaf of a nested mapping, sorted by field."""
    for key in sorted(space):
        value, name = space[key], f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def differences(old: Space, new: Space) -> list[str]:
    """Return a line ``field: old → new`` for every field in which two feature spaces differ.

    >>> differences({"layer": 6, "model": {"name": "a"}}, {"layer": 3, "model": {"name": "a"}})
    ['layer: 6 → 3']
    """
    left, right = dict(flatten(old)), dict(flatten(new))

    def show(fields: dict[str, Any], name: str) -> str:
        return json.dumps(fields[name], sort_keys=True, ensure_ascii=False) if name in fields else "(absent)"

    pairs = ((name, show(left, name), show(right, name)) for name in sorted(left.keys() | right.keys()))
    lines = (_difference(name, before, after) for name, before, after in pairs if before != after)
    return list(dict.fromkeys(lines))


def view_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say how the views of two records differ: which there are, and what decides their numbers, each thing once."""
    lines = differences({"views": ", ".join(old)}, {"views": ", ".join(new)})
    for name in sorted(old.keys() & new.keys()):
        lines += differences(*({**views[name]["space"], "dtype": views[name]["dtype"]} for views in (old, new)))
    return list(dict.fromkeys(lines))


# What fields that hold digests are about, by the last part of their name.
DIGESTED = {
    "genes": "the gene table", "input": "the cells", "ids": "the cells' ids", "orthologs": "the table of orthologs",
    "encoder": "the encoder of the gene texts",
}  # fmt: skip


def _difference(name: str, before: str, after: str) -> str:
    """Say one difference in words: nobody reads digests and lists of tokens."""
    digests = [text.startswith('"sha256:') for text in (before, after)]
    if any(digests):
        part = name.removesuffix(".digest").rpartition(".")[2]
        old, new = ("one" if there else "none" for there in digests)
        return f"{DIGESTED.get(part, f'the {part}')}: {'another one' if old == new else f'{old} → {new}'}"
    if name.endswith((".prefix", ".suffix")):
        return f"the words {'before' if name.endswith('.prefix') else 'after'} the genes: others"
    return f"{name}: another one" if len(before) + len(after) > LONGEST else f"{name}: {before} → {after}"


# Format of stores, heads, projectors, gene tables and panels. A larger first number cannot be read.
FORMAT = "1.0"

CARD = "README.md"  # what a command may write into a folder beside its two files

DESCRIPTION_LIMIT = 1 << 25  # bytes of a folder's description, at writing and at reading


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder, such as a head: its name in messages, its files, the command that makes one."""

    name: str
    description: str
    weights: str
    command: str
    parts: tuple[str, ...] = ()  # copies of other artifacts that it may hold

    def problem(self, path: Path) -> str | None:
        """Return why a path is not such a folder, or holds other things; ``None`` if it may be replaced by one."""
        parts = (self.description, self.weights, CARD, *self.parts)
        return fsio.folder_problem(path, f"a {self.name}", marker=self.description, parts=parts)


@dataclass(frozen=True)
class FileKind:
    """A kind of AnnData file, such as a panel: its name, its key in ``uns["scstore"]``, the command that makes one."""

    name: str
    key: str
    command: str

    def problem(self, path: Path) -> str | None:
        """Return why a path is not such a file; ``None`` if it may be replaced by one."""
        return None if what_is(path) == FILES[self.key] else f"is not a {self.name} of scstore's"


class Digested(Protocol):
    """Content with a digest."""

    @property
    def digest(self) -> str:
        """SHA-256."""


ContentT = TypeVar("ContentT", bound=Digested)


def check_format(path: Path, found: object) -> None:
    """Raise ``NewerFormatError`` for a larger first number than ours, ``DamagedError`` for what is not a version."""
    if not isinstance(found, str) or not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", found):
        raise DamagedError(f"{path} is damaged or not from scstore: {str(found)[:20]!r} is not a format version.")
    if int(found.partition(".")[0]) > int(FORMAT.partition(".")[0]):
        raise NewerFormatError(path, found, FORMAT)


def read_sealed_json(file: Path, *, limit: int, cure: str, has_format: bool = True) -> dict[str, Any]:
    """Return the content of a JSON file that holds its own digest; ``DamagedError``, with ``cure``, if it changed."""
    document = fsio.read_json(file, limit=limit)
    if has_format and isinstance(document, dict):
        check_format(file, document.get("format"))
    body = unseal(document)
    if body is None or file.read_bytes() != fsio.json_bytes(document):
        raise DamagedError(f"{file} does not match its own digest. {cure}")
    return body


def check_sealed_output(path: str | os.PathLike[str], kind: FolderKind | FileKind, *, overwrite: bool) -> Path:
    """Raise ``OutputError`` if an output exists and may not be replaced, is of another kind, or cannot be written."""
    return fsio.check_output(path, overwrite=overwrite, problem=kind.problem)


def write_sealed_folder(
    path: str | os.PathLike[str],
    kind: FolderKind,
    document: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    *,
    copies: Mapping[str, Path] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a JSON document, arrays and ``copies`` of other artifacts, by the name there, as a folder, atomically.

    The same content gives the same bytes. ``OptionError`` if JSON cannot hold the document as it is.
    """
    target = check_sealed_output(path, kind, overwrite=overwrite)
    weights = save(dict(sorted(arrays.items())))
    try:
        digests = {name: fsio.digest_tree(source) for name, source in (copies or {}).items()}
        body = seal({**document, "format": FORMAT, "weights": fsio.digest_bytes(weights), "copies": digests})
        description = fsio.json_bytes(body)
    except (TypeError, ValueError) as error:
        raise OptionError(f"JSON cannot hold the {kind.name} ({error}). Give text, finite numbers, lists.") from error
    if json.loads(description) != body:
        raise OptionError(f"JSON would change the {kind.name}. Give lists for tuples and text for keys.")
    if len(description) > DESCRIPTION_LIMIT:
        raise OptionError(f"The {kind.name} has {len(description):,} bytes of JSON; {DESCRIPTION_LIMIT:,} fit.")
    with fsio.atomic_folder(target, overwrite=overwrite) as folder:
        fsio.write_bytes(folder / kind.weights, weights)
        for name, source in (copies or {}).items():
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, folder / name)
        fsio.write_bytes(folder / kind.description, description)
    return target


def _check_path(path: object, kind: FolderKind | FileKind) -> None:
    """Refuse an object in the place of a path."""
    if not isinstance(path, str | os.PathLike):
        wanted = f"the path of a {kind.name} is wanted"
        raise NotAStoreError(f"This is {what_is(path)}, where {wanted}. Swapped with another?")


def read_sealed_folder(
    path: str | os.PathLike[str], kind: FolderKind, *, limit: int = WEIGHTS_LIMIT
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the document and the arrays of a folder; other files in it are ignored."""
    _check_path(path, kind)
    fsio.mend(path)
    description, weights = Path(path) / kind.description, Path(path) / kind.weights
    if not description.is_file():
        if what := what_is(path):
            raise NotAStoreError(f"{path}: this is {what}, where a {kind.name} is wanted. Swapped with another?")
        raise NotAStoreError(f"{path}: no {kind.name} ({kind.description}) is there. Make one with `{kind.command}`.")
    cure = f"Restore it from a copy, or make it again with `{kind.command}`."
    document = read_sealed_json(description, limit=DESCRIPTION_LIMIT, cure=cure)
    if not weights.is_file():
        raise DamagedError(f"{weights} is missing. {cure}")
    return document, read_weights(weights, digest=str(document.get("weights")), limit=limit)


def write_sealed_file(
    path: str | os.PathLike[str],
    kind: FileKind,
    content: Digested,
    adata: anndata.AnnData,
    header: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Path:
    """Write an AnnData with a header that holds its format and the digest of its content, atomically."""
    target = check_sealed_output(path, kind, overwrite=overwrite)
    full = {**header, "format": FORMAT, "digest": content.digest}
    adata.uns.setdefault("scstore", {}).update({"format": FORMAT, kind.key: json.dumps(full, sort_keys=True)})
    with fsio.atomic_path(target, overwrite=overwrite) as partial, hdf5_output(partial) as file:
        write_elem(file, "/", adata)
    return target


def read_sealed_file(
    path: str | os.PathLike[str], kind: FileKind, build: Callable[[anndata.AnnData, Mapping[str, Any]], ContentT]
) -> ContentT:
    """Return the content of an AnnData file, which ``build`` makes from the AnnData and its header."""
    _check_path(path, kind)
    file, cure = Path(path), f"Restore it from a copy, or make it again with `{kind.command}`."
    make = f"A {kind.name} is wanted here. Make one with `{kind.command}`."
    if not file.is_file() or not h5py.is_hdf5(file):
        other = what_else(file) if file.is_file() else "a folder" if file.exists() else "not there"
        raise GenesError(f"{file} is {what_is(file) or other}. {make}")
    with open_hdf5(file, error=GenesError) as opened:
        with reading(file, "its header", error=GenesError, cure=f"It is {what_is(file) or 'damaged'}. {make}"):
            header = json.loads(opened["uns/scstore"][kind.key].asstr()[()])
            check_format(file, header["format"])
        with reading(file, f"this {kind.name}", error=DamagedError, cure=cure):
            content = build(anndata.io.read_elem(opened), header)
            if content.digest != header["digest"]:
                raise DamagedError(f"{file}: the content does not match its digest. {cure}")
    return content
