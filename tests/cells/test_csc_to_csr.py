"""The counting sort onto disk."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scstore.cells.csc_to_csr import Scratch, SortedByRow, compressed_columns
from scstore.errors import CellsError


@settings(max_examples=60, deadline=None)
@given(
    n_cells=st.integers(1, 9),
    n_genes=st.integers(1, 9),
    density=st.floats(0, 1),
    block=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_by_column_equals_by_row(n_cells, n_genes, density, block, seed):
    """RELIABILITY 12: a matrix stored by column has the rows that scipy gives, whatever the size of the blocks."""
    wanted = sparse.random(n_cells, n_genes, density, format="csc", random_state=seed)
    scratch = Scratch()
    try:
        matrix = compressed_columns(
            wanted.indptr,
            wanted.indices,
            wanted.data,
            shape=wanted.shape,
            scratch=scratch,
            source="f",
            name="X",
            block=block,
        )
        for start in range(0, n_cells, 4):
            rows = matrix.rows(start, start + 4)
            assert rows.has_canonical_format
            np.testing.assert_array_equal(rows.toarray(), wanted.toarray()[start : start + 4])
    finally:
        scratch.close()


def test_memory_is_bounded(tmp_path):
    """The sort holds a block, not the matrix."""
    wanted = sparse.random(2000, 500, 0.8, format="csc", random_state=0, dtype=np.float64)
    scratch = Scratch(tmp_path)
    tracemalloc.start()
    matrix = compressed_columns(
        wanted.indptr,
        wanted.indices,
        wanted.data,
        shape=wanted.shape,
        scratch=scratch,
        source="f",
        name="X",
        block=5000,
    )
    matrix.rows(0, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.2 * wanted.data.nbytes
    np.testing.assert_array_equal(matrix.rows(1500, 2000).toarray(), wanted[1500:].toarray())
    scratch.close()
    assert not list(tmp_path.iterdir())


def test_a_source_that_changes():
    """Entries that differ between the two passes are noticed."""
    passes = iter([[0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 1]])

    def blocks():
        cells = np.array(next(passes))
        yield cells, np.zeros(len(cells), np.int64), np.ones(len(cells))

    for _ in range(2):
        scratch = Scratch()
        with pytest.raises(CellsError, match="f: X changed while it was read"):
            SortedByRow((2, 3), np.float64, blocks, scratch, "f", "X").rows(0, 2)
        scratch.close()


def test_no_room(tmp_path, monkeypatch):
    """RELIABILITY 22: a full disk is a message, not a crash of the memory map."""
    scratch = Scratch(tmp_path)

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(CellsError, match=r"no room for 4,000 bytes.*TMPDIR.*by row \(CSR\)"):
        scratch.array("data", length=1000, dtype=np.int32)
    monkeypatch.undo()
    with pytest.raises(CellsError, match="no room for"):
        scratch.array("data", length=1 << 55, dtype=np.int32)
    scratch.close()


def test_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CellsError, match="no temporary folder can be made there"):
        Scratch(tmp_path / "file" / "scratch").array("data", length=3, dtype=np.int32)


def test_nothing_is_made_before_it_is_needed(tmp_path):
    scratch = Scratch(tmp_path / "later")
    scratch.close()
    assert not (tmp_path / "later").exists()
