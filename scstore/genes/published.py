"""Gene vectors that somebody else has made and published, GenePT's among them."""

from __future__ import annotations

import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import GenesError
from scstore.genes.table import COLUMNS, GeneTable, unique_names
from scstore.untrusted.hdf5 import check_hdf5
from scstore.untrusted.pickles import read_pickle

__all__ = ["PUBLISHED", "name_genes", "read_published"]

PUBLISHED = "published"
"""``text_source`` of genes whose text is not known, and the kind of their encoder."""

ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d{6,})(\.\d+)?")
FORMS = "a pickle of {symbol: vector}, .npz, .parquet or .h5ad"
LARGEST_UNPACKED = 100
"""Times its packed size that an .npz may have: vectors hardly pack, so a larger one is a bomb."""


def read_published(
    path: str | os.PathLike[str], *, organism: str = "", gene_info: pd.DataFrame | None = None
) -> GeneTable:
    """Read published gene vectors as a gene table.

    Parameters
    ----------
    path
        A pickle of ``{symbol: list or array}`` (read without running anything in it); an ``.npz`` with the arrays
        ``genes`` and ``vectors``, or one array a gene; a ``.parquet`` whose index, column ``gene`` or first column
        names the genes; or an ``.h5ad``, genes × dimensions. What it is, is told by its first bytes.
    organism
        Of the genes, empty where not known.
    gene_info
        From :func:`scstore.genes.ncbi.read_gene_info`: fills in symbols, Ensembl ids, GeneIDs and synonyms.

    Returns
    -------
    GeneTable
        In the order of the file. Its encoder is ``{"kind": "published", "file": …, "digest": …}``; texts are empty.

    Raises
    ------
    GenesError
        If it cannot be read; names repeat; vectors differ in length, or are no finite numbers.
    """
    file = Path(path)
    names, rows = _read(file)
    vectors = _matrix(file, names, rows)
    obs = name_genes(names, organism=organism, gene_info=gene_info, source=str(file))
    identity = {"kind": PUBLISHED, "file": file.name, "digest": fsio.digest_file(file)}
    return GeneTable(obs, vectors, identity, "")


def name_genes(names: Sequence[str], *, organism: str, gene_info: pd.DataFrame | None, source: str) -> pd.DataFrame:
    """Rows of a gene table for genes of which only the names are known: symbols, Ensembl ids, or both mixed.

    Parameters
    ----------
    names
        As published.
    organism
        Of all of them.
    gene_info
        Where names are looked up: as Ensembl id, symbol, or a synonym that means one gene only.
    source
        For messages.

    Raises
    ------
    GenesError
        If a name is empty, or names the same gene as another (a version of an Ensembl id is no part of its name).
    """
    ids = [found[1] if (found := ENSEMBL_ID.fullmatch(name)) else "" for name in names]
    plain = [gene or name for gene, name in zip(ids, names, strict=True)]
    if "" in plain:
        msg = f"{source}: gene {plain.index('') + 1} has no name."
        raise GenesError(msg)
    if repeated := _repeated(plain):
        msg = f"{source}: genes occur more than once: {', '.join(repeated[:3])} ({len(repeated):,} in all)."
        raise GenesError(msg)
    obs = pd.DataFrame({column: [""] * len(plain) for column in COLUMNS}, dtype=str)
    obs["symbol"], obs["ensembl_id"], obs["organism"], obs["text_source"] = plain, ids, organism, PUBLISHED
    if gene_info is not None:
        _look_up(obs, gene_info)
    obs.index = pd.Index(unique_names(list(obs["symbol"])), name="gene")
    return obs


def _look_up(obs: pd.DataFrame, gene_info: pd.DataFrame) -> None:
    """Fill in what NCBI knows of the genes, in place."""
    genes = gene_info.to_dict("records")
    by_id = {row["ensembl_id"]: row for row in genes if row["ensembl_id"]}
    by_symbol = {row["symbol"]: row for row in reversed(genes)}
    by_synonym: dict[str, list[dict[str, str]]] = {}
    for row in genes:
        for name in filter(None, row["synonyms"].split("|")):
            by_synonym.setdefault(name, []).append(row)
    taken = set(obs["symbol"])
    found: list[dict[str, str]] = []
    for published in obs["symbol"]:
        row = by_id.get(published) or by_symbol.get(published)
        synonymous = by_synonym.get(published, [])
        # an old symbol stands for its gene, unless the gene is there under its present one
        if row is None and len(synonymous) == 1 and synonymous[0]["symbol"] not in taken:
            row = synonymous[0]
            taken.add(row["symbol"])
        found.append({} if row is None else row)
    known = [row.get("symbol", "") for row in found]
    obs["ensembl_id"] = [row.get("ensembl_id") or own for row, own in zip(found, obs["ensembl_id"], strict=True)]
    obs["gene_id"] = [row.get("gene_id", "") for row in found]
    obs["synonyms"] = [
        "|".join(dict.fromkeys(name for name in (symbol, *row.get("synonyms", "").split("|")) if name not in ("", own)))
        for row, symbol, own in zip(found, known, obs["symbol"], strict=True)
    ]
    is_id = obs["symbol"].str.fullmatch(ENSEMBL_ID.pattern)
    for i in np.flatnonzero(is_id & (pd.Series(known) != "")):
        row = found[i]
        obs.loc[i, ["symbol", "synonyms"]] = [row["symbol"], row["synonyms"]]


