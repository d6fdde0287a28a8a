from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from support import Notes, make_cells

import scstore
from scstore.errors import DamagedError, InputError, NotAStoreError, OptionError, OutputError
from scstore.search import query as query_module
from scstore.search.index import build_index

SMALL = 100
"""Cells from which an index is made here."""


def write_embedding(path: Path, values: np.ndarray, *, name: str = "X_pca") -> Path:
    cells = make_cells(len(values))
    made = anndata.AnnData(obs=cells.obs)
    made.obsm[name] = values
    made.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (4, 20))[rng.integers(0, 4, 900)] + rng.normal(size=(900, 20))
    return rows.astype(np.float32)


@pytest.fixture
def reference(values: np.ndarray, tmp_path: Path) -> Path:
    return write_embedding(tmp_path / "ref.h5ad", values)


@pytest.fixture(scope="module")
def stores(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    scstore.extract(make_cells(260, empty=3), folder / "ref.zarr", model=str(llama), shard_rows=64)
    return folder / "ref.zarr"


@pytest.fixture
def store(stores: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stores, tmp_path / "ref.zarr"))


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few cells count as many."""
    monkeypatch.setattr(query_module, "EXACT_BELOW", SMALL)


def test_few_cells_need_none(reference: Path) -> None:
    built = build_index(reference)
    assert (built.path, built.probing, built.n_cells) == (None, None, 900)
    assert sorted(path.name for path in reference.parent.iterdir()) == ["ref.h5ad"]


def test_query_finds_it_beside_the_store_and_says_so(reference: Path, values: np.ndarray, many: None) -> None:
    built = build_index(reference, exact_below=SMALL)
    assert built.path == reference.with_name("ref.h5ad.X_pca.index")
    assert built.n_cells == built.added == 900
    assert built.probing is not None
    assert built.probing.recall >= 0.95
    new = write_embedding(reference.with_name("new.h5ad"), values[::5] + 0.1)
    said, plain = Notes(), Notes()
    fast = scstore.query(new, reference, k=8, progress=said)
    slow = scstore.query(new, reference, k=8, exact=True, progress=plain)
    assert any("with the index" in line and f"{built.probing.recall:.3f}" in line for line in said.said)
    assert not any("index" in line for line in plain.said)
    assert list(fast.columns) == list(slow.columns)
    assert len(fast) == len(slow) == 8 * 180
    same = fast["neighbour"].to_numpy().reshape(-1, 8) == slow["neighbour"].to_numpy().reshape(-1, 8)
    assert same[:, 0].mean() > 0.95
    np.testing.assert_allclose(fast["distance"][same.ravel()], slow["distance"][same.ravel()], atol=1e-5)


def test_made_once_and_anew_where_the_cells_differ(reference: Path, values: np.ndarray, many: None) -> None:
    first = build_index(reference, exact_below=SMALL)
    assert first.path is not None
    before = (first.path / "index.json").stat().st_mtime_ns
    assert build_index(reference, exact_below=SMALL).added == 0
    assert (first.path / "index.json").stat().st_mtime_ns == before
    assert build_index(reference, exact_below=SMALL, recall=0.5).added == 900
    changed = values.copy()
    changed[17, 3] += 1  # one value of one cell
    write_embedding(reference, changed)
    said = Notes()
    frame = scstore.query(reference, reference, k=1, progress=said)
    assert any("not used" in line and "scstore index" in line for line in said.said)
    assert frame["neighbour"].tolist() == frame["cell_id"].tolist()
    with pytest.raises(InputError, match="other cells or features"):
        scstore.query(reference, reference, index=first.path)
    assert build_index(reference, exact_below=SMALL).added == 900


@pytest.mark.parametrize("name", ["index.json", "arrays.safetensors", "lists.bin"])
def test_a_damaged_one_is_never_searched(reference: Path, many: None, name: str) -> None:
    """RELIABILITY 39."""
    path = build_index(reference, exact_below=SMALL).path
    assert path is not None
    (path / name).write_bytes(b"x" + (path / name).read_bytes()[1:])
    said = Notes()
    frame = scstore.query(reference, reference, k=1, progress=said)
    assert frame["neighbour"].tolist() == frame["cell_id"].tolist()
    assert any("the index is not used" in line and "damaged" in line for line in said.said)
    with pytest.raises(DamagedError):
        scstore.query(reference, reference, index=path)
    with pytest.raises(DamagedError):
        build_index(reference, exact_below=SMALL, add=True)
    assert build_index(reference, exact_below=SMALL).added == 900


def test_without_one_query_says_what_would_help(reference: Path, many: None) -> None:
    said = Notes()
    scstore.query(reference, reference, k=1, progress=said)
    assert any(f"`scstore index {reference}`" in line for line in said.said)


def test_cells_extracted_since_are_added(store: Path, many: None) -> None:
    record = store / "_scstore" / "shards" / "000002.json"
    text = record.read_bytes()
    record.unlink()
    first = build_index(store, exact_below=SMALL, allow_partial=True)
    assert first.path is not None
    assert first.n_cells == first.added == 260 - 64 - 1
    record.write_bytes(text)
    said = Notes()
    scstore.query(store, store, k=1, progress=said)
    assert any("not used" in line for line in said.said)
    more = build_index(store, exact_below=SMALL, add=True)
    assert (more.added, more.n_cells) == (64, 259)
    assert more.probing is not None
    said = Notes()
    frame = scstore.query(store, store, k=1, progress=said)
    assert any("with the index" in line for line in said.said)
    assert (frame["neighbour"] == frame["cell_id"]).mean() > 0.99
    assert "cell3" not in set(frame["neighbour"])
    assert build_index(store, exact_below=SMALL, add=True).added == 0


def test_nothing_is_added_to_an_index_of_other_cells(store: Path, reference: Path, values: np.ndarray) -> None:
    build_index(reference, exact_below=SMALL)
    write_embedding(reference, values + 1)
    with pytest.raises(InputError, match=r"changed since.*scstore index"):
        build_index(reference, exact_below=SMALL, add=True)
    with pytest.raises(NotAStoreError, match="no index there"):
        build_index(store, exact_below=SMALL, add=True)


def test_an_index_elsewhere(reference: Path, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "mine"
    assert build_index(reference, place, exact_below=SMALL).path == place
    said = Notes()
    scstore.query(reference, reference, k=2, index=place, progress=said)
    assert any(f"with the index {place}" in line for line in said.said)
    with pytest.raises(NotAStoreError):
        scstore.query(reference, reference, k=2, index=tmp_path / "none")
    with pytest.raises(OptionError, match="--exact and --index"):
        scstore.query(reference, reference, k=2, index=place, exact=True)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="no index"):
        build_index(reference, tmp_path / "taken", exact_below=SMALL)


def test_options_are_checked(reference: Path, store: Path) -> None:
    for recall in (0.0, 1.0, float("nan")):
        with pytest.raises(OptionError, match="--recall"):
            build_index(reference, recall=recall)
    with pytest.raises(OptionError, match="not searched"):
        build_index(store, view="X")


def test_a_filter_is_kept_to_with_an_index_and_without(reference: Path, values: np.ndarray, many: None) -> None:
    said = Notes()
    without = scstore.query(reference, reference, k=4, where="donor == 'd1'", exact=True)
    build_index(reference, exact_below=SMALL)
    fast = scstore.query(reference, reference, k=4, where="donor == 'd1'", progress=said)
    assert any("with the index" in line for line in said.said)
    for frame in (without, fast):
        assert set(frame["donor"]) == {"d1"}
    assert (fast["neighbour"] == without["neighbour"]).mean() > 0.85
    unfiltered = scstore.query(reference, reference, k=900, exact=True)
    wanted = unfiltered[unfiltered["donor"] == "d1"].groupby("cell_id", sort=False).head(4)
    np.testing.assert_allclose(without["distance"], wanted["distance"], atol=1e-5)  # the mean is that of all cells
    with pytest.raises(OptionError, match="-k 4.*0 cells to choose from where donor == 'd7'"):
        scstore.query(reference, reference, k=4, where="donor == 'd7'")
