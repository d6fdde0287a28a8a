from __future__ import annotations

import dataclasses
import errno
import os
import stat
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from support import Notes, make_cells

import scstore
from scstore import fsio
from scstore.errors import CellsError
from scstore.heads.neighbour_search import nearest
from scstore.search import index as index_module
from scstore.search import query as query_module
from scstore.search.index import CosineIndex, build_cosine_index, cached_index


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (4, 20))[rng.integers(0, 4, 900)] + rng.normal(size=(900, 20))
    return rows.astype(np.float32)


def write_embedding(path: Path, values: np.ndarray) -> Path:
    made = anndata.AnnData(obs=make_cells(len(values)).obs)
    made.obsm["X_pca"] = values
    made.write_h5ad(path)
    return path


@pytest.fixture
def reference(values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reference that counts as large, and a cache of its own."""
    monkeypatch.setattr(query_module, "EXACT_BELOW", 100)
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))
    return write_embedding(tmp_path / "ref.h5ad", values)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each index that is built."""
    sizes: list[int] = []

    def counted(rows: object) -> CosineIndex:
        sizes.append(rows.shape[0])  # type: ignore[attr-defined]
        return build_cosine_index(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(index_module, "build_cosine_index", counted)
    return sizes


def kept(reference: Path) -> list[Path]:
    return sorted((reference.parent / "cache").rglob("*.index"))


def test_a_large_reference_is_indexed_once(reference: Path, values: np.ndarray, builds: list[int]) -> None:
    new = write_embedding(reference.with_name("new.h5ad"), values[::5] + 0.1)
    said = Notes()
    fast = scstore.query(new, reference, k=8, progress=said).table
    again = scstore.query(new, reference, k=8).table
    slow = scstore.query(new, reference, k=8, exact=True).table
    assert builds == [900]
    assert len(kept(reference)) == 1
    assert sorted(path.name for path in reference.parent.iterdir()) == ["cache", "new.h5ad", "ref.h5ad"]
    assert any("recall at 10" in line for line in said.said)
    assert fast.equals(again)
    assert list(fast.columns) == list(slow.columns)
    same = (fast["neighbour"] == slow["neighbour"]).to_numpy()
    assert same.reshape(-1, 8)[:, 0].mean() > 0.95
    np.testing.assert_allclose(fast["distance"][same], slow["distance"][same], atol=1e-5)


def test_other_values_need_another_index(reference: Path, values: np.ndarray, builds: list[int]) -> None:
    scstore.query(reference, reference, k=1)
    changed = values.copy()
    changed[17, 3] += 1  # one value of one cell
    write_embedding(reference, changed)
    frame = scstore.query(reference, reference, k=1).table
    assert frame["neighbour"].tolist() == frame["cell_id"].tolist()
    assert builds == [900, 900]
    assert len(kept(reference)) == 2


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_file_is_built_again(reference: Path, builds: list[int], how: str) -> None:
    """RELIABILITY 39: FAISS reads only bytes that match their digest."""
    import faiss

    wanted = scstore.query(reference, reference, k=2).table
    (file,) = kept(reference)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    foreign = faiss.serialize_index(faiss.IndexFlatL2(20)).tobytes()
    file.write_bytes({"flip": bytes(raw), "cut": bytes(raw[:-9]), "empty": b"", "foreign": foreign}[how])
    assert scstore.query(reference, reference, k=2).table.equals(wanted)
    assert builds == [900, 900]
    assert scstore.query(reference, reference, k=2).table.equals(wanted)
    assert builds == [900, 900]


def test_a_file_beside_the_store_is_not_looked_at(reference: Path, builds: list[int]) -> None:
    """RELIABILITY 39: an index that came with a store is ignored."""
    scstore.query(reference, reference, k=2)
    (file,) = kept(reference)
    file.rename(reference.with_name(file.name))
    reference.with_name("ref.h5ad.X_pca.index").mkdir()
    scstore.query(reference, reference, k=2)
    assert builds == [900, 900]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners of files")
def test_a_file_of_another_user_is_not_read(
    reference: Path, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scstore.query(reference, reference, k=2)
    assert stat.S_IMODE(kept(reference)[0].parent.stat().st_mode) == 0o700
    monkeypatch.setattr(fsio.os, "getuid", lambda: -2)
    scstore.query(reference, reference, k=2)
    assert builds == [900, 900]


def test_a_cache_that_cannot_be_written_is_no_obstacle(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    said = Notes()
    frame = scstore.query(reference, reference, k=1, progress=said).table
    assert (frame["neighbour"] == frame["cell_id"]).mean() > 0.99
    assert any(str(tmp_path / "cache") in line for line in said.said)


def test_a_filter_is_kept_to_with_an_index_and_without(reference: Path, builds: list[int], values: np.ndarray) -> None:
    without = scstore.query(reference, reference, k=4, where="donor == 'd1'", exact=True).table
    fast = scstore.query(reference, reference, k=4, where="donor == 'd1'").table
    assert builds == [900]  # of all cells, so that every filter uses it
    for frame in (without, fast):
        assert set(frame["donor"]) == {"d1"}
    assert (fast["neighbour"] == without["neighbour"]).mean() > 0.85
    unfiltered = scstore.query(reference, reference, k=900, exact=True).table
    wanted = unfiltered[unfiltered["donor"] == "d1"].groupby("cell_id", sort=False).head(4)
    np.testing.assert_allclose(without["distance"], wanted["distance"], atol=1e-5)  # the mean is that of all cells


def test_a_low_recall_is_a_warning(reference: Path) -> None:
    store = scstore.open(reference)
    rows = np.arange(900)
    index = cached_index(store, store.view("X_pca"), rows, progress=Notes())
    poor = dataclasses.replace(index.rows.measured, recall=0.5)
    index.rows.measured = poor
    (file,) = kept(reference)
    index_module._keep(CosineIndex(index.mean, index.rows), file, Notes())
    said = Notes()
    assert cached_index(store, store.view("X_pca"), rows, progress=said).rows.measured == poor
    assert any("0.500" in line and "exact=True" in line for line in said.said)


def test_distances_are_exact_and_the_bytes_come_back(values: np.ndarray) -> None:
    index = build_cosine_index(values)
    everything = np.ones(900, dtype=bool)
    again = CosineIndex.from_bytes(index.to_bytes())
    for one in (index, again):
        distances, found = one.nearest(values, values[1::8], k=10, chosen=everything)
        wanted, places = nearest(values, values[1::8], k=10)
        recall = np.mean([len(set(f) & set(t)) / 10 for f, t in zip(found, places, strict=True)])
        assert recall >= 0.93
        assert (np.diff(distances, axis=1) >= 0).all()
        same = (found == places).all(axis=1)
        np.testing.assert_allclose(distances[same], wanted[same], atol=1e-5)
    assert again.rows.measured == index.rows.measured
    assert again.nearest(values, values[:0], k=4, chosen=everything)[0].shape == (0, 4)
    assert build_cosine_index(values).to_bytes() == index.to_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_found_and_not_finite_is_named(values: np.ndarray, bad: float) -> None:
    index = build_cosine_index(values)
    broken = values.copy()
    broken[400, 3] = bad
    with pytest.raises(CellsError, match="Row 400"):
        index.nearest(broken, values[400:401], k=2, chosen=np.ones(900, dtype=bool))


def test_a_cache_on_a_full_disk_is_a_warning(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIABILITY 66: the search goes on, and nothing half is left."""

    class Full(fsio.Disk):
        def write(self, file: Any, data: bytes | memoryview) -> None:
            super().write(file, bytes(data)[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fsio, "disk", Full())
    with pytest.warns(scstore.ScstoreWarning, match="cache"):
        found = scstore.query(reference, reference, k=2).table
    assert len(found) == 2 * 900
    assert [file for file in (reference.parent / "cache").rglob("*") if file.is_file()] == []
