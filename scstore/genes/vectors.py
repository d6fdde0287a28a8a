"""Gene vectors: texts encoded, kept in the user's cache so that none is paid for twice, and their geometry."""

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from scstore import fsio
from scstore.errors import GenesError, ScstoreError
from scstore.progress import Reporter
from scstore.sealed import canonical_json
from scstore.untrusted.guards import read_weights


class KeptVectors:
    """The vectors of one encoder: files that are never changed, each named by its digest; any process may add some."""

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self.folder = fsio.cache_folder() / "vectors" / _hex(canonical_json(identity))

    def find(self, texts: Collection[str]) -> dict[str, NDArray[np.float32]]:
        wanted = {bytes.fromhex(_hex(text)): text for text in texts}
        found: dict[str, NDArray[np.float32]] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                arrays = read_weights(file, digest=f"sha256:{file.stem}") if fsio.is_own(file) else {}
            except (OSError, ScstoreError):
                continue
            for key, vector in zip(arrays.get("texts", ()), arrays.get("vectors", ()), strict=True):
                if (text := wanted.get(key.tobytes())) is not None:
                    found[text] = vector
        return found

    def add(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep vectors; they are on disk when this returns (OSError, OutputError)."""
        keys = b"".join(bytes.fromhex(_hex(text)) for text in vectors)
        texts = np.frombuffer(keys, dtype="<i8").reshape(len(vectors), 4)
        raw = save({"texts": texts, "vectors": np.stack(list(vectors.values()))})
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fsio.write_bytes(self.folder / f"{fsio.digest_bytes(raw).removeprefix('sha256:')}.safetensors", raw)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


Vectors: TypeAlias = dict[str, NDArray[np.float32]]  # by text
KEEP_SECONDS = 10.0  # of work that are lost where a process is killed outright


class TextEncoder(Protocol):
    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that name the encoder and all that decides its vectors."""

    @property
    def width(self) -> int | None:
        """Width of the vectors; ``None`` if that shows only in the first one."""

    def batches(self, texts: Sequence[str]) -> Iterable[Sequence[str]]:
        """Split texts, the longest first, into what :meth:`encode` takes at a time."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return ``(n_texts, width) float32``; a text's vector does not depend on the others."""


class RandomEncoder:
    """Standard normal vectors seeded by the text itself: the control that knows nothing about genes."""

    def __init__(self, width: int, *, seed: int = 0) -> None:
        self.width = width
        self.seed = seed

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "random", "width": self.width, "seed": self.seed}

    def batches(self, texts: Sequence[str]) -> Iterable[Sequence[str]]:
        return [texts]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.width), dtype=np.float32)
        for i, text in enumerate(texts):
            key = hashlib.sha256(f"{self.seed}\0{text}".encode()).digest()
            vectors[i] = np.random.default_rng(np.frombuffer(key, dtype=np.uint64)).standard_normal(self.width)
        return vectors


def encode_texts(
    encoder: TextEncoder, texts: Sequence[str], *, kept: KeptVectors | None = None, progress: Reporter | None = None
) -> NDArray[np.float32]:
    """Encode texts, each once and those that are kept not at all, ``(n_texts, width) float32``, and keep them."""
    if not texts:
        raise GenesError("There are no gene texts to encode.")
    progress = progress or Reporter()
    known: Vectors = {} if kept is None else kept.find(set(texts))
    # longest first: if memory does not suffice, that shows in the first batch
    todo = sorted(set(texts) - known.keys(), key=lambda text: (-len(text), text))
    if known:
        progress.note(f"gene texts: {len(known):,} were encoded before, {len(todo):,} are left")
    fresh: Vectors = {}
    since = time.monotonic()
    try:
        with progress.track("encoding gene texts", len(todo), "texts") as track:
            for batch in encoder.batches(todo) if todo else ():
                vectors = encoder.encode(batch)
                if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
                    what = f"The vector of the gene text {batch[bad[0]][:60]!r}"
                    raise GenesError(f"{what} is not finite. Encode with dtype='float32'.")
                fresh.update(zip(batch, vectors, strict=True))
                if time.monotonic() - since > KEEP_SECONDS:
                    fresh, since = _keep(kept, fresh, known, progress), time.monotonic()
                track.advance(len(batch))
    finally:
        _keep(kept, fresh, known, progress)
    if kept is not None and len({len(vector) for vector in known.values()}) > 1:
        raise GenesError(f"{kept.folder}: vectors there have another width than new ones. Delete that folder.")
    return np.stack([known[text] for text in texts])


def _keep(kept: KeptVectors | None, fresh: Vectors, known: Vectors, progress: Reporter) -> Vectors:
    known |= fresh
    if kept is not None and fresh:
        try:
            kept.add(fresh)
        except (OSError, ScstoreError) as error:
            progress.warn(f"{kept.folder}: vectors cannot be kept there ({error}). Another run makes them again.")
    return {}


Array64 = NDArray[np.float64]
# Part of their mean that eigenvalues are raised by, so that directions without variance are not blown up.
SHRINKAGE = 1e-3


def whiten(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre vectors, ``(n, d) float32``, and make their directions equally strong (ZCA: the same on every machine)."""
    centre, inverse_root = whitening(vectors)
    return ((vectors.astype(np.float64) - centre) @ inverse_root).astype(np.float32)


def whitening(vectors: NDArray[np.float32]) -> tuple[Array64, Array64]:
    """Return the map of :func:`whiten` for other vectors of the same encoder: the mean, and what to multiply with."""
    centre = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - centre
    return centre, matrix_power(centred.T @ centred / max(1, len(vectors) - 1), -0.5, SHRINKAGE)


def matrix_power(symmetric: Array64, power: float, shrinkage: float) -> Array64:
    """Return a power of a positive semi-definite matrix, its eigenvalues raised by ``shrinkage`` of their mean."""
    # the last digits would differ with the number of threads; beyond this width one thread takes minutes
    with threadpool_limits(limits=1 if len(symmetric) <= 3072 else None, user_api="blas"):
        values, axes = np.linalg.eigh(symmetric)
    floor = shrinkage * max(float(values.mean()), np.finfo(np.float64).tiny)
    return np.asarray((axes * (np.maximum(values, 0) + floor) ** power) @ axes.T)
