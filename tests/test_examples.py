from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any
from warnings import catch_warnings, simplefilter

import anndata
import matplotlib.image
import pandas as pd
import pytest
import typer.main
from support import ROOT

from scstore.cli import app

EXAMPLES = ROOT / "examples"
TINY = "--cells 40 --splits 1 --top-genes 8 --epochs 1 -o papers".split()
CONTROL_ROWS = {
    "- scinterpreter random-genes", "- random gene vectors", "- expression", "- random gene vectors + expression",
    "- random-genes: readout", "- random-llm: readout", "- shuffled-order: readout",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # scanpy's, about the age of its cells
@pytest.mark.parametrize("example", ["any_embedding", "quickstart"])
def test_an_example_runs(example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"](tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    agreement = next(line for line in lines if line.startswith("agreement"))
    assert float(agreement.split()[-1]) > 0.6


def test_the_demo_ends_in_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it prints to type is what it runs; every third of its cells, and no more than that is left out."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(EXAMPLES)
    import demo

    def fewer(folder: Path) -> None:
        whole(folder)
        for name in ("reference", "new"):
            anndata.read_h5ad(folder / f"{name}.h5ad")[::3].copy().write_h5ad(folder / f"{name}.h5ad")

    whole = demo.write_cells
    monkeypatch.setattr(demo, "write_cells", fewer)
    assert demo.main(tmp_path / "it's here") == 0
    said = capsys.readouterr()
    assert "warning" not in said.err
    folder = tmp_path / "it's here"
    typed = [line for line in said.out.splitlines() if line.startswith("$ scstore ")]
    steps = ["panel", "extract", "evaluate", "fit", "annotate", "report", "plot", "plot"]
    assert [line.split()[2] for line in typed] == steps
    assert said.out.splitlines()[-1] == f"Now open {folder / 'page.html'} in a browser."
    assert (folder / "page.html").stat().st_size > 10_000
    cells = anndata.read_h5ad(folder / "annotated.h5ad")
    agreement = (cells.obs["scstore_best_label"].astype(str) == cells.obs["bulk_labels"].astype(str)).mean()
    assert cells.n_obs == 78
    assert agreement > 0.6
    assert f"{agreement:.0%} of 78 new cells" in said.out
    assert "On your cells" in said.out
    for name in ("umap", "confusion"):
        assert min(matplotlib.image.imread(folder / f"{name}.png").shape[:2]) > 300


@dataclass(frozen=True)
class Papers:
    """A run of the script on few cells and a small model, in its folder: what it printed, and what each step gave."""

    script: ModuleType
    folder: Path
    words: list[str]
    lines: list[str]
    steps: dict[str, Any]


def _key(command: str, paths: tuple[Path, ...], options: dict[str, Any]) -> str:
    return repr((command, paths, sorted(options.items())))


@pytest.fixture(scope="module")
def papers(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Papers]:
    folder = tmp_path_factory.mktemp("script")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed, catch_warnings():
        simplefilter("ignore")  # scanpy's, about the age of its cells
        patch.chdir(folder)
        patch.syspath_prepend(EXAMPLES)
        import reproduce_papers as script

        steps: dict[str, Any] = {}
        step = script.step

        def recorded(function: Callable[..., Any], command: str, *paths: Path, **options: Any) -> Any:
            steps[_key(command, paths, options)] = given = step(function, command, *paths, **options)
            return given

        patch.setattr(script, "step", recorded)
        words = ["--model", str(llama), *TINY]
        script.main(words)
        patch.setattr(script, "step", step)
        yield Papers(script, folder, words, printed.getvalue().splitlines(), steps)


def test_the_papers_are_reproduced(papers: Papers) -> None:
    """Table, sentences, figures; each printed step is a true command."""
    steps = [shlex.split(line)[2:] for line in papers.lines if line.startswith("$ ")]
    assert [step[0] for step in steps] == ["genes"] * 2 + ["align"] * 3 + ["extract"] * 18 + ["evaluate"] * 6
    for step in steps:
        _parse(step)
    output = papers.folder / "papers"
    table = pd.read_csv(output / "table.csv", index_col="method")
    assert set(table.index) > {"scinterpreter", "screader", "genept-w", "genept-s", "default: readout"} | CONTROL_ROWS
    assert table.astype(float).stack().between(0, 1).all()
    assert any(line.startswith("Reduced against the papers: ") for line in papers.lines)
    assert any(line.startswith("random-llm: the model has random weights") for line in papers.lines)
    assert "the model added" in papers.lines[-3]
    for name in ("metrics", "confusion", "umap"):
        assert (output / f"{name}.svg").exists()
        assert min(matplotlib.image.imread(output / f"{name}.png").shape[:2]) > 300
    with pytest.raises(SystemExit) as stopped:
        papers.script.main([*papers.words[:-1], str(output)])
    assert stopped.value.code == 2


def _parse(step: list[str]) -> None:
    """Give a step's words to the command that they name, which refuses what it does not know."""
    command = typer.main.get_command(app)
    while step and step[0] in getattr(command, "commands", {}):
        name, *step = step
        command = command.commands[name]
    command.make_context(command.name, step)


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_does_the_same(papers: Papers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, run in their order in one namespace, take the script's steps: those give what they gave there."""

    def replayed(_: Callable[..., Any], command: str, *paths: Path, **options: Any) -> Any:
        made = papers.folder / paths[-1]
        (shutil.copytree if made.is_dir() else shutil.copy)(made, paths[-1])
        return papers.steps[_key(command, paths, options)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papers.script, "step", replayed)
    notebook = json.loads((EXAMPLES / "reproduce_papers.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)  # noqa: S102
            if "parameters" in cell["metadata"].get("tags", []):
                names["WORDS"] = papers.words
    assert names["papers"] is papers.script
    assert {path.stem for path in (tmp_path / "papers").glob("*.png")} == {"metrics", "confusion", "umap"}
    shipped = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    assert sum("image/png" in one.get("data", {}) for one in shipped) == 3
    assert any("text/html" in one.get("data", {}) for one in shipped)  # the table


STUB = """#!{python}
import json, sys
with open("called.jsonl", "a") as file:
    file.write(json.dumps([sys.argv[0].rpartition("/")[2], *sys.argv[1:]]) + "\\n")
"""
SLURM = {
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_NNODES": "4",
    "SLURM_NODEID": "2",
    "SLURM_JOB_NODELIST": "n[0-3]",
}


@pytest.fixture
def on_slurm(tmp_path: Path) -> Callable[[Path], list[list[str]]]:
    """Gives ``run(script)``: the commands that a batch script starts, words as its shell made them."""
    tools = {"srun": '#!/bin/sh\nexec "$@"\n', "scontrol": "#!/bin/sh\nprintf 'n0\\nn1\\nn2\\nn3\\n'\n"}
    tools |= dict.fromkeys(("scstore", "accelerate", "torchrun"), STUB.format(python=sys.executable))
    (tmp_path / "bin").mkdir()
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    for place in ("donors/a.h5ad", "donors/b.h5ad", "parts/a.zarr", "parts/b.zarr"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()

    def run(script: Path) -> list[list[str]]:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        subprocess.run(["bash", script], cwd=tmp_path, env={**os.environ, **SLURM, "PATH": path}, check=True)
        return [json.loads(line) for line in (tmp_path / "called.jsonl").read_text().splitlines()]

    return run


@pytest.mark.parametrize("script", sorted((EXAMPLES / "slurm").glob("*.sbatch")), ids=lambda script: script.stem)
def test_a_batch_job_starts_commands_that_exist(script: Path, on_slurm: Callable[[Path], list[list[str]]]) -> None:
    """SLURM itself is not here: its variables are set and its commands replaced; launchers and scstore read words."""
    for name, *words in on_slurm(script):
        if name != "scstore":
            pytest.importorskip("torch")
            from accelerate.commands.launch import launch_command_parser
            from torch.distributed.run import get_args_parser

            launcher = get_args_parser() if name == "torchrun" else launch_command_parser()
            given = launcher.parse_args(words if name == "torchrun" else words[1:])
            assert (given.module, given.training_script) == (True, "scstore")
            nodes, processes = (4, 32) if "many" in script.stem else (1, 8)
            if name == "torchrun":
                assert (int(given.nnodes), int(given.nproc_per_node) * nodes) == (nodes, processes)
                assert given.rdzv_endpoint == "n0:29500"
            else:
                assert (given.num_machines, given.num_processes) == (nodes, processes)
                assert (given.machine_rank, given.main_process_ip) in ((None, None), (2, "n0"))
            words = given.training_script_args
        _parse(words)
        if words[0] == "merge":
            assert words[1:3] == ["parts/a.zarr", "parts/b.zarr"]
        if script.stem == "donors":
            assert words[1:4] == ["donors/b.h5ad", "-o", "parts/b.zarr"]
        if script.stem == "array":
            (count,) = re.findall(r"--array=0-(\d+)$", script.read_text(), re.MULTILINE)
            assert words[-1] == f"1/{int(count) + 1}"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # dask-jobqueue leaves files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_of_dask_fit_and_predict(cells_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of SLURM's, jobs are scripts that this machine's shell runs."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    from dask_jobqueue.local import LocalCluster

    def jobs(**how: Any) -> Any:
        return LocalCluster(**{**how, "cores": 1, "processes": 1, "memory": "1GB"}, python=sys.executable)

    monkeypatch.setattr(jobqueue, "SLURMCluster", jobs)
    monkeypatch.setattr(LocalCluster, "scale", lambda self, jobs: super(LocalCluster, self).scale(jobs=min(jobs, 1)))
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(EXAMPLES / "slurm" / "stage2_dask.py"))
    script["main"](str(cells_file), str(cells_file), "cell_type")
    labels = pd.read_parquet("labels.parquet")
    assert len(labels) == 60
