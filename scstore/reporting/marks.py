"""What figures and pages share: colours, marks, and names in plain words; nothing is drawn here."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.annotation.annotated_cells import LIGHT_GREY, PALETTE, PREFIX, label_colours
from scstore.annotation.head_inputs import head_features
from scstore.annotation.majority import HETEROGENEOUS
from scstore.annotation.prediction_frames import UNASSIGNED
from scstore.cells.labels import check_column
from scstore.errors import CellsError, DamagedError, FeatureSpaceError, InputError, OptionError, ScstoreError, printable
from scstore.evaluation.design import ACROSS_RANDOM, WORDS, EvaluationRow
from scstore.evaluation.result import Evaluation
from scstore.heads.artifact import AnyHead
from scstore.heads.fusion import FusedHead
from scstore.heads.linear import ExpressionHead
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import iter_blocks
from scstore.progress import Silent
from scstore.store.reader import Store

LABEL = f"{PREFIX}label"
NO_VALUE = "(no value)"
NO_LABELS = (UNASSIGNED, HETEROGENEOUS, NO_VALUE)
EVALUATION = "evaluation.json"
ROW_FIELDS = ("name", "views", "uses", "control", "optional", "seen")
LONGEST = 40  # letters of a name in a figure


class Mark(NamedTuple):
    colour: str
    marker: str  # matplotlib's
    words: str


ROW_KINDS = {
    "model": Mark(PALETTE[0], "o", "with the language model"),
    "gene texts": Mark(PALETTE[2], "s", "gene texts, no model pass"),
    "embedding": Mark(PALETTE[3], "D", "embedding of the file"),
    "expression": Mark(PALETTE[1], "^", "control: expression"),
    "random": Mark(PALETTE[5], "v", "control: random gene vectors"),
    "control": Mark(PALETTE[6], "X", "control: another store"),
}
STATUSES = {"ok": PALETTE[0], "coarse": PALETTE[4], "unsure": PALETTE[1], "far": PALETTE[5], "empty": LIGHT_GREY}
READOUT = re.compile(r"readout_(last|mean|wmean)_l(\d+)")
POOLINGS = {"last": "last token", "mean": "mean", "wmean": "weighted mean"}


class DotRow(NamedTuple):
    """A row of a dot plot: its name, how it is drawn, by metric a value for each fold, and whether it is optimistic."""

    words: str
    mark: Mark
    folds: Mapping[str, Sequence[float]]
    seen: bool = False


class Scores(NamedTuple):
    """The first table of an evaluation: what was done, its conclusion and rows, and the place of the baseline."""

    title: str
    conclusion: str
    rows: list[DotRow]
    baseline: int | None


def read_scores(source: Evaluation | str | os.PathLike[str], metrics: Sequence[str]) -> Scores:
    """Return the first table of an evaluation, or of the folder that it was saved to, with some metrics by name."""
    try:
        found = source.as_json() if isinstance(source, Evaluation) else fsio.read_json(Path(source, EVALUATION))
        regime, rows = found["regimes"][0], []
        for told in regime["rows"]:
            row = EvaluationRow(**{key: told[key] for key in ROW_FIELDS})
            folds = {key: [float(fold[key]) for fold in told["folds"] if fold[key] is not None] for key in metrics}
            of_nothing = "random" if row.name == ACROSS_RANDOM or not set(row.views) <= {"X"} else "expression"
            mark = ROW_KINDS[of_nothing if row.uses == "nothing" else row.uses]
            rows.append(DotRow(row_words(row), mark, folds, seen=bool(row.seen)))
        bases = [one["baseline"] for one in regime["comparisons"] if one["why"] == "no model"]
        at = [at for at, row in enumerate(regime["rows"]) if row["name"] in bases]
        return Scores(str(regime["title"]), str(regime["conclusion"]), rows, at[0] if at else None)
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source}: not a folder that `scstore evaluate -o` wrote ({error!r}).") from error


@contextmanager
def as_annotate_writes(store: Store) -> Iterator[None]:
    """Turn errors of a record of annotation that another program wrote into :class:`DamagedError`."""
    try:
        yield
    except ScstoreError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"its uns/scstore/annotation is not as annotate writes it ({error!r})"
        raise DamagedError(f"{store.path}: {why}. Label the cells again.") from error


def row_words(row: EvaluationRow) -> str:
    """Return what a row reads in plain words; a readout is ``language model (weighted mean, layer 20)``."""
    plain = re.sub(READOUT, lambda m: f"language model ({POOLINGS[m[1]]}, layer {m[2]})", row.words)
    return WORDS.get(plain, plain).removeprefix("the ").removeprefix("a ")


def shown(name: object) -> str:
    """Return a name out of a file as it is drawn: printable, cut where it is very long."""
    text = printable(str(name)).replace("\n", " ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


@dataclass(frozen=True, eq=False)
class Labels:
    """A column of cells: the names that occur, the number of each cell's ``(n,)``, and a colour for each name."""

    names: Sequence[str]
    codes: NDArray[np.int64]
    colours: Sequence[str]

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.bincount(self.codes, minlength=len(self.names))

    @property
    def numbered(self) -> list[str]:
        return [f"{shown(name)} ({n:,})" for name, n in zip(self.names, self.counts, strict=True)]


