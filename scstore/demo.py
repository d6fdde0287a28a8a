"""``scstore demo``: real blood cells through a real frozen transformer, and three heads that annotate them.

The 700 peripheral blood cells that scanpy carries (10x Genomics' 68k PBMC, reduced; log-normalised; ``bulk_labels``)
and the embedded model all-MiniLM-L6-v2. No network.
"""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import MissingExtraError
from scstore.fsio import check_output
from scstore.options import Option, Overwrite, Progress, public
from scstore.progress import Reporter
from scstore.store.reader import Store

LABEL = "bulk_labels"
HEADS: tuple[Literal["linear", "mlp", "knn"], ...] = ("linear", "mlp", "knn")
DESCRIPTIONS = {
    "readout_wmean_l1": "readout wmean, layer 1",
    "readout_wmean_l6": "readout wmean, layer 6",
    "readout_last_l1": "readout class token, layer 1",
    "readout_last_l6": "readout class token, layer 6",
    "genept": "GenePT-w (no LLM pass)",
    "genept_random": "- GenePT-w, random vectors",
    "X": "- expression",
}
RANDOM_READOUT = "- readout, random vectors"
NO_MODEL = "- random vectors + express."
REGRESSION = "- plain regression"
DEFAULT = "default head"

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # Macro-F1 and accuracy by row and head


@dataclass(frozen=True)
class DemoResult:
    """Scores by row and head, the files by what they hold, the number of held-out cells, and the time it took."""

    scores: Scores
    files: Mapping[str, Path]
    n_held_out: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        files = {name: str(path) for name, path in self.files.items()}
        return {"table": self.scores, "files": files, "seconds": self.seconds}

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """Return title, headings and rows, as text."""
        title = f"macro-F1 (accuracy) on {self.n_held_out} cells held out; rows with - use neither LLM nor texts"
        rows = [
            [name, *(f"{row[h]['macro_f1']:.3f} ({row[h]['accuracy']:.3f})" if h in row else "" for h in HEADS)]
            for name, row in self.scores.items()
        ]
        return title, ["features", *HEADS], rows

    def lines(self) -> list[str]:
        """Return what to say below the table."""
        best = max(self.scores, key=lambda name: self.scores[name]["linear"]["macro_f1"])
        return [
            f"best under the linear head: {best} (one split of few cells: differences below .05 mean nothing)",
            *(f"{name}: {path}" for name, path in self.files.items()),
            f"done in {self.seconds:.0f} s. Next, on your own cells:",
            "  scstore panel cells.h5ad --label cell_type -o panels/mine.h5ad",
            "  scstore extract cells.h5ad -o stores/ref.zarr --model minilm --panel panels/mine.h5ad",
            "  scstore fit stores/ref.zarr --label cell_type -o heads/cell_type",
            f"or look into the demo's: scstore info {self.files['stores']}, and open in a browser:",
            f"  {self.files['page about the annotated cells']}",
        ]


