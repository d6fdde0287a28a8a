from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from scstore.errors import GenesError
from scstore.genes.orthologs import other_organism, read_orthologs

INFO = "#tax_id\tGeneID\tSymbol\tSynonyms\tdbXrefs\tdescription\ttype_of_gene\tFull_name_from_nomenclature_authority\n"
MGI = "DB Class Key\tCommon Organism Name\tNCBI Taxon ID\tSymbol\tEntrezGene ID\tMouse MGI ID\n"
BIOMART = (
    "Gene stable ID\tTranscript stable ID\tGene name\tMouse gene stable ID\tMouse gene name\tMouse homology type\n"
)
ONE = "ortholog_one2one"


def write_info(folder: Path) -> None:
    human = "9606\t915\tCD3D\t-\tEnsembl:ENSG00000167286\tx\tprotein-coding\t-\n9606\t4069\tLYZ\t-\t-\tx\tncRNA\t-\n"
    mouse = "10090\t12500\tCd3d\t-\tEnsembl:ENSMUSG00000032094\tx\tprotein-coding\t-\n10090\t1\tLyz1\t-\t-\tx\tx\t-\n"
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


def test_ncbi_gene_orthologs(tmp_path: Path) -> None:
    rows = ["9606\t915\tOrtholog\t10090\t12500", "9606\t915\tOrtholog\t10116\t3", "9606\t915\tOther\t10090\t1"]
    header = "#tax_id\tGeneID\trelationship\tOther_tax_id\tOther_GeneID"
    path = tmp_path / "gene_orthologs.gz"
    path.write_bytes(gzip.compress("\n".join([header, *rows, ""]).encode()))
    with pytest.raises(GenesError, match=r"Put NCBI's Homo_sapiens\.gene_info\.gz beside it"):
        read_orthologs(path)
    write_info(tmp_path)
    orthologs = read_orthologs(path)
    assert orthologs.names("mouse") == dict.fromkeys(("Cd3d", "ENSMUSG00000032094"), ("CD3D", "ENSG00000167286"))
    turned = ["10090\t12500\tOrtholog\t9606\t915"]
    path.write_bytes(gzip.compress("\n".join([header, *turned, ""]).encode()))
    assert read_orthologs(path).digest == orthologs.digest


def test_mgi_homology_classes(tmp_path: Path) -> None:
    """A class of one human and several mouse genes is no pair."""
    rows = [
        ("1", "mouse, laboratory", "10090", "Cd3d", "12500"),
        ("1", "human", "9606", "CD3D", "915"),
        ("2", "human", "9606", "LYZ", "4069"),
        ("2", "mouse, laboratory", "10090", "Lyz1", "17110"),
        ("2", "mouse, laboratory", "10090", "Lyz2", "17105"),
        ("3", "human", "9606", "ALONE", "5"),
    ]
    (tmp_path / "m.rpt").write_text(MGI + "".join("\t".join((*row, "-")) + "\n" for row in rows))
    assert read_orthologs(tmp_path / "m.rpt").names("mouse") == {"Cd3d": ("CD3D", "")}


def test_biomart_from_either_side(tmp_path: Path) -> None:
    rows = [
        ("ENSG1", "ENST1", "CD3D", "ENSMUSG1", "Cd3d", ONE),
        ("ENSG1", "ENST2", "CD3D", "ENSMUSG1", "Cd3d", ONE),
        ("ENSG2", "ENST3", "LYZ", "ENSMUSG2", "Lyz1", "ortholog_one2many"),
        ("ENSG3", "ENST4", "TWIN", "ENSMUSG3", "Twin", ONE),
        ("ENSG4", "ENST5", "TWIN", "ENSMUSG4", "Twin2", ONE),
        ("ENSG5", "ENST6", "", "ENSMUSG5", "Gm5", ONE),
        ("ENSG6", "ENST7", "ALONE", "", "", ""),
    ]
    (tmp_path / "b.txt").write_text(BIOMART + "".join("\t".join(row) + "\n" for row in rows))
    orthologs = read_orthologs(tmp_path / "b.txt")
    assert len(orthologs) == 4
    assert orthologs.symbols("mouse") == {"Cd3d": "CD3D", "Twin": "TWIN", "Twin2": "TWIN"}
    assert orthologs.symbols("human") == {"CD3D": "Cd3d"}  # TWIN names two genes: it stays unknown
    assert orthologs.names("human")["ENSG4"] == ("Twin2", "ENSMUSG4")
    assert orthologs.names("mouse")["ENSMUSG5"] == ("", "ENSG5")
    text = 'Gene name,Human gene name,Human gene stable ID version\nCd3d,CD3D,ENSG1.7\n"a, b",Q,ENSG9.1\n'
    (tmp_path / "b.csv").write_text(text)
    assert read_orthologs(tmp_path / "b.csv").names("mouse") == {"Cd3d": ("CD3D", "ENSG1"), "a, b": ("Q", "ENSG9")}


def test_what_is_no_table_of_orthologs_is_refused(tmp_path: Path) -> None:
    cases = {
        "three.csv": (b"a,b,c\n", "3 columns"),
        "blank.csv": (b"a,\n", "no pair"),
        "bytes": (b"\xff\xfe\x00", "cannot be read"),
        "empty": (b"", "cannot be read"),
        "cut.gz": (gzip.compress(b"CD3D,Cd3d\n" * 99)[:30], "cannot be read"),
        "unclear.tsv": (b"Gene name\tHuman gene name\tMouse gene name\nA\tB\tC\n", "whose genes"),
    }
    for name, (content, word) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GenesError, match=rf"{name}.*{word}"):
            read_orthologs(tmp_path / name)
    with pytest.raises(GenesError, match="absent"):
        read_orthologs(tmp_path / "absent")


def test_other_organism() -> None:
    assert (other_organism("human"), other_organism("mouse")) == ("mouse", "human")


def test_the_real_table_pairs_most_genes(shared: Path) -> None:
    orthologs = read_orthologs(shared / "genes" / "human_mouse_orthologs.csv")
    assert 15_000 < len(orthologs) < 18_000
    assert orthologs.symbols("mouse")["Cd3d"] == "CD3D"
