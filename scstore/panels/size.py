"""How many genes a panel needs: an inner cross-validation in which everything is fitted inside the fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score

from scstore.errors import LabelsError
from scstore.evaluation.splits import group_folds, k_folds
from scstore.heads.folds import stratified_sample
from scstore.heads.linear import LinearHead
from scstore.panels.gene_rankings import rank_scores, take_in_turn
from scstore.panels.gene_scores import Design, LabelScore, design_labels
from scstore.panels.joined_genes import JoinedGenes
from scstore.progress import Reporter

__all__ = ["MAX_CELLS", "SIZES", "Sample", "SizeChoice", "choose_size", "draw_cells"]

SIZES = (25, 50, 100, 200, 400, 800)
"""Numbers of genes that are tried."""

MAX_CELLS = 5_000
"""Cells of all inputs together that the sizes are tried on."""

N_FOLDS = 5

Column = Sequence[str | None]


@dataclass(frozen=True, eq=False)
class Sample:
    """Some labelled cells of an input.

    Attributes
    ----------
    number
        Of the input.
    rows
        ``(n, n_input_genes)`` log-normalised expression.
    labels
        For each column ``(n,)`` labels, ``None`` where a cell has none.
    groups
        ``(n,)``, or ``None``.
    """

    number: int
    rows: csr_matrix
    labels: Mapping[str, Column]
    groups: Column | None


@dataclass(frozen=True)
class SizeChoice:
    """What the sizes scored.

    Attributes
    ----------
    size
        The smallest within one standard error of the best.
    n_cells, n_folds
        What they were tried on.
    table
        One row a size: ``n_genes``, ``macro_f1``, ``standard_error``.
    """

    size: int
    n_cells: int
    n_folds: int
    table: tuple[Mapping[str, float], ...]

    def lines(self) -> list[str]:
        """A table to print."""
        rows = [
            f"  {row['n_genes']:>4}  {row['macro_f1']:.3f} ± {row['standard_error']:.3f}"
            f"{'  chosen' if row['n_genes'] == self.size else ''}"
            for row in self.table
        ]
        return [f"genes  macro-F1 of {self.n_folds} inner folds ({self.n_cells:,} cells)", *rows]

    def as_json(self) -> dict[str, Any]:
        """For the panel's record."""
        return {
            "rule": "smallest size within one standard error of the best",
            "chosen": self.size,
            "n_cells": self.n_cells,
            "n_folds": self.n_folds,
            "table": [dict(row) for row in self.table],
        }


def draw_cells(
    designs: Mapping[str, Design], groups: Column | None, labels: Mapping[str, Column], *, size: int, seed: int
) -> NDArray[np.int64]:
    """Draw labelled cells of an input, each combination of its labels and group by its share; sorted row numbers."""
    seen = np.flatnonzero(np.any([design.seen for design in designs.values()], axis=0))
    columns = [*labels.values(), *([] if groups is None else [groups])]
    kinds: dict[tuple[str | None, ...], int] = {}
    codes = np.array([kinds.setdefault(tuple(column[row] for column in columns), len(kinds)) for row in seen.tolist()])
    if len(seen) <= size:
        return seen.astype(np.int64)
    return seen[stratified_sample(codes, size=size, rng=np.random.default_rng(seed))].astype(np.int64)


def choose_size(
    samples: Sequence[Sample],
    genes: JoinedGenes,
    *,
    admitted: NDArray[np.bool_],
    n_available: int,
    seed: int,
    progress: Reporter,
) -> SizeChoice:
    """Try the sizes and take the smallest whose macro-F1 is within one standard error of the best [1]_.

    In each fold the panel is fitted on the training cells alone; the features are the log-normalised expression of its
    genes, scaled to length 1 a cell: a stand-in for a model's readout that costs nothing. A linear head learns each
    label column of each input from the training cells; the score is the mean macro-F1 over columns and inputs on the
    cells held out. With groups, whole groups are held out.

    Parameters
    ----------
    samples
        Labelled cells of each input.
    genes
        The inputs' genes.
    admitted
        ``(n_genes,)``: which of them may enter.
    n_available
        Genes that can be ranked on all cells: no size is larger.
    seed
        Of the folds.
    progress
        Told how far it is.

    Raises
    ------
    LabelsError
        If there are too few labelled cells for two folds.

    References
    ----------
    .. [1] L. Breiman et al., Classification and Regression Trees (1984), section 3.4.3.
    """
    folds = [_folds(sample, seed=seed, progress=progress) for sample in samples]
    n_folds = min(map(len, folds))
    names = list(genes.obs.index)
    prepared = []
    for fold in range(n_folds):
        trains = [own[fold][0] for own in folds]
        if len(order := _order(samples, trains, genes, names, admitted)):
            prepared.append((fold, order))
    if len(prepared) < 2:
        msg = "-n auto: too few labelled cells to hold some out (two folds with two labels each). Give a number."
        raise LabelsError(msg)
    reach = min([n_available, *(len(order) for _, order in prepared)])
    sizes = [size for size in SIZES if size <= reach] or [reach]
    scores = []
    with progress.track("trying sizes", len(prepared) * len(sizes), "panels") as track:
        for fold, order in prepared:
            features = [_features(sample, genes, order[: sizes[-1]]) for sample in samples]
            parts = [own[fold] for own in folds]
            of_fold = []
            for size in sizes:
                of_fold.append(_score(samples, features, parts, size=size, seed=seed))
                track.advance()
            scores.append(of_fold)
    table = np.array(scores)
    table = table[~np.isnan(table).any(axis=1)]
    if len(table) < 2:
        msg = "-n auto: no two folds have cells of known labels to score. Give a number."
        raise LabelsError(msg)
    mean, error = table.mean(axis=0), table.std(axis=0, ddof=1) / np.sqrt(len(table))
    best = int(mean.argmax())
    chosen = int(np.argmax(mean >= mean[best] - error[best]))
    return SizeChoice(
        size=sizes[chosen],
        n_cells=sum(sample.rows.shape[0] for sample in samples),
        n_folds=len(table),
        table=tuple(
            {"n_genes": size, "macro_f1": round(float(m), 4), "standard_error": round(float(e), 4)}
            for size, m, e in zip(sizes, mean, error, strict=True)
        ),
    )


