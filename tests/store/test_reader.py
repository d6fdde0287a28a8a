from __future__ import annotations

import errno
import json
import shutil
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zarr
from anndata.io import write_elem
from damage import failing
from scipy.sparse import csr_matrix
from support import extract, make_cells, make_store

import scstore
from scstore.errors import (
    DamagedError,
    IncompleteStoreError,
    InputError,
    NewerFormatError,
    NotAStoreError,
    OutputError,
    UnreadableError,
)
from scstore.store.ledger import record_path, write_manifest
from scstore.store.reader import EXPRESSION_SPACE, Store


@pytest.fixture(scope="module")
def path(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of 50 cells in 4 shards, one cell empty."""
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    scstore.extract(make_cells(50, empty=7), path, model=str(llama), shard_rows=16)
    return path


def copy(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "copy.zarr"))


def test_what_a_store_says_of_itself(path: Path) -> None:
    store = scstore.open(path)
    assert store.n_obs == len(store.obs) == 50
    assert store.views == ("readout_wmean_l3", "readout_last_l3", "genept", "genept_random", "X")
    assert store.default_view == "readout_wmean_l3"
    assert store.default_views == ("readout_wmean_l3", "genept", "X")
    assert store.is_complete
    assert np.flatnonzero(store.empty).tolist() == [7]
    assert "cells 50" in repr(store)
    info = json.loads(json.dumps(store.info))
    assert (info["kind"], info["n_empty"], info["complete"]) == ("store", 1, True)
    assert info["views"]["genept"]["fingerprint"] == store.view("genept").fingerprint


def test_views_are_the_arrays_that_anndata_reads(path: Path) -> None:
    store, adata = scstore.open(path), anndata.read_zarr(path)
    for name in store.views[:-1]:
        np.testing.assert_array_equal(store.view(name)[:], adata.obsm[name])
    np.testing.assert_array_equal(store.view("X")[3:30].toarray(), adata.X[3:30].toarray())
    assert store.view("readout").name == "readout_wmean_l3"
    assert store.view("X").space == EXPRESSION_SPACE


def test_to_anndata(path: Path) -> None:
    adata = scstore.open(path).to_anndata(["readout", "X"])
    assert list(adata.obsm) == ["readout_wmean_l3"]
    assert adata.shape == (50, 40)
    assert list(adata.var["symbol"]) == list(adata.var_names)
    assert scstore.open(path).to_anndata(["genept"]).X is None


def test_a_run_record_beyond_its_limit_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIABILITY 63."""
    monkeypatch.setattr("scstore.store.ledger.RUN_LIMIT", 100)
    with pytest.raises(DamagedError, match="characters"):
        scstore.open(path).record  # noqa: B018


def test_an_unknown_view_is_named(path: Path) -> None:
    with pytest.raises(InputError, match="no view 'scvi'.*readout_wmean_l3"):
        scstore.open(path).view("scvi")


def test_an_exported_store_is_the_store_in_one_file(path: Path, tmp_path: Path) -> None:
    exported = scstore.open(scstore.export(path, tmp_path / "s.h5ad"))
    store = scstore.open(path)
    assert exported.views == store.views
    assert exported.default_views == store.default_views
    for name in store.views:
        assert exported.view(name).fingerprint == store.view(name).fingerprint
    np.testing.assert_array_equal(exported.view("genept")[5:9], store.view("genept")[5:9])
    np.testing.assert_array_equal(exported.view("X")[5:9].toarray(), store.view("X")[5:9].toarray())
    np.testing.assert_array_equal(exported.empty, store.empty)
    with pytest.raises(OutputError):
        scstore.export(path, tmp_path / "s.h5ad")


def test_an_unfinished_store_shows_what_is_committed(path: Path, tmp_path: Path) -> None:
    """RELIABILITY 33: and to_anndata, export and usable_rows refuse to hand out missing rows."""
    unfinished = copy(path, tmp_path)
    record_path(unfinished, 1).unlink()
    store = scstore.open(unfinished)
    assert np.flatnonzero(~store.committed).tolist() == list(range(16, 32))
    assert store.usable_rows(allow_partial=True).tolist() == [*range(7), *range(8, 16), *range(32, 50)]
    with pytest.raises(IncompleteStoreError, match="16 of 50 cells"):
        store.usable_rows()
    for act in (store.to_anndata, lambda: scstore.export(unfinished, tmp_path / "x.h5ad")):
        with pytest.raises(IncompleteStoreError, match="cells 16 to 31"):
            act()
    assert not (tmp_path / "x.h5ad").exists()


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("values", ["counts", "lognorm", "scaled"])
def test_any_anndata_with_an_obsm_is_a_store(kind: str, values: str, tmp_path: Path) -> None:
    cells = make_cells(30)
    counts = cells.X.toarray()
    lognorm = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    if values != "counts":
        cells.X = csr_matrix(lognorm) if values == "lognorm" else lognorm - lognorm.mean(0)
    cells.obsm["X_pca"] = np.random.default_rng(0).standard_normal((30, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (cells.write_zarr if kind == "zarr" else cells.write_h5ad)(tmp_path / f"a.{kind}")
    store = scstore.open(tmp_path / f"a.{kind}")
    assert store.views == (("X_pca",) if values == "scaled" else ("X_pca", "X"))
    assert store.default_views == (("X_pca",) if values == "scaled" else ("X",))
    assert store.record is None
    np.testing.assert_array_equal(store.view("X_pca")[[4, 2]], cells.obsm["X_pca"][[4, 2]])
    if values != "scaled":
        np.testing.assert_allclose(store.view("X")[:].toarray(), lognorm, rtol=1e-5)


def test_a_file_of_somebody_else_is_read_as_it_is(tmp_path: Path) -> None:
    cells = make_cells(10)
    cells.layers["spliced"] = cells.X.copy()
    cells.uns["note"] = "mine"
    cells.write_h5ad(tmp_path / "a.h5ad")
    adata = scstore.open(tmp_path / "a.h5ad").to_anndata(rows=np.array([1, 4]))
    np.testing.assert_array_equal(adata.X.toarray(), cells.X[[1, 4]].toarray())
    assert ([name for name in adata.layers if name], adata.uns["note"]) == (["spliced"], "mine")


def test_several_matrices_have_no_default(tmp_path: Path) -> None:
    cells = make_cells(10)
    cells.obsm["X_a"] = cells.obsm["X_b"] = np.zeros((10, 2))
    cells.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="X_a, X_b"):
        _ = scstore.open(tmp_path / "a.h5ad").default_view


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.h5ad").write_text("hello")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = [1]
    for name in ("folder", "text.h5ad", "other.zarr", "other.h5", "absent"):
        with pytest.raises(NotAStoreError, match=name):
            scstore.open(tmp_path / name)


def test_a_newer_format_is_named(path: Path, tmp_path: Path) -> None:
    """RELIABILITY 34."""
    newer = copy(path, tmp_path)
    record = scstore.open(newer).record
    group = zarr.open_group(newer, mode="r+", use_consolidated=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_elem(group["uns/scstore"], "record", json.dumps({**(record or {}), "format": "2.0"}))
        zarr.consolidate_metadata(newer)
    with pytest.raises(NewerFormatError, match=r"2\.0"):
        scstore.open(newer)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.7, 0.9])
def test_a_damaged_record_of_the_run_is_an_error(path: Path, tmp_path: Path, place: float) -> None:
    """RELIABILITY 30: the run's record."""
    damaged = copy(path, tmp_path)
    file = next((damaged / "uns" / "scstore" / "record").glob("c*"))
    data = bytearray(file.read_bytes())
    data[int(len(data) * place)] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="record"):
        Store(damaged)


