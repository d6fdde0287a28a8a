from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif
from support import Notes, extract, make_cells

import scstore
from scstore.cells.expression import ExpressionSlot
from scstore.cells.opening import open_cells
from scstore.errors import CellsError, DamagedError, GenesError, LabelsError, OptionError, OutputError
from scstore.panels.panel import Design, Panel, design, load_panel, save_panel, score_genes
from scstore.progress import Silent
from scstore.store.ledger import SEEN_BY_PANEL


def make_panel(genes: str = "ABCD", **options: Any) -> Panel:
    names = list(genes)
    obs = pd.DataFrame(
        {
            "symbol": names,
            "ensembl_id": "",
            "score": np.arange(len(names), 0, -1.0),
        },
        index=pd.Index(names, name="gene"),
    )
    return Panel(obs, **{"label": "cell_type", "trained_on": ("c1", "c2"), **options})


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    panel = make_panel(record={"label": "cell_type"})
    save_panel(panel, tmp_path / "p.h5ad")
    read = load_panel(tmp_path / "p.h5ad")
    assert read.digest == panel.digest
    assert (read.label, read.trained_on) == ("cell_type", ("c1", "c2"))
    assert read.record == panel.record
    pd.testing.assert_frame_equal(read.obs, panel.obs)


def test_a_panel_without_labels_is_read_back(tmp_path: Path) -> None:
    panel = make_panel(label="", trained_on=())
    save_panel(Panel(panel.obs.drop(columns="score"), "", ()), tmp_path / "p.h5ad")
    read = load_panel(tmp_path / "p.h5ad")
    assert read.trained_on == ()
    assert read.digest == panel.digest


def test_damage_is_found(tmp_path: Path) -> None:
    save_panel(make_panel(), tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    adata.obs["symbol"] = adata.obs["symbol"].to_numpy()[::-1]
    adata.write_h5ad(tmp_path / "p.h5ad")
    with pytest.raises(DamagedError, match="digest"):
        load_panel(tmp_path / "p.h5ad")


def test_what_is_no_panel_is_refused(cells: anndata.AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="cells.h5ad"):
        load_panel(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="absent.h5ad"):
        load_panel(tmp_path / "absent.h5ad")


MARKERS = {f"GENE{i}" for i in range(15)}


def test_a_panel_of_cells_finds_the_genes_of_their_types(tmp_path: Path) -> None:
    fitted = scstore.panel(make_cells(200), tmp_path / "p.h5ad", label="cell_type", n_genes=15)
    assert set(fitted.obs.index) == MARKERS
    read = load_panel(tmp_path / "p.h5ad")
    assert read.digest == fitted.digest
    assert read.record == fitted.record
    pd.testing.assert_frame_equal(read.obs, fitted.obs, check_dtype=False, check_index_type=False)
    assert len(fitted.trained_on) == 200
    assert (fitted.label, fitted.record["label"]) == ("cell_type", "cell_type")
    assert fitted.obs["score"].is_monotonic_decreasing


@pytest.mark.filterwarnings("ignore:Variable names")
def test_the_order_of_the_columns_does_not_matter(tmp_path: Path) -> None:
    """Two genes of one symbol stay two; of equal scores the first in the alphabet is the better."""
    cells = make_cells()
    cells.X = csr_matrix(np.repeat(cells.X.toarray()[:, ::2], 2, axis=1))
    cells.var_names = [f"GENE{i // 4}" for i in range(40)]
    cells.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(40)]
    first = scstore.panel(cells, tmp_path / "a.h5ad", label="cell_type", n_genes=12)
    turned = scstore.panel(cells[:, ::-1].copy(), tmp_path / "b.h5ad", label="cell_type", n_genes=12)
    assert first.digest == turned.digest
    assert len(set(first.obs["ensembl_id"])) == 12


def test_a_panel_has_200_genes_by_default(tmp_path: Path) -> None:
    assert len(scstore.panel(make_cells(n_genes=220), tmp_path / "p.h5ad", label="cell_type")) == 200


