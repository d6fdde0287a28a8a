"""The organism of genes, guessed from their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pandas as pd

# CD3D, HLA-A, AL627309.1, C1orf112
HUMAN = re.compile(r"[A-Z0-9][A-Z0-9.-]*[A-Z][A-Z0-9.-]*|[A-Z][A-Z0-9.-]+|C(\d+|X|Y)orf\d+")
# Cd3d, H2-Ab1, mt-Nd1, 1700001A01Rik
MOUSE = re.compile(r"[A-Z][A-Za-z0-9.-]*[a-z][A-Za-z0-9.-]*|mt-[A-Z]\w*|\w+Rik")
COMMON = {"homo sapiens": "human", "9606": "human", "mus musculus": "mouse", "10090": "mouse"}
ENSEMBL = re.compile(r"ENS([A-Z]*)G\d+")


def guess_organism(names: Iterable[str]) -> str | None:
    """Return ``"human"`` or ``"mouse"`` if more than half of the telling names say so, else ``None``.

    Ensembl ids decide, else the capitals of symbols (CD3D, Cd3d); so rat is told from mouse by Ensembl ids only.

    >>> guess_organism(["Cd3d", "Ms4a1", "Nkg7"])
    'mouse'
    """
    votes = Counter(vote for name in names if (vote := _vote(str(name))))
    if not votes:
        return None
    winner, most = votes.most_common(1)[0]
    return winner if winner != "other" and 2 * most > votes.total() else None


def organism_of_table(table: pd.DataFrame) -> str | None:
    """Return the organism of a gene table, as written there or else guessed; ``None`` for several, or if unclear."""
    named = {common_name(str(name)) for name in table["organism"].dropna()} - {""} if "organism" in table else set()
    if named:
        return named.pop() if len(named) == 1 else None
    return guess_organism(table["symbol"])


def common_name(organism: str) -> str:
    """Return ``"human"`` or ``"mouse"`` for the usual ways to write these two, other organisms in small letters."""
    name = organism.strip().casefold().replace("_", " ")
    return COMMON.get(name, name)


def _vote(name: str) -> str:
    if found := ENSEMBL.match(name):
        return {"": "human", "MUS": "mouse"}.get(found[1], "other")
    # one letter, or one letter and digits (C3, F2), is spelled alike in both
    if len(re.findall("[A-Za-z]", name)) < 2:
        return ""
    if HUMAN.fullmatch(name):
        return "human"
    return "mouse" if MOUSE.fullmatch(name) else ""
