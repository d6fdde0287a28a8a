"""Reading a pickle of vectors without letting it call anything.

Published gene vectors (GenePT's among them) come as a pickled ``{symbol: list or array}``. A pickle is a program; this
reader knows containers, numbers and strings, and stands in for the handful of names that NumPy writes into pickles of
arrays with parts of its own, which build arrays of numbers and nothing else. Any other name is refused before it is
looked up.
"""

from __future__ import annotations

import math
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from scstore.errors import GenesError

__all__ = ["read_pickle"]

NUMBERS = "fiu"
"""Kinds of NumPy dtypes that are built: real numbers."""


class _ForbiddenError(Exception):
    """A pickle asks for a name that is not allowed."""


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: str = "", *_: object) -> None:
        found = np.dtype(code) if isinstance(code, str) and len(code) <= 4 else np.dtype(object)
        if found.kind not in NUMBERS:
            msg = f"an array of {code!r}, which are no numbers"
            raise _ForbiddenError(msg)
        self.dtype = found

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|") or any(state[2:5]):
            msg = "an array with a structured dtype"
            raise _ForbiddenError(msg)
        self.dtype = self.dtype.newbyteorder(order) if order != "|" else self.dtype


class _Array:
    """Stands in for ``numpy.ndarray``, and for a scalar of NumPy's."""

    array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _build(data, dtype, shape, "F" if fortran else "C")


def _build(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        msg = "an array that is not made of plain numbers"
        raise _ForbiddenError(msg)
    lengths = tuple(int(n) for n in shape)
    if min(lengths, default=0) < 0 or math.prod(lengths) * dtype.dtype.itemsize != len(data):
        msg = "an array whose bytes do not fit its shape"
        raise ValueError(msg)
    # copied: an array over a bytearray would keep looking at a buffer that the pickle still holds
    return np.frombuffer(bytes(data), dtype=dtype.dtype).reshape(lengths, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, *_: object) -> _Array:
    if kind is not _Array:
        msg = "an array of an unknown class"
        raise _ForbiddenError(msg)
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: object) -> _Array:
    made = _Array()
    made.array = _build(data, dtype, shape, str(order))
    return made


def _scalar(dtype: Any, data: Any) -> float:
    return float(_build(data, dtype, (1,), "C")[0])


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, by which old protocols write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        msg = f"_codecs.encode with {encoding!r}"
        raise _ForbiddenError(msg)
    return text.encode("latin1")


class _Function:
    """A function that a pickle may call, and cannot change (BUILD sets attributes of what it is given)."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        msg = "a change of the reader itself"
        raise _ForbiddenError(msg)


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _Function(_latin1),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Function(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Function(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Function(_from_buffer) for core in ("core", "_core")},
}
"""Every name that a pickle may use, and what it gets for it."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            msg = f"{module}.{name}"
            raise _ForbiddenError(msg) from None

    def persistent_load(self, pid: Any) -> NoReturn:
        msg = f"an object that is not in it ({pid!r:.60})"
        raise _ForbiddenError(msg)


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of containers, numbers, strings and arrays of numbers.

    Returns
    -------
    Its content, with ``(n,) …`` NumPy arrays for arrays.

    Raises
    ------
    GenesError
        If it asks for anything else, which is named and not run; or is damaged.
    """
    file = Path(path)
    try:
        with file.open("rb") as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the spelling of strings in old protocols
            content = _Reader(handle, encoding="latin1").load()
    except _ForbiddenError as error:
        msg = (
            f"{file}: this pickle asks for {error}. Only containers, numbers, strings and NumPy arrays of numbers are "
            "read, because a pickle can run code; nothing of it was run. Write the vectors as .npz or .parquet."
        )
        raise GenesError(msg) from error
    except (OSError, MemoryError, pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise _damaged(file, error) from error
    except (AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise _damaged(file, error) from error
    if not isinstance(content, dict):
        msg = f"{file}: holds a {type(content).__name__}; expected a mapping of gene symbols to vectors."
        raise GenesError(msg)
    return {name: value.array if isinstance(value, _Array) else value for name, value in content.items()}


def _damaged(file: Path, error: BaseException) -> GenesError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return GenesError(f"{file}: no whole pickle ({type(error).__name__}: {reason}). Fetch the file again.")