def test_counts_and_the_same_cells_log_normalised_give_the_same_genes(tmp_path: Path) -> None:
    counts, lognorm = make_cells(), make_cells()
    lognorm.X = csr_matrix(lognorm.X / lognorm.X.sum(1) * 1e4).log1p()
    first = scstore.panel(counts, tmp_path / "a.h5ad", label="cell_type", n_genes=10)
    second = scstore.panel(lognorm, tmp_path / "b.h5ad", label="cell_type", n_genes=10, expression="lognorm")
    assert list(first.obs.index) == list(second.obs.index)
    np.testing.assert_allclose(first.obs["score"], second.obs["score"], rtol=1e-3)


def donors_and_types_together() -> anndata.AnnData:
    """Two donors, each mostly of other types; GENE20 tells the donors apart and nothing else."""
    rng = np.random.default_rng(0)
    cells = make_cells(400)
    kinds = cells.obs["cell_type"].astype(str).to_numpy()
    donor = np.where(rng.random(400) < np.where(kinds == "type 0", 0.97, 0.03), "d1", "d2")
    counts = cells.X.toarray()
    counts[:, 20] = rng.poisson(np.where(donor == "d1", 40, 0.2))
    # library sizes alike, or the donors' gene would show in all others
    counts[:, 39] += np.where(donor == "d1", 0, 40)
    cells.X = csr_matrix(counts)
    cells.obs["donor"] = donor
    return cells


def test_a_gene_that_only_tells_donors_apart_does_not_get_in(tmp_path: Path) -> None:
    cells = donors_and_types_together()
    fooled = scstore.panel(cells, tmp_path / "a.h5ad", label="cell_type", n_genes=12)
    balanced = scstore.panel(cells, tmp_path / "b.h5ad", label="cell_type", n_genes=12, group="donor")
    assert "GENE20" in fooled.obs.index
    assert set(balanced.obs.index) <= MARKERS
    assert balanced.record["group"] == "donor"


def test_groups_that_lack_two_labels_are_left_out(tmp_path: Path) -> None:
    cells = make_cells(200)
    cells.obs["donor"] = ["lone" if kind == "type 0" else "d" for kind in cells.obs["cell_type"]]
    notes = Notes()
    fitted = scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=10, group="donor", progress=notes)
    assert any("1 of 2 groups left out" in line for line in notes.said)
    assert set(fitted.trained_on) == set(cells.obs_names[cells.obs["donor"] == "d"])
    assert set(fitted.obs.index) == {f"GENE{i}" for i in range(5, 15)}
    assert fitted.record["groups_left_out"] == ["lone"]


def test_reading_some_genes_at_a_time_gives_the_same_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells(100)
    options: dict[str, Any] = {"label": "cell_type", "group": "donor", "n_genes": 10}
    whole = scstore.panel(cells, tmp_path / "a.h5ad", **options)
    monkeypatch.setattr("scstore.panels.panel.SUMS_BYTES", 16 * 6 * 7)  # seven genes of six classes
    parts = scstore.panel(cells, tmp_path / "b.h5ad", **options)
    assert parts.digest == whole.digest
    pd.testing.assert_frame_equal(parts.obs, whole.obs)


def test_a_panel_without_labels_sees_none(tmp_path: Path) -> None:
    cells = make_cells(300, 600)
    counts = cells.X.toarray()
    counts[:, 15:] = np.random.default_rng(0).poisson(np.linspace(0.2, 4, 585), (300, 585))
    cells.X = csr_matrix(counts)
    fitted = scstore.panel(cells, tmp_path / "p.h5ad", label_free=True, n_genes=15)
    assert len(set(fitted.obs.index) & MARKERS) >= 12
    read = load_panel(tmp_path / "p.h5ad")
    assert (read.trained_on, read.label, read.record["label_free"]) == ((), "", True)


