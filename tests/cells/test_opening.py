"""Every format gives the same cells; whatever is no such format is refused in plain words."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from scipy import sparse

from scstore.cells.matrices import csr_rows
from scstore.cells.opening import CellFile, open_cells
from scstore.errors import CellsError, InputError, OptionError
from scstore.store.export import write_h5ad as write_h5ad_of
from scstore.store.reader import Store


def dense(cells: CellFile, slot: str = "X", *, chunk: int = 10) -> np.ndarray:
    """Read a slot in chunks, checking each against the contract of rows()."""
    matrix = cells.slots[slot]
    blocks = []
    for start in range(0, matrix.shape[0], chunk):
        rows = matrix.rows(start, start + chunk)
        assert sparse.isspmatrix_csr(rows)
        assert rows.has_canonical_format
        assert rows.shape == (min(chunk, matrix.shape[0] - start), matrix.shape[1])
        blocks.append(rows.toarray())
    return np.concatenate(blocks)


LAYOUTS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dense": np.asarray,
}


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("csr", "int32"),
        ("csr", "float64"),
        ("csc", "uint16"),
        ("csc", "float32"),
        ("csr_array", "float32"),
        ("dense", "int64"),
        ("dense", "float32"),
    ],
)
@pytest.mark.parametrize("home", ["memory", "backed", "h5ad", "zarr2", "zarr3", "view"])
def test_every_layout_reads_alike(home, layout, dtype, counts, adata, write_h5ad, write_zarr):
    """RELIABILITY 12: CSR, CSC, dense, backed or in memory, int and float dtypes."""
    adata.X = LAYOUTS[layout](counts.astype(dtype))
    if home == "memory":
        source = adata
    elif home == "view":
        source = adata[list(range(36, -1, -1))][:, list(range(10, -1, -1))]
        counts = counts[::-1, ::-1]
    elif home.startswith("zarr"):
        source = write_zarr(adata, version=int(home[-1]))
    else:
        source = write_h5ad(adata)
        source = anndata.read_h5ad(source, backed="r") if home == "backed" else source
    with open_cells(source) as cells:
        np.testing.assert_array_equal(dense(cells), counts)
        assert list(cells.obs["donor"][:2]) == ["a", "b"] if home != "view" else True
        assert cells.obs.index[0] == ("cell36" if home == "view" else "cell0")
        assert list(cells.slots) == ["X"]
        assert cells.source == ("AnnData in memory" if home in ("memory", "view") else str(cells.source))
    if home == "backed":
        source.file.close()


def test_layers_and_raw(counts, adata, write_h5ad, write_zarr):
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.layers["words"] = np.full(counts.shape, "x", dtype=object)
    adata.raw = adata
    adata = adata[:, :4].copy()
    for source in (adata, adata[:20], write_h5ad(adata), write_zarr(adata)):
        with open_cells(source) as cells:
            assert sorted(cells.slots) == ["X", "layers/counts", "raw"]
            assert len(cells.var("X")) == 4
            assert len(cells.var("raw")) == 11
            np.testing.assert_array_equal(dense(cells, "raw"), counts[: cells.n_cells])
            np.testing.assert_array_equal(dense(cells, "layers/counts"), counts[: cells.n_cells, :4])
            with pytest.raises(CellsError, match="X, layers/counts, raw"):
                cells.var("layers/x")


def test_view_of_backed(counts, adata, write_h5ad):
    """RELIABILITY 12: a view of a backed AnnData is sliced as it is read."""
    adata.raw = adata
    backed = anndata.read_h5ad(write_h5ad(adata), backed="r")
    with open_cells(backed[[5, 2, 9], 1:4]) as cells:
        np.testing.assert_array_equal(dense(cells, chunk=2), counts[[5, 2, 9], 1:4])
        np.testing.assert_array_equal(dense(cells, "raw", chunk=2), counts[[5, 2, 9]])
    backed.file.close()


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("fault", ["indices", "indptr"])
def test_indices_in_memory_that_lead_outside(layout, fault, adata):
    """RELIABILITY 61: before compiled code sees them."""
    adata.X = LAYOUTS[layout](adata.X)
    if fault == "indices":
        adata.X.indices[3] = 1_000_000
    else:
        adata.X.indptr[3:5] = adata.X.indptr[4] + 1000, adata.X.indptr[3]
    with pytest.raises(CellsError, match="X"), open_cells(adata) as cells:
        cells.slots["X"].rows(0, 37)


def test_nothing_in_memory_changes(adata):
    """Reading leaves the user's matrix as it was, unsorted indices and all."""
    adata.X.indices[:2] = adata.X.indices[1::-1].copy()
    before = adata.X.indices.copy()
    with open_cells(adata) as cells:
        rows = cells.slots["X"].rows(0, 5)
        rows.data[:] = -1
        cells.obs["new"] = 1
        cells.obs.index = range(37)
    np.testing.assert_array_equal(adata.X.indices, before)
    assert adata.X.min() == 0
    assert "new" not in adata.obs
    assert adata.obs_names[0] == "cell0"


