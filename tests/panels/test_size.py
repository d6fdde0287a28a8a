"""How many genes: chosen where nothing of the held-out cells has been seen."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from support import Notes, make_cells

import scstore
from scstore.errors import LabelsError
from scstore.panels import size as panel_size
from scstore.panels.gene_scores import design_labels
from scstore.panels.panel import load_panel
from scstore.panels.size import draw_cells


def test_a_few_good_genes_are_enough(tmp_path: Path) -> None:
    """Fifteen genes tell everything: the smallest size does as well as any."""
    notes = Notes()
    cells = make_cells(150, 120)
    fitted = scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes="auto", progress=notes)
    assert len(fitted) == 25
    sizes = load_panel(tmp_path / "p.h5ad").record["sizes"]
    assert [row["n_genes"] for row in sizes["table"]] == [25, 50, 100]
    assert (sizes["chosen"], sizes["n_cells"], sizes["n_folds"]) == (25, 150, 5)
    assert all(row["macro_f1"] > 0.9 for row in sizes["table"])
    assert any("chosen" in line and "macro-F1" in line for line in notes.said)


def hard_cells(n_cells: int = 300) -> anndata.AnnData:
    """Four types, each told by 50 genes of which each tells little."""
    rng = np.random.default_rng(0)
    kinds = np.arange(n_cells) % 4
    rates = np.full((4, 240), 0.5)
    for kind in range(4):
        rates[kind, kind * 50 : kind * 50 + 50] = 0.9
    cells = make_cells(n_cells, 240)
    cells.X = csr_matrix(rng.poisson(rates[kinds]).astype(np.float32))
    cells.obs["cell_type"] = [f"k{kind}" for kind in kinds]
    cells.obs["donor"] = [f"d{i}" for i in rng.integers(0, 6, n_cells)]
    return cells


def test_where_more_genes_help_more_are_taken(tmp_path: Path) -> None:
    fitted = scstore.panel(hard_cells(), tmp_path / "p.h5ad", label="cell_type", n_genes="auto", group="donor")
    table = fitted.record["sizes"]["table"]
    best = max(table, key=lambda row: row["macro_f1"])
    within = [row for row in table if row["macro_f1"] >= best["macro_f1"] - best["standard_error"] - 1e-4]
    assert len(fitted) == min(row["n_genes"] for row in within)
    assert len(fitted) >= 100
    again = scstore.panel(hard_cells(), tmp_path / "q.h5ad", label="cell_type", n_genes="auto", group="donor")
    assert (again.digest, again.record) == (fitted.digest, fitted.record)


def test_labels_that_mean_nothing_score_as_chance_does(tmp_path: Path) -> None:
    """A panel fitted on the held-out cells too would score far above: 800 genes of noise always hold some that fit."""
    rng = np.random.default_rng(0)
    cells = make_cells(100, 900)
    cells.X = csr_matrix(rng.poisson(1.0, (100, 900)).astype(np.float32))
    cells.obs["cell_type"] = rng.permutation(["a", "b"] * 50)
    fitted = scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes="auto")
    assert all(row["macro_f1"] < 0.65 for row in fitted.record["sizes"]["table"])


def test_several_inputs_and_columns_are_tried_together(tmp_path: Path) -> None:
    first, second = make_cells(80, 60), make_cells(60, 50, seed=1)
    second.obs_names = [f"b{i}" for i in range(60)]
    first.obs["half"] = ["x" if kind == "type 0" else "y" for kind in first.obs["cell_type"]]
    fitted = scstore.panel(
        [first, second], tmp_path / "p.h5ad", label=["cell_type", "half"], n_genes="auto", group="donor"
    )
    assert fitted.record["sizes"]["n_cells"] == 140
    assert fitted.record["sizes"]["n_folds"] == 2  # donors


def test_many_cells_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scstore.panels.fit.MAX_CELLS", 60)
    fitted = scstore.panel(make_cells(300), tmp_path / "p.h5ad", label="cell_type", n_genes="auto")
    assert 50 <= fitted.record["sizes"]["n_cells"] <= 60
    assert len(fitted.trained_on) == 300


def test_a_sample_keeps_every_kind_of_cell() -> None:
    labels = ["common"] * 500 + ["rare"] * 3 + [None] * 20
    designs = {"kind": design_labels(labels, label="kind", source="cells")}
    rows = draw_cells(designs, None, {"kind": labels}, size=50, seed=0)
    assert 45 <= len(rows) <= 51
    assert "rare" in {labels[row] for row in rows}
    assert rows.max() < 503
    np.testing.assert_array_equal(rows, draw_cells(designs, None, {"kind": labels}, size=50, seed=0))
    assert len(draw_cells(designs, None, {"kind": labels}, size=5000, seed=0)) == 503


def test_one_group_is_split_by_cells(tmp_path: Path) -> None:
    cells, notes = make_cells(100), Notes()
    cells.obs["donor"] = "d"
    fitted = scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes="auto", group="donor", progress=notes)
    assert fitted.record["sizes"]["n_folds"] == 5
    assert any("all labelled cells are of one group (d)" in line for line in notes.said)


def test_too_few_cells_to_hold_some_out_are_refused(tmp_path: Path) -> None:
    cells = make_cells(40)
    cells.obs["cell_type"] = ["a", "a", "b", "b", *[None] * 36]
    cells.obs["donor"] = ["1", "1", "1", "1", *["2"] * 36]
    with pytest.raises(LabelsError, match="-n auto: .*Give a number"):
        scstore.panel(cells[[0, 2, 1, 3]].copy(), tmp_path / "p.h5ad", label="cell_type", n_genes="auto", group="donor")


def test_the_sizes_ascend() -> None:
    assert list(panel_size.SIZES) == sorted(set(panel_size.SIZES))
