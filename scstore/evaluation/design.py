"""The design of an evaluation: the rows of its table, and which cells are trained on and which are tested on."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from scstore.errors import OptionError
from scstore.evaluation.cells import EvaluationCells
from scstore.heads.across_genes import KIND
from scstore.heads.class_numbers import stratified_folds
from scstore.heads.rows import Array
from scstore.store.reader import Store
from scstore.store.views import PICTURES

DEFAULT, REGRESSION = "default", "regression"
ACROSS_RANDOM = f"{KIND}_random"  # the across-genes head with random gene vectors
KINDS = MODEL, EMBEDDING, GENE_TEXTS, RANDOM, EXPRESSION = (
    "model", "embedding", "gene texts", "random vectors", "expression",
)  # fmt: skip
WORDS = {
    "genept": "GenePT-w",
    "genept_random": "random vectors",
    "genept_w": "GenePT-w as published",
    "genept_s": "GenePT-s",
    "X": "expression",
    DEFAULT: "the default head",
    REGRESSION: "a logistic regression on expression",
    KIND: "the across-genes head",
    ACROSS_RANDOM: "the across-genes head with random vectors",
}


class ViewSource(NamedTuple):
    view: str
    control: str


@dataclass(frozen=True)
class EvaluationRow:
    name: str  # as in the table and in views=
    views: tuple[str, ...]  # none for methods that choose their expression themselves: regression, across-genes
    # a model (readout), an embedding (of a file), gene texts (described genes, no readout), nothing, or a control
    uses: str
    control: str = ""  # name of the control's store
    optional: tuple[str, ...] = ()  # views that have to earn their place on held-out training cells, as in `fit`
    seen: bool = False  # its genes were chosen with labels of cells to be tested on: no part of the conclusion

    @property
    def marked(self) -> str:
        """The name; ``- `` before rows that use neither the model nor gene texts, `` *`` behind optimistic ones."""
        return f"{'- ' if self.uses in ('nothing', 'control') else ''}{self.name}{' *' if self.seen else ''}"

    @property
    def sources(self) -> tuple[ViewSource, ...]:
        """Where its views come from; expression is the cells' own, also for a control."""
        return tuple(ViewSource(view, "" if view == "X" else self.control) for view in self.views)

    def reads(self, uses: str) -> tuple[str, ...]:
        """Return its views of a model, or of whatever else it uses."""
        of_model = tuple(view for view in self.views if view.startswith("readout"))
        return of_model if uses == "model" else tuple(view for view in self.views if view != "X")

    @property
    def words(self) -> str:
        named = " + ".join(WORDS.get(view, view) for view in self.views)
        if not self.views or self.optional:
            named = WORDS[self.name.removeprefix(f"{self.control}: ")]
        return f"{named} of {self.control}" if self.control else named


def kind_of_view(store: Store, view: str) -> str:
    if view == "X":
        return EXPRESSION
    space = store.view(view).space
    if "source" in space:
        return EMBEDDING
    if space["view"] != "genept":
        return MODEL
    return RANDOM if space["vectors"] == "random" else GENE_TEXTS


def choose_rows(
    store: Store, *, views: Sequence[str] | None, controls: Mapping[str, Sequence[Store]]
) -> list[EvaluationRow]:
    """Return the rows that ``views`` names, else each view, the default and the regression; then the controls."""
    if views is None:
        wanted = _default_names(store)
        if "X" in store.views and REGRESSION not in store.views:
            wanted.append((REGRESSION,))
    else:
        wanted = [tuple(part.strip() for part in text.split("+")) for text in views]
    rows = [_row(store, names) for names in wanted]
    gated = any(row.optional for row in rows)
    for name, counterparts in controls.items():
        other = counterparts[0]
        together = tuple(view for view in other.default_views if view != "X" or "X" in store.views)
        alone = [other.default_view]
        if ((other.record or {}).get("control") or {}).get("kind") == "renamed":  # each readout has its own control
            alone += [row.name for row in rows if row.uses == MODEL and len(row.views) == 1 and row.name in other.views]
        rows += [EvaluationRow(f"{name}: {view}", (view,), "control", control=name) for view in dict.fromkeys(alone)]
        if optional := _optional(together) if gated else ():
            rows.append(EvaluationRow(f"{name}: {DEFAULT}", together, "control", control=name, optional=optional))
        elif together != (other.default_view,):
            rows.append(EvaluationRow(f"{name}: {'+'.join(together)}", together, "control", control=name))
    named = [row.name for row in rows]
    if repeated := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
        raise OptionError(f"views='{repeated[0]}': this row is named twice. Name each row once.")
    return rows


def _default_names(store: Store) -> list[tuple[str, ...]]:
    """Return rows that use the model first, then those with gene texts, then those with neither."""
    kinds = {view: kind_of_view(store, view) for view in store.views}
    alone: list[tuple[str, ...]] = [(view,) for view in sorted(kinds, key=lambda view: KINDS.index(kinds[view]))]
    if store.record is None:
        return [names for names in alone if not PICTURES.search(names[0])] or alone
    by_kind = {kind: view for view, kind in kinds.items()}
    n_model = sum(kind in (MODEL, GENE_TEXTS) for kind in kinds.values())
    default = [(DEFAULT,)] if len(store.default_views) > 1 else []
    wanted = [*alone[:n_model], *default, *alone[n_model:]]
    if RANDOM in by_kind and EXPRESSION in by_kind:
        wanted.append((by_kind[RANDOM], by_kind[EXPRESSION]))
    return list(dict.fromkeys(wanted))


