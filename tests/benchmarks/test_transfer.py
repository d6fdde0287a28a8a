"""Transfer between laboratories, and missing genes: quick runs on made-up donors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_a_quick_run_compares_the_default_with_plain_regressions(made_up_donors: Path, benchmark: Callable) -> None:
    lines, found = benchmark("transfer", made_up_donors, "--quick", "--few", 5)
    assert lines[-1].startswith("goals checked: none")
    means = found["figures"]["means"]
    assert set(means) == {"all labels", "5 labelled cells a label"}
    assert len(means["all labels"]) == 8
    assert means["all labels"]["default"]["macro_f1"] > 0.95
    assert means["5 labelled cells a label"]["default"]["macro_f1"] > 0.8
    assert any("default less it" in line for line in lines)


def test_a_quick_run_takes_genes_away(made_up_donors: Path, benchmark: Callable) -> None:
    lines, found = benchmark("missing_genes", made_up_donors, "--quick")
    assert lines[-1].startswith("goals checked: none")
    means = found["figures"]["means"]
    assert list(means) == ["0%", *(f"{rate}% {order}" for rate in (25, 50, 75) for order in ("random", "lowest"))]
    assert means["0%"]["scstore"] == means["0%"]["zeros"]
    assert means["50% random"]["scstore"]["macro_f1"] > means["50% random"]["zeros"]["macro_f1"]


def test_a_quick_run_compares_covariances(made_up_donors: Path, benchmark: Callable) -> None:
    lines, found = benchmark("gene_covariance", made_up_donors, "--quick")
    assert lines[-1].startswith("goals checked: none")
    means = found["figures"]["means"]
    assert all(set(case) == {"default", "balanced covariance", "2,048 genes"} for case in means.values())
