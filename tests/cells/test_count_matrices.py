"""Folders with a Matrix Market file, as the usual programs write them."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scstore.cells.expression import ExpressionSlot, lognorm_rows
from scstore.cells.opening import open_cells
from scstore.errors import CellsError, GenesError
from scstore.genes.matching import gene_names


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
            (f"11 37 {n}\n", f"11 37 {n + 1}\n1 37\0\0\0 1\n", "matrix.mtx"),
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
    """Its header does not make 0.5 a count; tabs separate fields, too."""
    folder = write_mtx(legacy=True)
    n = np.count_nonzero(counts)
    change(folder, "matrix.mtx", f"11 37 {n}\n", f"11 37 {n + 1}\n6 4 0.5\n")
    head, entries = (folder / "matrix.mtx").read_text().split(f"{n + 1}\n")
    (folder / "matrix.mtx").write_text(head + f"{n + 1}\n" + entries.replace(" ", "\t"))
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


def write(folder: Path, matrix: str, files: dict[str, str], counts: np.ndarray, *, by_cell: bool = False) -> Path:
    """A folder of text files; those whose names end in .gz are packed."""
    folder.mkdir()
    entries = sparse.coo_matrix(counts if by_cell else counts.T)
    lines = [f"{i + 1} {j + 1} {v}" for i, j, v in zip(entries.row, entries.col, entries.data, strict=True)]
    size = " ".join(map(str, [*entries.shape, entries.nnz]))
    head = ["%%MatrixMarket matrix coordinate integer general", "%", size]
    for name, text in {matrix: "\n".join([*head, *lines, ""]), **files}.items():
        data = text.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


GENES = [f"SYM{i}X" for i in range(11)]
IDS = [f"ENSG{i:011d}" for i in range(11)]
CELLS = [f"cell{i}" for i in range(37)]


def lines(*columns: list[str], mark: str = "\t", title: str = "", end: str = "\n") -> str:
    rows = [mark.join(row) for row in zip(*columns, strict=True)]
    return "".join(f"{row}{end}" for row in ([title] if title else []) + rows)


BOTH, BARCODES = lines(IDS, GENES), lines(CELLS)
TYPES = lines(IDS, GENES, ["Gene Expression"] * 11)
QUOTED = lines([f'"{i}"' for i in IDS], [f'"{s}"' for s in GENES])
WIDE = lines(IDS, GENES, ["chr1", *["chr2"] * 10], ["100"] * 11, ["+"] * 11)
NUMBERED = lines([f'"{i + 1}"' for i in range(11)], IDS, GENES, mark=",", title='"","id","symbol"')
NUMBERED_BY_R = lines([f'"{i + 1}"' for i in range(11)], IDS, GENES, title='"V1"\t"V2"')
SEPARATE = {"cells_x_genes.genes.txt": lines(IDS), "cells_x_genes.genes.names.txt": lines(GENES)}
PARSE = {
    "all_genes.csv": lines(IDS, GENES, ["hg38"] * 11, mark=",", title="gene_id,gene_name,genome"),
    "cell_metadata.csv": lines(CELLS, ["s1"] * 37, mark=",", title="bc_wells,sample"),
}
FRY = {"quants_mat_cols.txt": lines(IDS), "quants_mat_rows.txt": BARCODES}
TENX = {
    "10x 2": {"genes.tsv": BOTH, "barcodes.tsv": BARCODES},
    "10x 3": {"features.tsv.gz": TYPES, "barcodes.tsv.gz": BARCODES},
    "symbols alone": {"genes.tsv": lines(GENES), "barcodes.tsv": BARCODES},
    "further columns": {"genes.tsv": WIDE, "barcodes.tsv": BARCODES},
    "quotes": {"genes.tsv": QUOTED, "barcodes.tsv": lines([f'"{name}"' for name in CELLS])},
    "byte order marks": {"features.tsv": "\ufeff" + TYPES, "barcodes.tsv": "\ufeff" + BARCODES},
    "titles": {"genes.tsv": lines(IDS, GENES, title="ENSEMBL\tSYMBOL"), "barcodes.tsv": lines(CELLS, title="x")},
    "titles the other way": {"genes.tsv": lines(GENES, IDS, title="symbol\tgene_id"), "barcodes.tsv": BARCODES},
    "commas": {"genes.csv": lines(IDS, GENES, mark=","), "barcodes.csv": BARCODES},
    "names of rows": {"genes.csv": NUMBERED, "barcodes.csv": BARCODES},
    "names of rows alone": {"genes.tsv": NUMBERED_BY_R, "barcodes.tsv": lines(CELLS, title='"x"')},
    "blanks": {"genes.tsv": lines(IDS, GENES, mark=" "), "barcodes.tsv": BARCODES},
    "Windows": {"features.tsv": TYPES.replace("\n", "\r\n"), "barcodes.tsv": BARCODES.replace("\n", "\r\n")},
    "two names for both": {"genes.tsv": lines([f"hg38_{i}" for i in IDS], GENES), "barcodes.tsv": BARCODES},
}
FOLDERS = {
    **{name: ("matrix.mtx", False, files) for name, files in TENX.items()},
    "prefix": ("GSM1_matrix.mtx.gz", False, {"GSM1_features.tsv.gz": TYPES, "GSM1_barcodes.tsv.gz": BARCODES}),
    "another prefix": ("GSM1_count_matrix.mtx", False, {"GSM1_genes.tsv": BOTH, "GSM1_barcodes.tsv": BARCODES}),
    "cells by features": ("matrix.mtx", True, TENX["10x 2"]),
    "STARsolo": ("UniqueAndMult-EM.mtx", False, TENX["10x 3"]),
    "Parse": ("count_matrix.mtx", True, PARSE),
    "Parse, older": ("DGE.mtx", True, PARSE),
    "kb": ("cells_x_genes.mtx", True, {**SEPARATE, "cells_x_genes.barcodes.txt": BARCODES}),
    "kb, sums": ("cells_x_genes.total.mtx", True, {**SEPARATE, "cells_x_genes.barcodes.txt": BARCODES}),
    "alevin-fry": ("quants_mat.mtx", True, FRY),
}


@pytest.mark.parametrize("program", FOLDERS)
def test_what_programs_write(program, counts, tmp_path):
    """RELIABILITY 52: hidden files beside them, titles, quotes, marks and further columns change nothing."""
    matrix, by_cell, files = FOLDERS[program]
    hidden = {f"._{name}": "Mac OS X" for name in (matrix, *files)} | {".DS_Store": "x"}
    folder = write(tmp_path / "run", matrix, {**files, **hidden}, counts, by_cell=by_cell)
    with open_cells(folder) as cells:
        np.testing.assert_array_equal(cells.slots["X"].rows(0, 37).toarray(), counts)
        genes = cells.var("X")
        assert list(cells.obs.index) == CELLS
        assert genes["symbol"].tolist() == ([""] * 11 if program == "alevin-fry" else GENES)
        assert genes["ensembl_id"].tolist() == ([""] * 11 if program == "symbols alone" else IDS)
        if program.startswith("Parse"):
            assert cells.obs["sample"].tolist() == ["s1"] * 37


def test_a_square_matrix_is_read_as_its_program_writes_it(counts, tmp_path):
    square, names = counts[:11], {"barcodes.tsv": lines(CELLS[:11]), "features.tsv": TYPES}
    parse = {**PARSE, "cell_metadata.csv": lines(CELLS[:11], mark=",", title="bc_wells")}
    for i, (matrix, by_cell, files) in enumerate((("matrix.mtx", False, names), ("DGE.mtx", True, parse))):
        with open_cells(write(tmp_path / str(i), matrix, files, square, by_cell=by_cell)) as cells:
            np.testing.assert_array_equal(cells.slots["X"].rows(0, 11).toarray(), square)


REFUSED = {
    "Velocyto": ({"spliced.mtx": "", "ambiguous.mtx": "", **TENX["10x 3"]}, "unspliced.mtx", "Velocyto"),
    "kb, apart": ({"cells_x_genes.mature.mtx": "", "cells_x_genes.ambiguous.mtx": ""}, "x.nascent.mtx", "--sum=total"),
    "another run": ({**TENX["10x 2"], "genes.tsv": lines(["odd", *IDS])}, "matrix.mtx", "begins with 'odd'"),
    "no cells": ({"all_genes.csv": PARSE["all_genes.csv"]}, "DGE.mtx", "cell_metadata.csv"),
    "several": ({**TENX["10x 2"], "b_matrix.mtx": ""}, "matrix.mtx", "'b_matrix.mtx', 'matrix.mtx'"),
}


@pytest.mark.parametrize("program", REFUSED)
def test_what_cannot_be_told_is_refused(program, counts, tmp_path):
    """RELIABILITY 52: with the program or the line, and what to give."""
    files, matrix, words = REFUSED[program]
    with pytest.raises(CellsError, match=words):
        open_cells(write(tmp_path / "run", matrix, files, counts))


@pytest.mark.parametrize("marks", ["UA", "I"])
def test_spliced_and_unspliced_counts_apart_are_refused(marks, counts, tmp_path):
    """RELIABILITY 52: alevin-fry's USA mode, and indices of introns; as a folder and as an AnnData of it."""
    names = [*IDS[:3], *(f"{i}-{mark}" for mark in marks for i in IDS[:3])]
    files, values = {**FRY, "quants_mat_cols.txt": lines(names)}, counts[:, : len(names)]
    folder = write(tmp_path / "run", "quants_mat.mtx", files, values, by_cell=True)
    for source in (folder, anndata.AnnData(values.astype(np.float32), var=pd.DataFrame(index=names))):
        with pytest.raises(CellsError, match="load_fry"):
            open_cells(source)


@pytest.mark.parametrize("line", [3, 40])
@pytest.mark.parametrize("more", [" 5", " 0 2"])
def test_another_number_of_fields_is_refused(line, more, write_mtx):
    """RELIABILITY 52: STARsolo's Velocyto has five fields; a field too many anywhere is never passed over."""
    folder = write_mtx(legacy=True)
    text = (folder / "matrix.mtx").read_text().split("\n")
    text[line] += more
    (folder / "matrix.mtx").write_text("\n".join(text))
    with pytest.raises(CellsError, match="Expected 3"), open_cells(folder) as cells:
        cells.slots["X"].rows(0, 5)


def test_where_a_folder_of_folders_has_its_matrix(tmp_path, write_mtx):
    (tmp_path / "Solo.out" / "Gene").mkdir(parents=True)
    write_mtx(name="Solo.out/Gene/filtered")
    with pytest.raises(CellsError, match="'Gene/filtered'"):
        open_cells(tmp_path / "Solo.out")


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
