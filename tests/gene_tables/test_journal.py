from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scstore.errors import GenesError, LockedError
from scstore.gene_tables.journal import VectorJournal, open_journal

MAKER = {"model": "m", "server": "s"}
RECORD = 32 + 4 * 3 + 4


def rows(*numbers: float) -> np.ndarray:
    return np.repeat(np.array(numbers, dtype=np.float32)[:, None], 3, axis=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with open_journal(tmp_path / "j", MAKER) as journal:
        assert not (tmp_path / "j").exists()
        journal.add(["a", "b"], rows(1, 2))
        journal.add(["c"], rows(3))
    return tmp_path / "j"


def test_what_was_added_is_there_again(path: Path) -> None:
    with open_journal(path, MAKER) as journal:
        assert (len(journal), journal.width) == (3, 3)
        assert "a" in journal
        assert "d" not in journal
        np.testing.assert_array_equal(journal.vectors(["c", "a", "c"]), rows(3, 1, 3))
        journal.add(["d"], rows(4))
        np.testing.assert_array_equal(journal.vectors(["d", "b"]), rows(4, 2))
        journal.delete()
    assert not path.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(0, 2 * RECORD))
def test_a_record_that_was_cut_short_does_not_count_and_the_next_is_whole(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) - cut])
        with open_journal(path, MAKER) as journal:
            left = [text for text in "abc" if text in journal]
            assert left == list("abc")[: 3 - -(-cut // RECORD)]
            journal.add(["d"], rows(4))
        with open_journal(path, MAKER) as journal:
            np.testing.assert_array_equal(journal.vectors([*left, "d"])[:, 0], [*range(1, len(left) + 1), 4])
    finally:
        path.write_bytes(whole)


def test_a_damaged_record_is_lost_and_no_other(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-RECORD - 10] ^= 1
    path.write_bytes(content)
    with open_journal(path, MAKER) as journal:
        assert [text for text in "abc" if text in journal] == ["a", "c"]


@pytest.mark.parametrize("content", [b"", b"mine", b"{}\n", b'{"format": "scstore vectors 1", "width": 3}\n', b"[1]\n"])
def test_somebody_elses_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(GenesError, match="Move it away"):
        VectorJournal(tmp_path / "j", MAKER)
    assert (tmp_path / "j").read_bytes() == content


def test_another_makers_vectors_are_not_taken(path: Path) -> None:
    with pytest.raises(GenesError, match="Move it away"):
        VectorJournal(path, {**MAKER, "model": "other"})


def test_one_process_at_a_time(path: Path) -> None:
    with open_journal(path, MAKER), pytest.raises(LockedError), open_journal(path, MAKER):
        pass
