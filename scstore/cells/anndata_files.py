"""AnnData and MuData on disk (``.h5ad``, ``.h5mu``, Zarr folders), with their matrices left there, and in memory."""

import re
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import read_elem
from scipy import sparse

from scstore.cells.gene_names import has_gene_expression
from scstore.cells.matrices import Opened, RowMatrix, decoded, dense_rows, is_numeric, open_compressed, plain_frame
from scstore.errors import CellsError, NewerFormatError, show, show_some
from scstore.untrusted.guards import Guard, damaged, reading
from scstore.untrusted.hdf5 import first_missing_filter
from scstore.untrusted.zarr import BoundedStore, lost_chunks

UNDERSTOOD: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("anndata", "raw", "dict", "null", "csr_matrix", "csc_matrix"), ("0.1.0",)),
    **dict.fromkeys(("array", "dataframe"), ("0.1.0", "0.2.0")),
}
# What the modality of gene expression is called: rna, gex, RNA:counts.
RNA = re.compile(r"(?:.*[^a-z])?(?:rna|gex|genes?|transcriptome)(?:[^a-z].*)?")


def read_anndata(root: Any, *, guard: Guard) -> Opened:
    """Read the metadata of an AnnData below a root group, h5py or Zarr, and open its matrices."""
    _check_encoding(root, guard.source, "the file")
    obs = read_frame(root, "obs", guard=guard)
    var = read_frame(root, "var", guard=guard)
    if obs is None or var is None:
        raise CellsError(f"{guard.source}: there is no {'obs' if obs is None else 'var'}, so it is not an AnnData.")

    slots: dict[str, RowMatrix] = {}

    def add(slot: str, group: Any, name: str, genes: pd.DataFrame) -> None:
        shape = len(obs), len(genes)
        matrix: RowMatrix | None
        try:
            matrix = open_matrix(guard.member(group, name), shape=shape, name=slot, guard=guard)
        except CellsError as error:
            if slot == "X":
                raise
            matrix = _doubtful(shape, error)  # an error for who reads it: what is not used does not decide
        if matrix is not None:
            slots[slot] = matrix

    add("X", root, "X", var)
    layers = guard.member(root, "layers")
    if isinstance(layers, (h5py.Group, zarr.Group)):
        for name in guard.names(layers):
            add(f"layers/{name}", layers, name, var)
    raw, prefix = guard.member(root, "raw"), ""
    if isinstance(raw, (h5py.Group, zarr.Group)):
        _check_encoding(raw, guard.source, "raw")
    else:
        raw, prefix = root, "raw."  # as anndata before 0.7 wrote them
    raw_var = read_frame(raw, f"{prefix}var", guard=guard)
    # one of other cells is of no use, and no fault of X
    if raw_var is not None and not (slots and _declared_shape(guard.member(raw, f"{prefix}X"))[:1] != (len(obs),)):
        add("raw", raw, f"{prefix}X", raw_var)
    return Opened(obs, slots, var, raw_var if "raw" in slots else None)


def open_matrix(node: Any, *, shape: tuple[int, int], name: str, guard: Guard) -> RowMatrix | None:
    """Open one matrix of an AnnData, dense, CSR or CSC; ``None`` for none, and for a layer that is not one."""
    if node is None:
        return None
    encoding = _check_encoding(node, guard.source, name)
    if encoding == "null":
        return None
    is_dense = isinstance(node, (h5py.Dataset, zarr.Array)) and node.ndim == 2 and is_numeric(node.dtype)
    if is_dense or encoding in ("csr_matrix", "csc_matrix"):
        with reading(guard.source, f"{name} (shape)"):
            found = _declared_shape(node)
        if found != shape:
            described = f"obs and var describe {shape[0]:,} cells × {shape[1]:,} genes"
            raise damaged(guard.source, f"{name} has shape {found or 'none'}, but {described}.")
        if is_dense:
            return dense_rows(node, guard.source, name)
        return _open_sparse(node, by_column=encoding == "csc_matrix", shape=shape, name=name, guard=guard)
    if name.startswith("layers/"):
        return None
    stored = f"stored as {show(encoding or 'something without a name')}, which is not a matrix of numbers"
    raise CellsError(f"{guard.source}: {name} is {stored}. Update scstore and anndata, or write a CSR matrix.")


