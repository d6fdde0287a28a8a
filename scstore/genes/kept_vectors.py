"""Vectors of texts in the user's cache, by encoder and text, so that none is made or paid for twice."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from scstore import fsio
from scstore.errors import ScstoreError
from scstore.sealed import canonical_json
from scstore.untrusted.safetensors import read_weights


class KeptVectors:
    """The vectors of one encoder: files that are never changed, each named by the digest of its bytes.

    Any number of processes may add some at the same time. A file that is damaged or of another owner is not read.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self.folder = fsio.cache_folder() / "vectors" / _hex(canonical_json(identity))

    def find(self, texts: Collection[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors, ``(width,) float32``, of those texts that have one."""
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
