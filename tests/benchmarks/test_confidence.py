from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import make_cells

import scstore


def test_a_quick_run_tells_calibration_and_rejection(llama: Path, tmp_path: Path, benchmark: Callable) -> None:
    cells = make_cells(150, 100)
    kinds = cells.obs["cell_type"].cat.codes
    cells.write_h5ad(tmp_path / "cells.h5ad")
    scstore.build_genes(tmp_path / "genes.h5ad", cells=tmp_path / "cells.h5ad", encoder="random:16")
    words = [".", "--table", "genes.h5ad", "--model", llama, "--work", "stores", "--quick"]
    words += ["--pairs", "cells.h5ad:donor:d1", "--sorted", "cells.h5ad", "--sorted-panel", "60"]
    lines, found = benchmark("confidence", *words, "--promised", "type 0", "type 1")
    assert lines[-1] == "goals checked: none - goals not checked"
    head = found["figures"]["calibration"]["cells.h5ad:donor:d1"]["linear"]
    assert head["n"] == 75
    (run,) = head["runs"]
    assert sum(one["n"] for one in run["reliability"]) == 75
    gaps = sum(one["n"] * abs(one["confidence"] - one["accuracy"]) for one in run["reliability"])
    assert head["ece"] == pytest.approx(gaps / 75, abs=1e-6)  # confidences are float32
    assert head["accuracy"] > 0.9
    for types in found["figures"]["rejection"].values():
        assert set(types) == {"type 0", "type 1"}
        for one in types.values():
            assert one["auroc_novelty"] > 0.6
            (run,) = one["runs"]
            assert run["n_unknown"] in np.bincount(kinds)
            assert 0 < run["n_right"] <= 0.3 * (150 - run["n_unknown"]) + 1
            assert all(0 <= share <= 1 for share in run["known_rejected"].values())
            both = run["unknown_rejected"]["both"]
            assert both <= run["unknown_rejected"]["confidence"] + run["unknown_rejected"]["distance"]
    assert [goal["name"] for goal in found["goals"]][:2] == [
        "d1 held out: ECE",
        "type 0 left out: AUROC of the better score",
    ]
