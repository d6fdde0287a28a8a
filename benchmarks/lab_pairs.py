"""Real training and test sides for transfer between donors, assays, species, tissues and laboratories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from scstore.cells.expression import find_expression, lognorm_rows
from scstore.cells.opening import open_cells

LABEL = "cell_type"
CELLS, FEWEST = 400, 5
"""Cells a side at most, and training cells of a label at least."""
BLOOD, SORTED, NODE, PANCREAS = "pbmc_3donors", "pbmc_sorted", "lymph_node_human", "pancreas_human_mouse"
COMMON = {
    SORTED: {
        "nk": "NK",
        "bcells": "B",
        "memoryt": "T_CD4",
        "thelper": "T_CD4",
        "regulatoryt": "T_CD4",
        "naivet": "T_CD4",
        "cytotoxict": "T_CD8",
        "naivecytotoxic": "T_CD8",
        "monocytes": "Monocytes",
    },
    BLOOD: {"Mono_CD14": "Monocytes", "Mono_CD16": "Monocytes"},
    NODE: {},
}
"""Names that the labels of different files are brought to; a label that is not here keeps its name."""
DONORS = ("3pv1", "3pv2", "5p")


@dataclass(frozen=True)
class Side:
    """Cells of a file whose ``column`` is one of ``values``; all without a column."""

    file: str
    column: str = ""
    values: tuple[str, ...] = ()
    common: bool = False
    """Whether labels are brought to common names."""


@dataclass(frozen=True)
class Pair:
    """A training side and a test side."""

    name: str
    train: Side
    test: Side


def _pairs() -> list[Pair]:
    donor = {name: Side(BLOOD, "donor", (name,)) for name in DONORS}
    found = [
        Pair(f"blood, donor {name} left out", Side(BLOOD, "donor", tuple(d for d in DONORS if d != name)), donor[name])
        for name in DONORS
    ]
    species = {name: Side(PANCREAS, "species", (name,)) for name in ("human", "mouse")}
    found += [Pair(f"pancreas, {a} to {b}", species[a], species[b]) for a in species for b in species if a != b]
    found += [Pair(f"blood, {a} to {b}", donor[a], donor[b]) for a in DONORS for b in DONORS if a != b]
    files = {"sorted blood": SORTED, "blood": BLOOD, "lymph node": NODE}
    found += [
        Pair(f"{a} to {b}", Side(files[a], common=True), Side(files[b], common=True))
        for a in files
        for b in files
        if a != b
    ]
    halves = (("human1", "human2"), ("human3", "human4"))
    people = [Side(PANCREAS, "donor", half) for half in halves]
    return [
        *found,
        Pair("pancreas, donors 1, 2 to 3, 4", people[0], people[1]),
        Pair("pancreas, donors 3, 4 to 1, 2", people[1], people[0]),
    ]


PAIRS = _pairs()


@dataclass(frozen=True)
class File:
    """Log-normalised expression of a file, ``(n, genes)``, its genes and its ``obs``."""

    expression: sparse.csr_matrix
    genes: np.ndarray
    obs: pd.DataFrame


@cache
def read(path: Path) -> File:
    """All cells of a file, as scstore reads them."""
    with open_cells(path) as cells:
        slot = find_expression(cells)
        blocks = [block for _, block in lognorm_rows(cells, slot)]
        return File(sparse.vstack(blocks, format="csr"), cells.var(slot.slot).index.to_numpy(dtype=str), cells.obs)


@dataclass(frozen=True)
class Cut:
    """Up to 400 cells a side, on the genes that both files have.

    Attributes
    ----------
    train, test
        ``(n, genes) float32`` expression.
    labels, truth
        Their labels, text. A label of the test side that the training side has not is left out.
    genes
        Names of the columns.
    groups
        Donors of the training cells; None where they are not known or of one donor.
    rows
        Rows of both sides in their files.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    genes: list[str]
    groups: np.ndarray | None
    rows: tuple[np.ndarray, np.ndarray]


def cut(folder: Path, pair: Pair, seed: int, *, cells: int = CELLS) -> Cut:
    """Draw cells of both sides; of a side with fewer, nine tenths where it is not the first draw."""
    rng = np.random.default_rng(seed)
    drawn = [_draw(folder, side, rng, seed, cells) for side in (pair.train, pair.test)]
    (train, train_rows, labels), (test, test_rows, truth) = drawn
    names, counts = np.unique(labels, return_counts=True)
    kept = np.isin(labels, names[counts >= FEWEST])
    train_rows, labels = train_rows[kept], labels[kept]
    known = np.isin(truth, labels)
    test_rows, truth = test_rows[known], truth[known]
    genes = np.intersect1d(train.genes, test.genes)
    sides = [
        file.expression[rows][:, pd.Index(file.genes).get_indexer(genes)].toarray()
        for file, rows in ((train, train_rows), (test, test_rows))
    ]
    groups = train.obs["donor"].astype(str).to_numpy()[train_rows] if "donor" in train.obs else None
    groups = None if groups is None or len(set(groups)) < 2 else groups
    return Cut(pair.name, *sides, labels, truth, genes.tolist(), groups, (train_rows, test_rows))


def _draw(
    folder: Path, side: Side, rng: np.random.Generator, seed: int, cells: int
) -> tuple[File, np.ndarray, np.ndarray]:
    file = read(folder / f"{side.file}.h5ad")
    rows = np.arange(len(file.obs))
    if side.column:
        rows = np.flatnonzero(file.obs[side.column].astype(str).isin(side.values))
    if len(rows) > cells:
        rows = np.sort(rng.choice(rows, cells, replace=False))
    elif seed:
        rows = np.sort(rng.choice(rows, int(0.9 * len(rows)), replace=False))
    labels = file.obs[LABEL].astype(str).to_numpy()[rows]
    if side.common:
        labels = np.array([COMMON[side.file].get(name, name) for name in labels])
    return file, rows, labels


def few(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of at most ``n`` cells of each label."""
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == one))[:n] for one in np.unique(labels)]))


def mean_over(values: Sequence[Sequence[float]]) -> list[float]:
    """Mean of each column, over the rows that have a number there; NaN where none has."""
    columns = np.array(values, dtype=float).T
    return [np.nan if np.isnan(one).all() else float(one[~np.isnan(one)].mean()) for one in columns]
