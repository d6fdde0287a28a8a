"""10x Genomics matrices in HDF5: Cell Ranger 2 and later, CellBender.

10x stores features × cells by column, which is cells × features by row.
"""

from __future__ import annotations

from typing import Any

import h5py
import pandas as pd

from scstore.cells.matrices import Opened, decoded, open_compressed
from scstore.errors import CellsError, show_some
from scstore.untrusted.guards import Guard, damaged, reading

# What is read of the features beside their ids and symbols; the last three are of probes.
FEATURE_PARTS = ("feature_type", "genome", "gene_id", "gene_name", "filtered_probes")


def tenx_groups(root: h5py.File) -> list[str]:
    """Return the groups of an HDF5 file that hold a 10x matrix: ``["matrix"]``, or one per genome."""
    groups = [name for name in root if root.get(name, getclass=True) is h5py.Group]
    return [name for name in groups if "barcodes" in root[name] and "indptr" in root[name]]


def read_10x_hdf5(root: h5py.File, *, guard: Guard) -> Opened:
    groups = tenx_groups(root)
    if len(groups) != 1:
        held = f"it holds {len(groups)} genomes ({show_some(groups, limit=6)})"
        cure = "Write one to a file of its own (scanpy.read_10x_h5(path, genome=…))."
        raise CellsError(f"{guard.source}: {held}. {cure}")
    name = groups[0]
    group = guard.member(root, name)
    features = guard.member(group, "features")
    where, ids, symbols = (group, "genes", "gene_names") if features is None else (features, "id", "name")
    var = _features(where, guard=guard, ids=ids, symbols=symbols)
    barcodes = _strings(group, "barcodes", guard=guard)
    with reading(guard.source, f"{name}/shape"):
        n_features, n_cells = (int(n) for n in _array(group, "shape", guard=guard)[:])
    if (n_features, n_cells) != (len(var), len(barcodes)):
        said = f"{name}/shape says {n_features:,} features × {n_cells:,} cells"
        raise damaged(guard.source, f"{said}, but there are {len(var):,} features and {len(barcodes):,} barcodes.")
    parts = {part: _array(group, part, guard=guard) for part in ("indptr", "indices", "data")}
    matrix = open_compressed(**parts, shape=(n_cells, n_features), source=guard.source, name=name)
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))
    return Opened(obs, {"X": matrix}, var)


def _features(group: Any, *, guard: Guard, ids: str, symbols: str) -> pd.DataFrame:
    if guard.member(group, ids) is None:  # CellBender 0.1 writes no ids
        ids = symbols
    columns = {ids: _strings(group, ids, guard=guard), "symbol": _strings(group, symbols, guard=guard)}
    for part in FEATURE_PARTS:
        if guard.member(group, part) is not None:
            columns[part] = _strings(group, part, guard=guard)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        found = ", ".join(f"{len(values):,} of {part}" for part, values in columns.items())
        raise damaged(guard.source, f"The features do not fit each other: {found}.")
    return pd.DataFrame(columns).set_index(ids).rename_axis(None)


def _array(group: Any, part: str, *, guard: Guard) -> Any:
    array = guard.member(group, part)
    if not isinstance(array, h5py.Dataset):
        raise damaged(guard.source, f"{group.name.strip('/')}/{part} is missing.")
    return array


def _strings(group: Any, part: str, *, guard: Guard) -> list[str]:
    array = _array(group, part, guard=guard)
    with reading(guard.source, f"{group.name.strip('/')}/{part}"):
        return list(map(str, decoded(array[:])))