def _declared_shape(node: Any) -> tuple[int, ...]:
    attributes = node.attrs if isinstance(node, (h5py.Group, zarr.Group)) else {}
    shape: Any = attributes.get("shape", attributes.get("h5sparse_shape", getattr(node, "shape", ())))
    return tuple(int(n) for n in shape)


def _open_sparse(group: Any, *, by_column: bool, shape: tuple[int, int], name: str, guard: Guard) -> RowMatrix:
    parts = {part: guard.member(group, part) for part in ("indptr", "indices", "data")}
    if missing := [part for part, array in parts.items() if not isinstance(array, (h5py.Dataset, zarr.Array))]:
        raise damaged(guard.source, f"{name} lacks its {' and '.join(missing)}.")
    matrix = open_compressed(**parts, shape=shape, by_column=by_column, source=guard.source, name=name)
    problem = doubtful_chunks(parts, name)
    return matrix if problem is None else _doubtful(matrix.shape, CellsError(f"{guard.source}: {problem}"))


def _doubtful(shape: tuple[int, int], error: CellsError) -> RowMatrix:
    """Return a matrix that cannot be read, or of which parts may be lost: an error for who asks for its rows."""

    def take(start: int, stop: int) -> NoReturn:
        raise error

    return RowMatrix(shape, take, "", "")


def doubtful_chunks(parts: Mapping[str, Any], name: str) -> str | None:
    """Return which chunks of a sparse matrix were lost, or may have been: Zarr writes no file for a chunk of zeros."""
    lost = {part: lost_chunks(array) for part, array in parts.items()}
    if not any(n for n, _ in lost.values()) or not parts["data"].shape[0]:
        return None
    # values may all be zeros; zeros beside others are as likely lost; indices are zeros in runs of one entry alone
    longest = int(np.diff(parts["indptr"][:].astype(np.int64)).max(initial=0))
    for part, is_lost in (("indptr", True), ("indices", longest > 1)):
        if lost[part][0] and is_lost:
            return f"{lost[part][0]:,} chunks of {name}/{part} are missing. Copy or download the folder again."
    n_lost, n_chunks = lost["data"]
    if 0 < n_lost < n_chunks:
        what = f"{n_lost:,} of {n_chunks:,} chunks of {name}/data have no file: stored zeros, or lost"
        return f"{what}. Copy the folder again, or write {name} without stored zeros (eliminate_zeros)."
    return None


def _check_encoding(node: Any, source: str, name: str) -> str:
    """Return a node's encoding type (``""`` when it has none), and refuse a version that is newer than understood."""
    with reading(source, f"{name} (attributes)"):
        encoding, written = (_text(node.attrs.get(f"encoding-{part}", "")) for part in ("type", "version"))
        if not encoding and "h5sparse_format" in node.attrs:
            encoding = _text(node.attrs["h5sparse_format"]) + "_matrix"
    understood = UNDERSTOOD.get(encoding, (written,))
    if written and written not in understood:
        raise NewerFormatError(f"{source}: {name}", f"{show(encoding)} {show(written)}", understood[-1])
    return encoding


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def read_frame(group: Any, name: str, *, guard: Guard) -> pd.DataFrame | None:
    """Read a data frame, after checking everything below it, with plain columns; ``None`` when there is none."""
    node = guard.member(group, name)
    if node is None:
        return None
    legacy = isinstance(node, h5py.Dataset) and node.dtype.names
    frame = _read_legacy_frame(group, name, guard=guard) if legacy else _read_frame(node, name, guard=guard)
    with reading(guard.source, name):
        return plain_frame(frame)


