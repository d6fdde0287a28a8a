"""Published gene vectors, such as GenePT's, as gene tables."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.anndata_files import open_matrix
from scstore.cells.gene_names import ENSEMBL_ID
from scstore.errors import GenesError
from scstore.genes.matching import match_genes
from scstore.genes.table import COLUMNS, GeneTable, unique_names
from scstore.untrusted.guards import EXHAUSTS, FLOOR, RATIO, Guard, reading
from scstore.untrusted.hdf5 import open_hdf5
from scstore.untrusted.kinds import check_path
from scstore.untrusted.pickles import read_pickle

# ``text_source`` of genes with unknown texts, and the kind of their encoder.
PUBLISHED = "published"

FORMS = "a pickle of {symbol: vector}, .npz, .parquet or .h5ad"
# Times its packed size that an .npz may have: vectors hardly pack, so a larger one is a bomb.
LARGEST_UNPACKED = 100


def read_published(
    path: str | os.PathLike[str], *, organism: str = "", gene_info: pd.DataFrame | None = None
) -> GeneTable:
    """Read published gene vectors as a gene table, in the order of the file; its first bytes decide the form.

    A pickle of ``{symbol: list or array}`` (nothing in it is run); an ``.npz`` with ``genes`` and ``vectors``, or one
    array a gene; a ``.parquet`` whose index, column ``gene`` or first column names the genes; an ``.h5ad``, genes ×
    dimensions. ``gene_info`` (:func:`scstore.genes.ncbi.read_gene_info`) adds the other names.
    """
    file = Path(path)
    names, rows = _read(file)
    vectors = _matrix(file, names, rows)
    obs = _named(names, organism=organism, gene_info=gene_info, source=str(file))
    identity = {"kind": PUBLISHED, "file": file.name, "digest": fsio.digest_file(file)}
    return GeneTable(obs, vectors, identity, "")


def _named(names: Sequence[str], *, organism: str, gene_info: pd.DataFrame | None, source: str) -> pd.DataFrame:
    """Return rows of a gene table for published names: symbols, Ensembl ids, or both mixed."""
    ids = [found[1] if (found := ENSEMBL_ID.fullmatch(name)) else "" for name in names]
    plain = [gene or name for gene, name in zip(ids, names, strict=True)]
    if "" in plain:
        raise GenesError(f"{source}: gene {plain.index('') + 1} has no name.")
    if repeated := list(dict.fromkeys(pd.Series(plain)[pd.Index(plain).duplicated()])):
        raise GenesError(f"{source}: genes occur more than once: {', '.join(repeated[:3])} ({len(repeated):,} in all).")
    obs = pd.DataFrame({column: [""] * len(plain) for column in COLUMNS}, dtype=str)
    obs["symbol"], obs["ensembl_id"], obs["organism"], obs["text_source"] = plain, ids, organism, PUBLISHED
    if gene_info is not None:
        _add_names(obs, gene_info)
    obs.index = unique_names(obs["symbol"])
    return obs


def _add_names(obs: pd.DataFrame, gene_info: pd.DataFrame) -> None:
    """Fill in what NCBI knows of the genes, in place; an old symbol stays, with the present one among its synonyms."""
    try:
        rows = match_genes(obs.set_index("symbol")[[]], gene_info.rename(index=str), min_match=0).table_rows
    except GenesError:  # no gene of that organism
        return
    genes, named = gene_info.to_dict("records"), obs.to_dict("records")
    for i in np.flatnonzero(rows >= 0).tolist():
        gene, own = genes[rows[i]], named[i]
        own["symbol"] = gene["symbol"] if own["ensembl_id"] else own["symbol"]
        own["ensembl_id"] = gene["ensembl_id"] or own["ensembl_id"]
        own["gene_id"] = gene["gene_id"]
        names = dict.fromkeys([gene["symbol"], *gene["synonyms"].split("|")])
        own["synonyms"] = "|".join(name for name in names if name not in ("", own["symbol"]))
    obs[:] = pd.DataFrame.from_records(named, columns=obs.columns)


def _read(file: Path) -> tuple[list[str], Any]:
    """Return names, and a matrix or one sequence for each."""
    check_path(file, error=GenesError)
    with reading(file, "it", error=GenesError, cure=f"Give {FORMS}."), file.open("rb") as handle:
        head = handle.read(8)
    if head.startswith(b"\x80") or file.suffix in (".pickle", ".pkl"):
        return _from_mapping(file, read_pickle(file))
    for magic, form, read in (
        (b"PK", ".npz of `genes` (strings, not objects) and `vectors` (genes × dimensions)", _from_npz),
        (b"PAR1", "Parquet", _from_parquet),
        (b"\x89HDF", ".h5ad of genes × dimensions", _from_h5ad),
    ):
        if head.startswith(magic):
            with reading(file, form, error=GenesError, cure="Make it anew."):
                return read(file)
    unpack = ": unpack it first (gunzip)" if head.startswith(b"\x1f\x8b") else ""
    raise GenesError(f"{file}: is none of {FORMS}{unpack}.")


def _from_mapping(file: Path, vectors: Mapping[Any, Any]) -> tuple[list[str], Any]:
    if other := [name for name in vectors if not isinstance(name, str)]:
        raise GenesError(f"{file}: the key {other[0]!r:.60} is not a gene name.")
    return list(vectors), list(vectors.values())


def _from_npz(file: Path) -> tuple[list[str], Any]:
    with zipfile.ZipFile(file) as archive:
        entries, packed = archive.infolist(), file.stat().st_size
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > LARGEST_UNPACKED * packed:
            raise GenesError(f"{file}: would unpack to {unpacked:,} bytes, {unpacked // packed:,} times its size.")
        for entry in entries:
            _check_npy(archive, entry)
    with np.load(file, allow_pickle=False) as arrays:
        if "vectors" not in arrays.files:
            return _from_mapping(file, {name: arrays[name] for name in arrays.files})
        genes, vectors = arrays["genes"], arrays["vectors"]
    if genes.ndim != 1 or genes.dtype.kind not in "US" or vectors.ndim != 2 or len(genes) != len(vectors):
        raise ValueError(f"`genes` is {genes.shape} of {genes.dtype} and `vectors` {vectors.shape}")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in genes], vectors


def _check_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuse an array that declares more than its entry holds: NumPy would allocate it before it reads."""
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"{entry.filename} is in version {version} of NumPy's format")
        shape, _, dtype = readers[version](member)
    declared = math.prod(shape) * dtype.itemsize
    if declared > entry.file_size and not dtype.hasobject:
        raise ValueError(f"{entry.filename} declares {declared:,} bytes (shape {shape}), but has {entry.file_size:,}")


