"""The process that looks at HDF5 files first: one for each process, replaced when it is lost, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import make_cells

from scstore.cells.opening import open_cells
from scstore.errors import CellsError, DamagedError
from scstore.untrusted import hdf5 as check
from scstore.untrusted.hdf5 import check_hdf5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of cells that was written long ago."""
    file = tmp_path / "cells.h5ad"
    make_cells(12, 8).write_h5ad(file)
    return age(file)


def age(file: Path) -> Path:
    os.utime(file, (1e9, 1e9))
    return file


def child() -> check._Child:
    found = check._checks.child
    assert found is not None
    return found


def unwritten(file: Path) -> Path:
    with h5py.File(file, "r+") as opened:
        opened.create_dataset("uns/a", shape=(10**12,), dtype="f4", chunks=(1000,))
    return file


def test_one_child_looks_at_all_files(path: Path, tmp_path: Path) -> None:
    check_hdf5(path)
    first = child()
    other = tmp_path / "other.h5ad"
    make_cells(12, 8).write_h5ad(other)
    check_hdf5(other)
    with pytest.raises(CellsError, match=r"other\.h5ad: uns/a declares 4,000,000,000,000 bytes"):
        check_hdf5(unwritten(other), error=CellsError)
    assert child() is first


def test_what_has_not_changed_is_not_looked_at_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(check._Child, "ask", lambda self, file: asked.append(file))
    check_hdf5(path)
    check_hdf5(path)
    assert asked == [path]
    path.write_bytes(path.read_bytes())  # a moment ago: it may change again within the same tick of the clock
    check_hdf5(path)
    check_hdf5(path)
    assert asked == [path] * 3


def test_what_is_wrong_is_remembered_too(path: Path) -> None:
    age(unwritten(path))
    for _ in range(2):
        with pytest.raises(DamagedError, match="uns/a declares"):
            check_hdf5(path)


def test_a_child_that_is_lost_is_replaced(path: Path) -> None:
    check_hdf5(path)
    lost = child().process
    lost.send_signal(signal.SIGKILL)
    lost.wait()
    with pytest.raises(DamagedError, match="uns/a declares"):
        check_hdf5(unwritten(path))
    assert child().process.pid != lost.pid


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-signal.SIGXCPU, "does not come to an end with it"),
        (-signal.SIGSEGV, "crashes on it"),
        (-signal.SIGABRT, "crashes on it"),
        (-signal.SIGKILL, None),
        (1, None),
    ],
)
def test_how_it_was_lost_is_said(code: int, said: str | None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the file did to it is the file's fault."""

    def ask(self: check._Child, file: Path) -> None:
        raise check._LostError(code)

    monkeypatch.setattr(check._Child, "ask", ask)
    if said is None:
        check_hdf5(path)
    else:
        with pytest.raises(DamagedError, match=said):
            check_hdf5(path)


def test_an_interrupted_look_does_not_answer_for_the_next_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: check._Child, file: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(check._Child, "ask", interrupted)
        check_hdf5(path)
    assert check._checks.child is None
    check_hdf5(path)
    assert child().lives


@pytest.mark.parametrize("name", ["a b.h5ad", "line\nend.h5ad", "ü.h5ad", os.fsdecode(b"\xff.h5ad")])
def test_any_name(name: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unwritten(path).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DamagedError, match="uns/a declares"):
        check_hdf5(name)


def test_what_is_no_hdf5_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("words")
    for name in ("text", "absent", "."):
        check_hdf5(tmp_path / name)


def test_a_larger_file_is_sampled(tmp_path: Path) -> None:
    """Above 16 MB the first and last values are read; sizes are all looked at."""
    file = tmp_path / "large.h5"
    with h5py.File(file, "w") as opened:
        opened["noise"] = np.random.default_rng(0).integers(0, 256, 17 << 20, dtype=np.uint8)
        opened.create_dataset("names", data=["a" * 9] * 50_000, dtype=h5py.string_dtype(), chunks=(1000,))
    check_hdf5(file)
    with pytest.raises(DamagedError, match="uns/a declares"):
        check_hdf5(unwritten(file))


def test_real_files_pass(shared: Path) -> None:
    for file in sorted((shared / "cells").glob("*.h5ad")):
        check_hdf5(file)


FORKED = """
import os, sys
from scstore.untrusted.hdf5 import _checks, check_hdf5
check_hdf5(sys.argv[1])
mine = _checks.child.process.pid
if (other := os.fork()) == 0:
    assert _checks.child is None
    os.utime(sys.argv[1])
    check_hdf5(sys.argv[1])
    theirs = _checks.child.process.pid
    _checks.end()
    os._exit(0 if theirs != mine else 1)
assert os.waitpid(other, 0)[1] == 0
assert _checks.child.lives
os.utime(sys.argv[1])
check_hdf5(sys.argv[1])
assert _checks.child.process.pid == mine
print(mine)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_a_child_of_its_own_and_nothing_is_left(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKED, str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_without_a_python_to_start_files_are_opened_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        monkeypatch.setattr(check, "_checks", check._Checks())
        with open_cells(path) as cells:
            assert cells.n_cells == 12
        assert check._checks.child is None


def test_importing_starts_nothing() -> None:
    code = "import scstore.store.reader, scstore.untrusted.hdf5 as c; assert c._checks.child is None"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
