"""10x HDF5 files of Cell Ranger 2 and 3."""

from __future__ import annotations

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
        np.testing.assert_array_equal(cells.slots["X"].rows(0, 99).toarray(), counts)
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
        with pytest.raises(CellsError, match=r"it holds 2 genomes \('\w+', 'mm10'\).*genome=…"):
            open_cells(path)


def test_no_genes(write_10x_h5):
    with pytest.raises(CellsError, match="no feature is of type 'Gene Expression'; there is 'Peaks'"):
        open_cells(write_10x_h5(feature_type=["Peaks"] * 11))


def test_damage(write_10x_h5):
    """RELIABILITY 14, 40: parts that are missing or do not fit."""
    path = write_10x_h5()
    for part, value, words in (
        ("indices", None, "matrix/indices is missing"),
        ("shape", np.array([11, 40]), r"matrix/shape says 11 features × 40 cells, but there are 11 features and 37"),
        ("data", np.arange(5), "the parts of matrix do not fit each other"),
        ("features/name", np.array(["A"], "S"), "11 feature ids and 1 names"),
    ):
        broken = path.with_name("broken.h5")
        broken.write_bytes(path.read_bytes())
        with h5py.File(broken, "r+") as file:
            del file[f"matrix/{part}"]
            if value is not None:
                file[f"matrix/{part}"] = value
        with pytest.raises(CellsError, match=words):
            open_cells(broken)
