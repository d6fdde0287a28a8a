"""A page about labelled cells: one HTML file that opens from disk, with no network and no server.

Python counts and words what the page says and writes it as JSON into ``page.html``, whose script shows it as text: no
name out of a file ever becomes HTML, and no other script may run there.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scstore import fsio
from scstore.annotation.annotated_cells import PREFIX, SPACE, label_colours
from scstore.annotation.head_inputs import head_features
from scstore.annotation.predict import TrainedHead
from scstore.annotation.record import CONFIDENCE_EDGES, NOVELTY_EDGES, counted, head_digest
from scstore.cells.labels import check_column
from scstore.errors import CellsError, FeatureSpaceError, printable
from scstore.heads.artifact import AnyHead, load_head
from scstore.heads.fusion import FusedHead
from scstore.options import Option, Overwrite, Progress, public
from scstore.progress import Reporter
from scstore.reporting import marks
from scstore.reporting.card import methods, verdict
from scstore.reporting.marks import LABEL, NO_VALUE, STATUSES, Labels, cross_counts, labels_of, read_scores
from scstore.search.query import query
from scstore.store.reader import Cells, Store, open_store

# Columns of obs that hold samples or clusters in most files, the likeliest first.
SAMPLES = ("sample", "sample_id", "donor", "donor_id", "patient", "patient_id", "orig.ident", "library", "batch")
CLUSTERS = ("leiden", "louvain", "seurat_clusters", "cluster", "clusters")
# Columns of obs that are shown beside scstore's own, at most, and values of one that is shown by colour or in a table.
MOST_COLUMNS, MOST_VALUES = 24, 100
NEIGHBOURS, MARKERS = 3, 3
MARK = '<meta name="generator" content="scstore">'  # in a page of scstore's, which may be replaced


@public
def report(
    cells: Annotated[Cells, Option("Cells that annotate labelled: an AnnData, .h5ad or Zarr.", argument=True)],
    output: Annotated[str | os.PathLike[str], Option("The page, such as page.html.", flags=("--output", "-o"))],
    *,
    head: Annotated[
        TrainedHead | None, Option("The head that labelled them: its marker genes, and nearest cells in its space.")
    ] = None,
    reference: Annotated[Cells | None, Option("Cells among which the nearest of each cell are found.")] = None,
    sample: Annotated[str | None, Option("obs column of samples. Usual names are found.")] = None,
    cluster: Annotated[str | None, Option("obs column of clusters. Usual names are found.")] = None,
    evaluation: Annotated[str | os.PathLike[str] | None, Option("Folder that evaluate wrote.")] = None,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> Path:
    """Write a page about labelled cells, to read and to show.

    One HTML file with everything in it: what to look at, genes, a UMAP, samples, doubtful cells, clusters, how sure the
    labels are, whether a language model helped, and a text for the methods. Of the cells ``obs``, ``X_umap`` and the
    record of the annotation are read.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    CellsError
        If the cells have no labels of scstore's.
    OutputError
        If the page exists, or is to be replaced and is not a page of scstore's.
    """
    target = check_page(output, overwrite=overwrite)
    progress, store = progress or Reporter(), open_store(cells)
    record = store.annotation
    if not record or not {f"{PREFIX}{name}" for name in ("label", "confidence", "status")} <= set(store.obs.columns):
        cure = "Label them: scstore annotate CELLS --head HEAD -o annotated.h5ad --report page.html"
        raise CellsError(f"{store.path}: these cells have no labels of scstore's. {cure}")
    scored = None if evaluation is None else _evaluated(Path(evaluation))
    umap = store.view("X_umap")[:] if "X_umap" in store.views else None
    with marks.as_annotate_writes(store):
        page = describe(store.obs, umap, record, sample=sample, cluster=cluster, source=str(store.path))
    trained = head if head is None or isinstance(head, AnyHead) else load_head(head)
    if trained is not None:
        digests = {str(record.get("head_digest", "")), head_digest(head)}
        if len(digests) == 2 and "" not in digests:
            raise FeatureSpaceError(f"{store.path}: another head labelled these cells. Name that one with head=.")
        page["markers"] = describe_markers(store, trained, labels_of(store.obs[LABEL]))
    if reference is not None:
        page["nearest"] = _nearest(store, open_store(reference), trained, str(record.get("label", "")), progress)
    return write_page(page | {"evaluation": scored}, target, overwrite=overwrite)


def check_page(output: str | os.PathLike[str], *, overwrite: bool) -> Path:
    return fsio.check_output(output, overwrite=overwrite, problem=_problem)


def _problem(path: Path) -> str | None:
    if path.is_file():
        with path.open("rb") as file:
            if MARK.encode() in file.read(1000):
                return None
    return "is not a page that scstore wrote"


def write_page(page: Mapping[str, Any], output: Path, *, overwrite: bool) -> Path:
    html = files("scstore.reporting").joinpath("page.html").read_text(encoding="utf-8")
    # in a script element only "<" can end it or begin a comment
    text = json.dumps(_plain(page), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    allowed = " ".join(
        f"{kind}-src '{_digest(found)}';"
        for kind in ("script", "style")
        for found in re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
    )
    parts = html.replace("{{allowed}}", allowed).split("{{data}}")
    with fsio.atomic_path(output, overwrite=overwrite) as partial:
        partial.write_text(text.join(parts), encoding="utf-8")
    return output


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def describe(
    obs: pd.DataFrame,
    umap: NDArray[Any] | None,
    record: Mapping[str, Any],
    *,
    sample: str | None = None,
    cluster: str | None = None,
    source: str,
) -> dict[str, Any]:
    """Return all that a page says of cells with labels in ``obs``, as JSON values; ``umap`` is ``(n, 2)``."""
    record = _plain(record)
    for option, column in (("sample", sample), ("cluster", cluster)):
        if column is not None:
            check_column(obs, column, option=option, source=source)
    sample, cluster = sample or _usual(obs, SAMPLES), cluster or _usual(obs, CLUSTERS)
    columns, left_out = _columns(obs, [name for name in dict.fromkeys((sample, cluster)) if name is not None])
    return {
        "title": Path(source).name,
        "made": record.get("made", ""),
        "verdict": verdict(obs, record, cluster),
        "genes": record.get("genes") or None,
        "ids": [str(name) for name in obs.index],
        "umap": None if umap is None or umap.shape[1] < 2 else _packed(umap[:, :2], np.float32),
        "columns": columns,
        "left_out": left_out,
        "samples": None if sample is None else _counts(obs, sample),
        "clusters": None if cluster is None else _counts(obs, cluster),
        "sure": _sure(obs, record),
        "label": record.get("label", ""),
        "group": record.get("group", ""),
        "views": list(record.get("views", [])),
        "methods": methods(record, len(obs)),
        "facts": _facts(record),
        **dict.fromkeys(("nearest", "markers", "evaluation")),
    }


def _plain(value: Any) -> Any:
    """Return what an AnnData or a page holds as JSON values, its text printable."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _usual(obs: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the column of a usual name that has some values and not too many."""
    found = {str(name).casefold(): name for name in obs.columns}
    columns = (found[name] for name in names if name in found)
    return next((str(name) for name in columns if 1 < obs[name].nunique() <= MOST_VALUES), None)


