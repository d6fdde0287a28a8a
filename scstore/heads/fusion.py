"""The trained thing a user gets: one head or several, fused and calibrated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from scstore.errors import CellsError, DamagedError, FeatureSpaceError, GenesError, OptionError
from scstore.heads.base import JSON, RowClassifier, check_positive
from scstore.heads.branch import EXPRESSION, Branch, fit_branch
from scstore.heads.calibration import fit_temperature
from scstore.heads.expression import ExpressionReducer
from scstore.heads.held_out import choose_held_out, out_of_fold, scores
from scstore.heads.knn import KNNHead
from scstore.heads.labels import encode_labels
from scstore.heads.linear import LinearHead
from scstore.heads.mlp import MLPHead
from scstore.heads.rows import Array, Rows, is_lazy, read
from scstore.heads.softmax import log_softmax

__all__ = ["HEADS", "FusedHead", "Summary", "summarise"]

HEADS: dict[str, type[RowClassifier]] = {"knn": KNNHead, "linear": LinearHead, "mlp": MLPHead}
FUSIONS = ("early", "late")


class FusedHead:
    """A classifier over one or several views of the same cells.

    Late fusion: a head per view; its log-probabilities are divided by a temperature fitted on out-of-fold
    predictions, averaged over the views, adjusted for the classes' shares, and divided by one more temperature.
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
        ``n``, ``accuracy``, ``macro_f1``, ``nll`` and ``ece`` of the out-of-fold predictions.
    held_out_index_, held_out_proba_
        Rows held out, ``(m,) int64``, and their calibrated probabilities, ``(m, n_classes) float64``. They exist
        after :meth:`fit` only, for thresholds to be fitted on; a saved head does not keep them.
    record_
        What the caller wrote down about the training data; empty after :meth:`fit`, from the file after loading.
    """

    classes_: Array
    shares_: Array
    genes_: list[str] | None
    temperatures_: dict[str, float]
    temperature_: float
    held_out_: dict[str, float | int | None]
    held_out_index_: Array
    held_out_proba_: Array
    widths_: dict[str, int]
    record_: dict[str, JSON]
    _branches: tuple[Branch, ...]

    def __init__(
        self,
        kind: str = "linear",
        *,
        fuse: str = "late",
        params: Mapping[str, Any] | None = None,
        n_folds: int = 5,
        n_genes: int = 200,
        n_components: int = 20,
        prior_adjustment: float = 0.5,
        random_state: int = 0,
    ) -> None:
        for name, value, allowed in (("kind", kind, sorted(HEADS)), ("fuse", fuse, FUSIONS)):
            if value not in allowed:
                msg = f"{name}={value!r}: must be one of {', '.join(allowed)}."
                raise OptionError(msg)
        given = dict(params or {})
        known = set(HEADS[kind]().get_params()) - {"random_state", "standardize"}
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

    def fit(self, views: Mapping[str, Rows], y: Any, *, gene_names: Sequence[str] | None = None) -> Self:
        """Learn from views of the same cells.

        Parameters
        ----------
        views
            Rows by name, ``(n, d)`` each; ``X`` has all genes, log-normalised.
        y
            ``(n,)`` labels; they are kept as text.
        gene_names
            Names of the columns of ``X``, distinct.

        Raises
        ------
        LabelsError
            If labels are missing, of another number than the rows, or of fewer than two cells or classes.
        CellsError
            If views differ in their rows, or a value is not finite.
        GenesError
            If there is an ``X`` without distinct names for its columns.
        """
        rows = {name: _as_rows(view, name) for name, view in sorted(views.items())}
        n = _count(rows)
        encoded = encode_labels(y, n)
        texts = np.array([str(label) for label in encoded.classes.tolist()])
        self.classes_, place = np.unique(texts, return_inverse=True)
        codes = place[encoded.codes]
        self.shares_ = np.bincount(codes, minlength=len(self.classes_)) / len(codes)
        # As objects: a fixed-width text array would take the longest name's bytes for every cell.
        labels = self.classes_.astype(object)[codes]
        names = _check_gene_names(rows, gene_names)

        folds = choose_held_out(codes, n_folds=self.n_folds, rng=np.random.default_rng(self.random_state))
        held_out = out_of_fold(rows, labels, folds=folds, fit=self._fit_branches)
        self._branches = tuple(self._fit_branches(rows, labels))
        truth = codes[held_out.index]
        # each branch is calibrated before the shares are taken back: an overconfident one would drown them
        fitted = [fit_temperature(p, truth) for p in held_out.log_probas] or [1.0] * len(self._branches)
        self.temperatures_ = {_name(branch): t for branch, t in zip(self._branches, fitted, strict=True)}
        self.temperature_ = 1.0
        if len(truth):
            self.temperature_ = fit_temperature(np.log(self._fuse(held_out.log_probas)), truth)
        self.held_out_index_ = held_out.index
        self.held_out_proba_ = self._fuse(held_out.log_probas) if len(truth) else np.empty((0, len(self.classes_)))
        self.held_out_ = scores(self.held_out_proba_, truth)
        reducers = [branch.reducer for branch in self._branches if branch.reducer is not None]
        self.genes_ = [names[column] for reducer in reducers for column in reducer.selected_] if reducers else None
        self.widths_ = {name: view.shape[1] for name, view in rows.items()}
        if self.genes_ is not None:
            self.widths_[EXPRESSION] = len(self.genes_)
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
        check_positive(block_rows=block_rows)
        rows = self._check_views(views)
        n = _count(rows)
        for start in range(0, n, block_rows):
            block = {name: read(view, slice(start, min(n, start + block_rows))) for name, view in rows.items()}
            yield start, self._fuse([branch.log_proba(block, selected=True) for branch in self._branches])

    def predict(self, views: Mapping[str, Rows]) -> Array:
        """The most probable label of each cell, ``(n,)`` text."""
        best = self.predict_proba(views).argmax(axis=1)
        labels: Array = self.classes_[best]
        return labels

    def _check_views(self, views: Mapping[str, Rows]) -> dict[str, Rows]:
        if missing := [name for name in self.views_ if name not in views]:
            msg = f"Missing view(s): {', '.join(missing)}. The head needs {', '.join(self.views_)}; give them all."
            raise FeatureSpaceError(msg)
        rows = {name: _as_rows(views[name], name) for name in self.views_}
        for name, view in rows.items():
            if view.shape[1] != self.widths_[name]:
                what = "the genes of genes_, in that order" if name == EXPRESSION else "the view it was trained on"
                msg = f"View {name}: {view.shape[1]:,} columns where {self.widths_[name]:,} belong. Give it {what}."
                raise FeatureSpaceError(msg)
        return rows

    def _fuse(self, log_probas: Sequence[Array]) -> Array:
        """Probabilities from the log-probabilities of each branch."""
        temperatures = list(self.temperatures_.values())
        calibrated = [log_softmax(p / t) for p, t in zip(log_probas, temperatures, strict=True)]
        fused = sum(calibrated[1:], calibrated[0]) / len(calibrated) - self.prior_adjustment * np.log(self.shares_)
        proba: Array = np.exp(log_softmax(fused / self.temperature_))
        return proba

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """The fitted head as named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays: dict[str, Array] = {}
        members = []
        for place, branch in enumerate(self._branches):
            named, state = branch.to_arrays()
            arrays |= {f"{place}.{name}": array for name, array in named.items()}
            members.append({**state, "temperature": self.temperatures_[_name(branch)]})
        state = {
            "kind": self.kind,
            "fuse": self.fuse,
            "params": {name: list(v) if isinstance(v, tuple) else v for name, v in self.params.items()},
            "n_folds": self.n_folds,
            "n_genes": self.n_genes,
            "n_components": self.n_components,
            "prior_adjustment": self.prior_adjustment,
            "random_state": self.random_state,
            "classes": self.classes_.tolist(),
            "shares": self.shares_.tolist(),
            "members": members,
            "temperature": self.temperature_,
            "genes": self.genes_,
            "held_out": self.held_out_,
        }
        return arrays, state

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], state: Mapping[str, JSON]) -> Self:
        """The fitted head from what :meth:`to_arrays` gave.

        Raises
        ------
        DamagedError
            If the arrays and the state do not fit together.
        """
        options = (
            "kind", "fuse", "params", "n_folds", "n_genes", "n_components", "prior_adjustment", "random_state",
        )  # fmt: skip
        try:
            head = cls(**{name: state[name] for name in options})
            members = [dict(member) for member in state["members"]]
            branches = [
                Branch.from_arrays(
                    {name.removeprefix(f"{i}."): a for name, a in arrays.items() if name.startswith(f"{i}.")},
                    member,
                    head_class=HEADS[head.kind],
                )
                for i, member in enumerate(members)
            ]
            head._branches = tuple(branches)
            head.classes_ = np.array([str(label) for label in state["classes"]])
            head.shares_ = np.array([float(share) for share in state["shares"]])
            head.temperatures_ = {_name(b): float(m["temperature"]) for b, m in zip(branches, members, strict=True)}
            head.temperature_ = float(state["temperature"])
            head.genes_ = None if state["genes"] is None else [str(gene) for gene in state["genes"]]
            head.held_out_ = dict(state["held_out"])
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


