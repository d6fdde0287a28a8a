from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
import typer.main
from support import ROOT

from scstore.cli import app

EXAMPLES = ROOT / "examples"
TINY = "--cells 40 --splits 1 --top-genes 8 --epochs 1 --warmup 1 -o papers".split()
CONTROL_ROWS = {
    "- scinterpreter random-genes", "- random gene vectors", "- expression", "- random gene vectors + expression",
    "- random-genes: readout", "- random-llm: readout", "- shuffled-order: readout",
}  # fmt: skip


@pytest.mark.parametrize("example", ["any_embedding", "quickstart"])
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{example}.py", tmp_path / "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    agreement = next(line for line in done.stdout.splitlines() if line.startswith("agreement"))
    assert float(agreement.split()[-1]) > 0.6


def test_the_papers_are_reproduced(llama: Path, tmp_path: Path) -> None:
    """All of it on few cells and a small model: table, sentences, figures; each printed step is a true command."""
    words = [sys.executable, EXAMPLES / "reproduce_papers.py", "--model", llama, *TINY]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    steps = [shlex.split(line)[2:] for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert [step[0] for step in steps] == ["genes"] * 2 + ["align"] * 3 + ["extract"] * 18 + ["evaluate"] * 6
    for step in steps:
        _parse(step)
    table = pd.read_csv(tmp_path / "papers" / "table.csv", index_col="method")
    assert set(table.index) > {"scinterpreter", "screader", "genept-w", "genept-s", "default: readout"} | CONTROL_ROWS
    assert table.astype(float).stack().between(0, 1).all()
    assert "Reduced against the papers: " in done.stdout
    assert "random-llm: the model has random weights" in done.stdout
    assert "the model added" in done.stdout.splitlines()[-3]
    for name in ("metrics", "confusion", "umap"):
        assert (tmp_path / "papers" / f"{name}.svg").exists()
        assert min(matplotlib.image.imread(tmp_path / "papers" / f"{name}.png").shape[:2]) > 300
    again = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert (again.returncode, "papers exists" in again.stderr) == (2, True)


def _parse(step: list[str]) -> None:
    """Give a step's words to the command that they name, which refuses what it does not know."""
    command = typer.main.get_command(app)
    while step and step[0] in getattr(command, "commands", {}):
        name, *step = step
        command = command.commands[name]
    command.make_context(command.name, step)


def test_the_notebook_says_the_same(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, run in their order in one namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    notebook = json.loads((EXAMPLES / "reproduce_papers.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)  # noqa: S102
            if "parameters" in cell["metadata"].get("tags", []):
                names["WORDS"] = ["--model", str(llama), *TINY]
    for cell in notebook["cells"]:
        for picture in (word for word in "".join(cell["source"]).split("(") if word.startswith("papers/")):
            assert (tmp_path / picture.split(")")[0]).exists()
