"""Names with no labelled cell: gene texts against cell types' texts, beside shuffled vectors, words and markers.

    python benchmarks/naming.py CELLS --genes NCBI --ontology CL-ontology-v2026-03-26.json.zst --profiles PROFILES.h5ad

CELLS is a folder of the labelled files, NCBI the folder that ``naming_data.py`` reads, PROFILES the published profiles
with ``label`` and ``matrix``. The types are the labels written out (``PLAIN``), the settings the same for all files. Of
brain (a targeted panel) texts say too little: there abstention is what counts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scanpy as sc
from measuring import Findings, parser, table
from naming_data import read_genes, read_terms
from safetensors.numpy import load_file
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score

import scstore
from scstore.naming.terms import find_terms, load_texts, read_types
from scstore.naming.text_scores import gene_weights, neighbour_means, places_of, read_expression
from scstore.progress import Silent

FILES = {
    "lymph node": "lymph_node_human",
    "pancreas": "pancreas_human_mouse",
    "three donors": "pbmc_3donors",
    "sorted": "pbmc_sorted",
}
BRAIN = "brain_mouse_merfish"
PLAIN = {
    "lymph node": {
        "B": "B cell", "B_Plasma": "plasma cell", "DC": "dendritic cell", "Endo": "endothelial cell",
        "ILC": "innate lymphoid cell", "Macrophages": "macrophage", "Monocytes": "monocyte", "NK": "NK cell",
        "T_CD4": "CD4 T cell", "T_CD8": "CD8 T cell", "VSMC": "vascular smooth muscle cell",
    },
    "pancreas": {
        "alpha": "pancreatic alpha cell", "beta": "pancreatic beta cell", "delta": "pancreatic delta cell",
        "macrophage": "macrophage", "activated_stellate": "activated pancreatic stellate cell",
    },
    "three donors": {
        "T_CD4": "CD4 T cell", "Mono_CD14": "CD14 monocyte", "T_CD8": "CD8 T cell", "B": "B cell",
        "Mono_CD16": "CD16 monocyte", "NK": "NK cell", "DC": "dendritic cell", "MK": "megakaryocyte",
        "HSC": "hematopoietic stem cell",
    },
    "sorted": {
        "nk": "NK cell", "bcells": "B cell", "memoryt": "memory T cell", "regulatoryt": "regulatory T cell",
        "thelper": "helper T cell", "cytotoxict": "cytotoxic T cell", "monocytes": "monocyte",
        "naivet": "naive T cell", "naivecytotoxic": "naive cytotoxic T cell",
    },
}  # fmt: skip
# What a person would look for, written down before markers were scored on any file.
MARKERS = {
    "B cell": "CD79A MS4A1 CD19", "plasma cell": "MZB1 JCHAIN SDC1", "dendritic cell": "FCER1A CLEC10A CD1C",
    "endothelial cell": "PECAM1 VWF CDH5", "innate lymphoid cell": "IL7R KIT RORC", "macrophage": "CD68 C1QA MARCO",
    "monocyte": "CD14 LYZ S100A8", "NK cell": "NKG7 GNLY KLRD1", "CD4 T cell": "CD3D CD4 IL7R",
    "CD8 T cell": "CD3D CD8A CD8B", "vascular smooth muscle cell": "ACTA2 MYH11 TAGLN",
    "CD14 monocyte": "CD14 LYZ S100A8",
    "CD16 monocyte": "FCGR3A MS4A7 LST1", "megakaryocyte": "PF4 PPBP GP9", "hematopoietic stem cell": "CD34 KIT SPINK2",
    "pancreatic alpha cell": "GCG TTR ARX", "pancreatic beta cell": "INS IAPP MAFA",
    "pancreatic delta cell": "SST HHEX LEPR",
    "activated pancreatic stellate cell": "COL1A1 PDGFRB SFRP2", "memory T cell": "CD3D IL7R S100A4",
    "regulatory T cell": "FOXP3 IL2RA CTLA4", "helper T cell": "CD3D CD4 IL7R", "cytotoxic T cell": "CD8A CD8B GZMK",
    "naive T cell": "CD3D CCR7 SELL", "naive cytotoxic T cell": "CD8A CD8B CCR7",
}  # fmt: skip
DEALS = 5
RIDGE = 0.3  # of profiles of length one


@dataclass(frozen=True)
class Cells:
    """Expression of the genes that have a text, the rows of these texts, what averages cells, and the types."""

    adata: anndata.AnnData
    expression: sparse.csr_matrix
    rows: np.ndarray
    means: sparse.csr_matrix
    truth: np.ndarray
    types: list[str]
    terms: np.ndarray  # rows of the types' terms

    def macro_f1(self, similarity: np.ndarray) -> float:
        """Every cell gets the best type by ``similarity`` (g, t) of genes and types."""
        weights = gene_weights(similarity)
        scores = self.means @ (self.expression @ weights) - self.expression.mean(axis=0) @ weights
        return self.score(np.asarray(scores))

    def score(self, scores: np.ndarray) -> float:
        said = np.array(self.types)[scores.argmax(axis=1)]
        return float(f1_score(self.truth, said, average="macro", zero_division=0))


def read(path: Path, plain: dict[str, str]) -> Cells:
    texts, adata = load_texts(), anndata.read_h5ad(path)
    truth = np.array([plain.get(label, label) for label in adata.obs["cell_type"].astype(str)])
    types = read_types(sorted(set(truth)))
    expression, genes = read_expression(scstore.open(adata), np.arange(len(truth)), texts, Silent())
    means = neighbour_means(places_of(expression))
    terms = texts.terms.index.get_indexer(types.ids)
    return Cells(adata, expression, genes["vector"].to_numpy(), means, truth, types.labels, terms)


def closed_set(cells: Cells, words: tuple[Any, Any], full: dict[str, np.ndarray] | None) -> dict[str, float]:
    """Macro-F1 where every cell gets one of the types that are there."""
    texts, rng = load_texts(), np.random.default_rng(0)
    similarity = texts.gene_vectors[cells.rows] @ texts.term_vectors[cells.terms].T
    found = {"gene texts": cells.macro_f1(similarity)}
    if full is not None:
        found["full vectors"] = cells.macro_f1(full["genes"][cells.rows] @ full["terms"][cells.terms].T)
    dealt = [cells.macro_f1(similarity[rng.permutation(len(similarity))]) for _ in range(DEALS)]
    found["shuffled vectors"] = float(np.mean(dealt))
    found["TF-IDF of the words"] = cells.macro_f1((words[0][cells.rows] @ words[1][cells.terms].T).toarray())
    found["markers, scanpy"] = markers(cells)
    guesses = [rng.choice(cells.types, len(cells.truth)) for _ in range(DEALS)]
    found["chance"] = float(np.mean([f1_score(cells.truth, one, average="macro", zero_division=0) for one in guesses]))
    return found


def markers(cells: Cells) -> float:
    """Macro-F1 of scanpy's scores of three known markers a type."""
    adata = cells.adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    scores = np.full((adata.n_obs, len(cells.types)), -np.inf)
    for column, label in enumerate(cells.types):
        genes = [gene for gene in MARKERS.get(label, "").split() if gene in adata.var_names]
        if genes:
            sc.tl.score_genes(adata, genes, score_name="score")
            scores[:, column] = adata.obs["score"]
    return cells.score(scores)


