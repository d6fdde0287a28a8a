"""A real server on this machine that fails in every way; no finished vector is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import Loopback, answer, serve
from support import Notes

from scstore.errors import NetworkError, OptionError
from scstore.gene_tables import endpoint as module
from scstore.gene_tables.endpoint import ATTEMPTS, DEFAULT_BASE_URL, Endpoint, EndpointEncoder, estimate_tokens
from scstore.gene_tables.journal import open_journal

Fault = Callable[[BaseHTTPRequestHandler, list[str]], None]
KEY = "sk-secret-123"
WIDTH = 4


def vector(text: str) -> list[float]:
    return [float(len(text)), float(sum(text.encode())), 0.5, -1.0]


def good(texts: list[str]) -> list[dict[str, Any]]:
    """In an order of its own."""
    return [{"index": i, "embedding": vector(text)} for i, text in reversed(list(enumerate(texts)))]


def say(data: Any, status: int = 200, **headers: str) -> Fault:
    def fault(request: BaseHTTPRequestHandler, texts: list[str]) -> None:
        content = data(texts) if callable(data) else data
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        answer(request, status, body, **headers)

    return fault


class Service:
    """An embeddings endpoint that plays its faults first, one a request, and then works."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.asked: list[list[str]] = []
        self.finished: list[str] = []
        self.server: Loopback

    def __call__(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        question = json.loads(body)
        texts = question["input"]
        self.asked.append(texts)
        if self.faults:
            self.faults.pop(0)(request, texts)
        elif request.path != "/v1/embeddings" or question["encoding_format"] != "float" or question["model"] != "test":
            answer(request, 400, b'{"error": {"message": "not asked as it should be"}}')
        else:
            self.finished += texts
            answer(request, 200, json.dumps({"data": good(texts), "model": "test"}).encode())


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "BATCH_TEXTS", 3)
    service = Service()
    with serve(service) as service.server:
        yield service


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def encode(service: Service, tmp_path: Path, waits: list[float]) -> Callable[..., np.ndarray]:
    def run(texts: list[str], *, timeout: float = 20, notes: Notes | None = None) -> np.ndarray:
        place = Endpoint("test", f"{service.server.url}/v1", KEY)
        with (
            open_journal(tmp_path / "journal", place.maker) as journal,
            EndpointEncoder(place, journal, timeout=timeout, sleep=waits.append, progress=notes) as encoder,
        ):
            return encoder.encode(texts)

    return run


TEXTS = [f"gene {'x' * i}" for i in range(7)]


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector(text) for text in texts], dtype=np.float32)


def test_vectors_come_in_the_order_of_the_texts(
    service: Service, encode: Callable[..., np.ndarray], waits: list[float]
) -> None:
    np.testing.assert_array_equal(encode([*TEXTS, TEXTS[0]]), expected([*TEXTS, TEXTS[0]]))
    assert service.asked == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    assert waits == []
    _, path, headers, _ = service.server.requests[0]
    assert (path, headers["Authorization"]) == ("/v1/embeddings", f"Bearer {KEY}")


def broken(change: Callable[[list[dict[str, Any]]], Any]) -> Fault:
    return say(lambda texts: {"data": change(good(texts))})


def without_index(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"embedding": item["embedding"]} for item in data]


