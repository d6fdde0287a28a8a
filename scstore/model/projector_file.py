"""A trained projector as a folder: ``projector.json`` and ``projector.safetensors``, nothing that can run.

The JSON holds the digest of the weights and its own: checksums against damage, no signatures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from numpy.typing import NDArray
from safetensors.numpy import save

from scstore import fsio
from scstore.errors import DamagedError, FeatureSpaceError, NotAStoreError, OutputError
from scstore.spec import differences, fingerprint, seal, unseal
from scstore.untrusted.weights import read_weights

if TYPE_CHECKING:
    from scstore.model.trained_projector import TrainedProjector

__all__ = ["ProjectorFile", "check_projector_output", "load_projector", "save_projector"]

FORMAT = "1.0"
DESCRIPTION = "projector.json"
WEIGHTS = "projector.safetensors"


@dataclass(frozen=True)
class ProjectorFile:
    """A projector that was trained, with where it fits and what it saw.

    Attributes
    ----------
    shape
        ``width_in``, ``width_out``, ``blocks`` and ``start`` of
        :class:`~scstore.model.trained_projector.TrainedProjector`.
    arrays
        Its weights.
    fits
        What an extraction must have in common with the training: model, encoder of the gene vectors, layout,
        expression scaling.
    trained_on, held_out
        Ids of the cells it was trained on and stopped by, sorted: it has seen the labels of both.
    training
        The rest of its history, as JSON: label, classes, panel, layers, recipe, learning curve, versions, ….
    """

    shape: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    fits: Mapping[str, Any]
    trained_on: tuple[str, ...] = field(repr=False)
    held_out: tuple[str, ...] = field(repr=False)
    training: Mapping[str, Any]

    @cached_property
    def weights(self) -> bytes:
        """The weights as safetensors."""
        return save({name: self.arrays[name] for name in sorted(self.arrays)})

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides the input vectors: what a feature space holds."""
        return fingerprint({"shape": dict(self.shape), "weights": fsio.digest_bytes(self.weights)})

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
        """The projector, ready to run.

        Raises
        ------
        DamagedError
            If the weights do not fit the shape.
        """
        from scstore.model.trained_projector import TrainedProjector

        return TrainedProjector.from_arrays(self.arrays, **self.shape)

    def check_fits(self, found: Mapping[str, Any], *, path: str) -> None:
        """Compare where it is to be used with where it was trained.

        Parameters
        ----------
        found
            The extraction's side of ``fits``.
        path
            The projector's, for the message.

        Raises
        ------
        FeatureSpaceError
            If a field differs; all that differ are named.
        """
        if fields := differences(self.fits, found):
            msg = (
                f"--projector {path}: it was trained for another input than this extraction's (trained → here):\n  "
                + "\n  ".join(fields)
                + "\nGive the options it was trained with, or train one for these: scstore align."
            )
            raise FeatureSpaceError(msg)


def save_projector(projector: ProjectorFile, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a projector, whole or not at all. The same projector gives the same bytes.

    Raises
    ------
    OutputError
        If ``path`` exists and is not to be replaced or is no projector.
    """
    target = check_projector_output(path, overwrite=overwrite)
    document = {
        "format": FORMAT,
        "kind": "projector",
        "shape": dict(projector.shape),
        "weights": fsio.digest_bytes(projector.weights),
        "projector": projector.digest,
        "fits": dict(projector.fits),
        "trained_on": list(projector.trained_on),
        "held_out": list(projector.held_out),
        "training": dict(projector.training),
    }
    with fsio.atomic_folder(target, overwrite=overwrite) as folder:
        fsio.write_bytes(folder / WEIGHTS, projector.weights)
        fsio.write_json(folder / DESCRIPTION, seal(document))
    return target


def check_projector_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Say whether a projector can be written there, before it is trained.

    Raises
    ------
    OutputError
        As :func:`save_projector`.
    """
    target = fsio.check_output(path, overwrite=overwrite)
    if target.exists() and not (target / DESCRIPTION).is_file():
        msg = f"{target} exists and is no projector, so it is not replaced. Choose another name."
        raise OutputError(msg)
    return target


def load_projector(path: str | os.PathLike[str]) -> ProjectorFile:
    """Read a projector that :func:`save_projector` wrote.

    Raises
    ------
    NotAStoreError
        If ``path`` holds no projector.
    FeatureSpaceError
        If it is in a newer format.
    DamagedError
        If anything in it is not as it was written.
    """
    folder = Path(path)
    file = folder / DESCRIPTION
    if not file.is_file():
        msg = (
            f"{folder}: no projector there (a folder with {DESCRIPTION} and {WEIGHTS}). Train one with: scstore align."
        )
        raise NotAStoreError(msg)
    document = fsio.read_json(file)
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(found, str) or not found.partition(".")[0].isdecimal():
        _refuse(file, "it names no format")
    if int(found.partition(".")[0]) > int(FORMAT.partition(".")[0]):
        msg = f"{file}: projector format {found}; this scstore reads up to {FORMAT}. Update: pip install -U scstore."
        raise FeatureSpaceError(msg)
    body = unseal(document)
    if body is None or body.get("kind") != "projector":
        _refuse(file, "its digest does not match its content")
    weights = folder / WEIGHTS
    if not weights.is_file():
        _refuse(weights, "the file is missing")
    projector = ProjectorFile(
        shape=body["shape"],
        arrays=read_weights(weights, digest=body["weights"]),
        fits=body["fits"],
        trained_on=tuple(body["trained_on"]),
        held_out=tuple(body["held_out"]),
        training=body["training"],
    )
    if projector.digest != body["projector"]:
        _refuse(file, "its digest does not match its content")
    return projector


def _refuse(file: Path, why: str) -> NoReturn:
    msg = f"{file}: {why}. The file is damaged or not scstore's: restore it from a copy, or train it again."
    raise DamagedError(msg)
