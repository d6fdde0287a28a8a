"""``scstore name``: labels for cells with no labelled cell, from texts about genes and about cell types."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scstore.annotation.predict import PredictionCounts
from scstore.annotation.prediction_frames import UNASSIGNED, with_categories
from scstore.annotation.record import PACKAGES
from scstore.cells.labels import check_column, missing_labels
from scstore.errors import MissingExtraError, ModelError, OptionError, printable
from scstore.gene_tables.encoding import open_encoder
from scstore.genes.vectors import encode_texts
from scstore.labelling.annotate import (
    AnnotateOptions,
    ToAnnotate,
    check_outputs,
    make_annotation,
    write_and_return,
    write_labelled,
)
from scstore.naming.terms import Texts, Types, load_texts, read_types, refuse_unknown, without_text
from scstore.naming.text_scores import (
    Scores,
    cluster_means,
    gene_weights,
    neighbour_means,
    places_of,
    read_expression,
    score,
    speaking_genes,
)
from scstore.options import Option, Overwrite, Progress, Seed, fraction, with_options
from scstore.progress import Reporter
from scstore.reporting.card import TEXTS
from scstore.store.reader import Cells, Store, open_store

LEAD_P = 0.2  # of the lead over the second type, at most
ORDINALS = ("best", "second", "third")

CellTypes = Annotated[
    str | Sequence[str],
    Option(
        "Labels to choose among, a file of them or of markers (label, gene), a term of the Cell Ontology for all below "
        "it, or cl for its general types."
    ),
]


@dataclass(frozen=True, kw_only=True)
class NameOptions:
    """Options of :func:`name` and :func:`name_to_file`."""

    cluster: Annotated[str | None, Option("obs column of clusters, each of which gets one label.")] = None
    max_p: Annotated[
        float, fraction("No label where shuffled gene texts score as high this often; 1 gives every cell a label.")
    ] = 0.01
    output: Annotated[
        str | os.PathLike[str] | None,
        Option("named.h5ad, or a table: .csv, .tsv, .parquet, .xlsx.", flags=("--output", "-o")),
    ] = None
    report: Annotated[
        str | os.PathLike[str] | None, Option("Also write a page about the labels, such as page.html.")
    ] = None
    umap: Annotated[bool | None, Option("Make X_umap. By default where you have none.", advanced=True)] = None
    seed: Seed = 0
    overwrite: Overwrite = False
    progress: Progress = None

    @property
    def writing(self) -> AnnotateOptions:
        """How the output is written."""
        given = {name: getattr(self, name) for name in ("output", "report", "umap", "overwrite", "progress")}
        return AnnotateOptions(**given)


@with_options(NameOptions)
def name(cells: ToAnnotate, types: CellTypes, options: NameOptions) -> anndata.AnnData:
    """Label cells of which none is labelled, from texts about genes and about cell types.

    A gene speaks for a type where its text (NCBI) is near to the type's (Cell Ontology). Each cell is averaged with its
    nearest ones. It gets a label where shuffled gene texts hardly ever score as high; else it is
    ``unassigned``. Types that the cells' differences do not show cannot be found: give cells of several types.

    Returns
    -------
    AnnData
        The cells as :func:`scstore.annotate` gives them back, with the ``obs`` columns ``scstore_label``,
        ``scstore_status`` (``ok``, ``unsure``, or ``empty`` without a gene that is read), ``scstore_reason`` (the genes
        that spoke for the label, or why there is none), ``scstore_best_label``, ``scstore_second_label`` and
        ``scstore_third_label``, their ``scstore_score``, ``scstore_second_score`` and ``scstore_third_score`` in
        standard deviations of scores by chance, ``scstore_margin``, ``scstore_p_value`` of the best score,
        ``scstore_confidence`` (1 - p), and ``scstore_ontology_id`` of the label.

    Raises
    ------
    OptionError
        If nothing is known of a type, or there is no such column of clusters.
    GenesError
        If no gene is one of human or mouse.
    CellsError
        If there is no expression, or there are fewer than three cells.
    OutputError
        If the output exists, or its ending is not that of the input.

    Examples
    --------
    >>> adata = scstore.name(adata, ["B cell", "T cell", "monocyte"])  # doctest: +SKIP
    >>> adata = scstore.name(adata, "hematopoietic cell", cluster="leiden")  # doctest: +SKIP
    """
    store, table, annotation = _named(cells, types, options)
    return write_and_return(store, None, table, annotation, options.writing)


@with_options(NameOptions)
def name_to_file(cells: ToAnnotate, types: CellTypes, options: NameOptions) -> PredictionCounts:
    """Label cells as :func:`name`, into a copy of their file or a table.

    Raises
    ------
    OptionError
        If no ``output`` is given, and as :func:`name` does.
    """
    if options.output is None:
        raise OptionError("output=: name the file to write, such as named.h5ad or labels.xlsx.")
    store, table, annotation = _named(cells, types, options)
    counts = PredictionCounts()
    counts.add(table)
    write_labelled(store, None, table, annotation, options.writing)
    return counts


def _named(cells: Cells, given: str | Sequence[str], options: NameOptions) -> tuple[Store, pd.DataFrame, Any]:
    progress, store, texts = options.progress or Reporter(), open_store(cells), load_texts()
    check_outputs(store, options.writing)
    types = read_types(given)
    vectors = _type_vectors(types, texts, progress)
    rows = np.flatnonzero(store.committed)
    expression, genes = read_expression(store, rows, texts, progress)
    weights = gene_weights(
        texts.gene_vectors[genes["vector"].to_numpy()] @ vectors.T, _markers(types, list(genes["symbol"]))
    )
    places = places_of(expression)
    codes = None if options.cluster is None else _clusters(store, options.cluster, rows)
    usable = np.asarray(expression.getnnz(axis=1) > 0) & (True if codes is None else codes >= 0)
    full = expression[usable]
    means = neighbour_means(places[usable]) if codes is None else cluster_means(codes[usable])
    scores = score(full, means, weights, seed=options.seed)
    of_cell = np.arange(means.shape[0]) if codes is None else codes[usable]
    stands = (scores.p <= options.max_p) & ((scores.lead_p <= LEAD_P) | (options.max_p >= 1))
    table = _table(types, scores, of_cell, stands, _why(scores, stands, full, of_cell, weights, genes, options.max_p))
    table = with_categories(_whole(table, usable, store.obs.index[rows].astype(str)))
    record = _record(store, types, table, genes, options)
    return store, table, make_annotation(store, table, places, record, options.writing)


def _type_vectors(types: Types, texts: Texts, progress: Reporter) -> NDArray[np.float32]:
    """Return a vector of each type's text ``(t, width)``: its term's, else its words; zeros without either."""
    rows = texts.terms.index.get_indexer(types.ids)
    vectors = np.where(rows[:, None] >= 0, texts.term_vectors[rows], 0).astype(np.float32)
    if unknown := without_text(types):
        try:
            with open_encoder("minilm", revision=None, device="cpu", dtype=None, progress=progress) as (encoder, kept):
                encoded = encode_texts(encoder, unknown, kept=kept, progress=progress)
        except (MissingExtraError, ModelError):
            refuse_unknown(unknown)
        vectors[[types.labels.index(label) for label in unknown]] = texts.place(encoded)
    for label, found in zip(types.labels, types.ids, strict=True):
        if found and texts.terms.at[found, "name"] != label:
            progress.note(f"{label}: read as {texts.terms.at[found, 'name']} ({found})")
    return vectors


def _markers(types: Types, symbols: list[str]) -> sparse.csc_matrix | None:
    """Return which genes are markers of which type ``(g, t)``; None without markers."""
    if not types.markers:
        return None
    row_of = {symbol.casefold(): row for row, symbol in enumerate(symbols)}
    matrix = sparse.lil_matrix((len(symbols), len(types.labels)), dtype=np.float32)
    for column, label in enumerate(types.labels):
        for gene in types.markers.get(label, ()):
            if (row := row_of.get(gene.casefold())) is not None:
                matrix[row, column] = 1
    return matrix.tocsc()


def _clusters(store: Store, column: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each cell's cluster ``(n,)``, -1 for none."""
    check_column(store.obs, column, option="cluster", source=str(store.path))
    values = pd.Series(store.obs[column].to_numpy(dtype=object)[rows])
    missing = missing_labels(values)
    if missing.all():
        raise OptionError(f"cluster={column!r}: no cell of {store.path} has a value in it. Choose another column.")
    codes: NDArray[np.int64] = pd.factorize(values.astype(str).where(~missing))[0].astype(np.int64)
    return codes


