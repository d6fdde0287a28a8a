from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scstore.errors import GenesError
from scstore.genes.matching import match_genes
from scstore.genes.orthologs import Orthologs, read_orthologs
from scstore.genes.translation import match_orthologs, rename_by_orthologs

PAIRS = (
    "Gene stable ID,Gene name,Mouse gene stable ID,Mouse gene name\n"
    "ENSG01,CD3D,ENSMUSG01,Cd3d\n"
    "ENSG02,LYZ,ENSMUSG02,Lyz2\n"
    "ENSG03,,ENSMUSG03,Gm3\n"
    "ENSG04,MS4A1,ENSMUSG04,Ms4a1\n"
)


@pytest.fixture
def orthologs(tmp_path: Path) -> Orthologs:
    (tmp_path / "o.csv").write_text(PAIRS)
    return read_orthologs(tmp_path / "o.csv")


def var(*names: str, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def test_genes_take_their_orthologs_names(orthologs: Orthologs) -> None:
    """By Ensembl id with or without version, by symbol, in the index or beside it; an id wins over a symbol."""
    genes = var("Lyz2", "Own", "ENSMUSG01.5", "x", "Cd3d", gene_ids=["", "", "", "ENSMUSG03", "ENSMUSG04"])
    renamed = rename_by_orthologs(genes, orthologs, organism="mouse", source="m.h5ad")
    assert list(renamed.var.index) == ["LYZ", "CD3D", "ENSG03", "MS4A1"]
    assert list(renamed.var["gene_ids"]) == ["ENSG02", "ENSG01", "ENSG03", "ENSG04"]
    assert renamed.columns.tolist() == [0, 2, 3, 4]
    assert "4 of 5 mouse genes are read as their human orthologs" in renamed.report
    assert "left out: 1, e.g. 'Own'" in renamed.report


def test_and_back(orthologs: Orthologs) -> None:
    renamed = rename_by_orthologs(var("MS4A1", "CD3D"), orthologs, organism="human")
    assert list(renamed.var.index) == ["Ms4a1", "Cd3d"]
    assert "without one" not in renamed.report


def test_none_at_all_is_refused(orthologs: Orthologs) -> None:
    with pytest.raises(GenesError, match=r"m\.h5ad: none of its 1 genes \('CD3D'\) is a mouse gene of --orthologs"):
        rename_by_orthologs(var("CD3D"), orthologs, organism="mouse", source="m.h5ad")


@pytest.fixture
def table() -> pd.DataFrame:
    symbols = ["MS4A1", "CD3D", "LYZ", "GNLY"]
    ids = ["ENSG04", "ENSG01", "", ""]
    return pd.DataFrame({"symbol": symbols, "ensembl_id": ids, "organism": "human", "synonyms": ""}, index=symbols)


def test_a_match_covers_all_input_genes(orthologs: Orthologs, table: pd.DataFrame) -> None:
    match = match_orthologs(var("Own", "Lyz2", "ENSMUSG01", "Gm3"), table, orthologs, organism="mouse")
    assert match.table_rows.tolist() == [-1, 2, 1, -1]
    assert match.how.tolist() == ["", "symbol", "ensembl", ""]
    assert match.genes.tolist() == [1, 2]
    assert match.report.startswith("orthologs: 3 of 4 mouse genes")
    assert "2 of 3 match the table's 4" in match.report


def test_repeated_genes_are_summed_where_they_stand(orthologs: Orthologs, table: pd.DataFrame) -> None:
    genes = var("Own", "Lyz2", "Own", "Cd3d", "Lyz2")
    with pytest.raises(GenesError, match="'LYZ'.*--sum-duplicate-genes"):
        match_orthologs(genes, table, orthologs, organism="mouse")
    match = match_orthologs(genes, table, orthologs, organism="mouse", sum_duplicates=True)
    assert match.table_rows.tolist() == [-1, 2, -1, 1, -1]
    assert match.groups is not None
    assert match.groups.tolist() == [0, 1, 2, 3, 1]


def test_renamed_genes_match_as_the_other_species_own(orthologs: Orthologs, table: pd.DataFrame) -> None:
    theirs = match_orthologs(var("Cd3d", "Lyz2", "Ms4a1"), table, orthologs, organism="mouse")
    ours = match_genes(var("CD3D", "LYZ", "MS4A1"), table)
    np.testing.assert_array_equal(theirs.table_rows, ours.table_rows)
