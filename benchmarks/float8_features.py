"""What float8 does to the features and to the heads on them: the embedded model on scanpy's blood cells.

    python benchmarks/float8_features.py [--json FILE] [--quick]

The linear layers of all blocks are replaced as `--precision float8` replaces them, and run through torch's own scaled
product, which the CPU has too (slowly): the numbers are those of the hardware, the speed is not.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scanpy as sc
from measuring import Findings, parser, table
from sklearn.metrics import accuracy_score, f1_score

import scstore
from scstore.extraction import model_loading as loading
from scstore.model.float8 import use_float8
from scstore.model.loading import Backbone

LABEL = "bulk_labels"
COSINE = 0.99
LOSS = 0.02


@contextmanager
def in_float8() -> Iterator[None]:
    """Let scstore load its models in float8 although this device has none."""
    real = loading.load_backbone

    def load(*words: Any, **named: Any) -> Backbone:
        backbone = real(*words, **named)
        use_float8(backbone.layers)
        return backbone

    loading.load_backbone = load
    try:
        yield
    finally:
        loading.load_backbone = real


def cosines(exact: scstore.Store, low: scstore.Store, view: str) -> np.ndarray:
    """Cosine of each cell's row in two stores."""
    a, b = (store.view(view)[:].astype(np.float64) for store in (exact, low))
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def scores(stores: dict[str, scstore.Store], view: str) -> dict[str, float]:
    """A linear head on a view: trained on the reference, scored on the cells held out."""
    truth = stores["new"].obs[LABEL].astype(str)
    labels = scstore.predict(stores["new"], scstore.fit(stores["ref"], label=LABEL, views=[view]))["label"]
    macro = f1_score(truth, labels, average="macro", zero_division=0)
    return {"macro_f1": float(macro), "accuracy": float(accuracy_score(truth, labels))}


def main() -> int:
    words = parser("What float8 does to the features and to the heads on them.").parse_args()
    findings = Findings("float8_features")
    full = sc.datasets.pbmc68k_reduced()
    cells = anndata.AnnData(full.raw.X, obs=full.obs[[LABEL]], var=full.raw.var[[]])[
        : 150 if words.quick else None
    ].copy()
    known = np.arange(cells.n_obs) % 3 > 0
    parts = {"ref": cells[known].copy(), "new": cells[~known].copy()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cells.write_h5ad(folder / "cells.h5ad")
        scstore.panel(parts["ref"], folder / "panel.h5ad", label=LABEL, expression="lognorm")
        scstore.build_genes(folder / "genes.h5ad", cells=folder / "cells.h5ad", encoder="minilm", device="cpu")

        def extract(name: str) -> dict[str, scstore.Store]:
            options = {name: str(folder / f"{name}.h5ad") for name in ("panel", "genes")}
            options |= {"model": "minilm", "device": "cpu", "expression": "lognorm", "store_dtype": "float32"}
            return {part: scstore.extract(parts[part], folder / f"{name}_{part}.zarr", **options) for part in parts}

        exact = extract("exact")
        with in_float8():
            low = extract("float8")
        rows = {}
        for view in [name for name in exact["ref"].views if name.startswith("readout")]:
            cosine = cosines(exact["new"], low["new"], view)
            rows[view] = {
                "cosine_lowest": float(cosine.min()),
                "cosine_median": float(np.median(cosine)),
                "float32": scores(exact, view),
                "float8": scores(low, view),
            }
    table(
        ["view", "cosine lowest", "median", "float32 macro-F1", "accuracy", "float8 macro-F1", "accuracy"],
        [
            [view, f"{row['cosine_lowest']:.4f}", f"{row['cosine_median']:.4f}"]
            + [f"{row[name][score]:.3f}" for name in ("float32", "float8") for score in ("macro_f1", "accuracy")]
            for view, row in rows.items()
        ],
    )
    findings.figures = {"n_cells": cells.n_obs, "views": rows}
    lost = np.mean([row["float32"]["macro_f1"] - row["float8"]["macro_f1"] for row in rows.values()])
    lowest = min(row["cosine_median"] for row in rows.values())
    findings.at_least("median cosine to float32, lowest view", lowest, COSINE, check=not words.quick)
    findings.at_most("mean macro-F1 lost", float(lost), LOSS, check=not words.quick)
    return findings.finish(words.json)


if __name__ == "__main__":
    sys.exit(main())
