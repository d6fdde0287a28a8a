"""CellTypist on a file of counts, run by the Python of an environment that has it; needs nothing of scstore.

python celltypist_annotate.py train REFERENCE LABEL MODEL writes a model. python celltypist_annotate.py annotate CELLS
MODEL OUTPUT reads counts, normalises them as CellTypist asks, labels them, and writes the AnnData with labels beside
it; its last line is JSON: the seconds of ``celltypist.annotate`` alone.
"""

from __future__ import annotations

import json
import sys
import time

import anndata
import celltypist
import numpy as np
from scipy import sparse


def read(file: str) -> anndata.AnnData:
    """Counts as log1p of counts per 10,000."""
    cells = anndata.read_h5ad(file)
    counts = sparse.csr_matrix(cells.X)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    counts.data *= np.repeat(10_000 / totals, np.diff(counts.indptr)).astype(counts.dtype)
    np.log1p(counts.data, out=counts.data)
    cells.X = counts
    return cells


if sys.argv[1] == "train":
    reference = read(sys.argv[2])
    labels = [str(label) for label in reference.obs[sys.argv[3]]]
    model = celltypist.train(reference.X, labels=labels, genes=list(reference.var_names), use_SGD=True)
    model.write(sys.argv[4])
else:
    tested = read(sys.argv[2])
    begun = time.perf_counter()
    found = celltypist.annotate(tested, model=sys.argv[3], majority_voting=False)
    spent = time.perf_counter() - begun
    found.to_adata().write_h5ad(sys.argv[4])
    print(json.dumps({"annotate_seconds": spent}))