def labels_of(values: Any, colours: Sequence[str] | None = None) -> Labels:
    """Return a column as labels, ``colours`` by category; cluster 10 stands behind 2, what is no label last."""
    column = pd.Series(values)
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.map(str, na_action="ignore").astype("category")
    every = [str(name) for name in column.cat.categories]
    known = dict(zip(every, label_colours(every) if colours is None else colours, strict=True)) | {NO_VALUE: LIGHT_GREY}
    found = column.cat.codes.to_numpy(dtype=np.int64)
    found[found < 0] = len(every)
    counts = np.bincount(found, minlength=len(every) + 1)
    there = [(name, code) for code, name in enumerate([*every, NO_VALUE]) if counts[code]]
    if every == sorted(every):
        there.sort(key=lambda one: re.sub("[0-9]+", lambda number: number[0].zfill(9), one[0]))
    there.sort(key=lambda one: one[0] in NO_LABELS)
    place = np.zeros(len(every) + 1, dtype=np.int64)
    place[[code for _, code in there]] = np.arange(len(there))
    return Labels([name for name, _ in there], place[found], [known[name] for name, _ in there])


def cross_counts(rows: Labels, columns: Labels) -> NDArray[np.int64]:
    """Return how many cells have each pair of labels, ``(n_rows, n_columns)``."""
    counts = np.zeros((len(rows.names), len(columns.names)), dtype=np.int64)
    np.add.at(counts, (rows.codes, columns.codes), 1)
    return counts


def read_column(store: Store, column: str, *, option: str) -> pd.Series:
    if not store.n_obs:
        raise CellsError(f"{store.path} has no cells.")
    if column == LABEL and column not in store.obs:
        raise OptionError(f"{store.path} has no {LABEL}: label these cells first (scstore.annotate).")
    check_column(store.obs, column, option=option, source=str(store.path))
    return store.obs[column]


def read_labels(store: Store, column: str, *, option: str) -> Labels:
    """Return a column of obs as labels, with the colours that the cells have for it."""
    values, colours = read_column(store, column, option=option), store.uns(f"{column}_colors")
    if isinstance(colours, list | tuple | np.ndarray) and isinstance(values.dtype, pd.CategoricalDtype):
        texts = [str(colour) for colour in colours]
        if len(texts) == len(values.cat.categories) and all(re.fullmatch("#[0-9A-Fa-f]{6}", one) for one in texts):
            return labels_of(values, texts)
    return labels_of(values)


def gene_weights(head: AnyHead) -> pd.DataFrame:
    """Return how much a standard deviation of each gene speaks for each label, ``(labels, genes)``, by symbols."""
    member = head.members_.get(EXPRESSION) if isinstance(head, FusedHead) else None
    if member is None or member.reducer is None or not isinstance(member.head, ExpressionHead):
        raise FeatureSpaceError(f"This {head.kind} head has no weights of genes: fit a linear head on the view X.")
    genes = pd.Index(head.record_["genes"]["symbol"])
    found = pd.DataFrame(member.head.weights(member.reducer.scale), index=head.classes_.astype(str), columns=genes)
    return found.loc[:, ~genes.duplicated()]


def strongest_genes(weights: pd.DataFrame, n_genes: int) -> list[str]:
    """Return the genes that speak most for each label, the strongest first; each gene stands at one label."""
    own = weights.where((weights > 0) & weights.eq(weights.max()))
    return [gene for _, row in own.iterrows() for gene in row.dropna().nlargest(n_genes).index]


def marker_expression(store: Store, head: AnyHead, labels: Labels, n_genes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return shares of each label's cells that express the strongest genes, and means over the highest mean."""
    weights = gene_weights(head)
    assert isinstance(head, FusedHead)  # noqa: S101  # it has weights
    found = head_features(store, head, "the head", Silent(), min_accuracy=0, expression_alone=True)
    genes = pd.Index(head.record_["genes"]["symbol"])
    shares, means = np.zeros((2, len(labels.names), len(genes)))
    for start, block in iter_blocks(found.views[EXPRESSION]):
        of_label = labels.codes[start : start + len(block)] == np.arange(len(labels.names))[:, None]
        shares += of_label @ (block > 0).astype(np.float32)
        means += of_label @ block
    named = [name for name in labels.names if name in weights.index]
    best = strongest_genes(weights.loc[named, genes[found.measured & ~genes.duplicated()]], n_genes)
    at = [list(genes).index(gene) for gene in best]
    share, mean = (pd.DataFrame(part[:, at] / labels.counts[:, None], labels.names, best) for part in (shares, means))
    return share, mean / mean.max().clip(lower=1e-9)