def _why(
    scores: Scores,
    stands: NDArray[np.bool_],
    expression: sparse.csr_matrix,
    of_cell: NDArray[np.int64],
    weights: NDArray[np.float32],
    genes: pd.DataFrame,
    max_p: float,
) -> NDArray[np.object_]:
    """Return why each row has its label, or none, in words ``(n,)``."""
    best, symbols = scores.order[:, 0], genes["symbol"].to_numpy(dtype=object)
    words = np.full(len(best), f"shuffled gene texts score as high (p > {max_p:g})", dtype=object)
    words[(scores.p <= max_p) & ~stands] = f"shuffled gene texts lead as far over the second type (p > {LEAD_P:g})"
    clustered = len(best) < len(of_cell)
    for row in np.flatnonzero(stands) if clustered else np.unique(best[stands]):
        mine = np.arange(len(best)) == row if clustered else stands & (best == row)
        label = best[row] if clustered else row
        found = speaking_genes(expression, np.flatnonzero(mine[of_cell]), weights[:, label])
        words[mine] = f"{', '.join(symbols[found])} speak for it"
    return words


def _table(
    types: Types, scores: Scores, of_cell: NDArray[np.int64], stands: NDArray[np.bool_], why: NDArray[np.object_]
) -> pd.DataFrame:
    """Return the table of cells that have a gene to read."""
    labels, ids = np.array(types.labels, dtype=object), np.array(types.ids, dtype=object)
    columns: dict[str, Any] = {
        "label": np.where(stands, labels[scores.order[:, 0]], UNASSIGNED),
        "confidence": 1 - scores.p,
        "status": np.where(stands, "ok", "unsure").astype(object),
        "reason": why,
    }
    tops = [np.take_along_axis(scores.values, scores.order[:, [rank]], axis=1)[:, 0] for rank in _ranks(types)]
    columns |= {f"{ORDINALS[rank]}_label": labels[scores.order[:, rank]] for rank in _ranks(types)}
    columns |= {("score", "second_score", "third_score")[rank]: top.astype(np.float64) for rank, top in enumerate(tops)}
    columns |= {"margin": (tops[0] - tops[1]).astype(np.float64), "p_value": scores.p}
    columns["ontology_id"] = np.where(stands, ids[scores.order[:, 0]], "")
    return pd.DataFrame({title: values[of_cell] for title, values in columns.items()})