@public
def demo(
    folder: Annotated[str | os.PathLike[str], Option("Where its files go.", argument=True)] = "demo",
    *,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> DemoResult:
    """Run the whole path on 700 real blood cells: panel, extract, fit, predict, query. Needs ``scstore[demo]``.

    Returns
    -------
    DemoResult
        Scores of every head on every view, and the files that are left in the folder.

    Raises
    ------
    MissingExtraError
        If the demo's packages are not installed.
    OutputError
        If the folder exists.
    """
    if importlib.util.find_spec("scanpy") is None:
        raise MissingExtraError("The demo", "demo")
    begun = time.monotonic()
    target = check_output(folder, overwrite=overwrite, problem=_problem)
    target.mkdir(exist_ok=True)
    stores = _extract(target, progress or Reporter())
    truth = stores["new"].obs[LABEL].astype(str).to_numpy()
    scores, predictions = _score(stores, truth, target)
    files = _write(target, stores, predictions, truth)
    return DemoResult(scores, files, len(truth), time.monotonic() - begun)


def _problem(path: Path) -> str | None:
    """Return why a folder is not the demo's, which begins with two files of cells; its files are replaced by name."""
    begun = path.is_dir() and all((path / name).is_file() for name in ("reference.h5ad", "new.h5ad"))
    return None if begun or (path.is_dir() and not any(path.iterdir())) else "is not a folder of the demo"


def _extract(folder: Path, progress: Reporter) -> dict[str, Store]:
    """Return stores of the reference and the new cells, and of both with random gene vectors."""
    from scstore.extraction.extract import extract
    from scstore.gene_tables.build import build_genes
    from scstore.panels.choose_genes import panel

    reference, new = _cells(folder)
    progress.note(f"cells: {reference} to learn from, {new} held out (700 blood cells, labels in {LABEL})")
    progress.note("\n# which genes may enter: a panel, fitted on the reference alone")
    chosen = folder / "panel.h5ad"
    both: dict[str, Any] = {"expression": "lognorm", "overwrite": True, "progress": progress}
    panel(reference, chosen, label=LABEL, **both)

    progress.note("\n# the frozen model, once over every cell")
    with_panel = {"model": "minilm", "panel": str(chosen), **both}
    stores = {"ref": extract(reference, folder / "ref.zarr", **with_panel)}
    stores["new"] = extract(new, folder / "new.zarr", like=folder / "ref.zarr", **both)

    progress.note("\n# the control: the same, with random vectors in the place of the genes'")
    genes = folder / "random_genes.h5ad"
    width = stores["ref"].view("genept").shape[1]
    build_genes(genes, cells=reference, encoder=f"random:{width}", overwrite=True, progress=progress)
    for name, cells in (("ref", reference), ("new", new)):
        stores[f"{name}_random"] = extract(cells, folder / f"{name}_random.zarr", genes=str(genes), **with_panel)
    progress.note("\n# heads, on the CPU, from the stores alone")
    return stores


def _cells(folder: Path) -> tuple[Path, Path]:
    """Split scanpy's cells, two in three to learn from, the same share of every label."""
    from sklearn.model_selection import train_test_split

    spec = importlib.util.find_spec("scanpy")
    assert spec is not None and spec.origin is not None  # noqa: S101  # checked by the caller
    # the bundled file itself: importing scanpy takes longer than the model's pass over the cells
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's, about the age of the file
        full = anndata.read_h5ad(Path(spec.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad")
    cells = anndata.AnnData(X=full.raw.X, obs=full.obs[[LABEL]].copy(), var=full.raw.var[[]].copy())
    train, test = train_test_split(np.arange(cells.n_obs), test_size=1 / 3, random_state=0, stratify=cells.obs[LABEL])
    paths = folder / "reference.h5ad", folder / "new.h5ad"
    for path, rows in zip(paths, (train, test), strict=True):
        cells[np.sort(rows)].copy().write_h5ad(path)
    return paths


def _score(stores: Mapping[str, Store], truth: NDArray[Any], folder: Path) -> tuple[Scores, pd.DataFrame]:
    """Return scores of each view, of the regression and the saved default heads, and the linear predictions."""
    from scstore.annotation.fit import fit
    from scstore.annotation.predict import predict
    from scstore.evaluation.regression import regression_proba
    from scstore.heads.scores import label_scores

    store = stores["ref"]
    rows: list[tuple[str, str, tuple[str, ...] | None]]
    rows = [(DESCRIPTIONS[view], "", (view,)) for view in DESCRIPTIONS if view in store.views]
    rows += [
        (RANDOM_READOUT, "_random", (store.default_view,)),
        (NO_MODEL, "", ("genept_random", "X")),
        (DEFAULT, "", None),
    ]
    train, test = (stores[name].view("X")[:] for name in ("ref", "new"))
    labels, proba = regression_proba(train, store.obs[LABEL].to_numpy(object), test, groups=None, seed=0)
    plain = label_scores(truth, np.array(labels)[proba.argmax(axis=1)])
    scores: dict[str, dict[str, dict[str, float]]] = {title: {} for title, *_ in rows}
    scores[REGRESSION] = {"linear": {name: plain[name] for name in ("macro_f1", "accuracy")}}
    predictions = {}
    for title, which, views in rows:
        for head in HEADS:
            saved = folder / "heads" / head if title == DEFAULT else None
            trained = fit(stores[f"ref{which}"], saved, label=LABEL, head=head, views=views, overwrite=True)
            frame = predict(stores[f"new{which}"], trained, unassigned="none")  # every cell is of a known type
            found = label_scores(truth, frame["label"])
            scores[title][head] = {name: found[name] for name in ("macro_f1", "accuracy")}
            predictions[title, head] = frame
    return scores, predictions[DEFAULT, "linear"]


def _write(folder: Path, stores: Mapping[str, Store], predicted: pd.DataFrame, truth: NDArray[Any]) -> dict[str, Path]:
    from matplotlib.figure import Figure

    from scstore.labelling.annotate import annotate_to_file
    from scstore.reporting.marks import labels_of
    from scstore.reporting.plot_files import save
    from scstore.reporting.plots import confusion_counts, draw_confusions, draw_layouts, embed
    from scstore.search.query import query

    files = {
        "annotated cells": folder / "annotated.h5ad",
        "nearest reference cells": folder / "neighbours.parquet",
        "UMAP": folder / "umap.png",
        "confusion matrix": folder / "confusion_matrix.png",
        "page about the annotated cells": folder / "page.html",
        "stores": folder / "ref.zarr",
        "heads": folder / "heads",
    }
    new = stores["new"]
    out = files["annotated cells"]
    page = files["page about the annotated cells"]
    annotate_to_file(new, files["heads"] / "linear", output=out, report=page, unassigned="none", overwrite=True)
    query(new, stores["ref"], files["nearest reference cells"], columns=[LABEL], overwrite=True)
    layouts = {
        "true labels on expression (control)": embed(new.view("X")[:].toarray()),
        "true labels on GenePT-w": embed(new.view("genept")[:]),
        f"true labels on the LLM readout {new.default_view}": embed(new.view("readout")[:]),
    }
    draw_layouts(figure := Figure(), layouts, labels_of(truth))
    save(figure, files["UMAP"])
    held_out = {"linear default head, cells held out": confusion_counts(truth, predicted["label"].to_numpy(object))}
    draw_confusions(figure := Figure(), held_out)
    save(figure, files["confusion matrix"])
    return files
