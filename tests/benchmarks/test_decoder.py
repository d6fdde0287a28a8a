"""What a decoder knows of cells: a quick run on made-up donors and a tiny Llama."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import ROOT


def test_a_quick_run_compares_symbols_with_renamed_ones(llama: Path, made_up_donors: Path, benchmark: Callable) -> None:
    words = [made_up_donors, made_up_donors, "--model", llama, "--layers", 1, 2, "--cells", 30, "--panel-genes", 10]
    words += ["--readings", "symbols", "renamed symbols", "--few", 2, "--work", "kept", "--quick"]
    lines, found = benchmark("decoder", *words)
    assert sum("read symbols" in line or "read renamed symbols" in line for line in lines) == 2
    assert lines[-1].startswith("goals checked: none")
    found = found["figures"]
    assert list(found["pairs"]) == ["blood, donor 3pv1 left out"]
    assert len(found["pairs"]["blood, donor 3pv1 left out"]["layers"]) == 2 * 2 * 3
    assert set(found["regimes"]) == {"all labels", "2 labelled cells a label"}
    rows = found["regimes"]["all labels"]
    expected = {"default": "nothing", "PCA of all reference cells": "nothing", "symbols: wmean": "model"}
    expected |= {"default, offered the readout": "model", "default + symbols": "model"}
    expected |= {
        "renamed symbols: last": "control",
        "default + PCA of all reference cells + renamed symbols": "control",
    }
    assert {row: rows[row]["uses"] for row in expected} == expected
    assert min(rows[row]["macro_f1"] for row in ("default", "default, offered the readout")) > 0.9
    assert set(found["meaning"]) == {f"symbols: {pool} - renamed symbols: {pool}" for pool in ("last", "mean", "wmean")}

    lines, again = benchmark("decoder", *words)
    assert not any("read symbols" in line or "measured" in line for line in lines[2:4])
    assert again["figures"]["pairs"] == found["pairs"]


def test_a_setting_is_chosen_on_training_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from decoder_rows import Known, Matrix, best, regression, settings

    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 20)
    noise, told = (Matrix(rng.normal(size=(60, 50)), rng.normal(size=(10, 50))) for _ in range(2))
    told.train[:20, 0] += 4
    known = Known(np.arange(40), labels)
    one = best(settings({"noise": noise, "told": told}, (0.01, 1.0), known))
    assert one.view == "told"
    assert one.held_out[0] > 0.9
    whole = regression(one.C).fit(told.train[:40], labels).predict_proba(told.test)
    np.testing.assert_allclose(one.said.proba, whole, atol=5e-3)
