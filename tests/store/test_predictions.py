from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from damage import files_of, flipped, random_bytes_of
from support import make_cells

import scstore
from scstore.errors import DamagedError, InputError
from scstore.store.export import export_h5ad
from scstore.store.prediction_writer import open_prediction
from scstore.store.predictions import read_listing

FLIPS = 24
ABOUT = {"head": {"name": "h", "label": "cell_type"}, "options": {"keep": None}}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without predictions."""
    folder = tmp_path_factory.mktemp("plain")
    cells = make_cells(20, 8, empty=5)
    scstore.build_genes(folder / "genes.h5ad", cells=cells, encoder="random:8")
    options = {"genes": str(folder / "genes.h5ad"), "pool": (), "companions": ("genept", "genept_random")}
    scstore.extract(cells, folder / "s.zarr", shard_rows=8, **options)
    return folder / "s.zarr"


def frame(seed: int = 0) -> pd.DataFrame:
    """Predictions of the 20 cells, with names that are no names of files."""
    rng = np.random.default_rng(seed)
    names = np.array(["CD4/CD8, naïve", "..", "NK"], dtype=object)
    columns = {"label": names[rng.integers(0, 3, 20)], "novelty": rng.random(20)}
    columns |= {f"p({name})": rng.random(20) for name in names}
    index = pd.Index([f"cell{i}" for i in range(20)], name="cell_id")
    return pd.DataFrame({**columns, "over_clustering": rng.integers(0, 4, 20)}, index=index)


def write(root: Path, name: str, values: pd.DataFrame, *, step: int = 7) -> None:
    with open_prediction(scstore.open(root), name, about=ABOUT) as writer:
        for start in range(0, len(values), step):
            writer.write(values.iloc[start : start + step])


@pytest.fixture
def root(plain: Path, tmp_path: Path) -> Path:
    """A store with two predictions."""
    copied = shutil.copytree(plain, tmp_path / "s.zarr")
    write(copied, "types", frame())
    write(copied, "more", frame(1))
    return copied


def as_written(found: pd.DataFrame) -> pd.DataFrame:
    return found.astype({"label": object})


def test_what_was_written_comes_back(root: Path) -> None:
    store = scstore.open(root)
    assert store.predictions == ("more", "types")
    pd.testing.assert_frame_equal(as_written(store.prediction("types")), frame())
    pd.testing.assert_frame_equal(as_written(store.prediction("more")), frame(1))
    assert store.views == ("genept", "genept_random", "X")
    assert store.info["predictions"]["types"] == {**ABOUT, "n_obs": 20, "columns": list(frame().columns)}
    with pytest.raises(InputError, match="no prediction 'kinds'.*more, types"):
        store.prediction("kinds")


def test_any_reader_of_anndata_has_them_aligned(root: Path) -> None:
    """Warnings are errors here: anndata gives none."""
    for read in (anndata.read_zarr(root), scstore.open(root).to_anndata()):
        assert list(read.obsm["types"].index) == list(read.obs_names)
        assert list(read.obsm["types"]["label"]) == list(frame()["label"])
        assert list(read.obsm["types"]["p_CD4_CD8_na_ve"]) == list(frame()["p(CD4/CD8, naïve)"])
        assert list(read[[3, 1]].obsm["types"]["label"]) == list(frame()["label"].iloc[[3, 1]])
    some = scstore.open(root).to_anndata(["genept"], rows=np.array([4, 2]))
    assert list(some.obsm["types"]["label"]) == list(frame()["label"].iloc[[4, 2]])


def test_an_export_carries_them(root: Path, tmp_path: Path) -> None:
    export_h5ad(root, tmp_path / "e.h5ad", views=["genept"])
    exported = scstore.open(tmp_path / "e.h5ad")
    assert exported.views == ("genept",)
    pd.testing.assert_frame_equal(exported.prediction("types"), scstore.open(root).prediction("types"))
    assert scstore.verify(tmp_path / "e.h5ad").ok
    assert list(exported.to_anndata().obsm["more"]["label"]) == list(frame(1)["label"])
    scstore.open(root).to_anndata().write_h5ad(tmp_path / "m.h5ad")
    assert scstore.open(tmp_path / "m.h5ad").predictions == ("more", "types")


def test_the_store_itself_is_what_it_was(plain: Path, root: Path) -> None:
    for file in files_of(plain):
        name = file.relative_to(plain)
        if name != Path("zarr.json"):
            assert (root / name).read_bytes() == file.read_bytes()
    assert read_listing(root).base == (plain / "zarr.json").read_bytes()


def test_a_flipped_byte_anywhere_is_found(root: Path) -> None:
    """RELIABILITY 30: in a prediction, and in the metadata that lists it."""
    assert scstore.verify(root, deep=True).ok
    places = [*random_bytes_of(root / "obsm" / "types", FLIPS, seed=1)]
    places += [*random_bytes_of(root / "zarr.json", FLIPS // 2, seed=2)]
    for file, place, mask in places:
        with flipped(file, place, mask):
            named = [finding.file for finding in scstore.verify(root, deep=True).findings]
        name = file.relative_to(root).as_posix()
        assert any(name == found or name.startswith(f"{found}/") for found in named), (name, place, mask)
    assert scstore.verify(root, deep=True).ok


def test_a_lost_or_additional_file_is_found(root: Path) -> None:
    for file in files_of(root / "obsm" / "types"):
        whole = file.read_bytes()
        file.unlink()
        assert not scstore.verify(root).ok, file
        file.write_bytes(whole)
    (root / "obsm" / "types" / "mine").mkdir()
    (root / "obsm" / "types" / "mine" / "0").write_bytes(b"1")
    assert [(found.file, found.problem) for found in scstore.verify(root).findings] == [
        ("obsm/types/mine/0", "unexpected")
    ]


def test_damage_is_an_error_when_it_is_read(root: Path) -> None:
    codes = root / "obsm" / "types" / "label" / "codes" / "c" / "0"
    with flipped(codes, 3, 1), pytest.raises(DamagedError, match="types/label.*--into types --overwrite"):
        scstore.open(root).prediction("types")
    with flipped(root / "zarr.json", (root / "zarr.json").read_bytes().index(b'"p_NK"') + 2, 1):
        store = scstore.open(root)
        with pytest.raises(DamagedError, match=r"zarr\.json.*more, types.*digest"):
            store.prediction("types")


def test_a_prediction_of_other_cells_is_stale(root: Path, tmp_path: Path) -> None:
    """Never silently misaligned: here one that somebody copied from a store of fewer cells."""
    listing = read_listing(root)
    record = {**listing.records["types"], "n_obs": 12}
    other = listing.with_prediction(record, listing.columns["types"])
    (root / "zarr.json").write_bytes(other.content)
    with pytest.raises(InputError, match="'types' is stale: it is of 12 cells.*20"):
        scstore.open(root).prediction("types")
    assert "inconsistent" in {found.problem for found in scstore.verify(root).findings}
    with pytest.raises(InputError, match="stale"):
        export_h5ad(root, tmp_path / "e.h5ad")


def test_an_exported_record_that_was_changed_is_refused(root: Path, tmp_path: Path) -> None:
    whole = scstore.open(root).to_anndata()
    record = json.loads(whole.uns["scstore"]["predictions"]["types"])
    whole.uns["scstore"]["predictions"]["types"] = json.dumps({**record, "n_obs": 19})
    whole.write_h5ad(tmp_path / "m.h5ad")
    with pytest.raises(DamagedError, match=r"m\.h5ad.*'types' does not match its digest"):
        scstore.open(tmp_path / "m.h5ad").prediction("types")


def test_others_files_have_none(tmp_path: Path) -> None:
    made = anndata.AnnData(obs=make_cells(20).obs)
    made.obsm["X_pca"] = np.eye(20)
    made.obsm["frame"] = pd.DataFrame({"a": range(20)}, index=made.obs_names)
    made.write_h5ad(tmp_path / "a.h5ad")
    store = scstore.open(tmp_path / "a.h5ad")
    assert (store.predictions, store.info["predictions"]) == ((), {})
    assert "frame" in store.to_anndata().obsm
