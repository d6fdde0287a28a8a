"""Cells of a type that the reference lacks: what they look like is suggested, and is never their label."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scstore
from scstore.labelling import suggest
from scstore.labelling.suggest import candidates
from scstore.naming.terms import load_texts

MARKERS = {
    "B cell": "CD79A CD79B MS4A1 CD19 CD22 PAX5 BLK FCRLA BANK1 CR2 CD72 FCER2 CD40 BLNK VPREB3",
    "T cell": "CD3D CD3E CD3G CD5 CD6 CD2 LCK ZAP70 CD28 CD247 LAT TRAT1 ITK CD27 CTLA4",
    "endothelial cell": "PECAM1 CDH5 VWF TIE1 TEK ESAM EGFL7 CLDN5 KDR FLT1 ECSCR ROBO4 EMCN ENG SOX17",
    "hepatocyte": "ALB APOA1 APOB TTR TF SERPINA1 FGB FGA CYP3A4 CYP2E1 HP AHSG APOC3 F2 ASGR1",
}
LEFT_OUT = "T cell"


def make_cells(seed: int, *, mouse: bool = False) -> anndata.AnnData:
    """40 cells of each type × 460 genes, counts."""
    known = load_texts().genes
    human = known[known["organism"] == "human"]
    marked = [gene for text in MARKERS.values() for gene in text.split()]
    others = human.loc[~human["symbol"].isin(marked), "symbol"]
    genes = [*marked, *np.random.default_rng(0).choice(others, 400, replace=False)]
    truth = np.repeat(list(MARKERS), 40)
    rate = np.full((len(truth), len(genes)), 0.4)
    for label, text in MARKERS.items():
        rate[np.ix_(truth == label, [genes.index(gene) for gene in text.split()])] = 4
    counts = np.random.default_rng(seed).poisson(rate).astype(np.float32)
    if mouse:
        vectors = human.set_index("symbol")["vector"].reindex(genes)
        of_mouse = known[known["organism"] == "mouse"].set_index("vector")["symbol"].reindex(vectors)
        counts, genes = counts[:, of_mouse.notna()], list(of_mouse.dropna())
    cells = anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=genes))
    cells.obs_names = [f"cell{i}" for i in range(len(truth))]
    cells.obs["truth"] = pd.Categorical(truth)
    return cells


def reference(**options: bool) -> anndata.AnnData:
    cells = make_cells(1, **options)
    return cells[cells.obs["truth"] != LEFT_OUT].copy()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suggest") / "head"
    scstore.fit(reference(), folder, label="truth")
    return folder


def annotated(cells: anndata.AnnData, head: Any, **options: Any) -> pd.DataFrame:
    return scstore.annotate(cells, head, **{"unassigned": "both", "umap": False, **options}).obs


def suggestions(obs: pd.DataFrame) -> pd.Series:
    return obs.get("scstore_suggestion", pd.Series("", index=obs.index)).astype(str)


@pytest.mark.parametrize("rule", ["both", None])
def test_what_the_reference_lacks_gets_a_suggestion_and_never_a_label(head: Path, rule: str | None) -> None:
    obs = annotated(make_cells(2), head, unassigned=rule)
    said, mine = suggestions(obs), (obs["truth"] == LEFT_OUT).to_numpy()
    terms = load_texts().terms
    found = {re.fullmatch(r".+ \((CL:\d{7})\)", one).group(1) for one in set(said[mine]) - {""}}  # type: ignore[union-attr]
    assert found and all("CL:0000084" in terms.at[one, "ancestors"].split("|") for one in found)  # T cells
    assert (said[mine] != "").mean() > 0.4 and (said[~mine] != "").mean() < 0.1
    assert set(obs.loc[said != "", "scstore_label"]) == {"unassigned"}
    assert not set(said) & set(obs["scstore_label"])


def test_mouse_cells_get_one_too() -> None:
    trained = scstore.fit(reference(mouse=True), label="truth")
    said = suggestions(annotated(make_cells(2, mouse=True), trained))
    assert any("T cell" in one for one in said)


def test_shuffled_genes_get_none() -> None:
    known, cells = reference(), make_cells(2)
    known.var_names = cells.var_names = np.random.default_rng(0).permutation(cells.var_names)
    obs = annotated(cells, scstore.fit(known, label="truth"))
    assert (obs["scstore_status"] == "far").sum() >= 40
    assert (suggestions(obs) != "").mean() <= 0.05


def test_of_a_large_file_some_blocks_are_looked_at(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = suggestions(annotated(make_cells(2), head))
    monkeypatch.setattr(suggest, "BLOCK", 16)
    some = suggestions(annotated(make_cells(2), head))
    assert set(some) == set(whole)
    assert ((some != "") == (whole != "")).mean() > 0.9


def test_labels_that_match_no_term_get_none() -> None:
    known = reference()
    known.obs["truth"] = known.obs["truth"].cat.rename_categories(lambda label: f"k{list(MARKERS).index(label)}")
    obs = annotated(make_cells(2), scstore.fit(known, label="truth"))
    assert (obs["scstore_status"] == "far").sum() >= 40
    assert "scstore_suggestion" not in obs


def test_candidates_are_no_labels_nor_above_them() -> None:
    texts = load_texts()
    names = texts.terms["name"].iloc[candidates(["T_CD4", "NK"], texts)].tolist()
    assert "B cell" in names and "macrophage" in names
    assert not {"T cell", "lymphocyte", "natural killer cell", "CD4-positive, alpha-beta T cell"} & set(names)
    assert not len(candidates(["NK", "k1", "k2"], texts))


def test_files_tables_and_pages_say_it(head: Path, tmp_path: Path, scstore_command: Any) -> None:
    make_cells(2).write_h5ad(tmp_path / "new.h5ad")
    said = suggestions(annotated(make_cells(2), head))
    words = ["annotate", tmp_path / "new.h5ad", "--head", head, "--unassigned", "both", "--no-umap"]
    told = scstore_command(*words, "-o", tmp_path / "labels.csv").stdout
    assert said.value_counts().drop("").index[0] in told and "not labels" in told
    table = pd.read_csv(tmp_path / "labels.csv", index_col=0, keep_default_na=False)
    assert table["suggestion"].tolist() == said.tolist()
    page = tmp_path / "page.html"
    scstore_command(*words, "-o", tmp_path / "annotated.h5ad", "--report", page)
    written = anndata.read_h5ad(tmp_path / "annotated.h5ad")
    assert suggestions(written.obs).tolist() == said.tolist()
    assert written.uns["scstore"]["annotation"]["n_suggested"] == (said != "").sum()
    shown = json.loads(
        re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)[1]
    )  # type: ignore[index]
    column = next(one for one in shown["columns"] if one["name"] == "scstore_suggestion")
    assert set(column["values"]) == set(said)
    assert "suggestion by texts alone" in shown["verdict"][2] and "a type is suggested" in shown["methods"]


def test_a_later_annotation_takes_it_away(head: Path) -> None:
    cells = make_cells(2)
    assert "scstore_suggestion" in annotated(cells, head)
    assert "scstore_suggestion" not in annotated(cells, head, unassigned="none")
