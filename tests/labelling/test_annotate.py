"""Cells in, the same cells with labels out."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from cell_files import contents, rich
from scipy import sparse
from support import make_cells, make_store

import scstore
from scstore.annotation.annotated_cells import GREY, label_colours
from scstore.disk import this_process
from scstore.errors import FeatureSpaceError, GenesError, OptionError, OutputError


@pytest.fixture(scope="module")
def folder(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ref.zarr`` and heads: ``expression``, ``texts`` (genept too) and ``whole`` (a readout too)."""
    folder = tmp_path_factory.mktemp("annotate")
    cells = make_cells(90)
    store = make_store(cells, folder / "ref.zarr", llama, panel="all")
    readout = next(view for view in store.views if view.startswith("readout"))
    for name, views in (("expression", ["X"]), ("texts", ["genept", "X"]), ("whole", [readout, "X"])):
        scstore.fit(folder / "ref.zarr", folder / name, label="cell_type", views=views)
    return folder


def check_labels(found: anndata.AnnData, said: pd.DataFrame) -> None:
    for name in said.columns:
        column = found.obs[f"scstore_{name}"]
        if said[name].dtype == "category":
            assert column.dtype == "category"
            assert list(column) == list(said[name])
        else:
            np.testing.assert_allclose(column, said[name])
    assert len(found.uns["scstore_label_colors"]) == len(found.obs["scstore_label"].cat.categories)
    assert found.obsm["X_scstore"].shape[0] == found.n_obs
    record = found.uns["scstore"]["annotation"]
    assert record["n_cells"] == found.n_obs
    assert sum(record["n_by_status"].values()) == found.n_obs


def test_an_object_in_memory_is_labelled_in_place(folder: Path) -> None:
    cells = rich()
    before = cells.copy()
    found = scstore.annotate(cells, folder / "expression", umap=False)
    assert found is cells
    check_labels(found, scstore.predict(before, folder / "expression"))


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_file_comes_back_whole(suffix: str, folder: Path, tmp_path: Path) -> None:
    cells, source, out = rich(), tmp_path / f"cells.{suffix}", tmp_path / f"annotated.{suffix}"
    if suffix == "h5ad":
        cells.write_h5ad(source, compression="gzip")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells.write_zarr(source)
    scstore.annotate(source, folder / "expression", output=out, umap=False)
    found = anndata.read_h5ad(out) if suffix == "h5ad" else anndata.read_zarr(out)
    check_labels(found, scstore.predict(source, folder / "expression"))
    assert list(found.obs.columns[: cells.obs.shape[1]]) == list(cells.obs.columns)
    with pytest.raises(OutputError):
        scstore.annotate(source, folder / "expression", output=out, umap=False)
    again = scstore.annotate(out, folder / "expression", output=out, overwrite=True, proba=True, umap=False)
    assert again.obsm["scstore_probability"].shape == (40, 3)
    assert list(again.obs.columns) == list(found.obs.columns)
    with pytest.raises(OutputError):  # not one of scstore's own
        scstore.annotate(out, folder / "expression", output=source, overwrite=True, umap=False)


def test_a_mudata_folder_comes_back_whole(folder: Path, tmp_path: Path) -> None:
    cells = make_cells(9, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=3)
        for name, part in (("obs", cells.obs[[]]), ("var", cells.var), ("mod", {"rna": cells, "prot": cells[:, :2]})):
            anndata.io.write_elem(root, name, part)
    scstore.annotate(tmp_path / "cells.zarr", folder / "expression", output=tmp_path / "a.zarr")
    found = zarr.open_group(tmp_path / "a.zarr", mode="r")
    before, after = contents(tmp_path / "cells.zarr"), contents(tmp_path / "a.zarr")
    assert {path: value for path, value in after.items() if path in before} == before
    assert all(path.startswith("/mod/rna/") for path in after.keys() - before.keys())
    check_labels(anndata.io.read_elem(found["mod/rna"]), scstore.predict(cells, folder / "expression"))