def _read_frame(node: Any, name: str, *, guard: Guard) -> pd.DataFrame:
    if not isinstance(node, (h5py.Group, zarr.Group)):
        raise damaged(guard.source, f"{name} is not a data frame.")
    _check_encoding(node, guard.source, name)
    if isinstance(node, h5py.Group) and (problem := first_missing_filter(node)) is not None:
        raise CellsError(f"{guard.source}: {problem}")
    # a file of anndata 0.7 is read all the same; nothing for the user to do
    with warnings.catch_warnings(action="ignore", category=anndata.OldFormatWarning), reading(guard.source, name):
        try:
            frame = read_elem(node)
        except UnicodeDecodeError:
            frame = _read_by_column(node)
        except Exception as error:
            if type(error).__name__ != "IORegistryError":
                raise
            why = " ".join(f"{error} {' '.join(getattr(error, '__notes__', ()))}".split())[:300]
            unknown = f"a column of {name} is in an encoding that anndata {version('anndata')} does not know"
            raise CellsError(f"{guard.source}: {unknown} ({why}). Update anndata, or drop that column.") from error
    if not isinstance(frame, pd.DataFrame):
        raise damaged(guard.source, f"{name} is not a data frame.")
    return frame


def _read_by_column(node: Any) -> pd.DataFrame:
    """Read a data frame with text that is not in the encoding it declares, as R writes it."""
    order, index = [_text(name) for name in node.attrs["column-order"]], _text(node.attrs["_index"])
    columns = {name: _read_column(node[name]) for name in order}
    return pd.DataFrame(columns, index=pd.Index(_read_column(node[index])), columns=order)


def _read_column(node: Any) -> Any:
    try:
        return read_elem(node)
    except UnicodeDecodeError:
        if isinstance(node, h5py.Dataset):
            return decoded(node[()])
    if "categories" in node:
        categories, is_ordered = decoded(node["categories"][()]), bool(node.attrs.get("ordered", False))
        return pd.Categorical.from_codes(node["codes"][()], categories, ordered=is_ordered)
    return pd.Series(decoded(node["values"][()])).mask(node["mask"][()], None).array


def _read_legacy_frame(group: Any, name: str, *, guard: Guard) -> pd.DataFrame:
    """Read ``obs`` or ``var`` as anndata before 0.7 wrote them: one array of records, categories under ``uns``."""
    with reading(guard.source, name):
        records = group[name][:]
        columns = {field: decoded(records[field]) for field in records.dtype.names}
        index = next((field for field in ("_index", "index") if field in columns), records.dtype.names[0])
        frame = pd.DataFrame(columns, index=columns.pop(index))
        uns = guard.member(group, "uns")
        for column in frame.columns if uns is not None else ():
            categories = guard.member(uns, f"{column}_categories")
            if categories is not None and frame[column].dtype.kind in "iu":
                frame[column] = pd.Categorical.from_codes(frame[column], decoded(np.atleast_1d(categories[()])))
    return frame


def read_modality(root: Any, *, source: str) -> tuple[Any, str]:
    """Return of MuData the group of gene expression and a line to print, of an AnnData its own group."""
    if "mod" not in root or "X" in root:
        return root, ""
    names = sorted(root["mod"])
    found = names if len(names) == 1 else [name for name in names if RNA.fullmatch(name.casefold())]
    if len(found) != 1:
        guard = Guard(source)
        frames = ((name, read_frame(root["mod"][name], "var", guard=guard)) for name in found or names)
        found = [name for name, var in frames if var is not None and has_gene_expression(var)]
    if len(found) != 1:
        held = f"it is MuData of {show_some(names, limit=6)}, not one of them called rna or of the type Gene Expression"
        raise CellsError(f"{source}: {held}. Write that of the genes to a file: mdata.mod[NAME].write_h5ad(PATH).")
    others = [name for name in names if name != found[0]]
    left = f"; left out: {show_some(others)}" if others else ""
    return root["mod"][found[0]], f"{source}: MuData, of which the modality {found[0]!r} is read{left}"


