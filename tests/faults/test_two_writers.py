"""Locks that do not lock, as on some network file systems, and both write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scstore import fsio
from scstore.errors import DamagedError, LockedError
from scstore.store import writer
from scstore.store.ledger import StorePlan, ViewSpec, check_shard, read_record, record_path
from scstore.store.views import ShardView
from scstore.store.writer import commit_shard

PLAN = StorePlan(2, 2, (ViewSpec("v", 3, "float32", {}),))
IDS = ["a", "b"]
MINE, THEIRS = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    return tmp_path


def test_the_first_record_wins_and_other_bytes_are_an_error(root: Path) -> None:
    """RELIABILITY 26: no visible row changes."""
    commit_shard(root, PLAN, 0, {"v": MINE}, ids=IDS)
    before = fsio.digest_tree(root)
    with pytest.raises(LockedError, match=r"000000\.json"):
        commit_shard(root, PLAN, 0, {"v": THEIRS}, ids=IDS)
    assert fsio.digest_tree(root) == before


def test_the_same_bytes_are_not_written_again(root: Path) -> None:
    """RELIABILITY 26: as two processes on CPUs write."""
    commit_shard(root, PLAN, 0, {"v": MINE}, ids=IDS)
    written = record_path(root, 0).stat().st_mtime_ns
    commit_shard(root, PLAN, 0, {"v": MINE}, ids=IDS)
    assert record_path(root, 0).stat().st_mtime_ns == written


def test_a_record_that_appears_while_the_bytes_are_written_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIABILITY 26: the rows are an error then, and never two different rows; extract redoes them."""
    real, theirs = fsio.write_bytes, []

    def write(path: Path, *parts: memoryview) -> None:
        real(path, *parts)
        if not theirs:  # between this process's bytes and its record, the other one commits
            theirs.append(1)
            commit_shard(root, PLAN, 0, {"v": THEIRS}, ids=IDS)
            real(path, *parts)

    monkeypatch.setattr(writer.fsio, "write_bytes", write)
    with pytest.raises(LockedError):
        commit_shard(root, PLAN, 0, {"v": MINE}, ids=IDS)
    monkeypatch.undo()
    record = read_record(root, 0)
    assert record is not None
    assert record["views"]["v"]["digest"] == fsio.digest_bytes(THEIRS.tobytes())
    with pytest.raises(DamagedError):
        ShardView(root, PLAN, PLAN.views[0])[0:2]
    assert "does not match" in str(check_shard(root, PLAN, 0))
    commit_shard(root, PLAN, 0, {"v": MINE}, ids=IDS)  # what extract does about it
    assert check_shard(root, PLAN, 0) is None