def _ranks(types: Types) -> range:
    return range(min(3, len(types.labels)))


def _whole(table: pd.DataFrame, usable: NDArray[np.bool_], ids: pd.Index) -> pd.DataFrame:
    """Return the table of all cells; those that are not usable are empty."""
    table = table.set_axis(np.flatnonzero(usable)).reindex(range(len(usable)))
    rest: dict[str, Any] = {title: UNASSIGNED for title in table.columns if title.endswith("label")}
    rest |= {"status": "empty", "reason": "expresses none of the genes that are read, or is in no cluster"}
    rest |= {"ontology_id": "", "p_value": 1.0}
    table = table.fillna(rest | {title: 0.0 for title in table.columns if title not in rest})
    return table.set_axis(pd.Index(ids, name="cell_id"))


def _record(
    store: Store, types: Types, table: pd.DataFrame, genes: pd.DataFrame, options: NameOptions
) -> dict[str, Any]:
    """Return how the labels were made, as the cells keep it."""
    return {
        "kind": TEXTS,
        "label": "",
        "labels": types.labels,
        "ontology_ids": types.ids,
        "views": ["X"],
        "n_genes": len(genes),
        "markers": sum(map(len, types.markers.values())),
        "cluster": options.cluster or "",
        "max_p": options.max_p,
        "least_confidence": 1 - options.max_p,
        "cells": printable(str(store.path)),
        "scstore": version("scstore"),
        "versions": {package: version(package) for package in PACKAGES},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
