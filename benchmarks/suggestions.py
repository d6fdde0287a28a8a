"""What ``annotate`` suggests for types that the reference lacks, and for cells that only seem to be of such a type.

    python benchmarks/suggestions.py CELLS --ontology CL-ontology-v2026-03-26.json.zst --profiles PROFILES.h5ad

CELLS is a folder of the labelled files, PROFILES the published profiles with ``label`` and ``matrix``. Of each file one
half, or some donors, or the human cells, is the reference. Each of its labels is left out in turn, and the other cells
are annotated with ``unassigned="both"``. Right is the term of the left-out label, or one step above or below it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
from measuring import Findings, parser, table
from naming import BRAIN, FILES, PLAIN
from scipy import sparse

import scstore
from scstore.labelling import suggest
from scstore.naming.terms import find_terms, load_texts
from scstore.naming.text_scores import _lead, _standard, gene_weights
from scstore.progress import Silent

FEW = 10  # cells of a label in the brain panel that is left out
RIDGE, SHARE = 0.3, 15  # penalty for profiles of length one; weight of the cosine beside scores
SHUFFLES = 200
FAR, SAME = 99, 0  # steps between terms that are of different lines, and of the same term


class Steps:
    """How many steps apart terms of one line are."""

    def __init__(self, ontology: Path) -> None:
        raw = pa.CompressedInputStream(pa.BufferReader(ontology.read_bytes()), "zstd").read()
        self.above = {name: {name: SAME, **(term.get("ancestors") or {})} for name, term in json.loads(raw).items()}

    def between(self, one: str, other: str) -> int:
        return min(self.above[one].get(other, FAR), self.above[other].get(one, FAR))


def references(folder: Path, *, quick: bool) -> Iterator[tuple[str, anndata.AnnData, anndata.AnnData, str | None]]:
    """Yield names, references, other cells, and the column of the reference's groups."""
    for name, file in list({**FILES, "brain panel": BRAIN}.items())[: 1 if quick else None]:
        cells = anndata.read_h5ad(folder / f"{file}.h5ad")
        labels = cells.obs["cell_type"].astype(str)
        cells.obs["cell_type"] = labels.map(PLAIN.get(name, {label: label for label in labels}))
        cells = cells[(labels.map(labels.value_counts()) >= (FEW if file == BRAIN else 1)).to_numpy()].copy()
        half = np.random.default_rng(0).permutation(cells.n_obs) < cells.n_obs // 2
        if name == "pancreas":
            human = (cells.obs["species"] == "human").to_numpy()
            first = cells.obs["donor"].isin(["human1", "human2"]).to_numpy()
            yield "pancreas, other donors", cells[human & first].copy(), cells[human & ~first].copy(), None
            yield "pancreas, mouse", cells[human].copy(), cells[~human].copy(), None
        elif name == "three donors":
            other = (cells.obs["donor"] == "5p").to_numpy()
            yield "blood, other donor", cells[~other].copy(), cells[other].copy(), "donor"
        else:
            yield name, cells[half].copy(), cells[~half].copy(), None


def annotated(cells: anndata.AnnData, head: Any, texts: Any, rule: str | None) -> tuple[pd.DataFrame, Any]:
    """Return obs with suggestions of cells, and the scores behind them."""
    seen: list[Any] = []

    def kept(*given: Any) -> Any:
        seen.append(score_novel(*given))
        return seen[-1]

    score_novel = suggest.score_novel
    with mock.patch.object(suggest, "score_novel", kept), mock.patch.object(suggest, "load_texts", lambda: texts):
        obs = scstore.annotate(cells.copy(), head, unassigned=rule, min_accuracy=0, umap=False, progress=Silent()).obs  # type: ignore[arg-type]
    return obs, seen[-1]


