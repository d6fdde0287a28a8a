"""Operations of a run broken in turn: a part of them here, all of them in `benchmarks/faults.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_disk import (
    FAULTS,
    Bench,
    BrokenDisk,
    Killed,
    count_operations,
    in_place_of_the_disk,
    make_benches,
    violations,
)

from scstore import fsio


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    return make_benches(tmp_path_factory.mktemp("benches"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("name", "every"), [("fresh", 160), ("begun", 13)])
def test_no_broken_operation_breaks_a_promise(benches: dict[str, Bench], name: str, every: int, fault: str) -> None:
    """RELIABILITY 21, 22, I1–I4: SIGKILL, disk full, EIO and a short write."""
    bench = benches[name]
    number = len(count_operations(bench))
    first = FAULTS.index(fault) * every // len(FAULTS)  # each fault meets other operations
    found = [violations(bench, at=at, fault=fault) for at in range(first, number, every)]
    assert len(found) > 1
    assert [line for lines in found for line in lines] == []


def test_a_record_comes_after_everything_it_names(benches: dict[str, Bench]) -> None:
    """RELIABILITY 21: a kill does not model a power cut, so the order of the flushes is looked at as well."""
    trace, root = count_operations(benches["begun"]), benches["begun"].root
    record = trace.index(("rename", str(root / "_scstore" / "shards" / "000002.json")))
    before = trace[:record]
    for view in ("genept", "genept_random"):
        folder = root / "obsm" / view / "c" / "2"
        renamed = before.index(("rename", str(folder / "0")))
        (flushed,) = [i for i, (what, file) in enumerate(before) if what == "sync" and f"{folder}/." in file]
        assert flushed < renamed < before.index(("sync", str(folder)), renamed)
    assert any(what == "sync" and "/.000002.json" in file for what, file in before)
    assert trace[record + 1] == ("sync", str(root / "_scstore" / "shards"))


def test_a_new_store_is_flushed_whole_before_it_has_its_name(benches: dict[str, Bench]) -> None:
    """RELIABILITY 21: every file and every folder of it."""
    trace, root = count_operations(benches["fresh"]), benches["fresh"].root
    named = trace.index(("rename", str(root)))
    written = {file for what, file in trace[:named] if what == "write" and "/.s.zarr" in file}
    flushed = {file for what, file in trace[:named] if what == "sync"}
    assert len(written) > 20
    assert {file for file in written if "manifest" not in file} <= flushed
    assert {str(Path(file).parent) for file in written} <= flushed
    assert ("sync", str(root.parent)) in trace[named:]


def test_the_broken_disk_breaks(tmp_path: Path) -> None:
    """The harness itself: what it claims to do happens."""
    for fault, left in (("enospc", b""), ("eio", b"12345678"), ("short", b"1234"), ("kill", b"1234")):
        disk = BrokenDisk(0, fault)
        with (tmp_path / fault).open("wb") as file, pytest.raises((OSError, Killed)):
            disk.write(file, b"12345678")
        assert (tmp_path / fault).read_bytes() == left
    with pytest.raises(Killed):
        disk.delete(tmp_path / "kill")
    assert (tmp_path / "kill").exists()
    with in_place_of_the_disk(disk), pytest.raises(Killed):
        fsio.write_bytes(tmp_path / "after", b"1")
    assert not (tmp_path / "after").exists()
