"""Label columns of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import LabelsError

__all__ = ["missing_labels", "read_labels"]

NOT_A_LABEL = ("", "nan", "<NA>")
"""Texts that stand for no label: NumPy and pandas write the last two for a missing value turned into text."""


def missing_labels(y: Any) -> NDArray[np.bool_]:
    """Which labels are missing, ``(n,) bool``: None, NaN, NA, infinite, blank, or the text that NaN turns into."""
    values = np.asarray(y)
    missing: NDArray[np.bool_] = np.asarray(pd.isna(values))
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
    if values.dtype.kind in "OU":
        missing = missing | np.array(
            [isinstance(v, str) and v.strip() in NOT_A_LABEL for v in values.tolist()], dtype=bool
        )
    return missing


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
    missing = missing_labels(column.to_numpy(dtype=object))
    if missing.all():
        msg = f"{source}: no cell has a {label!r}."
        raise LabelsError(msg)
    return [None if absent else str(value) for value, absent in zip(column, missing, strict=True)]