FAULTS: dict[str, tuple[Fault, str]] = {
    "429": (say({"error": {"message": "slow down"}}, 429, retry_after="17"), "429"),
    "500": (say(b"oops", 500), "500"),
    "503": (say(b"", 503), "503"),
    "408": (say(b"", 408), "408"),
    "not JSON": (say(b"<html>"), "not what an embeddings endpoint gives"),
    "no data": (say({"object": "list"}), "not what an embeddings endpoint gives"),
    "a list": (say([1, 2]), "not what an embeddings endpoint gives"),
    "one too few": (broken(lambda data: data[1:]), "2 vectors for 3 texts"),
    "one too many": (broken(lambda data: [*data, {"index": 3, "embedding": [0.0] * 4}]), "4 vectors for 3 texts"),
    "an index twice": (broken(lambda data: [data[0], data[0], data[1]]), "numbers them wrongly"),
    "no index": (broken(without_index), "not what an embeddings endpoint gives"),
    "ragged": (broken(lambda data: [{**data[0], "embedding": [1.0]}, *data[1:]]), "a vector of 1 numbers"),
    "empty vectors": (broken(lambda data: [{**item, "embedding": []} for item in data]), "a vector of 0 numbers"),
    "NaN": (broken(lambda data: [{**data[0], "embedding": [float("nan")] * 4}, *data[1:]]), "not finite"),
    "too large": (broken(lambda data: [{**data[0], "embedding": [1e300] * 4}, *data[1:]]), "not finite"),
    "words": (broken(lambda data: [{**data[0], "embedding": ["1.0"] * 4}, *data[1:]]), "no lists of numbers"),
    "base64": (broken(lambda data: [{**item, "embedding": "AAAA"} for item in data]), "no lists of numbers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_waited_out(
    name: str, service: Service, encode: Callable[..., np.ndarray], waits: list[float]
) -> None:
    fault, said = FAULTS[name]
    service.faults = [fault, fault]
    notes = Notes()
    np.testing.assert_array_equal(encode(TEXTS, notes=notes), expected(TEXTS))
    assert len(waits) == len(notes.said) == 2
    assert said in notes.said[0]
    assert all(wait >= 17 for wait in waits) if name == "429" else waits[0] < 3
    assert sorted(service.finished) == sorted(TEXTS)


def test_another_width_than_before_is_a_fault(
    service: Service, encode: Callable[..., np.ndarray], waits: list[float]
) -> None:
    encode(TEXTS[:2])
    service.faults = [broken(lambda data: [{**item, "embedding": [1.0, 2.0]} for item in data])]
    np.testing.assert_array_equal(encode(TEXTS), expected(TEXTS))
    assert len(waits) == 1


def test_an_answer_that_does_not_come_is_given_up(
    service: Service, encode: Callable[..., np.ndarray], waits: list[float]
) -> None:
    service.faults = [lambda *_: bool(service.server.released.wait(20)) or None]
    notes = Notes()
    np.testing.assert_array_equal(encode(TEXTS[:2], timeout=0.3, notes=notes), expected(TEXTS[:2]))
    assert "no answer in time" in notes.said[0]


def test_a_connection_that_is_cut(service: Service, encode: Callable[..., np.ndarray], waits: list[float]) -> None:
    def cut(request: BaseHTTPRequestHandler, texts: list[str]) -> None:
        answer(request, 200, b'{"data": [', content_length="1000")

    service.faults = [cut, cut]
    np.testing.assert_array_equal(encode(TEXTS), expected(TEXTS))
    assert len(waits) == 2


def test_what_was_finished_is_kept_and_only_the_rest_is_sent(
    service: Service, encode: Callable[..., np.ndarray], waits: list[float], tmp_path: Path
) -> None:
    """The endpoint dies after the first batch; the next run asks for the other texts alone."""
    service.faults = [say(lambda texts: {"data": good(texts)}), *([say(b"", 500)] * ATTEMPTS)]
    with pytest.raises(NetworkError, match=r"500.*8 times\. 3 finished vectors are kept in .*journal: run the same"):
        encode(TEXTS)
    assert len(waits) == ATTEMPTS - 1
    assert service.asked == [TEXTS[:3], *([TEXTS[3:6]] * ATTEMPTS)]
    service.asked.clear()
    np.testing.assert_array_equal(encode(TEXTS), expected(TEXTS))
    assert service.asked == [TEXTS[3:6], TEXTS[6:]]


def test_a_server_that_asks_for_too_much_patience(service: Service, encode: Callable[..., np.ndarray]) -> None:
    service.faults = [say(b"", 429, retry_after="7200")]
    with pytest.raises(NetworkError, match=r"asks to come back in 120 minutes\. 0 finished vectors"):
        encode(TEXTS)
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (401, f"Incorrect API key provided: {KEY}", r"the key in OPENAI_API_KEY is not accepted .*provided: …"),
        (404, "no such model", r"no such model\. Check the model's name and OPENAI_BASE_URL"),
        (400, "maximum context length", r"maximum context length.*longest of its texts has 7 characters: 'gene xx'"),
        (429, "insufficient_quota: pay first", "pay first.*balance of your account"),
        (302, "elsewhere", "302.*Check OPENAI_BASE_URL"),
    ],
)
def test_a_refusal_is_not_tried_again(
    service: Service, encode: Callable[..., np.ndarray], waits: list[float], status: int, message: str, said: str
) -> None:
    service.faults = [say({"error": {"message": message}}, status)]
    with pytest.raises(OptionError, match=said) as caught:
        encode(TEXTS)
    assert KEY not in str(caught.value)
    assert (len(service.asked), waits) == (1, [])


