"""Asking servers: which failures are worth another try, and how long to wait before it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from scstore.errors import MissingExtraError

try:
    import httpx
    import tenacity
except ImportError as error:
    needs = "Asking a server (--encoder openai:…)"
    raise MissingExtraError(needs, "endpoint") from error

__all__ = ["PATIENCE", "Sleep", "TransientError", "check_status", "httpx", "persist", "transient"]

Sleep = Callable[[float], None]
"""Waits for some seconds."""

LONGEST_BACKOFF = 60.0

PATIENCE = 600.0
"""Seconds beyond which a server's Retry-After is told to the user instead of waited for."""

PERMANENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)

T = TypeVar("T")


class TransientError(Exception):
    """A failure that may be gone the next time.

    Parameters
    ----------
    reason
        In words.
    retry_after
        Seconds that the server asks to wait; ``None`` where it does not say.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def persist(action: Callable[[], T], *, attempts: int, sleep: Sleep, warn: Callable[[str], None] | None = None) -> T:
    """Try something until it succeeds, waiting longer each time (1, 2, 4, … s, at most a minute, with jitter).

    Parameters
    ----------
    action
        Raises :class:`TransientError` where another try may help.
    attempts
        Tries in all.
    sleep
        Waits.
    warn
        Told why, before each wait.

    Raises
    ------
    TransientError
        The last one; also the first whose server asks to wait longer than :data:`PATIENCE`.
    """
    backoff = tenacity.wait_exponential_jitter(initial=1, max=LONGEST_BACKOFF, jitter=1)

    def wait(state: tenacity.RetryCallState) -> float:
        asked = _retry_after(state)
        return backoff(state) if asked is None else asked + random.random()  # noqa: S311  # spreads clients

    def tell(state: tenacity.RetryCallState) -> None:
        if warn is not None and state.outcome is not None:
            warn(f"{state.outcome.exception()}; trying again in {state.upcoming_sleep:.0f} s")

    def worth_it(error: BaseException) -> bool:
        return isinstance(error, TransientError) and (error.retry_after or 0) <= PATIENCE

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=wait,
        retry=tenacity.retry_if_exception(worth_it),
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )
    return retrying(action)


def _retry_after(state: tenacity.RetryCallState) -> float | None:
    failure = state.outcome.exception() if state.outcome is not None else None
    return failure.retry_after if isinstance(failure, TransientError) else None


def transient(error: httpx.RequestError) -> TransientError:
    """The failure of a request as one that may be gone the next time.

    Raises
    ------
    RequestError
        The same, where it will not.
    """
    if isinstance(error, PERMANENT):
        raise error
    if isinstance(error, httpx.TimeoutException):
        return TransientError("no answer in time")
    return TransientError(str(error) or type(error).__name__)


def check_status(response: httpx.Response) -> None:
    """Raise for an answer that asks to come again: 408, 429, 5xx.

    Raises
    ------
    TransientError
        With what the server's Retry-After asks for, in seconds or as a date.
    """
    if response.status_code in (408, 429) or response.status_code >= 500:
        reason = f"the server answered {response.status_code} {response.reason_phrase}".rstrip()
        raise TransientError(reason, retry_after=_seconds(response.headers.get("retry-after")))


def _seconds(header: str | None) -> float | None:
    if header is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", header):
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