def with_shared_obs(obs: pd.DataFrame, shared: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that MuData keeps for the cells of all modalities."""
    titles = [title for title in shared.columns if title not in obs.columns and ":" not in str(title)]
    if not titles or not shared.index.is_unique or not obs.index.isin(shared.index).all():
        return obs
    return obs.join(shared[titles])


def read_whole(group: Any, path: Path) -> AnnData:
    """Read the AnnData in a group, Zarr or HDF5; what it holds is checked before compiled code sees it."""
    if isinstance(group, zarr.Group) and isinstance(group.store, BoundedStore):
        group.store.check_whole()
    elif (problem := first_missing_filter(group)) is not None:
        raise CellsError(f"{path}: {problem}")
    with reading(path, "the AnnData"):
        if isinstance(group, zarr.Group):
            whole = anndata.io.read_zarr(group)
        else:
            whole = read_elem(group) if "encoding-type" in group.attrs else anndata.io.read_h5ad(path)
        matrices = [whole.X] if whole.raw is None else [whole.X, whole.raw.X]
        for part in (whole.layers, whole.obsm, whole.varm, whole.obsp, whole.varp):
            matrices += part.values()
        for matrix in matrices:
            if sparse.issparse(matrix) and hasattr(matrix, "indptr"):
                matrix.check_format()
        return whole


def describe_anndata(adata: AnnData) -> str:
    return str(adata.filename) if adata.isbacked else "AnnData in memory"


def open_anndata(adata: AnnData) -> Opened:
    """Open the matrices of an AnnData; views are sliced as they are read, but for those of a backed one."""
    slots: dict[str, RowMatrix] = {}
    var, raw = plain_frame(adata.var), None if adata.raw is None else plain_frame(adata.raw.var)
    layers = sorted(f"layers/{name}" for name in adata.layers if name is not None)  # anndata 0.13 lists X under None
    for slot in ("X", *layers, "raw"):
        genes = raw if slot == "raw" else var
        if genes is not None and (rows := _open(adata, slot, shape=(adata.n_obs, len(genes)))) is not None:
            slots[slot] = rows
    return Opened(plain_frame(adata.obs), slots, var, raw if "raw" in slots else None)


def _take(adata: AnnData, slot: str) -> Any:
    if slot == "X":
        return adata.X
    return adata.raw.X if slot == "raw" else adata.layers[slot.removeprefix("layers/")]


def _open(adata: AnnData, slot: str, *, shape: tuple[int, int]) -> RowMatrix | None:
    source = describe_anndata(adata)
    # A view copies what it is asked for: asked by runs of rows, it copies no more than that. Not so a view of a backed
    # AnnData, which anndata reads into memory and does not slice again.
    sliced = adata.is_view and not adata.isbacked and adata.n_obs > 0
    matrix = _take(adata[:1] if sliced else adata, slot)
    if matrix is None:
        return None
    if not (hasattr(matrix, "dtype") and is_numeric(matrix.dtype)):
        if slot.startswith("layers/"):
            return None
        raise CellsError(f"{source}: {slot} is a {type(matrix).__name__}, not a matrix of numbers. Put counts into it.")
    if isinstance(matrix, (CSRDataset, CSCDataset)):
        return open_matrix(matrix.group, shape=shape, name=slot, guard=Guard(source))  # the user opened it
    if sparse.issparse(matrix) and (matrix.format != "csr" or not sliced):
        # by column, a run of rows costs a pass over everything: turned round once instead
        whole = _take(adata, slot)
        whole = whole if whole.format in ("csr", "csc") else whole.tocsr()
        parts = {part: getattr(whole, part) for part in ("indptr", "indices", "data")}
        by_column = whole.format == "csc"
        return open_compressed(**parts, shape=shape, by_column=by_column, source=source, name=slot)
    if sliced:
        return RowMatrix(shape, lambda start, stop: _take(adata[start:stop], slot).copy(), source, slot)
    return dense_rows(matrix, source, slot)
