from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scstore.errors import GenesError
from scstore.genes.matching import describe_genes, match_genes
from scstore.genes.orthologs import (
    Orthologs,
    Translation,
    describe_translated,
    match_translated,
    other_organism,
    read_orthologs,
    rename_by_orthologs,
)

INFO = (
    "#tax_id\tGeneID\tSymbol\tSynonyms\tdbXrefs\tdescription\ttype_of_gene\tFull_name_from_nomenclature_authority\t"
    "chromosome\tmap_location\tOther_designations\n"
)
HEADER = "#tax_id\tGeneID\trelationship\tOther_tax_id\tOther_GeneID"


def write_info(folder: Path) -> None:
    end = "\t-\t-\t-\t-\n"
    human = f"9606\t915\tCD3D\t-\tEnsembl:ENSG00000167286\tx\tprotein-coding{end}9606\t4069\tLYZ\t-\t-\tx\tncRNA{end}"
    mouse = f"10090\t12500\tCd3d\t-\tEnsembl:ENSMUSG00000032094\tx\tx{end}10090\t1\tLyz1\t-\t-\tx\tx{end}"
    (folder / "Homo_sapiens.gene_info").write_text(INFO + human)
    (folder / "Mus_musculus.gene_info.gz").write_bytes(gzip.compress((INFO + mouse).encode()))


@pytest.mark.parametrize("text", ["human,mouse\nCD3D,Cd3d\n", "CD3D,Cd3d\n", "mouse,human\nCd3d,CD3D\n"])
def test_a_csv_of_symbols(tmp_path: Path, text: str) -> None:
    """Genes with several partners are left out, on either side; so are those without one."""
    order = [("LYZ", "Lyz1"), ("LYZ", "Lyz2"), ("A", "B"), ("C", "B"), ("MT-TF", "")]
    rows = [pair[::-1] if text.startswith("mouse") else pair for pair in order]
    (tmp_path / "o.csv").write_text(text + "".join(f"{a},{b}\n" for a, b in rows))
    orthologs = read_orthologs(tmp_path / "o.csv")
    assert orthologs.symbols("human") == {"CD3D": "Cd3d"}
    assert orthologs.symbols("mouse") == {"Cd3d": "CD3D"}


def test_ensembl_ids_and_a_header_for_one_side(tmp_path: Path) -> None:
    """As Ensembl exports them: tab-separated, versions, only the other species in the header."""
    path = tmp_path / "ids.txt"
    rows = [
        "ENSMUSG00000032094.8\tCD3D",
        "ENSMUSG000001\t",
        "ENSMUSG000002\tLYZ",
        "ENSMUSG000003.1\tA",
        "ENSMUSG000003.2\tB",
    ]
    path.write_text("\n".join(["Gene stable ID version\tHuman gene name", *rows, ""]))
    orthologs = read_orthologs(path)
    assert orthologs.names("mouse") == {"ENSMUSG00000032094": ("CD3D", ""), "ENSMUSG000002": ("LYZ", "")}
    assert orthologs.names("human")["LYZ"] == ("", "ENSMUSG000002")


def test_ncbi_gene_orthologs(tmp_path: Path) -> None:
    rows = ["9606\t915\tOrtholog\t10090\t12500", "9606\t915\tOrtholog\t10116\t3", "9606\t915\tOther\t10090\t1"]
    path = tmp_path / "gene_orthologs.gz"
    path.write_bytes(gzip.compress("\n".join([HEADER, *rows, ""]).encode()))
    with pytest.raises(GenesError, match=r"Homo_sapiens\.gene_info\.gz"):
        read_orthologs(path)
    write_info(tmp_path)
    orthologs = read_orthologs(path)
    assert orthologs.names("mouse") == dict.fromkeys(("Cd3d", "ENSMUSG00000032094"), ("CD3D", "ENSG00000167286"))
    turned = ["10090\t12500\tOrtholog\t9606\t915"]
    path.write_bytes(gzip.compress("\n".join([HEADER, *turned, ""]).encode()))
    assert read_orthologs(path).digest == orthologs.digest


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("three.csv", b"a,b,c\n"),
        ("blank.csv", b"a,\n"),
        ("bytes", b"\xff\xfe\x00"),
        ("empty", b""),
        ("cut.gz", gzip.compress(b"CD3D,Cd3d\n" * 99, mtime=0)[:30]),
        ("columns", b"#tax_id\tGeneID\n9606\t1\n"),
        ("absent", None),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GenesError, match=name):
        read_orthologs(tmp_path / name)


def test_other_organism() -> None:
    assert (other_organism("human"), other_organism("mouse")) == ("mouse", "human")


def test_the_real_table_pairs_most_genes(shared: Path) -> None:
    orthologs = read_orthologs(shared / "genes" / "human_mouse_orthologs.csv")
    assert 15_000 < len(orthologs.pairs) < 18_000
    assert orthologs.symbols("mouse")["Cd3d"] == "CD3D"


