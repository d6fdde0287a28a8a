"""Scales of expression: which values are counts, their logarithms, or something else, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scstore
from scstore.cells import scales
from scstore.cells.expression import find_expression, lognorm_block
from scstore.cells.opening import open_cells
from scstore.errors import CellsError, CellsWarning, InputError

N_CELLS, N_GENES = 80, 400
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(0.3, 4, N_GENES) * RNG.lognormal(0, 0.4, (N_CELLS, 1))).astype(float)
TOTALS = COUNTS.sum(axis=1, keepdims=True)
FACTORS = RNG.lognormal(0, 0.5, (N_CELLS, 1))
CORRECTED = COUNTS * RNG.uniform(0.8, 1, COUNTS.shape)  # as ambient correction leaves them
RIGHT = np.log1p(COUNTS / TOTALS * 1e4)
MEDIAN = np.median(TOTALS) * 1.0007
SUBSET = np.argsort(-COUNTS.var(axis=0))[:60]


def adata(values: np.ndarray, dtype: str = "float32") -> anndata.AnnData:
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(values))])
    var = pd.DataFrame(index=[f"G{i}" for i in range(values.shape[1])])
    return anndata.AnnData(sparse.csr_matrix(values.astype(dtype)), obs=obs, var=var)


def read(values: np.ndarray, **options: object) -> tuple[np.ndarray, str]:
    with open_cells(adata(values)) as cells:
        slot = find_expression(cells, **options)
        return lognorm_block(cells, slot, 0, cells.n_cells).toarray(), slot.remark


SCALED = {
    "log1p of counts per median": np.log1p(COUNTS / TOTALS * MEDIAN),
    "log1p of CPM": np.log1p(COUNTS / TOTALS * 1e6),
    "log2 of CPM": np.log2(COUNTS / TOTALS * 1e6 + 1),
    "log2 of CPM / 10": np.log2(COUNTS / TOTALS * 1e5 + 1),
    "log10 of counts per 10,000": np.log10(COUNTS / TOTALS * 1e4 + 1),
    "square root of CPM": np.sqrt(COUNTS / TOTALS * 1e6),
    "arcsinh": np.arcsinh(COUNTS / TOTALS * 1e4 / 5),
    "CPM": COUNTS / TOTALS * 1e6,
    "proportions": COUNTS / TOTALS,
    "log1p of counts": np.log1p(COUNTS),
    "log1p, twice": np.log1p(RIGHT),
    "log2 of counts": np.log2(COUNTS + 1),
    "square root of counts": np.sqrt(COUNTS),
}


@pytest.mark.parametrize("name", SCALED)
def test_other_scales_are_undone_and_said(name: str) -> None:
    """RELIABILITY 49: what is declared log-normalised is natural logarithms of counts per 10,000 in the end."""
    found, remark = read(SCALED[name], expression="lognorm")
    np.testing.assert_allclose(found, RIGHT, rtol=2e-5)
    assert "10,000" in remark
    with pytest.raises(CellsError):
        read(SCALED[name])


@pytest.mark.parametrize("genes", [slice(None), SUBSET], ids=["all genes", "some genes"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_what_is_right_stays_as_it_is(genes: slice | np.ndarray, dtype: str) -> None:
    """RELIABILITY 49: where genes were removed, sums mislead; quotients do not."""
    values = RIGHT[:, genes].astype(dtype)
    found, remark = read(values, expression="lognorm")
    np.testing.assert_array_equal(found, values.astype("float32"))
    assert not remark


def test_counts_per_10000_of_more_genes_than_are_there() -> None:
    """RELIABILITY 49: some genes of data scaled to the median are neither rescaled nor taken without a word."""
    values = SCALED["log1p of counts per median"][:, SUBSET].astype("float32")
    found, remark = read(values, expression="lognorm")
    np.testing.assert_array_equal(found, values)
    assert "10,000" in remark


@pytest.mark.parametrize("name", ["log2 of CPM", "log10 of counts per 10,000", "square root of CPM"])
def test_other_logarithms_of_some_genes_are_refused(name: str) -> None:
    with pytest.raises(CellsError) as caught:
        read(SCALED[name][:, SUBSET], expression="lognorm")
    assert ("adata.X * " in str(caught.value)) == name.startswith("log")


def test_the_cure_for_another_logarithm_works() -> None:
    values = np.log2(COUNTS / TOTALS * 1e4 + 1)[:, SUBSET]
    with pytest.raises(CellsError, match=r"adata\.X = adata\.X \* (0\.\d+)") as caught:
        read(values, expression="lognorm")
    factor = float(str(caught.value).partition("adata.X * ")[2].split()[0])
    found, remark = read(values * factor, expression="lognorm")
    np.testing.assert_allclose(found, RIGHT[:, SUBSET], rtol=1e-5)
    assert not remark


@pytest.mark.parametrize("scale", [0.93, 0.01, 30.3])
@pytest.mark.parametrize("slot", [None, "X"])
@pytest.mark.parametrize("values", [np.minimum(COUNTS, 15), CORRECTED, np.minimum(CORRECTED, 9)])
def test_fractional_counts_of_any_size(values: np.ndarray, slot: str | None, scale: float) -> None:
    """RELIABILITY 4, 49: corrected counts are taken on the user's word, and nothing else is advised."""
    values = values * scale
    with pytest.raises(CellsError, match="allow_fractional=True"):
        read(values, slot=slot)
    found, _ = read(values, slot=slot, allow_fractional=True)
    np.testing.assert_allclose(found, np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4), rtol=1e-5)


