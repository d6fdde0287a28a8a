"""Who holds a lock, in words that another process understands, and whether that process is certainly dead."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return host, machine since it was started, container, process and when that began."""
    place = {"host": socket.gethostname(), "boot": _boot(), "namespace": _namespace()}
    return {**place, "pid": os.getpid(), "begun": _begun(os.getpid()), "since": time.time()}


def is_dead(owner: Mapping[str, Any], *, freed: bool) -> bool:
    """Return whether the process that :func:`this_process` described is certainly dead.

    ``freed``: this machine's kernel, which was told of the lock, knows of no holder. Else the process is looked for,
    which sees none of another container. A process of another machine cannot be seen at all.
    """
    mine = this_process()
    same_host, boots = owner.get("host") == mine["host"], {owner.get("boot"), mine["boot"]}
    if None not in boots and len(boots) == 2:
        return freed and same_host  # this machine, before it was started again
    if freed or (None in boots and not same_host):
        return None not in boots or same_host
    pid = owner.get("pid")
    if owner.get("namespace", mine["namespace"]) != mine["namespace"] or not isinstance(pid, int):
        return False
    return not (_is_there(pid) and owner.get("begun", _begun(pid)) == _begun(pid))


def _boot() -> str | None:
    """Return what all containers of a machine share until it is started again; ``None`` where nothing says so."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _begun(pid: int) -> str | None:
    """Return when a process began, in ticks since the start of the machine."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
