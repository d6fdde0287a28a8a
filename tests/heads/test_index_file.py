from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scstore.errors import CellsError, DamagedError, InputError, NotAStoreError, OutputError
from scstore.heads.compressed import HeldOut, fit_compression
from scstore.heads.exact_search import centre_of, nearest, unit_view
from scstore.heads.index_file import FETCH, Index, check_target, index_bytes, open_index, write_index
from scstore.spec import seal, unseal

NUMBERS = np.arange(0, 2400, 2)
"""Only every second row of the matrix is in the index."""


@pytest.fixture(scope="module")
def values(cells_factory: Any) -> np.ndarray:
    return cells_factory(2400, 32, 5).X


@pytest.fixture(scope="module")
def folder(values: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "index"
    chosen = values[NUMBERS]
    mean = centre_of(chosen)
    rows = unit_view(chosen, mean)
    compression, held_out = fit_compression(rows, fetch=FETCH)
    write_index(
        path, rows, NUMBERS, mean=mean, compression=compression, held_out=held_out.renumbered(NUMBERS), target=0.95,
        record={"of": "tests"},
    )  # fmt: skip
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_found_and_not_finite_is_named(folder: Path, values: np.ndarray, bad: float) -> None:
    index = open_index(folder)
    reference = values.copy()
    _, found = index.nearest(reference, values[:1], k=1)
    reference[found[0, 0], 3] = bad
    with pytest.raises(CellsError, match=f"Row {found[0, 0]:,} .*NaN, infinity"):
        index.nearest(reference, values[:1], k=10)


def test_what_is_found_is_what_an_exact_search_finds(folder: Path, values: np.ndarray) -> None:
    index = open_index(folder)
    assert index.n == len(NUMBERS)
    assert index.record == {"of": "tests"}
    assert index.probing.recall >= 0.95
    distances, found = index.nearest(values, values[1::8], k=10)
    wanted_distances, places = nearest(values[NUMBERS], values[1::8], k=10)
    recall = np.mean([len(set(f) & set(NUMBERS[t])) / 10 for f, t in zip(found, places, strict=True)])
    assert recall >= 0.93
    assert (np.diff(distances, axis=1) >= 0).all()
    same = (found == NUMBERS[places]).all(axis=1)
    assert same.mean() > 0.5
    np.testing.assert_allclose(distances[same], wanted_distances[same], atol=1e-5)  # exact, not those of the codes


def test_a_row_finds_itself_and_a_choice_is_kept_to(folder: Path, values: np.ndarray, disk_rows: Any) -> None:
    index = open_index(folder)
    rows = disk_rows(values)
    assert (index.nearest(rows, values[NUMBERS], k=1)[1][:, 0] == NUMBERS).mean() > 0.999
    chosen = np.zeros(len(values), dtype=bool)
    chosen[NUMBERS[:50]] = True
    found = index.nearest(rows, values[:50], k=50, chosen=chosen)[1]
    assert (np.sort(found, axis=1) == NUMBERS[:50]).all()
    assert index.nearest(rows, values[:0], k=4)[0].shape == (0, 4)


def test_rows_can_be_added(folder: Path, values: np.ndarray, tmp_path: Path) -> None:
    old = open_index(folder)
    new = np.arange(1, 2400, 2)
    whole = unit_view(values, old.mean)
    _, truth = nearest(values, values[old.own], k=11, mean=old.mean)
    held_out = HeldOut(old.own, whole[old.own], truth[:, 1:])
    write_index(
        tmp_path / "more", unit_view(values[new], old.mean), new, mean=old.mean, compression=old.compression,
        held_out=held_out, target=0.95, record={}, onto=old,
    )  # fmt: skip
    more = open_index(tmp_path / "more")
    assert more.n == 2400
    assert (more.nearest(values, values, k=1)[1][:, 0] == np.arange(2400)).mean() > 0.999


def test_the_same_rows_give_the_same_bytes(folder: Path, values: np.ndarray, tmp_path: Path) -> None:
    chosen = values[NUMBERS]
    mean = centre_of(chosen)
    rows = unit_view(chosen, mean)
    compression, held_out = fit_compression(rows, fetch=FETCH)
    write_index(
        tmp_path / "b", rows, NUMBERS, mean=mean, compression=compression, held_out=held_out.renumbered(NUMBERS),
        target=0.95, record={"of": "tests"},
    )  # fmt: skip
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["arrays.safetensors", "index.json", "lists.bin"]
    for name in names:
        assert (tmp_path / "b" / name).read_bytes() == (folder / name).read_bytes()
    assert index_bytes(folder) == sum((folder / name).stat().st_size for name in names)


@pytest.mark.parametrize("name", ["arrays.safetensors", "index.json", "lists.bin"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_a_byte_that_changed_is_found(copy: Path, name: str, place: float) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[int(len(raw) * place)] ^= 0x01
    (copy / name).write_bytes(raw)
    with pytest.raises(DamagedError):
        open_index(copy)


@pytest.mark.parametrize("name", ["arrays.safetensors", "lists.bin"])
@pytest.mark.parametrize("how", ["missing", "short", "empty", "foreign"])
def test_files_that_are_not_ours_are_refused(copy: Path, name: str, how: str) -> None:
    """RELIABILITY 39: FAISS's own reader is never called."""
    import faiss

    file = copy / name
    raw = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "foreign":
        faiss.write_index(faiss.IndexFlatL2(4), str(file))
    else:
        file.write_bytes(raw[: len(raw) // 2] if how == "short" else b"")
    with pytest.raises(DamagedError):
        open_index(copy)


FORGED: list[Callable[[dict[str, Any]], Any]] = [
    lambda d: d["shape"].update(n_lists=10**9),
    lambda d: d["shape"].update(components=-1),
    lambda d: d["shape"].update(width="x"),
    lambda d: d["shape"].pop("held_out"),
    lambda d: d["probing"].update(probes=10**9),
    lambda d: d["probing"].update(recall=7.0),
    lambda d: d["probing"].update(extra=1),
    lambda d: d["probing"].update(fetch=0),
    lambda d: d.update(kind="faiss"),
    lambda d: d.update(record=None),
    lambda d: d.update(lists=None),
    lambda d: d.update(arrays="sha256:0"),
]


@pytest.mark.parametrize("change", FORGED)
def test_a_description_that_makes_no_sense_is_damage(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = unseal(json.loads((copy / "index.json").read_text()))
    assert document is not None
    change(document)
    (copy / "index.json").write_text(json.dumps(seal(document)))
    with pytest.raises(DamagedError):
        open_index(copy)


def test_row_numbers_that_do_not_exist_are_damage(folder: Path, values: np.ndarray) -> None:
    with pytest.raises(DamagedError, match="row numbers"):
        open_index(folder).nearest(values[:100], values[:100], k=10)


def test_another_format_and_no_index(copy: Path, tmp_path: Path) -> None:
    document = unseal(json.loads((copy / "index.json").read_text()))
    assert document is not None
    (copy / "index.json").write_text(json.dumps(seal({**document, "format": "9.0"})))
    with pytest.raises(InputError, match=r"9\.0.*1\.0"):
        open_index(copy)
    with pytest.raises(NotAStoreError, match="scstore index"):
        open_index(tmp_path)


def test_nothing_else_is_replaced(copy: Path, tmp_path: Path) -> None:
    check_target(copy)
    check_target(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="no index"):
        check_target(tmp_path / "file")


def test_a_failure_leaves_the_old_one(copy: Path, values: np.ndarray) -> None:
    before = (copy / "index.json").read_bytes()
    old: Index = open_index(copy)
    bad = values[NUMBERS].copy()
    bad[7, 3] = np.nan
    with pytest.raises(Exception, match="NaN"):
        write_index(
            copy, unit_view(bad, old.mean), NUMBERS, mean=old.mean, compression=old.compression,
            held_out=None, target=0.95, record={},  # type: ignore[arg-type]  # never reached
        )  # fmt: skip
    assert (copy / "index.json").read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
