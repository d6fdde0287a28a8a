"""Tables of cells and genes, as anybody writes them, with columns of types that AnnData stores everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unicodedata import category

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Kinds of columns that AnnData stores as they are.
STORABLE = frozenset({"string", "boolean", "integer", "floating", "empty"})

# Bytes of a column's name, which is a folder's name too; file systems take up to 255.
LONGEST_COLUMN = 200

RESERVED_COLUMNS = ("", ".", "..", "_index", "zarr.json")


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with columns that AnnData has a form for: numbers, booleans, text, categories of these.

    Dates, intervals and mixed values become text. The index has no name that is a column's, too.
    """
    columns = [_plain_column(frame.iloc[:, i]) for i in range(frame.shape[1])]
    plain = pd.DataFrame(dict(enumerate(columns)), index=frame.index)
    plain.index = frame.index.map(_storable)
    plain.columns = frame.columns.astype(str)
    name = plain.index.name
    plain.index.name = None if name is None or str(name) in plain.columns else str(name)
    return plain


def _plain_column(column: pd.Series) -> Any:
    if isinstance(column.dtype, pd.SparseDtype):
        column = pd.Series(np.asarray(column), index=column.index)
    if isinstance(column.dtype, pd.ArrowDtype):
        column = pd.Series(pd.array(column.to_numpy(dtype=object)), index=column.index)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _plain_categories(column)
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "bytes":
        column, kind = pd.Series(decoded(column.to_numpy(dtype=object)), index=column.index, dtype=object), "string"
    missing = column.isna()
    if kind == "string" or kind not in STORABLE or (column.dtype == object and kind != "empty"):
        column = column.astype(str).astype(object).map(_storable).mask(missing, None)
        return column.astype("category") if missing.any() else column  # text has no form for missing values everywhere
    if kind == "empty":
        return column.astype(object).astype("category")
    if pd.api.types.is_extension_array_dtype(column.dtype):
        if kind == "floating":
            return column.astype(np.float64)
        return column if missing.any() else column.astype(column.dtype.numpy_dtype)
    return column if column.dtype.isnative else column.astype(column.dtype.newbyteorder("="))


def _plain_categories(column: pd.Series) -> pd.Series:
    categories = column.cat.categories
    kind = pd.api.types.infer_dtype(categories, skipna=True)
    if kind == "bytes":
        categories = pd.Index(decoded(categories.to_numpy(dtype=object)), dtype=object)
    elif kind not in STORABLE or kind == "string":
        categories = categories.astype(str).astype(object).map(_storable)
    elif pd.api.types.is_extension_array_dtype(categories.dtype):
        categories = categories.astype(categories.dtype.numpy_dtype)
    if not categories.is_unique:  # 1 and "1"
        return column.astype(object).map(str, na_action="ignore").astype("category")
    return column.cat.rename_categories(categories)


def _storable(text: Any) -> Any:
    """Return text without what HDF5 cannot hold: null characters, half surrogates."""
    if not isinstance(text, str) or text.isprintable():
        return text
    return text.replace("\0", "").encode(errors="replace").decode()


def decoded(values: NDArray[Any]) -> NDArray[Any]:
    """Return text of bytes, whatever encoding was declared: UTF-8, or else that of Windows; other values as is."""
    if values.dtype.kind != "S" and not any(isinstance(value, bytes) for value in values.ravel()):
        return values
    text = [_text(value) if isinstance(value, bytes) else value for value in values.ravel().tolist()]
    return np.array(text, dtype=object).reshape(values.shape)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("cp1252", errors="replace")


def fitting_names(columns: Iterable[object]) -> list[str]:
    """Return names that a store can hold for the columns of a table: they are names of folders, too."""
    names: list[str] = []
    for column in map(str, columns):
        name = "".join("_" if sign in "/\\" or category(sign) in ("Cc", "Cs") else sign for sign in column)
        name = name.encode()[:LONGEST_COLUMN].decode(errors="ignore")
        if name in RESERVED_COLUMNS:
            name = f"column_{name}"
        tries, wanted = 1, name
        while name in names:
            tries += 1
            name = f"{wanted[: LONGEST_COLUMN // 4]}_{tries}"
        names.append(name)
    return names
