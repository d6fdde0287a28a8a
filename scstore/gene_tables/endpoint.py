"""Gene texts encoded by an OpenAI-compatible endpoint, whose key is neither printed nor recorded."""

import base64
import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from scstore.errors import MissingExtraError, NetworkError, OptionError, show_some
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
SHOWN = 6  # letters and digits of a key in a row that are not to be seen
ESCAPED = re.compile(r"\\+(?:u00|x)([0-9A-Fa-f]{2})")  # escapes of JSON, Python and JavaScript
RETRIES = 10
TIMEOUT = 60.0
BYTES_OF_VECTOR = 1 << 18  # of an answer, at most: a vector of 8,192 numbers in any notation
BYTES_AROUND = 1 << 20  # and what lies around the vectors
PACKINGS = ("identity", "gzip", "deflate")  # none makes more than a thousand bytes of one
# Estimated by four characters each; OpenAI's own limits are 2,048 texts and 300,000 tokens a request.
REQUEST_TOKENS = 100_000
MAX_CHARACTERS = 8191 * 3  # where texts are cut: 8,191 tokens, of at least three characters each in gene descriptions


@dataclass(frozen=True)
class Endpoint:
    """A model behind an endpoint: its name, the address without ``/embeddings``, and the key, which may be empty."""

    model: str
    base_url: str
    key: str = field(default="", repr=False)

    @property
    def server(self) -> str:
        return self.base_url.split("://", 1)[-1]


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
    def __init__(self, endpoint: Endpoint, client: openai.OpenAI, bound: AnswerBound, progress: Reporter) -> None:
        self.endpoint = endpoint
        self.width: int | None = None
        self._client, self._bound, self._progress = client, bound, progress

    @property
    def identity(self) -> dict[str, Any]:
        """Model, server, width, and where long texts are cut: all that decides the vectors."""
        about = {"kind": "openai", "model": self.endpoint.model, "server": self.endpoint.server}
        return {**about, "width": self.width, "max_characters": MAX_CHARACTERS}

    def batches(self, texts: Sequence[str]) -> Iterable[Sequence[str]]:
        """Requests of about :data:`REQUEST_TOKENS`, after a note of how much there is to pay for."""
        if long := [text[:30] for text in texts if len(text) > MAX_CHARACTERS]:
            self._progress.warn(f"{len(long):,} texts are cut to {MAX_CHARACTERS:,} characters: {show_some(long)}")
        ends = np.cumsum([-(-min(len(text), MAX_CHARACTERS) // 4) for text in texts])
        counts = f"{len(texts):,} texts to send, about {ends[-1]:,} tokens (estimated)"
        self._progress.note(f"{self.endpoint.model} at {self.endpoint.server}: {counts}")
        for _, group in groupby(zip((ends // REQUEST_TOKENS).tolist(), texts, strict=True), key=lambda pair: pair[0]):
            yield [text for _, text in group]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return ``(n_texts, width) float32`` by one request, which the client repeats with growing waits."""
        sent = [text[:MAX_CHARACTERS] for text in texts]
        self._bound.limit = BYTES_AROUND + len(sent) * BYTES_OF_VECTOR
        try:
            create: Any = self._client.embeddings.create
            answer = create(model=self.endpoint.model, input=sent, encoding_format="float")
            by_index = {item.index: item.embedding for item in answer.data}
            with np.errstate(over="ignore"):
                vectors = np.array([by_index[i] for i in range(len(sent))], dtype=np.float32)
            shape = (len(answer.data), self.width or np.atleast_2d(vectors).shape[1])
        except TooLarge:
            too_large = f"the answer has more than {self._bound.limit:,} bytes, or is packed in an unusual way"
            raise self._failed(too_large) from None
        except openai.APIStatusError as error:
            raise self._refused(error, sent) from None  # the cause may show the key
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
            f"{self.endpoint.server}: {why}. Finished vectors are kept: run the same command again, and it goes on. If "
            f"that does not help, check {BASE_VARIABLE} and the model."
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
def endpoint_encoder(model: str, progress: Reporter) -> Iterator[EndpointEncoder]:
    endpoint, bound = read_environment(model), AnswerBound()
    client = openai.OpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.key or "none",
        max_retries=RETRIES,
        timeout=TIMEOUT,
        default_headers={"Accept-Encoding": "identity"},
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [bound]}),
    )
    with client:
        yield EndpointEncoder(endpoint, client, bound, progress)


def _shows(line: str, key: str) -> bool:
    """Whether a text may hold a part of a key, however it is written: split, escaped, percent, hex or base64."""
    for _ in range(2):  # an escape within an escape
        line = unquote(html.unescape(ESCAPED.sub(lambda found: chr(int(found[1], 16)), line)))
    raw, seen = key.encode(), _letters(line)
    forms = map(_letters, [key, raw.hex(), *(base64.b64encode(raw[start:]).decode() for start in range(3))])
    parts = (form[at : at + SHOWN] for form in forms for at in range(max(1, len(form) - SHOWN + 1)))
    return bool(key) and any(part in seen for part in parts)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())
