"""Which slot holds the expression, and what it becomes."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

import scstore
from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_block, lognorm_rows
from scstore.cells.matrices import RowMatrix
from scstore.cells.opening import CellFile, open_cells
from scstore.errors import CellsError, CellsWarning, InputError


def logged(counts: np.ndarray) -> np.ndarray:
    """The textbook formula."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.log1p(np.divide(1e4 * counts, totals, out=np.zeros(counts.shape), where=totals > 0))


def everything(cells: CellFile, slot: ExpressionSlot, **options: object) -> np.ndarray:
    return np.concatenate([rows.toarray() for _, rows in lognorm_rows(cells, slot, **options)])


def test_counts_in_x(adata, counts, write_h5ad):
    """RELIABILITY 3: integer-valued floats are counts."""
    path = write_h5ad(adata)
    with open_cells(path) as cells:
        slot = find_expression(cells)
        assert slot == ExpressionSlot("X", "counts", fractional=False)
        starts = []
        for start, rows in lognorm_rows(cells, slot, chunk_rows=10):
            starts.append(start)
            assert rows.dtype == np.float32
            assert rows.has_sorted_indices
            assert rows.shape == (min(10, 37 - start), 11)
            assert (rows.data != 0).all()
            np.testing.assert_allclose(rows.toarray(), logged(counts)[start : start + 10], rtol=1e-6)
        assert starts == [0, 10, 20, 30]


def test_same_as_scanpy(adata):
    scanpy = pytest.importorskip("scanpy", reason="compares with scanpy")
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()  # scanpy warns of empty cells
    with open_cells(adata) as cells:
        found = everything(cells, find_expression(cells))
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    np.testing.assert_allclose(found, adata.X.toarray(), rtol=1e-5)


def test_empty_cells_stay(adata):
    """RELIABILITY 10: a cell with no counts is an empty row."""
    with open_cells(adata) as cells:
        rows = lognorm_block(cells, find_expression(cells), 3, 4)
    assert rows.nnz == 0
    assert rows.shape == (1, 11)


def test_only_empty_cells(adata):
    """RELIABILITY 10: also when there is no other cell."""
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    for expression in ("counts", "lognorm"):
        with open_cells(adata) as cells:
            slot = find_expression(cells, expression=expression)
            assert slot.slot == "X"
            assert not everything(cells, slot).any()


def test_order_of_slots(adata, counts):
    """X, then layers/counts, then raw."""
    adata.layers["counts"] = counts * 2
    adata.raw = adata
    with open_cells(adata) as cells:
        assert find_expression(cells).slot == "X"
    adata.X = logged(counts)
    with open_cells(adata) as cells:
        assert find_expression(cells).slot == "layers/counts"
        assert find_expression(cells, slot="raw").slot == "raw"
    del adata.layers["counts"]
    with open_cells(adata) as cells:
        assert find_expression(cells).slot == "raw"
    adata.layers["counts"] = np.zeros(counts.shape)
    with open_cells(adata) as cells:
        assert find_expression(cells).slot == "raw"


def test_counts_in_another_layer(adata, counts):
    """RELIABILITY 1: X log-normalised, counts in a layer: the layers that hold counts are named, none is guessed."""
    adata.X = logged(counts)
    adata.layers["umi"] = counts
    adata.layers["spliced"] = sparse.csr_matrix(counts)
    adata.layers["smooth"] = logged(counts)
    with open_cells(adata) as cells:
        with pytest.raises(CellsError) as caught:
            find_expression(cells)
        message = str(caught.value)
        assert "slot='layers/spliced' or slot='layers/umi'" in message
        assert "smooth" not in message
        assert find_expression(cells, slot="layers/umi") == ExpressionSlot("layers/umi", "counts")
        with pytest.raises(CellsError, match="layers/smooth"):
            find_expression(cells, slot="layers/x")


def test_no_counts_anywhere(adata, counts):
    """RELIABILITY 2: no counts and nothing declared: says how to declare log-normalised input."""
    adata.X = logged(counts)
    with open_cells(adata) as cells:
        with pytest.raises(CellsError, match=r"expression='lognorm'\.$"):
            find_expression(cells)
        slot = find_expression(cells, expression="lognorm")
        assert slot == ExpressionSlot("X", "lognorm")
        np.testing.assert_array_equal(everything(cells, slot), logged(counts).astype(np.float32))
    adata.layers["mine"] = logged(counts)
    with open_cells(adata) as cells, pytest.raises(CellsError, match="expression='lognorm' and slot='layers/mine'"):
        find_expression(cells, slot="layers/mine")


def test_lognorm_declared_but_counts(adata, counts):
    """RELIABILITY 2: X with counts is not taken as log-normalised."""
    with open_cells(adata) as cells:
        with pytest.raises(CellsError, match="expression='lognorm'"):
            find_expression(cells, expression="lognorm")
        with pytest.raises(CellsError, match="123.*expression='lognorm'"):
            find_expression(cells, expression="lognorm", slot="X")
    adata.X = logged(counts) * 1000
    with open_cells(adata) as cells, pytest.raises(CellsError, match="slot="):
        find_expression(cells, expression="lognorm")


