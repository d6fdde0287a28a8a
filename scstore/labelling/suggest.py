"""What cells that are unlike every label look like, by texts alone: a suggestion, never a label."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scstore.annotation.predict import Labelling
from scstore.annotation.prediction_frames import BLOCK, UNASSIGNED
from scstore.errors import GenesError
from scstore.naming.terms import Texts, find_terms, load_texts
from scstore.naming.text_scores import Scores, gene_weights, neighbour_means, read_expression, score, variable_genes
from scstore.progress import Silent

FEWEST = 5  # novel cells, and cells with one suggestion
MOST = 1000  # novel cells that are scored, and cells that they are compared with
MOST_BLOCKS = 3  # of cells in which novel ones lie, and of all, that are read: it takes about as long as to label these
NULL_CELLS = 25  # whose genes are shuffled
MAX_P, LEAD_P = 0.01, 0.05  # of the score, and of its lead over terms that are not of one line with it
KNOWN = 0.5  # share of the labels whose terms are known, at least

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NovelCells:
    """Rows of unassigned cells far from their best label, those that are ``scored``, and rows of the terms."""

    rows: Rows
    scored: Rows
    types: Rows
    scores: Scores


def with_suggestions(table: pd.DataFrame, labelling: Labelling, space: NDArray[np.float32] | None) -> pd.DataFrame:
    """Add ``suggestion``, a term of the Cell Ontology, to a table of all cells at places in ``space`` ``(n, k)``.

    It is empty but for ``unassigned`` cells far from their best label; there is none where nothing is suggested.
    """
    import faiss

    novel = None if space is None else score_novel(table, labelling, space)
    if novel is None or space is None:
        return table
    stands = (novel.scores.p <= MAX_P) & (novel.scores.lead_p <= LEAD_P)
    terms = load_texts().terms.iloc[novel.types[novel.scores.order[:, 0]]]
    words = np.where(stands, [f"{name} ({found})" for found, name in terms["name"].items()], "").astype(object)
    of_each = words[faiss.knn(space[novel.rows], space[novel.scored], 1)[1][:, 0]]
    counts = Counter(of_each)
    suggestion = np.full(len(table), "", dtype=object)
    suggestion[novel.rows] = [one if counts[one] >= FEWEST else "" for one in of_each]
    return table.assign(suggestion=suggestion) if (suggestion != "").any() else table


def score_novel(table: pd.DataFrame, labelling: Labelling, space: NDArray[np.float32]) -> NovelCells | None:
    """Score terms for the novel cells, averaged with their nearest; None where there are few, or nothing is known."""
    rejection, texts = labelling.head.rejection_, load_texts()
    if rejection is None or "X" not in labelling.store.views:
        return None
    far = table["novelty"].to_numpy() > rejection.thresholds("both", labelling.options.keep).novelty
    rows = np.flatnonzero(far & (table["label"] == UNASSIGNED).to_numpy())
    types = candidates([str(one) for one in labelling.head.classes_], texts) if len(rows) >= FEWEST else rows[:0]
    if not len(types):
        return None
    both = rows, np.flatnonzero(table["status"] != "empty")
    blocks = np.concatenate([_evenly(np.unique(part // BLOCK), MOST_BLOCKS) for part in both])
    scored, others = (_evenly(part[np.isin(part // BLOCK, blocks)], MOST) for part in both)
    drawn, best = np.union1d(scored, others), table["best_label"].to_numpy(dtype=str)
    try:
        of_store = np.flatnonzero(labelling.store.committed)[drawn]
        expression, genes = read_expression(labelling.store, of_store, texts, Silent())
    except GenesError:  # of neither human nor mouse
        return None
    known = expression[np.searchsorted(drawn, others)]
    variable = variable_genes(known)
    expression, known = expression[:, variable], known[:, variable]
    centre = np.asarray(known.mean(axis=0)).ravel()
    # half above all cells, half above those of the best label that are not novel
    labels, codes = np.unique(best[scored], return_inverse=True)
    members = [np.flatnonzero((best[others] == label) & ~np.isin(others, rows)) for label in labels]
    own = [np.asarray(known[part].mean(axis=0)).ravel() if len(part) >= FEWEST else centre for part in members]
    less = sparse.csr_matrix((np.full(len(scored), -0.5, np.float32), codes, np.arange(len(scored) + 1)))
    lines = [text.split("|") for text in texts.terms["ancestors"].iloc[types]]
    below = np.array([texts.terms.index[types].isin(line) for line in lines])
    scores = score(
        sparse.vstack([expression[np.searchsorted(drawn, scored)], np.stack(own, dtype=np.float32)], format="csr"),
        sparse.hstack([neighbour_means(space[scored]), less], format="csr"),
        gene_weights(texts.gene_vectors[genes["vector"].to_numpy()[variable]] @ texts.term_vectors[types].T),
        centre=(centre / 2).astype(np.float32),
        kin=below | below.T,
        sample=NULL_CELLS,
    )
    return NovelCells(rows, scored, types, scores)


def candidates(labels: Sequence[str], texts: Texts) -> Rows:
    """Return the rows of common terms that are no label, nor above one; none where few labels are known."""
    found = find_terms(labels)
    own = found.loc[found["status"] == "ok", "id"]
    if len(own) < KNOWN * len(found):
        return np.empty(0, dtype=np.int64)
    known = {name for text in texts.terms.loc[own, "ancestors"] for name in text.split("|")}
    return np.flatnonzero(texts.terms["common"] & ~texts.terms.index.isin(known))


def _evenly(rows: Rows, most: int) -> Rows:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))]
