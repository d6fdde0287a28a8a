"""`encoder="openai:MODEL"` against a real server on this machine that fails in every way."""

from __future__ import annotations

import base64
import contextlib
import gzip
import html
import json
import re
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import Loopback, answer, serve
from support import Notes

import scstore
from scstore.errors import NetworkError, OptionError
from scstore.gene_tables import endpoint as module
from scstore.gene_tables.endpoint import endpoint_encoder, read_environment
from scstore.genes.table import load_gene_table
from scstore.genes.vectors import KeptVectors, encode_texts
from scstore.progress import Reporter

Fault = Callable[[BaseHTTPRequestHandler, list[str]], None]
KEY = "sk-secret-123"
TEXTS = [f"gene{'x' * i}" for i in reversed(range(7))]  # the longest first, as they are sent


def vector(text: str) -> list[float]:
    return [float(len(text)), float(sum(text.encode())), 0.5, -1.0]


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector(text) for text in texts], dtype=np.float32)


def good(texts: list[str]) -> list[dict[str, Any]]:
    """In another order than that of the texts."""
    return [{"index": i, "embedding": vector(text)} for i, text in reversed(list(enumerate(texts)))]


def say(data: Any, status: int = 200, **headers: str) -> Fault:
    def fault(request: BaseHTTPRequestHandler, texts: list[str]) -> None:
        content = data(texts) if callable(data) else data
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        answer(request, status, body, **{"content_type": "application/json"} | headers)

    return fault


def broken(change: Callable[[list[dict[str, Any]]], Any]) -> Fault:
    return say(lambda texts: {"data": change(good(texts))})