def test_one_cell(adata, write_h5ad, write_zarr):
    """RELIABILITY 11: a single cell is read like many."""
    one = adata[7].copy()
    for source in (one, write_h5ad(one), write_zarr(one)):
        with open_cells(source) as cells:
            np.testing.assert_array_equal(dense(cells), one.X.toarray())


@pytest.mark.parametrize(
    ("index", "words"), [((slice(0), slice(None)), "0 cells"), ((slice(None), slice(0)), "0 genes")]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_there(index, words, layout, adata, write_h5ad, write_zarr):
    """RELIABILITY 11: 0 cells, 0 genes."""
    adata.X = LAYOUTS[layout](adata.X.toarray())
    small = adata[index].copy()
    for source in (small, write_h5ad(small), write_zarr(small)):
        with pytest.raises(CellsError, match=f"there are {words}"):
            open_cells(source)


def test_no_matrix(adata, write_h5ad):
    without = anndata.AnnData(obs=adata.obs, var=adata.var)
    for source in (without, write_h5ad(without)):
        with pytest.raises(CellsError, match="no matrix"):
            open_cells(source)


def test_only_a_layer(counts, adata, write_h5ad):
    without = anndata.AnnData(obs=adata.obs, var=adata.var, layers={"counts": counts})
    for source in (without, write_h5ad(without)):
        with open_cells(source) as cells:
            np.testing.assert_array_equal(dense(cells, "layers/counts"), counts)


def test_duplicate_ids(adata, write_h5ad):
    """RELIABILITY 6: duplicate cell ids are refused with examples; a prefix from an obs column cures them."""
    adata.obs_names = ["same", "same", "twice", "twice", *adata.obs_names[4:]]
    path = write_h5ad(adata)
    with pytest.raises(CellsError, match=r"'same', 'twice' \(2 in all\).*id_prefix_from=COLUMN"):
        open_cells(path)
    with open_cells(path, id_prefix_from="donor") as cells:
        assert list(cells.obs.index[:3]) == ["a:same", "b:same", "a:twice"]
        assert cells.obs.index.is_unique
    with pytest.raises(OptionError, match="'batch'.*donor, n"):
        open_cells(path, id_prefix_from="batch")
    adata.obs["donor"] = adata.obs["donor"].where(np.arange(37) != 5)
    with pytest.raises(CellsError, match="'cell5'.*'donor'"):
        open_cells(adata, id_prefix_from="donor")


def test_prefix_that_does_not_tell_apart(adata):
    """RELIABILITY 6: a prefix that leaves ids equal is refused too."""
    adata.obs_names = ["same", "b", "same", *adata.obs_names[3:]]
    with pytest.raises(CellsError, match=r"'a:same' \(1 in all\)"):
        open_cells(adata, id_prefix_from="donor")


STRANGE = ["a/b", "../../etc/passwd", "line\nbreak", "näßt 细胞 🧬", "x" * 10_000, " ", "..", "a\tb", "'; DROP", "0"]


def test_strange_ids(adata, write_h5ad, write_zarr):
    """RELIABILITY 15: ids with '/', '..', newlines, unicode, 10 kB are data, never paths."""
    adata.obs_names = [*STRANGE, *adata.obs_names[len(STRANGE) :]]
    adata.X = sparse.csc_matrix(adata.X)
    for source in (adata, write_h5ad(adata), write_zarr(adata)):
        with open_cells(source) as cells:
            assert list(cells.obs.index[: len(STRANGE)]) == STRANGE
            dense(cells)
    adata.obs_names = ["x" * 10_000, "x" * 10_000, *adata.obs_names[2:]]
    with pytest.raises(CellsError) as caught:
        open_cells(adata)
    assert len(str(caught.value)) < 500
    assert "10,000 characters" in str(caught.value)


def test_missing_path(tmp_path, write_h5ad, adata):
    write_h5ad(adata, "cells.h5ad")
    with pytest.raises(CellsError, match=r"cells\.h5: .*'cells\.h5ad'"):
        open_cells(tmp_path / "cells.h5")
    with pytest.raises(CellsError, match="where"):
        open_cells(str(tmp_path / "no" / "where.h5ad"))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated(share, adata, write_h5ad):
    """RELIABILITY 14: a truncated file says so."""
    path = write_h5ad(adata)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CellsError, match=r"cells\.h5ad: the file is truncated"):
        open_cells(path)


