"""From gene vectors to input vectors of the language model.

``native``: none, the vectors have the model's width. ``aligned``, label-free and in closed form: centre, whiten, rotate
into the model's width, colour with the covariance of its token embeddings, shift to their mean, match norms (CORAL,
Sun et al. 2016). ``random``: a seeded orthonormal map, the control. A trained one starts at ``aligned``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from scstore import fsio
from scstore.errors import DamagedError, FeatureSpaceError, OptionError
from scstore.genes.vectors import matrix_power, whitening
from scstore.sealed import FolderKind, differences, fingerprint, read_sealed_folder, write_sealed_folder

if TYPE_CHECKING:
    import torch

    from scstore.model.trained_projector import TrainedProjector


PROJECTORS = ("aligned", "native", "random")


@dataclass(frozen=True)
class AlignedMap:
    """The ``aligned`` projector as numbers: ``(v - centre) @ whitening @ weight + bias``, scaled to ``norm``."""

    centre: NDArray[np.float64]  # (d,), of the gene vectors it was made for
    whitening: NDArray[np.float64]  # (d, d), of these too
    weight: NDArray[np.float64]  # (d, width): rotates and colours
    bias: NDArray[np.float64]  # (width,): mean of the token embeddings
    norm: float


def orthonormal(rows: int, columns: int, *, seed: int) -> NDArray[np.float64]:
    tall = np.random.default_rng(seed).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # QR is unique only up to these signs
    return q if rows >= columns else q.T


def project(
    vectors: NDArray[np.float32], token_embeddings: "torch.Tensor", *, kind: str = "aligned", seed: int = 0
) -> NDArray[np.float32]:
    """Turn gene vectors ``(n_genes, d)`` into input vectors ``(n_genes, width) float32`` of a language model."""
    width = token_embeddings.shape[1]
    if kind == "native":
        if vectors.shape[1] != width:
            widths = f"the gene vectors are {vectors.shape[1]} wide, the model {width}"
            cure = "Encode the gene texts with the model itself, or use projector='aligned'."
            raise OptionError(f"projector='native': {widths}. {cure}")
        return vectors
    if kind == "random":
        mapped = vectors @ orthonormal(vectors.shape[1], width, seed=seed)
        typical = max(float(np.median(np.linalg.norm(mapped, axis=1))), 1e-12)
        return (mapped * (_median_norm(token_embeddings) / typical)).astype(np.float32)
    aligned = aligned_map(vectors, token_embeddings, seed=seed)
    mapped = (vectors.astype(np.float64) - aligned.centre) @ aligned.whitening @ aligned.weight + aligned.bias
    lengths = np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
    return np.asarray(mapped * (aligned.norm / lengths), dtype=np.float32)


def aligned_map(vectors: NDArray[np.float32], token_embeddings: "torch.Tensor", *, seed: int = 0) -> AlignedMap:
    """The map behind ``project(…, kind="aligned")``, for vectors of the same encoder."""
    width, tokens = token_embeddings.shape[1], token_embeddings.float()
    centre, inverse_root = whitening(vectors)
    mean = tokens.mean(dim=0, keepdim=True)
    spread = tokens - mean
    covariance = (spread.T @ spread / max(1, len(tokens) - 1)).double().cpu().numpy()
    weight = matrix_power(covariance, 0.5, 0.0)
    if vectors.shape[1] != width:
        weight = orthonormal(vectors.shape[1], width, seed=seed) @ weight
    bias = mean.double().cpu().numpy()[0]
    return AlignedMap(centre, inverse_root, weight, bias, _median_norm(token_embeddings))


def _median_norm(token_embeddings: "torch.Tensor") -> float:
    return float(token_embeddings.float().norm(dim=1).median())


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

    def build(self) -> "TrainedProjector":
        from scstore.model.trained_projector import TrainedProjector

        return TrainedProjector.from_arrays(self.arrays, **self.shape)

    def check_fits(self, found: Mapping[str, Any], *, path: str) -> None:
        """Raise FeatureSpaceError, with all fields that differ, where the extraction's side of ``fits`` is another."""
        if fields := differences(self.fits, found):
            why = "it was trained for another input than this extraction's (trained → here):"
            cure = "Give the options it was trained with, or train one for these: scstore align."
            raise FeatureSpaceError("\n".join([f"projector={path!r}: {why}", *(f"  {one}" for one in fields), cure]))


def save_projector(projector: ProjectorFile, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
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
