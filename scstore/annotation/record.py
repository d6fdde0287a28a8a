"""How labels were made, as the cells keep it: ``uns["scstore"]["annotation"]``."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scstore import fsio
from scstore.annotation.head_inputs import HeadInputs, most_important
from scstore.annotation.predict import Labelling
from scstore.errors import printable
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.artifact import HEAD, AnyHead
from scstore.heads.rejection import Rejection
from scstore.store.mirror import local

# Packages that the labels depend on.
PACKAGES = ("scstore", "numpy", "scipy", "scikit-learn", "anndata")
# Edges of the bins in which confidence and novelty of held-out cells are counted; the last one is open.
CONFIDENCE_EDGES, NOVELTY_EDGES = np.linspace(0, 1, 21), np.linspace(0, 3, 21)
SCORES = ("n", "accuracy", "macro_f1", "ece")


def annotation_record(labelling: Labelling, head: AnyHead, name: str, *, computed: Sequence[str]) -> dict[str, Any]:
    """Return how cells are labelled; ``computed`` are the views that were made for it."""
    thresholds, record = labelling.rule.thresholds, head.record_
    trained, model = record.get("trained_on", {}), record.get("extraction", {}).get("model") or {}
    reads_model = any(view.startswith("readout") for view in labelling.head.views_)
    return {
        "head": name,
        "head_digest": head_digest(name),
        "kind": head.kind,
        "label": str(record.get("label", "")),
        "labels": labelling.rule.labels,
        "trained_on": str(trained.get("name", "")),
        "trained_cells": int(trained.get("n_cells", 0)),
        "group": str(record.get("group") or ""),
        "n_groups": int(record.get("n_groups") or 0),
        "views": list(labelling.head.views_),
        "computed_views": list(computed),
        "model": str(model.get("name", "")) if reads_model else "",
        "model_digest": str(model.get("digest", "")) if reads_model else "",
        "genes": _genes(labelling.inputs, head),
        "held_out": _held_out(labelling, head),
        "least_confidence": float(thresholds.confidence),
        "most_novelty": float(thresholds.novelty) if np.isfinite(thresholds.novelty) else "none",
        "cells": printable(str(labelling.store.path)),
        "scstore": version("scstore"),
        "versions": {package: version(package) for package in PACKAGES},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def head_digest(head: object) -> str:
    """Return the digest of a saved head's description, in which those of its files are; empty for one in memory."""
    saved = Path(local(head), HEAD.description) if isinstance(head, str | os.PathLike) else None
    return fsio.digest_file(saved) if saved is not None and saved.is_file() else ""


def _genes(inputs: HeadInputs | None, head: AnyHead) -> dict[str, Any]:
    """Return how many genes the head reads, which were not measured, and what that costs; nothing without ``X``."""
    if inputs is None or inputs.measured is None or isinstance(head, AcrossGenesHead):
        return {}
    found: dict[str, Any] = {
        "n_read": len(inputs.measured),
        "missing": [head.record_["genes"]["symbol"][i] for i in most_important(inputs.measured, head)],
    }
    return found if inputs.case is None else found | {"known": inputs.case.known, "accuracy": inputs.case.accuracy}


def _held_out(labelling: Labelling, head: AnyHead) -> dict[str, Any]:
    """Return the scores of held-out cells, and what to compare new cells with: those that were labelled right."""
    scores: Mapping[str, Any] = head.held_out_
    found: dict[str, Any] = {name: scores[name] for name in SCORES if scores.get(name) is not None}
    bins = head.record_.get("reliability", [])
    found["reliability"] = {name: [one[name] for one in bins] for name in ("n", "confidence", "accuracy")}
    if head.rejection_ is not None:
        found["confidence"] = counted(head.rejection_.confidence, CONFIDENCE_EDGES)
        if labelling.inputs is None or labelling.inputs.case is None:  # else labels must be right often enough too
            found["keep"] = float(labelling.options.keep or head.rejection_.keep)
    if isinstance(labelling.head.rejection_, Rejection):
        found["novelty"] = counted(labelling.head.rejection_.novelty, NOVELTY_EDGES)
    return found


def counted(values: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> list[int]:
    """Return how many values lie in each bin; the last bin takes all that are larger."""
    return [int(n) for n in np.histogram(np.minimum(values, edges[-1]), edges)[0]]
