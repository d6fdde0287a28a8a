"""Pickles of vectors, such as GenePT's, from anywhere: stand-ins for the few names of NumPy's; nothing is called."""

from __future__ import annotations

import math
import mmap
import os
import pickle
import re
import warnings
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from scstore.errors import GenesError, ScstoreError
from scstore.untrusted.guards import FLOOR, reading

# NumPy's codes for real numbers.
CODES = {kind + size for kind in "fiu" for size in "1248"} - {"f1"}


class _ForbiddenError(ScstoreError):
    """A pickle asks for something that is not allowed."""


def _forbid(what: str) -> NoReturn:
    raise _ForbiddenError(what)


# Bytes of an entry of a mapping.
ENTRY = 100

# What the pickle that is being read may still have its functions make: one argument may stand in many calls.
_room: ContextVar[list[int]] = ContextVar("_room")


def _take(n: int) -> None:
    room = _room.get([1 << 20])
    room[0] -= n
    if room[0] < 0:
        _forbid("far more bytes than it has")


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

    def __call__(self, first: Any = (), *others: Any) -> Any:
        if self._name == "OrderedDict" and isinstance(first, (list, tuple)) and not others:
            _take(ENTRY * len(first))
            return dict(first)
        if self._name == "_reconstruct" and first is _Array:
            return _Array()
        if self._name == "_frombuffer":
            made = _Array()
            made.values = _build(first, *others)
            return made
        if self._name == "scalar" and others:
            return float(_build(others[0], first, (1,))[0])
        if self._name == "encode" and isinstance(first, str) and others in ((), ("latin1",), ("latin-1",)):
            _take(len(first))
            return first.encode("latin1")  # how old protocols write bytes
        _forbid(f"{self._name} with {str((first, *others))[:60]}")

    def __setstate__(self, state: Any) -> NoReturn:
        _forbid("a change of the reader itself")


def _build(data: Any, dtype: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        _forbid("an array that is not made of plain numbers")
    lengths = tuple(int(n) for n in shape)
    if min(lengths, default=0) < 0 or math.prod(lengths) * dtype.dtype.itemsize != len(data):
        raise ValueError("an array whose bytes do not fit its shape")
    _take(len(data))
    # copied: an array over a bytearray would keep looking at a buffer that the pickle still holds
    return np.frombuffer(bytes(data), dtype=dtype.dtype).reshape(lengths, order="F" if order == "F" else "C")


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function("OrderedDict"),
    ("_codecs", "encode"): _Function("encode"),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
for core in ("core", "_core"):  # before NumPy 2, and since
    for part, function in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer")):
        ALLOWED[f"numpy.{core}.{part}", function] = _Function(function)
"""Every name that a pickle may use, and what it gets for it."""


# Instructions of a fixed length, by the bytes of their argument, or up to the end of one line or two.
RUN = re.compile(
    rb"(?:[(.012\]})abelstudNQRo\x81\x85-\x89\x8f-\x94\x97\x98]|[Khq\x80\x82].|[M\x83]..|[Jj\x84].{4}|G.{8}"
    rb"|[FILSVPg][^\n]*\n|[ci][^\n]*\n[^\n]*\n){1,9999}+",
    re.DOTALL,
)

# Bytes of the length that others begin with.
COUNTED = {op: n for ops, n in ((b"U\x8cC\x8a", 1), (b"TXB\x8b", 4), (b"\x8d\x8e\x96\x95", 8)) for op in ops}

# Which states a length and is followed by instructions.
FRAME = 0x95


def _check_places(data: mmap.mmap) -> None:
    """Refuse places and lengths beyond a pickle's own: Python reserves all memory up to them."""
    at, size = 0, len(data)
    while at < size:
        if (run := RUN.match(data, at)) is not None:
            at = run.end()
        elif (n := COUNTED.get(data[at], 0)) or data[at : at + 1] == b"r":
            number = int.from_bytes(data[at + 1 : at + 1 + (n or 4)], "little")
            if number > size:
                _forbid(f"{number:,} bytes or places, and has {size:,} bytes")
            at += 1 + (n or 4) + (number if n and data[at] != FRAME else 0)
        elif data[at : at + 1] == b"p":
            end = data.find(b"\n", at)
            if not data[at + 1 : end].isdigit() or int(data[at + 1 : end]) > size:
                _forbid(f"the place {data[at + 1 : min(end, at + 30)]!r}, and has {size:,} bytes")
            at = end + 1
        else:
            return  # not an instruction: the reader stops here too


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            _forbid(f"{module}.{name}")
        return ALLOWED[module, name]


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return a pickled mapping; a :class:`GenesError` names anything but containers, numbers, strings and arrays."""
    file = Path(path)
    try:
        with reading(file, "the pickle", error=GenesError), file.open("rb") as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the spelling of strings in old protocols
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_places(data)
                _room.set([max(FLOOR, 2 * ENTRY * len(data))])
            content = _Reader(handle, encoding="latin1").load()
    except _ForbiddenError as error:
        raise GenesError(
            f"{file}: this pickle asks for {error}. A pickle can run code, so only containers, numbers, strings and "
            "NumPy arrays of numbers are read; nothing of it was run. Write the vectors as .parquet."
        ) from error
    if not isinstance(content, dict):
        raise GenesError(f"{file}: holds a {type(content).__name__}; expected a mapping of gene symbols to vectors.")
    return {name: value.values if isinstance(value, _Array) else value for name, value in content.items()}
