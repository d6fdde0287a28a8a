"""The features of the scored cells: views of their own stores, and of control stores of the same cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.gene_statistics import ClassSums, top_genes
from scstore.errors import CellsError, FeatureSpaceError, InputError, LabelsError, OptionError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.design import DEFAULT, EvaluationRow, Split, ViewSource
from scstore.evaluation.regression import regression_proba
from scstore.genes.matching import match_columns
from scstore.genes.table import expression_genes
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import Array, MappedRows, Rows, RowSubset, StackedRows, fetch, iter_raw_blocks
from scstore.sealed import differences
from scstore.store.ledger import SEEN_BY_PANEL, SEEN_BY_PROJECTOR
from scstore.store.reader import Store
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.sequences import rank_genes

# Features of up to so many bytes stay in memory between the fits; others are read from disk each time.
CACHE_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class FoldMeans:
    """Means of gene vectors, with a panel of the same size that is fitted on the training cells of each fold.

    A panel that was fitted on labels has seen those of the cells to be tested on. What costs no model is made anew.
    """

    vectors: NDArray[np.float32]  # (n_genes, width), of the columns of X
    n_genes: int  # of the panel
    top_genes: int  # that a cell may keep

    def rows(self, expression: Rows, train: Array, codes: Array) -> Rows:
        """Return the view of all cells, from the genes of largest F between the classes ``codes`` of some of them."""
        sums = ClassSums(int(codes.max()) + 1, expression.shape[1])
        for start, block in iter_raw_blocks(RowSubset(expression, train)):
            sums.add(block, codes[start : start + block.shape[0]])
        f = sums.f_values()
        admitted = np.zeros(expression.shape[1], dtype=bool)
        admitted[top_genes(f if f.any() else sums.variances(), self.n_genes)] = True

        def means(block: Any) -> NDArray[np.float32]:
            ranked = rank_genes(sparse.csr_matrix(block), top_genes=self.top_genes, admitted=admitted)
            return weighted_means(ranked, self.vectors)

        return MappedRows(expression, means, width=self.vectors.shape[1])


@dataclass(frozen=True)
class ControlStores:
    """A counterpart of each of the cells' stores, and the row ``(n,)`` of each cell in it."""

    stores: tuple[Store, ...]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class StoredFeatures:
    """Reads the features that the stores hold."""

    cells: EvaluationCells
    controls: Mapping[str, ControlStores]  # the cells' own by the name ""
    refitted: Mapping[ViewSource, FoldMeans] = field(default_factory=dict)  # views made anew on the cells trained on
    _cache: dict[ViewSource, Rows] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_cache": {}}  # another process reads its own

    @property
    def gene_names(self) -> list[str]:
        """Names of the columns of ``X``: the first store's genes."""
        return [str(name) for name in self.cells.stores[0].expression_genes.index]

    def view(self, source: ViewSource, train: Array | None = None) -> Rows:
        """Return a view of the cells, in memory where small; one that saw labels has genes chosen on ``train``."""
        if train is not None and source in self.refitted:
            expression = self.view(ViewSource(EXPRESSION, source.control))
            return self._kept(self.refitted[source].rows(expression, train, self.cells.codes[train]))
        if source not in self._cache:
            found = self.controls[source.control]
            parts: list[Rows] = []
            for number, store in enumerate(found.stores):
                part: Rows = store.view(source.view)
                if source.view == EXPRESSION and number:
                    part = _aligned(part, store, found.stores[0])
                parts.append(RowSubset(part, found.rows[self.cells.source == number]))
            self._cache[source] = self._kept(parts[0] if len(parts) == 1 else StackedRows(parts))
        return self._cache[source]

    def sides(self, source: ViewSource, split: Split) -> tuple[Rows, Rows]:
        """Return a view of the training cells and of the test cells."""
        rows = self.view(source, split.train)
        return RowSubset(rows, split.train), RowSubset(rows, split.test)

    def own_proba(self, _row: EvaluationRow, split: Split, *, seed: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return classes, and probabilities of the test cells ``(n_test, n_classes)``, by the regression."""
        train, test = (fetch(rows, slice(0, None)) for rows in self.sides(ViewSource(EXPRESSION, ""), split))
        groups = self.cells.groups_of(split.train)
        return regression_proba(train, self.cells.labels[split.train], test, groups=groups, seed=seed)

    def check_space(self, source: ViewSource) -> None:
        """Refuse a view that differs in its feature space between the training store and the test store."""
        first, *others = self.controls[source.control].stores
        for store in others:
            if lines := differences(first.view(source.view).space, store.view(source.view).space):
                listed = "\n  ".join(lines)
                raise FeatureSpaceError(
                    f"{first.path} and {store.path}: the view {source.view} has two feature spaces. They differ in "
                    f"(training store → test store):\n  {listed}\nExtract the test cells with like='{first.path}'."
                )

    def _kept(self, rows: Rows) -> Rows:
        used = sum(_bytes(kept) for kept in self._cache.values() if isinstance(kept, np.ndarray | sparse.spmatrix))
        n = rows.shape[0]
        first = rows[slice(0, 512)]
        expected = _bytes(first) * n / first.shape[0]
        return rows[slice(0, n)] if used + expected <= CACHE_BYTES else rows


def _aligned(rows: Rows, store: Store, reference: Store) -> Rows:
    """Return expression in the columns of another store: genes matched by name, absent ones zero."""
    genes = reference.expression_genes
    match = match_columns(store.expression_genes, genes, min_match=0.3, source=str(store.path))
    return MappedRows(rows, match.align, width=len(genes))


def _bytes(matrix: Any) -> int:
    if sparse.issparse(matrix):
        return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
    return int(matrix.nbytes)


def fold_means(store: Store, view: str) -> FoldMeans | None:
    """Return how a view is made anew; ``None`` where it takes the model, or where expression or genes are lacking."""
    space, record = store.view(view).space, store.record
    if space["view"] != "genept" or "control" in space or record is None:
        return None
    try:
        table, genes = expression_genes(store, purpose=view)
    except FeatureSpaceError:
        return None
    vectors = companion_vectors(table, genes, names=(view,))[view]
    return FoldMeans(vectors, record["panel"]["n_genes"], space.get("top_genes", len(genes)))


def match_control(name: str, stores: Sequence[Store], cells: EvaluationCells) -> ControlStores:
    """Find the cells by their ids in the stores of a control."""
    if len(stores) != len(cells.stores):
        raise OptionError(
            f"controls={name!r}: {len(stores)} store(s) were given for {len(cells.stores)}. With test_store= a control "
            "is two stores: of the training cells, then of the test cells."
        )
    index = np.empty(len(cells), dtype=np.int64)
    for number, store in enumerate(stores):
        here = cells.source == number
        known = pd.Index(store.obs.index.astype(str))
        if not known.is_unique:
            raise CellsError(f"controls={name!r}: {store.path} has repeated cell ids, so its cells cannot be matched.")
        index[here] = known.get_indexer(cells.ids[here].tolist())
        if (absent := index[here] < 0).any():
            raise CellsError(
                f"controls={name!r}: {store.path} lacks {int(absent.sum()):,} of {int(here.sum()):,} cells (first: "
                f"{cells.ids[here][int(np.argmax(absent))]}). A control is a store of the same cells."
            )
        if not store.committed[index[here]].all():
            raise InputError(f"controls={name!r}: {store.path} is not finished. Run its `scstore extract` again.")
    return ControlStores(tuple(stores), index)


def without_seen_labels(
    rows: Sequence[EvaluationRow], features: StoredFeatures
) -> tuple[list[EvaluationRow], StoredFeatures]:
    """Choose the genes of gene vectors again in every fold, and mark the rows that take the model for that.

    Where the default row is among those, a row of its other views goes before it. A projector trained on cells to be
    tested on is a LabelsError.
    """
    seen: set[ViewSource] = set()
    refitted: dict[ViewSource, FoldMeans] = {}
    for source in dict.fromkeys(source for row in rows for source in row.sources):
        store = features.controls[source.control].stores[0]
        space = store.view(source.view).space
        if space.get("projector", {}).get("kind") == "trained" and (n := _n_seen(features, source, SEEN_BY_PROJECTOR)):
            raise LabelsError(
                f"{store.path}: the projector of {source.view} was trained on the labels of {n:,} of "
                f"{int(features.cells.tested.sum()):,} cells to be tested on, so scores would be too good. Test on "
                "other cells (test_store=, test_on=), or name rows without it (views=)."
            )
        if space.get("panel", {}).get("digest") and _n_seen(features, source, SEEN_BY_PANEL):
            if (again := fold_means(store, source.view)) is None:
                seen.add(source)
            else:
                refitted[source] = again
    marked = [replace(row, seen=not seen.isdisjoint(row.sources)) for row in rows]
    for place, row in enumerate(marked):
        rest = tuple(one.view for one in row.sources if one not in seen)
        if row.name == DEFAULT and row.seen and len(rest) > 1 and "+".join(rest) not in [one.name for one in rows]:
            marked.insert(place, EvaluationRow("+".join(rest), rest, "gene texts"))
            break
    return marked, replace(features, refitted=refitted)


def _n_seen(features: StoredFeatures, source: ViewSource, mark: str) -> int:
    """Return how many cells to be tested on have the mark in the stores of a view."""
    cells, of = features.cells, features.controls[source.control]
    return sum(
        int(store.obs[mark].to_numpy(bool)[of.rows[cells.tested & (cells.source == number)]].sum())
        for number, store in enumerate(of.stores)
        if store.record is not None and mark in store.obs
    )
