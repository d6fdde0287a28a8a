"""The way from views to one head: reduce expression, scale and join where there are several, classify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from scstore.errors import DamagedError
from scstore.heads.base import JSON, RowClassifier, take_array
from scstore.heads.expression import ExpressionReducer
from scstore.heads.rows import Array, ConcatRows, Rows
from scstore.heads.scaling import Scaling, fit_scaling

__all__ = ["EXPRESSION", "Branch", "below", "fit_branch", "join_parts"]

EXPRESSION = "X"
"""The view that passes through an :class:`~scstore.heads.expression.ExpressionReducer`."""


@dataclass(frozen=True)
class Branch:
    """A fitted head and what its views pass through on their way to it.

    Attributes
    ----------
    views
        Names of the views it reads, in the order in which they are joined.
    head
        The classifier.
    reducer
        For the view ``X``.
    scalings
        For each view where several are joined: standardised and divided by the root of its width, so that none
        outweighs another by its number of columns.
    """

    views: tuple[str, ...]
    head: RowClassifier
    reducer: ExpressionReducer | None = None
    scalings: Mapping[str, Scaling] = field(default_factory=dict)

    def log_proba(self, views: Mapping[str, Rows], *, selected: bool) -> Array:
        """Log-probabilities ``(n, n_classes) float64``; takes what :meth:`parts` does."""
        parts = list(self.parts(views, selected=selected).values())
        result: Array = self.head.predict_log_proba(parts[0] if len(parts) == 1 else ConcatRows(parts))
        return result

    def parts(self, views: Mapping[str, Rows], *, selected: bool) -> dict[str, Rows]:
        """What the head reads, by view, when asked for.

        Parameters
        ----------
        views
            At least those in ``self.views``, of n rows each.
        selected
            Whether ``X`` has the reducer's genes alone, in its order, rather than all genes of the fit.
        """
        parts: dict[str, Rows] = {}
        for name in self.views:
            rows = _reduce(views[name], self.reducer if name == EXPRESSION else None, selected=selected)
            parts[name] = self.scalings[name].over(rows) if name in self.scalings else rows
        return parts

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """Named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays, state = self.head.to_arrays()
        named = {f"head.{name}": array for name, array in arrays.items()}
        if self.reducer is not None:
            named |= {f"reducer.{name}": array for name, array in self.reducer.to_arrays().items()}
        for place, view in enumerate(self.views):
            if view in self.scalings:
                named |= {
                    f"scaling.{place}.mean": self.scalings[view].mean,
                    f"scaling.{place}.scale": self.scalings[view].scale,
                }
        return named, {"views": list(self.views), "head": state}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Array], state: Mapping[str, JSON], *, head_class: type[RowClassifier]
    ) -> Self:
        """The branch from what :meth:`to_arrays` gave; :class:`DamagedError` where the two do not fit."""
        views = tuple(str(view) for view in state["views"])
        head = head_class.from_arrays(below(arrays, "head."), state["head"])
        reducer = ExpressionReducer.from_arrays(below(arrays, "reducer.")) if EXPRESSION in views else None
        scalings = {}
        for place, view in enumerate(views if len(views) > 1 else ()):
            mean = take_array(arrays, f"scaling.{place}.mean", shape=(-1,))
            scalings[view] = Scaling(mean, take_array(arrays, f"scaling.{place}.scale", shape=mean.shape))
            if not (scalings[view].scale > 0).all():
                msg = f"scaling.{place}.scale: a scale that is not positive. The head is damaged."
                raise DamagedError(msg)
        branch = cls(views, head, reducer, scalings)
        if not views or len(set(views)) < len(views) or sum(branch.widths().values()) != head.n_features_in_:
            msg = f"views {list(views)}: their widths do not add up to the head's {head.n_features_in_}. It is damaged."
            raise DamagedError(msg)
        return branch

    def widths(self) -> dict[str, int]:
        """Columns that each view brings to the head."""
        if not self.scalings:
            reduced = None if self.reducer is None else len(self.reducer.components_)
            return {self.views[0]: self.head.n_features_in_ if reduced is None else reduced}
        return {view: len(self.scalings[view].mean) for view in self.views}


def fit_branch(
    views: Mapping[str, Rows],
    y: Array,
    *,
    names: Sequence[str],
    make_head: Callable[..., RowClassifier],
    make_reducer: Callable[[], ExpressionReducer],
) -> Branch:
    """Fit one branch; nothing is learned from any row but those given.

    Parameters
    ----------
    views
        Rows by name, n each.
    y
        ``(n,)`` labels.
    names
        The views to read.
    make_head
        Gives a new head; called with ``standardize=False`` where the rows are scaled already.
    make_reducer
        Gives a new reducer for ``X``.
    """
    reducer = make_reducer().fit(views[EXPRESSION], y) if EXPRESSION in names else None
    parts = [_reduce(views[name], reducer if name == EXPRESSION else None, selected=False) for name in names]
    if len(parts) == 1:
        return Branch(tuple(names), make_head().fit(parts[0], y), reducer)
    scalings = {name: fit_scaling(rows) for name, rows in zip(names, parts, strict=True)}
    joined = ConcatRows([scalings[name].over(rows) for name, rows in zip(names, parts, strict=True)])
    return Branch(tuple(names), make_head(standardize=False).fit(joined, y), reducer, scalings)


def join_parts(
    branches: Sequence[Branch], views: Mapping[str, Rows], names: Sequence[str], *, selected: bool
) -> ConcatRows:
    """What the heads of some branches read, side by side.

    Parameters
    ----------
    branches
        Of one head.
    views, selected
        As for :meth:`Branch.parts`.
    names
        Views to join, in order.
    """
    parts = {name: rows for branch in branches for name, rows in branch.parts(views, selected=selected).items()}
    return ConcatRows([parts[name] for name in names])


def _reduce(rows: Rows, reducer: ExpressionReducer | None, *, selected: bool) -> Rows:
    if reducer is None:
        return rows
    return reducer.over_selected(rows) if selected else reducer.over(rows)


def below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