def abstaining(cells: Cells) -> dict[str, float]:
    """How many cells get a label, how many of these are right, and how many do with shuffled names of genes."""
    obs = scstore.name(cells.adata.copy(), cells.types, umap=False, progress=Silent()).obs
    stands = (obs["scstore_status"] == "ok").to_numpy()
    right = obs["scstore_label"].astype(str).to_numpy() == cells.truth
    found = {"named": float(stands.mean()), "right": float(right[stands].mean()) if stands.any() else np.nan}
    shares, rng = [], np.random.default_rng(0)
    for _ in range(DEALS):
        adata = cells.adata.copy()
        adata.var = adata.var.iloc[rng.permutation(adata.n_vars)]
        obs = scstore.name(adata, cells.types, umap=False, progress=Silent()).obs
        shares.append(float((obs["scstore_status"] == "ok").mean()))
    return found | {"named, genes shuffled": float(np.mean(shares))}


def types_never_seen(path: Path) -> dict[str, float]:
    """Top-1 of profiles of types that a ridge from profiles to texts was not trained on.

    Each published matrix is left out in turn, with every label near to its own (cosine of the texts at least .75).
    Candidates are the types of the matrix; or the terms near to no label trained on; or all terms.
    """
    profiles, texts = anndata.read_h5ad(path), load_texts()
    labels = profiles.obs["label"].astype(str)
    found = find_terms(labels.unique())
    known = labels.map(found["status"]).eq("ok").to_numpy()
    terms = texts.terms.index.get_indexer(labels.map(found["id"])[known])
    expression = np.asarray(sparse.csr_matrix(profiles.X[known]).todense(), dtype=np.float64)
    expression -= expression.mean(axis=0)
    expression /= np.linalg.norm(expression, axis=1, keepdims=True)
    kernel = expression @ expression.T
    matrix, names, codes = profiles.obs["matrix"].astype(str).to_numpy()[known], *np.unique(terms, return_inverse=True)
    unit = texts.term_vectors[names] / np.linalg.norm(texts.term_vectors[names], axis=1, keepdims=True)
    near = unit @ unit.T >= 0.75
    spaces = {"texts": unit, "random vectors": np.random.default_rng(0).standard_normal(unit.shape)}
    right: dict[str, list[bool]] = {}
    chance: dict[str, list[float]] = {}
    for left_out in np.unique(matrix):
        test = matrix == left_out
        own = np.unique(codes[test])
        train = ~test & ~near[own].any(axis=0)[codes]
        solve = np.linalg.solve(kernel[np.ix_(train, train)] + RIDGE * np.eye(train.sum()), kernel[np.ix_(train, test)])
        unseen = np.flatnonzero(~near[np.unique(codes[train])].any(axis=0))
        for among, candidates in (("its own", own), ("unseen terms", unseen), ("all terms", np.arange(len(names)))):
            chance.setdefault(among, []).extend([1 / len(candidates)] * int(test.sum()))
            for name, vectors in spaces.items():
                placed = solve.T @ (vectors[codes[train]] - vectors[codes[train]].mean(axis=0))
                if among == "its own":  # as differences between the profiles, which name takes too
                    placed -= placed.mean(axis=0)
                texts_of = vectors[candidates] - vectors[candidates].mean(axis=0)
                texts_of /= np.maximum(np.linalg.norm(texts_of, axis=1, keepdims=True), 1e-12)
                best = candidates[(placed @ texts_of.T).argmax(axis=1)]
                right.setdefault(f"{name}, {among}", []).extend((best == codes[test]).tolist())
    shares = {f"chance, {among}": float(np.mean(values)) for among, values in chance.items()}
    return {"n_terms": float(len(names)), **{key: float(np.mean(values)) for key, values in right.items()}, **shares}


