from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import failing
from hypothesis import given
from hypothesis import strategies as st

from scstore.errors import DamagedError, InputError, LockedError, OptionError, UnreadableError
from scstore.store.ledger import (
    MAX_SHARD_ROWS,
    NOT_YET,
    Part,
    StorePlan,
    ViewSpec,
    check_shard,
    chunk_path,
    committed_shards,
    decoding,
    default_shard_rows,
    file_beside,
    ids_digest,
    is_inside,
    part_lock,
    read_record,
    record_path,
)
from scstore.store.views import ShardView
from scstore.store.writer import commit_shard

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


PLAN = StorePlan(4, 2, (ViewSpec("v", 3, "float16", {}),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    commit_shard(tmp_path, PLAN, 0, {"v": np.ones((2, 3), np.float32)}, ids=["a", "b"])
    return tmp_path


def test_a_committed_shard_is_sound(root: Path) -> None:
    assert committed_shards(root, PLAN) == [True, False]
    assert check_shard(root, PLAN, 0, ids=["a", "b"]) is None
    assert check_shard(root, PLAN, 1) == "not extracted yet"


def test_what_is_wrong_with_a_shard_is_said(root: Path) -> None:
    """RELIABILITY 30 and 31."""
    assert check_shard(root, PLAN, 0, ids=["b", "a"]) not in (None, "not extracted yet")
    file = chunk_path(root, "v", 0)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "does not match its digest" in str(check_shard(root, PLAN, 0))
    file.unlink()
    assert "is missing" in str(check_shard(root, PLAN, 0))


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, run="sha256:other"),
        replace(PLAN, shard_rows=1),
        replace(PLAN, views=(ViewSpec("v", 3, "float32", {}),)),
        replace(PLAN, views=(ViewSpec("w", 3, "float16", {}),)),
    ],
)
def test_a_shard_of_another_run_does_not_count(root: Path, plan: StorePlan) -> None:
    """RELIABILITY 59."""
    assert check_shard(root, plan, 0, ids=["a", "b"]) not in (None, NOT_YET)
    with pytest.raises(DamagedError):
        ShardView(root, plan, plan.views[0], ["a", "b", "c", "d"])[:1]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "stat"])
def test_a_failed_read_says_nothing_about_a_shard(root: Path, number: int, call: str) -> None:
    """RELIABILITY 58: not that it is damaged, nor that it is not there."""
    for file in (record_path(root, 0), chunk_path(root, "v", 0)):
        with failing(file, number, call=call), pytest.raises(OSError, match=os.strerror(number)):
            check_shard(root, PLAN, 0)
    with failing(record_path(root, 0), number, call="stat"), pytest.raises(OSError, match=os.strerror(number)):
        committed_shards(root, PLAN)


def test_an_empty_record_is_none(root: Path) -> None:
    """RELIABILITY 31: empty record, as not committed."""
    record_path(root, 0).write_bytes(b"")
    assert read_record(root, 0) is None
    assert committed_shards(root, PLAN) == [False, False]
    assert check_shard(root, PLAN, 0) == "not extracted yet"


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"shard": 0}', "{"])
def test_a_broken_record_does_not_count(root: Path, content: str) -> None:
    """RELIABILITY 30: a record that was damaged."""
    record_path(root, 0).write_text(content)
    with pytest.raises(DamagedError):
        read_record(root, 0)
    assert check_shard(root, PLAN, 0) is not None


def test_the_record_of_another_shard_does_not_count(root: Path) -> None:
    record_path(root, 1).write_bytes(record_path(root, 0).read_bytes())
    with pytest.raises(DamagedError):
        read_record(root, 1)


def test_ids_are_data() -> None:
    """RELIABILITY 15: no id can be mistaken for two."""
    assert ids_digest(["a", "b"]) != ids_digest(["a,b"]) != ids_digest(['a","b'])


@pytest.mark.parametrize(
    "error", [KeyError("k"), RuntimeError("bad\nheap"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")]
)
def test_what_a_library_raises_is_one_plain_error(error: Exception) -> None:
    with pytest.raises(DamagedError, match=r"^s\.zarr: obs ") as caught, decoding(Path("s.zarr"), "obs"):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [InputError("mine"), UnreadableError("no"), MemoryError()])
def test_what_is_no_damage_passes(error: Exception) -> None:
    with pytest.raises(type(error)), decoding(Path("s.zarr"), "obs"):
        raise error


@given(st.integers(1, 500), st.integers(1, 100))
def test_shards_cover_every_row_once(n_obs: int, shard_rows: int) -> None:
    """RELIABILITY 11: n not a multiple of the shard."""
    plan = StorePlan(n_obs, shard_rows, ())
    rows = [row for _, start, stop in plan.shards() for row in range(start, stop)]
    assert rows == list(range(n_obs))


def views(*widths: int, dtype: str = "float16") -> list[ViewSpec]:
    return [ViewSpec(f"v{i}", width, dtype, {}) for i, width in enumerate(widths)]


def test_a_shard_of_llama_13b_is_at_most_16_mb() -> None:
    rows = default_shard_rows(10**6, views(5120, 384))
    assert rows * 5120 * 2 <= 16 * 2**20 < 2 * rows * 5120 * 2


@pytest.mark.parametrize(("rate", "rows"), [(0.001, 1), (0.05, 2), (1.0, 32), (14.6, 512), (70.0, 4096), (1e9, 4096)])
def test_a_shard_takes_about_a_minute(rate: float, rows: int) -> None:
    """RELIABILITY 69: never more than that, and more than half of it where it may have as many rows."""
    assert default_shard_rows(10**6, views(32), rate=rate) == rows


@given(st.integers(1, 10**7), st.integers(1, 20000), st.floats(0, 1e9))
def test_a_shard_never_has_more_rows_than_there_are_or_than_a_kill_may_lose(
    n_obs: int, width: int, rate: float
) -> None:
    rows = default_shard_rows(n_obs, views(width, dtype="float32"), rate=rate)
    assert 1 <= rows <= min(n_obs, MAX_SHARD_ROWS)
    assert rows == n_obs or rows.bit_count() == 1


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("readout_wmean_l3", True), ("X/data/c/0", True), ("obs/label:fine/c/0", True),
        ("obs/..hidden", True), ("", False), ("..", False),
        ("a/../b", False), ("/etc/passwd", False), ("a//b", False), ("c:\\x", False),
        ("c:x", False), ("a\0b", False), (3, False),
    ],
)  # fmt: skip
def test_no_name_in_a_file_leads_out_of_the_store(name: object, inside: bool) -> None:
    """I5: no path leaves its root."""
    assert is_inside(name) is inside


@pytest.mark.parametrize(
    ("store", "table"),
    [
        ("ref.zarr", "ref.genes.h5ad"), ("pbmc.v1", "pbmc.v1.genes.h5ad"), ("pbmc.v2", "pbmc.v2.genes.h5ad"),
        ("a.b.zarr", "a.b.genes.h5ad"), ("plain", "plain.genes.h5ad"), (".zarr.x", ".zarr.x.genes.h5ad"),
    ],
)  # fmt: skip
def test_each_store_has_a_gene_table_of_its_own(tmp_path: Path, store: str, table: str) -> None:
    """RELIABILITY 54."""
    assert file_beside(tmp_path / store, ".genes.h5ad") == tmp_path / table
