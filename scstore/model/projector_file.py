"""A trained projector as a folder: ``projector.json`` and ``projector.safetensors``, nothing that can run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors.numpy import save

from scstore import fsio
from scstore.errors import DamagedError, FeatureSpaceError
from scstore.sealed import FolderKind, differences, fingerprint, read_sealed_folder, write_sealed_folder

if TYPE_CHECKING:
    from scstore.model.trained_projector import TrainedProjector


PROJECTOR = FolderKind("projector", "projector.json", "projector.safetensors", "scstore align")
FIELDS = ("shape", "fits", "trained_on", "held_out", "training")


@dataclass(frozen=True)
class ProjectorFile:
    """A projector that was trained, what it ``fits``, and what it saw."""

    shape: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    fits: Mapping[str, Any]  # what an extraction must have in common with the training
    trained_on: tuple[str, ...] = field(repr=False)  # ids of cells, sorted: it saw their labels
    held_out: tuple[str, ...] = field(repr=False)  # and theirs: it was stopped by them
    training: Mapping[str, Any]  # the rest of its history; the curve has a row an epoch, the untrained one first

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides the input vectors: what a feature space holds."""
        weights = fsio.digest_bytes(save(dict(sorted(self.arrays.items()))))
        return fingerprint({"shape": dict(self.shape), "weights": weights})

    @property
    def seen(self) -> tuple[str, ...]:
        return tuple(sorted({*self.trained_on, *self.held_out}))

    @property
    def label(self) -> str:
        return str(self.training["label"])

    @property
    def curve(self) -> list[dict[str, Any]]:
        return list(self.training["curve"])

    def build(self) -> TrainedProjector:
        """The projector, ready to run; DamagedError if the weights do not fit the shape."""
        from scstore.model.trained_projector import TrainedProjector

        return TrainedProjector.from_arrays(self.arrays, **self.shape)

    def check_fits(self, found: Mapping[str, Any], *, path: str) -> None:
        """Raise FeatureSpaceError, with all fields that differ, where the extraction's side of ``fits`` is another."""
        if fields := differences(self.fits, found):
            why = "it was trained for another input than this extraction's (trained → here):"
            cure = "Give the options it was trained with, or train one for these: scstore align."
            raise FeatureSpaceError("\n".join([f"projector={path!r}: {why}", *(f"  {one}" for one in fields), cure]))


def save_projector(projector: ProjectorFile, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a projector, whole or not at all. The same projector gives the same bytes."""
    document = {"projector": projector.digest} | {name: getattr(projector, name) for name in FIELDS}
    document |= {name: list(document[name]) for name in ("trained_on", "held_out")}
    return write_sealed_folder(path, PROJECTOR, document, projector.arrays, overwrite=overwrite)


def load_projector(path: str | os.PathLike[str]) -> ProjectorFile:
    """Read a projector that :func:`save_projector` wrote (NotAStoreError, NewerFormatError, DamagedError)."""
    document, arrays = read_sealed_folder(path, PROJECTOR)
    try:
        ids = {name: tuple(document[name]) for name in ("trained_on", "held_out")}
        projector = ProjectorFile(arrays=arrays, **{name: document[name] for name in FIELDS} | ids)
        intact = projector.digest == document["projector"]
    except (KeyError, TypeError, ValueError):
        intact = False
    if not intact:
        msg = f"{Path(path) / PROJECTOR.description} contradicts itself. Restore it from a copy, or train it again."
        raise DamagedError(msg)
    return projector