def main() -> int:
    made = parser(__doc__.split("\n")[0])
    made.add_argument("cells", type=Path, help="folder of the cells")
    made.add_argument("--genes", type=Path, required=True, help="folder of NCBI's files")
    made.add_argument("--ontology", type=Path, required=True, help="the Cell Ontology")
    made.add_argument("--profiles", type=Path, help="published profiles with label and matrix")
    made.add_argument("--full", type=Path, help="unreduced vectors, which naming_data.py --full wrote")
    options = made.parse_args()
    findings = Findings("benchmarks/naming.py")
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2)
    words = vectorizer.fit_transform(read_genes(options.genes)[1])
    both = words, vectorizer.transform(read_terms(options.ontology)["text"])
    full = None if options.full is None else load_file(options.full)
    closed, kept = {}, {}
    for name, file in list(FILES.items())[: 1 if options.quick else None]:
        cells = read(options.cells / f"{file}.h5ad", PLAIN[name])
        closed[name], kept[name] = closed_set(cells, both, full), abstaining(cells)
    cells = read(options.cells / f"{BRAIN}.h5ad", {})
    brain = abstaining(cells)
    mean = {key: float(np.mean([one[key] for one in closed.values()])) for key in next(iter(closed.values()))}
    rows = [*closed.items(), ("mean", mean)]
    table(["closed set, macro-F1", *mean], [[name, *one.values()] for name, one in rows])
    table(["with abstention", *brain], [[name, *one.values()] for name, one in [*kept.items(), ("brain panel", brain)]])
    findings.figures = {"closed_set": dict(rows), "abstention": kept | {"brain panel": brain}}
    checked = {"check": not options.quick}
    findings.at_least("macro-F1, four human sets", mean["gene texts"], 0.45, **checked)
    findings.at_least("above shuffled vectors", mean["gene texts"] - mean["shuffled vectors"], 0.30, **checked)
    findings.at_least("above TF-IDF of the words", mean["gene texts"] - mean["TF-IDF of the words"], 0.05, **checked)
    findings.at_least("brain panel: abstains", 1 - brain["named"], 0.80)
    shuffled = float(np.mean([one["named, genes shuffled"] for one in [*kept.values(), brain]]))
    findings.at_most("cells with shuffled genes that get a name", shuffled, 0.05)
    if options.profiles is not None:
        unseen = types_never_seen(options.profiles)
        findings.figures["types_never_seen"] = unseen
        among = ("its own", "unseen terms", "all terms")
        rows = [[name, *(unseen[f"{name}, {one}"] for one in among)] for name in ("texts", "random vectors", "chance")]
        table(["types never seen, top-1", *among], rows)
        findings.at_least("types never seen, top-1", unseen["texts, its own"], 0.35)
    return findings.finish(options.json, unchecked="not checked with --quick")


if __name__ == "__main__":
    sys.exit(main())
