"""Label columns of cells: which labels are missing, and which hardly differ in spelling."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.matrices import likely_columns, why_no_labels
from scstore.errors import CellsWarning, LabelsError, LabelsWarning, OptionError
from scstore.options import Option, did_you_mean
from scstore.progress import Reporter

MISSING_VALUES = ("", "nan", "<NA>")  # the texts that NumPy and pandas make of a missing value, and a blank one
MISSING_LABELS = (
    "", "NA", "N/A", "n.a.", "#N/A", "<NA>", "NaN", "NaT", "None", "null", "-", "?",
    "unassigned", "not assigned", "unknown", "unlabelled", "unlabeled", "unannotated", "not available",
)  # fmt: skip
MissingLabels = Annotated[Sequence[str], Option("Words for a missing label, in any case and blanks.", advanced=True)]
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
    known = [str(name) for name in obs.columns]
    return f"{did_you_mean(column, known)} It has: {', '.join(known) or 'none'}."


def check_column(obs: pd.DataFrame, column: str, *, option: str, source: str) -> None:
    if column not in obs:
        raise OptionError(f"{option}={column!r}: {source} has no such obs column.{_has(obs, column)}")


def read_labels(
    obs: pd.DataFrame, column: str, *, missing: Sequence[str] = MISSING_LABELS, learned: bool = True, source: str
) -> list[str | None]:
    """Return a label column as strings, ``None`` for a cell without a label; refuse one that cannot be ``learned``."""
    if column not in obs:
        raise LabelsError(f"{source} has no obs column {column!r}.{_has(obs, column)}")
    absent = missing_labels(obs[column].to_numpy(dtype=object), missing)
    if absent.all():
        words = ", ".join(sorted({repr(str(value)) for value in obs[column].dropna()})[:5])
        said = f": all are {words} (missing_labels= names such words)" if words else ""
        raise LabelsError(f"{source}: no cell has a {column!r}{said}.")
    if learned and (why := why_no_labels(obs[column][~absent])) is not None:
        likely = likely_columns(obs.drop(columns=column))
        hint = f" Columns that look like labels: {', '.join(likely)}." if likely else ""
        raise LabelsError(f"{source}: {column!r} {why}, so these are no labels to learn.{hint}")
    return [None if gone else str(value) for value, gone in zip(obs[column], absent, strict=True)]


def report_labels(
    obs: pd.DataFrame, column: str, labels: Sequence[str | None], *, source: str, progress: Reporter
) -> None:
    """Warn of cells without a label, and which words were read as missing, and of labels that hardly differ."""
    left_out = [value for value, label in zip(obs[column], labels, strict=True) if label is None]
    if left_out:
        said = Counter(value for value in left_out if isinstance(value, str)).most_common(5)
        words = f" ({', '.join(f'{word!r} {n:,}' for word, n in said)}; missing_labels=[…] names such words)"
        without = f"{len(left_out):,} of {len(labels):,} cells have no {column}"
        progress.warn(f"{source}: {without}{words if said else ''} and are left out", CellsWarning)
    groups = similar_labels(labels)
    if groups:
        listed = "; ".join(", ".join(f"{label!r} ({n:,} cells)" for label, n in group) for group in groups[:5])
        more = f"; and {len(groups) - 5} more" if len(groups) > 5 else ""
        what = f"some labels of {column} hardly differ in spelling and are kept apart: {listed}{more}"
        progress.warn(f"{source}: {what}. Where they mean the same, correct the column.", LabelsWarning)


def similar_labels(labels: Iterable[str | None]) -> list[list[tuple[str, int]]]:
    """Return groups of labels that differ only in case, separators of words or a plural s, with counts of cells."""
    counts = Counter(label for label in labels if label is not None)
    groups: dict[str, list[tuple[str, int]]] = {}
    for label, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        words = SEPARATOR.split(unicodedata.normalize("NFKC", label).strip().casefold())
        key = "".join(word[:-1] if re.fullmatch(r"\w+[^\Ws]s", word) else word for word in words)
        groups.setdefault(key, []).append((label, n))
    return sorted(group for group in groups.values() if len(group) > 1)
