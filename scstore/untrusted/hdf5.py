"""A look at an HDF5 file before this process opens it.

libhdf5 can loop without an end, crash, or allocate gigabytes on a file that was damaged or made for that, and nothing
that is called from Python can stop it. So a child process looks first (:mod:`scstore.untrusted.walk`), one for the
whole life of this process; if it is lost, so is the file and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from scstore.errors import DamagedError, ScstoreError

__all__ = ["check_hdf5"]

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); from scstore.untrusted.walk import main; main()"
)

SETTLED_SECONDS = 2.0
"""A file that was written less than this ago may change again without a change of its time: it is not remembered."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class _LostError(Exception):
    """The child ended while it looked."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Child:
    """The process that looks. Raises :class:`OSError` where it does not start."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,  # Ctrl-C is for this process, which ends the other
        )
        self.questions: IO[bytes] = self.process.stdin  # type: ignore[assignment]  # pipes were asked for
        self.answers: IO[bytes] = self.process.stdout  # type: ignore[assignment]
        try:
            if self._exchange([path for path in sys.path if path]) != "ready\n":
                msg = "the process that checks HDF5 files does not start"
                raise OSError(msg)
        except BaseException:
            self.close(kill=True)
            raise

    def _exchange(self, message: object) -> str:
        """Send a line, wait for one; ``""`` where the child is gone."""
        try:
            self.questions.write(json.dumps(message).encode() + b"\n")
            self.questions.flush()
        except BrokenPipeError:
            return ""
        return self.answers.readline().decode("ascii")

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def ask(self, path: Path) -> str | None:
        """What is wrong with a file; ``None`` for nothing."""
        answer = self._exchange(str(path.absolute()))
        if not answer:
            raise _LostError(self.process.wait())
        problem: str | None = json.loads(answer)
        return problem

    def close(self, *, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        for pipe in (self.questions, self.answers):
            with contextlib.suppress(OSError):  # what was left to send to a process that is gone
                pipe.close()
        self.process.wait()

    def forget(self) -> None:
        """In a fork: it is the other process's child."""
        self.questions.close()
        self.answers.close()
        self.process.returncode = 0  # not to be waited for


class _Checks:
    """The child of this process, and what is known of files by device, inode, size and time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: _Child | None = None
        self.possible = not getattr(sys, "frozen", False) and "py" in Path(sys.executable or "").name.lower()
        self.known: dict[tuple[int, int, int, int], str | None] = {}

    def problem(self, path: Path) -> str | None:
        try:
            about = path.stat()
        except OSError:
            return None  # the reader's to say
        key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        with self.lock:
            if key in self.known:
                return self.known[key]
            child = self._start()
            if child is None:
                return None
            found = self._ask(child, path)
            if time.time() - about.st_mtime > SETTLED_SECONDS:
                self.known[key] = found
            return found

    def _start(self) -> _Child | None:
        """The child, if there can be one."""
        if self.child is not None and not self.child.lives:
            self.end()
        if self.child is None and self.possible:
            try:
                self.child = _Child()
            except OSError:
                self.possible = False
        return self.child

    def _ask(self, child: _Child, path: Path) -> str | None:
        try:
            return child.ask(path)
        except _LostError as lost:
            self.end()
            if lost.code not in _CRASHES and lost.code != -_CPU_LIMIT:
                return None  # ended by somebody else, not by the file
            what = "does not come to an end with it" if lost.code == -_CPU_LIMIT else "crashes on it"
            return f"it is damaged or made to do harm: the HDF5 library {what}. Copy or download it again."
        except BaseException:  # Ctrl-C: the answer would be taken for that of the next file
            self.end(kill=True)
            raise

    def end(self, *, kill: bool = False) -> None:
        child, self.child = self.child, None
        if child is not None:
            child.close(kill=kill)

    def forked(self) -> None:
        self.lock = threading.Lock()
        child, self.child = self.child, None
        if child is not None:
            child.forget()


_CPU_LIMIT = getattr(signal, "SIGXCPU", 24)
_CRASHES = {
    -getattr(signal, name) for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL") if hasattr(signal, name)
}
"""Exit codes of a process that its own code brought down; Windows has the codes of its exceptions."""

if sys.platform == "win32":
    _CRASHES |= {0xC0000005, 0xC00000FD, 0xC0000094, 0xC0000374, 0xC0000409}

_checks = _Checks()
atexit.register(_checks.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_checks.forked)


def check_hdf5(path: str | os.PathLike[str], *, error: type[ScstoreError] = DamagedError) -> None:
    """Let a child process open an HDF5 file and walk through it, before this process does.

    Parameters
    ----------
    path
        The file. One that is no HDF5, or cannot be read, passes: the reader says so in its own words.
    error
        What to raise.

    Raises
    ------
    ScstoreError
        Of the type asked for, if libhdf5 loops or crashes on the file or allocates far more than the file holds, if an
        array declares what the stored bytes cannot hold (:func:`scstore.untrusted.limits.too_large`), if groups are
        nested without end, or if anything in the file lies in another file.

    Notes
    -----
    Of files up to 16 MB every value is read, of larger ones all metadata (up to 20,000 objects) and the first and last
    values of each data set. An object may take 3 seconds of CPU time and a file 30: the time of a slow disk does not
    count. A file that has not changed is looked at once in a process. Limits are the kernel's: without them (Windows)
    crashes are found and loops are not, and memory is bounded on Linux alone. Where no Python can be started (a frozen
    program, an embedded interpreter) files are opened without the look. Between the look and the reading a file must
    not change.
    """
    problem = _checks.problem(Path(path))
    if problem is not None:
        msg = f"{path}: {problem}"
        raise error(msg)