@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
@pytest.mark.parametrize("damage", ["flip", "lose"])
def test_damaged_expression_is_an_error_and_never_zeros(llama: Path, tmp_path: Path, part: str, damage: str) -> None:
    """RELIABILITY 30: in Zarr a chunk that is absent reads as zeros, and one without a checksum as anything."""
    store = extract(make_cells(20, 12), tmp_path / "s.zarr", llama)
    chunk = store.path / "X" / part / "c" / "0"
    data = bytearray(chunk.read_bytes())
    if damage == "lose":
        chunk.unlink()
    else:
        data[len(data) // 2] ^= 1
        chunk.write_bytes(data)
    with pytest.raises(DamagedError, match=r"s\.zarr"):
        scstore.open(store.path).view("X")[:]


def test_damaged_metadata_is_one_plain_error(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 30: whatever anndata makes of it."""
    store = extract(make_cells(20, 12), tmp_path / "s.zarr", llama)
    (chunk,) = (store.path / "var" / "symbol" / "c").iterdir()
    chunk.write_bytes(b"1")
    with pytest.raises(DamagedError, match="var/symbol/c/0"):
        _ = scstore.open(store.path).var


def test_metadata_with_another_byte_is_an_error_and_never_other_labels(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 30: also where it can be decoded."""
    store = extract(make_cells(20, 12), tmp_path / "s.zarr", llama)
    attributes = store.path / "obs" / "cell_type" / "zarr.json"
    attributes.write_text(attributes.read_text().replace('"ordered": false', '"ordered": true '))
    with pytest.raises(DamagedError, match=r"obs/cell_type/zarr\.json does not match its digest.*scstore verify"):
        _ = scstore.open(store.path).obs
    attributes.unlink()
    with pytest.raises(DamagedError, match=r"obs/cell_type/zarr\.json is missing"):
        _ = scstore.open(store.path).obs


@pytest.fixture(scope="module")
def two(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Finished stores of the same shape and ids, of other counts, metadata and genes. Not to be written to."""
    folder = tmp_path_factory.mktemp("two")
    roots = (folder / "a" / "s.zarr", folder / "b" / "s.zarr")
    others = make_cells(36, 28, seed=1)[:, 4:].copy()
    others.obs["donor"] = "d"
    for cells, root in zip((make_cells(36, 24), others), roots, strict=True):
        make_store(cells, root, llama, shard_rows=16)
    return roots


def taken(source: Path, target: Path, *names: str) -> None:
    """Put files or folders of one store in the place of another's."""
    for name in names:
        if (source / name).is_dir():
            shutil.rmtree(target / name)
            shutil.copytree(source / name, target / name)
        else:
            shutil.copy(source / name, target / name)


READERS = {
    "fit": lambda store, folder, view: scstore.fit(
        store, folder / "h", label="cell_type", views=(view,), head="linear"
    ),
    "query": lambda store, folder, view: scstore.query(store, store, k=2, view=view),
    "export": lambda store, folder, view: scstore.export(store, folder / "s.h5ad", views=(view,)),
    "rows": lambda store, folder, view: scstore.open(store).view(view)[[20, 3]],
}


@pytest.mark.parametrize("reader", list(READERS))
def test_a_shard_of_another_store_is_not_served(two: tuple[Path, Path], tmp_path: Path, reader: str) -> None:
    """RELIABILITY 59: chunks and record of a store of the same shape, every digest right."""
    root = copy(two[0], tmp_path)
    views = [name for name in scstore.open(root).views if name != "X"]
    taken(two[1], root, "_scstore/shards/000001.json", *(f"obsm/{name}/c/1/0" for name in views))
    with pytest.raises(DamagedError, match="000001"):
        READERS[reader](root, tmp_path, "readout")
    found = scstore.verify(root, deep=True)
    assert {(finding.problem, finding.shard) for finding in found.findings} == {("inconsistent", 1)}


@pytest.mark.parametrize(("name", "reads"), [("X", "X"), ("obs", "obs"), ("var", "var"), ("X/data/c/0", "X")])
def test_fixed_files_of_another_store_are_not_served(
    two: tuple[Path, Path], tmp_path: Path, name: str, reads: str
) -> None:
    """RELIABILITY 59: expression, cells or genes of another version."""
    root = copy(two[0], tmp_path)
    taken(two[1], root, name)
    store = scstore.open(root)
    with pytest.raises(DamagedError, match="does not match|not a file of"):
        store.view("X")[:] if reads == "X" else getattr(store, reads)


def test_a_chunk_that_was_left_out_is_not_made_up(path: Path, tmp_path: Path) -> None:
    root = copy(path, tmp_path)
    (root / "X" / "indices" / "c" / "0").unlink()
    with pytest.raises(DamagedError, match="missing"):
        scstore.open(root).view("X")[:]


@pytest.mark.parametrize("name", ["X/data/c/0", "obs/donor/zarr.json", "uns/scstore/record/c"])
def test_a_failed_read_is_no_damage(path: Path, tmp_path: Path, name: str) -> None:
    """RELIABILITY 58."""
    root = copy(path, tmp_path)
    (file,) = [
        file for file in root.rglob("*") if file.is_file() and file.relative_to(root).as_posix().startswith(name)
    ]
    with failing(file, errno.EIO), pytest.raises(UnreadableError):
        store = scstore.open(root)
        store.view("X")[:], store.obs


@pytest.mark.parametrize("reader", ["fit", "export", "rows"])
@pytest.mark.parametrize("what", ["column", "negative column", "descends", "short", "columns"])
def test_expression_that_leads_out_of_the_matrix_is_refused(path: Path, tmp_path: Path, what: str, reader: str) -> None:
    """RELIABILITY 61: before SciPy's compiled code sees it. Every digest matches."""
    root = copy(path, tmp_path)
    group = zarr.open_group(root, mode="r+", use_consolidated=False)["X"]
    if what in ("column", "negative column"):
        group["indices"][100] = 10**6 if what == "column" else -5
    elif what == "descends":
        group["indptr"][9] = group["indptr"][20]
    elif what == "short":
        group["data"].resize(10)
    else:
        group.attrs["shape"] = [50, 3]
    files = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    write_manifest(root, [name for name in files if not name.startswith(("_scstore", "obsm")) or "zarr.json" in name])
    with pytest.raises(DamagedError):
        READERS[reader](root, tmp_path, "X")


def test_marks_of_an_earlier_run_are_not_this_files(tmp_path: Path) -> None:
    """An annotated file that another program has written again: no record, and columns of scstore's."""
    cells = make_cells(6)
    cells.obsm["X_pca"] = np.ones((6, 2), np.float32)
    cells.obs["scstore_status"] = "empty"
    cells.write_h5ad(tmp_path / "a.h5ad")
    store = scstore.open(tmp_path / "a.h5ad")
    assert not store.empty.any()
    assert len(store.usable_rows()) == 6
    assert "scstore_status" in store.obs  # it is the user's all the same
