"""Attack pickles: nothing of them runs, and what they ask for is named."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import tracemalloc
from functools import partial
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


PROTOCOLS = (4, 5)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def raw(module: str, name: str, *arguments: str) -> bytes:
    """A pickle that calls module.name with strings."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93(" + b"".join(map(text, arguments)) + b"tR."


@pytest.mark.parametrize("protocol", PROTOCOLS)
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
    new = pickle.dumps({"A": np.arange(3.0)}, protocol=4)
    assert b"\x16numpy._core.multiarray" in new
    old = new[11:].replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
    (tmp_path / "p").write_bytes(new[:3] + struct.pack("<Q", len(old)) + old)  # in a frame of its length
    np.testing.assert_array_equal(read_pickle(tmp_path / "p")["A"], [0, 1, 2])


def attacks(canary: Path) -> dict[str, tuple[bytes, str]]:
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w')"
    dumps = partial(pickle.dumps, protocol=4)
    start, dtype = b"\x80\x04", text("numpy") + text("dtype") + b"\x93"
    scalar = start + text("numpy._core.multiarray") + text("scalar") + b"\x93"
    # BUILD on what the reader hands out, to change the reader itself
    build = scalar + b"(N}" + text("__defaults__") + text("x") + b"stb."
    return {
        "os.system": (dumps({"A": Call(os.system, touch)}), "(posix|nt).system"),
        "os.system as text": (raw("os", "system", touch), "os.system"),
        "eval": (dumps(Call(eval, python)), "builtins.eval"),
        "exec": (dumps({"A": [Call(exec, python)]}), "builtins.exec"),
        "__builtin__": (raw("__builtin__", "eval", python), "__builtin__.eval"),
        "getattr": (raw("builtins", "getattr", "os", "system"), "builtins.getattr"),
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
        "codec": (raw("_codecs", "encode", "x", "rot13"), "_codecs.encode"),
        "name of old protocols": (start + b"cos\nsystem\n.", "instruction b'c'"),
        "a class with INST": (start + b"(ios\nsystem\n.", "instruction b'i'"),
        "an object of a class": (start + text("os") + text("popen") + b"\x93)\x81.", "os.popen"),
        "object array": (dumps({"A": np.array([None, {}], dtype=object)}), "not numbers"),
        "string array": (dumps({"A": np.array(["a"])}), "not numbers"),
        "structured array": (dumps({"A": np.zeros(2, dtype=[("a", "f4")])}), "not numbers"),
        "object scalar": (scalar + dtype + text("O8") + b"\x89\x88\x87R" + b"C\1x" + b"\x86R.", "not numbers"),
        "persistent id": (start + b"Pspam\n.", "instruction b'P'"),
        "extension": (start + b"\x82\x01.", "instruction"),
        "change of the reader": (build, "change"),
        "array of a class": (
            start + text("numpy._core.multiarray") + text("_reconstruct") + b"\x93" + dtype + b"\x85R.",
            "_reconstruct",
        ),
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


OLD = [pickle.dumps({"A": [1.0]}, protocol=protocol) for protocol in range(4)]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04", pickle.dumps({"A": [1.0]})[:-3], b"\x80\x63.", *OLD])
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
    whole = bytearray(
        pickle.dumps({"A": np.arange(3.0), "B": [1.0, 2.0]}, protocol=data.draw(st.sampled_from(PROTOCOLS)))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "p").write_bytes(whole)
    with contextlib.suppress(GenesError):
        read_pickle(tmp_path / "p")


def test_every_allowed_name_is_a_part_of_the_readers_own() -> None:
    for (module, name), part in pickles.ALLOWED.items():
        assert type(part).__module__ == pickles.__name__ or (part.__module__ == pickles.__name__), f"{module}.{name}"


@pytest.mark.parametrize("put", [b"p134217728\n", b"r" + struct.pack("<I", 1 << 27), b"q\1"])
def test_places_are_never_named(tmp_path: Path, put: bytes) -> None:
    """RELIABILITY 63: Python reserves every place of the memo up to the highest; protocols 4 and 5 count them."""
    (tmp_path / "p").write_bytes(b"\x80\x04}" + text("A") + b"]" + put + b"G" + struct.pack(">d", 1.0) + b"as.")
    with pytest.raises(GenesError, match="instruction"):
        read_pickle(tmp_path / "p")


@pytest.mark.parametrize("op", [b"X", b"B", b"\x8d", b"\x8e", b"\x96", b"\x95"])
def test_lengths_beyond_the_pickle(tmp_path: Path, op: bytes) -> None:
    """Python reserves the bytes that a text or a frame states, before it looks how many there are."""
    length = struct.pack("<Q" if op in b"\x8d\x8e\x96\x95" else "<I", 1 << 27)
    (tmp_path / "p").write_bytes(b"\x80\x05" + op + length + pickle.dumps({"A": [1.0]}, protocol=4))
    with pytest.raises(GenesError, match="134,?217,?728"):
        read_pickle(tmp_path / "p")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_instruction_of_a_pickle_is_passed_over(protocol: int) -> None:
    """What follows any instruction that Python writes is still looked at."""
    values = {"A": [1.5, -3, 2**40, True, None, "é" * 300, b"b" * 300, (1, 2, 3, 4), {}, bytearray(b"x")]}
    values |= {"B": np.arange(3.0), "C": np.float32(1), "D": list(range(2000)), "E": values["A"]}
    content = pickle.dumps(values, protocol=protocol)
    hidden = content[:-1] + b"r" + struct.pack("<I", 1 << 27) + b"."
    for data, refused in ((content, False), (hidden, True)):
        with contextlib.nullcontext() if not refused else pytest.raises(pickles._ForbiddenError):  # type: ignore[attr-defined]
            pickles._check_instructions(data)


def test_one_argument_of_many_calls(tmp_path: Path) -> None:
    """RELIABILITY 63: a few bytes a call make no copy of it."""
    code = text("numpy") + text("dtype") + b"\x93" + text("u1") + b"\x85R\x94"  # the first place of the memo
    function = text("numpy._core.numeric") + text("_frombuffer") + b"\x93\x94"
    rest = (
        b"B" + struct.pack("<I", 1 << 16) + bytes(1 << 16) + b"\x94" + b"J" + struct.pack("<i", 1 << 16) + b"\x85\x94"
    )
    made = b"".join(text(f"{i:04x}") + b"h\1(h\2h\0h\3" + text("C") + b"tR" for i in range(20_000))
    (tmp_path / "p").write_bytes(b"\x80\x04(" + code + function + rest + b"t\x94}(" + made + b"u.")
    tracemalloc.start()
    assert len(read_pickle(tmp_path / "p")) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
