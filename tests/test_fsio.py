from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from broken_disk import FAULTS, NOBODY, BrokenDisk, Killed, as_if_another_process, in_place_of_the_disk
from support import ROOT

from scstore import fsio
from scstore.disk import this_process
from scstore.errors import DamagedError, InputError, LockedError, OutputError, UnreadableError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """RELIABILITY 43: a crash while writing an output."""
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), fsio.atomic_path(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_atomic_write_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    fsio.write_bytes(target, b"ne", memoryview(b"w"))
    assert target.read_text() == "new"


def test_the_file_is_flushed_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        folder = Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()
        events.append("fsync folder" if folder else "fsync file")
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    fsio.write_bytes(tmp_path / "a", b"1")
    assert events == ["fsync file", "rename", "fsync folder"]


def test_an_atomic_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with pytest.raises(RuntimeError), fsio.atomic_folder(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with fsio.atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_overwriting_a_folder_keeps_the_old_one_until_the_new_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "store"
    target.mkdir()
    (target / "old").write_text("1")
    with fsio.atomic_folder(target, overwrite=True) as folder:
        (folder / "new").write_text("2")
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_stale_partial_folders_are_removed(tmp_path: Path) -> None:
    """RELIABILITY 23."""
    stale = tmp_path / f".store{fsio.PARTIAL}dead"
    stale.mkdir()
    with fsio.atomic_folder(tmp_path / "store"):
        pass
    assert not stale.exists()


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(
    tmp_path: Path,
) -> None:
    """RELIABILITY 65: where names cannot be swapped, the next write finds the old folder under its name."""
    target = tmp_path / "store"
    target.mkdir()
    (target / "old").write_text("1")

    class Killed(fsio.Disk):
        def exchange(self, one: Path, other: Path) -> bool:
            return False

        def rename(self, source: Path, target: Path) -> None:
            if not target.name.startswith("."):
                os._exit(9)
            super().rename(source, target)

    if (child := os.fork()) == 0:
        fsio.disk = Killed()
        with fsio.atomic_folder(target, overwrite=True) as folder:
            (folder / "new").write_text("2")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not target.exists()
    with pytest.raises(RuntimeError), fsio.atomic_folder(target, overwrite=True):
        raise RuntimeError
    assert (target / "old").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


class NoSwap(BrokenDisk):
    """A file system that cannot swap two names."""

    def exchange(self, one: Path, other: Path) -> bool:
        return False


@pytest.mark.parametrize("kind", [BrokenDisk, NoSwap])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_old_or_the_new_is_always_there(tmp_path: Path, fault: str, kind: type[BrokenDisk]) -> None:
    """RELIABILITY 65: whatever operation of a replacement is the last, a reader finds one of the two, whole."""
    target = tmp_path / "s"

    def replace(content: str) -> None:
        with fsio.atomic_folder(target, overwrite=True) as folder:
            fsio.write_bytes(folder / "a", content.encode())
            fsio.write_bytes(folder / "b", content.encode())

    replace("old")
    whole = kind()
    with in_place_of_the_disk(whole):
        replace("old")
    assert len(whole.trace) > 15
    for at in range(len(whole.trace)):
        with in_place_of_the_disk(kind(at, fault)), contextlib.suppress(OSError, InputError, Killed):
            replace("new")
        as_if_another_process(tmp_path)
        fsio.mend(target)
        found = {file.name: file.read_text() for file in target.iterdir()}
        assert found in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"}), whole.trace[at]
        replace("old")
        assert [file.name for file in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("write", [fsio.atomic_path, fsio.atomic_folder])
def test_two_writers_of_one_output(tmp_path: Path, write: Any) -> None:
    """RELIABILITY 65: the second is refused, under a link to it too, and what the first has written so far stays."""
    (tmp_path / "link").symlink_to("out")
    with write(tmp_path / "out") as partial:
        if write is fsio.atomic_path:
            partial.write_text("1")
        for name in ("out", "link"):
            with pytest.raises(LockedError, match="out"), write(tmp_path / name, overwrite=True):
                pass
        assert partial.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "out"]


def test_an_output_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    """RELIABILITY 43, 65."""
    with pytest.raises(OutputError), fsio.atomic_path(tmp_path / "out", overwrite=False) as partial:
        partial.write_text("mine")
        (tmp_path / "out").write_text("another's")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out", "another's")]


def test_what_killed_runs_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """RELIABILITY 23: of this output alone, whatever signs are in its name."""
    for name in (".a[1]*.csv.partial-7-ab", ".a1.csv.partial-7-ab", ".b.partial-7"):
        (tmp_path / name).touch()
    with fsio.atomic_path(tmp_path / "a[1]*.csv") as partial:
        partial.touch()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a1.csv.partial-7-ab", ".b.partial-7", "a[1]*.csv"]


def test_digest_of_a_tree_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "t" / "sub").mkdir(parents=True)
    (tmp_path / "t" / "sub" / "x").write_text("1")
    first = fsio.digest_tree(tmp_path / "t")
    (tmp_path / "t" / "sub" / "x").write_text("2")
    assert fsio.digest_tree(tmp_path / "t") != first
    (tmp_path / "t" / "sub" / "x").write_text("1")
    assert fsio.digest_tree(tmp_path / "t") == first
    (tmp_path / "t" / "sub" / "x").rename(tmp_path / "t" / "sub" / "y")
    assert fsio.digest_tree(tmp_path / "t") != first


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert fsio.digest_file(tmp_path / "a") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert fsio.digest_file(tmp_path / "a") == fsio.digest_tree(tmp_path / "a") == fsio.digest_bytes(b"abc")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"a\.json"):
        fsio.read_json(tmp_path / "a.json")