def test_another_form_than_the_input_is_refused_first(folder: Path, tmp_path: Path) -> None:
    rich().write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(OutputError):
        scstore.annotate(tmp_path / "cells.h5ad", folder / "expression", output=tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("layout", ["h5", "mtx"])
def test_10x_cells_come_back_as_an_anndata(layout: str, folder: Path, tmp_path: Path) -> None:
    cells = make_cells(20, seed=2)
    names = [str(name) for name in cells.var_names]
    dense = cells.X.toarray()
    if layout == "h5":
        source = tmp_path / "cells.h5"
        by_cell = sparse.csc_matrix(dense.T)
        with h5py.File(source, "w") as file:
            group = file.create_group("matrix")
            for key in ("data", "indices", "indptr"):
                group[key] = getattr(by_cell, key).astype(np.int64)
            group["shape"] = by_cell.shape
            group["barcodes"] = np.array([name.encode() for name in cells.obs_names])
            about = group.create_group("features")
            for key, values in (("id", names), ("name", names), ("feature_type", ["Gene Expression"] * len(names))):
                about[key] = np.array([value.encode() for value in values])
    else:
        source = tmp_path / "folder"
        source.mkdir()
        rows, columns = np.nonzero(dense)
        entries = "\n".join(f"{g + 1} {c + 1} {int(dense[c, g])}" for c, g in zip(rows, columns, strict=True))
        header = f"%%MatrixMarket matrix coordinate integer general\n{len(names)} {len(dense)} {len(rows)}\n"
        (source / "matrix.mtx").write_text(header + entries + "\n")
        (source / "barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n")
        (source / "features.tsv").write_text("\n".join(f"{n}\t{n}\tGene Expression" for n in names) + "\n")
    scstore.annotate(source, folder / "expression", output=tmp_path / "a.h5ad", umap=False)
    found = anndata.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), dense)
    assert list(found.var_names) == names
    check_labels(found, scstore.predict(cells, folder / "expression"))