def test_scaled_x_with_lognorm_raw(adata, counts):
    """scanpy's habit: X scaled, raw log-normalised; the latter is taken when declared."""
    adata.X = logged(counts)
    adata.raw = adata
    adata.X = adata.X - 1.37
    with open_cells(adata) as cells:
        assert find_expression(cells, expression="lognorm") == ExpressionSlot("raw", "lognorm")
        with pytest.raises(CellsError, match=r"-1\.37 in cell 'cell\d+', gene 'GENE\d+'"):
            find_expression(cells)
        with pytest.raises(CellsError, match=r"-1\.37"):
            find_expression(cells, expression="lognorm", slot="X")


def test_scanpys_own_file():
    scanpy = pytest.importorskip("scanpy", reason="scanpy's bundled cells")
    path = Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    with open_cells(path) as cells:
        slot = find_expression(cells, expression="lognorm")
        assert (slot.slot, slot.kind, slot.scale) == ("raw", "lognorm", None)
        assert "10,000" in slot.remark  # some genes of data that were scaled to the median
        assert everything(cells, slot).shape == (700, 765)


def test_fractional_counts(adata, counts):
    """RELIABILITY 4: fractional pseudo-counts are refused unless allowed, which is recorded."""
    adata.X = sparse.csr_matrix(counts * 1.5)
    with open_cells(adata) as cells:
        words = r"[\d.]+ in cell 'cell0', gene 'GENE\d+'; .*allow_fractional=True"
        with pytest.raises(CellsError, match=words):
            find_expression(cells)
        slot = find_expression(cells, allow_fractional=True)
        assert slot == ExpressionSlot("X", "counts", fractional=True)
        np.testing.assert_allclose(everything(cells, slot), logged(counts), rtol=1e-6)
    adata.layers["counts"] = counts
    with open_cells(adata) as cells:
        assert find_expression(cells, allow_fractional=True).slot == "layers/counts"


def test_tiny_fractional_counts(adata):
    """RELIABILITY 4: totals at the edge of double precision neither overflow nor warn."""
    adata.X = np.full(adata.shape, 1e-310)
    with open_cells(adata) as cells:
        found = everything(cells, ExpressionSlot("X", "counts", fractional=True))
    np.testing.assert_allclose(found, np.log1p(1e4 / 11), rtol=1e-3)


def test_allowed_fractions_in_the_last_rows(adata, counts):
    """RELIABILITY 4: the permission holds where the sample showed integers only."""
    values = np.tile(counts.astype(float), (20, 1))
    values[40, 0] += 0.5
    with open_cells(anndata.AnnData(values, var=adata.var)) as cells:
        slot = find_expression(cells, allow_fractional=True)
        assert slot.fractional
        np.testing.assert_allclose(everything(cells, slot), logged(values), rtol=1e-6)


BAD = [
    (np.nan, "NaN"),
    (np.inf, "inf"),
    (-np.inf, "-inf"),
    (-1.0, "-1"),
    (1e39, r"1e\+39"),
]


@pytest.mark.parametrize("sparsely", [True, False])
@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        *(("counts", *bad) for bad in BAD),
        *(("lognorm", *bad) for bad in BAD),
        ("counts", 2.5, r"2\.5.*allow_fractional=True"),
    ],
)
def test_bad_values_in_the_last_rows(kind, sparsely, value, words, adata, counts, write_h5ad):
    """RELIABILITY 5: NaN, Inf, negative values, also only in the last rows: the first such cell and gene are named."""
    values = counts.astype(float) if kind == "counts" else logged(counts)
    values[33:, 2] = values[35:, 1] = value
    adata.X = sparse.csr_matrix(values) if sparsely else values
    path = write_h5ad(adata)
    with open_cells(path) as cells:
        stream = lognorm_rows(cells, ExpressionSlot("X", kind), chunk_rows=10)
        assert [start for start, _ in (next(stream), next(stream), next(stream))] == [0, 10, 20]
        with pytest.raises(CellsError, match=rf"cells\.h5ad: cell 'cell33', gene 'GENE2': .*{words}"):
            next(stream)


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.0])
def test_bad_values_are_found_by_name(value, adata, counts):
    """RELIABILITY 5: a single bad value among counts does not make them something else."""
    values = counts.astype(float)
    values[36, 4] = value
    adata.X = values
    with open_cells(adata) as cells, pytest.raises(CellsError, match="cell 'cell36', gene 'GENE4'"):
        everything(cells, find_expression(cells))


def test_negative_integers(adata, counts):
    """RELIABILITY 5: integers are checked too."""
    counts[36, 10] = -4
    adata.X = counts
    with open_cells(adata) as cells, pytest.raises(CellsError, match=r"cell 'cell36', gene 'GENE10'.*-4"):
        everything(cells, find_expression(cells))