def _from_parquet(file: Path) -> tuple[list[str], Any]:
    from pyarrow.parquet import read_metadata

    about = read_metadata(file)
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    # of one value, thousands pack into a byte
    _check_size(file, 2, sum(group.column(i).num_values for group in groups for i in range(group.num_columns)))
    frame = pd.read_parquet(file)
    if "gene" in frame:
        frame = frame.set_index("gene")
    elif isinstance(frame.index, pd.RangeIndex) and frame.shape[1]:
        frame = frame.set_index(frame.columns[0])
    names = list(map(str, frame.index))
    if frame.shape[1] == 1 and pd.api.types.is_object_dtype(frame.dtypes.iloc[0]):  # one column of lists
        return names, list(frame.iloc[:, 0])
    for column, dtype in frame.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            raise ValueError(f"column {column!r} does not hold numbers (and is not the column `gene`)")
    return names, frame.to_numpy(dtype=np.float64)


def _from_h5ad(file: Path) -> tuple[list[str], Any]:
    with open_hdf5(file, error=GenesError) as opened:
        if "X" not in opened:
            raise ValueError("there is no X")
        names, node = list(map(str, anndata.io.read_elem(opened["obs"]).index)), opened["X"]
        width = int(node.shape[1] if isinstance(node, h5py.Dataset) else node.attrs["shape"][1])
        _check_size(file, len(names), width)
        rows = open_matrix(node, shape=(len(names), width), name="X", guard=Guard(str(file)))
        return names, None if rows is None else rows.rows(0, len(names)).toarray()


def _check_size(file: Path, n_genes: int, width: int) -> None:
    """Refuse vectors that take far more memory than the file has bytes: one may stand under many names."""
    if (size := 4 * n_genes * width) > max(FLOOR, RATIO * file.stat().st_size):
        raise GenesError(f"{file}: its {n_genes:,} vectors of {width:,} numbers would take {size:,} bytes. {EXHAUSTS}")


def _matrix(file: Path, names: Sequence[str], rows: Iterable[Any]) -> NDArray[np.float32]:
    """Return ``(n_genes, width) float32``, checked gene by gene."""
    if not len(names):
        raise GenesError(f"{file}: contains no genes.")
    matrix: NDArray[np.float32] = np.empty((len(names), 0), dtype=np.float32)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        try:  # numbers alone: a list of one list under many names would unfold
            is_flat = isinstance(row, np.ndarray) or not isinstance(row[0], (list, tuple, str, bytes, dict))
            vector = np.asarray(row, dtype=None if isinstance(row, np.ndarray) else float) if is_flat else np.empty(0)
        except (TypeError, ValueError, LookupError):  # a ragged list, or no list
            vector = np.empty(0)
        if vector.ndim != 1 or not vector.size or vector.dtype.kind not in "fiu":
            raise GenesError(f"{file}: the vector of gene {name!r:.60} is not a list of numbers.")
        if i == 0:
            _check_size(file, len(names), len(vector))
            matrix = np.empty((len(names), len(vector)), dtype=np.float32)
        if len(vector) != matrix.shape[1]:
            raise GenesError(f"{file}: gene {name!r:.60} has {len(vector):,} numbers, not {matrix.shape[1]:,}.")
        with np.errstate(over="ignore"):
            matrix[i] = vector
        if not np.isfinite(matrix[i]).all():
            raise GenesError(f"{file}: the vector of gene {name!r:.60} is not finite.")
    return matrix