def test_a_store_marks_exactly_the_cells_that_the_panel_saw(llama: Path, tmp_path: Path) -> None:
    reference, other = make_cells(40), make_cells(20, seed=3)  # ids of the one are ids of the other
    reference.obs["sample"], other.obs["sample"] = "s1", "s2"
    reference.obs["cell_type"] = reference.obs["cell_type"].astype(object)
    reference.obs.loc[reference.obs_names[::4], "cell_type"] = None
    scstore.panel(reference, tmp_path / "p.h5ad", label="cell_type", n_genes=12, id_prefix_from="sample")
    scstore.panel(reference, tmp_path / "free.h5ad", label_free=True, n_genes=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ids that repeat
        both = anndata.concat([reference, other])
    store = extract(
        both, tmp_path / "s.zarr", llama, panel=str(tmp_path / "p.h5ad"), id_prefix_from="sample", layers=(1,)
    )
    marked = store.obs[SEEN_BY_PANEL]
    assert marked.dtype == bool
    assert marked.tolist() == [bool(i % 4) for i in range(40)] + [False] * 20
    free = extract(reference, tmp_path / "free.zarr", llama, panel=str(tmp_path / "free.h5ad"), layers=(1,))
    assert SEEN_BY_PANEL not in free.obs


def test_genes_of_one_name_are_refused_or_summed(tmp_path: Path) -> None:
    """RELIABILITY 7."""
    cells = make_cells(200)
    cells.var_names = ["GENE0" if name == "GENE1" else name for name in cells.var_names]
    with pytest.raises(GenesError, match="GENE0"):
        scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=5)
    fitted = scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=14, sum_duplicate_genes=True)
    assert set(fitted.obs.index) == MARKERS - {"GENE1"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label": "cell_type", "label_free": True},
        {"label": "cell_type", "n_genes": 0},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        scstore.panel(make_cells(), tmp_path / "p.h5ad", **options)
    with pytest.raises(CellsError):
        scstore.panel([], tmp_path / "p.h5ad", label="cell_type")
    assert list(tmp_path.iterdir()) == []


def test_words_for_a_missing_label_leave_cells_out(tmp_path: Path) -> None:
    """The panel is that of labels which were missing from the start; similar labels are named."""
    plain, marked = make_cells(200), make_cells(200)
    kinds = marked.obs["cell_type"].astype(str)
    plain.obs["cell_type"] = kinds.where(kinds != "type 2")
    marked.obs["cell_type"] = kinds.where(kinds != "type 2", "Doublet")
    found = scstore.panel(marked, tmp_path / "m.h5ad", label="cell_type", missing_labels=["doublet"], n_genes=10)
    wanted = scstore.panel(plain, tmp_path / "p.h5ad", label="cell_type", n_genes=10)
    assert found.digest == wanted.digest
    assert found.trained_on == wanted.trained_on
    assert load_panel(tmp_path / "m.h5ad").record["missing_labels"] == ["doublet"]
    marked.obs["cell_type"] = kinds.where((kinds != "type 0") | (np.arange(200) % 2 == 0), "type-0")
    notes = Notes()
    scstore.panel(marked, tmp_path / "s.h5ad", label="cell_type", n_genes=10, progress=notes)
    assert any("type-0" in said for said in notes.said)


def test_mistakes(tmp_path: Path) -> None:
    cells = make_cells()
    with pytest.raises(LabelsError, match="'kind'.*cell_type, donor"):
        scstore.panel(cells, tmp_path / "p.h5ad", label="kind")
    with pytest.raises(LabelsError, match="'batch'.*cell_type, donor"):
        scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=5, group="batch")
    with pytest.raises(GenesError, match="only 40 genes"):
        scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=41)
    cells.X = cells.X * 0.5
    with pytest.raises(CellsError):
        scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "p.h5ad").write_text("mine")
    with pytest.raises(OutputError):
        scstore.panel(make_cells(), tmp_path / "p.h5ad", label="cell_type", n_genes=5)


def lognorm(cells: anndata.AnnData) -> csr_matrix:
    return csr_matrix(cells.X / cells.X.sum(1) * 1e4).log1p()


def scores_of(plan: Design, rows: csr_matrix) -> np.ndarray:
    genes = pd.DataFrame(index=[f"GENE{i}" for i in range(rows.shape[1])])
    with open_cells(anndata.AnnData(rows, var=genes)) as opened:
        return score_genes(opened, ExpressionSlot("X", "lognorm"), plan, groups=None, progress=Silent())


