"""Tables in text: how far they may unpack."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scstore.cells.opening import open_cells
from scstore.errors import CellsError, GenesError, ScstoreError
from scstore.genes.orthologs import read_orthologs
from scstore.genes.table import read_descriptions
from scstore.untrusted import text
from scstore.untrusted.text import read_unpacked

HEADER = "%%MatrixMarket matrix coordinate integer general\n9999999 9999999 0\n"


def mtx_folder(features: bytes, folder: Path) -> Path:
    (folder / "matrix.mtx").write_text(HEADER)
    (folder / "barcodes.tsv").write_text("a\n")
    (folder / "features.tsv.gz").write_bytes(features)
    return folder


def table(content: bytes, folder: Path) -> Path:
    (folder / "table.csv").write_bytes(content)
    return folder / "table.csv"


READERS: dict[str, tuple[Callable[[bytes, Path], Path], Callable[[Path], object], type[ScstoreError]]] = {
    "features": (mtx_folder, open_cells, CellsError),
    "texts": (table, read_descriptions, GenesError),
    "orthologs": (table, read_orthologs, GenesError),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content", [b"human,mouse\n" + b"a\n" * 3000, b"a\t" * 3000 + b"\nb\n" * 10], ids=["many lines", "many columns"]
)
def test_tables_of_next_to_nothing(
    reader: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 63: a few packed bytes become millions of lines, or a parser fills every line up."""
    monkeypatch.setattr(text, "LINES", 1000)
    monkeypatch.setattr(text, "COLUMNS", 1000)
    write, read, error = READERS[reader]
    with pytest.raises(error, match="lines of"):
        read(write(gzip.compress(content), tmp_path))


def test_as_many_lines_as_there_are_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of barcodes pack to three bytes a line."""
    monkeypatch.setattr(text, "LINES", 0)
    lines = "".join(f"{i * 7919 % 1_000_003:016b}\n" for i in range(3000)).encode()
    (tmp_path / "a.gz").write_bytes(gzip.compress(lines))
    assert read_unpacked(tmp_path / "a.gz") == lines


@pytest.mark.parametrize("reader", ["texts", "orthologs"])
def test_pipes(reader: str, tmp_path: Path) -> None:
    """RELIABILITY 62."""
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(GenesError, match="pipe"):
        READERS[reader][1](tmp_path / "table.csv")


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "features.tsv.gz"])
def test_pipes_in_a_folder(name: str, tmp_path: Path) -> None:
    mtx_folder(gzip.compress(b"a\n"), tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CellsError):
        open_cells(tmp_path)


def test_objects_of_many_fields(tmp_path: Path) -> None:
    """Every row would get every field."""
    rows = ",".join(f'{{"f{i}":""}}' for i in range(2000))
    (tmp_path / "a.json").write_text(f"[{rows}]")
    with pytest.raises(GenesError, match="fields"):
        read_descriptions(tmp_path / "a.json")
