"""The genes of several inputs as one list: which gene of one is which gene of another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.gene_names import ENSEMBL_ID
from scstore.genes.table import unique_names

# Number of an input, number of a gene in it.
Member = tuple[int, int]


class _Gene(NamedTuple):
    name: str
    symbol: str
    ensembl_id: str


@dataclass(frozen=True, eq=False)
class JoinedGenes:
    """Genes of several inputs: rows of ``obs`` with unique names, sorted.

    ``rows`` has for each input the row of each of its genes, or -1 for a repetition that is added to another gene.
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
        """Return values ``(n_input_genes,)`` of an input's genes as ``(n_genes,)``, NaN for genes that it lacks."""
        rows = self.rows[number]
        result = np.full(len(self), np.nan)
        result[rows[rows >= 0]] = values[rows >= 0]
        return result


def join_genes(inputs: Sequence[pd.DataFrame], groups: Sequence[NDArray[np.int64] | None] | None = None) -> JoinedGenes:
    """Find the genes that several inputs have in common; the order of the inputs does not matter.

    Genes of different inputs are one gene if all their names are the same, or their Ensembl id, or their symbol, in
    this order, as long as no input has two genes of that name. ``groups`` are repetitions in an input.
    """
    genes = {
        (number, gene): _Gene(*own)
        for number, names in enumerate(inputs)
        for gene, own in enumerate(zip(names["name"], names["symbol"], names["ensembl_id"], strict=True))
        if groups is None or (repeats := groups[number]) is None or repeats[gene] == gene
    }
    clusters = {member: [member] for member in genes}
    for columns in ((0, 1, 2), (2,), (1,)):  # all names, Ensembl id, symbol
        named: dict[tuple[str, ...], list[Member]] = defaultdict(list)
        for member, gene in genes.items():
            if any(key := tuple(gene[column] for column in columns)):
                named[key].append(member)
        for _, same in sorted(named.items()):
            _merge(clusters, same)
    distinct = {id(cluster): cluster for cluster in clusters.values()}.values()
    found = [(_agreed([genes[member] for member in cluster]), cluster) for cluster in distinct]
    found.sort(key=lambda pair: pair[0])
    rows = tuple(np.full(len(names), -1, dtype=np.int64) for names in inputs)
    for row, (_, cluster) in enumerate(found):
        for number, place in cluster:
            rows[number][place] = row
    return JoinedGenes(_frame([gene for gene, _ in found]), rows)


def _merge(clusters: dict[Member, list[Member]], same: Sequence[Member]) -> None:
    """Make one gene of those that share a name, unless that would join two genes of an input."""
    if len({number for number, _ in same}) < len(same):
        return
    parts = list({id(clusters[member]): clusters[member] for member in same}.values())
    together = [member for part in parts for member in part]
    if len(parts) > 1 and len({number for number, _ in together}) == len(together):
        for member in together:
            clusters[member] = together


def _agreed(own: Sequence[_Gene]) -> _Gene:
    """Return the names of one gene; where the inputs differ, the first in the alphabet."""
    symbols = [gene.symbol for gene in own]
    return _Gene(
        name=min(gene.name for gene in own),
        symbol=min([symbol for symbol in symbols if not ENSEMBL_ID.fullmatch(symbol)] or symbols),
        ensembl_id=min([gene.ensembl_id for gene in own if gene.ensembl_id], default=""),
    )


def _frame(genes: Sequence[_Gene]) -> pd.DataFrame:
    """Return rows of the genes; names that repeat get the Ensembl id, else a number."""
    repeated = {name for name, n in Counter(gene.name for gene in genes).items() if n > 1}
    names = [f"{one.name} ({one.ensembl_id})" if one.name in repeated and one.ensembl_id else one.name for one in genes]
    index = unique_names(names)
    return pd.DataFrame(genes, columns=_Gene._fields, index=index).drop(columns="name")