def _folds(sample: Sample, *, seed: int, progress: Reporter) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to train on and rows held out, fold by fold."""
    columns = list(sample.labels.values())
    _, codes = np.unique(
        ["\0".join(str(value) for value in row) for row in zip(*columns, strict=True)], return_inverse=True
    )
    if sample.groups is not None:
        names, groups = np.unique([str(group) for group in sample.groups], return_inverse=True)
        if len(names) > 1:
            splits = group_folds(codes, groups, names=list(names), n_folds=N_FOLDS, run=0, seed=seed)
            return [(split.train, split.test) for split in splits]
        progress.note(f"-n auto: all labelled cells are of one group ({names[0]}), so cells are held out, not groups")
    return [(split.train, split.test) for split in k_folds(codes, n_folds=N_FOLDS, run=0, seed=seed)]


def _order(
    samples: Sequence[Sample],
    trains: Sequence[NDArray[np.int64]],
    genes: JoinedGenes,
    names: Sequence[str],
    admitted: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Genes by their rank in panels fitted on the training rows; none where no labels can be compared there."""
    ranks = []
    for sample, train in zip(samples, trains, strict=True):
        groups = None if sample.groups is None else [sample.groups[row] for row in train]
        rows = sample.rows[train]
        for label, column in sample.labels.items():
            try:
                own = design_labels([column[row] for row in train], groups, label=label, source="")
            except LabelsError:  # the fold's training side has too few; the others have their say
                continue
            score = LabelScore(own, rows.shape[1])
            score.add(0, rows)
            ranks.append(rank_scores(genes.spread(score.values(), sample.number), names, admitted=admitted))
    return take_in_turn(np.array(ranks), names) if ranks else np.zeros(0, dtype=np.int64)


def _features(sample: Sample, genes: JoinedGenes, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Expression ``(n, n_chosen)`` of chosen genes; zeros where the input does not measure one."""
    place = np.full(len(genes), -1)
    place[chosen] = np.arange(len(chosen))
    rows = genes.rows[sample.number]
    target = np.where(rows >= 0, place[rows], -1)
    columns = np.flatnonzero(target >= 0)
    result = np.zeros((sample.rows.shape[0], len(chosen)), dtype=np.float32)
    result[:, target[columns]] = sample.rows[:, columns].toarray()
    return result


def _score(
    samples: Sequence[Sample],
    features: Sequence[NDArray[np.float32]],
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    size: int,
    seed: int,
) -> float:
    """Mean macro-F1 over inputs and label columns; NaN where none can be scored in this fold."""
    found = []
    for sample, values, (train, test) in zip(samples, features, parts, strict=True):
        scaled = values[:, :size]
        scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), np.float32(1e-9))
        for column in sample.labels.values():
            labels = np.array([value or "" for value in column], dtype=object)
            known = np.array([value is not None for value in column])
            inside, outside = test[known[test]], train[known[train]]
            if not len(inside) or len(set(labels[outside])) < 2:
                continue
            head = LinearHead(random_state=seed).fit(scaled[outside], labels[outside])
            truth = labels[inside]
            found.append(
                f1_score(
                    truth, head.predict(scaled[inside]), labels=sorted(set(truth)), average="macro", zero_division=0
                )
            )
    return float(np.mean(found)) if found else float("nan")