def test_damaged_in_the_middle(adata, write_h5ad):
    """RELIABILITY 14: bytes that do not decode give one plain error, with the slot and rows."""
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        chunked = file["X"].create_dataset("data", data=values, chunks=(64,), compression="gzip")
        offset = chunked.id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 20)
    words = "X, rows 0 to 10"
    with open_cells(path) as cells, pytest.raises(CellsError, match=words):
        dense(cells)


def test_other_hdf5(tmp_path):
    """RELIABILITY 14: HDF5 of another kind says which."""
    for names, words in (
        (("row_attrs", "col_attrs", "matrix"), "a loom file"),
        (("barcode_idx", "feature_idx"), "10x molecule info"),
        (("assays", "meta.data"), "an h5Seurat file"),
        (("weights",), "HDF5 with 'weights' in it"),
        ((), "HDF5 with nothing in it"),
    ):
        path = tmp_path / "other.h5"
        with h5py.File(path, "w") as file:
            for name in names:
                file.create_group(name)
        with pytest.raises(CellsError, match=words):
            open_cells(path)


def test_other_folders(tmp_path, adata, write_h5ad, write_mtx, write_zarr):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CellsError, match="folder"):
        open_cells(folder)
    write_h5ad(adata, "folder/cells.h5ad")
    write_mtx(name="folder/filtered_feature_bc_matrix")
    with pytest.raises(CellsError, match=r"'cells\.h5ad', 'filtered_feature_bc_matrix'"):
        open_cells(folder)
    path = write_zarr(adata)
    with pytest.raises(CellsError, match="Zarr"):
        open_cells(path / "layers")
    with pytest.raises(CellsError, match="Zarr"):
        open_cells(path / "X" / "data")


def test_the_extension_does_not_matter(counts, adata, write_h5ad, write_zarr, write_10x_h5):
    for path in (write_h5ad(adata, "cells.dat"), write_zarr(adata, "folder.h5ad")):
        with open_cells(path) as cells:
            np.testing.assert_array_equal(dense(cells), counts)
    with open_cells(write_10x_h5(name="10x.h5ad")) as cells:
        assert "symbol" in cells.var("X")


def test_closing(adata, write_h5ad, tmp_path):
    """Files are closed, after an error too."""
    path = write_h5ad(adata)
    with open_cells(path) as cells:
        cells.slots["X"].rows(0, 2)
    with pytest.raises(OptionError):
        open_cells(path, id_prefix_from="nothing")
    path.rename(tmp_path / "moved.h5ad")
    with h5py.File(tmp_path / "moved.h5ad", "r+"):
        pass  # would fail were it still open


def test_old_anndata():
    """A file of anndata 0.6, as scanpy ships it: records for obs, categories under uns, raw.X beside X."""
    scanpy = pytest.importorskip("scanpy", reason="scanpy's bundled file of anndata 0.6")
    path = Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = anndata.read_h5ad(path)
    with open_cells(path) as cells:
        assert list(cells.obs.index) == list(known.obs_names)
        assert list(cells.var("raw").index) == list(known.raw.var_names)
        labels, expected = cells.obs["bulk_labels"], known.obs["bulk_labels"]
        assert labels.tolist() == expected.tolist()
        assert list(labels.cat.categories) == list(expected.cat.categories)
        np.testing.assert_array_equal(dense(cells, "X", chunk=300), known.X)
        np.testing.assert_array_equal(dense(cells, "raw", chunk=300), known.raw.X.toarray())


def test_real_data(shared):
    with open_cells(shared / "cells" / "pbmc_3donors.h5ad") as cells:
        assert cells.slots["X"].shape == (1200, 1767)
        assert cells.obs["donor"].nunique() == 3
        known = anndata.read_h5ad(shared / "cells" / "pbmc_3donors.h5ad").X.toarray()
        np.testing.assert_array_equal(dense(cells, chunk=256), known)