def cells_of(values: np.ndarray | sparse.spmatrix) -> anndata.AnnData:
    names = [f"c{i}" for i in range(values.shape[0])]
    return anndata.AnnData(
        values, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=[f"g{i}" for i in range(values.shape[1])])
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=hnp.arrays(
        np.int64,
        st.tuples(st.integers(1, 7), st.integers(1, 6)),
        elements=st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 32_000)),
    ),
    chunk=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_identical_bits(counts, chunk, seed):
    """RELIABILITY 12: layout, dtype, order of the indices, explicit zeros and chunks do not change a bit."""
    unsorted = sparse.csr_matrix(counts.astype(np.float32))
    rng = np.random.default_rng(seed)
    for start, stop in zip(unsorted.indptr[:-1], unsorted.indptr[1:], strict=True):
        order = start + rng.permutation(stop - start)
        unsorted.indices[start:stop], unsorted.data[start:stop] = unsorted.indices[order], unsorted.data[order]
    unsorted.has_sorted_indices = False
    padded = sparse.csr_matrix(np.ones(counts.shape))
    padded.data[:] = counts.ravel()
    sources = [
        counts,
        counts.astype(np.int16),
        counts.astype(np.uint32),
        counts.astype(np.float32),
        counts.astype(np.float64),
        sparse.csr_matrix(counts),
        sparse.csc_matrix(counts.astype(np.float32)),
        unsorted,
        padded,
    ]
    results = []
    for source in sources:
        with open_cells(cells_of(source)) as cells:
            slot = ExpressionSlot("X", "counts")
            blocks = [rows for _, rows in lognorm_rows(cells, slot, chunk_rows=chunk)]
            results.append(sparse.vstack(blocks, format="csr"))
    for other in results[1:]:
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(other, part), getattr(results[0], part))
    np.testing.assert_allclose(results[0].toarray(), logged(counts), rtol=1e-6)


def test_a_cell_alone(adata):
    """A cell has the same values alone as among others (DESIGN, decision 4)."""
    with open_cells(adata) as cells:
        slot = find_expression(cells)
        together = lognorm_block(cells, slot, 0, 37)
    for i in range(0, 37, 5):
        with open_cells(adata[[i]]) as alone:
            np.testing.assert_array_equal(lognorm_block(alone, slot, 0, 1).toarray(), together[i].toarray())


def test_groups_are_summed_before_the_logarithm(adata, counts):
    """RELIABILITY 7: counts of one gene are added up first; others keep every bit."""
    groups = np.arange(11)
    groups[[6, 9]] = 1
    joined = counts.copy()
    joined[:, 1] = counts[:, [1, 6, 9]].sum(axis=1)
    joined[:, [6, 9]] = 0
    with open_cells(adata) as cells:
        slot = find_expression(cells)
        found = everything(cells, slot, groups=groups)
        plain = everything(cells, slot)
    np.testing.assert_allclose(found, logged(joined), rtol=1e-6)
    np.testing.assert_array_equal(np.delete(found, [1, 6, 9], axis=1), np.delete(plain, [1, 6, 9], axis=1))
    adata.X = logged(counts)
    with open_cells(adata) as cells:
        from_logs = everything(cells, find_expression(cells, expression="lognorm"), groups=groups)
    np.testing.assert_allclose(from_logs, logged(joined), rtol=1e-5)
    np.testing.assert_array_equal(np.delete(from_logs, [1, 6, 9], axis=1), np.delete(plain, [1, 6, 9], axis=1))


def test_the_sample_comes_from_everywhere():
    """Few rows are looked at, among them the first and the last."""
    seen: list[int] = []
    values = np.ones((10_000, 2))
    obs, var = pd.DataFrame(index=[f"c{i}" for i in range(10_000)]), pd.DataFrame(index=["a", "b"])

    def take(start: int, stop: int) -> np.ndarray:
        seen.extend(range(start, stop))
        return values[start:stop]

    cells = CellFile("f", obs, {"X": RowMatrix(values.shape, take, "f", "X")}, {"X": var})
    find_expression(cells)
    assert len(seen) == len(set(seen)) == 512
    assert {0, 9_999} <= set(seen)
    assert np.diff(seen).max() < 700


def test_real_data(shared):
    with open_cells(shared / "cells" / "pancreas_human_mouse.h5ad") as cells:
        slot = find_expression(cells)
        assert slot == ExpressionSlot("X", "counts")
        totals = np.expm1(everything(cells, slot).astype(np.float64)).sum(axis=1)
        np.testing.assert_allclose(totals, 1e4, rtol=1e-4)


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
    monkeypatch.setattr("scstore.cells.expression.MOST_VALUES", 3000)
    found, _ = read(SCALED["log2 of CPM"], expression="lognorm")
    np.testing.assert_allclose(found, RIGHT, rtol=2e-5)
