"""Genes of an input against a gene table."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scstore.cells.expression import find_expression, lognorm_rows
from scstore.cells.opening import open_cells
from scstore.errors import GenesError
from scstore.genes.matching import common_name, gene_names, guess_organism, match_columns, match_genes


@pytest.fixture
def table() -> pd.DataFrame:
    """Ten human genes."""
    symbols = ["CD3D", "MS4A1", "NKG7", "LYZ", "GNLY", "CD8A", "PPBP", "TP53", "LAT", "FCGR3A"]
    synonyms = ["T3D", "CD20|B1", "GMP-17", "", "", "CD8", "NAP2|B1", "P53|LAT", "LAT1", "CD16|CD8"]
    return pd.DataFrame(
        {
            "symbol": symbols,
            "ensembl_id": [f"ENSG{i:011d}" for i in range(10)],
            "gene_id": [str(900 + i) for i in range(10)],
            "synonyms": synonyms,
            "organism": "human",
        },
        index=symbols,
    )


def var(*names: str, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def test_symbols_in_any_order(table):
    match = match_genes(var("LYZ", "CD3D", "UNKNOWN1", "NKG7"), table)
    assert match.table_rows.tolist() == [3, 0, -1, 2]
    assert match.table_rows.dtype == match.genes.dtype == np.int64
    assert match.genes.tolist() == [0, 2, 3]
    assert match.n_table == 10
    assert match.groups is None
    assert "3 of 4 here match, among the table's 10 (75.0% of the smaller side): 0 by Ensembl id, 3 by" in match.report
    assert "names found in the var index (3)" in match.report
    assert "not in the table: 1, e.g. 'UNKNOWN1'" in match.report


def test_versions_are_stripped_of_ids_only(table):
    """RELIABILITY 8: 'ENSG….12' loses its version; 'RP11-206L10.2' and 'AL627309.1' are whole symbols."""
    table.loc["LYZ", "symbol"] = "AL627309.1"
    table.loc["GNLY", "symbol"] = "RP11-206L10"
    table.loc["CD8A", "ensembl_id"] = "ENSG00000000005.7"
    match = match_genes(
        var(
            "ENSG00000000001.12",
            "AL627309.1",
            "RP11-206L10.2",
            "ENSG00000000005.3",
            "AL627309",
            "ENSG00000000002_PAR_Y",
        ),
        table,
    )
    assert match.table_rows.tolist() == [1, 3, -1, 5, -1, -1]


def test_ids_in_another_column(table):
    """RELIABILITY 8: ids beside made-up index names are found, and the report says where."""
    for column in ("gene_ids", "feature_id", "Ensembl", "gene_id"):
        match = match_genes(var("a", "b", "c", **{column: ["ENSG00000000003.1", "", "ENSG00000000000"]}), table)
        assert match.table_rows.tolist() == [3, -1, 0]
        assert f"names found in var column '{column}' (2)" in match.report
    categories = var("a", "b").assign(feature_name=pd.Categorical(["CD3D", None]))
    assert match_genes(categories, table).table_rows.tolist() == [0, -1]


def test_mixed_names(table):
    """RELIABILITY 8: symbols and ids mixed in one column, and an id that wins over the symbol beside it."""
    ids = ["", "", "ENSG00000000000", "retired"]
    match = match_genes(var("ENSG00000000001", "NKG7", "CD20X", "LYZ", gene_ids=ids), table)
    assert match.table_rows.tolist() == [1, 2, 0, 3]
    assert "2 by Ensembl id, 2 by symbol" in match.report
    assert "the var index (3), var column 'gene_ids' (1)" in match.report


def test_synonyms(table):
    """A synonym matches when it means one gene and is no other gene's symbol."""
    match = match_genes(var("T3D", "B1", "CD8", "LAT", "GMP-17", "LYZ"), table)
    assert match.table_rows.tolist() == [0, -1, -1, 8, 2, 3]


