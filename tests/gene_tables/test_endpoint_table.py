"""`--encoder openai:MODEL` from texts to a table, against a real server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from loopback import Loopback, answer, serve
from support import Notes

import scstore
from scstore.errors import NetworkError, OptionError
from scstore.genes.table import load_gene_table

KEY = "sk-never-shown"


class Service:
    def __init__(self) -> None:
        self.works_for = 10**9
        self.texts: list[str] = []

    def __call__(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        texts = json.loads(body)["input"]
        if len(self.texts) + len(texts) > self.works_for:
            answer(request, 429, b"", retry_after="99999")
            return
        self.texts += texts
        data = [{"index": i, "embedding": [len(text), text.count("x"), 1]} for i, text in enumerate(texts)]
        answer(request, 200, json.dumps({"data": data}).encode())


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def server(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with serve(service) as running:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{running.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield running


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rows = [f"GENE{i}\t{'x' * i}y" for i in range(600)]
    (tmp_path / "genes.tsv").write_text("\n".join(["symbol\ttext", *rows]) + "\n")
    return tmp_path / "genes.tsv"


def test_a_build_that_was_stopped_goes_on(service: Service, server: Loopback, text: Path, tmp_path: Path) -> None:
    out, notes = tmp_path / "g.h5ad", Notes()
    service.works_for = 300
    with pytest.raises(NetworkError, match="256 finished vectors are kept"):
        scstore.build_genes(out, text=text, encoder="openai:test", progress=notes)
    assert not out.exists()
    assert any("600 texts to send, about" in said for said in notes.said)
    service.works_for = 10**9
    table = scstore.build_genes(out, text=text, encoder="openai:test", progress=notes)
    assert any("344 texts to send (256 were finished before)" in said for said in notes.said)
    assert sorted(service.texts) == sorted(f"{'x' * i}y" for i in range(600))  # each once
    np.testing.assert_array_equal(table.vectors[:, 1], np.arange(600))
    read = load_gene_table(out)
    assert read.encoder == {
        "kind": "openai",
        "model": "test",
        "server": f"{server.url.removeprefix('http://')}/v1",
        "width": 3,
        "max_characters": 24_573,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.h5ad", "genes.tsv"]
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()
    assert not any(KEY in said for said in notes.said)


def test_texts_that_are_too_long_are_cut_and_named(service: Service, server: Loopback, tmp_path: Path) -> None:
    rows = [{"symbol": "TTN", "text": "t" * 30_000}, {"symbol": "LYZ", "text": "short"}]
    (tmp_path / "genes.json").write_text(json.dumps(rows))
    notes = Notes()
    table = scstore.build_genes(
        tmp_path / "g.h5ad", text=tmp_path / "genes.json", encoder="openai:test", progress=notes
    )
    assert table.vectors[:, 0].tolist() == [24_573, 5]
    assert any("cut to 24,573 characters" in said and said.endswith("1 (TTN)") for said in notes.said)


def test_options_that_an_endpoint_has_not(server: Loopback, text: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--device cpu: an endpoint decides"):
        scstore.build_genes(tmp_path / "g.h5ad", text=text, encoder="openai:test", device="cpu")
    with pytest.raises(OptionError, match="name the model"):
        scstore.build_genes(tmp_path / "g.h5ad", text=text, encoder="openai:")


def test_without_a_key(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OptionError, match="OPENAI_API_KEY"):
        scstore.build_genes(tmp_path / "g.h5ad", text=text, encoder="openai:text-embedding-ada-002")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genes.tsv"]
