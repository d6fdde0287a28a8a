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

from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_block, lognorm_rows
from scstore.cells.matrices import RowMatrix
from scstore.cells.opening import CellFile, open_cells
from scstore.errors import CellsError


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