def test_batches_hold_to_the_token_limit(
    service: Service, encode: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", 5)
    encode(["a" * 12, "b" * 8, "c" * 4, "d" * 400])
    assert [len(texts) for texts in service.asked] == [2, 1, 1]


def test_address_and_key_come_from_the_environment() -> None:
    default = Endpoint.from_environment("text-embedding-ada-002", {"OPENAI_API_KEY": KEY})
    assert (default.base_url, default.server) == (DEFAULT_BASE_URL, "api.openai.com/v1")
    assert KEY not in repr(default)
    own = Endpoint.from_environment("m", {"OPENAI_BASE_URL": "http://gpu-node:8000/v1/"})
    assert (own.maker, own.key) == ({"model": "m", "server": "gpu-node:8000/v1"}, "")
    for model, environment, said in (
        ("", {"OPENAI_API_KEY": KEY}, "openai:text-embedding-ada-002"),
        ("m", {}, "set the environment variable OPENAI_API_KEY"),
        ("m", {"OPENAI_API_KEY": "a b"}, "OPENAI_API_KEY holds spaces"),
        ("m", {"OPENAI_BASE_URL": "ftp://x"}, "OPENAI_BASE_URL is no address"),
        ("m", {"OPENAI_BASE_URL": "api.openai.com"}, "OPENAI_BASE_URL is no address"),
        ("m", {"OPENAI_BASE_URL": f"https://me:{KEY}@x/v1"}, "no user or password"),
        ("m", {"OPENAI_BASE_URL": "http://[::bad"}, "OPENAI_BASE_URL is no address"),
    ):
        with pytest.raises(OptionError, match=said) as caught:
            Endpoint.from_environment(model, environment)
        assert KEY not in str(caught.value)


def test_every_model_has_a_journal_of_its_own(tmp_path: Path) -> None:
    places = {Endpoint(model, url).journal_beside(tmp_path / "g.h5ad") for model in "ab/" for url in ("u://1", "u://2")}
    assert len(places) == 6
    assert {place.parent for place in places} == {tmp_path}
    assert all(place.name.startswith("g.h5ad.") for place in places)


def test_the_estimate_says_what_it_rests_on(tmp_path: Path) -> None:
    assert [estimate_tokens(text) for text in ("", "abc", "abcd", "abcde")] == [0, 1, 1, 2]
    for model, said in (
        ("text-embedding-ada-002", "about $0.20 at $0.10 per million (OpenAI's list of January 2024)"),
        ("mine", "its price is not known here"),
    ):
        place = Endpoint(model)
        with (
            open_journal(tmp_path / model, place.maker) as journal,
            EndpointEncoder(place, journal) as encoder,
        ):
            texts = [f"{i} " + "x" * 19_998 for i in range(400)]
            line = encoder.estimate([*texts, texts[0]])
            assert "400 texts to send, about 2,000,390 tokens (an estimate: characters / 4)" in line
            assert said in line
            journal.add(texts[:3], np.zeros((3, 1536), dtype=np.float32))
            assert "397 texts to send (3 were finished before)" in encoder.estimate(texts)
            assert encoder.identity == {
                "kind": "openai",
                "model": model,
                "server": "api.openai.com/v1",
                "width": 1536,
                "max_characters": 24_573,
            }
