"""Gene texts encoded by an OpenAI-compatible endpoint; each finished vector is kept on disk, so none is paid for twice.

The key is read from ``OPENAI_API_KEY``, the address from ``OPENAI_BASE_URL``. The key is neither printed nor recorded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import GenesError, MissingExtraError, NetworkError, OptionError, OutputError, show_some
from scstore.progress import Reporter

try:
    import openai
except ImportError as error:
    raise MissingExtraError("An encoder behind an endpoint (openai:MODEL)", "endpoint") from error


OPENAI_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
BASE_VARIABLE = "OPENAI_BASE_URL"

# Host or [IPv6 address], port and path: no user, password or query.
ADDRESS = re.compile(r"https?://([\w.-]+|\[[^\[\]@/\s]+\])(:\d+)?(/[^?#\s]*)?", re.IGNORECASE)

# Letters and digits of a key in a row that are not to be seen.
SHOWN = 6

# Escapes of JSON, Python and JavaScript.
ESCAPED = re.compile(r"\\+(?:u00|x)([0-9A-Fa-f]{2})")

RETRIES = 10
TIMEOUT = 60.0

# Most bytes of an answer: a vector of 8,192 numbers in any notation, and what lies around the vectors.
BYTES_OF_VECTOR = 1 << 18
BYTES_AROUND = 1 << 20
# None makes more than a thousand bytes of one.
PACKINGS = ("identity", "gzip", "deflate")

# Estimated; OpenAI's own limits are 2,048 texts and 300,000 tokens a request.
REQUEST_TOKENS = 100_000

# About right for English: for estimates.
CHARACTERS_PER_TOKEN = 4

# Where texts are cut: 8,191 tokens, of at least three characters each in gene descriptions.
MAX_CHARACTERS = 8191 * 3

PRICES_OF = "January 2024"
# OpenAI's list prices of :data:`PRICES_OF`, in US dollars per million tokens.
PRICES = {"text-embedding-ada-002": 0.10, "text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13}


@dataclass(frozen=True)
class Endpoint:
    """A model behind an endpoint: its name, the address without ``/embeddings``, and the key, which may be empty."""

    model: str
    base_url: str
    key: str = field(default="", repr=False)

    @property
    def server(self) -> str:
        """Host, port and path."""
        return self.base_url.split("://", 1)[-1]

    def journal_beside(self, output: Path) -> Path:
        """Return the file that keeps this model's vectors until the table is written."""
        digest = hashlib.sha256(f"{self.server} {self.model}".encode()).hexdigest()[:8]
        return output.with_name(f"{output.name}.{re.sub(r'[^A-Za-z0-9._-]', '_', self.model)[:60]}-{digest}.vectors")


def read_environment(model: str, environment: Mapping[str, str] = os.environ) -> Endpoint:
    """Read address and key, and refuse what cannot work before anything is sent."""
    base = (environment.get(BASE_VARIABLE, "").strip() or OPENAI_URL).rstrip("/")
    key = environment.get(KEY_VARIABLE, "").strip()
    if not ADDRESS.fullmatch(base):
        msg = f"{BASE_VARIABLE} is not an address such as {OPENAI_URL}; user and password do not belong into it."
    elif not model.strip():
        msg = "encoder='openai:' names no model. The papers use openai:text-embedding-ada-002."
    elif not key and base == OPENAI_URL:
        msg = f"encoder='openai:{model}' needs a key: set {KEY_VARIABLE}, or {BASE_VARIABLE} to a server without keys."
    elif key and (key in base or key in model):
        msg = f"{BASE_VARIABLE} or encoder= holds the key, and both are recorded. Set the key in {KEY_VARIABLE} alone."
    elif not key.isascii() or any(character.isspace() for character in key):
        msg = f"{KEY_VARIABLE} contains characters that no key has, such as spaces. Copy the key again."
    else:
        return Endpoint(model.strip(), base, key)
    raise OptionError(msg)


