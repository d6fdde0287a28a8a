"""The genes by which a head tells its labels, and how much cells express of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scstore.annotation.head_inputs import head_features
from scstore.errors import FeatureSpaceError
from scstore.heads.artifact import AnyHead
from scstore.heads.fusion import FusedHead
from scstore.heads.linear import ExpressionHead
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import iter_blocks
from scstore.progress import Silent
from scstore.reporting.marks import Labels
from scstore.store.reader import Store


def gene_weights(head: AnyHead) -> pd.DataFrame:
    """Return how much a standard deviation of each gene speaks for each label, ``(labels, genes)``, by symbols.

    The largest is about 1. :class:`FeatureSpaceError` where the head weighs no genes.
    """
    member = head.members_.get(EXPRESSION) if isinstance(head, FusedHead) else None
    if member is None or member.reducer is None or not isinstance(member.head, ExpressionHead):
        raise FeatureSpaceError(f"This {head.kind} head has no weights of genes: fit a linear head on the view X.")
    genes = pd.Index(head.record_["genes"]["symbol"])
    found = pd.DataFrame(member.head.weights(member.reducer.scale), index=head.classes_.astype(str), columns=genes)
    return found.loc[:, ~genes.duplicated()]


def strongest_genes(weights: pd.DataFrame, n_genes: int) -> dict[str, list[str]]:
    """Return the genes that speak most for each label, the strongest first; each gene stands at one label."""
    own = weights.where((weights > 0) & weights.eq(weights.max()))
    return {label: list(row.dropna().nlargest(n_genes).index) for label, row in own.iterrows()}


def expression_of(store: Store, head: FusedHead, labels: Labels) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the share of each label's cells that express a gene, and its mean log-normalised expression.

    Both are ``(labels, genes)``, of the head's genes that were measured, by symbols.
    """
    found = head_features(store, head, "the head", Silent(), min_accuracy=0, expression_alone=True)
    shares, means = np.zeros((2, len(labels.names), len(head.record_["genes"]["symbol"])))
    for start, block in iter_blocks(found.views[EXPRESSION]):
        of_label = labels.codes[start : start + len(block)] == np.arange(len(labels.names))[:, None]
        shares += of_label @ (block > 0).astype(np.float32)
        means += of_label @ block
    genes = pd.Index(head.record_["genes"]["symbol"])
    kept = np.flatnonzero(found.measured & ~genes.duplicated())
    parts = (sums[:, kept] / labels.counts[:, None] for sums in (shares, means))
    return tuple(pd.DataFrame(part, index=list(labels.names), columns=genes[kept]) for part in parts)