class Service:
    """An embeddings endpoint that plays its faults first, one a request, and then works."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.asked: list[list[str]] = []
        self.server: Loopback

    def __call__(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        question = json.loads(body)
        self.asked.append(question["input"])
        if self.faults:
            self.faults.pop(0)(request, question["input"])
        elif (request.path, question["encoding_format"], question["model"]) != ("/v1/embeddings", "float", "test"):
            answer(request, 400, b'{"error": {"message": "not asked as it should be"}}')
        else:
            broken(lambda data: data)(request, question["input"])


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service()
    with serve(service) as service.server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{service.server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setattr(module, "RETRIES", 0)
        monkeypatch.setattr(module, "TIMEOUT", 20)
        monkeypatch.setattr(module, "REQUEST_TOKENS", 6)
        yield service


Encode = Callable[[list[str]], np.ndarray]


@pytest.fixture
def encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encode:
    """Encodes texts, with a cache of its own."""
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))

    def run(texts: list[str]) -> np.ndarray:
        with endpoint_encoder("test", Reporter()) as encoder:
            return encode_texts(encoder, texts, kept=KeptVectors(encoder.identity))

    return run


def test_vectors_come_in_the_order_of_the_texts_and_each_text_is_sent_once(service: Service, encode: Encode) -> None:
    np.testing.assert_array_equal(encode([*TEXTS, TEXTS[0]]), expected([*TEXTS, TEXTS[0]]))
    assert [text for texts in service.asked for text in texts] == TEXTS
    assert 1 < len(service.asked) < len(TEXTS)
    _, path, headers, _ = service.server.requests[0]
    assert path == "/v1/embeddings"
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == f"Bearer {KEY}"


FAULTS: dict[str, Fault] = {
    "not JSON": say(b"<html>", content_type="text/html"),
    "broken JSON": say(b'{"data": ['),
    "no data": say({"object": "list"}),
    "a list": say([1, 2]),
    "one too few": broken(lambda data: data[1:]),
    "one too many": broken(lambda data: [*data, {"index": len(data), "embedding": [0.0] * 4}]),
    "an index twice": broken(lambda data: [data[0], *data]),
    "no index": broken(lambda data: [{"embedding": item["embedding"]} for item in data]),
    "ragged": broken(lambda data: [{**data[0], "embedding": [1.0]}, *data[1:]]),
    "empty vectors": broken(lambda data: [{**item, "embedding": []} for item in data]),
    "another width": broken(lambda data: [{**item, "embedding": [1.0, 2.0]} for item in data]),
    "no vectors": broken(lambda data: [{**item, "embedding": 1.0} for item in data]),
    "NaN": broken(lambda data: [{**data[0], "embedding": [float("nan")] * 4}, *data[1:]]),
    "too large": broken(lambda data: [{**data[0], "embedding": [1e300] * 4}, *data[1:]]),
    "words": broken(lambda data: [{**item, "embedding": "AAAA"} for item in data]),
    "500": say(b"oops", 500),
    "429": say({"error": {"message": "slow down"}}, 429, retry_after="7200"),
    "cut": lambda request, _: answer(request, 200, b'{"data": [', content_length="1000"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_only_the_rest_is_sent(name: str, service: Service, encode: Encode) -> None:
    """The first request succeeds, the second fails; the next run asks for the other texts only."""
    service.faults = [broken(lambda data: data), FAULTS[name]]
    with pytest.raises(NetworkError) as caught:
        encode(TEXTS)
    assert KEY not in str(caught.value)
    first = service.asked[0]
    service.asked.clear()
    np.testing.assert_array_equal(encode(TEXTS), expected(TEXTS))
    assert [text for texts in service.asked for text in texts] == TEXTS[len(first) :]


def test_the_client_tries_again_by_itself(service: Service, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRIES", 2)
    service.faults = [say(b"", 503, retry_after="0.01"), say({"error": {}}, 429, retry_after="0.01")]
    np.testing.assert_array_equal(encode(TEXTS[-2:]), expected(TEXTS[-2:]))
    assert len(service.asked) == 3


def test_an_answer_that_does_not_come(service: Service, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    service.faults = [lambda *_: service.server.released.wait(20) and None]
    with pytest.raises(NetworkError):
        encode(TEXTS[:2])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, f"Incorrect API key provided: {KEY}"),
        (404, "no such model"),
        (400, "maximum context length"),
        (429, "insufficient_quota: pay first"),
    ],
)
def test_a_refusal_shows_what_the_server_said_but_not_the_key(
    service: Service, encode: Encode, status: int, message: str
) -> None:
    service.faults = [say({"error": {"message": message}}, status)]
    with pytest.raises(OptionError, match=message[:12]) as caught:
        encode(TEXTS)
    assert str(status) in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(service.asked) == 1


LONG = "sk-proj-Ab3_dEfGhIjK-lmNoPqRsTuVwXyZ0123456789"


@pytest.mark.parametrize(
    "shown",
    [
        LONG,
        LONG[4:-3],
        LONG.upper(),
        "".join(f"\\u{ord(sign):04x}" for sign in LONG),
        "".join(f"&#{ord(sign)};" for sign in LONG),
        "".join(f"%{ord(sign):02X}" for sign in LONG),
        LONG.encode().hex(" "),
        base64.b64encode(f"user:{LONG}".encode()).decode(),
        base64.b64encode(f"key={LONG}".encode()).decode(),
        " ".join(LONG),
        "\n".join(LONG[i : i + 9] for i in range(0, len(LONG), 9)),
        [LONG[:20], {"rest": LONG[20:]}],
    ],
)
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_the_server_repeats_is_not_shown(
    service: Service, encode: Encode, monkeypatch: pytest.MonkeyPatch, shown: Any, status: int, tmp_path: Path
) -> None:
    """RELIABILITY 68: in whatever form, in an error or in an answer."""
    monkeypatch.setenv("OPENAI_API_KEY", LONG)
    service.faults = [say({"error": {"message": shown, "details": shown}, "data": shown}, status)]
    with pytest.raises((OptionError, NetworkError)) as caught:
        encode(TEXTS)
    said = "".join(traceback.format_exception(caught.value)).split("\n\n")[-1]
    letters = re.sub("[^a-z0-9]", "", html.unescape(said).casefold())
    for form in (LONG, LONG.encode().hex(), base64.b64encode(LONG.encode()[1:]).decode()):
        bare = re.sub("[^a-z0-9]", "", form.casefold())
        assert not any(bare[i : i + 8] in letters for i in range(len(bare) - 7))
    assert "u0073" not in said
    assert "%73" not in said


@pytest.mark.parametrize("status", [200, 401])
def test_an_answer_without_end_is_not_read(
    service: Service, encode: Encode, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A server can send what it likes: past what the vectors can take, packed or not, nobody listens."""
    sent = []

    def endless(request: BaseHTTPRequestHandler, _texts: list[str]) -> None:
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(1 << 40))
        request.end_headers()
        with contextlib.suppress(OSError):
            while len(sent) < 1000:
                request.wfile.write(b" " * (1 << 20))
                sent.append(1)

    monkeypatch.setattr(module, "RETRIES", 2)
    service.faults = [endless, endless]
    with pytest.raises(NetworkError, match="bytes"):
        encode(TEXTS)
    assert len(sent) < 20
    bomb = gzip.compress(b" " * (1 << 26))
    service.faults = [lambda request, _: answer(request, status, bomb, content_encoding="gzip")]
    with pytest.raises(NetworkError, match="bytes"):
        encode(TEXTS)
    service.faults = [lambda request, _: answer(request, status, b"{}", content_encoding="br")]
    with pytest.raises(NetworkError, match="packed"):
        encode(TEXTS)