@pytest.fixture(scope="module")
def orthologs() -> Orthologs:
    """Four pairs; one human gene has no symbol."""
    human = {
        "human_symbol": ["CD3D", "LYZ", "", "MS4A1"],
        "human_ensembl_id": ["ENSG000001", "ENSG000002", "ENSG000003", "ENSG000004"],
    }
    mouse_ids = ["ENSMUSG000001", "ENSMUSG000002", "ENSMUSG000003", "ENSMUSG000004"]
    mouse = {"mouse_symbol": ["Cd3d", "Lyz2", "Gm3", "Ms4a1"], "mouse_ensembl_id": mouse_ids}
    return Orthologs(pd.DataFrame({**human, **mouse}))


@pytest.fixture(scope="module")
def from_mouse(orthologs: Orthologs) -> Translation:
    return Translation(orthologs, "mouse")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    symbols = ["MS4A1", "CD3D", "LYZ", "GNLY"]
    ids = ["ENSG000004", "ENSG000001", "", ""]
    return pd.DataFrame({"symbol": symbols, "ensembl_id": ids, "organism": "human", "synonyms": ""}, index=symbols)


def var(*names: str, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def test_genes_take_their_orthologs_names(orthologs: Orthologs, from_mouse: Translation) -> None:
    """By Ensembl id with or without version, by symbol, in the index or beside it; an id wins over a symbol."""
    genes = var("Lyz2", "Own", "ENSMUSG000001.5", "x", "Cd3d", gene_ids=["", "", "", "ENSMUSG000003", "ENSMUSG000004"])
    renamed = rename_by_orthologs(genes, from_mouse)
    assert list(renamed.var.index) == ["LYZ", "CD3D", "ENSG000003", "MS4A1"]
    assert list(renamed.var["gene_ids"]) == ["ENSG000002", "ENSG000001", "ENSG000003", "ENSG000004"]
    assert renamed.columns.tolist() == [0, 2, 3, 4]
    assert "4 of 5" in renamed.report
    assert "'Own'" in renamed.report
    back = rename_by_orthologs(var("MS4A1", "CD3D"), Translation(orthologs, "human"))
    assert list(back.var.index) == ["Ms4a1", "Cd3d"]
    with pytest.raises(GenesError, match=r"m\.h5ad.*'CD3D'"):
        rename_by_orthologs(var("CD3D"), from_mouse, source="m.h5ad")


def test_a_match_covers_all_input_genes(from_mouse: Translation, table: pd.DataFrame) -> None:
    match = match_translated(var("Own", "Lyz2", "ENSMUSG000001", "Gm3"), table, translation=from_mouse)
    assert match.table_rows.tolist() == [-1, 2, 1, -1]
    assert match.genes.tolist() == [1, 2]
    assert "3 of 4" in match.report
    theirs = match_translated(var("Cd3d", "Lyz2", "Ms4a1"), table, translation=from_mouse)
    ours = match_genes(var("CD3D", "LYZ", "MS4A1"), table)
    np.testing.assert_array_equal(theirs.table_rows, ours.table_rows)


def test_repeated_genes_are_summed_where_they_stand(from_mouse: Translation, table: pd.DataFrame) -> None:
    genes = var("Own", "Lyz2", "Own", "Cd3d", "Lyz2")
    with pytest.raises(GenesError, match="'LYZ'"):
        match_translated(genes, table, translation=from_mouse)
    match = match_translated(genes, table, translation=from_mouse, sum_duplicates=True)
    assert match.table_rows.tolist() == [-1, 2, -1, 1, -1]
    assert match.groups is not None
    assert match.groups.tolist() == [0, 1, 2, 3, 1]


def test_cells_are_described_by_their_own_or_their_orthologs_symbols(from_mouse: Translation) -> None:
    genes = var("Cd3d", "Own", "Ms4a1", "Cd3d")
    own, template = describe_genes(genes)
    assert template == "{symbol}"
    assert list(own["text"]) == ["Cd3d", "Own", "Ms4a1"]
    assert set(own["organism"]) == {"mouse"}
    translated, _ = describe_translated(genes, from_mouse)
    assert list(translated["text"]) == ["CD3D", "MS4A1"]
    assert set(translated["organism"]) == {"human"}


IDS = [f"ENSG{i:011d}" for i in range(4)]


@pytest.mark.parametrize(
    "names", [IDS, [f"{i}.1" for i in IDS], ["gene_0", "gene_1"], ["Gene1", "Gene2", "CD3D"], ["V1"]]
)
def test_names_that_say_nothing_are_not_described(names: list[str]) -> None:
    """RELIABILITY 47: a model would read ids for texts."""
    with pytest.raises(GenesError, match=r"f\.h5ad.*gene_symbols"):
        describe_genes(pd.DataFrame(index=names), source="f.h5ad")


def test_symbols_are_described_with_their_ids() -> None:
    """Cells of ids alone are then found among them; a symbol of two ids is one text."""
    described = describe_genes(pd.DataFrame({"feature_name": ["CD3D", "LYZ", "LYZ", ""]}, index=IDS)).obs
    assert described["text"].tolist() == ["CD3D", "LYZ", IDS[3]]
    assert described["ensembl_id"].tolist() == [IDS[0], IDS[1], IDS[3]]
    assert match_genes(pd.DataFrame(index=IDS[:2]), described).table_rows.tolist() == [0, 1]
