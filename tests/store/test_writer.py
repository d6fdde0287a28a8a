from __future__ import annotations

import os
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from broken_disk import BrokenDisk, in_place_of_the_disk
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.errors import NumericsError
from scstore.store.ledger import MANIFEST, StorePlan, ViewSpec, chunk_path, read_manifest, record_path
from scstore.store.views import SPARSE_CHUNK
from scstore.store.writer import DiskStore, StoreBuilder, build_store, commit_shard

PLAN = StorePlan(5, 2, (ViewSpec("a", 3, "float16", {"v": 1}), ViewSpec("b", 2, "float32", {"v": 2})))
IDS = [f"c{i}" for i in range(5)]
RECORD = {"format": "1.0", "views": {}, "default_view": "a", "shard_rows": 2}


def shape(builder: StoreBuilder, *, keep: bool = True, obs: pd.DataFrame | None = None) -> None:
    counts = csr_matrix(np.arange(20, dtype=np.float32).reshape(5, 4))
    if keep:
        builder.write_expression([counts[:2], counts[2:]], n_genes=4)
    frame = pd.DataFrame({"x": range(5)}, index=IDS) if obs is None else obs
    builder.write_frames(frame, pd.DataFrame(index=list("wxyz")), RECORD)
    builder.create_views(PLAN)


def rows(shard: int) -> dict[str, np.ndarray]:
    start, stop = PLAN.bounds(shard)
    return {"a": np.full((stop - start, 3), shard + 0.5), "b": np.full((stop - start, 2), shard + 0.25)}


def test_a_finished_store_is_a_plain_anndata(tmp_path: Path) -> None:
    with build_store(tmp_path / "s.zarr") as builder:
        shape(builder)
    for shard in range(3):
        start, stop = PLAN.bounds(shard)
        commit_shard(tmp_path / "s.zarr", PLAN, shard, rows(shard), ids=IDS[start:stop])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The 'future.infer_string' option")  # inside anndata 0.13 beside pandas 3.1
        adata = anndata.read_zarr(tmp_path / "s.zarr")
    assert adata.obsm["a"][:, 0].tolist() == [0.5, 0.5, 1.5, 1.5, 2.5]
    assert (adata.obsm["a"].dtype, adata.obsm["b"].dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(adata.X.toarray(), np.arange(20).reshape(5, 4))
    assert list(adata.obs_names) == IDS


def test_missing_rows_read_as_nan_elsewhere(tmp_path: Path) -> None:
    with build_store(tmp_path / "s.zarr") as builder:
        shape(builder)
    commit_shard(tmp_path / "s.zarr", PLAN, 1, rows(1), ids=IDS[2:4])
    a = anndata.read_zarr(tmp_path / "s.zarr").obsm["a"]
    assert np.isnan(a[[0, 1, 4]]).all()
    assert np.isfinite(a[2:4]).all()


def test_a_chunk_file_is_the_rows(tmp_path: Path) -> None:
    with build_store(tmp_path / "s.zarr") as builder:
        shape(builder)
    commit_shard(tmp_path / "s.zarr", PLAN, 2, rows(2), ids=IDS[4:])
    raw = np.fromfile(chunk_path(tmp_path / "s.zarr", "a", 2), dtype="<f2").reshape(2, 3)
    assert raw[0].tolist() == [2.5] * 3
    assert np.isnan(raw[1]).all()


def test_expression_may_be_left_out_of_the_anndata(tmp_path: Path) -> None:
    with build_store(tmp_path / "s.zarr") as builder:
        shape(builder, keep=False)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert "X" not in group


def test_expression_longer_than_a_chunk(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path)
    n = SPARSE_CHUNK + SPARSE_CHUNK // 2
    values = np.arange(n, dtype=np.float32)
    block = csr_matrix((values, np.zeros(n, dtype=np.int32), np.arange(n + 1)), shape=(n, 1))
    builder.write_expression((block[start : start + 300_000] for start in range(0, n, 300_000)), n_genes=1)
    group = zarr.open_group(tmp_path / "X", mode="r")
    np.testing.assert_array_equal(group["data"][:], values)
    np.testing.assert_array_equal(group["indptr"][:], np.arange(n + 1))


def test_a_store_that_fails_to_build_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), build_store(tmp_path / "s.zarr") as builder:
        shape(builder)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_lists_every_fixed_file(tmp_path: Path) -> None:
    root = tmp_path / "s.zarr"
    with build_store(root) as builder:
        shape(builder)
    manifest = read_manifest(root)
    files = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    assert set(manifest) == files - {MANIFEST}
    assert all(fsio.digest_file(root / name) == entry["digest"] for name, entry in manifest.items())


