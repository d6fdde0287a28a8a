"""The head that a user gets: one head per view, fused and calibrated."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from scstore.errors import FeatureSpaceError, GenesError, OptionError
from scstore.heads import PRIOR_ADJUSTMENT
from scstore.heads.base import JSON, DescribedHead, RowClassifier, State, check_choice, check_positive, loading, require
from scstore.heads.calibration import Fusion, earning_members, fit_fusion
from scstore.heads.class_numbers import encode_groups, encode_labels, held_out_folds
from scstore.heads.hierarchy import Hierarchy
from scstore.heads.knn import KNNHead
from scstore.heads.linear import ExpressionHead, LinearHead
from scstore.heads.missing_genes import (
    MissingCase,
    MissingGenes,
    gene_importance,
    hold_out,
    share_known,
)
from scstore.heads.mlp import MLPHead
from scstore.heads.preprocessing import (
    EXPRESSION,
    ExpressionReducer,
    GeneEstimate,
    Member,
    Views,
    columns_of,
    selected_genes,
)
from scstore.heads.rejection import Rejection, fit_rejection
from scstore.heads.rows import Array, Rows, as_rows, count_cells, read
from scstore.heads.scores import held_out_scores
from scstore.options import did_you_mean

HEADS: dict[str, type[RowClassifier]] = {"knn": KNNHead, "linear": LinearHead, "mlp": MLPHead}
# Genes that a head of each kind reads, and their principal components; 0 for the genes themselves.
EXPRESSION_INPUT = {"knn": (200, 20), "linear": (500, 0), "mlp": (200, 20)}
NOT_PARAMS = {"random_state", "standardize"}  # parameters that are not the caller's

# Share of the log-frequencies that logit adjustment takes off: all of them cost perceptrons and neighbours accuracy.
LOGIT_SHARE = 0.5

BLOCK = 4096  # cells labelled at a time


@dataclass(frozen=True, eq=False)
class Judged:
    """Probabilities ``(n, n_classes)``, novelty with the label ``(n,)``, and places in its space ``(n, k)``, if any."""

    proba: Array
    novelty: Array | None = None
    places: Array | None = None


@dataclass(eq=False, repr=False)
class FusedHead(DescribedHead):
    """A classifier over one or several views of the same cells.

    Each view has a head of its own. Their log-probabilities are averaged and calibrated on out-of-fold predictions
    [1]_, [2]_. The head of a view is the same with and without the others. The view named ``X`` is expression; the
    genes that tell the classes apart are chosen first. All of it is fitted inside each fold as well, so that the
    temperatures and ``held_out_`` come from cells from which nothing was learned. With groups of cells, such as
    donors, each fold is of whole groups: what is measured then holds for another donor.

    Parameters
    ----------
    kind
        ``"linear"``, ``"mlp"`` or ``"knn"``.
    params
        Parameters of the heads, by the names of their constructors.
    n_folds
        Folds of the out-of-fold predictions, at least 2. Above 50,000 cells one part of 10,000 is held out instead.
    n_genes, n_components
        Genes selected from ``X``, and the principal components of them that the head reads, 0 for the genes as they
        are. By default 500 and 0 for a linear head, 200 and 20 for the others.
    prior_adjustment
        How far equal frequencies of the classes are assumed, 0 (those of training) to 1: by weights of the classes in
        linear heads that are given none, by logit adjustment [2]_ in others, which takes off half of it. A rare type of
        the reference need not be rare among new cells.
    random_state
        Seed of the folds and of the heads.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted text.
    views_
        Names of the views needed, sorted.
    widths_
        Columns of each view at prediction.
    genes_
        Names of the genes that ``X`` must have at prediction, in order; None without ``X``.
    members_
        By view its fitted ``head`` and, for ``X``, the ``reducer`` before it.
    fusion_
        Shares of the classes among the training cells, temperature of each member, and of the fused log-probabilities.
    held_out_
        ``n``, ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``nll``, ``ece`` and ``coverage_95`` (the largest
        share of the cells, most confident first, of which 95 % are right) of the out-of-fold predictions.
    held_out_codes_, held_out_log_probas_, held_out_proba_
        Of the held-out cells: columns of their true classes ``(m,)``; by view their log-probabilities before any
        temperature, ``(m, n_classes) float64``; and their calibrated probabilities, of the same shape. They exist
        after :meth:`fit` only; a saved head does not keep them.
    rejection_
        Thresholds and the classes' means; None without ``keep``, or where no held-out cell was labelled correctly.
    missing_
        What held-out cells showed where genes are missing; None without ``X`` and ``keep``.
    hierarchy_
        Coarser levels of the labels; None unless the caller sets some.
    record_, files_
        The caller's notes on the training data, and files that its cells were extracted with; empty after :meth:`fit`,
        from the folder after loading.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Weinberger, On calibration of modern neural networks, ICML 2017.
    .. [2] A. Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv 2007.07314.
    """

    kind: str = "linear"
    _: KW_ONLY
    params: Mapping[str, Any] = field(default_factory=dict)
    n_folds: int = 5
    n_genes: int | None = None
    n_components: int | None = None
    prior_adjustment: float = PRIOR_ADJUSTMENT
    random_state: int = 0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, HEADS)
        known = sorted(set(HEADS[self.kind]().get_params()) - NOT_PARAMS)
        self.params = dict(self.params or {})
        if unknown := sorted(set(self.params) - set(known)):
            suggestion = did_you_mean(unknown[0], known)
            raise OptionError(f"params: a {self.kind} head has no {unknown[0]}, but {', '.join(known)}.{suggestion}")
        if self.n_folds < 2:
            raise OptionError(f"n_folds={self.n_folds!r}: must be at least 2.")
        if not 0 <= self.prior_adjustment <= 1:
            raise OptionError(f"prior_adjustment={self.prior_adjustment!r}: must be between 0 and 1.")
        if self.n_genes is None:
            self.n_genes = EXPRESSION_INPUT[self.kind][0]
        if self.n_components is None:
            self.n_components = EXPRESSION_INPUT[self.kind][1]
        check_positive(n_genes=self.n_genes)

    @property
    def views_(self) -> tuple[str, ...]:
        """Names of the views that a prediction needs, sorted."""
        return tuple(self.members_)

    def fit(
        self,
        views: Views,
        y: Any,
        *,
        gene_names: Sequence[str] | None = None,
        keep: float | None = None,
        groups: Any = None,
        optional: Sequence[str] = (),
        background: Rows | None = None,
    ) -> Self:
        """Learn from views of the same cells.

        Parameters
        ----------
        views
            Rows by name, ``(n, d)`` each; ``X`` has all genes, log-normalised.
        y
            ``(n,)`` labels; they are kept as text.
        gene_names
            Names of the columns of ``X``, distinct.
        keep
            Fraction of the correctly labelled held-out cells that keep their label; without it no thresholds are
            fitted.
        groups
            ``(n,)`` names of the groups, such as donors, that are held out whole.
        optional
            Views that stay only if they make held-out cells more likely.
        background
            Expression ``(m, genes)`` of cells with and without labels, for what needs no label: which genes vary, and
            how they do so together. By default that of the labelled cells.

        Raises
        ------
        LabelsError
            If labels or groups are missing, of another number than the rows, or of fewer than two cells or classes.
        CellsError
            If views differ in their rows, or a value is not finite.
        GenesError
            If there is an ``X`` without distinct names for its columns.
        """
        rows = {name: as_rows(view, name) for name, view in sorted(views.items())}
        encoded = encode_labels(y, count_cells(rows))
        texts = np.array([str(label) for label in encoded.classes.tolist()])
        self.classes_, place = np.unique(texts, return_inverse=True)
        codes = place[encoded.codes]
        names = _check_gene_names(rows, gene_names)

        batches = None if groups is None else encode_groups(groups, len(codes))
        shares = np.bincount(codes, minlength=len(self.classes_)) / len(codes)
        folds = held_out_folds(codes, batches, n_folds=self.n_folds, seed=self.random_state)
        hold = partial(
            hold_out,
            codes=codes,
            folds=folds,
            fit=lambda known, mine: self._fit_members(known, mine, None, background),
            n_classes=len(self.classes_),
            seed=self.random_state,
        )
        held = hold(rows, with_distances=keep is not None)
        prior = self.logit_adjustment
        chosen = earning_members(held.log_probas, held.truth, optional=optional, shares=shares, prior_adjustment=prior)
        rows, log_probas = {name: rows[name] for name in chosen}, {name: held.log_probas[name] for name in chosen}
        if keep is not None and len(chosen) < len(views) and EXPRESSION not in chosen:  # their space is another one
            held = hold(rows, with_distances=True)
        self.members_ = self._fit_members(rows, codes, batches, background)
        every = list(log_probas.values())
        self.fusion_ = fit_fusion(every, held.truth, shares=shares, prior_adjustment=prior)
        self.held_out_codes_, self.held_out_log_probas_ = held.truth, log_probas
        self.held_out_proba_ = proba = self.fusion_.proba(every)
        self.held_out_ = held_out_scores(held.truth, proba)
        self.rejection_: Rejection | None = None
        self.missing_: MissingGenes | None = None
        if keep is not None:
            own, seed, far = selected_genes(self.members_, rows), self.random_state, held.distances
            self.rejection_ = fit_rejection(
                self.members_, own, codes, proba=proba, truth=held.truth, measured=far, keep=keep, seed=seed
            )
        if self.rejection_ is not None and held.cases:
            fusion = replace(self.fusion_, temperatures=(self.fusion_.temperatures[self.views_.index(EXPRESSION)],))
            self.missing_ = MissingGenes.fit(held.cases, held.truth, fusion, units=self.rejection_.units)
        reducer = self._reducer
        self.genes_ = None if reducer is None else [names[column] for column in reducer.selected]
        self.hierarchy_: Hierarchy | None = None
        self.record_: dict[str, JSON] = {}
        self.files_: dict[str, Path] = {}
        return self

    @property
    def logit_adjustment(self) -> float:
        """Share of the log-frequencies that the fusion takes off: none where the classes are weighted in training."""
        weighted = self.kind == "linear" and "class_weight" not in self.params
        return 0.0 if weighted else LOGIT_SHARE * self.prior_adjustment

    @property
    def widths_(self) -> dict[str, int]:
        """Columns of each view at prediction."""
        genes = {} if self.genes_ is None else {EXPRESSION: len(self.genes_)}
        return {name: member.head.n_features_in_ for name, member in self.members_.items()} | genes

    @property
    def _reducer(self) -> ExpressionReducer | None:
        return self.members_[EXPRESSION].reducer if EXPRESSION in self.members_ else None

    def _fit_members(
        self, views: Views, codes: Array, groups: Array | None, background: Rows | None
    ) -> dict[str, Member]:
        # As objects: a fixed-width text array would take the longest name's bytes for every cell.
        labels = self.classes_.astype(object)[codes]
        counts = np.bincount(codes, minlength=len(self.classes_))
        weights = (counts.mean() / np.maximum(counts, 1)) ** self.prior_adjustment
        by_class = dict(zip(self.classes_.tolist(), weights.tolist(), strict=True))
        weighted = {"class_weight": by_class} if self.kind == "linear" else {}
        members: dict[str, Member] = {}
        for view, rows in views.items():
            reducer, options = None, {**weighted, **self.params, "random_state": self.random_state}
            if view == EXPRESSION:
                sizes = {"n_genes": self.n_genes or 0, "n_components": self.n_components or 0}
                reducer = ExpressionReducer.fit(rows, labels, **sizes, background=background)
            head = self._kind_of(view)(**options)
            given = reducer.over(columns_of(rows, reducer.selected)) if reducer else rows
            whole: dict[str, Any] = {"groups": groups} if isinstance(head, LinearHead | ExpressionHead) else {}
            whole |= {"reducer": reducer} if isinstance(head, ExpressionHead) else {}
            members[view] = Member(head.fit(given, labels, **whole), reducer)
        return members

    def _kind_of(self, view: str) -> type[RowClassifier]:
        of_genes = view == EXPRESSION and self.kind == "linear" and not self.n_components
        return ExpressionHead if of_genes else HEADS[self.kind]

    def predict_proba(self, views: Views) -> Array:
        """Return calibrated probabilities ``(n, n_classes) float64``; each row sums to 1.

        Parameters
        ----------
        views
            At least those in ``views_``, of n rows each; ``X`` has the genes ``genes_``, in that order.

        Raises
        ------
        FeatureSpaceError
            If a view is missing or has another width.
        CellsError
            If views differ in their rows, or a value is not finite.
        """
        rows = self._check_views(views)
        n = count_cells(rows)
        parts = [self._proba(_read(rows, start, min(n, start + BLOCK))) for start in range(0, n, BLOCK)]
        return np.concatenate([np.empty((0, len(self.classes_))), *parts])

    def predict(self, views: Views) -> Array:
        """Return the most probable label of each cell, ``(n,)`` text; views as for :meth:`predict_proba`."""
        return self.classes_[self._choose(self.predict_proba(views))]

    def judge(self, views: Views) -> Judged:
        """Return what the head says of some cells, all of which are read at once; takes and raises as predict_proba."""
        rows = self._check_views(views)
        block = _read(rows, 0, count_cells(rows))
        proba = self._proba(block)
        if self.rejection_ is None:
            return Judged(proba)
        places = self.rejection_.distances.place(self.members_, block)
        return Judged(proba, self.rejection_.novelty_of(places, self._choose(proba)), places)

    def for_genes(
        self, measured: Array, *, expression_alone: bool = False
    ) -> tuple[Self, GeneEstimate | None, MissingCase | None]:
        """Return the head for cells of which only the genes ``measured`` ``(g,) bool`` of ``genes_`` are known.

        It reads expression alone, with the temperature and the thresholds of held-out cells that lacked as much. Also
        returns the estimate of the missing genes, to complete expression with, and the case. Where all genes are
        measured it is the head itself, unless it is to read ``expression_alone``; also where it was fitted without
        ``keep``.
        """
        reducer = self._reducer
        if reducer is None or (measured.all() and not expression_alone):
            return self, None, None
        conditional = reducer.estimate(measured)
        estimate = None if measured.all() else conditional
        if self.missing_ is None or self.rejection_ is None:
            return self, estimate, None
        case = self.missing_.at(share_known(conditional, self.gene_importance()))
        head, place = copy(self), self.views_.index(EXPRESSION)
        head.members_ = {EXPRESSION: self.members_[EXPRESSION]}
        temperatures = (self.fusion_.temperatures[place],)
        head.fusion_ = replace(self.fusion_, temperatures=temperatures, temperature=case.temperature)
        head.rejection_ = replace(self.rejection_, confidence=case.confidence, novelty=case.novelty, sure=1.0)
        return head, estimate, case

    def gene_importance(self) -> Array:
        """Return how much labels depend on each gene of ``genes_``, ``(g,) float64``."""
        return gene_importance(self.members_[EXPRESSION])

    def _proba(self, block: Views) -> Array:
        return self.fusion_.proba([member.log_proba(block[name]) for name, member in self.members_.items()])

    def _choose(self, proba: Array) -> Array:
        """Return the class of each cell ``(n,)``: the most probable one, inside the coarser labels if there are any."""
        return proba.argmax(axis=1) if self.hierarchy_ is None else self.hierarchy_.choose(proba)

    def _check_views(self, views: Views) -> dict[str, Rows]:
        if missing := [name for name in self.views_ if name not in views]:
            raise FeatureSpaceError(f"Missing view(s): {', '.join(missing)}. Give all of {', '.join(self.views_)}.")
        rows = {name: as_rows(views[name], name) for name in self.views_}
        for name, width in self.widths_.items():
            if (found := rows[name].shape[1]) != width:
                what = "the genes of genes_, in that order" if name == EXPRESSION else "the view it was trained on"
                raise FeatureSpaceError(f"View {name}: {found:,} columns in place of {width:,}. Give it {what}.")
        return rows

    def to_state(self) -> State:
        """Return the fitted head as nested JSON values and arrays; :meth:`from_state` takes them back."""
        fusion, rejection, hierarchy = self.fusion_, self.rejection_, self.hierarchy_
        return {
            **{option.name: getattr(self, option.name) for option in fields(self)},
            "params": {name: list(v) if isinstance(v, tuple) else v for name, v in self.params.items()},
            "classes": self.classes_.tolist(),
            "shares": fusion.shares.tolist(),
            "members": {view: member.to_state() for view, member in self.members_.items()},
            "temperatures": dict(zip(self.members_, fusion.temperatures, strict=True)),
            "temperature": fusion.temperature,
            "genes": self.genes_,
            "held_out": self.held_out_,
            "rejection": None if rejection is None else rejection.to_state(),
            "missing": None if self.missing_ is None else self.missing_.to_state(),
            "hierarchy": None if hierarchy is None else hierarchy.to_state(),
        }

    @classmethod
    @loading()
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the fitted head; :class:`DamagedError` where its parts do not fit together."""
        head = cls(**{option.name: state[option.name] for option in fields(cls)})
        head.classes_ = np.array([str(label) for label in state["classes"]])
        head.members_ = {
            view: Member.from_state(member, kind=head._kind_of(view), reduced=view == EXPRESSION)
            for view, member in sorted(state["members"].items())
        }
        shares = np.array([float(share) for share in state["shares"]])
        temperatures = tuple(float(state["temperatures"][view]) for view in head.members_)
        head.fusion_ = Fusion(shares, head.logit_adjustment, temperatures, float(state["temperature"]))
        head.genes_ = None if state["genes"] is None else [str(gene) for gene in state["genes"]]
        head.held_out_, head.record_, head.files_ = dict(state["held_out"]), {}, {}
        saved, above, missing, n_classes = state["rejection"], state["hierarchy"], state["missing"], len(head.classes_)
        head.rejection_ = None if saved is None else Rejection.from_state(saved, n_classes=n_classes)
        head.missing_ = None if missing is None else MissingGenes.from_state(missing)
        head.hierarchy_ = None if above is None else Hierarchy.from_state(above, n_classes=n_classes)
        head._check_whole()
        return head

    def _check_whole(self) -> None:
        """Refuse a loaded head with parts that contradict each other."""
        fusion, reducer = self.fusion_, self._reducer
        classes = [member.head.classes_.tolist() for member in self.members_.values()]
        require(classes and all(one == self.classes_.tolist() for one in classes), "Its members have other classes.")
        positive = all(0 < temperature < np.inf for temperature in (*fusion.temperatures, fusion.temperature))
        require(positive, "Its temperatures are not positive.")
        shares = fusion.shares.tolist()
        require(len(shares) == len(self.classes_) and all(0 < share <= 1 for share in shares), "Its shares are wrong.")
        if self.rejection_ is not None:
            distances = self.rejection_.distances
            places = {name: member.n_places for name, member in self.members_.items()}
            known = set(distances.views) <= set(places)
            fits = known and len(distances.mean) == sum(places[view] for view in distances.views)
            require(fits, "Its distances are of other views than it reads.")
        n_genes = 0 if reducer is None else len(reducer.selected)
        require(len(self.genes_ or ()) == n_genes, f"It names other genes than the {n_genes} that it reads.")


def _read(rows: Views, start: int, end: int) -> dict[str, Array]:
    return {name: read(view, slice(start, end)) for name, view in rows.items()}


def _check_gene_names(rows: Mapping[str, Rows], gene_names: Sequence[str] | None) -> list[str]:
    """Return the names of the columns of ``X``, none without it; refuse another number of them, or duplicates."""
    if EXPRESSION not in rows:
        return []
    names = [] if gene_names is None else [str(name) for name in gene_names]
    width = rows[EXPRESSION].shape[1]
    if len(names) != width or len(set(names)) != width:
        distinct = len(set(names))
        raise GenesError(f"gene_names: {distinct:,} distinct names for {width:,} columns of X. Give one for each.")
    return names
