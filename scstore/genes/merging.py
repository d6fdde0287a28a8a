"""Gene tables of several organisms in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scstore.errors import GenesError
from scstore.genes.table import GeneTable, unique_names
from scstore.spec import Space, differences

__all__ = ["merge_tables"]

EXAMPLES = 3


def merge_tables(tables: Sequence[GeneTable], sources: Sequence[str]) -> GeneTable:
    """Put gene tables below each other; each gene keeps its organism.

    Parameters
    ----------
    tables
        Two or more, of the same encoder and template.
    sources
        What they are called in messages.

    Returns
    -------
    GeneTable
        Names that several tables use get ``-1``, ``-2``, … behind them.

    Raises
    ------
    GenesError
        If encoders or templates differ (each difference is listed), or two tables hold the same symbol of the same
        organism.
    """
    first, begin = tables[0], sources[0]
    for table, source in zip(tables[1:], sources[1:], strict=True):
        if fields := differences(_made_by(first), _made_by(table)):
            msg = (
                f"{begin} and {source} were not made in the same way, so their vectors cannot be compared; what "
                "differs:\n  " + "\n  ".join(fields) + "\nBuild both with the same --encoder and --template."
            )
            raise GenesError(msg)
    owners: dict[tuple[str, str], str] = {}
    for table, source in zip(tables, sources, strict=True):
        names = set(zip(table.obs["organism"], table.obs["symbol"], strict=True))
        if shared := sorted(names & owners.keys()):
            organism = shared[0][0] or "an unnamed organism"
            examples = ", ".join(symbol for _, symbol in shared[:EXAMPLES]) + (", …" if len(shared) > EXAMPLES else "")
            msg = (
                f"{owners[shared[0]]} and {source} both hold {len(shared):,} genes of {organism}: {examples}. Merge "
                "tables of different organisms, or leave one of these out."
            )
            raise GenesError(msg)
        owners |= dict.fromkeys(names, source)
    obs = pd.concat([table.obs for table in tables])
    obs.index = pd.Index(unique_names(list(obs["symbol"])), name="gene")
    return GeneTable(obs, np.concatenate([table.vectors for table in tables]), first.encoder, first.template)


def _made_by(table: GeneTable) -> Space:
    encoder = dict(table.encoder)
    if "digest" in encoder:  # of the weights, which say more than the folder they lie in
        encoder.pop("model", None)
    return {"encoder": encoder, "template": table.template, "width": table.width}
