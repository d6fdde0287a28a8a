"""Label columns of cells: which labels are missing, and which hardly differ in spelling."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import LabelsError, LabelsWarning, OptionError
from scstore.options import Option, did_you_mean
from scstore.progress import Reporter

# The texts that NumPy and pandas make of a missing value, and a blank one.
MISSING_VALUES = ("", "nan", "<NA>")

# Words that people and programs write for a missing label.
MISSING_LABELS = ("", "NA", "N/A", "NaN", "None", "null", "unassigned", "unknown", "<NA>")

MissingLabels = Annotated[
    Sequence[str], Option("Words that count as a missing label, whatever their case and outer blanks.", advanced=True)
]

# Between words. The minus after a marker, as in CD4-, does not separate words.
SEPARATOR = re.compile(r"(?<=\w)-(?=\w)|[\s_]+")


def missing_labels(y: Any, words: Iterable[str] = MISSING_VALUES) -> NDArray[np.bool_]:
    """Return which labels are missing, ``(n,) bool``: None, NaN, NA, infinite, or one of the words."""
    values = np.asarray(y)
    missing: NDArray[np.bool_] = ~np.isfinite(values) if values.dtype.kind == "f" else np.asarray(pd.isna(values))
    if values.dtype.kind in "OU":
        known = {word.strip().casefold() for word in words}
        missing = missing | [isinstance(v, str) and v.strip().casefold() in known for v in values.tolist()]
    return missing


def _has(obs: pd.DataFrame, column: str) -> str:
    """Return which columns there are, and which of them may be meant."""
    known = [str(name) for name in obs.columns]
    return f"{did_you_mean(column, known)} It has: {', '.join(known) or 'none'}."


def check_column(obs: pd.DataFrame, column: str, *, option: str, source: str) -> None:
    """Refuse the value of an option that names no column of ``obs``."""
    if column not in obs:
        raise OptionError(f"{option}={column!r}: {source} has no such obs column.{_has(obs, column)}")


def read_labels(
    obs: pd.DataFrame, column: str, *, missing: Sequence[str] = MISSING_LABELS, source: str
) -> list[str | None]:
    """Return a label column as strings, ``None`` for a cell without a label; a :class:`LabelsError` if all lack one."""
    if column not in obs:
        raise LabelsError(f"{source} has no obs column {column!r}.{_has(obs, column)}")
    absent = missing_labels(obs[column].to_numpy(dtype=object), missing)
    if absent.all():
        raise LabelsError(f"{source}: no cell has a {column!r}.")
    return [None if gone else str(value) for value, gone in zip(obs[column], absent, strict=True)]


def report_labels(
    obs: pd.DataFrame, column: str, labels: Sequence[str | None], *, source: str, progress: Reporter
) -> None:
    """Report which words were read as missing, and warn of labels that hardly differ in spelling."""
    pairs = zip(obs[column], labels, strict=True)
    left_out = Counter(str(value) for value, label in pairs if label is None and isinstance(value, str))
    if left_out:
        words = ", ".join(f"{word!r} ({n:,} cells)" for word, n in left_out.most_common(5))
        progress.note(f"{source}: {column} is missing where it is {words}; missing_labels=[…] names such words")
    groups = similar_labels(labels)
    if groups:
        listed = "; ".join(", ".join(f"{label!r} ({n:,} cells)" for label, n in group) for group in groups[:5])
        more = f"; and {len(groups) - 5} more" if len(groups) > 5 else ""
        progress.warn(
            f"{source}: some labels of {column} hardly differ in spelling and are kept apart: {listed}{more}. "
            "Where they mean the same, correct the column.",
            LabelsWarning,
        )


def similar_labels(labels: Iterable[str | None]) -> list[list[tuple[str, int]]]:
    """Return groups of labels that differ only in case, separators of words or a plural s, with counts of cells."""
    counts = Counter(label for label in labels if label is not None)
    groups: dict[str, list[tuple[str, int]]] = {}
    for label, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        words = SEPARATOR.split(unicodedata.normalize("NFKC", label).strip().casefold())
        key = "".join(word[:-1] if re.fullmatch(r"\w+[^\Ws]s", word) else word for word in words)
        groups.setdefault(key, []).append((label, n))
    return sorted(group for group in groups.values() if len(group) > 1)
