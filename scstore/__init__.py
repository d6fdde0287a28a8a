"""Pay for the large language model once, on a GPU; annotate single cells for ever after, on a laptop.

``extract`` runs a frozen language model over cells and writes what its hidden states say into a store; ``fit``,
``predict`` and ``query`` work on stores, and on any AnnData with ``obsm`` matrices, without the model and without
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scstore.alignment.align import align
    from scstore.annotation.fit import fit
    from scstore.annotation.predict import predict
    from scstore.evaluation.evaluate import evaluate
    from scstore.extraction.extract import extract
    from scstore.gene_tables.build import build_genes
    from scstore.heads.across_genes import AcrossGenesHead
    from scstore.heads.artifact import load_head
    from scstore.heads.fusion import FusedHead
    from scstore.heads.knn import KNNHead
    from scstore.heads.linear import LinearHead
    from scstore.heads.mlp import MLPHead
    from scstore.panels.fit import panel
    from scstore.report.evaluation_files import save_evaluation
    from scstore.search.query import query
    from scstore.store.export import export
    from scstore.store.reader import Store
    from scstore.store.reader import open_store as open  # noqa: A004  # scstore.open(path), as in zarr and h5py
    from scstore.verification import verify

_PUBLIC = {
    "AcrossGenesHead": ("scstore.heads.across_genes", "AcrossGenesHead"),
    "FusedHead": ("scstore.heads.fusion", "FusedHead"),
    "KNNHead": ("scstore.heads.knn", "KNNHead"),
    "LinearHead": ("scstore.heads.linear", "LinearHead"),
    "MLPHead": ("scstore.heads.mlp", "MLPHead"),
    "Store": ("scstore.store.reader", "Store"),
    "align": ("scstore.alignment.align", "align"),
    "build_genes": ("scstore.gene_tables.build", "build_genes"),
    "evaluate": ("scstore.evaluation.evaluate", "evaluate"),
    "export": ("scstore.store.export", "export"),
    "extract": ("scstore.extraction.extract", "extract"),
    "fit": ("scstore.annotation.fit", "fit"),
    "load_head": ("scstore.heads.artifact", "load_head"),
    "open": ("scstore.store.reader", "open_store"),
    "panel": ("scstore.panels.fit", "panel"),
    "predict": ("scstore.annotation.predict", "predict"),
    "query": ("scstore.search.query", "query"),
    "save_evaluation": ("scstore.report.evaluation_files", "save_evaluation"),
    "verify": ("scstore.verification", "verify"),
}

__all__ = [
    "AcrossGenesHead",
    "FusedHead",
    "KNNHead",
    "LinearHead",
    "MLPHead",
    "Store",
    "align",
    "build_genes",
    "evaluate",
    "export",
    "extract",
    "fit",
    "load_head",
    "open",
    "panel",
    "predict",
    "query",
    "save_evaluation",
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
