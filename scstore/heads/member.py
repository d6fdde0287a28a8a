"""A member of a fused head: the way from the rows of one view to log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from scstore.heads.base import RowClassifier, State, require
from scstore.heads.preprocessing import ExpressionReducer
from scstore.heads.rows import Array, ConcatRows, Rows

# The view that passes through an :class:`~scstore.heads.preprocessing.ExpressionReducer`.
EXPRESSION = "X"
Views = Mapping[str, Rows]  # rows of the same cells, by the view's name


@dataclass(frozen=True)
class Member:
    """A fitted head on one view, and the reducer before it where the view is ``X``."""

    head: RowClassifier
    reducer: ExpressionReducer | None = None

    def rows(self, rows: Rows, *, selected: bool) -> Rows:
        """Return what the head reads; with ``selected`` the rows have the reducer's genes alone, in its order."""
        return rows if self.reducer is None else self.reducer.over(rows, selected=selected)

    def places(self, rows: Rows, *, selected: bool) -> Rows:
        """Return where the cells lie: principal components of expression, or the rows of another view."""
        return rows if self.reducer is None else self.reducer.components(rows, selected=selected)

    @property
    def n_places(self) -> int:
        """Columns of :meth:`places`."""
        return self.head.n_features_in_ if self.reducer is None else len(self.reducer.axes)

    def log_proba(self, rows: Rows, *, selected: bool) -> Array:
        """Return log-probabilities ``(n, n_classes) float64`` before any temperature."""
        return self.head.predict_log_proba(self.rows(rows, selected=selected))

    def to_state(self) -> State:
        """Return the member as nested JSON values and arrays; :meth:`from_state` takes them back."""
        return {"head": self.head.to_state()} | ({} if self.reducer is None else {"reducer": self.reducer.to_state()})

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, kind: type[RowClassifier], reduced: bool) -> Self:
        """Return the member; :class:`DamagedError` where its parts do not fit together."""
        head = kind.from_state(state["head"])
        reducer = ExpressionReducer.from_state(state["reducer"]) if reduced else None
        fits = reducer is None or reducer.width == head.n_features_in_
        require(fits, f"reducer: another number of columns than the {head.n_features_in_} that its head reads.")
        return cls(head, reducer)


Members = Mapping[str, Member]


def place_views(members: Members, views: Views, names: Sequence[str], *, selected: bool) -> ConcatRows:
    """Return the named views side by side, of ``X`` its principal components."""
    return ConcatRows([members[name].places(views[name], selected=selected) for name in names])
