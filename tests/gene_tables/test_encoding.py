from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support import write_model

from scstore.errors import OptionError
from scstore.gene_tables.encoding import cached_table, open_encoder
from scstore.genes.texts import describe_by_symbol
from scstore.genes.vectors import RandomEncoder, TextEncoder
from scstore.model.loading import locate_model
from scstore.model.text_encoder import HuggingFaceEncoder
from scstore.progress import Reporter


def opened(name: str) -> AbstractContextManager[TextEncoder]:
    genes, how = describe_by_symbol(["A"]), {"revision": None, "device": "cpu", "dtype": None}
    return open_encoder(name, genes, Path("g.h5ad"), progress=Reporter(), **how)


def test_encoders_by_name(llama: Path) -> None:
    with opened("random:7") as encoder:
        assert isinstance(encoder, RandomEncoder)
    with opened(str(llama)) as encoder:
        assert isinstance(encoder, HuggingFaceEncoder)
    for name in ("random:", "random:0", "random:-3", "random:1e3", "random:999999"):
        with pytest.raises(OptionError, match=name), opened(name):
            pass


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
