"""``scstore demo``: real blood cells through a real frozen transformer, and three heads that annotate them.

The 700 peripheral blood cells that scanpy carries (10x Genomics' 68k PBMC, reduced; log-normalised; ``bulk_labels``)
and the embedded model all-MiniLM-L6-v2. No network.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.console import Output
from scstore.errors import MissingExtraError
from scstore.fsio import check_output
from scstore.store.reader import Store

__all__ = ["demo"]

LABEL = "bulk_labels"
HEADS = ("linear", "mlp", "knn")
DESCRIPTIONS = {
    "readout_wmean_l1": "readout wmean, layer 1",
    "readout_wmean_l6": "readout wmean, layer 6",
    "readout_last_l1": "readout class token, layer 1",
    "readout_last_l6": "readout class token, layer 6",
    "genept": "GenePT-w (no LLM pass)",
    "genept_random": "- GenePT-w, random vectors",
    "X": "- expression, PCA 20",
}
RANDOM_READOUT = "- readout, random vectors"
NO_MODEL = "- random vectors + express."
DEFAULT = "readout + GenePT-w + express."


def demo(folder: Path, *, overwrite: bool = False, output: Output | None = None) -> dict[str, Any]:
    """Run the whole path on real cells and leave every file of it in ``folder``.

    Parameters
    ----------
    folder
        Where the files go.
    overwrite
        Replace an earlier demo's folder.
    output
        Where to say what happens.

    Returns
    -------
    dict
        ``table`` (macro-F1 and accuracy by row and head), ``files``, ``seconds``.

    Raises
    ------
    MissingExtraError
        If the demo's packages are not installed.
    OutputError
        If the folder exists.
    """
    if importlib.util.find_spec("scanpy") is None:
        needs = "The demo"
        raise MissingExtraError(needs, "demo")
    from scstore.extraction.extract import extract
    from scstore.gene_tables.build import build_genes
    from scstore.panels.fit import panel

    output = output or Output(quiet=True)
    tell = output.reporter
    begun = time.monotonic()
    check_output(folder, overwrite=overwrite)
    folder.mkdir(exist_ok=True)
    reference, new = _cells(folder)
    tell.note(f"cells: {reference} to learn from, {new} held out (700 blood cells, labels in {LABEL})")

    tell.note("\n# which genes may enter: a panel, fitted on the reference alone")
    panel_file = folder / "panel.h5ad"
    panel(reference, panel_file, label=LABEL, expression="lognorm", overwrite=True, progress=tell)

    stores: dict[str, Store] = {}
    tell.note("\n# the frozen model, once over every cell")
    how: dict[str, Any] = {
        "model": "minilm",
        "panel": str(panel_file),
        "expression": "lognorm",
        "overwrite": True,
    }
    stores["ref"] = extract(reference, folder / "ref.zarr", progress=tell, **how)
    stores["new"] = extract(
        new,
        folder / "new.zarr",
        like=folder / "ref.zarr",
        expression="lognorm",
        overwrite=True,
        progress=tell,
    )
    tell.note("\n# the control: the same, with random vectors in the place of the genes'")
    random_genes = folder / "random_genes.h5ad"
    width = stores["ref"].view("genept").shape[1]
    build_genes(random_genes, cells=reference, encoder=f"random:{width}", overwrite=True, progress=tell)
    for name, cells in (("ref", reference), ("new", new)):
        target = folder / f"{name}_random.zarr"
        stores[f"{name}_random"] = extract(cells, target, genes=str(random_genes), progress=tell, **how)

    tell.note("\n# heads, on the CPU, from the stores alone")
    truth = stores["new"].obs[LABEL].astype(str).to_numpy()
    table, predictions = _table(stores, truth, folder)
    files = _write(folder, stores, predictions, truth)
    seconds = time.monotonic() - begun
    _print(output, table, files, seconds, n_new=len(truth))
    return {"table": table, "files": {name: str(path) for name, path in files.items()}, "seconds": seconds}


def _cells(folder: Path) -> tuple[Path, Path]:
    """Split scanpy's cells, two in three to learn from, the same share of every label."""
    from sklearn.model_selection import train_test_split

    spec = importlib.util.find_spec("scanpy")
    assert spec is not None  # noqa: S101  # checked by the caller
    assert spec.origin is not None  # noqa: S101
    # the bundled file itself: importing scanpy takes longer than the model's pass over the cells
    full = anndata.read_h5ad(Path(spec.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad")
    cells = anndata.AnnData(X=full.raw.X, obs=full.obs[[LABEL]].copy(), var=full.raw.var[[]].copy())
    train, test = train_test_split(np.arange(cells.n_obs), test_size=1 / 3, random_state=0, stratify=cells.obs[LABEL])
    paths = folder / "reference.h5ad", folder / "new.h5ad"
    for path, rows in zip(paths, (train, test), strict=True):
        cells[np.sort(rows)].copy().write_h5ad(path)
    return paths


def _table(
    stores: Mapping[str, Store], truth: NDArray[Any], folder: Path
) -> tuple[dict[str, dict[str, dict[str, float]]], pd.DataFrame]:
    """Every view alone, and the default together, under every head; the default heads are saved."""
    from sklearn.metrics import accuracy_score, f1_score

    from scstore.annotation.fit import fit
    from scstore.annotation.predict import predict

    together = stores["ref"].default_views
    rows: dict[str, tuple[str, tuple[str, ...]]] = {
        DESCRIPTIONS[name]: ("", (name,)) for name in DESCRIPTIONS if name in stores["ref"].views
    }
    rows[RANDOM_READOUT] = ("_random", (stores["ref"].default_view,))
    rows[NO_MODEL] = ("", ("genept_random", "X"))
    rows[DEFAULT] = ("", together)
    table: dict[str, dict[str, dict[str, float]]] = {}
    kept = pd.DataFrame()
    for title, (which, views) in rows.items():
        table[title] = {}
        for head in HEADS:
            saved = folder / "heads" / head if views == together else None
            trained = fit(stores[f"ref{which}"], saved, label=LABEL, head=head, views=views, overwrite=True)
            frame = predict(stores[f"new{which}"], trained, unassigned="none")  # every cell is of a known type
            table[title][head] = {
                "macro_f1": float(f1_score(truth, frame["label"], average="macro", zero_division=0)),
                "accuracy": float(accuracy_score(truth, frame["label"])),
            }
            if saved is not None and head == "linear":
                kept = frame
    return table, kept


def _write(
    folder: Path, stores: Mapping[str, Store], predictions: pd.DataFrame, truth: NDArray[Any]
) -> dict[str, Path]:
    from scstore.annotation.predict import write_predictions
    from scstore.report.plots import confusion_figure, embed, umap_figure
    from scstore.search.query import query

    files = {
        "annotated cells": folder / "annotated.h5ad",
        "nearest reference cells": folder / "neighbours.parquet",
        "UMAP": folder / "umap.png",
        "confusion matrix": folder / "confusion_matrix.png",
        "stores": folder / "ref.zarr",
        "heads": folder / "heads",
    }
    new = stores["new"]
    write_predictions(predictions, new, files["annotated cells"])
    query(new, stores["ref"], files["nearest reference cells"], columns=[LABEL], overwrite=True)
    layouts = {
        "expression of the panel (control)": _dense(new, "X"),
        "GenePT-w": _dense(new, "genept"),
        f"LLM readout ({new.default_view})": _dense(new, new.default_view),
    }
    umap_figure({title: embed(rows) for title, rows in layouts.items()}, list(truth), files["UMAP"])
    held_out = {"linear head, default views, cells held out": (list(truth), list(predictions["label"]))}
    confusion_figure(held_out, files["confusion matrix"])
    return files


def _dense(store: Store, view: str) -> NDArray[np.float32]:
    rows = store.view(view)[:]
    return np.asarray(rows.toarray() if view == "X" else rows, dtype=np.float32)


def _print(output: Output, table: Mapping[str, Any], files: Mapping[str, Path], seconds: float, *, n_new: int) -> None:
    output.table(
        f"macro-F1 (accuracy) on {n_new} cells held out; rows with - are controls without LLM or gene texts",
        ["features", *HEADS],
        [
            [title, *(f"{row[head]['macro_f1']:.3f} ({row[head]['accuracy']:.3f})" for head in HEADS)]
            for title, row in table.items()
        ],
    )
    folder = files["stores"].parent
    tell = output.reporter
    best = max(table, key=lambda title: table[title]["linear"]["macro_f1"])
    tell.note(f"best under the linear head: {best} (one split of few cells: differences below .05 mean nothing)")
    for name, path in files.items():
        tell.note(f"{name}: {path}")
    tell.note(f"done in {seconds:.0f} s. Next, on your own cells:")
    tell.note("  scstore panel cells.h5ad --label cell_type -o panels/mine.h5ad")
    tell.note("  scstore extract cells.h5ad -o stores/ref.zarr --model minilm --panel panels/mine.h5ad")
    tell.note("  scstore fit stores/ref.zarr --label cell_type -o heads/cell_type")
    tell.note(f"or look into the demo's: scstore info {folder / 'ref.zarr'}")
