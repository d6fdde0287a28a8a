from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.errors import DamagedError, InputError, UnreadableError
from scstore.store.layout import (
    MAX_SHARD_ROWS,
    StorePlan,
    ViewSpec,
    decoding,
    default_shard_rows,
    file_beside,
    is_inside,
)


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
