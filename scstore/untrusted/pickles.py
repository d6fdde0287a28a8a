"""Pickles of vectors, such as GenePT's, from anywhere: stand-ins for the few names of NumPy's; nothing is called."""

import math
import mmap
import os
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from scstore.errors import GenesError, ScstoreError
from scstore.untrusted.guards import reading

CODES = {kind + size for kind in "fiu" for size in "1248"} - {"f1"}  # NumPy's codes for real numbers


class _ForbiddenError(ScstoreError):
    """A pickle asks for something that is not allowed."""


def _forbid(what: str) -> NoReturn:
    raise _ForbiddenError(what)


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: Any = None, *_: object) -> None:
        if code not in CODES:
            _forbid(f"an array of {str(code)[:40]!r}, which are not numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|") or any(state[2:5]):
            _forbid("an array with a structured dtype")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for ``numpy.ndarray``."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _build(data, dtype, shape, "F" if fortran else "C")


class _Function:
    """A function that a pickle may call and cannot change (BUILD sets attributes of what it is given)."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *given: Any) -> Any:
        match self._name, given:
            case "OrderedDict", ():
                return {}
            case "_reconstruct", (kind, _, _) if kind is _Array:
                return _Array()
            case "_frombuffer", (data, dtype, shape, order):
                made = _Array()
                made.values = _build(data, dtype, shape, order)
                return made
            case "scalar", (dtype, data):
                return float(_build(data, dtype, (1,))[0])
        _forbid(f"{self._name} with {str(given)[:60]}")

    def __setstate__(self, state: Any) -> NoReturn:
        _forbid("a change of the reader itself")


def _build(data: Any, dtype: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    """Return an array over the pickle's own bytes, which may stand in many arrays and are not copied."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        _forbid("an array that is not made of plain numbers")
    lengths = tuple(int(n) for n in shape)
    if min(lengths, default=0) < 0 or math.prod(lengths) * dtype.dtype.itemsize != len(data):
        raise ValueError("an array whose bytes do not fit its shape")
    return np.frombuffer(data, dtype=dtype.dtype).reshape(lengths, order="F" if order == "F" else "C")


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function("OrderedDict"),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
for core in ("core", "_core"):  # before NumPy 2, and since
    for part, function in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer")):
        ALLOWED[f"numpy.{core}.{part}", function] = _Function(function)
"""Every name that a pickle may use, and what it gets for it."""


# Instructions that Python writes in protocols 4 and 5, with arguments of a fixed length.
RUN = re.compile(rb"(?s:[(.N})\]\x81\x85-\x89\x8f-\x91taesubR\x93\x94]|[Kh\x80].|M..|[Jj].{4}|G.{8}){1,9999}+")
# Bytes of the length that others begin with.
COUNTED = {op: n for ops, n in ((b"\x8cC\x8a", 1), (b"XB", 4), (b"\x8d\x8e\x96\x95", 8)) for op in ops}
FRAME = 0x95  # which states a length and is followed by instructions


def _check_instructions(data: bytes | mmap.mmap) -> None:
    """Refuse other instructions, and lengths beyond the pickle's own: Python reserves that memory before it reads."""
    at = 0
    while at < len(data):
        if (run := RUN.match(data, at)) is not None:
            at = run.end()
            continue
        if (n := COUNTED.get(data[at])) is None:
            _forbid(f"the instruction {data[at : at + 1]!r}")
        number = int.from_bytes(data[at + 1 : at + 1 + n], "little")
        if number > len(data):
            _forbid(f"{number:,} bytes, and has {len(data):,}")
        at += 1 + n + (0 if data[at] == FRAME else number)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            _forbid(f"{module}.{name}")
        return ALLOWED[module, name]


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return a pickled mapping, of protocol 4 or 5; a :class:`GenesError` names anything but plain data in it."""
    file = Path(path)
    try:
        with reading(file, "the pickle", error=GenesError), file.open("rb") as handle:
            if handle.read(2) not in (b"\x80\x04", b"\x80\x05"):
                cure = "Read it where it is trusted, and write the vectors as .parquet"
                raise GenesError(f"{file}: not a pickle of protocol 4 or 5, which Python writes since 3.8. {cure}.")
            handle.seek(0)
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_instructions(data)
            content = _Reader(handle).load()
    except _ForbiddenError as error:
        raise GenesError(
            f"{file}: this pickle asks for {error}. A pickle can run code, so only containers, numbers, strings and "
            "NumPy arrays of numbers are read; nothing of it was run. Write the vectors as .parquet."
        ) from error
    if not isinstance(content, dict):
        raise GenesError(f"{file}: holds a {type(content).__name__}; expected a mapping of gene symbols to vectors.")
    return {name: value.values if isinstance(value, _Array) else value for name, value in content.items()}
