"""Every attack is refused by name, in bounded memory and time, and none of them ends the process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attacks.make import ATTACKS, HARMLESS, make_all

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux alone"),
    pytest.mark.filterwarnings("ignore"),  # anndata's, on writing the clean files
]

Answer = tuple[str, str, float]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_all(tmp_path_factory.mktemp("attacks") / "all")


@pytest.fixture(scope="module")
def answers(made: dict[str, Path]) -> dict[str, Answer]:
    """Error, message and CPU seconds of each attack; those after one that ended the process are missing."""
    everything = {**ATTACKS, **HARMLESS}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("reading.py")],
        input=json.dumps([[what, everything[what].read, str(path)] for what, path in made.items()]),
        capture_output=True,
        text=True,
        timeout=600,
        cwd=next(iter(made.values())).parent,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended by {done.returncode} after {lines[-1:]}: {done.stderr}"
    return {what: (kind, message, seconds) for what, kind, message, seconds in lines}


@pytest.mark.parametrize("what", ATTACKS)
def test_an_attack_is_refused_by_name(what: str, made: dict[str, Path], answers: dict[str, Answer]) -> None:
    """RELIABILITY 14, 37, 40, I4, I5: one typed error that names the file, in bounded memory and time."""
    attack = ATTACKS[what]
    kind, message, seconds = answers[what]
    assert kind == attack.kind, message
    assert re.search(attack.words, message), message
    assert str(made[what]) in message
    assert seconds < 5
    assert len(message) < 1500


@pytest.mark.parametrize("what", HARMLESS)
def test_what_is_only_odd_is_read(what: str, answers: dict[str, Answer]) -> None:
    assert answers[what][:2] == ("", "")


def test_nothing_ran_and_nothing_is_large(made: dict[str, Path], answers: dict[str, Answer]) -> None:
    """RELIABILITY 37, I5."""
    assert answers
    assert not any(path.parent.joinpath("harmed").exists() for path in made.values())
    assert max(path.stat().st_size for path in made.values()) < 2 << 20