class VectorJournal:
    """Finished vectors by text, in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = sqlite3.connect(path)
        try:
            self._database.execute("CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, vector BLOB, crc INT)")
            self.find([""])
        except sqlite3.DatabaseError as error:
            self.close()
            why = "this is not a file of finished vectors, or it is damaged"
            raise GenesError(f"{path}: {why}. Move it away, or choose another output.") from error

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM vectors").fetchone()[0])

    @property
    def width(self) -> int | None:
        """Width of the vectors, if there is one."""
        row = self._database.execute("SELECT length(vector) / 4 FROM vectors LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def find(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return those vectors, ``(width,) float32``, that are there and intact."""
        found = {}
        for text in texts:
            row = self._database.execute("SELECT vector, crc FROM vectors WHERE text = ?", (_key(text),)).fetchone()
            if row is not None and zlib.crc32(row[0]) == row[1]:
                found[text] = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        return found

    def add(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep vectors; they are on disk when this returns."""
        blobs = [(_key(text), vector.astype("<f4").tobytes()) for text, vector in vectors.items()]
        rows = [(key, blob, zlib.crc32(blob)) for key, blob in blobs]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: vectors cannot be kept ({error}). Make room and run again.") from error

    def close(self) -> None:
        """Close the file; it stays."""
        self._database.close()


class TooLarge(BaseException):
    """An answer past its bound. No ``Exception``, which the client would take for a reason to ask again."""


class AnswerBound:
    """Reads an answer, of any status, up to ``limit`` bytes unpacked; the client finds it read."""

    limit = 0

    def __call__(self, response: Any) -> None:
        if response.headers.get("content-encoding", "identity") not in PACKINGS:
            raise TooLarge
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > self.limit:
                raise TooLarge
        response._content = bytes(content)


class EndpointEncoder:
    """Vectors from an endpoint, each kept as soon as it arrives."""

    def __init__(self, endpoint: Endpoint, client: openai.OpenAI, bound: AnswerBound, journal: VectorJournal) -> None:
        self.endpoint = endpoint
        self.journal = journal
        self.width = journal.width
        self._client, self._bound = client, bound

    @property
    def identity(self) -> dict[str, Any]:
        """Model, server, width, and where long texts are cut: all that decides the vectors."""
        about = {"kind": "openai", "model": self.endpoint.model, "server": self.endpoint.server}
        return {**about, "width": self.width, "max_characters": MAX_CHARACTERS}

    def estimate(self, texts: Sequence[str]) -> str:
        """Return a line about what is still to be sent and what that costs."""
        cut = {text[:MAX_CHARACTERS] for text in texts}
        todo = cut - self.journal.find(sorted(cut)).keys()
        tokens = sum(map(_estimated_tokens, todo))
        price = PRICES.get(self.endpoint.model)
        cost = "their price is not known"
        if price is not None:
            cost = f"about ${tokens / 1e6 * price:.2f} at ${price:.2f} per million (OpenAI's list of {PRICES_OF})"
        counts = f"{len(todo):,} texts to send ({len(cut) - len(todo):,} were finished before)"
        return f"{self.endpoint.model} at {self.endpoint.server}: {counts}, about {tokens:,} tokens (estimated): {cost}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return ``(n_texts, width) float32``: from the journal, the others from the endpoint."""
        cut = [text[:MAX_CHARACTERS] for text in texts]
        known = self.journal.find(cut)
        for request in _requests([text for text in dict.fromkeys(cut) if text not in known]):
            found = dict(zip(request, self._ask(request), strict=True))
            self.journal.add(found)
            known |= found
        return np.stack([known[text] for text in cut])

    def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        """Send one request, which the client repeats with growing waits, and check the answer."""
        self._bound.limit = BYTES_AROUND + len(texts) * BYTES_OF_VECTOR
        try:
            create: Any = self._client.embeddings.create
            answer = create(model=self.endpoint.model, input=texts, encoding_format="float")
            by_index = {item.index: item.embedding for item in answer.data}
            with np.errstate(over="ignore"):
                vectors = np.array([by_index[i] for i in range(len(texts))], dtype=np.float32)
            shape = (len(answer.data), self.width or np.atleast_2d(vectors).shape[1])
        except TooLarge:
            raise self._failed(
                f"the answer has more than {self._bound.limit:,} bytes, or is packed in an unusual way"
            ) from None
        except openai.APIStatusError as error:
            raise self._refused(error, texts) from None  # the cause may show the key
        except openai.OpenAIError as error:
            raise self._failed(self._said(error)) from None
        except (AttributeError, TypeError, ValueError, KeyError, OverflowError, RecursionError):
            raise self._failed("the answer is not what an embeddings endpoint gives") from None
        if vectors.shape != shape or not vectors.size or not np.isfinite(vectors).all():
            raise self._failed("the answer has vectors of another width or number, or numbers that are not finite")
        self.width = shape[1]
        return vectors

    def _said(self, error: openai.OpenAIError) -> str:
        """Return what the server or client said, in one line and without what may be a part of the key."""
        line = " ".join("…" if _shows(word, self.endpoint.key) else word for word in str(error).split())
        return "its words hold parts of the key" if _shows(line, self.endpoint.key) else line[:300]

    def _failed(self, why: str) -> NetworkError:
        return NetworkError(
            f"{self.endpoint.server}: {why}. {len(self.journal):,} finished vectors are kept in {self.journal.path}: "
            f"run the same command again, and it goes on. If that does not help, check {BASE_VARIABLE} and the model."
        )

    def _refused(self, error: openai.APIStatusError, texts: Sequence[str]) -> NetworkError | OptionError:
        status, said = error.status_code, self._said(error)
        has_no_funds = "insufficient_quota" in str(error)
        if (status in (408, 409, 429) or status >= 500) and not has_no_funds:
            return self._failed(f"the server answered {status} at every try ({said})")
        cure = f"Check the model's name and {BASE_VARIABLE}."
        if status in (401, 403):
            cure = f"Set {KEY_VARIABLE} to a valid key."
        elif status == 400:
            cure = f"The longest of its texts has {max(map(len, texts)):,} characters: {max(texts, key=len)[:60]!r}."
        elif has_no_funds:
            cure = "Check the plan and balance of your account, then run the same command again: it goes on."
        refused = f"refused encoder='openai:{self.endpoint.model}' with {status}"
        return OptionError(f"{self.endpoint.server} {refused}: {said}. {cure}")


@contextmanager
def endpoint_encoder(model: str, output: Path, texts: Sequence[str], progress: Reporter) -> Iterator[EndpointEncoder]:
    """Open the encoder for a table and tell what it will cost; the journal is deleted if the block succeeds."""
    endpoint = read_environment(model)
    path = endpoint.journal_beside(output)
    bound = AnswerBound()
    client = openai.OpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.key or "none",
        max_retries=RETRIES,
        timeout=TIMEOUT,
        default_headers={"Accept-Encoding": "identity"},
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [bound]}),
    )
    with client, fsio.lock(path.with_name(f"{path.name}.lock")):
        with closing(VectorJournal(path)) as journal:
            encoder = EndpointEncoder(endpoint, client, bound, journal)
            progress.note(encoder.estimate(texts))
            if long := [text[:30] for text in texts if len(text) > MAX_CHARACTERS]:
                progress.warn(f"{len(long):,} texts are cut to {MAX_CHARACTERS:,} characters: {show_some(long)}")
            yield encoder
        path.unlink(missing_ok=True)


def _shows(line: str, key: str) -> bool:
    """Whether a text may hold a part of a key, however it is written: split, escaped, percent, hex or base64."""
    raw = key.encode()
    forms = [key, raw.hex(), *(base64.b64encode(raw[start:]).decode() for start in range(3))]
    for _ in range(2):  # an escape within an escape
        line = unquote(html.unescape(ESCAPED.sub(lambda found: chr(int(found[1], 16)), line)))
    seen = _letters(line)
    parts = {form[at : at + SHOWN] for form in map(_letters, forms) for at in range(max(1, len(form) - SHOWN + 1))}
    return bool(key) and any(part in seen for part in parts)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _estimated_tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _requests(texts: Sequence[str]) -> Iterator[list[str]]:
    """Split texts into requests of about :data:`REQUEST_TOKENS`."""
    numbers = np.cumsum([_estimated_tokens(text) for text in texts]) // REQUEST_TOKENS
    for _, group in groupby(zip(numbers.tolist(), texts, strict=True), key=lambda pair: pair[0]):
        yield [text for _, text in group]