@pytest.mark.parametrize("name", ["log1p of counts per median", "log2 of CPM", "log1p of counts"])
def test_logarithms_are_no_fractional_counts(name: str) -> None:
    """RELIABILITY 49: what is certainly logarithms is not normalised a second time."""
    with pytest.raises(CellsError, match="expression='lognorm'"):
        read(SCALED[name], allow_fractional=True)


def test_counts_with_rounding_errors_look_like_what_they_are() -> None:
    with pytest.raises(CellsError, match=r"\d\.0000\d+ in cell.*allow_fractional=True"):
        read(COUNTS * 1.0000003)
    assert np.allclose(read(COUNTS * 1.0000003, allow_fractional=True)[0], RIGHT, rtol=1e-5)


def test_more_than_10000_is_not_log_normalised() -> None:
    """RELIABILITY 49: some genes only, and yet more than all genes may have; corrected or not."""
    for counts in (COUNTS, CORRECTED):
        with pytest.raises(CellsError):
            read(np.log1p(counts / TOTALS * 1e6)[:, SUBSET], expression="lognorm")


def test_signed_zeros_and_single_cells() -> None:
    signed = np.where(RIGHT == 0, -0.0, RIGHT)
    np.testing.assert_array_equal(read(signed, expression="lognorm")[0], RIGHT.astype("float32"))
    assert not np.signbit(read(signed, expression="lognorm")[0]).any()
    for values in (RIGHT, SCALED["log2 of CPM"]):
        np.testing.assert_allclose(read(values[:1], expression="lognorm")[0], RIGHT[:1], rtol=2e-5)


@pytest.mark.parametrize("layers", [("spliced", "unspliced"), ("mature", "nascent", "ambiguous")])
def test_zeros_beside_counts_are_not_run(layers: tuple[str, ...]) -> None:
    """RELIABILITY 1: an X that velocity programs leave empty."""
    cells = adata(np.zeros_like(COUNTS))
    for name in layers:
        cells.layers[name] = sparse.csr_matrix(COUNTS)
    with open_cells(cells) as opened:
        with pytest.raises(CellsError, match=f"slot='layers/{min(layers)}'"):
            find_expression(opened)
        assert find_expression(opened, slot=f"layers/{layers[0]}").kind == "counts"


def test_raw_of_other_cells_is_no_fault_of_x(tmp_path: Path) -> None:
    import h5py

    cells = adata(COUNTS)
    cells.raw = cells
    cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        other = sparse.csr_matrix(COUNTS[:30].astype("float32"))
        del file["raw/X"]
        anndata.io.write_elem(file["raw"], "X", other)
    with open_cells(tmp_path / "a.h5ad") as opened:
        assert list(opened.slots) == ["X"]
        assert find_expression(opened).slot == "X"


@pytest.mark.parametrize("name", ["log2 of CPM", "CPM", "log1p of counts per median"])
def test_stage_2_judges_as_stage_1(name: str, tmp_path: Path) -> None:
    """RELIABILITY 49: in both stages."""
    adata(SCALED[name]).write_h5ad(tmp_path / "a.h5ad")
    with pytest.warns(CellsWarning, match="10,000"):
        found = scstore.open(tmp_path / "a.h5ad").view("X")[:].toarray()
    np.testing.assert_allclose(found, RIGHT, rtol=2e-5)


def test_stage_2_takes_nothing_by_its_looks(tmp_path: Path) -> None:
    """RELIABILITY 49: small corrected counts are never taken for logarithms; nobody declared them."""
    adata(np.minimum(CORRECTED, 9)).write_h5ad(tmp_path / "a.h5ad")
    store = scstore.open(tmp_path / "a.h5ad")
    assert "X" not in store.views
    with pytest.raises(InputError, match="allow_fractional=True"):
        store.view("X")
    adata(RIGHT[:, SUBSET]).write_h5ad(tmp_path / "b.h5ad")
    found = scstore.open(tmp_path / "b.h5ad").view("X")[:].toarray()
    np.testing.assert_array_equal(found, RIGHT[:, SUBSET].astype("float32"))


def test_repeated_genes_are_summed_on_every_scale() -> None:
    """RELIABILITY 7: before the logarithm, whatever the file holds."""
    groups = np.arange(N_GENES)
    groups[1::2] -= 1
    joined = COUNTS.copy()
    joined[:, ::2] += joined[:, 1::2]
    joined[:, 1::2] = 0
    with open_cells(adata(SCALED["log2 of CPM"])) as cells:
        slot = find_expression(cells, expression="lognorm")
        found = lognorm_block(cells, slot, 0, N_CELLS, groups=groups).toarray()
    np.testing.assert_allclose(found, np.log1p(joined / TOTALS * 1e4), rtol=2e-5)


def test_absurd_values_are_no_scale() -> None:
    """Numbers at the ends of what a float holds neither overflow nor divide by zero."""
    for value in (1e-320, 1e-200, 600.5, 1e30 + 0.0):
        values = np.where(COUNTS > 0, value, 0) * RNG.uniform(0.5, 1, COUNTS.shape)
        with open_cells(adata(values, "float64")) as cells, pytest.raises(CellsError):
            find_expression(cells, expression="lognorm" if value > 1 else "counts")


def test_a_large_dense_sample_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scales, "MOST_VALUES", 3000)
    found, _ = read(SCALED["log2 of CPM"], expression="lognorm")
    np.testing.assert_allclose(found, RIGHT, rtol=2e-5)
