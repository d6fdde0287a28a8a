from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.errors import DamagedError, InputError
from scstore.store.layout import MAX_SHARD_ROWS, StorePlan, decoding, default_shard_rows, is_inside


@pytest.mark.parametrize(
    "error", [KeyError("k"), RuntimeError("bad\nheap"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")]
)
def test_what_a_library_raises_is_one_plain_error(error: Exception) -> None:
    with pytest.raises(DamagedError, match=r"^s\.zarr: obs ") as caught, decoding(Path("s.zarr"), "obs"):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [InputError("mine"), PermissionError("no"), MemoryError()])
def test_what_is_no_damage_passes(error: Exception) -> None:
    with pytest.raises(type(error)), decoding(Path("s.zarr"), "obs"):
        raise error


@given(st.integers(1, 500), st.integers(1, 100))
def test_shards_cover_every_row_once(n_obs: int, shard_rows: int) -> None:
    """RELIABILITY 11: n not a multiple of the shard."""
    plan = StorePlan(n_obs, shard_rows, ())
    rows = [row for _, start, stop in plan.shards() for row in range(start, stop)]
    assert rows == list(range(n_obs))


def test_a_shard_of_llama_13b_is_about_16_mb() -> None:
    rows = default_shard_rows(10**6, [(5120, "float16"), (384, "float16")])
    assert abs(rows * 5120 * 2 - 16 * 2**20) < 5120 * 2


@given(st.integers(1, 10**7), st.integers(1, 20000))
def test_a_shard_never_has_more_rows_than_there_are_or_than_a_kill_may_lose(n_obs: int, width: int) -> None:
    assert 1 <= default_shard_rows(n_obs, [(width, "float32")]) <= min(n_obs, MAX_SHARD_ROWS)


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
