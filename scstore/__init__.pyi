"""Public names: `__init__.py` reads here where each is, and imports it when it is first used."""

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

__version__: str
