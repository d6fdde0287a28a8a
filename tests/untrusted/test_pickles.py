"""Attack pickles: nothing of them runs, and what they ask for is named."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scstore.errors import GenesError
from scstore.untrusted import pickles
from scstore.untrusted.pickles import read_pickle


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def raw(module: str, name: str, *arguments: str) -> bytes:
    """Protocol 0 text that calls module.name with strings."""
    return (f"c{module}\n{name}\n(" + "".join(f"V{text}\n" for text in arguments) + "tR.").encode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "f2", "i4", "u1"])
def test_mappings_of_lists_and_arrays(tmp_path: Path, protocol: int, dtype: str) -> None:
    numbers = np.arange(6).reshape(2, 3).astype(dtype)
    content = collections.OrderedDict(
        CD3D=[1.0, 2.5, -3], LYZ=numbers[0], F=np.asfortranarray(numbers), S=numbers[1][2], T=(1, 2), ENSG="é"
    )
    (tmp_path / "p").write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_pickle(tmp_path / "p")
    assert list(read) == list(content)
    assert read["CD3D"] == [1.0, 2.5, -3]
    np.testing.assert_array_equal(read["LYZ"], numbers[0])
    np.testing.assert_array_equal(read["F"], numbers)
    assert (read["S"], read["T"], read["ENSG"]) == (5, (1, 2), "é")


def test_names_that_numpy_1_used(tmp_path: Path) -> None:
    """Pickles from before NumPy 2 say numpy.core, newer ones numpy._core."""
    new = pickle.dumps({"A": np.arange(3.0)}, protocol=2)
    assert b"numpy._core.multiarray" in new
    (tmp_path / "p").write_bytes(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(read_pickle(tmp_path / "p")["A"], [0, 1, 2])


def attacks(canary: Path) -> dict[str, tuple[bytes, str]]:
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w')"
    getter = b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR" + f"(V{touch}\ntR.".encode()
    dumps = pickle.dumps
    # BUILD on what the reader hands out, to change the reader itself
    build = b"c_codecs\nencode\n(N}V__defaults__\nVx\nstb."
    nested = b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\nI00\nI01\ntRV" + b"x" + b"\ntR."
    return {
        "os.system": (dumps({"A": Call(os.system, touch)}), "(posix|nt).system"),
        "os.system as text": (raw("os", "system", touch), "os.system"),
        "eval": (dumps(Call(eval, python)), "builtins.eval"),
        "exec": (dumps({"A": [Call(exec, python)]}), "builtins.exec"),
        "__builtin__": (raw("__builtin__", "eval", python), "__builtin__.eval"),
        "getattr": (getter, "builtins.getattr"),
        "open": (dumps(Call(open, str(canary), "w")), "io.open"),
        "__import__": (raw("builtins", "__import__", "antigravity"), "builtins.__import__"),
        "numpy.load": (raw("numpy", "load", str(canary)), "numpy.load"),
        "numpy.f2py": (raw("numpy.f2py", "compile", "x"), "numpy.f2py.compile"),
        "numpy.memmap": (raw("numpy", "memmap", str(canary)), "numpy.memmap"),
        "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0cctypeslib.os\x93.", "numpy.ctypeslib.os"),
        "copyreg": (raw("copyreg", "_reconstructor"), "copyreg._reconstructor"),
        "pickle in a pickle": (raw("pickle", "loads", "x"), "pickle.loads"),
        "pathlib": (dumps({"A": canary}), "pathlib"),
        "pandas": (dumps(pd.DataFrame({"A": [1.0]})), "pandas"),
        "class": (dumps(Call), "Call"),
        "codec": (raw("_codecs", "encode", "x", "rot13"), "rot13"),
        "object array": (dumps({"A": np.array([None, {}], dtype=object)}), "not numbers"),
        "string array": (dumps({"A": np.array(["a"])}), "not numbers"),
        "structured array": (dumps({"A": np.zeros(2, dtype=[("a", "f4")])}), "not numbers"),
        "object scalar": (nested, "not numbers"),
        "persistent id": (b"Pspam\n.", "persistent"),
        "extension": (b"\x82\x01.", "extension"),
        "change of the reader": (build, "change"),
        "array of a class": (b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\ntR.", "_reconstruct"),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_attacks_run_nothing(tmp_path: Path, name: str) -> None:
    content, said = attacks(tmp_path / "canary")[name]
    (tmp_path / "p.pickle").write_bytes(content)
    with pytest.raises(GenesError, match=said):
        read_pickle(tmp_path / "p.pickle")
    assert [path.name for path in tmp_path.iterdir()] == ["p.pickle"]


def test_an_array_that_does_not_fit_its_bytes(tmp_path: Path) -> None:
    whole = pickle.dumps({"A": np.arange(3.0)}, protocol=4)
    wider = whole.replace(b"K\x03\x85", b"J" + struct.pack("<i", 2**31 - 1) + b"\x85")
    assert wider != whole
    (tmp_path / "p").write_bytes(wider)
    with pytest.raises(GenesError, match="p: "):
        read_pickle(tmp_path / "p")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04", pickle.dumps({"A": [1.0]})[:-3], b"\x80\x63."])
def test_what_is_no_whole_pickle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(GenesError, match="p: "):
        read_pickle(tmp_path / "p")


def test_what_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(GenesError, match="list"):
        read_pickle(tmp_path / "p")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_damaged_pickles_give_a_plain_error_or_numbers(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps({"A": np.arange(3.0), "B": [1.0, 2.0]}, protocol=data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "p").write_bytes(whole)
    with contextlib.suppress(GenesError):
        read_pickle(tmp_path / "p")


def test_every_allowed_name_is_a_part_of_the_readers_own() -> None:
    for (module, name), part in pickles.ALLOWED.items():
        assert type(part).__module__ == pickles.__name__ or (part.__module__ == pickles.__name__), f"{module}.{name}"


def put(index: int, *, text: bool) -> bytes:
    """A pickle of ``{"A": [1.0]}`` that puts the list into a place of the memo."""
    place = f"p{index}\n".encode() if text else b"r" + struct.pack("<I", index)
    return b"\x80\x02}X\x01\0\0\0A]" + place + b"G" + struct.pack(">d", 1.0) + b"as."


@pytest.mark.parametrize("text", [True, False])
def test_places_beyond_the_pickle(tmp_path: Path, text: bool) -> None:
    """RELIABILITY 63: Python reserves every place of the memo up to the highest, 2 GB for 30 bytes."""
    (tmp_path / "p").write_bytes(put(3, text=text))
    assert read_pickle(tmp_path / "p") == {"A": [1.0]}
    (tmp_path / "p").write_bytes(put(1 << 27, text=text))
    tracemalloc.start()
    with pytest.raises(GenesError, match="134,?217,?728"):
        read_pickle(tmp_path / "p")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("op", [b"T", b"X", b"B", b"\x8b", b"\x8d", b"\x8e", b"\x96", b"\x95"])
def test_lengths_beyond_the_pickle(tmp_path: Path, op: bytes) -> None:
    """Python reserves the bytes that a text or a frame states, before it looks how many there are."""
    length = struct.pack("<Q" if op in b"\x8d\x8e\x96\x95" else "<I", 1 << 27)
    (tmp_path / "p").write_bytes(b"\x80\x05" + op + length + pickle.dumps({"A": [1.0]}, protocol=0))
    with pytest.raises(GenesError, match="134,?217,?728"):
        read_pickle(tmp_path / "p")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_instruction_of_a_pickle_is_passed_over(protocol: int) -> None:
    """What follows any instruction that Python writes is still looked at."""
    values = {"A": [1.5, -3, 2**40, 2**2000, True, None, "é" * 300, b"b" * 300, (1, 2, 3, 4), {}, bytearray(b"x")]}
    values |= {"B": np.arange(3.0), "C": np.float32(1), "D": list(range(2000)), "E": values["A"]}
    content = pickle.dumps(values, protocol=protocol)
    hidden = content[:-1] + b"r" + struct.pack("<I", 1 << 27) + b"."
    for data, refused in ((content, False), (hidden, True)):
        with contextlib.nullcontext() if not refused else pytest.raises(pickles._ForbiddenError):  # type: ignore[attr-defined]
            pickles._check_places(data)  # type: ignore[arg-type]


CALLS = {
    "_codecs.encode": (b"c_codecs\nencode\n", b"X" + struct.pack("<I", 1 << 16) + b"x" * (1 << 16)),
    "collections.OrderedDict": (b"ccollections\nOrderedDict\n", b"](" + b"K\1K\2\x86" * 5000 + b"e"),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_argument_of_many_calls(tmp_path: Path, name: str) -> None:
    """RELIABILITY 63: a few bytes a call make a copy of it."""
    function, argument = CALLS[name]
    for calls in (10, 20_000):
        made = b"".join(b"X\4\0\0\0%04xh\0h\1\x85R" % i for i in range(calls))
        (tmp_path / "p").write_bytes(b"\x80\x02" + function + b"q\0" + argument + b"q\1}(" + made + b"u.")
        with contextlib.nullcontext() if calls == 10 else pytest.raises(GenesError, match="far more"):
            assert len(read_pickle(tmp_path / "p")) == calls
