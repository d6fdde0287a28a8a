"""A flipped byte anywhere in what scstore wrote is found; `benchmarks/faults.py` does a thousand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from damage import files_of, flipped, make_finished, random_bytes_of

import scstore

FLIPS = 30

KINDS = ("store", "linear")


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished store and heads."""
    folder = tmp_path_factory.mktemp("flips")
    return {name: make_finished(folder, llama, name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_any_flipped_byte_is_found(made: dict[str, Path], name: str) -> None:
    """RELIABILITY 30, 36, 39: in any file of a finished store or head."""
    root = made[name]
    assert scstore.verify(root, deep=True).ok
    missed = []
    for file, place, mask in random_bytes_of(root, FLIPS, seed=1):
        with flipped(file, place, mask):
            named = [finding.file for finding in scstore.verify(root, deep=True).findings]
        if file.relative_to(root).as_posix() not in named:
            missed.append((file.relative_to(root).as_posix(), place, mask))
    assert missed == []
    assert scstore.verify(root, deep=True).ok


@pytest.mark.parametrize("name", KINDS)
def test_every_file_that_is_lost_or_cut_is_found(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    """RELIABILITY 30: a shard, a record, any metadata; but a record that is gone is a shard to be extracted."""
    root = shutil.copytree(made[name], tmp_path / name)
    for file in files_of(root):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        assert not scstore.verify(root).ok, file
        file.unlink()
        found = scstore.verify(root)
        assert not found.ok or ("shards" in file.parts and found.notes), file
        file.write_bytes(whole)
    assert scstore.verify(root, deep=True).ok