class Summary(NamedTuple):
    """The answer for each cell.

    Attributes
    ----------
    label
        ``(n,)`` most probable class; of equal ones the first.
    confidence
        ``(n,) float64`` its probability.
    margin
        ``(n,) float64`` how far ahead it is of the second.
    """

    label: Array
    confidence: Array
    margin: Array


def summarise(proba: Array, classes: Array) -> Summary:
    """Label, confidence and margin of each cell from probabilities ``(n, n_classes)``, at least two classes."""
    best = proba.argmax(axis=1) if len(proba) else np.zeros(0, dtype=np.int64)
    second, first = np.partition(proba, -2, axis=1)[:, -2:].T
    return Summary(np.asarray(classes)[best], first, first - second)


def _name(branch: Branch) -> str:
    return "+".join(branch.views)


def _as_rows(view: Any, name: str) -> Rows:
    rows: Rows = sparse.csr_matrix(view) if sparse.issparse(view) else view
    if not is_lazy(rows) and not sparse.issparse(rows):
        rows = np.asarray(rows)
    kind = getattr(getattr(rows, "dtype", None), "kind", "f")
    if len(rows.shape) != 2 or kind not in "fiub":
        msg = f"View {name}: shape {rows.shape}, where rows of numbers (cells × columns) belong."
        raise CellsError(msg)
    return rows


def _count(rows: Mapping[str, Rows]) -> int:
    lengths = {name: view.shape[0] for name, view in rows.items()}
    if not lengths:
        msg = "views: none given. Name at least one view to learn from."
        raise OptionError(msg)
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        msg = f"The views differ in their number of cells ({told}). Give the same cells, in the same order, in each."
        raise CellsError(msg)
    return next(iter(lengths.values()))


def _check_gene_names(rows: Mapping[str, Rows], gene_names: Sequence[str] | None) -> list[str]:
    if EXPRESSION not in rows:
        return []
    names = [] if gene_names is None else [str(name) for name in gene_names]
    width = rows[EXPRESSION].shape[1]
    if len(names) != width or len(set(names)) != width:
        msg = (
            f"gene_names: {len(names):,} names ({len(set(names)):,} distinct) for the {width:,} columns of X. "
            f"Give one distinct name per column, so that later cells can be matched to them."
        )
        raise GenesError(msg)
    return names
