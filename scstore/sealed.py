"""Small AnnData files with a header and a digest of their contents: gene tables, panels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anndata

from scstore import fsio
from scstore.errors import DamagedError, GenesError
from scstore.untrusted.hdf5 import check_hdf5

__all__ = ["Kind", "read_sealed", "write_sealed"]

FORMAT = "1.0"


class Digested(Protocol):
    """Something that has a digest of its contents."""

    @property
    def digest(self) -> str:
        """SHA-256."""


T = TypeVar("T", bound=Digested)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    name
        In words, for messages.
    key
        Of the header in ``uns["scstore"]``.
    cure
        How to make one.
    """

    name: str
    key: str
    cure: str


def write_sealed(
    path: str | os.PathLike[str],
    kind: Kind,
    content: Digested,
    adata: anndata.AnnData,
    header: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Path:
    """Write an AnnData with a header that names its format and the digest of its content, atomically.

    Raises
    ------
    OutputError
        If the file exists and ``overwrite`` is not set.
    """
    target = fsio.check_output(path, overwrite=overwrite)
    full = {**header, "format": FORMAT, "digest": content.digest}
    own = adata.uns.setdefault("scstore", {})
    own |= {"format": FORMAT, kind.key: json.dumps(full, sort_keys=True)}
    with fsio.atomic_path(target) as partial:
        adata.write_h5ad(partial, convert_strings_to_categoricals=False)
    return target


def read_sealed(
    path: str | os.PathLike[str], kind: Kind, build: Callable[[anndata.AnnData, Mapping[str, Any]], T]
) -> T:
    """Read what :func:`write_sealed` wrote and compare it with its digest.

    Parameters
    ----------
    path
        The file.
    kind
        What it should be.
    build
        Makes the content of the AnnData and its header.

    Raises
    ------
    GenesError
        If the file is not there, of another kind, in a newer format, or one that HDF5 cannot be trusted with.
    DamagedError
        If its contents do not match its digest.
    """
    file = Path(path)
    if not file.is_file():
        msg = f"{file}: no such {kind.name}. {kind.cure}"
        raise GenesError(msg)
    check_hdf5(file, error=GenesError)
    try:
        adata = anndata.read_h5ad(file)
        header = json.loads(str(adata.uns["scstore"][kind.key]))
        found, digest = str(header["format"]), header["digest"]
        newer = int(found.split(".")[0]) > int(FORMAT.split(".")[0])
        content = build(adata, header)
        intact = content.digest == digest
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # HDF5 and anndata raise anything on damaged bytes
        reason = " ".join(str(error).split())[:200]
        msg = f"{file} is no {kind.name} of scstore's, or a damaged one ({reason}). {kind.cure}"
        raise GenesError(msg) from error
    if newer:
        msg = f"{file} is in {kind.name} format {found}; this scstore reads up to {FORMAT}. Update scstore."
        raise GenesError(msg)
    if not intact:
        msg = f"{file}: contents do not match the digest they were written with. Restore the file from a copy."
        raise DamagedError(msg)
    return content
