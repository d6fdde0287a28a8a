from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

CELLTYPIST = '''
"""Stands in for CellTypist: the label whose mean is nearest, in columns of mean 0 and spread 1."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


class Model:
    def __init__(self, scaler, classifier):
        self.scaler, self.classifier = scaler, classifier


def train(rows, *, labels, genes, check_expression, use_SGD, n_jobs):
    assert rows.shape == (len(labels), len(genes)) and not check_expression and n_jobs == 1
    scaler = StandardScaler().fit(rows)
    classifier = LogisticRegression(C=0.01 if use_SGD else 1.0, max_iter=500)
    return Model(scaler, classifier.fit(scaler.transform(rows), labels))
'''


def test_a_quick_run_compares_every_head_on_a_real_view(
    tmp_path: Path, benchmark: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import heads
    from own_process import peak_gb

    def here(function: Callable, *given: object, threads: int) -> dict:
        return {**function(*given), "peak_gb": peak_gb()}

    monkeypatch.setattr(heads, "in_own_process", here)
    rng = np.random.default_rng(0)
    kinds = np.repeat(["a", "b", "c", "rare"], [60, 60, 40, 3])
    obs = pd.DataFrame({"kind": kinds}, index=[f"cell{i}" for i in range(len(kinds))])
    obs.loc["cell0", "kind"] = None
    place = np.searchsorted(["a", "b", "c", "rare"], kinds)
    rows = rng.normal(size=(len(kinds), 8)) + 5 * np.eye(8)[place]
    anndata.AnnData(obs=obs, obsm={"X_pca": rows.astype(np.float32)}).write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "celltypist.py").write_text(CELLTYPIST)
    words = ["--quick", "--threads", "1", "--view", "cells.h5ad:X_pca:kind"]
    lines, found = benchmark("heads", *words, "--celltypist", sys.executable)
    assert lines[-1].endswith("- all held")
    found = found["figures"]
    assert found.pop("threads") == 1
    ((title, view),) = found.items()
    # the cell without a label and the label of three cells are left out
    assert title == "cells.h5ad X_pca, 119 x 8"
    assert (view["n"], view["n_test"], view["width"]) == (119, 40, 8)
    assert len(view["rows"]) == 13
    for figures in view["rows"].values():
        assert figures["accuracy"] > 0.7
        assert figures["seconds"] > 0
        assert figures["label_seconds"] > 0
        assert 0 < figures["peak_gb"] < 4
    passes = [figures["pass_seconds"] for name, figures in view["rows"].items() if "celltypist" not in name]
    assert len(passes) == 11
    assert min(passes) > 0
