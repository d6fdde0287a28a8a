from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from support import write_model

from scstore.errors import OptionError
from scstore.gene_tables import encoding
from scstore.gene_tables.encoding import cached_table, encode_table, open_encoder
from scstore.genes.table import describe_by_symbol
from scstore.genes.vectors import KeptVectors, RandomEncoder, TextEncoder
from scstore.model.loading import locate_model
from scstore.progress import Reporter


def opened(name: str) -> AbstractContextManager[tuple[TextEncoder, KeptVectors | None]]:
    return open_encoder(name, revision=None, device="cpu", dtype=None, progress=Reporter())


def test_encoders_by_name(llama: Path) -> None:
    from scstore.model.text_encoder import HuggingFaceEncoder  # needs torch

    with opened("random:7") as (encoder, _):
        assert isinstance(encoder, RandomEncoder)
    with opened(str(llama)) as (encoder, kept):
        assert isinstance(encoder, HuggingFaceEncoder)
        assert kept is not None
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


def test_texts_of_genes_that_may_enter_are_encoded_and_enough_others(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 widths of 32 in all; the others are the same ones in another table, and each vector is that of its text."""
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path))
    symbols = [f"GENE{i}" for i in range(200)]
    enter = np.arange(200) < 10
    with opened(str(llama)) as (encoder, kept):
        whole = encode_table(describe_by_symbol(symbols), encoder)
        some = encode_table(describe_by_symbol(symbols), encoder, kept=kept, enter=enter)
        asked = count_encoded(monkeypatch, encoder)
        turned = encode_table(describe_by_symbol(symbols[::-1]), encoder, kept=kept, enter=enter[::-1])
        all_of_them = encode_table(describe_by_symbol(symbols), encoder, kept=kept)
    assert whole.encoded.all()
    assert some.encoded[:10].all()
    assert some.encoded.sum() == 4 * 32
    np.testing.assert_allclose(some.vectors[some.encoded], whole.vectors[some.encoded], atol=1e-5)
    np.testing.assert_array_equal(turned.vectors[::-1], some.vectors)  # kept: nothing was encoded
    assert sum(asked) == 200 - 4 * 32  # the rest
    np.testing.assert_array_equal(all_of_them.vectors[some.encoded], some.vectors[some.encoded])
    np.testing.assert_allclose(some.centre, some.vectors.sum(axis=0) / (4 * 32), rtol=1e-4, atol=1e-6)


def count_encoded(monkeypatch: pytest.MonkeyPatch, encoder: TextEncoder) -> list[int]:
    asked: list[int] = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: (asked.append(len(texts)), encode(texts))[1])
    return asked


def test_a_table_beside_a_store_that_lacks_vectors_is_made_anew(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SPREAD", 0)
    how = {"device": "cpu", "dtype": None, "progress": Reporter()}
    genes, files = describe_by_symbol(["A", "B", "C"]), locate_model(str(llama))
    for enter, encoded in (([1, 0, 0], [1, 0, 0]), ([0, 1, 1], [0, 1, 1]), ([0, 1, 0], [0, 1, 1])):
        mask = np.array(enter, dtype=bool)
        assert cached_table(tmp_path / "t.h5ad", genes, files, enter=mask, **how).encoded.tolist() == encoded
