"""A member of a fused head: the way from one view to log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from scstore.errors import DamagedError
from scstore.heads.base import JSON, RowClassifier
from scstore.heads.preprocessing import ExpressionReducer
from scstore.heads.rows import Array, ConcatRows, Rows

__all__ = ["EXPRESSION", "Member", "arrays_under", "concat_views"]

EXPRESSION = "X"
"""The view that passes through an :class:`~scstore.heads.preprocessing.ExpressionReducer`."""


@dataclass(frozen=True)
class Member:
    """A fitted head on one view, and the reducer before it where the view is ``X``."""

    view: str
    head: RowClassifier
    reducer: ExpressionReducer | None = None

    @classmethod
    def fit(cls, view: str, rows: Rows, y: Array, *, head: RowClassifier, reducer: ExpressionReducer) -> Self:
        """Fit the head, and for ``X`` the reducer, on rows ``(n, d)`` and labels ``(n,)``."""
        if view != EXPRESSION:
            return cls(view, head.fit(rows, y))
        reducer.fit(rows, y)
        return cls(view, head.fit(reducer.over(rows, selected=False), y), reducer)

    def rows(self, views: Mapping[str, Rows], *, selected: bool) -> Rows:
        """Return what the head reads, computed when asked for.

        With ``selected`` the view ``X`` has the reducer's genes alone, in its order, and not all genes of the fit.
        """
        rows = views[self.view]
        return rows if self.reducer is None else self.reducer.over(rows, selected=selected)

    def log_proba(self, views: Mapping[str, Rows], *, selected: bool) -> Array:
        """Return log-probabilities ``(n, n_classes) float64`` before any temperature."""
        return self.head.predict_log_proba(self.rows(views, selected=selected))

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """Return named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays, state = self.head.to_arrays()
        named = {f"head.{name}": array for name, array in arrays.items()}
        if self.reducer is not None:
            named |= {f"reducer.{name}": array for name, array in self.reducer.to_arrays().items()}
        return named, {"view": self.view, "head": state}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Array], state: Mapping[str, JSON], *, head_class: type[RowClassifier]
    ) -> Self:
        """Return the member; :class:`DamagedError` where the arrays do not fit together."""
        view = str(state["view"])
        head = head_class.from_arrays(arrays_under(arrays, "head."), state["head"])
        reducer = ExpressionReducer.from_arrays(arrays_under(arrays, "reducer.")) if view == EXPRESSION else None
        if reducer is not None and len(reducer.components_) != head.n_features_in_:
            msg = f"reducer: {len(reducer.components_)} components for a head of {head.n_features_in_}. It is damaged."
            raise DamagedError(msg)
        return cls(view, head, reducer)


def concat_views(
    members: Sequence[Member], views: Mapping[str, Rows], names: Sequence[str], *, selected: bool
) -> ConcatRows:
    """Return what the members on the named views read, side by side in the order of the names."""
    rows = {member.view: member.rows(views, selected=selected) for member in members}
    return ConcatRows([rows[name] for name in names])


def arrays_under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Any]:
    """Return the arrays whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