def test_a_build_that_was_stopped_goes_on(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "genes.tsv").write_text("symbol\ttext\n" + "".join(f"GENE{i}\t{t}\n" for i, t in enumerate(TEXTS)))
    out, notes = tmp_path / "g.h5ad", Notes()
    build = {"text": tmp_path / "genes.tsv", "encoder": "openai:test", "progress": notes}
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))
    service.faults = [broken(lambda data: data), say(b"", 500)]
    with pytest.raises(NetworkError):
        scstore.build_genes(out, **build)
    assert not out.exists()
    assert any("7 texts to send" in said for said in notes.said)
    finished = len(service.asked[0])
    table = scstore.build_genes(out, **build)
    assert f"gene texts: {finished} were encoded before, {7 - finished} are left" in notes.said
    np.testing.assert_array_equal(table.vectors, expected(TEXTS))
    assert load_gene_table(out).encoder == {
        "kind": "openai",
        "model": "test",
        "server": f"{service.server.url.removeprefix('http://')}/v1",
        "width": 4,
        "max_characters": 24_573,
    }
    asked = len(service.asked)
    assert scstore.build_genes(tmp_path / "again.h5ad", **build).digest == table.digest
    assert len(service.asked) == asked
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        assert KEY.encode() not in file.read_bytes()
    assert not any(KEY in said for said in notes.said)


def test_texts_that_are_too_long_are_cut_and_named(service: Service, tmp_path: Path) -> None:
    (tmp_path / "genes.json").write_text(json.dumps({"TTN": "titin" * 6_000, "LYZ": "short"}))
    notes = Notes()
    table = scstore.build_genes(
        tmp_path / "g.h5ad", text=tmp_path / "genes.json", encoder="openai:test", progress=notes
    )
    assert table.vectors[:, 0].tolist() == [24_573, 5]
    assert any("24,573" in said and "titin" in said for said in notes.said)


def test_address_and_key_come_from_the_environment() -> None:
    default = read_environment("text-embedding-ada-002", {"OPENAI_API_KEY": KEY})
    assert (default.server, default.key) == ("api.openai.com/v1", KEY)
    assert KEY not in repr(default)
    own = read_environment("m", {"OPENAI_BASE_URL": "http://gpu-node:8000/v1/"})
    assert (own.server, own.key) == ("gpu-node:8000/v1", "")
    for model, environment in (
        ("", {"OPENAI_API_KEY": KEY}),
        ("m", {}),
        ("m", {"OPENAI_API_KEY": "a b"}),
        ("m", {"OPENAI_BASE_URL": "ftp://x"}),
        ("m", {"OPENAI_BASE_URL": "api.openai.com"}),
        ("m", {"OPENAI_BASE_URL": f"https://me:{KEY}@x/v1"}),
        ("m", {"OPENAI_BASE_URL": "http://[::bad"}),
        ("m", {"OPENAI_BASE_URL": f"https://x/{KEY}/v1", "OPENAI_API_KEY": KEY}),
        (KEY, {"OPENAI_API_KEY": KEY}),
    ):
        with pytest.raises(OptionError) as caught:
            read_environment(model, environment)
        assert KEY not in str(caught.value)


def test_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    texts, notes = [f"{i} " + "x" * 19_998 for i in range(400)], Notes()
    with endpoint_encoder("mine", notes) as encoder:
        requests = list(encoder.batches(texts))
    assert [text for texts in requests for text in texts] == texts
    assert {len(texts) for texts in requests[:-1]} == {19, 20}  # about 5,000 tokens each
    assert "400 texts to send, about 2,000,390 tokens" in notes.said[0]
