"""Spellings of labels: merged as a file says and no further; near-identical ones are pointed out."""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scstore.errors import LabelsError
from scstore.fsio import digest_bytes

__all__ = ["LabelNames", "alike", "read_label_names"]

OPTION = "--merge-labels"
HEADER = ("spelling", "name")
SEPARATOR = re.compile(r"(?<=\w)-(?=\w)|[\s_]+")
"""Between words. A minus after a marker, as in CD4-, is none."""


class LabelNames(Mapping[str, str]):
    """What a file of spellings says: each spelling's name, ``""`` for cells to be left out.

    Parameters
    ----------
    names
        Name by spelling.
    source
        The file's name.
    digest
        Of the file.
    """

    def __init__(self, names: Mapping[str, str], *, source: str, digest: str) -> None:
        self._names = dict(names)
        self.source = source
        self.digest = digest

    def __getitem__(self, spelling: str) -> str:
        return self._names[spelling]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def apply(self, labels: Sequence[str | None]) -> list[str | None]:
        """Labels with the names in place of the spellings, ``None`` where the name is empty."""
        return [None if label is None else self._names.get(label, label) or None for label in labels]

    def unused(self, *columns: Iterable[str | None]) -> list[str]:
        """Spellings that no cell of any of these columns has."""
        found = {label for labels in columns for label in labels}
        return [spelling for spelling in self._names if spelling not in found]


def read_label_names(path: str | os.PathLike[str]) -> LabelNames:
    """Read a file of spellings and names.

    Parameters
    ----------
    path
        JSON, ``{spelling: name}``; or lines of spelling, tab, name, with or without the header ``spelling``, ``name``.
        An empty name leaves the cells out.

    Raises
    ------
    LabelsError
        If the file cannot be read, a line is not two fields, a spelling has two names, or a name is itself a spelling
        of another name.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
        pairs = _json_pairs(file, raw) if file.suffix == ".json" else _lines(file, raw.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, RecursionError, json.JSONDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        msg = f"{OPTION} {file}: cannot be read ({why}). Give lines of spelling, tab, name, or JSON {{spelling: name}}."
        raise LabelsError(msg) from error
    names: dict[str, str] = {}
    for spelling, name in pairs:
        if names.setdefault(spelling, name) != name:
            msg = f"{OPTION} {file}: {spelling!r} has two names, {names[spelling]!r} and {name!r}. Keep one."
            raise LabelsError(msg)
    for spelling, name in names.items():
        if names.get(name, name) != name:
            msg = (
                f"{OPTION} {file}: {spelling!r} becomes {name!r}, which itself becomes {names[name]!r}. Give each "
                "spelling its last name."
            )
            raise LabelsError(msg)
    if not names:
        msg = f"{OPTION} {file}: holds no spellings. Give lines of spelling, tab, name."
        raise LabelsError(msg)
    return LabelNames(names, source=file.name, digest=digest_bytes(raw))


def _json_pairs(file: Path, raw: bytes) -> list[tuple[str, str]]:
    content = json.loads(raw, object_pairs_hook=list)  # a key twice is seen, not lost
    pairs = content if isinstance(content, list) else []
    if not all(isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs) or not pairs:
        msg = f'{OPTION} {file}: expected {{spelling: name}}, both text; a name of "" leaves the cells out.'
        raise LabelsError(msg)
    return [(spelling, name.strip()) for spelling, name in pairs]


def _lines(file: Path, text: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("\t")
        if not line.strip() or (number == 1 and tuple(field.strip().lower() for field in fields) == HEADER):
            continue
        if len(fields) != 2 or not fields[0].strip():
            msg = (
                f"{OPTION} {file}: line {number} has {len(fields)} field(s), not a spelling and a name with a tab "
                "between them. To leave cells out, end the line with the tab."
            )
            raise LabelsError(msg)
        pairs.append((fields[0], fields[1].strip()))
    return pairs


def alike(labels: Iterable[str | None]) -> list[list[tuple[str, int]]]:
    """Groups of labels that differ only in case, spaces, underscores, hyphens between words, or a plural s.

    Returns
    -------
    For each group its labels and how many cells each has, most first; groups and equal counts by name.
    """
    counts = Counter(label for label in labels if label is not None)
    groups: dict[str, list[tuple[str, int]]] = {}
    for label, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        groups.setdefault(_key(label), []).append((label, n))
    return sorted(group for group in groups.values() if len(group) > 1)


def _key(label: str) -> str:
    """What near-identical labels have in common."""
    words = SEPARATOR.split(unicodedata.normalize("NFKC", label).strip().casefold())
    return "".join(word[:-1] if re.fullmatch(r"\w+[^\Ws]s", word) else word for word in words)