def test_gene_vectors_are_computed_without_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head carries the table of the genes; a store of the same cells says the same."""
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    cells = make_cells(30, seed=3)
    found = scstore.annotate(cells, folder / "texts", umap=False)
    assert found.uns["scstore"]["annotation"]["computed_views"] == ["genept"]
    extracted = scstore.predict(folder / "ref.zarr", folder / "texts")
    here = scstore.annotate(make_cells(90), folder / "texts", umap=False)
    np.testing.assert_allclose(here.obs["scstore_confidence"], extracted["confidence"], atol=1e-3)
    assert list(here.obs["scstore_best_label"]) == list(extracted["best_label"])


def test_views_are_computed_beside_the_output(folder: Path, tmp_path: Path) -> None:
    """What a killed run left there is cleared by the next one."""
    make_cells(12, seed=3).write_h5ad(tmp_path / "cells.h5ad")
    left, lock = (tmp_path / f".a.h5ad.scratch-1-0{end}" for end in ("", ".lock"))
    left.mkdir()
    lock.write_text(json.dumps({**this_process(), "pid": 1, "begun": "0"}))
    scstore.annotate(tmp_path / "cells.h5ad", folder / "texts", output=tmp_path / "a.h5ad", umap=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5ad", "cells.h5ad"]


def test_readouts_are_computed_where_the_model_is(folder: Path) -> None:
    pytest.importorskip("torch")
    here = scstore.annotate(make_cells(90), folder / "whole", umap=False)
    extracted = scstore.predict(folder / "ref.zarr", folder / "whole")
    np.testing.assert_allclose(here.obs["scstore_confidence"], extracted["confidence"], atol=1e-3)


def test_without_the_model_the_head_says_what_is_lacking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = scstore.load_head(folder / "whole")
    head.record_["extraction"]["options"]["model"] = "nowhere/at-all"
    with pytest.raises(FeatureSpaceError, match=r"readout.*members=\['X'\]"):
        scstore.annotate(make_cells(30, seed=3), head, umap=False)
    alone = scstore.annotate(make_cells(30, seed=3), head, members=["X"], umap=False)
    assert alone.uns["scstore"]["annotation"]["views"] == ["X"]
    with pytest.raises(OptionError):
        scstore.annotate(make_cells(30, seed=3), head, members=["genept"], umap=False)


def test_cells_that_express_none_of_the_genes_are_empty(folder: Path) -> None:
    cells = make_cells(20, seed=1, empty=4)
    found = scstore.annotate(cells, folder / "expression", umap=False)
    assert found.obs["scstore_status"].iloc[4] == "empty"
    assert found.obs["scstore_reason"].iloc[4]
    assert (found.obs["scstore_status"] == "empty").sum() == 1


def test_too_few_genes_are_refused(folder: Path) -> None:
    with pytest.raises(GenesError):
        scstore.annotate(make_cells(20, seed=1)[:, :2].copy(), folder / "expression", umap=False)


def test_a_umap_is_made_unless_there_is_one(folder: Path) -> None:
    found = scstore.annotate(make_cells(20, seed=1), folder / "expression")
    assert found.obsm["X_umap"].shape == (20, 2)
    mine = make_cells(20, seed=1)
    mine.obsm["X_umap"] = np.full((20, 2), 7.0)
    assert (scstore.annotate(mine, folder / "expression").obsm["X_umap"] == 7).all()


@pytest.mark.parametrize("form", ["memory", "h5ad", "zarr"])
def test_a_umap_of_an_earlier_annotation_is_made_anew(
    form: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(range(1, 9))
    monkeypatch.setattr(
        "scstore.reporting.plots.embed", lambda space: np.full((len(space), 2), next(drawn), np.float32)
    )
    monkeypatch.setattr("scstore.labelling.annotate.find_spec", lambda name: name)
    read = {"h5ad": anndata.read_h5ad, "zarr": anndata.read_zarr}

    def annotated(cells: anndata.AnnData, **options: Any) -> anndata.AnnData:
        if form == "memory":
            return scstore.annotate(cells, folder / "expression", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(cells, f"write_{form}")(tmp_path / f"in.{form}")
        scstore.annotate(
            tmp_path / f"in.{form}",
            folder / "expression",
            output=tmp_path / f"out.{form}",
            overwrite=True,
            **options,
        )
        return read[form](tmp_path / f"out.{form}")

    cells = annotated(make_cells(20, seed=1))
    assert (cells.obsm["X_umap"] == 1).all()
    cells = annotated(cells, umap=False)  # stays, and is remembered
    assert (cells.obsm["X_umap"] == 1).all()
    cells = annotated(cells)
    assert (cells.obsm["X_umap"] == 2).all()
    cells.obsm["X_umap"] = cells.obsm["X_umap"] + 5  # the user's own
    for _ in range(2):
        cells = annotated(cells)
        assert (cells.obsm["X_umap"] == 7).all()


def test_the_labels_alone_as_a_table(folder: Path, tmp_path: Path) -> None:
    scstore.annotate(make_cells(20, seed=1), folder / "expression", output=tmp_path / "t.tsv", umap=False)
    found = pd.read_csv(tmp_path / "t.tsv", sep="\t", index_col=0)
    assert list(found.columns[:2]) == ["label", "confidence"]
    assert len(found) == 20
    how: dict[str, Any] = {"proba": True, "umap": False}
    cells = scstore.annotate(make_cells(20, seed=1), folder / "expression", output=tmp_path / "p.csv", **how)
    assert "p(type 0)" in pd.read_csv(tmp_path / "p.csv").columns
    assert "scstore_probability_classes" in cells.uns
    again = scstore.annotate(cells, folder / "expression", umap=False)
    assert "scstore_probability" not in again.obsm
    assert "scstore_probability_classes" not in again.uns


def test_the_command_line(folder: Path, tmp_path: Path, scstore_command: Any) -> None:
    rich().write_h5ad(tmp_path / "cells.h5ad")
    words = ("annotate", str(tmp_path / "cells.h5ad"), "--head", str(folder / "expression"))
    said = scstore_command("--json", *words, "-o", str(tmp_path / "a.h5ad"), "--no-umap")
    assert json.loads(said.stdout.splitlines()[-1])["n_cells"] == 40
    found = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert "scstore_label" in found.obs
    assert "X_umap" not in found.obsm


@pytest.mark.parametrize("n", [2, 8, 9, 40])
def test_every_label_has_a_colour_of_its_own(n: int) -> None:
    colours = label_colours([*(f"type {i}" for i in range(n)), "unassigned"])
    assert len(set(colours)) == n + 1
    assert colours[-1] == GREY
    assert all(len(colour) == 7 for colour in colours)


def test_cells_are_extracted_like_those_of_a_head(folder: Path, tmp_path: Path) -> None:
    head = folder / "whole"
    store = scstore.extract(make_cells(20, seed=4), tmp_path / "new.zarr", like=head)
    assert len(scstore.predict(store, head)) == 20
    with pytest.raises(FeatureSpaceError):
        scstore.extract(make_cells(20, seed=4), tmp_path / "other.zarr", like=folder / "expression")


def test_a_head_and_a_store_show_what_they_are(folder: Path) -> None:
    head, store = scstore.load_head(folder / "texts"), scstore.open(folder / "ref.zarr")
    for one, words in ((head, ("3", "genept", "90", "type 0")), (store, ("90", "genept", "cell_type"))):
        assert all(word in repr(one) for word in words)
        assert all(word in one._repr_html_() for word in words)
    assert (
        "<script>"
        not in scstore.open(anndata.AnnData(obs=pd.DataFrame({"<script>": ["a"]}, index=["cell"])))._repr_html_()
    )
    assert "not fitted" in repr(scstore.FusedHead())
