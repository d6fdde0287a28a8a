"""A member of a fused head: the way from the rows of one view to log-probabilities."""

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

    head: RowClassifier
    reducer: ExpressionReducer | None = None

    def rows(self, rows: Rows, *, selected: bool) -> Rows:
        """Return what the head reads; with ``selected`` the rows have the reducer's genes alone, in its order."""
        return rows if self.reducer is None else self.reducer.over(rows, selected=selected)

    def log_proba(self, rows: Rows, *, selected: bool) -> Array:
        """Return log-probabilities ``(n, n_classes) float64`` before any temperature."""
        return self.head.predict_log_proba(self.rows(rows, selected=selected))

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """Return named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays, state = self.head.to_arrays()
        reducer = {} if self.reducer is None else self.reducer.to_arrays()
        named = {f"head.{name}": array for name, array in arrays.items()}
        return named | {f"reducer.{name}": array for name, array in reducer.items()}, state

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Array], state: Mapping[str, JSON], *, kind: type[RowClassifier], reduced: bool
    ) -> Self:
        """Return the member; :class:`DamagedError` where the arrays do not fit together."""
        head = kind.from_arrays(arrays_under(arrays, "head."), state)
        reducer = ExpressionReducer.from_arrays(arrays_under(arrays, "reducer.")) if reduced else None
        if reducer is not None and len(reducer.components_) != head.n_features_in_:
            msg = f"reducer: {len(reducer.components_)} components for a head of {head.n_features_in_}. It is damaged."
            raise DamagedError(msg)
        return cls(head, reducer)


def concat_views(
    members: Mapping[str, Member], views: Mapping[str, Rows], names: Sequence[str], *, selected: bool
) -> ConcatRows:
    """Return what the members on the named views read, side by side in the order of the names."""
    return ConcatRows([members[name].rows(views[name], selected=selected) for name in names])


def arrays_under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Any]:
    """Return the arrays whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
