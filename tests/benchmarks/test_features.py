from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, make_cells

import scstore
from scstore.evaluation.conclusion import paired_difference

CELLTYPIST = '''
"""Stands in for CellTypist: the label whose mean is nearest."""

import numpy as np
import pandas as pd


def train(expression, *, labels, genes, check_expression):
    assert expression.shape == (len(labels), len(genes)) and not check_expression
    labels = np.array(labels)
    return {name: np.asarray(expression[labels == name].mean(axis=0)).ravel() for name in sorted(set(labels))}


class Found:
    def __init__(self, labels, index):
        self.predicted_labels = pd.DataFrame({"predicted_labels": labels}, index=index)


def annotate(cells, *, model, majority_voting):
    means = np.array(list(model.values()))
    far = ((cells.X.toarray()[:, None, :] - means) ** 2).sum(axis=2)
    return Found([list(model)[k] for k in far.argmin(axis=1)], cells.obs_names)
'''


def test_a_quick_run_gives_every_table_and_a_second_one_finds_the_stores(
    llama: Path, tmp_path: Path, benchmark: Callable
) -> None:
    make_cells(220, 150).write_h5ad(tmp_path / "cells.h5ad")
    scstore.build_genes(tmp_path / "genes.h5ad", cells=tmp_path / "cells.h5ad", encoder="random:16")
    (tmp_path / "celltypist.py").write_text(CELLTYPIST)
    words = [".", "--table", "genes.h5ad", "--model", llama, "--layers", "1", "3", "--top-genes", "60"]
    words += ["--pairs", "cells.h5ad:donor:d1", "--work", "stores", "--quick", "--celltypist", sys.executable]
    lines, found = benchmark("features", *words)
    assert sum(": extracted " in line for line in lines) == 10
    for regime in ("all labels", "2 cells a label", "disjoint genes"):
        assert any(line.startswith(f"{regime}: macro-F1 and accuracy") for line in lines)
        assert any(line.startswith(f"{regime}: ") and "added" in line for line in lines)
    assert lines[-1].startswith("goals checked: none")
    found = found["figures"]
    assert found["pairs"] == [{"held_out": "cells.h5ad:donor:d1", "train": 110, "test": 110}]
    found = found["regimes"]
    rows = found["all labels"]["rows"]
    default = "default"
    expected = {default: "model", "readout_last_l3": "model", "genept+X": "gene texts", "regression": "nothing"}
    expected |= {"PCA 50 + LR": "nothing", "CellTypist": "nothing", "random model: readout_wmean_l1": "control"}
    expected |= {f"random model: {default}": "control", "shuffled order: readout_wmean_l1": "control"}
    expected |= {"all genes: readout_last_l3": "model", "all genes: genept_w": "gene texts"}
    assert {name: rows[name]["uses"] for name in expected} == expected
    assert {"all genes: genept_s", f"label-free panel: {default}"} <= set(rows)
    assert all(0 <= row["macro_f1"] <= 1 for row in rows.values())
    assert min(rows[name]["macro_f1"] for name in (default, "X", "regression", "PCA 50 + LR", "CellTypist")) > 0.9
    gain = found["all labels"]["gains"]["default over no model"]
    assert gain["mean"] == pytest.approx(rows[default]["macro_f1"] - rows["regression"]["macro_f1"])
    assert gain["low"] <= gain["mean"] <= gain["high"]
    few = found["2 cells a label"]["rows"]
    assert {f"label-free panel: {default}", "CellTypist", "all genes: genept_w"} <= set(few)
    assert default not in few  # its panel saw the labels
    assert set(found["disjoint genes"]["rows"]) >= {"across-genes", "genept_unwhitened", "genept_random"}

    lines, _ = benchmark("features", *words, "--regimes", "genes")
    assert not [line for line in lines if ": extracted " in line or "all labels" in line]


def test_the_gain_over_pairs_joins_the_intervals_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from feature_scores import Answers, gain, mean_f1

    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 90)
    said = np.where(rng.random((2, 90)) < 0.8, truth, "b")
    base = np.where(rng.random((2, 90)) < 0.6, truth, "")  # empty: nothing to say
    row, baseline = Answers("model", truth, said), Answers("nothing", truth, base)
    one = gain([row], [baseline])
    codes = [np.searchsorted(["", "a", "b", "c"], part) for part in (np.tile(truth, (2, 1)), said, base)]
    alone = paired_difference(*codes)
    assert (one.mean, one.low, one.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert one.mean == pytest.approx(row.macro_f1 - baseline.macro_f1)
    four = gain([row] * 4, [baseline] * 4)
    assert four.mean == pytest.approx(one.mean)
    assert four.high - four.mean == pytest.approx((one.high - one.mean) / 2)
    assert four.mean - four.low == pytest.approx((one.mean - one.low) / 2)
    assert four.by_pair == (one.mean,) * 4
    assert mean_f1([row, baseline]) == pytest.approx((row.macro_f1 + baseline.macro_f1) / 2)
    assert one.verdict == "a gain that these cells show"
    assert gain([baseline], [row]).verdict == "a loss that these cells show"
    assert gain([row], [row]).verdict == "nothing that these cells can show"
