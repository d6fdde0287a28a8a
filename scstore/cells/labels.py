"""Label columns of cells."""

from __future__ import annotations

import pandas as pd

from scstore.errors import LabelsError

__all__ = ["read_labels"]


def read_labels(obs: pd.DataFrame, label: str, *, source: str) -> list[str | None]:
    """A label column as strings, ``None`` where a cell has none.

    Raises
    ------
    LabelsError
        If there is no such column, or no cell has a label.
    """
    if label not in obs:
        msg = f"{source} has no obs column {label!r}. It has: {', '.join(map(str, obs.columns)) or 'none'}."
        raise LabelsError(msg)
    column = obs[label]
    missing = column.isna().to_numpy() | (column.astype(str).str.strip() == "").to_numpy()
    if missing.all():
        msg = f"{source}: no cell has a {label!r}."
        raise LabelsError(msg)
    return [None if absent else str(value) for value, absent in zip(column, missing, strict=True)]