def _packed(values: Any, kind: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<")).tobytes()).decode()


def _columns(obs: pd.DataFrame, wanted: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return columns of numbers or of few values, scstore's first, and the names of those left out."""
    labels = list(obs[f"{PREFIX}label"].astype("category").cat.categories)
    colours = dict(zip(labels, label_colours(labels), strict=True))
    own = [name for name in obs.columns if str(name).startswith(PREFIX)]
    order = list(dict.fromkeys([*own, *wanted, *obs.columns]))
    found: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name in order:
        known = STATUSES if name == f"{PREFIX}status" else colours if "label" in name and name in own else {}
        column = _column(obs[name], known, is_wanted=name in own or name in wanted)
        if column is None or len(found) >= len(own) + MOST_COLUMNS:
            left_out.append(str(name))
        else:
            found.append({"name": str(name), **column})
    return found, left_out


def _column(values: pd.Series, known: Mapping[str, str], *, is_wanted: bool) -> dict[str, Any] | None:
    """Return a column as numbers, or as codes of its values with their colours; None where these are too many."""
    is_number = pd.api.types.is_numeric_dtype(values.dtype) and values.dtype.kind != "b"
    if is_number and (not is_wanted or values.dtype.kind == "f"):
        with np.errstate(over="ignore"):  # infinite on the page
            return {"numbers": _packed(values.to_numpy(dtype=np.float64, na_value=np.nan), np.float32)}
    labels = labels_of(values)
    if len(labels.names) > min(MOST_VALUES, 1 + len(values) // 2) and not is_wanted:
        return None
    colours = [known.get(name, colour) for name, colour in zip(labels.names, labels.colours, strict=True)]
    codes = _packed(labels.codes, np.uint8 if len(labels.names) <= 256 else np.uint32)
    return {"values": ["" if name == NO_VALUE else name for name in labels.names], "colours": colours, "codes": codes}


def _counts(obs: pd.DataFrame, column: str) -> dict[str, Any]:
    rows, labels = labels_of(obs[column]), labels_of(obs[LABEL])
    counts = cross_counts(rows, labels).tolist()
    return {"column": column, "rows": rows.names, "labels": labels.names, "counts": counts}


def _sure(obs: pd.DataFrame, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts of confidence and novelty, of these cells and of the head's held-out ones."""
    held_out = record.get("held_out") or {}
    found: dict[str, Any] = {"reliability": held_out.get("reliability"), "n": held_out.get("n", 0)}
    limits = (("confidence", CONFIDENCE_EDGES, "least_confidence"), ("novelty", NOVELTY_EDGES, "most_novelty"))
    for name, edges, limit in limits:
        values = obs.get(f"{PREFIX}{name}", pd.Series(dtype=float)).dropna().to_numpy(dtype=np.float64)
        if len(values):
            known = at if isinstance(at := record.get(limit), float) else None
            counts = {"cells": counted(values, edges), "held_out": held_out.get(name)}
            found[name] = {"edges": edges.tolist(), "limit": known, **counts}
    return found


def _facts(record: Mapping[str, Any]) -> list[tuple[str, object]]:
    model = " ".join(filter(None, (record.get("model"), record.get("model_digest"))))
    versions = ", ".join(f"{name} {number}" for name, number in sorted((record.get("versions") or {}).items()))
    facts = {
        "head": Path(str(record.get("head", ""))).name,
        "digest of the head": record.get("head_digest"),
        "trained on": record.get("trained_on"),
        "views": ", ".join(record.get("views", [])),
        "language model": model,
        "cells": Path(str(record.get("cells", ""))).name,
        "labelled": record.get("made"),
        "versions": versions,
    }
    return [(name, value) for name, value in facts.items() if value]


def describe_markers(store: Store, head: AnyHead, labels: Labels) -> dict[str, Any] | None:
    """Return how much cells with labels express of the genes that speak most for each; None where none are weighed."""
    try:
        marks.gene_weights(head)
    except FeatureSpaceError:
        return None
    shares, shades = marks.marker_expression(store, head, labels, MARKERS)
    parts = {name: part.round(3).to_numpy().tolist() for name, part in (("shares", shares), ("shades", shades))}
    return {"labels": labels.numbered, "genes": list(shares.columns), **parts}


def _nearest(store: Store, reference: Store, head: AnyHead | None, label: str, progress: Reporter) -> dict[str, Any]:
    """Return the nearest reference cells of each cell: in the space of novelty of the head, else by a view of both."""
    donor = _usual(reference.obs, SAMPLES)
    columns = [name for name in dict.fromkeys((label, donor)) if name and name in reference.obs]
    how: dict[str, Any] = {"k": min(NEIGHBOURS, reference.n_obs), "columns": columns, "progress": progress}
    if SPACE in store.views and isinstance(head, FusedHead) and head.rejection_ is not None:
        judge = head_features(reference, head, "the head", progress, min_accuracy=0).judge
        rows = reference.usable_rows(allow_partial=True)
        places = np.concatenate([judge(rows[i : i + 4096]).places for i in range(0, len(rows), 4096)])
        placed = AnnData(obs=reference.obs.iloc[rows], obsm={SPACE: places.astype(np.float32)})
        placed.uns["scstore"] = {"annotation": store.annotation}  # by the same head
        if store.view(SPACE).shape[1] != places.shape[1]:
            raise FeatureSpaceError(f"{store.path}: another head labelled these cells. Name that one with head=.")
        found = query(store, placed, view=SPACE, **how).table
    else:
        found = query(store, reference, allow_partial=True, **how).table
    names, unique = pd.factorize(found["neighbour"])
    first = found.drop_duplicates("neighbour")[columns]
    about = [", ".join(map(str, row)) for row in first.itertuples(index=False)]
    codes = np.full((store.n_obs, how["k"]), -1, dtype=np.int32)
    distances = np.zeros(codes.shape, dtype=np.float32)
    rows = pd.Index(store.obs.index.astype(str)).get_indexer(found["cell_id"])
    codes[rows, found["rank"] - 1], distances[rows, found["rank"] - 1] = names, found["distance"]
    return {
        "k": how["k"],
        "ids": [str(name) for name in unique],
        "about": about,
        "codes": _packed(codes, np.int32),
        "distances": _packed(distances, np.float32),
    }


def _evaluated(folder: Path) -> dict[str, Any]:
    found, rows = read_scores(folder, ["macro_f1"]), []
    for row in found.rows:
        if folds := row.folds["macro_f1"]:
            mark = {"kind": row.mark.words, "colour": row.mark.colour, "seen": row.seen}
            rows.append({"name": row.words, **mark, "mean": float(np.mean(folds)), "folds": folds})
    return {"says": found.conclusion, "title": found.title, "rows": rows}
