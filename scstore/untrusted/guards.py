"""Reading from a file or folder of somebody else: what is opened is checked, and errors are plain."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import zarr

from scstore.errors import CellsError, ScstoreError
from scstore.untrusted.hdf5 import missing_filter
from scstore.untrusted.limits import too_large

# Groups nested deeper than this belong to no data frame.
DEPTH = 8


def damaged(source: str, problem: str) -> CellsError:
    """Return the error for a file of cells that contradicts itself; the problem is a whole sentence."""
    return CellsError(f"{source}: {problem} The file is damaged or incomplete: copy or download it again.")


@contextlib.contextmanager
def reading(source: str, name: str) -> Iterator[None]:
    """Turn whatever a storage library raises while it decodes into one plain :class:`CellsError`."""
    try:
        yield
    except (ScstoreError, MemoryError):
        raise
    except PermissionError as error:
        msg = f"{source}: {name} may not be read (permission denied). Ask its owner for the right to read it."
        raise CellsError(msg) from error
    except Exception as error:  # codecs raise anything on damaged bytes, SystemError among them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise damaged(source, f"{name} cannot be read ({reason}).") from error


@dataclass(frozen=True)
class Guard:
    """Opens the members of an HDF5 file or Zarr folder of ``stored`` bytes.

    HDF5 files were checked as a whole when they were opened; of a Zarr folder each array is checked here.
    """

    source: str
    stored: int

    def member(self, group: Any, name: str) -> Any:
        """Return a group's member, or ``None``; refuse an array that may not be decoded."""
        with reading(self.source, name):
            if isinstance(group, h5py.Group):  # `in` would take a damaged member for an absent one
                present = group.id.links.exists(name.encode("utf-8", "surrogateescape"))
            else:
                present = name in group
            node = group[name] if present else None
            problem = missing_filter(node) if isinstance(node, h5py.Dataset) else None
            if isinstance(node, zarr.Array):
                problem = too_large(node, self.stored)
        if problem is not None:
            raise CellsError(f"{self.source}: {problem}")
        return node

    def names(self, group: Any) -> list[str]:
        """Return the names of a group's members, sorted."""
        with reading(self.source, str(group.name)), warnings.catch_warnings():
            # Zarr warns of files that are not its own (.DS_Store)
            warnings.simplefilter("ignore")
            return sorted(group.keys())

    def tree(self, group: Any, *, depth: int = DEPTH) -> None:
        """Check every array below a group before any of them is read."""
        if depth == 0:
            raise damaged(self.source, f"Groups below {str(group.name).strip('/')[:100]} are nested without end.")
        for name in self.names(group):
            node = self.member(group, name)
            if isinstance(node, (h5py.Group, zarr.Group)):
                self.tree(node, depth=depth - 1)
