from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support import make_cells


def test_a_quick_run_scores_every_rule(tmp_path: Path, benchmark: Callable) -> None:
    make_cells(120, 150).write_h5ad(tmp_path / "cells.h5ad")
    lines, found = benchmark("panels", "cells.h5ad", "--quick")
    assert lines[-1].startswith("goals checked: none")
    found = found["figures"]["macro_f1"]
    assert len(found) == 4
    assert found["F"]["50"] > 0.9
    assert found["F within groups"]["50"] > 0.9
