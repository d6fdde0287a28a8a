"""Which features are genes, of which species, and what they are called, wherever a program keeps that."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scstore.cells.expression import find_expression, lognorm_rows
from scstore.cells.gene_names import find_genes, find_names
from scstore.cells.opening import open_cells
from scstore.errors import CellsError

SYMBOLS = ["CD3D", "HLA-DRA", "NKX2-1", "MT-CO1", "RP11-206L10.2", "AL627309.1", "TBCE", "HLA-DRB1", "ACTB", "CD74"]
MOUSE = ["Cd3d", "H2-Aa", "Nkx2-1", "mt-Co1", "Gm12", "1700001A01Rik", "Tbce", "Cd74", "Actb", "Lyz2"]
IDS = [f"ENSG{i:011d}" for i in range(len(SYMBOLS))]


def var(names: object, **columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def of(genes: pd.DataFrame, column: str) -> list[str]:
    return genes[column].tolist()


PREFIXES = ["hg38_", "GRCh38______", "GRCh38premrna-", "GRCh38_premrna_", "GRCh38-2020-A_", "human_", "lab-2020_", "x:"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_of_one_genome_is_taken_off(prefix):
    """RELIABILITY 47: before symbols and before ids, in the index and in a column; a gene without one stays."""
    genes = find_genes(var([f"{prefix}{name}" for name in SYMBOLS]))
    assert of(genes.var, "symbol") == list(genes.var.index) == SYMBOLS
    assert genes.notes
    assert genes.problem is None
    both = find_genes(var([f"{prefix}{name}.7" for name in IDS], gene_name=[f"{prefix}{name}" for name in SYMBOLS]))
    assert (of(both.var, "symbol"), of(both.var, "ensembl_id")) == (SYMBOLS, IDS)


def test_names_that_share_a_beginning_keep_it():
    for names in (["HLA-A", "HLA-B", "HLA-C", "HLA-E", "HLA-F"], [f"DDB_G{i}" for i in range(9)], ["MT-ND1", "MT-ND2"]):
        found = find_genes(var(names))
        assert of(found.var, "symbol") == names
        assert not found.notes
    assert of(find_genes(var([*(f"GRCh38_{name}" for name in SYMBOLS), "GFP"])).var, "symbol") == [*SYMBOLS, "GFP"]


@pytest.mark.parametrize(
    "form",
    ["{id}_{symbol}", "{symbol}_{id}", "{symbol} ({id}.3)", "{id}.2|{symbol}", "{id}-{symbol}", "{symbol}\t{id}"],
)
def test_two_names_in_one_are_taken_apart(form):
    """RELIABILITY 47: also where only repeated symbols carry their id, as in CELLxGENE."""
    names = [form.format(id=own, symbol=symbol) for own, symbol in zip(IDS, SYMBOLS, strict=True)]
    for genes in (find_genes(var(names)).var, find_genes(var(range(10), feature_name=names)).var):
        assert (of(genes, "symbol"), of(genes, "ensembl_id"), list(genes.index)) == (SYMBOLS, IDS, SYMBOLS)
    twins = find_genes(var(range(3), gene_ids=IDS[:3], feature_name=["CD3D", "LYZ", "LYZ"])).var
    assert list(twins.index) == ["CD3D", *IDS[1:3]]
    portal = find_genes(var(IDS, feature_name=[*SYMBOLS[:-1], f"CD74_{IDS[-1]}"])).var
    assert (of(portal, "symbol"), list(portal.index)) == (SYMBOLS, IDS)
    odd = find_names(var(["ENSG00000002586_PAR_Y", "ENSG00000002586-U", "ENSAP2", "ENSG00000002587.5_2"]))[0]
    assert of(odd, "ensembl_id") == ["", "", "", "ENSG00000002587"]
    assert of(odd, "symbol") == ["", "", "ENSAP2", ""]


@pytest.mark.parametrize("form", ['"{}"', " {}\xa0", "\ufeff{}", "b'{}'", "{}\r"])
def test_what_is_no_part_of_a_name(form):
    names = [form.format(name) for name in SYMBOLS]
    for genes in (var(names), var(range(10), gene_symbols=names)):
        assert of(find_genes(genes).var, "symbol") == SYMBOLS


TITLES = ["feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "gene_short_name", "hgnc_symbol"]


@pytest.mark.parametrize("title", [*TITLES, "Symbol", "Gene Symbol", "gene.name", "name", "features", "gene", "_index"])
def test_symbols_are_found_wherever_they_are_kept(title):
    """RELIABILITY 47: beside ids, and beside numbers."""
    for names, ids in ((IDS, IDS), (range(10), [""] * 10)):
        genes = find_genes(var(names, **{title: SYMBOLS, "Chromosome": ["1"] * 10})).var
        assert (of(genes, "symbol"), of(genes, "ensembl_id")) == (SYMBOLS, ids)


def test_ids_are_found_under_any_title():
    genes = find_genes(var(range(10), **{"Unnamed: 0": [f"{name}.3" for name in IDS], "length": range(10)}))
    assert (of(genes.var, "ensembl_id"), list(genes.var.index), genes.problem) == (IDS, IDS, None)


def test_what_is_no_symbol_is_not_taken_for_one():
    described = var(SYMBOLS, name=["a long description"] * 10, gene_id=["HGNC:1673"] * 5 + ["915"] * 5)
    assert of(find_genes(described).var, "symbol") == SYMBOLS
    missing = var(IDS, symbol=pd.Series([None, "NA", "nan", *SYMBOLS[3:]], index=IDS, dtype=object))
    assert of(find_genes(missing).var, "symbol") == ["", "", "", *SYMBOLS[3:]]


def test_names_made_unique():
    """``TBCE-1`` is TBCE again, but NKX2-1 is a gene."""
    unique = find_genes(var([*SYMBOLS, "TBCE-1", "CD74.2"])).var
    assert of(unique, "symbol") == [*SYMBOLS, "TBCE", "CD74"]
    assert list(unique.index)[-2:] == ["TBCE-1", "CD74.2"]
    assert of(find_genes(var(["IGHV1-69", "IGHV1-69-2"])).var, "symbol") == ["IGHV1-69", "IGHV1-69-2"]


NUMBERED = [[str(i) for i in range(10)], [f"{i}.0" for i in range(10)], [""] * 10]


@pytest.mark.parametrize("names", NUMBERED)
def test_nameless_genes_are_refused(names, write_h5ad, write_zarr):
    """RELIABILITY 47: in memory and on disk, before anything is read."""
    cells = anndata.AnnData(np.ones((3, 10), dtype=np.float32), var=var([str(i) for i in range(10)], chip=names))
    for source in (cells, write_h5ad(cells), write_zarr(cells)):
        with pytest.raises(CellsError, match="'chip'"):
            open_cells(source)
    cells.var["gene_symbols"] = SYMBOLS
    with open_cells(cells) as opened:
        assert list(opened.var("X").index) == SYMBOLS


TYPES = [
    "Antibody Capture",
    "Peaks",
    "CRISPR Guide Capture",
    "Multiplexing Capture",
    "Custom",
    "Negative Control Probe",
]


def test_features_that_are_no_genes(write_h5ad, write_zarr):
    """RELIABILITY 46: genes alone are read, and alone make a cell's total; in X, layers and raw."""
    counts = np.random.default_rng(0).integers(1, 9, (4, 16))
    counts[:, 10:] += 500
    names = [*SYMBOLS, *(f"other{i}" for i in range(6))]
    columns = {"feature_types": ["Gene Expression"] * 10 + TYPES, "gene_ids": [*IDS, *names[10:]]}
    cells = anndata.AnnData(sparse.csr_matrix(counts), var=var(names, **columns), layers={"spliced": counts})
    cells.raw = cells
    wanted = np.log1p(counts[:, :10] / counts[:, :10].sum(axis=1, keepdims=True) * 1e4)
    for source in (cells, cells[:, ::-1][:, ::-1], write_h5ad(cells), write_zarr(cells)):
        with open_cells(source) as opened:
            for slot in ("X", "layers/spliced", "raw"):
                assert list(opened.var(slot).index) == SYMBOLS
                ((_, rows),) = lognorm_rows(opened, find_expression(opened, slot=slot))
                np.testing.assert_allclose(rows.toarray(), wanted, rtol=1e-6)
                assert all(kind in " ".join(opened.notes(slot)) for kind in TYPES)


