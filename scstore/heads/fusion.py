"""The trained thing a user gets: one head or several, fused and calibrated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from scstore.errors import DamagedError, FeatureSpaceError, OptionError
from scstore.heads.base import JSON, RowClassifier, check_positive
from scstore.heads.calibrated_fusion import Fusion, fit_fusion
from scstore.heads.check_views import as_rows, check_gene_names, count_cells
from scstore.heads.defaults import PRIOR_ADJUSTMENT
from scstore.heads.distances import fit_distances
from scstore.heads.expression import ExpressionReducer
from scstore.heads.held_out import choose_held_out, out_of_fold, scores
from scstore.heads.hierarchy import Hierarchy
from scstore.heads.knn import KNNHead
from scstore.heads.labels import encode_labels
from scstore.heads.linear import LinearHead
from scstore.heads.member import EXPRESSION, Branch, below, fit_branch
from scstore.heads.mlp import MLPHead
from scstore.heads.rejection import Rejection, fit_rejection
from scstore.heads.rows import Array, Rows, RowSubset, read

__all__ = ["HEADS", "FusedHead"]

HEADS: dict[str, type[RowClassifier]] = {"knn": KNNHead, "linear": LinearHead, "mlp": MLPHead}
FUSIONS = ("early", "late")
OPTIONS = ("kind", "fuse", "params", "n_folds", "n_genes", "n_components", "prior_adjustment", "random_state")
"""Of a head's constructor, and of the file it is saved in."""


