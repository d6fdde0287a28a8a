"""10x folders."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from scstore.cells.csc_to_csr import Scratch
from scstore.cells.mtx import read_10x_folder
from scstore.cells.opening import open_cells
from scstore.errors import CellsError


@pytest.mark.parametrize("kind", ["integer", "real"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_every_form(kind, packed, legacy, prefix, counts, write_mtx):
    """RELIABILITY 12: entries in any order become sorted rows."""
    folder = write_mtx(kind=kind, packed=packed, legacy=legacy, prefix=prefix)
    with open_cells(folder) as cells:
        wanted = counts if legacy else counts[:, :8]
        rows = cells.slots["X"].rows(0, 37)
        assert rows.has_canonical_format
        np.testing.assert_array_equal(rows.toarray(), wanted)
        np.testing.assert_array_equal(cells.slots["X"].rows(20, 30).toarray(), wanted[20:30])
        assert list(cells.var("X")["symbol"][:2]) == ["GENE0", "GENE1"]
        assert cells.var("X").index[1] == "ENSG00000000001"
        assert cells.obs.index[36] == "AAAC36-1"


def test_small_blocks(counts, write_mtx):
    """The result does not depend on how much is read at a time."""
    folder = write_mtx(legacy=True)
    for block in (1, 7, 10_000):
        scratch = Scratch()
        try:
            opened = read_10x_folder(folder, scratch=scratch, block=block)
            np.testing.assert_array_equal(opened.slots["X"].rows(0, 37).toarray(), counts)
        finally:
            scratch.close()


def change(folder, name, old, new):
    path = folder / name
    path.write_text(path.read_text().replace(old, new, 1))


def test_damage(write_mtx, counts):
    """RELIABILITY 14, 40: what is missing, truncated or outside the matrix is named."""
    n = np.count_nonzero(counts)
    size = f"11 37 {n}"
    for i, (name, old, new, words) in enumerate(
        [
            ("matrix.mtx", size, f"11 37 {n + 5}", rf"the header announces {n + 5} values, but there are {n}"),
            ("matrix.mtx", size, f"12 37 {n}", r"the matrix is 12 × 37, but there are 11 features and 37 barcodes"),
            ("matrix.mtx", size, f"37 11 {n}", r"features × cells is expected"),
            ("matrix.mtx", size, "eleven", "a general matrix"),
            ("matrix.mtx", f"{size}\n", f"{size}\n12 1 5\n", "has a value outside its 11 genes"),
            ("matrix.mtx", f"{size}\n", f"{size}\n0 1 5\n", "has a value outside its 11 genes"),
            ("matrix.mtx", f"{size}\n", f"{size}\n1 38 5\n", "has a value outside its 37 cells"),
            ("matrix.mtx", f"{size}\n", f"{size}\n1 38 x\n", "the matrix cannot be read"),
            ("matrix.mtx", "%%MatrixMarket", "%%Market", "it does not begin with"),
            ("matrix.mtx", "integer general", "pattern general", "header says 'pattern general'"),
            ("matrix.mtx", "integer general", "integer symmetric", "header says 'integer symmetric'"),
        ]
    ):
        folder = write_mtx(name=f"mtx{i}", legacy=True)
        change(folder, name, old, new)
        with pytest.raises(CellsError, match=words), open_cells(folder) as cells:
            cells.slots["X"].rows(0, 5)


def test_truncated_gzip(write_mtx):
    """RELIABILITY 14: a gzip that breaks off."""
    folder = write_mtx(packed=True)
    path = folder / "matrix.mtx.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()))[:-200])
    with (
        pytest.raises(CellsError, match=r"matrix\.mtx\.gz: the matrix cannot be read .*copy or download"),
        open_cells(folder) as cells,
    ):
        cells.slots["X"].rows(0, 5)


def test_missing_and_ambiguous_files(write_mtx):
    folder = write_mtx(name="one")
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(CellsError, match=r"barcodes\.tsv\[\.gz\] is missing beside the matrix"):
        open_cells(folder)
    folder = write_mtx(name="two")
    (folder / "features.tsv").unlink()
    with pytest.raises(CellsError, match=r"features\.tsv\[\.gz\] or genes\.tsv\[\.gz\] is missing"):
        open_cells(folder)
    folder = write_mtx(name="three")
    (folder / "b_matrix.mtx").write_bytes((folder / "matrix.mtx").read_bytes())
    with pytest.raises(CellsError, match="there are 2 matrices in it"):
        open_cells(folder)


def test_names_are_text(write_mtx):
    """A gene called NA or 1-Mar stays what it is; carriage returns of Windows go."""
    folder = write_mtx(legacy=True)
    change(folder, "genes.tsv", "GENE0", "NA")
    (folder / "barcodes.tsv").write_text((folder / "barcodes.tsv").read_text().replace("\n", "\r\n"), newline="")
    with open_cells(folder) as cells:
        assert cells.var("X")["symbol"].iloc[0] == "NA"
        assert cells.obs.index[0] == "AAAC0-1"


def test_no_values(write_mtx, counts):
    """RELIABILITY 10: cells without a single count are cells all the same."""
    folder = write_mtx(legacy=True)
    lines = (folder / "matrix.mtx").read_text().split("\n")
    (folder / "matrix.mtx").write_text("\n".join([*lines[:2], "11 37 0", ""]))
    with open_cells(folder) as cells:
        assert cells.slots["X"].rows(0, 37).nnz == 0