@pytest.mark.parametrize(
    ("columns", "left"),
    [
        ({"feature_type": ["gene_expression"] * 8 + ["antibody_capture", "anything"]}, 8),
        ({"feature_types": ["Gene Expression"] * 8 + ["ADT", None]}, 9),
        ({"feature_biotype": ["gene"] * 8 + ["spike-in"] * 2, "feature_type": ["lncRNA"] * 10}, 8),
        ({"Type": ["Gene Expression"] * 8 + ["Antibody Capture"] * 2, "ID": IDS}, 8),
        ({"feature_types": ["chr1"] * 9 + ["chrX"]}, 10),
        ({"feature_type": ["protein_coding"] * 9 + ["IG_C_gene"]}, 10),
        ({"modality": ["rna"] * 10}, 10),
    ],
)
def test_words_for_what_is_no_gene(columns, left):
    assert len(find_genes(var(SYMBOLS, **columns)).var) == left


TAGS = ["CD3_TotalSeqB", "CD19-TotalSeqC-1", "HTO-1", "HTO_B", "Hashtag2", "CMO301", "CD4-CTCATTGTAACTCCT"]
OTHERS = ["chr1:1000-2000", "GRCh38_chrX-10-20", "ERCC-00002", "NegControlProbe_00042", "BLANK_0001", "ADT_CD3"]


