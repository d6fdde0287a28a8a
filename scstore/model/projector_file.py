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
from scstore.sealed import (
    FolderKind,
    differences,
    fingerprint,
    read_sealed_folder,
    write_sealed_folder,
)

if TYPE_CHECKING:
    from scstore.model.trained_projector import TrainedProjector


PROJECTOR = FolderKind("projector", "projector.json", "projector.safetensors", "scstore align")


@dataclass(frozen=True)
class ProjectorFile:
    """A projector that was trained, with where it fits and what it saw.

    ``shape`` and ``arrays`` make a :class:`~scstore.model.trained_projector.TrainedProjector`. ``fits`` is what an
    extraction must have in common with the training: model, encoder of the gene vectors, layout, expression scaling.
    ``trained_on`` and ``held_out`` are ids of the cells it was trained on and stopped by, sorted: it saw the labels of
    both. ``training`` is the rest of its history: label, classes, panel, layers, recipe, learning curve, versions, ….
    """

    shape: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    fits: Mapping[str, Any]
    trained_on: tuple[str, ...] = field(repr=False)
    held_out: tuple[str, ...] = field(repr=False)
    training: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides the input vectors: what a feature space holds."""
        weights = fsio.digest_bytes(save(dict(sorted(self.arrays.items()))))
        return fingerprint({"shape": dict(self.shape), "weights": weights})

    @property
    def seen(self) -> tuple[str, ...]:
        """Ids of all cells whose labels it saw, sorted."""
        return tuple(sorted({*self.trained_on, *self.held_out}))

    @property
    def label(self) -> str:
        """The label column it was trained for."""
        return str(self.training["label"])

    @property
    def curve(self) -> list[dict[str, Any]]:
        """A row an epoch, the untrained projector first."""
        return list(self.training["curve"])

    def build(self) -> TrainedProjector:
        """The projector, ready to run; DamagedError if the weights do not fit the shape."""
        from scstore.model.trained_projector import TrainedProjector

        return TrainedProjector.from_arrays(self.arrays, **self.shape)

    def check_fits(self, found: Mapping[str, Any], *, path: str) -> None:
        """Raise FeatureSpaceError, with all fields that differ, where the extraction's side of ``fits`` is another."""
        if fields := differences(self.fits, found):
            raise FeatureSpaceError(
                f"projector={path!r}: it was trained for another input than this extraction's (trained → here):\n  "
                + "\n  ".join(fields)
                + "\nGive the options it was trained with, or train one for these: scstore align."
            )


def save_projector(projector: ProjectorFile, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a projector, whole or not at all. The same projector gives the same bytes."""
    document = {
        "shape": dict(projector.shape),
        "projector": projector.digest,
        "fits": dict(projector.fits),
        "trained_on": list(projector.trained_on),
        "held_out": list(projector.held_out),
        "training": dict(projector.training),
    }
    return write_sealed_folder(path, PROJECTOR, document, projector.arrays, overwrite=overwrite)


def load_projector(path: str | os.PathLike[str]) -> ProjectorFile:
    """Read a projector that :func:`save_projector` wrote (NotAStoreError, NewerFormatError, DamagedError)."""
    document, arrays = read_sealed_folder(path, PROJECTOR)
    try:
        projector = ProjectorFile(
            shape=document["shape"],
            arrays=arrays,
            fits=document["fits"],
            trained_on=tuple(document["trained_on"]),
            held_out=tuple(document["held_out"]),
            training=document["training"],
        )
        intact = projector.digest == document["projector"]
    except (KeyError, TypeError, ValueError):
        intact = False
    if not intact:
        msg = f"{Path(path) / PROJECTOR.description} contradicts itself. Restore it from a copy, or train it again."
        raise DamagedError(msg)
    return projector
