from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.errors import LockedError, OptionError
from scstore.store.locks import Part, part_lock

COUNTS = st.integers(1, 12)


@given(COUNTS, st.integers(1, 100))
def test_parts_of_a_count_own_every_shard_exactly_once(count: int, n_shards: int) -> None:
    for shard in range(n_shards):
        assert sum(Part(index, count).owns(shard) for index in range(count)) == 1


@given(COUNTS, COUNTS, st.data())
def test_parts_that_share_a_shard_overlap(left: int, right: int, data: st.DataObject) -> None:
    a = Part(data.draw(st.integers(0, left - 1)), left)
    b = Part(data.draw(st.integers(0, right - 1)), right)
    share = any(a.owns(shard) and b.owns(shard) for shard in range(left * right))
    assert not share or a.overlaps(b)
    assert a.overlaps(b) == b.overlaps(a)


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "-1/2", "a/b", "1/2/3", "0.5/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="0/8"):
        Part.parse(text)


@pytest.mark.parametrize("text", ["2/2", "0/0"])
def test_parts_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="parts are numbered"):
        Part.parse(text)


def test_different_parts_of_a_count_write_side_by_side(tmp_path: Path) -> None:
    root = tmp_path / "s.zarr"
    with part_lock(root, Part(0, 3)), part_lock(root, Part(2, 3)):
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", [Part(0, 3), Part(0, 1), Part(1, 2)])
def test_parts_that_share_shards_do_not(tmp_path: Path, other: Part) -> None:
    """RELIABILITY 25: two writers."""
    root = tmp_path / "s.zarr"
    with part_lock(root, Part(0, 3)), pytest.raises(LockedError), part_lock(root, other):
        pass
    assert list(tmp_path.iterdir()) == []


def test_stores_beside_each_other_do_not_disturb(tmp_path: Path) -> None:
    with part_lock(tmp_path / "a.zarr", Part()), part_lock(tmp_path / "a.zarr.b", Part(0, 2)):
        pass


def test_the_part_of_a_dead_process_is_free(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    owner = {"host": socket.gethostname(), "pid": int(dead.stdout), "since": 0}
    (tmp_path / "s.zarr.0of2.lock").write_text(json.dumps(owner))
    with part_lock(tmp_path / "s.zarr", Part()):
        assert not (tmp_path / "s.zarr.0of2.lock").exists()
