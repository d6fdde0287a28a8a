"""What a gene table holds."""

from __future__ import annotations

import os
from typing import Any

from scstore.genes.ncbi import coverage
from scstore.genes.table import load_gene_table

__all__ = ["describe_genes"]


def describe_genes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a gene table holds, as JSON values.

    Returns
    -------
    dict
        ``n_genes``, ``width``, ``encoder`` (its identity), ``template``, ``organisms`` (genes by organism), ``texts``
        (genes by what their text rests on), ``coverage`` (the same in words), ``digest``.

    Raises
    ------
    GenesError
        If the file is no gene table.
    """
    table = load_gene_table(path)
    counts = {column: table.obs[column].value_counts() for column in ("organism", "text_source")}
    organisms, texts = ({str(name): int(n) for name, n in values.items()} for values in counts.values())
    return {
        "n_genes": len(table),
        "width": table.width,
        "encoder": dict(table.encoder),
        "template": table.template,
        "organisms": organisms,
        "texts": texts,
        "coverage": coverage(table.obs),
        "digest": table.digest,
    }
