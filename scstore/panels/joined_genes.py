"""The genes of several inputs as one list: which gene of one is which gene of another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.genes.matching import ENSEMBL_ID

__all__ = ["JoinedGenes", "join_genes"]

Member = tuple[int, int]
"""An input's number, and the number of a gene in it."""


COLUMNS = ("name", "symbol", "ensembl_id")


class _Gene(NamedTuple):
    name: str
    symbol: str
    ensembl_id: str


@dataclass(frozen=True, eq=False)
class JoinedGenes:
    """Genes of several inputs.

    Attributes
    ----------
    obs
        ``(n_genes,)`` rows in the order of their names: ``symbol`` and ``ensembl_id`` (empty where unknown); the
        index holds unique names.
    rows
        For each input ``(n_input_genes,) int64``: the row of ``obs``, or -1 for a repetition that is added to an
        earlier gene.
    """

    obs: pd.DataFrame
    rows: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def n_inputs(self) -> NDArray[np.int64]:
        """``(n_genes,)``: how many of the inputs have each gene."""
        return np.asarray(sum(np.bincount(rows[rows >= 0], minlength=len(self)) for rows in self.rows))

    def spread(self, values: NDArray[np.float64], number: int) -> NDArray[np.float64]:
        """Values ``(n_input_genes,)`` of an input's genes as ``(n_genes,) float64``, NaN where it has no such gene."""
        rows = self.rows[number]
        result = np.full(len(self), np.nan)
        result[rows[rows >= 0]] = values[rows >= 0]
        return result


def join_genes(inputs: Sequence[pd.DataFrame], groups: Sequence[NDArray[np.int64] | None] | None = None) -> JoinedGenes:
    """Find the genes that several inputs have in common; the order of the inputs does not matter.

    Genes of different inputs are one gene where all their names are the same, or their Ensembl id; else where they
    have the same symbol, exactly, as long as no input has two genes of that symbol. Two genes of one input are never
    one.

    Parameters
    ----------
    inputs
        For each input ``(n_input_genes,)`` rows of ``name``, ``symbol`` and ``ensembl_id``, from
        :func:`scstore.genes.matching.gene_names`.
    groups
        For each input what that gave beside them: repetitions are left to the first gene of their name.
    """
    members = [
        (number, gene)
        for number, names in enumerate(inputs)
        for gene in range(len(names))
        if groups is None or (own := groups[number]) is None or own[gene] == gene
    ]
    genes = [[_Gene(*own) for own in zip(*(names[column] for column in COLUMNS), strict=True)] for names in inputs]
    clusters = {member: [member] for member in members}
    kinds: tuple[Callable[[_Gene], Hashable], ...] = (tuple, lambda gene: gene.ensembl_id, lambda gene: gene.symbol)
    for kind in kinds:
        named: dict[Any, list[Member]] = defaultdict(list)
        for number, gene in members:
            if key := kind(genes[number][gene]):
                named[key].append((number, gene))
        for _, same in sorted(named.items()):
            _merge(clusters, same)
    distinct = list({id(cluster): cluster for cluster in clusters.values()}.values())
    obs = _name([_agree([genes[number][gene] for number, gene in cluster]) for cluster in distinct])
    order = sorted(range(len(distinct)), key=lambda i: obs.index[i])
    rows = tuple(np.full(len(names), -1, dtype=np.int64) for names in inputs)
    for row, i in enumerate(order):
        for number, gene in distinct[i]:
            rows[number][gene] = row
    return JoinedGenes(obs.iloc[order], rows)


def _merge(clusters: dict[Member, list[Member]], same: Sequence[Member]) -> None:
    """Make one gene of those that share a name, unless that would make one gene of two genes of an input."""
    if len({number for number, _ in same}) < len(same):
        return
    parts = list({id(clusters[member]): clusters[member] for member in same}.values())
    together = [member for part in parts for member in part]
    if len(parts) > 1 and len({number for number, _ in together}) == len(together):
        for member in together:
            clusters[member] = together


def _agree(own: Sequence[_Gene]) -> _Gene:
    """What a gene is called; where the inputs differ, the first in the alphabet."""
    symbols = [gene.symbol for gene in own]
    return _Gene(
        name=min(gene.name for gene in own),
        symbol=min([symbol for symbol in symbols if not ENSEMBL_ID.fullmatch(symbol)] or symbols),
        ensembl_id=min([gene.ensembl_id for gene in own if gene.ensembl_id], default=""),
    )


def _name(genes: Sequence[_Gene]) -> pd.DataFrame:
    """Unique names: the inputs' own; where two genes share one, with the Ensembl id, else a number behind it."""
    names = [gene.name for gene in genes]
    repeated = {name for name, n in Counter(names).items() if n > 1}
    names = [
        f"{gene.name} ({gene.ensembl_id})" if gene.name in repeated and gene.ensembl_id else gene.name for gene in genes
    ]
    taken = set(names)
    seen: set[str] = set()
    for i in sorted(range(len(genes)), key=lambda i: (genes[i].name, genes[i].ensembl_id, genes[i].symbol)):
        name, number = names[i], 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{names[i]} ({number})"
        names[i] = name
        seen.add(name)
    return pd.DataFrame(
        {"symbol": [gene.symbol for gene in genes], "ensembl_id": [gene.ensembl_id for gene in genes]},
        index=pd.Index(names, name="gene", dtype=object),
    )