def test_the_better_match_wins(table):
    """Two input names of one table gene: ensembl > symbol > synonym, then input order; the other is counted."""
    match = match_genes(var("CD20", "MS4A1", "LYZ"), table)
    assert match.table_rows.tolist() == [-1, 1, 3]
    assert "left out, being the same gene of the table as another one here: 1, e.g. 'CD20'" in match.report
    assert "not in the table" not in match.report
    match = match_genes(var("MS4A1", "ENSG00000000001.2", "CD20"), table, min_match=0)
    assert match.table_rows.tolist() == [-1, 1, -1]
    first = match_genes(var("NAP2", "PPBP", "PPBP2", symbol=["", "PPBP", "PPBP"]), table)
    assert first.table_rows.tolist() == [-1, 6, -1]


def test_capitals_count(table):
    """RELIABILITY 9: human and mouse names never match for want of looking at capitals."""
    with pytest.raises(GenesError):
        match_genes(var("Cd3d", "Ms4a1", "cd20"), table)


def test_tables_with_less(table):
    """Only the symbol column is needed; empty and missing names match nothing."""
    match = match_genes(var("LYZ", "", "CD3D", gene_ids=["", "", np.nan]), table[["symbol"]])
    assert match.table_rows.tolist() == [3, -1, 0]
    gaps = table.assign(ensembl_id=np.nan, synonyms=None)
    gaps.loc["NKG7", "symbol"] = ""
    assert match_genes(var("LYZ", "", "NKG7"), gaps).table_rows.tolist() == [3, -1, -1]


def test_tables_of_two_organisms_are_refused(table):
    both = pd.concat([table, table.assign(organism="Mus musculus").set_axis(table.index + "-mouse")])
    with pytest.raises(GenesError, match=r"f\.h5ad: .*human and mouse"):
        match_genes(var("CD3D"), both, source="f.h5ad")
    assert match_genes(var("CD3D"), table.assign(organism=["human"] * 9 + [""])).table_rows.tolist() == [0]


def test_duplicate_names(table):
    """RELIABILITY 7: identical names are refused with examples and the flag."""
    genes = var("LYZ", "CD3D", "LYZ", "X1", "CD3D", "LYZ")
    with pytest.raises(GenesError, match=r"f\.h5ad: .*'LYZ', 'CD3D' \(2 "):
        match_genes(genes, table, source="f.h5ad")
    match = match_genes(genes, table, sum_duplicates=True)
    assert match.table_rows.tolist() == [3, 0, -1, -1, -1, -1]
    assert match.groups is not None
    assert match.groups.tolist() == [0, 1, 0, 3, 1, 0]
    assert "added to an earlier gene of the same name: 3" in match.report
    assert "not in the table: 1, e.g. 'X1'" in match.report
    with pytest.raises(GenesError, match=r"'ENSG00000000001\.2'"):
        match_genes(var("ENSG00000000001.1", "ENSG00000000001.2"), table)


def test_one_symbol_with_two_ids(table):
    """RELIABILITY 7: 10x files repeat symbols whose Ensembl ids differ; those are two genes."""
    ids = ["ENSG00000000003", "ENSG00000099999", "ENSG00000000000"]
    match = match_genes(var("LYZ", "LYZ", "CD3D", gene_ids=ids), table)
    assert match.table_rows.tolist() == [3, -1, 0]
    assert "left out, being the same gene of the table as another one here: 1, e.g. 'LYZ'" in match.report


def test_duplicates_are_summed_as_counts(table):
    """RELIABILITY 7: with the flag the counts are added before the logarithm; forgetting that is an error."""
    counts = np.array([[1, 2, 3, 4], [0, 0, 5, 0], [0, 0, 0, 0]])
    cells = anndata.AnnData(sparse.csr_matrix(counts), obs=var("a", "b", "c"), var=var("LYZ", "CD3D", "X1", "X2"))
    cells.var_names = ["LYZ", "CD3D", "LYZ", "X2"]
    with open_cells(cells) as opened:
        slot = find_expression(opened)
        match = match_genes(opened.var(slot.slot), table, sum_duplicates=True)
        ((_, rows),) = lognorm_rows(opened, slot, groups=match.groups)
        taken = match.apply(rows)
        np.testing.assert_allclose(taken.toarray(), np.log1p([[2000, 4000], [0, 10000], [0, 0]]), rtol=1e-6)
        ((_, unsummed),) = lognorm_rows(opened, slot)
        with pytest.raises(GenesError, match="groups="):
            match.apply(unsummed)


