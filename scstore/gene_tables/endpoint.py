"""Gene texts encoded by an OpenAI-compatible embeddings endpoint; every finished vector is kept on disk at once.

The key is read from ``OPENAI_API_KEY``, the address from ``OPENAI_BASE_URL`` (by default OpenAI's own). The key is
neither printed nor recorded.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import NetworkError, OptionError
from scstore.gene_tables.journal import VectorJournal
from scstore.gene_tables.web import PATIENCE, Sleep, TransientError, check_status, httpx, persist, transient
from scstore.progress import Reporter

__all__ = ["DEFAULT_BASE_URL", "Endpoint", "EndpointEncoder", "estimate_tokens"]

DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
BASE_VARIABLE = "OPENAI_BASE_URL"

ATTEMPTS = 8
BATCH_TEXTS = 256
BATCH_TOKENS = 100_000
"""Estimated; the endpoint's own limits are 2,048 texts and 300,000 tokens a request."""

CHARACTERS_PER_TOKEN = 4
"""Of English, about: for estimates."""

FEWEST_CHARACTERS_PER_TOKEN = 3
"""Of gene descriptions, on the safe side: for the cut of long texts."""

MAX_TOKENS = 8191


@dataclass(frozen=True)
class Known:
    """What is known of a model.

    Attributes
    ----------
    price
        US dollars per million tokens.
    width
        Of its vectors.
    """

    price: float
    width: int


