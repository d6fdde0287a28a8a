"""10x in HDF5: files of Cell Ranger 2 and 3, CellBender, Space Ranger."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from scstore.cells.expression import ExpressionSlot, lognorm_rows
from scstore.cells.opening import open_cells
from scstore.errors import CellsError, GenesError
from scstore.genes.matching import gene_names


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


def test_without_ids(counts, write_10x_h5):
    """CellBender 0.1 writes names only."""
    path = write_10x_h5(genomes=("background_removed",))
    with h5py.File(path, "r+") as file:
        del file["background_removed/genes"]
        file.create_group("metadata")
    with open_cells(path) as cells:
        assert list(cells.var("X").index) == [f"GENE{i}" for i in range(8)]
        np.testing.assert_array_equal(cells.slots["X"].rows(0, 99).toarray(), counts[:, :8])


def test_probes(counts, write_10x_h5):
    """RELIABILITY 46: a matrix of probes is summed to genes or refused; probes that the run left out are left out."""
    ids = [f"ENSG{i // 2:011d}" for i in range(11)]
    names = [f"G{i // 2}A" for i in range(11)]
    path = write_10x_h5(
        id=[f"{own}|{name}|{i:07x}" for i, (own, name) in enumerate(zip(ids, names, strict=True))],
        gene_id=ids,
        gene_name=names,
        feature_type=["Gene Expression"] * 11,
        genome=["GRCh38"] * 11,
        filtered_probes=["True"] * 10 + ["False"],
    )
    with h5py.File(path, "r+") as file:
        del file["matrix/features/name"]
        file["matrix/features/name"] = np.array([f"{name}|{i:07x}" for i, name in enumerate(names)], "S")
    with open_cells(path) as cells:
        assert any("filtered_feature_bc_matrix.h5" in line for line in cells.notes("X"))
        with pytest.raises(GenesError, match="filtered_feature_bc_matrix.*sum_duplicate_genes=True"):
            gene_names(cells.var("X"), source=cells.source)
        found, groups = gene_names(cells.var("X"), sum_duplicates=True)
        ((_, rows),) = lognorm_rows(cells, ExpressionSlot("X", "counts"), groups=groups)
    assert found["symbol"].tolist()[::2] == [f"G{i}A" for i in range(5)]
    sums = counts[:, :10:2] + counts[:, 1:10:2]
    wanted = np.log1p(sums / np.maximum(sums.sum(axis=1, keepdims=True), 1) * 1e4)
    np.testing.assert_allclose(rows.toarray()[:, ::2], wanted, rtol=1e-6)
