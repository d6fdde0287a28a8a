"""Feature spaces and their fingerprints, and JSON with its own digest.

A feature space is a plain mapping of JSON values that names everything which decides the numbers of a view: model and
weights digest, instruction, layout, gene table digest, panel digest, ranking, projector, layer, pooling. Two views may
be compared only when their fingerprints are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Space", "canonical_json", "differences", "fingerprint", "flatten", "seal", "unseal"]

Space = Mapping[str, Any]
"""A JSON object that names a feature space."""


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces; ``ValueError`` for NaN, ``TypeError`` for what is not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(space: Space) -> str:
    """Return the SHA-256 of the canonical JSON of a feature space, as ``sha256:<64 hex digits>``."""
    return "sha256:" + hashlib.sha256(canonical_json(space).encode()).hexdigest()


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

    Examples
    --------
    >>> differences({"layer": 6, "model": {"name": "a"}}, {"layer": 3, "model": {"name": "a"}})
    ['layer: 6 → 3']
    """
    left, right = dict(flatten(old)), dict(flatten(new))
    missing = object()

    def show(value: Any) -> str:
        return "(absent)" if value is missing else json.dumps(value, ensure_ascii=False)

    return [
        f"{name}: {show(left.get(name, missing))} → {show(right.get(name, missing))}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name, missing) != right.get(name, missing)
    ]
