from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, example, tmp_path / "out"], capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr
    agreement = next(line for line in done.stdout.splitlines() if line.startswith("agreement"))
    assert float(agreement.split()[-1]) > 0.6