PRICES_OF = "January 2024"
KNOWN = {
    "text-embedding-ada-002": Known(0.10, 1536),
    "text-embedding-3-small": Known(0.02, 1536),
    "text-embedding-3-large": Known(0.13, 3072),
}
"""OpenAI's list prices of :data:`PRICES_OF`."""


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: a quarter of its characters."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint.

    Attributes
    ----------
    model
        Its name there.
    base_url
        Address without ``/embeddings``, without credentials.
    key
        Sent as the bearer token; empty where the server wants none.
    """

    model: str
    base_url: str = DEFAULT_BASE_URL
    key: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, model: str, environment: Mapping[str, str] | None = None) -> Endpoint:
        """Take address and key from ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``.

        Raises
        ------
        OptionError
            If there is no model, the address is none, or OpenAI's own endpoint is asked without a key.
        """
        values = os.environ if environment is None else environment
        base, key = values.get(BASE_VARIABLE, "").strip() or DEFAULT_BASE_URL, values.get(KEY_VARIABLE, "").strip()
        if not model.strip():
            msg = "--encoder openai: name the model, such as openai:text-embedding-ada-002 (the papers')."
            raise OptionError(msg)
        try:
            url = httpx.URL(base)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
            msg = (
                f"{BASE_VARIABLE} is no address such as {DEFAULT_BASE_URL} (http or https, no user or password in it: "
                f"the key belongs in {KEY_VARIABLE})."
            )
            raise OptionError(msg)
        if not key and base.rstrip("/") == DEFAULT_BASE_URL:
            msg = (
                f"--encoder openai:{model}: set the environment variable {KEY_VARIABLE} to your key (or "
                f"{BASE_VARIABLE} to a server that needs none)."
            )
            raise OptionError(msg)
        if not key.isascii() or any(character.isspace() for character in key):
            msg = f"{KEY_VARIABLE} holds spaces or characters that no key has. Copy the key again."
            raise OptionError(msg)
        return cls(model.strip(), base.rstrip("/"), key)

    @property
    def server(self) -> str:
        """Host, port and path."""
        return self.base_url.split("://", 1)[-1]

    @property
    def maker(self) -> dict[str, str]:
        """Names the model among all that are served anywhere."""
        return {"model": self.model, "server": self.server}

    def journal_beside(self, output: str | os.PathLike[str]) -> Path:
        """Where vectors for a table are kept until it is written: a file of its own for every model."""
        digest = fsio.digest_bytes(f"{self.server} {self.model}".encode()).removeprefix("sha256:")[:8]
        table = Path(output)
        return table.with_name(f"{table.name}.{re.sub(r'[^A-Za-z0-9._-]', '_', self.model)[:60]}-{digest}.vectors")


class EndpointEncoder:
    """Vectors asked from an endpoint, in batches, with patience, each kept as soon as it has come.

    Parameters
    ----------
    endpoint
        Model, address and key.
    journal
        Where vectors are kept; texts that are in it are not sent.
    timeout
        Seconds without a sign of the server before a request is given up.
    attempts
        Tries of one request.
    sleep
        Waits between them.
    progress
        Told why it waits.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        journal: VectorJournal,
        *,
        timeout: float = 60.0,
        attempts: int = ATTEMPTS,
        sleep: Sleep = time.sleep,
        progress: Reporter | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.journal = journal
        self.attempts = attempts
        self.sleep = sleep
        self.progress = progress or Reporter()
        self.max_characters = MAX_TOKENS * FEWEST_CHARACTERS_PER_TOKEN
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout)

    def __enter__(self) -> EndpointEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def identity(self) -> dict[str, Any]:
        """Model, server, width, and where long texts are cut: what decides the vectors."""
        return {
            "kind": "openai",
            **self.endpoint.maker,
            "width": self._width,
            "max_characters": self.max_characters,
        }

    @property
    def _width(self) -> int | None:
        known = KNOWN.get(self.endpoint.model)
        return self.journal.width if known is None else known.width

    def estimate(self, texts: Sequence[str]) -> str:
        """What is still to be sent, and what that costs, in a line that says how far it can be trusted."""
        todo = self._missing(texts)
        tokens = sum(map(estimate_tokens, todo))
        line = f"{self.endpoint.model} at {self.endpoint.server}: {len(todo):,} texts to send"
        if finished := len(set(map(self._cut, texts))) - len(todo):
            line += f" ({finished:,} were finished before)"
        line += f", about {tokens:,} tokens (an estimate: characters / {CHARACTERS_PER_TOKEN})"
        known = KNOWN.get(self.endpoint.model)
        if known is None:
            return f"{line}; its price is not known here"
        return (
            f"{line}: about ${tokens / 1e6 * known.price:.2f} at ${known.price:.2f} per million "
            f"(OpenAI's list of {PRICES_OF})"
        )

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(n_texts, width) float32``: from the journal, the others from the endpoint.

        Raises
        ------
        OptionError
            If the endpoint refuses the key, the model or a text.
        NetworkError
            If it does not answer as it should, try after try. What was finished stays in the journal.
        """
        for batch in _batches(self._missing(texts)):
            try:
                vectors = persist(
                    partial(self._ask, batch),
                    attempts=self.attempts,
                    sleep=self.sleep,
                    warn=lambda reason: self.progress.warn(f"{self.endpoint.server}: {reason}"),
                )
            except TransientError as error:
                raise NetworkError(self._given_up(error)) from error
            self.journal.add(batch, vectors)
        return self.journal.vectors([self._cut(text) for text in texts])

    def _cut(self, text: str) -> str:
        return text[: self.max_characters]

    def _missing(self, texts: Sequence[str]) -> list[str]:
        return [text for text in dict.fromkeys(map(self._cut, texts)) if text not in self.journal]

    def _given_up(self, error: TransientError) -> str:
        kept = f"{len(self.journal):,} finished vectors are kept in {self.journal.path}"
        if error.retry_after is not None and error.retry_after > PATIENCE:
            return (
                f"{self.endpoint.server}: {error}, and asks to come back in {error.retry_after / 60:,.0f} minutes. "
                f"{kept}: run the same command again then, and it goes on."
            )
        return (
            f"{self.endpoint.server}: {error}, {self.attempts} times. {kept}: run the same command again, and it goes "
            f"on. If that does not help, check {BASE_VARIABLE} and the model's name."
        )

    def _ask(self, batch: Sequence[str]) -> NDArray[np.float32]:
        """One request, one answer, checked."""
        question = {"model": self.endpoint.model, "input": list(batch), "encoding_format": "float"}
        try:
            response = self._client.post(f"{self.endpoint.base_url}/embeddings", json=question)
        except httpx.RequestError as error:
            raise transient(error) from error
        # an empty account is a 429 of OpenAI's too, though waiting does not help
        if response.status_code != 429 or "insufficient_quota" not in response.text:
            check_status(response)
        if response.status_code != 200:
            raise OptionError(self._refused(response, batch))
        return _vectors(response, len(batch), width=self._width)

    def _refused(self, response: httpx.Response, batch: Sequence[str]) -> str:
        try:
            said = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError, IndexError):
            said = response.text
        said = " ".join(said.split())[:300]
        if self.endpoint.key:
            said = said.replace(self.endpoint.key, "…")
        begin = f"{self.endpoint.server} answered {response.status_code} to --encoder openai:{self.endpoint.model}"
        if response.status_code in (401, 403):
            return f"{begin}: the key in {KEY_VARIABLE} is not accepted ({said}). Set that variable to a valid key."
        cure = {
            400: f"The longest of its texts has {max(map(len, batch)):,} characters: {max(batch, key=len)[:60]!r}.",
            404: f"Check the model's name and {BASE_VARIABLE}.",
            429: "Check the plan and balance of your account, then run the same command again: it goes on.",
        }.get(response.status_code, f"Check {BASE_VARIABLE}.")
        return f"{begin}: {said}. {cure}"


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    tokens = 0
    for text in texts:
        more = estimate_tokens(text)
        if batch and (len(batch) == BATCH_TEXTS or tokens + more > BATCH_TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(text)
        tokens += more
    if batch:
        yield batch


def _vectors(response: httpx.Response, n_texts: int, *, width: int | None) -> NDArray[np.float32]:
    """The vectors of an answer in the order of the texts, or what is wrong with it."""
    try:
        data = response.json()["data"]
        by_index = {item["index"]: item["embedding"] for item in data}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = "the answer is not what an embeddings endpoint gives"
        raise TransientError(reason) from error
    if len(data) != n_texts or set(by_index) != set(range(n_texts)):
        reason = f"the answer holds {len(data):,} vectors for {n_texts:,} texts, or numbers them wrongly"
        raise TransientError(reason)
    rows = [by_index[i] for i in range(n_texts)]
    if not all(isinstance(row, list) and all(_is_number(value) for value in row) for row in rows):
        reason = "the answer holds vectors that are no lists of numbers"
        raise TransientError(reason)
    expected = len(rows[0]) if width is None else width
    if not expected or any(len(row) != expected for row in rows):
        found = next((len(row) for row in rows if len(row) != expected), 0)
        reason = f"the answer holds a vector of {found:,} numbers among those of {expected:,}"
        raise TransientError(reason)
    with np.errstate(over="ignore"):
        vectors = np.array(rows, dtype=np.float64).astype(np.float32)
    if not np.isfinite(vectors).all():
        reason = "the answer holds numbers that are not finite"
        raise TransientError(reason)
    return vectors


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 64)
