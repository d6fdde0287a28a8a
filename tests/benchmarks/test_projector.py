from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support import make_cells

import scstore


def test_a_quick_run_gives_every_figure(llama: Path, tmp_path: Path, benchmark: Callable) -> None:
    make_cells(80).write_h5ad(tmp_path / "cells.h5ad")
    scstore.build_genes(tmp_path / "genes.h5ad", cells=tmp_path / "cells.h5ad", encoder="random:16")
    words = [".", "--table", "genes.h5ad", "--model", llama, "--layer", "3", "--panel", "20"]
    words += ["--pairs", "cells.h5ad:donor:d1", "--quick"]
    lines, found = benchmark("projector", *words)
    assert any(line.startswith("cells.h5ad:donor:d1 seed 0 panel 20: last ") for line in lines)
    (run,) = found["figures"]["runs"]
    assert (run["training_cells"], run["test_cells"], run["epochs"]) == (40, 40, 1)
    for side in ("untrained", "trained"):
        assert all(0 <= run[side][pool] <= 1 for pool in ("last", "wmean"))
    for pool in ("last", "wmean"):
        assert found["figures"]["differences"][pool]["mean"] == run["trained"][pool] - run["untrained"][pool]
    assert [goal["held"] for goal in found["goals"]] == [None, None]
