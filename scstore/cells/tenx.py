"""10x Genomics HDF5 matrices: Cell Ranger 3 and later (``matrix`` group) and 2 (a group per genome).

10x stores features × cells by column, which is cells × features by row: a run of cells is one contiguous
read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.anndata_files import Opened
from scstore.cells.matrices import RowMatrix, SelectedColumns, compressed_rows
from scstore.errors import CellsError
from scstore.escaping import show_some
from scstore.untrusted.guards import Guard, reading

__all__ = ["GENE_EXPRESSION", "only_genes", "read_10x_hdf5", "tenx_groups"]

GENE_EXPRESSION = "Gene Expression"

PARTS = ("barcodes", "data", "indices", "indptr", "shape")


def tenx_groups(root: h5py.File) -> list[str]:
    """Names of the groups of an HDF5 file that hold a 10x matrix: ``["matrix"]``, or one per genome."""
    return [
        name
        for name in root
        if isinstance(root.get(name, getclass=True), type)
        and root.get(name, getclass=True) is h5py.Group
        and all(part in root[name] for part in ("barcodes", "indptr"))
    ]


def read_10x_hdf5(root: h5py.File, *, guard: Guard) -> Opened:
    """Read the features and barcodes of a 10x HDF5 file and open its matrix.

    Raises
    ------
    CellsError
        If parts are missing or do not fit, if it holds several genomes, or nothing of type Gene Expression.
    """
    groups = tenx_groups(root)
    if len(groups) != 1:
        _refuse_genomes(groups, guard.source)
    name = groups[0]
    group = guard.member(root, name)
    parts = {part: _array(group, part, guard=guard) for part in PARTS}
    if guard.member(group, "features") is not None:
        features = guard.member(group, "features")
        var = _features(features, guard=guard)
    else:
        ids, symbols = (_strings(group, part, guard=guard) for part in ("genes", "gene_names"))
        var = _frame(ids, symbols, guard.source)
    barcodes = _strings(group, "barcodes", guard=guard)
    with reading(guard.source, f"{name}/shape"):
        n_features, n_cells = (int(n) for n in parts["shape"][:])
    if (n_features, n_cells) != (len(var), len(barcodes)):
        msg = (
            f"{guard.source}: {name}/shape says {n_features:,} features × {n_cells:,} cells, but there are "
            f"{len(var):,} features and {len(barcodes):,} barcodes. The file is damaged: copy or download it "
            "again."
        )
        raise CellsError(msg)
    matrix = compressed_rows(
        parts["indptr"],
        parts["indices"],
        parts["data"],
        shape=(n_cells, n_features),
        source=guard.source,
        name=name,
    )
    genes, rows = only_genes(var, matrix, source=guard.source)
    return Opened(pd.DataFrame(index=pd.Index(barcodes, dtype=object)), {"X": rows}, {"X": genes})


def _features(group: Any, *, guard: Guard) -> pd.DataFrame:
    ids, symbols = (_strings(group, part, guard=guard) for part in ("id", "name"))
    var = _frame(ids, symbols, guard.source)
    for column, part in (("feature_type", "feature_type"), ("genome", "genome")):
        if guard.member(group, part) is not None:
            values = _strings(group, part, guard=guard)
            if len(values) == len(var):
                var[column] = values
    return var


def _frame(ids: Sequence[str], symbols: Sequence[str], source: str) -> pd.DataFrame:
    if len(ids) != len(symbols):
        msg = (
            f"{source}: there are {len(ids):,} feature ids and {len(symbols):,} names. "
            "The file is damaged: copy or download it again."
        )
        raise CellsError(msg)
    return pd.DataFrame({"symbol": list(symbols)}, index=pd.Index(list(ids), dtype=object))


def _array(group: Any, part: str, *, guard: Guard) -> Any:
    array = guard.member(group, part)
    if not isinstance(array, h5py.Dataset):
        msg = (
            f"{guard.source}: {group.name.strip('/')}/{part} is missing. "
            "The file is damaged or not a 10x matrix: copy or download it again."
        )
        raise CellsError(msg)
    return array


def _strings(group: Any, part: str, *, guard: Guard) -> list[str]:
    array = _array(group, part, guard=guard)
    with reading(guard.source, f"{group.name.strip('/')}/{part}"):
        values = array[:]
        return [value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value) for value in values]


def only_genes(var: pd.DataFrame, matrix: RowMatrix, *, source: str) -> tuple[pd.DataFrame, RowMatrix]:
    """Keep the features of type Gene Expression; antibodies, guides and peaks are no genes.

    Parameters
    ----------
    var
        (n_features, …) index = Ensembl ids, columns ``symbol`` and, where known, ``feature_type`` and
        ``genome``.
    matrix
        (n_cells, n_features).
    source
        For messages.

    Returns
    -------
    The genes, (n_genes, …), and the matrix, (n_cells, n_genes).

    Raises
    ------
    CellsError
        If there are none, or they are of several genomes.
    """
    keep: NDArray[np.int64] = np.arange(len(var), dtype=np.int64)
    if "feature_type" in var.columns:
        keep = np.flatnonzero(var["feature_type"] == GENE_EXPRESSION).astype(np.int64)
        if len(var) and not len(keep):
            msg = (
                f"{source}: no feature is of type {GENE_EXPRESSION!r}; there is "
                f"{show_some(sorted(set(var['feature_type'])))}. Give the matrix that holds the gene counts."
            )
            raise CellsError(msg)
    genes = var.iloc[keep]
    genomes = set(genes["genome"]) - {""} if "genome" in genes.columns else set()
    if len(genomes) < 2:
        # Cell Ranger puts the genome before each id when a reference joins several
        prefixes = (re.match(r"(.+?)_+ENS[A-Z]*\d", str(name)) for name in genes.index)
        genomes = {found[1] for found in prefixes if found}
    if len(genomes) > 1:
        _refuse_genomes(sorted(genomes), source)
    return genes, matrix if len(keep) == len(var) else SelectedColumns(matrix, keep)


def _refuse_genomes(genomes: Sequence[str], source: str) -> None:
    msg = (
        f"{source}: it holds {len(genomes)} genomes ({show_some(genomes, limit=6)}), and the cells of one "
        "species are wanted. Write the cells and genes of one genome to a file of their own "
        "(scanpy.read_10x_h5(path, genome=…))."
    )
    raise CellsError(msg)