@pytest.mark.parametrize("name", [*TAGS, *OTHERS, "Blank-3", "__no_feature", "N_unmapped"])
def test_names_of_what_is_no_gene(name):
    """RELIABILITY 46: where the file does not say; a symbol that begins alike is a gene."""
    near = ["ERCC6L", "CMTM1", "HTR1A", "ADTRP", "ADT1", "CD3EAP"]
    genes = find_genes(var([*SYMBOLS, name, *near]))
    assert list(genes.var.index) == [*SYMBOLS, *near]
    alone = find_genes(var([name]))
    assert alone.problem is not None


BARNYARDS = {
    "prefixes": var([*(f"GRCh38_{name}" for name in SYMBOLS), *(f"mm10___{name}" for name in MOUSE)]),
    "ids": var([*IDS, *(name.replace("ENSG", "ENSMUSG") for name in IDS)]),
    "symbols": var([*SYMBOLS, *MOUSE]),
    "human and chicken": var([f"{kind}{i:011d}" for kind in ("ENSG", "ENSGALG") for i in range(201)]),
    "genomes": var([*SYMBOLS, "a", "b", "c"], genome=["GRCh38"] * 10 + ["mm10"] * 3),
    "taxa": var(
        [*SYMBOLS, *(f"x{i}y" for i in IDS)], feature_reference=["NCBITaxon:9606"] * 10 + ["NCBITaxon:10090"] * 10
    ),
    "ids of a joint genome": var([f"{g}_{i}" for g in ("hg19", "mm10") for i in IDS], genome=["hg19_and_mm10"] * 20),
}


@pytest.mark.parametrize("form", BARNYARDS)
def test_two_genomes_are_refused(form, write_h5ad):
    """RELIABILITY 48."""
    genes = BARNYARDS[form]
    cells = anndata.AnnData(np.ones((2, len(genes))), var=genes)
    cells.var_names_make_unique()
    for source in (cells, write_h5ad(cells)):
        with pytest.raises(CellsError, match="2 genomes"):
            open_cells(source)


@pytest.mark.parametrize(
    "genes",
    [
        var([*SYMBOLS, "GFP"], genome=["GRCh38"] * 10 + ["GFP"]),
        var([*SYMBOLS, "Actb"], genome=["GRCh38"] * 10 + ["mm10"]),
        var([*IDS, *(f"ENSSASG{i:011d}" for i in range(5))], genome=["GRCh38"] * 10 + ["SARS-CoV-2"] * 5),
        var(SYMBOLS, genome=["GRCh38"] * 5 + ["hg19"] * 5),
        var(SYMBOLS, genome=["GRCh38"] * 5 + ["GRCh38_and_GFP"] * 5),
    ],
)
def test_one_species_in_other_words(genes):
    """RELIABILITY 48: a reporter, a virus or another version of the genome is no second species."""
    found = find_genes(genes)
    assert found.problem is None
    assert len(found.var) == len(genes)
    assert bool(found.notes) == (len(genes) > 10)