def test_json_larger_than_its_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1" * 100)
    with pytest.raises(DamagedError, match="100 bytes"):
        fsio.read_json(tmp_path / "a.json", limit=99)


def test_an_existing_output_is_refused_unless_overwritten(tmp_path: Path) -> None:
    """RELIABILITY 43: the output exists."""
    (tmp_path / "a").write_text("1")
    with pytest.raises(OutputError):
        fsio.check_output(tmp_path / "a")
    assert fsio.check_output(tmp_path / "a", overwrite=True) == tmp_path / "a"


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path: Path) -> None:
    """RELIABILITY 24."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="out.zarr"):
        fsio.check_output(tmp_path / "file" / "out.zarr")


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    """RELIABILITY 25: two writers."""
    with fsio.lock(tmp_path / "l"):
        with pytest.raises(LockedError, match=f"process {os.getpid()}"), fsio.lock(tmp_path / "l"):
            pass
        assert (tmp_path / "l").exists()
    assert not (tmp_path / "l").exists()


def _owner(**other: object) -> str:
    return json.dumps({**this_process(), "begun": "1", **other})


DEAD = {
    "a reused process id": {},
    "process 1 of a container that is gone": {"pid": 1, "namespace": "pid:[1]", "host": "a container"},
    "before the machine was started again": {"boot": "another"},
}


@pytest.mark.parametrize("name", DEAD)
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, name: str) -> None:
    """RELIABILITY 25, 64: the kernel holds it no longer, whatever process has its number now."""
    (tmp_path / "l").write_text(_owner(**DEAD[name]))
    with fsio.lock(tmp_path / "l"):
        assert json.loads((tmp_path / "l").read_text()) == this_process()


LIVE = ["process 1 of another container", "this process, as another host"]


@pytest.mark.parametrize("name", LIVE)
def test_a_live_writer_keeps_its_lock(tmp_path: Path, name: str) -> None:
    """RELIABILITY 64: another container on this machine, whose process is not seen from here."""
    other = {"host": "elsewhere", "pid": 1, "namespace": "pid:[1]"} if "container" in name else {"host": "elsewhere"}
    with fsio.lock(tmp_path / "l"):
        (tmp_path / "l").write_text(_owner(**other))
        with pytest.raises(LockedError, match="elsewhere"), fsio.lock(tmp_path / "l"):
            pass
        assert not fsio.reclaim_if_dead(tmp_path / "l")


CONTAINER = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--uts", sys.executable, "-c")
HOLD = """
import os, sys
from scstore import fsio
with fsio.lock(sys.argv[1]):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(subprocess.run([*CONTAINER, ""]).returncode != 0, reason="no process namespaces here")
def test_runs_in_containers(tmp_path: Path) -> None:
    """RELIABILITY 64: each is process 1; the live one is refused to the next, the killed one is not."""

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*CONTAINER, HOLD, tmp_path / "l"], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    with start() as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "1\n"
        with start() as second:
            said = second.communicate()[1]
        assert "LockedError" in said
        first.kill()
        first.stdout.read()  # until it is dead
    assert (tmp_path / "l").exists()
    with start() as third:
        assert third.communicate() == ("1\n", "")
    assert not (tmp_path / "l").exists()


