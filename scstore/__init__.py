"""Pay for the large language model once, on a GPU; annotate single cells on a laptop.

``extract`` runs a frozen language model over cells and writes its hidden states to a store; ``fit``, ``predict`` and
``query`` work on stores, and on any AnnData with ``obsm`` matrices, without the model and without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scstore import pl as pl
    from scstore.alignment.align import align as align
    from scstore.annotation.fit import fit as fit
    from scstore.annotation.predict import predict as predict
    from scstore.errors import ScstoreError as ScstoreError
    from scstore.errors import ScstoreWarning as ScstoreWarning
    from scstore.evaluation.evaluate import evaluate as evaluate
    from scstore.extraction.extract import extract as extract
    from scstore.gene_tables.build import build_genes as build_genes
    from scstore.heads.across_genes import AcrossGenesHead as AcrossGenesHead
    from scstore.heads.artifact import load_head as load_head
    from scstore.heads.fusion import FusedHead as FusedHead
    from scstore.heads.knn import KNNHead as KNNHead
    from scstore.heads.linear import LinearHead as LinearHead
    from scstore.heads.mlp import MLPHead as MLPHead
    from scstore.labelling.annotate import annotate as annotate
    from scstore.labelling.label_ids import label_ids as label_ids
    from scstore.labelling.name import name as name
    from scstore.panels.panel import panel as panel
    from scstore.reporting.evaluation_files import save_evaluation as save_evaluation
    from scstore.reporting.page import report as report
    from scstore.search.query import query as query
    from scstore.sharing import pull as pull
    from scstore.sharing import push as push
    from scstore.store.export import export as export
    from scstore.store.merge import merge as merge
    from scstore.store.reader import Store as Store
    from scstore.store.reader import open_store as open  # noqa: A004, F401  # scstore.open(path), as in zarr and h5py
    from scstore.verification import verify as verify

_MODULES = {
    "AcrossGenesHead": "scstore.heads.across_genes",
    "FusedHead": "scstore.heads.fusion",
    "KNNHead": "scstore.heads.knn",
    "LinearHead": "scstore.heads.linear",
    "MLPHead": "scstore.heads.mlp",
    "ScstoreError": "scstore.errors",
    "ScstoreWarning": "scstore.errors",
    "Store": "scstore.store.reader",
    "align": "scstore.alignment.align",
    "annotate": "scstore.labelling.annotate",
    "build_genes": "scstore.gene_tables.build",
    "evaluate": "scstore.evaluation.evaluate",
    "export": "scstore.store.export",
    "extract": "scstore.extraction.extract",
    "fit": "scstore.annotation.fit",
    "label_ids": "scstore.labelling.label_ids",
    "load_head": "scstore.heads.artifact",
    "merge": "scstore.store.merge",
    "name": "scstore.labelling.name",
    "open": "scstore.store.reader",
    "panel": "scstore.panels.panel",
    "predict": "scstore.annotation.predict",
    "pull": "scstore.sharing",
    "push": "scstore.sharing",
    "query": "scstore.search.query",
    "report": "scstore.reporting.page",
    "save_evaluation": "scstore.reporting.evaluation_files",
    "verify": "scstore.verification",
}
"""Public names and the modules that are imported when a name is first used."""

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("scstore")
    if name == "pl":
        return importlib.import_module("scstore.pl")
    if name not in _MODULES:
        raise AttributeError(f"module 'scstore' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), "open_store" if name == "open" else name)


def __dir__() -> list[str]:
    return [*__all__, "__version__", "pl"]
