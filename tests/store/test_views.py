from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse

from scstore.errors import DamagedError, IncompleteStoreError
from scstore.store.ledger import StorePlan, ViewSpec, chunk_path, record_path
from scstore.store.views import ShardView, View, array_view
from scstore.store.writer import commit_shard

N, WIDTH = 23, 3
ROWS = np.random.default_rng(0).standard_normal((N, WIDTH)).astype(np.float32)
PLAN = StorePlan(N, 5, (ViewSpec("v", WIDTH, "float32", {"view": "v"}),))


def write(root: Path, *, leave_out: tuple[int, ...] = ()) -> ShardView:
    for shard, start, stop in PLAN.shards():
        if shard not in leave_out:
            commit_shard(root, PLAN, shard, {"v": ROWS[start:stop]}, ids=[f"c{i}" for i in range(start, stop)])
    return ShardView(root, PLAN, PLAN.views[0])


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, View]:
    folder = tmp_path_factory.mktemp("views")
    (folder / "_scstore" / "shards").mkdir(parents=True)
    with h5py.File(folder / "a.h5", "w") as file:
        file["v"] = ROWS
    return {
        "shards": write(folder),
        "hdf5": array_view("v", h5py.File(folder / "a.h5")["v"], {}, source=folder / "a.h5"),
        "numpy": array_view("v", ROWS, {}, source=folder),
    }


KEYS = st.one_of(
    st.slices(N),
    st.lists(st.integers(-N, N - 1), max_size=40).map(lambda values: np.array(values, dtype=np.int64)),
    st.lists(st.booleans(), min_size=N, max_size=N).map(np.array),
)


@pytest.mark.parametrize("kind", ["shards", "hdf5", "numpy"])
@given(key=KEYS)
@settings(max_examples=60)
def test_rows_are_those_of_numpy(views: dict[str, View], kind: str, key: object) -> None:
    got = views[kind][key]  # type: ignore[index]
    np.testing.assert_array_equal(got, ROWS[key])  # type: ignore[index]
    assert got.dtype == np.float32


@given(key=KEYS)
@settings(max_examples=60)
def test_sparse_rows_are_those_of_scipy(key: object) -> None:
    matrix = random_sparse(N, 7, density=0.4, random_state=0, format="csr", dtype=np.float32)
    view = View("X", (N, 7), np.float32, {}, lambda start, stop: matrix[start:stop])
    got = view[key]  # type: ignore[index]
    assert isinstance(got, csr_matrix)
    np.testing.assert_array_equal(got.toarray(), matrix.toarray()[key])  # type: ignore[index]


@pytest.mark.parametrize("index", [[N], [-N - 1], [True, False]])
def test_rows_that_are_not_there_are_an_index_error(views: dict[str, View], index: list[int]) -> None:
    with pytest.raises(IndexError):
        views["shards"][np.array(index)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    return tmp_path


def test_rows_that_are_not_extracted_are_an_error_and_others_are_not(root: Path) -> None:
    """RELIABILITY 33: a reader sees committed rows only."""
    view = write(root, leave_out=(2,))
    np.testing.assert_array_equal(view[0:10], ROWS[0:10])
    np.testing.assert_array_equal(view[[22, 16]], ROWS[[22, 16]])
    with pytest.raises(IncompleteStoreError, match="cells 10 to 14 are not extracted"):
        view[8:12]


@pytest.mark.parametrize("byte", [0, 17, 59])
def test_a_flipped_bit_is_found_on_reading_those_rows(root: Path, byte: int) -> None:
    """RELIABILITY 30: bit flipped in a shard."""
    view = write(root)
    file = chunk_path(root, "v", 1)
    data = bytearray(file.read_bytes())
    data[byte] ^= 4
    file.write_bytes(data)
    np.testing.assert_array_equal(view[0:5], ROWS[0:5])
    with pytest.raises(DamagedError, match=r"obsm/v/c/1/0 does not match its digest \(cells 5 to 9\)"):
        view[5:6]


def test_a_deleted_shard_is_an_error_and_never_nan(root: Path) -> None:
    """RELIABILITY 30 and 31: shard deleted, record without shard."""
    view = write(root)
    chunk_path(root, "v", 3).unlink()
    with pytest.raises(DamagedError, match="is missing"):
        view[[15]]


def test_a_changed_record_is_an_error(root: Path) -> None:
    """RELIABILITY 30: bit flipped in a record."""
    view = write(root)
    file = record_path(root, 0)
    file.write_text(file.read_text().replace('"stop": 5', '"stop": 6'))
    with pytest.raises(DamagedError, match="its own digest"):
        view[0:1]