def test_obs_columns_that_anndata_has_no_form_for_become_text(tmp_path: Path) -> None:
    columns = {
        "mixed": [{1}, 2, "x", None, 4.0],
        "day": pd.date_range("2020-01-01", periods=5),
        "bin": pd.cut(pd.Series(range(5)), 2),
        3: range(5),
        "loose": np.array([True, None, False, 1, True], dtype=object),
        "name": ["a", None, "c", "d", "e"],
        "kind": pd.Categorical(["x", "y", None, "x", "y"]),
        "flag": pd.array([True, None, False, True, True], dtype="boolean"),
        "nothing": [None] * 5,
        "seen": pd.to_datetime(["2020-01-01", None, "2020-01-03", None, None]),
    }
    obs = pd.DataFrame(columns).set_index(pd.Index(IDS))
    with build_store(tmp_path / "s.zarr") as builder:
        shape(builder, obs=obs)
    read = anndata.read_zarr(tmp_path / "s.zarr").obs
    assert read["day"].iloc[0].startswith("2020-01-01")
    assert read["mixed"].iloc[0] == "{1}"
    assert read["bin"].iloc[4] == "(2.0, 4.0]"
    assert read["name"].isna().tolist() == [False, True, False, False, False]
    assert read["loose"].iloc[0] == "True"
    assert read["3"].tolist() == [0, 1, 2, 3, 4]
    assert read["kind"].isna().tolist() == [False, False, True, False, False]
    assert read["flag"].isna().tolist() == [False, True, False, False, False]
    # what is missing stays missing, and never turns into a label such as "None"
    assert read["nothing"].isna().all()
    assert read["seen"].isna().tolist() == [False, True, False, True, True]
    assert read["mixed"].isna().tolist() == [False, False, False, True, False]
    assert read["loose"].isna().tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("value", [-0.0, -1e-9])
def test_zeros_have_no_sign(tmp_path: Path, value: float) -> None:
    """RELIABILITY 70: the sign of what underflows differs with the number of threads."""
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    negative = {"a": np.full((2, 3), value, np.float32), "b": np.full((2, 2), -0.0, np.float32)}
    commit_shard(tmp_path, PLAN, 0, negative, ids=IDS[:2])
    for view in ("a", "b"):
        assert set(chunk_path(tmp_path, view, 0).read_bytes()) == {0}
    assert np.signbit(negative["b"]).all()  # the caller's rows are as they were


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    """RELIABILITY 18: NaN or Inf in a hidden state."""
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    bad = rows(0)
    bad["a"][1, 2] = value
    with pytest.raises(NumericsError, match="'c1'.*bfloat16"):
        commit_shard(tmp_path, PLAN, 0, bad, ids=IDS[:2])
    assert not (tmp_path / "obsm").exists()
    assert not record_path(tmp_path, 0).exists()


def test_a_value_that_overflows_float16_is_not_written(tmp_path: Path) -> None:
    """RELIABILITY 18: a finite value that overflows on the cast."""
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    bad = rows(0)
    bad["a"][0, 0] = 70000.0
    with pytest.raises(NumericsError, match="'c0'.*7e.04.*float32"):
        commit_shard(tmp_path, PLAN, 0, bad, ids=IDS[:2])
    assert not record_path(tmp_path, 0).exists()


def test_the_record_is_written_after_the_rows_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL does not model power loss: the order of fsync and rename is what protects against it."""
    (tmp_path / "_scstore" / "shards").mkdir(parents=True)
    events: list[tuple[str, str]] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        events.append(("fsync", Path(f"/proc/self/fd/{descriptor}").resolve().relative_to(tmp_path).as_posix()))
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append(("rename", Path(target).relative_to(tmp_path).as_posix()))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    commit_shard(tmp_path, PLAN, 0, rows(0), ids=IDS[:2])
    record = events.index(("rename", "_scstore/shards/000000.json"))
    for view in ("a", "b"):
        rename = events.index(("rename", f"obsm/{view}/c/0/0"))
        folder = events.index(("fsync", f"obsm/{view}/c/0"))
        assert events[rename - 1][0] == "fsync"
        assert rename < folder < record
        assert ("fsync", f"obsm/{view}/c") in events[:record]
    assert events[record + 1] == ("fsync", "_scstore/shards")


def test_every_file_of_zarr_is_written_through_the_seam(tmp_path: Path) -> None:
    disk = BrokenDisk()
    with in_place_of_the_disk(disk):
        group = zarr.open_group(DiskStore(tmp_path / "z"), mode="w", zarr_format=3)
        group.create_array("a", data=np.arange(10), chunks=(4,))
    written = {file for what, file in disk.trace if what == "write"}
    assert written == {str(file) for file in (tmp_path / "z").rglob("*") if file.is_file()}
    assert len(written) == 5
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "z", mode="r")["a"][:], np.arange(10))


def test_a_full_disk_is_an_error_and_no_hole(tmp_path: Path) -> None:
    """RELIABILITY 22: a chunk that was not written would read as zeros."""
    group = zarr.open_group(DiskStore(tmp_path / "z"), mode="w", zarr_format=3)
    array = group.create_array("a", shape=(10,), chunks=(4,), dtype="f4")
    with in_place_of_the_disk(BrokenDisk(2, "enospc")), pytest.raises(OSError, match="No space"):
        array[:] = np.ones(10)
