from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif
from support import make_cells

from scstore.errors import DamagedError, GenesError, LabelsError
from scstore.tokens.panel import Panel, fit_panel, load_panel, save_panel


def fit(cells: anndata.AnnData, *, n: int = 10, labels: list[str | None] | None = None, block: int = 7) -> Panel:
    values = np.log1p(cells.X).tocsr()
    return fit_panel(
        (values[start : start + block] for start in range(0, cells.n_obs, block)),
        list(cells.obs["cell_type"].astype(str)) if labels is None else labels,
        cells.var,
        n_genes=n,
        label="cell_type",
        cell_ids=list(cells.obs_names),
        source="cells.h5ad",
    )


def test_the_genes_are_those_of_highest_f(cells: anndata.AnnData) -> None:
    panel = fit(cells)
    f_values = f_classif(np.log1p(cells.X.toarray()), cells.obs["cell_type"])[0]
    assert list(panel.obs.index) == list(cells.var_names[np.argsort(-f_values, kind="stable")[:10]])
    np.testing.assert_allclose(panel.obs["f_value"], np.sort(f_values)[::-1][:10], rtol=1e-4)


def test_blocks_do_not_matter(cells: anndata.AnnData) -> None:
    assert fit(cells, block=1).digest == fit(cells, block=60).digest


def test_medians_are_over_the_cells_that_express_the_gene(cells: anndata.AnnData) -> None:
    panel = fit(cells, n=40)
    values = np.log1p(cells.X.toarray())
    for gene, median in panel.obs["median"].items():
        column = values[:, cells.var_names.get_loc(gene)]
        assert median == pytest.approx(np.median(column[column > 0]), abs=0.4)
        assert median > 0


def test_cells_without_a_label_are_left_out(cells: anndata.AnnData) -> None:
    labels: list[str | None] = [None if i % 3 else str(kind) for i, kind in enumerate(cells.obs["cell_type"])]
    panel = fit(cells, labels=labels)
    assert len(panel.trained_on) == 20
    kept = cells[::3].copy()
    assert list(panel.obs.index) == list(fit(kept).obs.index)


def test_what_is_saved_is_read_back(cells: anndata.AnnData, tmp_path: Path) -> None:
    panel = fit(cells)
    save_panel(panel, tmp_path / "p.h5ad")
    read = load_panel(tmp_path / "p.h5ad")
    assert read.digest == panel.digest
    assert (read.label, read.source, read.trained_on) == ("cell_type", "cells.h5ad", panel.trained_on)
    pd.testing.assert_frame_equal(read.obs, panel.obs)


def test_damage_is_found(cells: anndata.AnnData, tmp_path: Path) -> None:
    save_panel(fit(cells), tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    adata.obs["median"] += 1
    adata.write_h5ad(tmp_path / "p.h5ad")
    with pytest.raises(DamagedError, match="digest"):
        load_panel(tmp_path / "p.h5ad")


def test_what_is_no_panel_is_refused(cells: anndata.AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="no panel"):
        load_panel(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="no such panel"):
        load_panel(tmp_path / "absent.h5ad")


def test_one_label_tells_nothing_apart() -> None:
    cells = make_cells(5)
    with pytest.raises(LabelsError, match="1 label"):
        fit(cells, labels=["a"] * 5)


def test_more_genes_than_are_expressed_are_refused() -> None:
    cells = make_cells(10)
    cells.X = csr_matrix(cells.X.toarray() * (np.arange(40) < 3))
    with pytest.raises(GenesError, match="only 3 genes"):
        fit(cells, n=4)
