"""CellTypist as a row of an evaluation, where it is installed: trained on the training cells' expression of all genes.

Source: Domínguez Conde et al., Science 2022 (doi 10.1126/science.abl5197).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse


def celltypist_proba(
    train: Any, labels: NDArray[np.object_], test: Any, *, genes: Sequence[str], seed: int
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Train CellTypist by its defaults; return classes and, scaled to sum 1, its probabilities of other cells."""
    import celltypist  # type: ignore[import-not-found,unused-ignore]

    logging.getLogger("celltypist").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, about versions of libraries and convergence
        options = {"labels": labels, "genes": list(genes), "check_expression": False}
        try:
            model = celltypist.train(train, **options)
        except TypeError:  # its default solver passes scikit-learn an option that newer versions do not know
            model = celltypist.train(train, **options, use_SGD=True, random_state=seed)
        cells = anndata.AnnData(
            X=sparse.csr_matrix(test),
            obs=pd.DataFrame(index=[str(i) for i in range(test.shape[0])]),
            var=pd.DataFrame(index=list(genes)),
        )
        found = celltypist.annotate(cells, model=model, majority_voting=False).probability_matrix
    proba = found.to_numpy(dtype=np.float64)
    proba = proba / np.maximum(proba.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return tuple(str(name) for name in found.columns), proba