def _optional(views: Sequence[str]) -> tuple[str, ...]:
    """Return the default views that `fit` keeps only where they earn their place: all beside expression."""
    return tuple(view for view in views if view != "X") if "X" in views else ()


def _row(store: Store, names: Sequence[str]) -> EvaluationRow:
    if tuple(names) == (REGRESSION,) and REGRESSION not in store.views:
        store.view("X")  # refuses a store without expression
        return EvaluationRow(REGRESSION, (), "nothing")
    is_default = tuple(names) == (DEFAULT,) and store.record is not None
    resolved = store.default_views if is_default else tuple(store.view(name).name for name in names)
    if len(set(resolved)) < len(resolved):
        raise OptionError(f"views='{'+'.join(names)}': name each view of a row once.")
    kinds = {kind_of_view(store, view) for view in resolved}
    uses = next((kind for kind in (MODEL, EMBEDDING, GENE_TEXTS) if kind in kinds), "nothing")
    if is_default:
        return EvaluationRow(DEFAULT, resolved, uses, optional=_optional(resolved))
    return EvaluationRow("+".join(resolved), resolved, uses)


@dataclass(frozen=True)
class Split:
    """Sorted row numbers of cells to train on and of cells to test on."""

    run: int  # splits of one run test each cell at most once
    fold: str  # its name within the run
    train: Array
    test: Array


@dataclass(frozen=True)
class Design:
    """The splits of an evaluation, and a description of them for its title."""

    splits: tuple[Split, ...]
    words: str

    @property
    def n_runs(self) -> int:
        return 1 + max(split.run for split in self.splits)


def named_sides(cells: EvaluationCells, train_on: Sequence[str], test_on: Sequence[str]) -> Design:
    tested = cells.tested
    split = Split(0, "test", np.flatnonzero(~tested), np.flatnonzero(tested))
    names = [store.path.name for store in cells.stores]
    first = " and ".join([*names[:1], *train_on] if len(names) > 1 else train_on) or "the rest"
    second = " and ".join([*names[1:], *test_on]) or "the rest"
    return Design((split,), f"trained on {first} ({len(split.train):,} cells), tested on {second}")


def cross_validation(cells: EvaluationCells, *, group: str | None, folds: int, repeats: int, seed: int) -> Design:
    """Return stratified folds, or folds of whole groups where the cells have groups."""
    again = "" if repeats == 1 else f", {repeats} times"
    runs = range(repeats)
    if cells.groups is None:
        splits = [split for run in runs for split in k_folds(cells.codes, n_folds=folds, run=run, seed=seed)]
        return Design(tuple(splits), f"stratified {folds}-fold cross-validation{again}, mean ± sd over folds")
    n_groups = len(np.unique(cells.groups))
    words = f"{folds} folds of whole groups ({n_groups} of {group}){again}, mean ± sd over folds"
    if n_groups <= folds:
        runs = range(1)  # there is one way to leave out one group at a time
        words = f"leaving out one {group} at a time ({n_groups}), mean ± sd over folds"
    dealt = [group_folds(cells.codes, cells.groups, n_folds=folds, run=run, seed=seed) for run in runs]
    return Design(tuple(split for splits in dealt for split in splits), words)


def k_folds(codes: Array, *, n_folds: int, run: int, seed: int) -> list[Split]:
    """Return stratified folds of cells with class numbers ``(n,)``; every training side has every class."""
    folds = stratified_folds(codes, n_folds=n_folds, rng=np.random.default_rng([seed, run]))
    every = np.arange(len(codes))
    return [Split(run, str(i), np.setdiff1d(every, fold), fold) for i, fold in enumerate(folds)]


def group_folds(codes: Array, groups: Array, *, n_folds: int, run: int, seed: int) -> list[Split]:
    """Return folds of whole groups: each alone where there are at most ``n_folds``, else stratified."""
    present = np.unique(groups)
    if len(present) < 2:
        raise OptionError(f"All cells belong to one group ({present[0]}): none is held out. Leave out group=.")
    every = np.arange(len(codes))
    if len(present) <= n_folds:
        alone = [(str(group), np.flatnonzero(groups == group)) for group in present]
        return [Split(run, name, np.setdiff1d(every, test), test) for name, test in alone]
    shuffle = int(np.random.default_rng([seed, run]).integers(2**31))
    largest = int(np.bincount(codes).max())
    classes = codes if largest > 1 else np.zeros_like(codes)  # classes of one cell cannot be spread
    n_folds = min(n_folds, max(2, largest)) if largest > 1 else n_folds
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=shuffle)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # then it is in some folds only
        parts = list(folds.split(every, classes, groups))
    return [Split(run, str(i), train, test) for i, (train, test) in enumerate(parts) if len(test)]


def draw_few(split: Split, codes: Array, *, n_cells: int, run: int, seed: int) -> Split:
    """Return the split with ``n_cells`` training cells of every class, or all, by seed, run and fold."""
    rng = np.random.default_rng([seed, run, *split.fold.encode()])
    labels = codes[split.train]
    drawn = [rng.permutation(split.train[labels == code])[:n_cells] for code in np.unique(labels)]
    return Split(run, split.fold, np.sort(np.concatenate(drawn)), split.test)
