from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scstore.errors import DamagedError
from scstore.store.layout import StorePlan, ViewSpec, chunk_path, record_path
from scstore.store.ledger import check_shard, committed_shards, ids_digest, read_record
from scstore.store.writer import commit_shard

PLAN = StorePlan(4, 2, (ViewSpec("v", 3, "float16", {}),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    commit_shard(tmp_path, PLAN, 0, {"v": np.ones((2, 3), np.float32)}, ids=["a", "b"])
    return tmp_path


def test_a_committed_shard_is_sound(root: Path) -> None:
    assert committed_shards(root, PLAN) == [True, False]
    assert check_shard(root, 0, ids=ids_digest(["a", "b"])) is None
    assert check_shard(root, 1) == "not extracted yet"


def test_what_is_wrong_with_a_shard_is_said(root: Path) -> None:
    """RELIABILITY 30 and 31."""
    assert check_shard(root, 0, ids=ids_digest(["b", "a"])) not in (None, "not extracted yet")
    file = chunk_path(root, "v", 0)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "does not match its digest" in str(check_shard(root, 0))
    file.unlink()
    assert "is missing" in str(check_shard(root, 0))


def test_an_empty_record_is_none(root: Path) -> None:
    """RELIABILITY 31: empty record, as not committed."""
    record_path(root, 0).write_bytes(b"")
    assert read_record(root, 0) is None
    assert committed_shards(root, PLAN) == [False, False]
    assert check_shard(root, 0) == "not extracted yet"


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"shard": 0}', "{"])
def test_a_broken_record_does_not_count(root: Path, content: str) -> None:
    """RELIABILITY 30: a record that was damaged."""
    record_path(root, 0).write_text(content)
    with pytest.raises(DamagedError):
        read_record(root, 0)
    assert check_shard(root, 0) is not None


def test_the_record_of_another_shard_does_not_count(root: Path) -> None:
    record_path(root, 1).write_bytes(record_path(root, 0).read_bytes())
    with pytest.raises(DamagedError):
        read_record(root, 1)


def test_ids_are_data() -> None:
    """RELIABILITY 15: no id can be mistaken for two."""
    assert ids_digest(["a", "b"]) != ids_digest(["a,b"]) != ids_digest(['a","b'])