SCRATCH = """
import sys
from pathlib import Path
from scstore import fsio
with fsio.scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("1")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_the_scratch_folder_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    output, pipe = tmp_path / "cells.h5ad", subprocess.PIPE
    words = [sys.executable, "-c", SCRATCH, str(output)]
    with subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        theirs = tmp_path / other.stdout.readline().strip()
        with fsio.scratch_folder(output) as mine:
            assert mine.is_dir()
            assert (theirs / "part").exists()  # of a live process
        other.kill()
    assert theirs.exists()
    with fsio.scratch_folder(output):
        assert not theirs.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "dead"),
    [
        ({"pid": NOBODY}, True),
        ({}, True),
        ({"begun": this_process()["begun"]}, False),
        ({"namespace": "pid:[1]"}, False),
        ({"boot": "another"}, False),
        ({"boot": "another", "host": "elsewhere"}, False),
    ],
)
def test_where_the_file_system_knows_no_locks_the_process_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, object], dead: bool
) -> None:
    """RELIABILITY 26, 64: a number that is reused is no life; what cannot be seen is not called dead."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fsio.fcntl, "flock", no_locks)
    (tmp_path / "l").write_text(_owner(**other))
    if dead:
        with fsio.lock(tmp_path / "l"):
            pass
    else:
        with pytest.raises(LockedError), fsio.lock(tmp_path / "l"):
            pass


def test_one_of_many_takes_over_a_dead_lock(tmp_path: Path) -> None:
    """RELIABILITY 25: all have found it dead; none deletes the lock that another one has made since."""
    file = tmp_path / "l"
    held, most, refused, start = [], [], [], threading.Barrier(8)

    def take(name: int) -> None:
        start.wait()
        try:
            with fsio.lock(file):
                held.append(name)
                most.append(len(held))
                held.remove(name)
        except LockedError:
            refused.append(name)

    for _ in range(20):
        file.write_text(_owner())
        threads = [threading.Thread(target=take, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 160
    assert not file.exists()


def test_the_lock_of_another_host_is_left_alone(tmp_path: Path) -> None:
    """RELIABILITY 25: lock of another host."""
    (tmp_path / "l").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": 0}))
    with pytest.raises(LockedError, match="elsewhere"), fsio.lock(tmp_path / "l"):
        pass


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("file write failed: errno = 28, error message = ''")],
)
def test_a_full_disk_is_named(tmp_path: Path, error: OSError) -> None:
    """RELIABILITY 22: what was being written, where there is no room, and what to do; HDF5's own words too."""
    for write in (fsio.atomic_path, fsio.atomic_folder):
        with pytest.raises(OSError, match="/") as caught, write(tmp_path / "out"):
            raise error
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "out"))
    with pytest.raises(OSError, match="^something else$"), fsio.atomic_folder(tmp_path / "out"):
        raise OSError("something else")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_let_go_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIABILITY 25: the other process ends between the look at its lock and the message about it."""
    file = tmp_path / "lock"
    file.write_text("{}")

    def alive_and_then_gone(path: Path) -> bool:
        path.unlink()
        return False

    monkeypatch.setattr(fsio, "reclaim_if_dead", alive_and_then_gone)
    with fsio.lock(file):
        assert json.loads(file.read_text())["pid"] == os.getpid()


HDF5 = "Can't read data (file read failed: time = Thu, filename = 'x', errno = {}, error message = '…')"


@pytest.mark.parametrize(
    ("error", "is_failed_read"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (OSError(HDF5.format(errno.EIO)), True),
        (OSError(HDF5.format(0)), False),
        (OSError("Can't read data (wrong fletcher32 checksum)"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), False),
        (ValueError("bad"), False),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_failed_read_is_told_from_damage(error: Exception, is_failed_read: bool, wrapped: bool) -> None:
    """RELIABILITY 58."""
    raised = error
    if wrapped:
        raised = RuntimeError("a library's own")
        raised.__cause__ = error
    with pytest.raises(UnreadableError) if is_failed_read else contextlib.nullcontext():
        fsio.check_read(raised, "x")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SCSTORE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fsio.cache_folder() == tmp_path / ".cache" / "scstore"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert fsio.cache_folder() == tmp_path / "x" / "scstore"
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "own"))
    assert fsio.cache_folder() == tmp_path / "own"
