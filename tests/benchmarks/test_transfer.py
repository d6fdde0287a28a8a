"""Transfer between laboratories, and missing genes: quick runs on made-up donors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

KINDS = ("B", "NK", "T")


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Three donors in the layout of the benchmark's blood cells: 60 cells each, 20 marker genes a type of 120."""
    rng = np.random.default_rng(0)
    kinds, donors = np.arange(180) % 3, np.repeat(["3pv1", "3pv2", "5p"], 60)
    means = np.full((180, 120), 1.0)
    for code in range(3):
        means[np.ix_(kinds == code, range(20 * code, 20 * code + 20))] = 2.5
    obs = pd.DataFrame({"cell_type": np.array(KINDS)[kinds], "donor": donors}, index=[f"c{i}" for i in range(180)])
    var = pd.DataFrame(index=[f"GEN{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(120)])
    counts = sparse.csr_matrix(rng.poisson(means).astype(np.float32))
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(tmp_path / "pbmc_3donors.h5ad")
    return tmp_path


def test_a_quick_run_compares_the_default_with_plain_regressions(cells: Path, benchmark: Callable) -> None:
    lines, found = benchmark("transfer", cells, "--quick", "--few", 5)
    assert lines[-1].startswith("goals checked: none")
    means = found["figures"]["means"]
    assert set(means) == {"all labels", "5 labelled cells a label"}
    assert len(means["all labels"]) == 8
    assert means["all labels"]["default"]["macro_f1"] > 0.95
    assert means["5 labelled cells a label"]["default"]["macro_f1"] > 0.8
    assert any("default less it" in line for line in lines)


def test_a_quick_run_takes_genes_away(cells: Path, benchmark: Callable) -> None:
    lines, found = benchmark("missing_genes", cells, "--quick")
    assert lines[-1].startswith("goals checked: none")
    means = found["figures"]["means"]
    assert list(means) == ["0%", *(f"{rate}% {order}" for rate in (25, 50, 75) for order in ("random", "lowest"))]
    assert means["0%"]["scstore"] == means["0%"]["zeros"]
    assert means["50% random"]["scstore"]["macro_f1"] > means["50% random"]["zeros"]["macro_f1"]


def test_a_quick_run_compares_covariances(cells: Path, benchmark: Callable) -> None:
    lines, found = benchmark("gene_covariance", cells, "--quick")
    assert lines[-1].startswith("goals checked: none")
    means = found["figures"]["means"]
    assert all(set(case) == {"default", "balanced covariance", "2,048 genes"} for case in means.values())