def _read(file: Path) -> tuple[list[str], Any]:
    """Names, and their vectors: a matrix, or one sequence each."""
    try:
        with file.open("rb") as handle:
            head = handle.read(8)
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror}). Give the published vectors: {FORMS}."
        raise GenesError(msg) from error
    if head.startswith(b"PK"):
        return _from_npz(file)
    if head.startswith(b"PAR1"):
        return _from_parquet(file)
    if head.startswith(b"\x89HDF"):
        return _from_h5ad(file)
    if head.startswith(b"\x80") or file.suffix in (".pickle", ".pkl"):
        return _from_mapping(file, read_pickle(file))
    unpack = ": unpack it first (gunzip)" if head.startswith(b"\x1f\x8b") else ""
    msg = f"{file}: is none of {FORMS}{unpack}."
    raise GenesError(msg)


def _from_mapping(file: Path, vectors: Mapping[Any, Any]) -> tuple[list[str], Any]:
    for name in vectors:
        if not isinstance(name, str):
            msg = f"{file}: the key {name!r:.60} is no gene name."
            raise GenesError(msg)
    return list(vectors), list(vectors.values())


def _from_npz(file: Path) -> tuple[list[str], Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > LARGEST_UNPACKED * file.stat().st_size:
                msg = f"{file}: would unpack to {unpacked:,} bytes, {unpacked // file.stat().st_size:,} times its size."
                raise GenesError(msg)
            for entry in entries:
                _check_npy(file, archive, entry)
        with np.load(file, allow_pickle=False) as arrays:
            if "vectors" not in arrays.files:
                return _from_mapping(file, {name: arrays[name] for name in arrays.files})
            if "genes" not in arrays.files:
                msg = f"{file}: has the array `vectors` and no array `genes` that names its rows."
                raise GenesError(msg)
            genes, vectors = arrays["genes"], arrays["vectors"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, GenesError):
            raise
        msg = (
            f"{file}: cannot be read as .npz ({str(error).splitlines()[0]}). Its arrays must be `genes` (strings, not "
            "objects) and `vectors` (genes × dimensions)."
        )
        raise GenesError(msg) from error
    if genes.ndim != 1 or genes.dtype.kind not in "US" or vectors.ndim != 2 or len(genes) != len(vectors):
        msg = (
            f"{file}: `genes` is {genes.shape} of {genes.dtype} and `vectors` {vectors.shape}; expected names (n,) "
            "and vectors (n, width)."
        )
        raise GenesError(msg)
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in genes], vectors


def _check_npy(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuse an array that declares more than its entry holds: NumPy would allocate it before it reads."""
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            msg = f"{file}: {entry.filename} is in version {version} of NumPy's format. Write it with np.savez."
            raise GenesError(msg)
        shape, _, dtype = readers[version](member)
    declared = math.prod(shape) * dtype.itemsize
    if declared > entry.file_size and not dtype.hasobject:
        msg = f"{file}: {entry.filename} declares {declared:,} bytes (shape {shape}), but has {entry.file_size:,}."
        raise GenesError(msg)


def _from_parquet(file: Path) -> tuple[list[str], Any]:
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError, TypeError) as error:
        msg = f"{file}: cannot be read as Parquet ({str(error).splitlines()[0]})."
        raise GenesError(msg) from error
    if "gene" in frame:
        frame = frame.set_index("gene")
    elif isinstance(frame.index, pd.RangeIndex) and frame.shape[1]:
        frame = frame.set_index(frame.columns[0])
    names = list(map(str, frame.index))
    if frame.shape[1] == 1 and pd.api.types.is_object_dtype(frame.dtypes.iloc[0]):  # one column of lists
        return names, list(frame.iloc[:, 0])
    for column, dtype in frame.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            msg = f"{file}: column {column!r} holds no numbers. Leave the names (column `gene`) and the dimensions."
            raise GenesError(msg)
    return names, frame.to_numpy(dtype=np.float64)


def _from_h5ad(file: Path) -> tuple[list[str], Any]:
    check_hdf5(file, error=GenesError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # repeated names are refused below
            adata = anndata.read_h5ad(file)
        if adata.X is None:
            msg = "there is no X"
            raise ValueError(msg)
        matrix = adata.X if isinstance(adata.X, np.ndarray) else adata.X.toarray()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{file}: cannot be read as .h5ad of genes × dimensions ({str(error).splitlines()[0]})."
        raise GenesError(msg) from error
    return list(map(str, adata.obs_names)), matrix


def _matrix(file: Path, names: Sequence[str], rows: Any) -> NDArray[np.float32]:
    """``(n_genes, width) float32``, checked gene by gene."""
    if not len(names):
        msg = f"{file}: holds no genes."
        raise GenesError(msg)
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "fiu":
        matrix = _float32(rows)
    else:
        width = None
        matrix = np.zeros((0, 0), dtype=np.float32)
        for i, (name, row) in enumerate(zip(names, rows, strict=True)):
            vector = _vector(file, name, row)
            if width is None:
                width = len(vector)
                matrix = np.empty((len(names), width), dtype=np.float32)
            if len(vector) != width:
                msg = f"{file}: gene {name!r:.60} has {len(vector):,} numbers, those before it {width:,}."
                raise GenesError(msg)
            matrix[i] = vector
    if not matrix.shape[1]:
        msg = f"{file}: the vectors are empty."
        raise GenesError(msg)
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        bad = names[int(np.flatnonzero(~finite)[0])]
        msg = f"{file}: the vector of gene {bad!r:.60} is not finite ({int((~finite).sum()):,} such genes)."
        raise GenesError(msg)
    return matrix


def _vector(file: Path, name: str, row: Any) -> NDArray[np.float32]:
    try:
        vector = np.asarray(row)
    except ValueError:
        vector = np.zeros(0, dtype=object)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        msg = f"{file}: the vector of gene {name!r:.60} is no list of numbers."
        raise GenesError(msg)
    return _float32(vector)


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