def test_apply(table):
    """Columns come in the order of the table, sorted, float32, and nothing else moves."""
    match = match_genes(var("LYZ", "X1", "CD3D", "NKG7", "X2"), table)
    values = np.array([[1, 9, 2, 3, 9], [0, 9, 0, 0, 9], [0, 0, 5, 0, 0], [7, 0, 0, 8, 0]], dtype=np.float64)
    taken = match.apply(sparse.csr_matrix(values))
    np.testing.assert_array_equal(taken.toarray(), values[:, [2, 3, 0]])
    assert taken.dtype == np.float32
    assert taken.has_sorted_indices
    assert taken.shape == (4, 3)
    assert match.apply(sparse.csr_matrix((0, 5))).shape == (0, 3)
    with pytest.raises(IndexError):
        match.apply(sparse.csr_matrix(values[:, :3]))


def test_columns_in_the_order_of_a_wanted_list(table):
    """Wanted genes by symbol or id; those that were not measured are zero."""
    wanted = {"symbol": ["NKG7", "NOBODY", "renamed"], "ensembl_id": ["", "", "ENSG00000000000"]}
    match = match_columns(table, wanted, source="store")
    assert match.genes.tolist() == [0, 2]
    values = np.arange(10, dtype=np.float32)[None, :] + 1
    aligned = match.align(sparse.csr_matrix(values))
    np.testing.assert_array_equal(aligned.toarray(), [[3, 0, 1]])
    with pytest.raises(GenesError, match="store"):
        match_columns(table, wanted, min_match=0.9, source="store")


def test_mouse_against_human(table):
    """RELIABILITY 9: refused with the percentage and the likely species."""
    genes = var("Cd3d", "Ms4a1", "Nkg7", "Lyz2", "C3")
    with pytest.raises(GenesError) as caught:
        match_genes(genes, table, source="mouse.h5ad")
    message = str(caught.value)
    for word in ("mouse.h5ad: 0 of 5 genes (0.0%)", "look like mouse", "like human", "'Cd3d'", "'CD3D'", "orthologs="):
        assert word in message
    with pytest.raises(GenesError, match="look like mouse"):
        match_genes(var("ENSMUSG00000032094", "ENSMUSG00000024673"), table.drop(columns="organism"))
    with pytest.raises(GenesError, match="orthologs=") as caught:
        match_genes(genes, table, cure="Not with another table")
    assert "genes=" not in str(caught.value)


def test_names_in_a_column_of_another_title(table):
    """RELIABILITY 9: where another column's names would match, it is suggested."""
    genes = var("probe1", "probe2", "probe3", hgnc=["CD3D", "LYZ", "GNLY"], chromosome=["1", "2", "3"])
    with pytest.raises(GenesError, match=r"'hgnc' .*100\.0%"):
        match_genes(genes, table)


def test_a_poor_match(table):
    """RELIABILITY 9: below the least fraction; a lower one can be asked for."""
    genes = var("CD3D", *(f"PROBE{i}" for i in range(7)))
    with pytest.raises(GenesError, match=r"1 of 8 genes \(12\.5%\).*min_match=0\.12"):
        match_genes(genes, table)
    assert match_genes(genes, table, min_match=0.1).genes.tolist() == [0]
    with pytest.raises(GenesError, match="0 of 1 genes"):
        match_genes(var("PROBE"), table, min_match=0)


def test_a_small_table(table):
    """A table smaller than the input is matched as well as it can be: that is no poor match."""
    genes = var(*table["symbol"], *(f"OTHER{i}" for i in range(990)))
    assert len(match_genes(genes, table).genes) == 10