def test_without_groups_the_score_is_scikit_learns_f(cells: anndata.AnnData) -> None:
    rows, labels = lognorm(cells), cells.obs["cell_type"].astype(str)
    found = scores_of(design(list(labels), n_cells=60, source="cells"), rows)
    np.testing.assert_allclose(found, f_classif(rows.toarray().astype(np.float64), labels)[0], rtol=1e-5)


def test_cells_without_a_label_do_not_count(cells: anndata.AnnData) -> None:
    rows, labels = lognorm(cells), list(cells.obs["cell_type"].astype(str))
    some = design([None if i % 3 else label for i, label in enumerate(labels)], n_cells=60, source="cells")
    kept = design(labels[::3], n_cells=20, source="cells")
    np.testing.assert_allclose(scores_of(some, rows), scores_of(kept, rows[::3]))


def test_a_gene_that_no_compared_cell_expresses_is_not_ranked(cells: anndata.AnnData) -> None:
    rows = lognorm(cells).tolil()
    rows[:, 3] = 0
    plan = design(list(cells.obs["cell_type"].astype(str)), n_cells=60, source="cells")
    assert np.flatnonzero(np.isnan(scores_of(plan, rows.tocsr()))).tolist() == [3]


def test_without_labels_each_group_is_scored_by_itself() -> None:
    """A gene that only separates donors varies over all cells, and in no donor."""
    cells = make_cells(300, 400)
    values, donor = cells.X.toarray(), np.arange(300) % 2
    rng = np.random.default_rng(0)
    values[:, 50:] = rng.poisson(np.linspace(0.1, 12, 350), (300, 350))  # genes of every mean to compare with
    values[:, 20] = rng.poisson(np.where(donor, 12, 0.05))
    cells.X = csr_matrix(values)
    rows = lognorm(cells)
    together = scores_of(design(None, n_cells=300, source=""), rows)
    groups = [str(value) for value in donor]
    apart = scores_of(design(None, groups, n_cells=300, source=""), rows)
    assert (together > together[20]).sum() < 5
    assert (apart > apart[20]).sum() >= 30


def test_cells_without_a_label_or_group_are_not_seen(cells: anndata.AnnData) -> None:
    labels = list(cells.obs["cell_type"].astype(str))
    assert design(labels, n_cells=60, source="cells").seen.all()
    third = np.arange(60) % 3 == 0
    some = [label if kept else None for label, kept in zip(labels, third, strict=True)]
    np.testing.assert_array_equal(design(some, n_cells=60, source="cells").seen, third)
    groups = ["d" if kept else None for kept in third]
    np.testing.assert_array_equal(design(labels, groups, n_cells=60, source="cells").seen, third)


def test_a_label_of_one_cell_does_not_count_but_is_seen(cells: anndata.AnnData) -> None:
    found = design(["alone", *cells.obs["cell_type"].astype(str)[1:]], n_cells=60, source="cells")
    assert found.codes[0] == -1
    assert found.seen[0]
    assert found.n_classes == 3


def test_groups_that_do_not_count_are_named(cells: anndata.AnnData) -> None:
    labels = [f"{kind}" for kind in cells.obs["cell_type"]]
    groups = ["big"] * 56 + ["small"] * 2 + ["same"] * 2
    labels[56:] = ["type 0", "type 1", "type 2", "type 2"]
    found = design(labels, groups, n_cells=60, source="cells")
    assert found.left_out == ("same", "small")
    assert len(found.classes) == 1
    assert not found.seen[56:].any()


def test_without_labels_groups_of_ten_cells_count() -> None:
    found = design(None, ["a"] * 50 + ["b"] * 9 + [None], n_cells=60, source="cells")
    assert (found.left_out, found.by_labels) == (("b",), False)
    assert found.codes.tolist() == [0] * 50 + [-1] * 10


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["a"] * 18, None),
        (["a"] * 9 + ["b"] * 9, ["1"] * 9 + ["2"] * 9),
        (None, ["a"] * 9 + ["b"] * 9),
    ],
)
def test_nothing_to_compare_is_refused(labels: list[str | None] | None, groups: list[str | None] | None) -> None:
    with pytest.raises(LabelsError, match=r"cells\.h5ad"):
        design(labels, groups, n_cells=18, source="cells.h5ad")
