"""10x: HDF5 files of Cell Ranger 2 and 3, and folders."""

from __future__ import annotations

import gzip

import h5py
import numpy as np
import pytest

from scstore.cells.opening import open_cells
from scstore.errors import CellsError


def test_version_3(counts, write_10x_h5):
    """Genes only, named by Ensembl id with the symbol beside it; antibodies are left out."""
    with open_cells(write_10x_h5()) as cells:
        rows = cells.slots["X"].rows(5, 37)
        np.testing.assert_array_equal(rows.toarray(), counts[5:, :8])
        assert rows.has_canonical_format
        var = cells.var("X")
        assert list(var.index[:2]) == ["ENSG00000000000", "ENSG00000000001"]
        assert list(var["symbol"][:2]) == ["GENE0", "GENE1"]
        assert set(var["feature_type"]) == {"Gene Expression"}
        assert cells.obs.index[3] == "AAAC3-1"


def test_version_2(counts, write_10x_h5):
    with open_cells(write_10x_h5(genomes=("hg19",))) as cells:
        np.testing.assert_array_equal(cells.slots["X"].rows(0, 99).toarray(), counts[:, :8])
        assert list(cells.var("X")["symbol"][:2]) == ["GENE0", "GENE1"]


def test_several_genomes(write_10x_h5):
    species = ["GRCh38"] * 4 + ["mm10"] * 7
    ids = [f"{genome}_ENSG{i:011d}" for i, genome in enumerate(species)]
    gene = ["Gene Expression"] * 11
    for path in (
        write_10x_h5(genomes=("hg19", "mm10"), name="v2.h5"),
        write_10x_h5(genome=species, feature_type=gene, name="v3.h5"),
        write_10x_h5(id=ids, genome=["GRCh38_and_mm10"] * 11, feature_type=gene, name="joint.h5"),
    ):
        with pytest.raises(CellsError, match="mm10"):
            open_cells(path)


def test_no_genes(write_10x_h5):
    with pytest.raises(CellsError, match="Peaks"):
        open_cells(write_10x_h5(feature_type=["Peaks"] * 11))


def test_damage(write_10x_h5):
    """RELIABILITY 14, 40: parts that are missing or do not fit."""
    path = write_10x_h5()
    for part, value, words in (
        ("indices", None, "matrix/indices"),
        ("shape", np.array([11, 40]), "11 features × 40 cells"),
        ("data", np.arange(5), "matrix/indptr"),
        ("features/name", np.array(["A"], "S"), "1 of symbol"),
    ):
        broken = path.with_name("broken.h5")
        broken.write_bytes(path.read_bytes())
        with h5py.File(broken, "r+") as file:
            del file[f"matrix/{part}"]
            if value is not None:
                file[f"matrix/{part}"] = value
        with pytest.raises(CellsError, match=words):
            open_cells(broken)


@pytest.mark.parametrize(("kind", "prefix"), [("integer", ""), ("real", "GSM1_")])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_form_of_a_folder(kind, packed, legacy, prefix, counts, write_mtx):
    """RELIABILITY 12: entries in any order become sorted rows."""
    folder = write_mtx(kind=kind, packed=packed, legacy=legacy, prefix=prefix)
    with open_cells(folder) as cells:
        wanted = counts[:, :8]
        rows = cells.slots["X"].rows(0, 37)
        assert rows.has_canonical_format
        np.testing.assert_array_equal(rows.toarray(), wanted)
        np.testing.assert_array_equal(cells.slots["X"].rows(20, 30).toarray(), wanted[20:30])
        assert list(cells.var("X")["symbol"][:2]) == ["GENE0", "GENE1"]
        assert cells.var("X").index[1] == "ENSG00000000001"
        assert cells.obs.index[36] == "AAAC36-1"


def change(folder, name, old, new):
    path = folder / name
    path.write_text(path.read_text().replace(old, new, 1))


