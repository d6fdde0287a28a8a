"""Labelled cells whose names would do harm as HTML, script, formula or template."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

NASTY = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'`${x}",
    "$a_1$ \\(b\\)",
    "<img src=x onerror=alert(1)>",
)


def nasty_cells(n: int = 400) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Columns as ``annotate`` adds them, with names that would do harm as HTML, script, formula or template."""
    rng = np.random.default_rng(0)
    label = rng.choice(NASTY, n).astype(object)
    status = np.where(rng.random(n) < 0.2, "unsure", "ok")
    shown = np.where(status == "ok", label, "unassigned")
    obs = pd.DataFrame({"scstore_label": pd.Categorical(shown), "scstore_status": pd.Categorical(status)})
    obs["scstore_confidence"], obs["scstore_novelty"] = rng.random(n), rng.random(n) * 2
    obs["scstore_reason"] = pd.Categorical(np.where(status == "ok", "", f"confidence below 0.5 {NASTY[0]}"))
    obs["scstore_best_label"], obs["scstore_second_label"] = pd.Categorical(label), pd.Categorical(label[::-1])
    obs["sample"] = rng.choice(NASTY, n)
    obs[NASTY[0]] = rng.choice(NASTY, n)
    obs.index = [f"{NASTY[i % len(NASTY)]}{i}" for i in range(n)]
    record = {"head": NASTY[4], "label": NASTY[0], "labels": list(NASTY), "trained_on": NASTY[0], "views": ["X"]}
    record["genes"] = {"n_read": 9, "missing": list(NASTY)}
    return obs, rng.normal(size=(n, 2)).astype(np.float32), record
