from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import zarr
from anndata.io import write_elem
from damage import failing
from support import Run, extract, make_cells

from scstore import fsio
from scstore.errors import DamagedError, LockedError, NewerFormatError
from scstore.sealed import seal
from scstore.store.ledger import MANIFEST, chunk_path, record_path, write_manifest
from scstore.store.reader import open_store
from scstore.store.verify_store import verify_store


@pytest.fixture(scope="module")
def finished(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of 36 cells in 3 shards. Not to be written to."""
    root = tmp_path_factory.mktemp("finished") / "s.zarr"
    extract(make_cells(36, 24, empty=5), root, llama, shard_rows=16)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return shutil.copytree(finished, tmp_path / "s.zarr")


def flip(file: Path, place: int = 30) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("deep", [False, True])
def test_a_finished_store_has_nothing_wrong(finished: Path, deep: bool) -> None:
    before = fsio.digest_tree(finished)
    found = verify_store(finished, deep=deep)
    assert (found.ok, found.findings, found.notes) == (True, (), ())
    files = [file for file in finished.rglob("*") if file.is_file()]
    assert found.n_files == len(files) if deep else found.n_files < len(files)
    assert fsio.digest_tree(finished) == before


def test_all_that_is_wrong_is_listed_and_not_the_first(root: Path) -> None:
    """RELIABILITY 30: verify lists all."""
    flip(chunk_path(root, "genept", 0))
    chunk_path(root, "readout_wmean_l3", 2).unlink()
    flip(record_path(root, 1))
    flip(root / "obs" / "donor" / "zarr.json")
    (root / "var" / "zarr.json").unlink()
    flip(root / "X" / "data" / "c" / "0")
    (root / "obsm" / "stray").write_bytes(b"1")
    found = verify_store(root, deep=True)
    assert {(finding.file, finding.problem, finding.shard) for finding in found.findings} == {
        ("obsm/genept/c/0/0", "damaged", 0),
        ("obsm/readout_wmean_l3/c/2/0", "missing", 2),
        ("_scstore/shards/000001.json", "damaged", 1),
        ("obs/donor/zarr.json", "damaged", None),
        ("var/zarr.json", "missing", None),
        ("X/data/c/0", "damaged", None),
    }
    assert found.damaged_shards == (0, 1, 2)


def test_a_file_that_nobody_wrote_is_listed(root: Path) -> None:
    """A chunk that Zarr left out, since it is all fill value, would be read once it is there."""
    (root / "obs" / "donor" / "c").mkdir(exist_ok=True)
    (root / "obs" / "donor" / "c" / "7").write_bytes(b"1")
    (finding,) = verify_store(root).findings
    assert (finding.file, finding.problem) == ("obs/donor/c/7", "unexpected")


def test_without_deep_the_large_files_are_not_read(root: Path) -> None:
    flip(chunk_path(root, "genept", 0))
    flip(root / "X" / "data" / "c" / "0")
    assert verify_store(root).ok
    assert len(verify_store(root, deep=True).findings) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"files": [], "digest": ""}', '{"files": NaN, "digest": 1}'])
def test_without_its_manifest_the_shards_are_still_checked(root: Path, text: str) -> None:
    flip(chunk_path(root, "genept", 1))
    (root / MANIFEST).write_text(text)
    found = verify_store(root, deep=True)
    assert [finding.file for finding in found.findings] == [MANIFEST, "obsm/genept/c/1/0"]


def test_a_shard_of_other_cells_or_rows_is_inconsistent(root: Path) -> None:
    """Every digest matches, and still it is not this store's."""
    body = fsio.read_json(record_path(root, 1))
    del body["digest"]
    fsio.write_json(record_path(root, 1), seal({**body, "ids": "sha256:0"}))
    fsio.write_json(record_path(root, 0), seal({**fsio.read_json(record_path(root, 0)), "views": {}}))
    flip(record_path(root, 0), 3)
    problems = {finding.file: finding.problem for finding in verify_store(root, deep=True).findings}
    assert problems == {"_scstore/shards/000001.json": "inconsistent", "_scstore/shards/000000.json": "damaged"}


def test_a_newer_format_is_no_damage(root: Path) -> None:
    """RELIABILITY 34: named versions."""
    record = open_store(root).record
    assert record is not None
    group = zarr.open_group(root, mode="r+", use_consolidated=False)
    write_elem(group["uns/scstore"], "record", json.dumps(seal({**record, "format": "2.0"})))
    write_manifest(root, fsio.read_json(root / MANIFEST)["files"])
    with pytest.raises(NewerFormatError, match=r"2\.0"):
        verify_store(root)


def test_a_newer_manifest_is_no_damage(root: Path) -> None:
    fsio.write_json(root / MANIFEST, {"format": "2.0", "anything": []})
    with pytest.raises(NewerFormatError, match="manifest"):
        verify_store(root)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize(
    "name", ["obsm/genept/c/1/0", "_scstore/shards/000001.json", "X/data/c/0", "obs/donor/zarr.json", MANIFEST]
)
def test_what_cannot_be_read_is_not_called_damaged(root: Path, name: str, number: int) -> None:
    """RELIABILITY 58: nor is anything deleted for it."""
    whole = fsio.digest_tree(root)
    with failing(root / name, number):
        found = verify_store(root, deep=True, repair=True)
    assert {(finding.file, finding.problem, finding.shard) for finding in found.findings} >= {
        (name, "unreadable", None)
    }
    assert (found.ok, found.damaged, found.marked) == (False, False, ())
    assert fsio.digest_tree(root) == whole
    assert verify_store(root, deep=True).ok


def test_damage_beside_what_cannot_be_read_is_repaired_alone(root: Path) -> None:
    flip(chunk_path(root, "genept", 0))
    with failing(chunk_path(root, "genept", 1), errno.EIO):
        found = verify_store(root, deep=True, repair=True)
    assert (found.damaged, found.marked) == (True, (0,))


def test_the_exit_code_tells_damage_from_a_failed_read(root: Path, scstore_command: Run) -> None:
    with failing(chunk_path(root, "genept", 1), errno.EIO):
        scstore_command("verify", root, "--deep", "--repair", code=1)
    assert open_store(root).is_complete
    flip(chunk_path(root, "genept", 1))
    scstore_command("verify", root, "--deep", code=3)


def test_an_unfinished_store_is_not_damaged(root: Path) -> None:
    record_path(root, 2).unlink()
    found = verify_store(root, deep=True)
    assert found.ok
    assert "1 of 3 shards are not extracted yet" in found.notes[0]


def test_repair_lets_extract_redo_just_the_damaged_shards(llama: Path, finished: Path, tmp_path: Path) -> None:
    """RELIABILITY 30: extract redoes just those."""
    root = tmp_path / "s.zarr"
    extract(make_cells(36, 24, empty=5), root, llama, shard_rows=16)
    whole = fsio.digest_tree(root)
    sound = record_path(root, 0).stat().st_mtime_ns
    flip(chunk_path(root, "genept", 1))
    found = verify_store(root, deep=True, repair=True)
    assert found.marked == (1,)
    assert not found.ok
    assert open_store(root).committed.tolist() == [True] * 16 + [False] * 16 + [True] * 4
    assert verify_store(root, deep=True).ok
    extract(make_cells(36, 24, empty=5), root, llama, shard_rows=16)
    assert fsio.digest_tree(root) == whole
    assert record_path(root, 0).stat().st_mtime_ns == sound


def test_gc_removes_leftovers_and_nothing_that_is_referenced(root: Path) -> None:
    """RELIABILITY 23."""
    whole = fsio.digest_tree(root)
    (root / "obsm" / "genept" / "c" / "1" / f".0{fsio.PARTIAL}77").write_bytes(b"half")
    (root / "obs" / f"zarr.{'0a' * 16}.partial").write_bytes(b"half")
    (root.parent / f".{root.name}{fsio.PARTIAL}xyz").mkdir()
    (root.parent / f".s.genes.h5ad{fsio.PARTIAL}9").write_bytes(b"half")
    (root.parent / f".other.zarr{fsio.PARTIAL}xyz").mkdir()
    found = verify_store(root)
    assert found.ok
    assert "4 leftovers" in found.notes[0]
    assert len(verify_store(root, gc=True).removed) == 4
    assert fsio.digest_tree(root) == whole
    assert sorted(file.name for file in root.parent.iterdir()) == [f".other.zarr{fsio.PARTIAL}xyz", "s.zarr"]
    assert verify_store(root, gc=True).removed == ()


def test_gc_keeps_what_an_unfinished_run_needs(root: Path) -> None:
    record_path(root, 2).unlink()
    flip(record_path(root, 1))  # its chunks may be whole: only --repair gives them up
    found = verify_store(root, gc=True)
    assert set(found.removed) == {f"obsm/{view}/c/2/0" for view in open_store(root).views if view != "X"}
    assert chunk_path(root, "genept", 1).exists()


@pytest.mark.parametrize("option", ["gc", "repair"])
def test_nothing_is_changed_while_somebody_extracts(root: Path, option: str) -> None:
    flip(chunk_path(root, "genept", 1))
    before = fsio.digest_tree(root)
    with fsio.lock(root.with_name(f"{root.name}.lock")), pytest.raises(LockedError):
        verify_store(root, **{option: True})
    assert fsio.digest_tree(root) == before


def test_metadata_that_is_damaged_is_not_parsed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIABILITY 40: a length in it may be anything."""
    flip(root / "obs" / "_index" / "zarr.json", 100)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("scstore.store.verify_store.Store", never)
    assert [finding.file for finding in verify_store(root, deep=True).findings] == ["obs/_index/zarr.json"]


@pytest.mark.parametrize("where", ["manifest", "record"])
def test_a_path_that_leaves_the_store_is_refused(root: Path, where: str) -> None:
    """I5: though every digest matches."""
    (root.parent / "secret").write_bytes(b"1")
    file = root / MANIFEST if where == "manifest" else record_path(root, 0)
    body = fsio.read_json(file)
    del body["digest"]
    entry = {"bytes": 1, "digest": fsio.digest_bytes(b"1")}
    body["files" if where == "manifest" else "views"]["../secret"] = entry
    fsio.write_json(file, seal(body))
    found = verify_store(root, deep=True, gc=True, repair=True)
    assert [finding.file for finding in found.findings] == [file.relative_to(root).as_posix()]
    assert (root.parent / "secret").exists()


@pytest.mark.parametrize(
    "change", [{"shard_rows": 0}, {"views": {"../x": {"width": 1, "dtype": "float16", "space": {}}}}]
)
def test_a_record_that_makes_no_sense_is_damage(root: Path, change: dict[str, object]) -> None:
    """Sealed anew, so that only its sense is wrong."""
    record = open_store(root).record
    assert record is not None
    group = zarr.open_group(root, mode="r+", use_consolidated=False)
    write_elem(group["uns/scstore"], "record", json.dumps(seal({**record, **change})))
    write_manifest(root, fsio.read_json(root / MANIFEST)["files"])
    with pytest.raises(DamagedError):
        open_store(root)
    assert "damaged" in {finding.problem for finding in verify_store(root, deep=True).findings}