def test_rows_are_contiguous_reads(tmp_path):
    """A run of rows costs one slice of the file, not a pass over it."""
    matrix = sparse.random(4000, 500, 0.1, format="csr", random_state=0, dtype=np.float32)
    path = tmp_path / "big.h5ad"
    anndata.AnnData(matrix).write_h5ad(path)
    reads: list[int] = []

    class Counting:
        def __init__(self, array: h5py.Dataset) -> None:
            self.array = array

        def __getitem__(self, index: slice) -> np.ndarray:
            reads.append(index.stop - index.start)
            return self.array[index]

    with h5py.File(path) as file:
        counting = [Counting(file["X"][part]) for part in ("indices", "data")]
        rows = csr_rows(file["X/indptr"][:], *counting, shape=matrix.shape, source="f", name="X").rows(1000, 1100)
    np.testing.assert_array_equal(rows.toarray(), matrix[1000:1100].toarray())
    assert reads == [rows.nnz, rows.nnz]


def write_mudata(root, adata, modalities) -> None:
    """MuData's layout: modalities below ``mod``, and columns for the cells of all of them."""
    write_elem(root, "obs", adata.obs[[]].assign(donor_of_all=adata.obs["donor"].to_numpy(), shared=1))
    write_elem(root, "var", adata.var[[]])
    root.create_group("mod")
    for name, one in modalities.items():
        write_elem(root["mod"], name, one)


def test_mudata(counts, adata, tmp_path):
    """RELIABILITY 46: of several modalities that of the genes is read, in both stages, and that is said."""
    proteins = adata[:, :2].copy()
    adata.obsm["X_pca"] = np.ones((37, 2), dtype=np.float32)
    with h5py.File(tmp_path / "cells.h5mu", "w") as file:
        write_mudata(file, adata, {"prot": proteins, "rna": adata})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr: object strings
        write_mudata(zarr.open_group(tmp_path / "cells.zarr", mode="w"), adata, {"GEX": adata, "adt": proteins})
    for path, name in ((tmp_path / "cells.h5mu", "'rna'"), (tmp_path / "cells.zarr", "'GEX'")):
        with open_cells(path) as cells:
            np.testing.assert_array_equal(dense(cells), counts)
            assert name in cells.notes("X")[0]
            assert list(cells.obs.columns) == ["donor", "n", "donor_of_all", "shared"]
        store = Store(path)
        assert store.views == ("X_pca", "X")
        assert list(store.obs.columns) == ["donor", "n", "donor_of_all", "shared"]
        assert store.view("X")[:3].shape == (3, 11)
        write_h5ad_of(store, tmp_path / f"{path.suffix[1:]}.h5ad")
        written = anndata.read_h5ad(tmp_path / f"{path.suffix[1:]}.h5ad")
        assert list(written.var_names) == list(adata.var_names)
        assert list(written.obs.columns) == list(store.obs.columns)
        assert name in store.notes[0]
    typed = adata.copy()
    typed.var["feature_types"] = "Gene Expression"
    for i, modalities in enumerate(({"a": typed, "b": proteins}, {"RNA:counts": adata, "ADT": proteins}, {"x": adata})):
        with h5py.File(tmp_path / f"{i}.h5mu", "w") as file:
            write_mudata(file, adata, modalities)
        with open_cells(tmp_path / f"{i}.h5mu") as cells:
            np.testing.assert_array_equal(dense(cells), counts)
    with h5py.File(tmp_path / "two.h5mu", "w") as file:
        write_mudata(file, adata, {"a": adata, "b": proteins})
    for read in (open_cells, Store):
        with pytest.raises(CellsError, match="'a', 'b'"):
            read(tmp_path / "two.h5mu")


def test_what_stage_2_reads_of_cells_beside_antibodies(counts, adata, write_h5ad):
    """RELIABILITY 46, 47: genes alone, under their symbols; where there are none, why there is no X."""
    adata.var["feature_types"] = ["Gene Expression"] * 9 + ["Antibody Capture"] * 2
    adata.var_names = adata.var["gene_ids"]
    adata.var["feature_name"] = [f"SYM{i}X" for i in range(11)]
    store = Store(write_h5ad(adata))
    assert store.view("X")[:].shape == (37, 9)
    totals = np.expm1(store.view("X")[:].toarray()).sum(axis=1)
    np.testing.assert_allclose(totals[counts[:, :9].sum(axis=1) > 0], 1e4, rtol=1e-5)
    assert store.expression_genes["symbol"].tolist() == [f"SYM{i}X" for i in range(9)]
    assert store.expression_genes["ensembl_id"].tolist() == adata.var["gene_ids"].tolist()[:9]
    assert "Antibody Capture" in store.notes[0]
    adata.var = pd.DataFrame(index=[str(i) for i in range(11)])
    with pytest.raises(InputError, match="numbered"):
        Store(write_h5ad(adata, "numbered.h5ad")).view("X")
