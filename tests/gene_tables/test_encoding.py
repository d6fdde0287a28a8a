from __future__ import annotations

from pathlib import Path

import pytest
from support import write_model

from scstore.errors import OptionError
from scstore.gene_tables.encoding import cached_table, make_encoder
from scstore.genes.descriptions import describe_by_symbol
from scstore.genes.encoders import RandomEncoder
from scstore.model.loading import locate_model
from scstore.model.text_encoder import HuggingFaceEncoder
from scstore.progress import Reporter


def test_encoders_by_name(llama: Path) -> None:
    assert isinstance(make_encoder("random:7"), RandomEncoder)
    assert isinstance(make_encoder(str(llama), device="cpu"), HuggingFaceEncoder)
    for name in ("random:", "random:0", "random:-3", "random:1e3", "random:999999"):
        with pytest.raises(OptionError, match="random:384"):
            make_encoder(name)


def test_a_cached_table_is_used_while_it_fits_and_made_anew_when_not(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.h5ad"
    files = locate_model(str(llama))

    def table(symbols: list[str], model=files):  # type: ignore[no-untyped-def]
        return cached_table(file, describe_by_symbol(symbols), model, device="cpu", dtype=None, progress=Reporter())

    first = table(["A", "B"])
    written = file.stat().st_mtime_ns
    assert table(["A", "B"]).digest == first.digest
    assert file.stat().st_mtime_ns == written
    assert list(table(["A", "C"]).obs["symbol"]) == ["A", "C"]
    other = table(["A", "C"], locate_model(str(write_model(tmp_path / "other", seed=2))))
    assert other.encoder["digest"] != files.digest
    file.write_bytes(file.read_bytes()[:100])
    assert table(["A", "B"]).digest == first.digest
