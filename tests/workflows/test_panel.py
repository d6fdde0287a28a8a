from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from support import make_cells

import scstore
from scstore.errors import CellsError, LabelsError, OutputError
from scstore.tokens.panel import load_panel


def test_a_panel_of_cells_finds_the_genes_of_their_types(tmp_path: Path) -> None:
    fitted = scstore.panel(make_cells(200), tmp_path / "p.h5ad", label="cell_type", n_genes=15)
    assert set(fitted.obs.index) == {f"GENE{i}" for i in range(15)}
    assert load_panel(tmp_path / "p.h5ad").digest == fitted.digest
    assert len(fitted.trained_on) == 200


def test_counts_and_the_same_cells_log_normalised_give_the_same_genes(tmp_path: Path) -> None:
    counts, lognorm = make_cells(), make_cells()
    lognorm.X = csr_matrix(lognorm.X / lognorm.X.sum(1) * 1e4).log1p()
    first = scstore.panel(counts, tmp_path / "a.h5ad", label="cell_type", n_genes=10)
    second = scstore.panel(lognorm, tmp_path / "b.h5ad", label="cell_type", n_genes=10, expression="lognorm")
    assert list(first.obs.index) == list(second.obs.index)
    np.testing.assert_allclose(first.obs["f_value"], second.obs["f_value"], rtol=1e-3)


def test_mistakes(tmp_path: Path) -> None:
    cells = make_cells()
    with pytest.raises(LabelsError, match="'kind'.*cell_type, donor"):
        scstore.panel(cells, tmp_path / "p.h5ad", label="kind")
    cells.X = cells.X * 0.5
    with pytest.raises(CellsError, match="counts"):
        scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "p.h5ad").write_text("mine")
    with pytest.raises(OutputError):
        scstore.panel(make_cells(), tmp_path / "p.h5ad", label="cell_type", n_genes=5)
