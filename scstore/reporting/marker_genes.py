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
    """Return how much a standard deviation of each gene speaks for each label, ``(labels, genes)``, by symbols."""
    member = head.members_.get(EXPRESSION) if isinstance(head, FusedHead) else None
    if member is None or member.reducer is None or not isinstance(member.head, ExpressionHead):
        raise FeatureSpaceError(f"This {head.kind} head has no weights of genes: fit a linear head on the view X.")
    genes = pd.Index(head.record_["genes"]["symbol"])
    found = pd.DataFrame(member.head.weights(member.reducer.scale), index=head.classes_.astype(str), columns=genes)
    return found.loc[:, ~genes.duplicated()]


def strongest_genes(weights: pd.DataFrame, n_genes: int) -> list[str]:
    """Return the genes that speak most for each label, the strongest first; each gene stands at one label."""
    own = weights.where((weights > 0) & weights.eq(weights.max()))
    return [gene for _, row in own.iterrows() for gene in row.dropna().nlargest(n_genes).index]


def marker_expression(store: Store, head: AnyHead, labels: Labels, n_genes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return shares of each label's cells that express the strongest genes, and means over the highest mean."""
    weights = gene_weights(head)
    assert isinstance(head, FusedHead)  # noqa: S101  # it has weights
    found = head_features(store, head, "the head", Silent(), min_accuracy=0, expression_alone=True)
    genes = pd.Index(head.record_["genes"]["symbol"])
    shares, means = np.zeros((2, len(labels.names), len(genes)))
    for start, block in iter_blocks(found.views[EXPRESSION]):
        of_label = labels.codes[start : start + len(block)] == np.arange(len(labels.names))[:, None]
        shares += of_label @ (block > 0).astype(np.float32)
        means += of_label @ block
    named = [name for name in labels.names if name in weights.index]
    best = strongest_genes(weights.loc[named, genes[found.measured & ~genes.duplicated()]], n_genes)
    at = [list(genes).index(gene) for gene in best]
    share, mean = (pd.DataFrame(part[:, at] / labels.counts[:, None], labels.names, best) for part in (shares, means))
    return share, mean / mean.max().clip(lower=1e-9)
