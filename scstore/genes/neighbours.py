"""Genes that a table holds to be alike."""

from __future__ import annotations

import difflib

import numpy as np
import pandas as pd

from scstore.errors import GenesError
from scstore.genes.table import GeneTable
from scstore.genes.vectors import whiten

__all__ = ["find_gene", "nearest_genes"]

SUGGESTIONS = 5


def nearest_genes(table: GeneTable, gene: str, *, k: int = 10) -> pd.DataFrame:
    """Find the genes whose vectors point the way of one gene's.

    Vectors are whitened over the whole table first, as extraction does: raw vectors of a language model all point much
    the same way, and their cosines say little.

    Parameters
    ----------
    table
        The genes.
    gene
        Symbol, Ensembl id, synonym, or name in the table's index.
    k
        How many, the gene itself not counted.

    Returns
    -------
    ``(k,)`` rows, the most alike first: index = name in the table, ``symbol``, ``organism``, ``cosine``, ``text``.

    Raises
    ------
    GenesError
        If there is no such gene, or the name means several; says which names come close. If the table holds symbols
        without vectors.
    """
    if not table.width:
        msg = "The table holds symbols without vectors, so no gene is like another. Build one: scstore genes build."
        raise GenesError(msg)
    row = find_gene(table, gene)
    white = whiten(table.vectors)
    white /= np.maximum(np.linalg.norm(white, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    cosine = white @ white[row]
    order = np.argsort(-cosine, kind="stable")
    order = order[order != row][:k]
    found = table.obs.iloc[order][["symbol", "organism"]]
    return found.assign(cosine=cosine[order].astype(float), text=table.obs["text"].iloc[order])


def find_gene(table: GeneTable, name: str) -> int:
    """The row of a gene by its name in the index, symbol, Ensembl id or synonym, the first of these that knows it.

    Raises
    ------
    GenesError
        If none does, or several genes have that name.
    """
    obs = table.obs
    stable = name.partition(".")[0] if name.startswith("ENS") else name
    synonyms = ("|" + obs["synonyms"] + "|").str.contains(f"|{name}|", regex=False)
    for known in (obs.index == name, obs["symbol"] == name, obs["ensembl_id"] == stable, synonyms):
        rows = np.flatnonzero(np.asarray(known) & bool(name))
        if len(rows) > 1:
            choices = ", ".join(f"{obs.index[row]} ({obs['organism'].iloc[row] or 'no organism'})" for row in rows[:5])
            msg = f"{name} names {len(rows):,} genes of the table: {choices}. Give one of these names."
            raise GenesError(msg)
        if len(rows):
            return int(rows[0])
    folded: dict[str, set[str]] = {}
    for symbol in obs["symbol"]:
        folded.setdefault(str(symbol).casefold(), set()).add(str(symbol))
    alike = difflib.get_close_matches(name.casefold(), folded, n=SUGGESTIONS)
    close = [symbol for found in alike for symbol in sorted(folded[found])]
    hint = f" Close to it: {', '.join(close)}." if close else ""
    msg = f"{name}: no such gene in the table.{hint}"
    raise GenesError(msg)
