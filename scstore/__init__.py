"""Pay for the large language model once, on a GPU; annotate single cells for ever after, on a laptop.

``extract`` runs a frozen language model over cells and writes what its hidden states say into a store; ``fit``,
``predict`` and ``query`` work on stores, and on any AnnData with ``obsm`` matrices, without the model and without
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scstore.heads.across_genes import AcrossGenesHead
    from scstore.heads.artifact import load_head
    from scstore.heads.fusion import FusedHead
    from scstore.heads.knn import KNNHead
    from scstore.heads.linear import LinearHead
    from scstore.heads.mlp import MLPHead
    from scstore.report.evaluation import save_evaluation
    from scstore.stores.export import export_h5ad as export
    from scstore.stores.reader import Store
    from scstore.stores.reader import open_store as open  # noqa: A004  # scstore.open(path), as in zarr and h5py
    from scstore.workflows.align import align
    from scstore.workflows.evaluate import evaluate
    from scstore.workflows.extract import extract
    from scstore.workflows.fit import fit
    from scstore.workflows.gene_tables import merge_genes, neighbours
    from scstore.workflows.genes import build_genes
    from scstore.workflows.index import build_index
    from scstore.workflows.panel import join_panels, panel
    from scstore.workflows.planning import ExtractOptions
    from scstore.workflows.predict import predict
    from scstore.workflows.query import query
    from scstore.workflows.summarise import summarise
    from scstore.workflows.verify import verify

_PUBLIC = {
    "AcrossGenesHead": ("scstore.heads.across_genes", "AcrossGenesHead"),
    "ExtractOptions": ("scstore.workflows.planning", "ExtractOptions"),
    "FusedHead": ("scstore.heads.fusion", "FusedHead"),
    "KNNHead": ("scstore.heads.knn", "KNNHead"),
    "LinearHead": ("scstore.heads.linear", "LinearHead"),
    "MLPHead": ("scstore.heads.mlp", "MLPHead"),
    "Store": ("scstore.stores.reader", "Store"),
    "align": ("scstore.workflows.align", "align"),
    "build_genes": ("scstore.workflows.genes", "build_genes"),
    "build_index": ("scstore.workflows.index", "build_index"),
    "evaluate": ("scstore.workflows.evaluate", "evaluate"),
    "export": ("scstore.stores.export", "export_h5ad"),
    "extract": ("scstore.workflows.extract", "extract"),
    "fit": ("scstore.workflows.fit", "fit"),
    "join_panels": ("scstore.workflows.panel", "join_panels"),
    "load_head": ("scstore.heads.artifact", "load_head"),
    "merge_genes": ("scstore.workflows.gene_tables", "merge_genes"),
    "neighbours": ("scstore.workflows.gene_tables", "neighbours"),
    "open": ("scstore.stores.reader", "open_store"),
    "panel": ("scstore.workflows.panel", "panel"),
    "predict": ("scstore.workflows.predict", "predict"),
    "query": ("scstore.workflows.query", "query"),
    "save_evaluation": ("scstore.report.evaluation", "save_evaluation"),
    "summarise": ("scstore.workflows.summarise", "summarise"),
    "verify": ("scstore.workflows.verify", "verify"),
}

__all__ = [
    "AcrossGenesHead",
    "ExtractOptions",
    "FusedHead",
    "KNNHead",
    "LinearHead",
    "MLPHead",
    "Store",
    "align",
    "build_genes",
    "build_index",
    "evaluate",
    "export",
    "extract",
    "fit",
    "join_panels",
    "load_head",
    "merge_genes",
    "neighbours",
    "open",
    "panel",
    "predict",
    "query",
    "save_evaluation",
    "summarise",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("scstore")
    if name not in _PUBLIC:
        msg = f"module 'scstore' has no attribute {name!r}"
        raise AttributeError(msg)
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