class FusedHead:
    """A classifier over one or several views of the same cells.

    Late fusion: a head per view, whose log-probabilities a :class:`~scstore.heads.calibrated_fusion.Fusion` averages
    and calibrates on out-of-fold predictions. A view's head is the same with and without the others.
    Early fusion: the views are standardised, each divided by the root of its width, and joined for a single head. The
    view named ``X`` is expression; it goes through an :class:`~scstore.heads.expression.ExpressionReducer` first. All
    of it is fitted inside each fold as well, so that the temperatures and ``held_out_`` come from cells that nothing
    was learned from.

    Parameters
    ----------
    kind
        ``"linear"``, ``"mlp"`` or ``"knn"``.
    fuse
        ``"late"`` or ``"early"``.
    params
        Parameters of the heads, by the names of their constructors.
    n_folds
        Folds of the out-of-fold predictions, at least 2. Above 50,000 cells one part of 10,000 is held out instead.
    n_genes, n_components
        Of the reducer of ``X``.
    prior_adjustment
        How much of the classes' shares among the training cells is taken back, 0 to 1: this times their logarithm is
        subtracted from the log-probabilities (logit adjustment, Menon et al. 2021, arXiv 2007.07314). A rare type of
        the reference need not be rare among new cells; at 0 it is assumed to be.
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
        Fitted heads by view; early fusion has one, under the names joined with ``+``.
    shares_
        ``(n_classes,) float64``: share of each class among the training cells.
    temperatures_
        Temperature of each member.
    temperature_
        Temperature of the fused log-probabilities.
    held_out_
        ``n``, ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``nll`` and ``ece`` of the out-of-fold predictions.
    held_out_index_, held_out_codes_, held_out_log_probas_, held_out_proba_
        Rows held out, ``(m,) int64``; columns of their true classes; by member their log-probabilities before any
        temperature, ``(m, n_classes) float64``; and their calibrated probabilities, of the same shape. They exist
        after :meth:`fit` only, for thresholds and other fusions to be fitted on; a saved head does not keep them.
    rejection_
        Thresholds and reference cells; None where none were asked for, or no held-out cell was labelled rightly.
    hierarchy_
        Coarser levels of the labels; None where the caller sets none.
    record_
        What the caller wrote down about the training data; empty after :meth:`fit`, from the file after loading.
    """

    classes_: Array
    genes_: list[str] | None
    held_out_: dict[str, float | int | None]
    held_out_index_: Array
    held_out_codes_: Array
    held_out_log_probas_: dict[str, Array]
    held_out_proba_: Array
    rejection_: Rejection | None
    hierarchy_: Hierarchy | None
    widths_: dict[str, int]
    record_: dict[str, JSON]
    _branches: tuple[Branch, ...]
    _fusion: Fusion

    def __init__(
        self,
        kind: str = "linear",
        *,
        fuse: str = "late",
        params: Mapping[str, Any] | None = None,
        n_folds: int = 5,
        n_genes: int = 200,
        n_components: int = 20,
        prior_adjustment: float = PRIOR_ADJUSTMENT,
        random_state: int = 0,
    ) -> None:
        for name, value, allowed in (("kind", kind, sorted(HEADS)), ("fuse", fuse, FUSIONS)):
            if value not in allowed:
                msg = f"{name}={value!r}: must be one of {', '.join(allowed)}."
                raise OptionError(msg)
        given = dict(params or {})
        known = set(HEADS[kind]().get_params()) - {"random_state", "standardize", "warm_start"}
        if unknown := sorted(set(given) - known):
            msg = f"params: a {kind} head has no {', '.join(unknown)}. It has {', '.join(sorted(known))}."
            raise OptionError(msg)
        if n_folds < 2:
            msg = f"n_folds={n_folds!r}: must be at least 2."
            raise OptionError(msg)
        if not 0 <= prior_adjustment <= 1:
            msg = f"prior_adjustment={prior_adjustment!r}: must be between 0 and 1."
            raise OptionError(msg)
        check_positive(n_genes=n_genes, n_components=n_components)
        self.kind = kind
        self.fuse = fuse
        self.params = given
        self.n_folds = n_folds
        self.n_genes = n_genes
        self.n_components = n_components
        self.prior_adjustment = prior_adjustment
        self.random_state = random_state

    @property
    def views_(self) -> tuple[str, ...]:
        """Names of the views that a prediction needs, sorted."""
        return tuple(sorted(view for branch in self._branches for view in branch.views))

    @property
    def members_(self) -> dict[str, RowClassifier]:
        """Fitted heads by view."""
        return {_name(branch): branch.head for branch in self._branches}

    @property
    def shares_(self) -> Array:
        """Share of each class among the training cells."""
        return self._fusion.shares

    @property
    def temperatures_(self) -> dict[str, float]:
        """Temperature of each member."""
        return dict(zip(map(_name, self._branches), self._fusion.temperatures, strict=True))

    @property
    def temperature_(self) -> float:
        """Temperature of the fused log-probabilities."""
        return self._fusion.temperature

    def fit(
        self,
        views: Mapping[str, Rows],
        y: Any,
        *,
        gene_names: Sequence[str] | None = None,
        keep: float | None = None,
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
            Learn thresholds that this share of the rightly labelled held-out cells passes; none by default.

        Raises
        ------
        LabelsError
            If labels are missing, of another number than the rows, or of fewer than two cells or classes.
        CellsError
            If views differ in their rows, or a value is not finite.
        GenesError
            If there is an ``X`` without distinct names for its columns.
        """
        rows = {name: as_rows(view, name) for name, view in sorted(views.items())}
        n = count_cells(rows)
        encoded = encode_labels(y, n)
        texts = np.array([str(label) for label in encoded.classes.tolist()])
        self.classes_, place = np.unique(texts, return_inverse=True)
        codes = place[encoded.codes]
        # As objects: a fixed-width text array would take the longest name's bytes for every cell.
        labels = self.classes_.astype(object)[codes]
        names = check_gene_names(rows, gene_names)

        folds = choose_held_out(codes, n_folds=self.n_folds, rng=np.random.default_rng(self.random_state))

        def measure(branches: Sequence[Branch], outside: Array, inside: Array) -> Array:
            known, left = ({name: RowSubset(view, part) for name, view in rows.items()} for part in (outside, inside))
            distances = fit_distances(branches, known, codes[outside], rng=np.random.default_rng(self.random_state))
            return distances.measure(branches, left, codes[inside], selected=False)

        held_out = out_of_fold(
            rows, labels, folds=folds, fit=self._fit_branches, measure=None if keep is None else measure
        )
        self._branches = tuple(self._fit_branches(rows, labels))
        n_classes = len(self.classes_)
        log_probas = held_out.log_probas or (np.empty((0, n_classes)),) * len(self._branches)
        truth = codes[held_out.index]
        shares = np.bincount(codes, minlength=n_classes) / len(codes)
        self._fusion = fit_fusion(log_probas, truth, shares=shares, prior_adjustment=self.prior_adjustment)
        self.held_out_index_, self.held_out_codes_ = held_out.index, truth
        self.held_out_log_probas_ = dict(zip(map(_name, self._branches), log_probas, strict=True))
        self.held_out_proba_ = self._fusion.proba(log_probas)
        self.held_out_ = scores(self.held_out_proba_, truth)
        self.rejection_ = None
        if keep is not None:
            self.rejection_ = fit_rejection(
                self._branches,
                rows,
                codes,
                proba=self.held_out_proba_,
                truth=truth,
                measured=held_out.measured,
                keep=keep,
                rng=np.random.default_rng(self.random_state),
            )
        reducers = [branch.reducer for branch in self._branches if branch.reducer is not None]
        self.genes_ = [names[column] for reducer in reducers for column in reducer.selected_] if reducers else None
        self.widths_ = {name: view.shape[1] for name, view in rows.items()}
        if self.genes_ is not None:
            self.widths_[EXPRESSION] = len(self.genes_)
        self.hierarchy_ = None
        self.record_ = {}
        return self

    def _fit_branches(self, views: Mapping[str, Rows], y: Array) -> list[Branch]:
        def make_head(**options: Any) -> RowClassifier:
            return HEADS[self.kind](**{**self.params, **options, "random_state": self.random_state})

        def make_reducer() -> ExpressionReducer:
            return ExpressionReducer(self.n_genes, n_components=self.n_components)

        groups = [list(views)] if self.fuse == "early" else [[name] for name in views]
        return [fit_branch(views, y, names=group, make_head=make_head, make_reducer=make_reducer) for group in groups]

    def predict_proba(self, views: Mapping[str, Rows]) -> Array:
        """Calibrated probabilities ``(n, n_classes) float64``; each row sums to 1.

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
        parts = [proba for _, proba in self.iter_proba(views)]
        return np.concatenate([np.empty((0, len(self.classes_))), *parts])

    def iter_proba(self, views: Mapping[str, Rows], *, block_rows: int = 4096) -> Iterator[tuple[int, Array]]:
        """Yield ``(first row, calibrated probabilities (b, n_classes))`` for blocks of at most ``block_rows`` cells.

        Takes and raises what :meth:`predict_proba` does; holds one block of each view at a time.
        """
        for start, log_probas in self.iter_log_probas(views, block_rows=block_rows):
            yield start, self._fusion.proba(log_probas)

    def iter_log_probas(
        self, views: Mapping[str, Rows], *, block_rows: int = 4096
    ) -> Iterator[tuple[int, tuple[Array, ...]]]:
        """Yield ``(first row, log-probabilities (b, n_classes) of each member before any temperature)``.

        In blocks as :meth:`iter_proba`, which takes and raises the same; members in the order of ``members_``.
        """
        for start, block in self._iter_blocks(views, block_rows):
            yield start, tuple(branch.log_proba(block, selected=True) for branch in self._branches)

    def iter_judged(
        self, views: Mapping[str, Rows], *, block_rows: int = 4096
    ) -> Iterator[tuple[int, Array, Array | None]]:
        """Yield what :meth:`iter_proba` does, and the novelty ``(b,)`` of each cell with the label it gets.

        Novelty is None for a head without ``rejection_``.
        """
        for start, block in self._iter_blocks(views, block_rows):
            proba = self._fusion.proba([branch.log_proba(block, selected=True) for branch in self._branches])
            novelty = None
            if self.rejection_ is not None:
                novelty = self.rejection_.novelty_of(self._branches, block, self.choose(proba))
            yield start, proba, novelty

    def _iter_blocks(self, views: Mapping[str, Rows], block_rows: int) -> Iterator[tuple[int, dict[str, Array]]]:
        check_positive(block_rows=block_rows)
        rows = self._check_views(views)
        n = count_cells(rows)
        for start in range(0, n, block_rows):
            yield start, {name: read(view, slice(start, min(n, start + block_rows))) for name, view in rows.items()}

    def predict(self, views: Mapping[str, Rows]) -> Array:
        """The most probable label of each cell, ``(n,)`` text."""
        labels: Array = self.classes_[self.choose(self.predict_proba(views))]
        return labels

    def choose(self, proba: Array) -> Array:
        """The class of each cell ``(n,)``: the most probable one, inside the coarser labels where there are levels."""
        chosen: Array = proba.argmax(axis=1) if self.hierarchy_ is None else self.hierarchy_.choose(proba)
        return chosen

    def _check_views(self, views: Mapping[str, Rows]) -> dict[str, Rows]:
        if missing := [name for name in self.views_ if name not in views]:
            msg = f"Missing view(s): {', '.join(missing)}. The head needs {', '.join(self.views_)}; give them all."
            raise FeatureSpaceError(msg)
        rows = {name: as_rows(views[name], name) for name in self.views_}
        for name, view in rows.items():
            if view.shape[1] != self.widths_[name]:
                what = "the genes of genes_, in that order" if name == EXPRESSION else "the view it was trained on"
                msg = f"View {name}: {view.shape[1]:,} columns where {self.widths_[name]:,} belong. Give it {what}."
                raise FeatureSpaceError(msg)
        return rows

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """The fitted head as named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays: dict[str, Array] = {}
        members = []
        for place, branch in enumerate(self._branches):
            named, state = branch.to_arrays()
            arrays |= {f"{place}.{name}": array for name, array in named.items()}
            members.append({**state, "temperature": self._fusion.temperatures[place]})
        state = {
            **{name: getattr(self, name) for name in OPTIONS},
            "params": {name: list(v) if isinstance(v, tuple) else v for name, v in self.params.items()},
            "classes": self.classes_.tolist(),
            "shares": self.shares_.tolist(),
            "members": members,
            "temperature": self.temperature_,
            "genes": self.genes_,
            "held_out": self.held_out_,
            "rejection": None,
        }
        if self.rejection_ is not None:
            named, state["rejection"] = self.rejection_.to_arrays()
            arrays |= {f"rejection.{name}": array for name, array in named.items()}
        if self.hierarchy_ is not None:
            named, state["hierarchy"] = self.hierarchy_.to_arrays(self.classes_)
            arrays |= {f"hierarchy.{name}": array for name, array in named.items()}
        return arrays, state

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], state: Mapping[str, JSON]) -> Self:
        """The fitted head from what :meth:`to_arrays` gave.

        Raises
        ------
        DamagedError
            If the arrays and the state do not fit together.
        """
        try:
            head = cls(**{name: state[name] for name in OPTIONS})
            members = [dict(member) for member in state["members"]]
            branches = [
                Branch.from_arrays(below(arrays, f"{i}."), member, head_class=HEADS[head.kind])
                for i, member in enumerate(members)
            ]
            head._branches = tuple(branches)
            head.classes_ = np.array([str(label) for label in state["classes"]])
            head._fusion = Fusion(
                np.array([float(share) for share in state["shares"]]),
                head.prior_adjustment,
                tuple(float(member["temperature"]) for member in members),
                float(state["temperature"]),
            )
            head.genes_ = None if state["genes"] is None else [str(gene) for gene in state["genes"]]
            head.held_out_ = dict(state["held_out"])
            head.rejection_ = None
            if state["rejection"] is not None:
                head.rejection_ = Rejection.from_arrays(
                    below(arrays, "rejection."), state["rejection"], n_classes=len(head.classes_)
                )
            head.hierarchy_ = None
            if (levels := state.get("hierarchy")) is not None:
                head.hierarchy_ = Hierarchy.from_arrays(below(arrays, "hierarchy."), levels, classes=head.classes_)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            msg = f"The head's description is malformed ({type(error).__name__}: {error}). Restore it or fit it again."
            raise DamagedError(msg) from error
        head._check_whole(arrays)
        return head

    def _check_whole(self, arrays: Mapping[str, Array]) -> None:
        """Refuse a loaded head whose parts contradict each other; learns ``widths_``."""
        reducer = next((branch.reducer for branch in self._branches if branch.reducer is not None), None)
        genes = 0 if reducer is None else len(reducer.selected_)
        temperatures = [*self.temperatures_.values(), self.temperature_]
        contradictions = (
            not self._branches or len(self.temperatures_) < len(self._branches),
            any(branch.head.classes_.tolist() != self.classes_.tolist() for branch in self._branches),
            not all(0 < temperature < np.inf for temperature in temperatures),
            len(self.shares_) != len(self.classes_) or not all(0 < share <= 1 for share in self.shares_.tolist()),
            (self.genes_ is None) != (reducer is None) or len(self.genes_ or ()) != genes,
            self.to_arrays()[0].keys() != arrays.keys(),
        )
        if any(contradictions):
            msg = (
                "The head's members, classes, genes or temperatures contradict each other. Restore it or fit it again."
            )
            raise DamagedError(msg)
        self.record_ = {}
        self.widths_ = {name: width for branch in self._branches for name, width in branch.widths().items()}
        if reducer is not None:
            self.widths_[EXPRESSION] = genes


def _name(branch: Branch) -> str:
    return "+".join(branch.views)