def test_10x_genes(table, write_10x_h5):
    with open_cells(write_10x_h5()) as cells:
        assert "8 by Ensembl id" in match_genes(cells.var("X"), table).report
        symbols = table[["symbol"]].assign(symbol=[f"GENE{i}" for i in range(10)])
        assert "8 by symbol" in match_genes(cells.var("X"), symbols).report


def test_names_of_an_input_are_those_it_is_matched_by() -> None:
    ids = [f"ENSG{i:011d}" for i in range(3)]
    by_id = pd.DataFrame({"symbol": ["CD3D", "", "LYZ"]}, index=[f"{ids[0]}.4", ids[1], ids[2]])
    names, groups = gene_names(by_id)
    assert groups is None
    assert names["name"].tolist() == list(by_id.index)
    assert names["symbol"].tolist() == ["CD3D", ids[1], "LYZ"]
    assert names["ensembl_id"].tolist() == ids
    made_unique = pd.DataFrame({"gene_ids": ids, "gene_symbols": ["A", "A", "B"]}, index=["A", "A-1", "B"])
    names, _ = gene_names(made_unique)
    assert names["symbol"].tolist() == ["A", "A", "B"]
    assert names["ensembl_id"].tolist() == ids


def test_a_symbol_that_begins_like_an_ensembl_id() -> None:
    names, _ = gene_names(pd.DataFrame(index=["ENSAP2", "ENSG00000167286.8"]))
    assert names["symbol"].tolist() == ["ENSAP2", "ENSG00000167286.8"]
    assert names["ensembl_id"].tolist() == ["", "ENSG00000167286"]


def test_names_that_repeat_are_refused_or_grouped() -> None:
    var = pd.DataFrame(index=["A", "B", "A"])
    with pytest.raises(GenesError, match="cells.h5ad"):
        gene_names(var, source="cells.h5ad")
    _, groups = gene_names(var, sum_duplicates=True)
    assert groups is not None
    assert groups.tolist() == [0, 1, 0]


def test_the_advice_for_a_poor_match_works(table) -> None:
    """RELIABILITY 9: what is advised is what the caller can follow, and the least fraction named lets the cells in."""
    genes = var("CD3D", *(f"PROBE{i}" for i in range(7)))
    with pytest.raises(GenesError) as caught:
        match_genes(genes, table, cure="Extract both anew")
    assert "Extract both anew" in str(caught.value)
    assert "genes=" not in str(caught.value)
    advised = float(str(caught.value).rsplit("min_match=", 1)[1].rstrip("."))
    assert len(match_genes(genes, table, min_match=advised).genes) == 1


def test_the_report_says_what_is_tested(table) -> None:
    """A few genes of many match: all that the table has."""
    report = match_genes(var(*table["symbol"], *(f"OTHER{i}" for i in range(90))), table).report
    assert "10 of the table's 10 match, among 100 here (100.0% of the smaller side)" in report


@pytest.mark.parametrize(
    ("names", "organism"),
    [
        (["CD3D", "HLA-DRA", "C1orf112", "AL627309.1", "RP11-206L10.2", "MT-ND1"], "human"),
        (["Cd3d", "H2-Ab1", "mt-Nd1", "1700001A01Rik", "Gm1992", "Ms4a1"], "mouse"),
        (["ENSG00000167286.8", "ENSG00000156738"], "human"),
        (["ENSMUSG00000032094", "ENSMUSG00000024673.3", "CD3D"], "mouse"),
        (["ENSRNOG00000014297", "ENSDARG00000000001"], None),
        (["ENSRNOG00000014297", "ENSRNOG00000014298", "Cd3d"], None),
        (["C3", "F2", "T"], None),
        (["0", "1", "17"], None),
        ([], None),
        (["CD3D", "Cd3d"], None),
    ],
)
def test_guess_organism(names, organism):
    """RELIABILITY 9: ids decide, else capitals; without a majority nobody is guessed."""
    assert guess_organism(iter(names)) == organism


def test_common_name():
    assert [common_name(name) for name in ("Homo sapiens", "mus_musculus", "10090", "Human", "Danio rerio")] == [
        "human",
        "mouse",
        "mouse",
        "human",
        "danio rerio",
    ]