def test_damaged_folders(write_mtx, counts):
    """RELIABILITY 14, 40: what is missing, truncated or outside the matrix is named."""
    n = np.count_nonzero(counts)
    size = f"11 37 {n}"
    for i, (old, new, words) in enumerate(
        [
            (size, f"11 37 {n + 5}", "matrix.mtx"),
            (size, f"11 37 {n - 5}", "matrix.mtx"),
            (size, f"11 37 {10**12}", "1,000,000,000,000 values"),
            (size, f"12 37 {n}", "12 × 37"),
            (size, f"37 11 {n}", "matrix.mtx"),
            (size, "eleven", "matrix.mtx"),
            (f"11 37 {n}\n", f"11 37 {n + 1}\n12 1 5\n", "matrix.mtx"),
            (f"11 37 {n}\n", f"11 37 {n + 1}\n0 1 5\n", "matrix.mtx"),
            (f"11 37 {n}\n", f"11 37 {n + 1}\n1 38 5\n", "matrix.mtx"),
            (f"11 37 {n}\n", f"11 37 {n + 1}\n1 37 x\n", "matrix.mtx"),
            (f"11 37 {n}\n", f"11 37 {n + 1}\n1 37\0\0\0 1\n", "NUL"),
            ("%%MatrixMarket", "%%Market", "matrix.mtx"),
            ("integer general", "pattern general", "pattern"),
            ("integer general", "integer symmetric", "symmetric"),
        ]
    ):
        folder = write_mtx(name=f"mtx{i}", legacy=True)
        change(folder, "matrix.mtx", old, new)
        with pytest.raises(CellsError, match=words), open_cells(folder) as cells:
            cells.slots["X"].rows(0, 5)


def test_a_fraction_in_a_file_of_integers_is_read_as_it_is(write_mtx, counts):
    """Its header does not make 0.5 a count."""
    folder = write_mtx(legacy=True)
    n = np.count_nonzero(counts)
    change(folder, "matrix.mtx", f"11 37 {n}\n", f"11 37 {n + 1}\n6 4 0.5\n")
    with open_cells(folder) as cells:
        assert cells.slots["X"].rows(3, 4).toarray().tolist() == [[0, 0, 0, 0, 0, 0.5, 0, 0]]


def test_a_bomb_is_not_unpacked(write_mtx):
    """RELIABILITY 40: a gzip of nothing but blanks."""
    folder = write_mtx(packed=True)
    path = folder / "matrix.mtx.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\n" * (1 << 26)))
    with pytest.raises(CellsError, match="unpacks"), open_cells(folder) as cells:
        cells.slots["X"].rows(0, 5)


def test_truncated_gzip(write_mtx):
    """RELIABILITY 14: a gzip that breaks off."""
    folder = write_mtx(packed=True)
    path = folder / "matrix.mtx.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()))[:-200])
    with (
        pytest.raises(CellsError, match=r"matrix\.mtx\.gz"),
        open_cells(folder) as cells,
    ):
        cells.slots["X"].rows(0, 5)


def test_missing_and_ambiguous_files(write_mtx):
    folder = write_mtx(name="one")
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(CellsError, match=r"barcodes\.tsv"):
        open_cells(folder)
    folder = write_mtx(name="two")
    (folder / "features.tsv").unlink()
    with pytest.raises(CellsError, match=r"features\.tsv.*genes\.tsv"):
        open_cells(folder)
    folder = write_mtx(name="three")
    (folder / "b_matrix.mtx").write_bytes((folder / "matrix.mtx").read_bytes())
    with pytest.raises(CellsError, match="b_matrix"):
        open_cells(folder)


def test_names_are_text(write_mtx):
    """A gene called 1-Mar stays that, and is told; NA is a missing symbol; carriage returns of Windows go."""
    folder = write_mtx(legacy=True)
    change(folder, "genes.tsv", "GENE0", "NA")
    (folder / "barcodes.tsv").write_text((folder / "barcodes.tsv").read_text().replace("\n", "\r\n"), newline="")
    with open_cells(folder) as cells:
        assert cells.var("X")["symbol"].iloc[0] == ""
        assert cells.obs.index[0] == "AAAC0-1"


def test_no_values(write_mtx, counts):
    """RELIABILITY 10: cells without a single count are cells all the same."""
    folder = write_mtx(legacy=True)
    lines = (folder / "matrix.mtx").read_text().split("\n")
    (folder / "matrix.mtx").write_text("\n".join([*lines[:2], "11 37 0", ""]))
    with open_cells(folder) as cells:
        assert cells.slots["X"].rows(0, 37).nnz == 0
