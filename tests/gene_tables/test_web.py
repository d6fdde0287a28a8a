from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from scstore.gene_tables.web import PATIENCE, TransientError, check_status, persist, transient


def failing(*errors: Exception):  # type: ignore[no-untyped-def]
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_waits_grow_and_stay_under_a_minute() -> None:
    waits: list[float] = []
    told: list[str] = []
    action = failing(*(TransientError("busy") for _ in range(9)))
    assert persist(action, attempts=10, sleep=waits.append, warn=told.append) == "done"
    assert len(waits) == len(told) == 9
    assert waits[:5] == sorted(waits[:5])
    assert 1 <= waits[0] <= 2
    assert max(waits) <= 60
    assert "busy; trying again in" in told[0]


def test_attempts_are_bounded_and_other_errors_are_not_tried_again() -> None:
    waits: list[float] = []
    with pytest.raises(TransientError, match="busy"):
        persist(failing(*(TransientError("busy") for _ in range(9))), attempts=3, sleep=waits.append)
    assert len(waits) == 2
    with pytest.raises(KeyError):
        persist(failing(KeyError("x")), attempts=3, sleep=waits.append)
    assert len(waits) == 2


def test_the_servers_wish_is_granted_within_reason() -> None:
    waits: list[float] = []
    persist(failing(TransientError("busy", retry_after=33)), attempts=2, sleep=waits.append)
    assert 33 <= waits[0] <= 34
    with pytest.raises(TransientError):
        persist(failing(TransientError("busy", retry_after=PATIENCE + 1)), attempts=9, sleep=waits.append)
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("status", "header", "low", "high"),
    [
        (429, "7", 7, 7),
        (503, timedelta(hours=1), 3500, 3600),
        (503, timedelta(hours=-1), 0, 0),
        (429, "soon", None, None),
        (500, None, None, None),
        (408, None, None, None),
    ],
)
def test_retry_after_in_both_forms(
    status: int, header: str | timedelta | None, low: float | None, high: float | None
) -> None:
    if isinstance(header, timedelta):
        header = format_datetime(datetime.now(UTC) + header, usegmt=True)
    with pytest.raises(TransientError, match=str(status)) as caught:
        check_status(httpx.Response(status, headers={"retry-after": header} if header else {}))
    wanted = caught.value.retry_after
    assert wanted is None if low is None or high is None else wanted is not None and low <= wanted <= high


def test_what_will_not_go_away_is_raised_as_it_is() -> None:
    for status in (200, 206, 400, 401, 404):
        check_status(httpx.Response(status))
    with pytest.raises(httpx.UnsupportedProtocol):
        transient(httpx.UnsupportedProtocol("gopher"))
    assert "in time" in str(transient(httpx.ReadTimeout("")))
    assert str(transient(httpx.ConnectError("refused"))) == "refused"