def test_what_raw_does_not_know_of_its_genes(write_h5ad):
    """RELIABILITY 47: it is taken from var of the same genes, by their names in the index, and the reverse."""
    counts = np.ones((3, 10), dtype=np.float32)
    types = ["Gene Expression"] * 9 + ["Antibody Capture"]
    bare, told = var(IDS), var(IDS, feature_name=SYMBOLS, feature_types=types)
    for own, other in ((bare, told), (told, bare), (bare, told.iloc[::-1])):
        cells = anndata.AnnData(counts[:, : len(other)], var=other)
        cells.raw = anndata.AnnData(counts, obs=cells.obs, var=own)
        for source in (cells, write_h5ad(cells)):
            with open_cells(source) as opened:
                assert sorted(of(opened.var("raw"), "symbol")) == sorted(of(opened.var("X"), "symbol"))
                assert sorted(of(opened.var("X"), "symbol")) == sorted(SYMBOLS[:9])
    part = anndata.AnnData(counts[:, :6], var=told.iloc[:6])
    part.raw = anndata.AnnData(counts, obs=part.obs, var=bare)
    with open_cells(part) as opened:
        assert of(opened.var("raw"), "symbol") == [*SYMBOLS[:6], *[""] * 4]
    renumbered = anndata.AnnData(counts[:, :9], var=var([str(i) for i in range(9)], feature_name=SYMBOLS[1:]))
    renumbered.raw = anndata.AnnData(counts, obs=renumbered.obs, var=var([str(i) for i in range(10)]))
    with open_cells(renumbered) as opened, pytest.raises(CellsError, match="numbered"):
        opened.var("raw")
    strange = anndata.AnnData(counts, var=var([f"ENSG{i:011d}" for i in range(90, 100)], feature_name=SYMBOLS))
    strange.raw = anndata.AnnData(counts, obs=strange.obs, var=bare)
    with open_cells(strange) as opened:
        assert of(opened.var("raw"), "symbol") == [""] * 10


def test_dates_of_a_spreadsheet_are_told():
    genes = find_genes(var([*SYMBOLS, "1-Mar", "2-Sep", "Dec-01"]))
    assert "'1-Mar', '2-Sep', 'Dec-01'" in genes.notes[0]
    assert len(genes.var) == 13


def test_probes_are_named_by_their_genes():
    """RELIABILITY 46: columns of one gene get one name, which is refused or summed; what the run left out is gone."""
    names = [f"{s}|{k}a2b3c{k}" for s in SYMBOLS for k in (1, 2)]
    ids = [f"{i}|{name}" for i, name in zip(np.repeat(IDS, 2), names, strict=True)]
    for index, more in ((names, {"gene_ids": ids}), (ids, {"symbol": names}), (ids, {"gene_id": np.repeat(IDS, 2)})):
        genes = find_genes(var([*index, "DEPRECATED_" + index[0]], **{k: [*v, v[0]] for k, v in more.items()}))
        assert of(genes.var, "symbol") == np.repeat(SYMBOLS, 2).tolist()
        assert of(genes.var, "ensembl_id") == np.repeat(IDS, 2).tolist()
        assert len(set(genes.var.index)) == 10
    used = find_genes(var(names, filtered_probes=[True, False] * 10))
    assert list(used.var.index) == SYMBOLS


def test_a_real_file_in_the_layout_of_cellxgene(shared):
    """Its index is numbers; ids and symbols are in columns."""
    with open_cells(shared / "cells" / "brain_mouse_merfish.h5ad") as cells:
        genes = cells.var("X")
        assert list(genes.index[:2]) == of(genes, "symbol")[:2] == ["Htr7", "Gzmk"]
        assert genes["ensembl_id"].iloc[0] == "ENSMUSG00000024798"