def of_left_out(path: Path, steps: Steps, *, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Return, by kind of vectors and set, counts of each label left out."""
    texts, rng = load_texts(), np.random.default_rng(0)
    kinds = {
        "texts": texts,
        "shuffled genes": replace(texts, gene_vectors=rng.permutation(texts.gene_vectors)),
        "random vectors": replace(texts, term_vectors=rng.standard_normal(texts.term_vectors.shape, dtype=np.float32)),
    }
    ids = np.array(texts.terms.index, dtype=object)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, reference, cells, group in references(path, quick=quick):
        labels = sorted(set(reference.obs["cell_type"]))
        terms = find_terms(labels)["id"]
        for left_out in labels:
            kept = reference[(reference.obs["cell_type"] != left_out).to_numpy()].copy()
            head = scstore.fit(kept, label="cell_type", group=group, progress=Silent())
            mine = (cells.obs["cell_type"] == left_out).to_numpy()
            for kind, rule in [*((kind, "both") for kind in kinds), ("texts, default rule", None)]:
                obs, novel = annotated(cells, head, kinds[kind.split(",")[0]], rule)
                said = obs.get("scstore_suggestion", pd.Series("", index=obs.index)).astype(str).to_numpy()
                named = {text: text[-11:-1] for text in set(said) - {""}}
                apart = np.array([steps.between(named[text], terms[left_out]) if text else FAR for text in said])
                row = {"set": name, "left_out": left_out, "cells": int(mine.sum()), "others": int((~mine).sum())}
                row |= {"novel": 0, "other_novel": 0, "top_1": 0, "top_3": 0}
                if novel is not None:
                    row |= {"novel": int(mine[novel.rows].sum()), "other_novel": int((~mine)[novel.rows].sum())}
                    three = ids[novel.types[novel.scores.order[mine[novel.scored], :3]]]
                    near = [[steps.between(one, terms[left_out]) <= 1 for one in best] for best in three]
                    row |= {"top_1": sum(one[0] for one in near), "top_3": sum(map(any, near))}
                row |= {"named": int((said[mine] != "").sum()), "others_named": int((said[~mine] != "").sum())}
                row |= {"right": int((apart[mine] == SAME).sum()), "near": int((apart[mine] <= 1).sum())}
                found.setdefault(kind, []).append(row)
    return found


def summed(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Shares over cells and, where some cells of a label get a suggestion, means over labels."""
    total = pd.DataFrame(rows).sum(numeric_only=True)
    some = [row for row in rows if row["named"]]
    return {
        "left_out_cells": float(total["cells"]),
        "novel": float(total["novel"]),
        "top_1_near": float(total["top_1"] / max(1, total["novel"])),
        "top_3_near": float(total["top_3"] / max(1, total["novel"])),
        "named": float(total["named"] / max(1, total["novel"])),
        "named_right": float(total["right"] / max(1, total["named"])),
        "named_near": float(total["near"] / max(1, total["named"])),
        "labels_with_suggestions": float(len(some)),
        "named_near_by_label": float(np.mean([row["near"] / row["named"] for row in some])) if some else float("nan"),
        "other_cells": float(total["others"]),
        "other_novel": float(total["other_novel"]),
        "others_named": float(total["others_named"]),
    }


def _best(values: np.ndarray, _kin: np.ndarray) -> np.ndarray:
    return values.max(axis=1)


class Profiles:
    """Published profiles whose label has a term: expression, terms, matrices, and scores of all terms by texts."""

    def __init__(self, path: Path, steps: Steps) -> None:
        profiles, texts = anndata.read_h5ad(path), load_texts()
        labels = profiles.obs["label"].astype(str)
        found = find_terms(labels.unique())
        profiles = profiles[labels.map(found["status"]).eq("ok").to_numpy()]
        self.ids = profiles.obs["label"].astype(str).map(found["id"]).to_numpy()
        self.matrix = profiles.obs["matrix"].astype(str).to_numpy()
        human = texts.genes[texts.genes["organism"] == "human"]
        rows = dict(zip(human["symbol"], human["vector"], strict=True))
        known = np.flatnonzero([name in rows for name in profiles.var_names])
        self.values = sparse.csr_matrix(profiles.X).toarray()[:, known].astype(np.float32)
        variable = np.sort(np.argsort(-self.values.var(axis=0))[: suggest.VARIABLE])
        vectors = texts.gene_vectors[[rows[name] for name in profiles.var_names[known[variable]]]]
        self.candidates = np.flatnonzero(texts.terms["common"])
        weights = gene_weights(vectors @ texts.term_vectors[self.candidates].T)
        self.scores, self.steps, self.texts = np.full((len(self.ids), len(self.candidates)), np.nan), steps, texts
        self.suggested: list[int] = []  # steps between what is suggested and the profile's term
        self.kin = np.array([[steps.between(one, other) < FAR for other in self.names] for one in self.names])
        rng = np.random.default_rng(0)
        values = self.values[:, variable]
        for row, name in enumerate(self.ids):
            others = np.flatnonzero((self.matrix == self.matrix[row]) & (self.ids != name))
            if len(others) >= 3:
                centre = values[others].mean(axis=0)
                likeness = [np.corrcoef(values[row] - centre, values[one] - centre)[0, 1] for one in others]
                above = values[None, row] - (centre + values[None, others[np.argmax(likeness)]]) / 2
                self.scores[row] = _standard(above @ weights, above, weights)
                self._suggest(
                    row,
                    others,
                    above[0, rng.permuted(np.tile(np.arange(len(weights)), (SHUFFLES, 1)), axis=1)],
                    weights,
                )

    @property
    def names(self) -> np.ndarray:
        return np.array(self.texts.terms.index, dtype=object)[self.candidates]

    def free(self, ids: Any) -> np.ndarray:
        """Which candidates are neither one of these terms nor above one."""
        above = {one for text in self.texts.terms.loc[list(ids), "ancestors"] for one in text.split("|")}
        return ~np.isin(self.names, list(above))

    def _suggest(self, row: int, others: np.ndarray, shuffled: np.ndarray, weights: np.ndarray) -> None:
        """Note what is suggested for a profile, with the other types of its matrix as the reference."""
        free = self.free(set(self.ids[others]))
        null = _standard(shuffled @ weights, shuffled, weights)[:, free]
        best, lead = (kind(self.scores[None, row, free], self.kin[np.ix_(free, free)])[0] for kind in (_best, _lead))
        p, lead_p = (
            np.mean(np.append(kind(null, self.kin[np.ix_(free, free)]), np.inf) >= found)
            for kind, found in ((_best, best), (_lead, lead))
        )
        if p <= suggest.MAX_P and lead_p <= suggest.LEAD_P:
            name = self.names[free][self.scores[row, free].argmax()]
            self.suggested.append(self.steps.between(str(name), str(self.ids[row])))

    def with_null(self) -> dict[str, float]:
        """Share of profiles that get a suggestion as by ``annotate``, and how many of these are right."""
        found, n = np.array(self.suggested), int((~np.isnan(self.scores[:, 0])).sum())
        right = {"right": found == SAME, "near": found <= 1, "same line": found < FAR}
        return {
            "profiles": float(n),
            "named": len(found) / n,
            **{key: float(part.mean()) for key, part in right.items()},
        }

    def near(self, n_matrices: int, seed: int) -> dict[str, float]:
        """Share of profiles whose best term is right or near, with a reference of other matrices without its kin."""
        texts, rng = self.texts, np.random.default_rng(seed)
        of_terms = texts.term_vectors / np.linalg.norm(texts.term_vectors, axis=1, keepdims=True)
        spaces = {"ridge": of_terms, "ridge, random vectors": rng.standard_normal(of_terms.shape)}
        rows_of = texts.terms.index.get_indexer(self.ids)
        unit = self.values - self.values.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        kernel, matrices = unit @ unit.T, np.unique(self.matrix)
        right: dict[str, list[bool]] = {"texts": [], "texts and ridge": [], **{kind: [] for kind in spaces}}
        sizes = []
        for row in np.flatnonzero(~np.isnan(self.scores[:, 0])):
            name, others = self.ids[row], matrices[matrices != self.matrix[row]]
            others = rng.choice(others, min(n_matrices, len(others)), replace=False)
            kin = np.array([self.steps.between(name, one) < FAR for one in self.ids])
            train = np.flatnonzero(np.isin(self.matrix, others) & ~kin)
            sizes.append(len(set(self.ids[train])))
            free = self.free(set(self.ids[train]))
            scores = {"texts": np.where(free, self.scores[row], -np.inf)}
            shares = np.linalg.solve(kernel[np.ix_(train, train)] + RIDGE * np.eye(len(train)), kernel[train, row])
            for kind, vectors in spaces.items():
                centre = vectors[rows_of[train]].mean(axis=0)
                placed, of_candidates = shares @ (vectors[rows_of[train]] - centre), vectors[self.candidates] - centre
                cosine = of_candidates @ placed / np.linalg.norm(of_candidates, axis=1) / np.linalg.norm(placed)
                scores[kind] = np.where(free, cosine, -np.inf)
            scores["texts and ridge"] = scores["texts"] + SHARE * scores["ridge"]
            for kind, values in scores.items():
                right[kind].append(self.steps.between(str(self.names[values.argmax()]), str(name)) <= 1)
        return {"labels": float(np.mean(sizes)), **{kind: float(np.mean(values)) for kind, values in right.items()}}


def main() -> int:
    made = parser(__doc__.split("\n")[0])
    made.add_argument("cells", type=Path, help="folder of the cells")
    made.add_argument("--ontology", type=Path, required=True, help="the Cell Ontology")
    made.add_argument("--profiles", type=Path, help="published profiles with label and matrix")
    options = made.parse_args()
    findings, steps = Findings("benchmarks/suggestions.py"), Steps(options.ontology)
    found = of_left_out(options.cells, steps, quick=options.quick)
    sums = {kind: summed(rows) for kind, rows in found.items()}
    names = list(sums["texts"])
    table(["left out in turn", *sums], [[name, *(sums[kind][name] for kind in sums)] for name in names])
    shown = ("set", "left_out", "cells", "novel", "named", "right", "near", "others_named")
    labels = [row for row in found["texts"] if row["novel"]]
    table(shown, [[row[key] for key in shown] for row in labels])
    findings.figures = {"sums": sums, "labels": labels}
    texts = sums["texts"]
    findings.at_least("suggestions right or one step off, cells", texts["named_near"], 0.7, check=not options.quick)
    findings.at_most("other cells with a suggestion", texts["others_named"] / texts["other_cells"], 0.01)
    findings.at_most("novel cells with a suggestion, shuffled genes", sums["shuffled genes"]["named"], 0.05)
    findings.at_most("of these right or one step off, random vectors", sums["random vectors"]["named_near"], 0.05)
    if options.profiles is not None:
        profiles = Profiles(options.profiles, steps)
        rows = [profiles.near(n, seed=0) for n in (2, 6, 1000)]
        table(list(rows[0]), [list(row.values()) for row in rows])
        alone = profiles.with_null()
        table(list(alone), [list(alone.values())])
        findings.figures["profiles"] = {"open": rows, "with_null": alone}
    return findings.finish(options.json, unchecked="not checked with --quick")


if __name__ == "__main__":
    sys.exit(main())
