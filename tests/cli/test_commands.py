"""The command line as a person uses it: a process of its own, words in, exit code, text and files out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import pandas as pd
import pytest
from support import DEFAULT_SIGNALS, ROOT, Run, make_cells, write_model

from scstore.errors import NotAStoreError

COMMANDS = [
    "extract", "align", "annotate", "fit", "predict", "query", "evaluate", "panel", "info", "export", "verify",
    "genes build", "plot umap", "plot markers",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, llama: Path) -> Path:
    """A folder as a user has it: cells to learn from, cells to label, a model."""
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    make_cells(20, seed=1).write_h5ad(tmp_path / "new.h5ad")
    shutil.copytree(llama, tmp_path / "model")
    return tmp_path


def test_the_whole_path(folder: Path, scstore_command: Run) -> None:
    run = scstore_command
    said = run("panel", "cells.h5ad", "--label", "cell_type", "-n", "15", "-o", "panels/p.h5ad").stdout
    assert "next: scstore extract" in said
    said = run(
        "extract", "cells.h5ad", "-o", "stores/ref.zarr", "--model", "./model", "--panel", "panels/p.h5ad"
    ).stderr
    assert "counts from X" in said
    assert "100.0%" in said
    run("extract", "new.h5ad", "-o", "stores/new.zarr", "--like", "stores/ref.zarr")
    said = run("fit", "stores/ref.zarr", "--label", "cell_type", "-o", "heads/cell_type").stdout
    assert "held out" in said
    run("annotate", "stores/new.zarr", "--head", "heads/cell_type", "-o", "annotated.h5ad")
    annotated = anndata.read_h5ad(folder / "annotated.h5ad")
    truth = annotated.obs["cell_type"].astype(str)
    assert (annotated.obs["scstore_best_label"].astype(str) == truth).mean() > 0.9
    run("query", "stores/new.zarr", "--reference", "stores/ref.zarr", "-k", "4", "-o", "neighbours.parquet")
    neighbours = pd.read_parquet(folder / "neighbours.parquet")
    assert len(neighbours) == 80
    assert {"cell_id", "rank", "neighbour", "distance", "cell_type", "donor"} <= set(neighbours.columns)
    run("export", "stores/ref.zarr", "-o", "ref.h5ad")
    run("fit", "ref.h5ad", "--label", "cell_type", "-o", "heads/exported")
    run("predict", "stores/new.zarr", "--head", "heads/exported", "-o", "labels.csv", "--proba")
    labels = pd.read_csv(folder / "labels.csv", index_col="cell_id")
    columns = ["label", "confidence", "status", "reason", "best_label", "second_label", "margin", "novelty"]
    assert list(labels.columns) == [*columns, "p(type 0)", "p(type 1)", "p(type 2)"]


def test_panels_of_many_kinds(folder: Path, scstore_command: Run) -> None:
    run = scstore_command
    words = ["cells.h5ad", "--label", "cell_type", "--group", "donor", "-n", "12", "-o", "a.h5ad"]
    done = run("panel", *words)
    assert "genes that separate cell_type" in done.stdout
    run("panel", "cells.h5ad", "--label-free", "-n", "9", "-o", "b.h5ad")


def test_evaluate_prints_the_table_and_what_the_model_added(folder: Path, scstore_command: Run) -> None:
    run = scstore_command
    run("extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model")
    asked = ["evaluate", "s.zarr", "--label", "cell_type", "--folds", "2", "--view", "readout", "--view", "X"]
    said = run(*asked, "--control", "same=s.zarr", "-o", "e", "--no-figures", "--few-shot", "2,4").stdout
    assert said.count("features") == 3
    assert "- same: readout_wmean_l3" in said
    assert said.startswith("On your cells the language model ")
    assert "[95 %]" in run(*asked, "--wide").stdout
    assert sorted(path.name for path in (folder / "e").iterdir()) == [
        "evaluation.csv",
        "evaluation.json",
        "evaluation.txt",
        "predictions.parquet",
    ]
    numbers = json.loads(run("--json", *asked).stdout)
    assert [row["name"] for row in numbers["regimes"][0]["rows"]] == ["readout_wmean_l3", "X"]
    assert "exists" in run(*asked, "-o", "e", code=2).stderr
    assert "--control s.zarr" in run(*asked, "--control", "s.zarr", code=2).stderr
    assert "--few-shot 2;5" in run(*asked, "--few-shot", "2;5", code=2).stderr


def test_json_is_one_object_and_nothing_else(folder: Path, scstore_command: Run) -> None:
    run = scstore_command
    done = run("--json", "extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model")
    info = json.loads(done.stdout)
    assert (info["n_obs"], info["complete"], info["default_view"]) == (60, True, "readout_wmean_l3")
    assert json.loads(run("--json", "info", "s.zarr").stdout) == info
    fitted = json.loads(run("--json", "fit", "s.zarr", "--label", "cell_type", "-o", "h").stdout)
    assert fitted["classes"] == ["type 0", "type 1", "type 2"]
    assert json.loads(run("--json", "info", "h").stdout)["record"]["label"] == "cell_type"
    predicted = json.loads(run("--json", "predict", "s.zarr", "--head", "h", "-o", "p.parquet").stdout)
    assert predicted["n_cells"] == 60
    failed = run("--json", "info", "nowhere", code=2)
    assert json.loads(failed.stdout)["error"]["kind"] == "not_a_store"


def test_quiet_prints_errors_only(folder: Path, scstore_command: Run) -> None:
    done = scstore_command("-q", "extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model")
    assert (done.stdout, done.stderr) == ("", "")
    assert scstore_command("-q", "fit", "s.zarr", "--label", "no", "-o", "h", code=2).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, scstore_command: Run) -> None:
    said = scstore_command(*command.split(), "--help").stdout
    assert "Usage" in said
    if command not in ("info", "export"):
        assert f"scstore {command}" in said.split("Options")[0].replace("\n", " ")


def test_help_answers_at_once() -> None:
    """Under half a second of CPU, whatever else the machine is doing."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "scstore", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "scstore", "--help"], check=True, capture_output=True, text=True
    ).stderr
    assert not any(f" {name}\n" in loaded for name in ("numpy", "pandas", "anndata", "zarr", "torch", "faiss"))
    assert spent < 5  # a machine ten times slower than ours; the absence of imports above is the real test


def test_the_launcher_is_the_same_command(tmp_path: Path) -> None:
    words = ["--version"]
    launched = subprocess.run([sys.executable, ROOT / "cli.py", *words], capture_output=True, text=True, check=True)
    module = subprocess.run([sys.executable, "-m", "scstore", *words], capture_output=True, text=True, check=True)
    assert launched.stdout == module.stdout
    assert launched.stdout.startswith("scstore ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["extract", "nowhere.h5ad", "-o", "s.zarr", "--model", "./model"], "nowhere.h5ad"),
        (["extract", "cells.h5ad", "-o", "s.zarr", "--model", "./nowhere"], "no such folder"),
        (["extract", "cells.h5ad", "-o", "s.zarr"], "--model minilm"),
        (["extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model", "--layers", "9"], "layers 1 to 3"),
        (["extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model", "--layers", "one"], "--layers one"),
        (["extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model", "--panel", "no.h5ad"], "panel is wanted"),
        (
            ["extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model", "--genes", "no.h5ad"],
            "gene table is wanted",
        ),
        (["extract", "cells.h5ad", "-o", "cells.h5ad", "--model", "./model"], "cells.h5ad"),
        (["panel", "cells.h5ad", "--label", "kind", "-o", "p.h5ad"], "cell_type, donor"),
        (["panel", "cells.h5ad", "-o", "p.h5ad"], "--label-free"),
        (["panel", "cells.h5ad", "--label", "cell_type", "-n", "many", "-o", "p.h5ad"], "-n"),
        (["info", "nowhere"], "no such file"),
        (["info", "model"], "model"),
        (["genes", "build", "-o", "g.h5ad"], "--text"),
        (
            ["extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model", "--orthologs", "no.csv"],
            "--genes or --panel",
        ),
        (["genes", "build", "-o", "g.h5ad", "--symbols-of", "cells.h5ad", "--encoder", "random:x"], "random:384"),
        (["predict", "cells.h5ad", "--head", "nowhere", "-o", "x.txt"], ".parquet"),
        (["predict", "cells.h5ad", "--head", "nowhere", "-o", "x.csv"], "nowhere"),
        (["nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_answered_plainly(folder: Path, scstore_command: Run, words: list[str], said: str) -> None:
    """RELIABILITY I4: exit code 2, one plain message, nothing half-written, no traceback."""
    before = sorted(folder.iterdir())
    done = scstore_command(*words, code=2)
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    after = [path for path in sorted(folder.iterdir()) if not path.name.endswith(".genes.h5ad")]
    assert after == before


def test_debug_shows_the_traceback(folder: Path, scstore_command: Run) -> None:
    with pytest.raises(NotAStoreError):
        scstore_command("--debug", "info", "nowhere")


def test_damage_is_a_fault_with_exit_code_1(folder: Path, scstore_command: Run) -> None:
    scstore_command("extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model")
    chunk = folder / "s.zarr" / "obsm" / "readout_wmean_l3" / "c" / "0" / "0"
    chunk.write_bytes(b"\0" + chunk.read_bytes()[1:])
    said = scstore_command("fit", "s.zarr", "--label", "cell_type", "-o", "h", code=1).stderr
    assert "does not match its digest" in said
    assert "Traceback" not in said
    assert not (folder / "h").exists()


def test_a_read_only_output_folder_is_found_before_the_model_loads(folder: Path, scstore_command: Run) -> None:
    """RELIABILITY 24."""
    (folder / "file").write_text("not a folder")
    said = scstore_command("extract", "cells.h5ad", "-o", "file/s.zarr", "--model", "./model", code=2).stderr
    assert "cannot write" in said
    assert "model:" not in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_hand_it_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    """RELIABILITY 21: SIGTERM and Ctrl-C; the lock is gone and the same command finishes the store."""
    make_cells(200).write_h5ad(tmp_path / "cells.h5ad")
    write_model(tmp_path / "model")
    script = """
import os, sys
import scstore.extraction.extract as workflow
from scstore.cli import main
real = workflow.commit_shard
def commit(*words, **named):
    real(*words, **named)
    print("committed", flush=True)
    sys.stdin.readline()
workflow.commit_shard = commit
sys.argv = ["scstore", "extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model", "--shard-rows", "50"]
main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", DEFAULT_SIGNALS + script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "committed\n"
    process.send_signal(number)
    more, said = process.communicate(timeout=1800)
    committed = 50 * (1 + more.count("committed"))  # one more may be, before the signal reaches the main thread
    assert process.returncode == code, said
    assert "Run the same command again" in said
    assert not (tmp_path / "s.zarr.lock").exists()
    finish = [sys.executable, "-m", "scstore", "extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model"]
    done = subprocess.run([*finish, "--shard-rows", "50"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"{committed} of 200 cells were extracted before" in done.stderr


def test_progress_without_a_terminal_is_plain_lines(folder: Path, scstore_command: Run) -> None:
    said = scstore_command("extract", "cells.h5ad", "-o", "s.zarr", "--model", "./model").stderr
    assert "cells/s)" in said
    assert "\x1b" not in said
    assert "\r" not in said


def test_real_sorted_cells_to_real_donors(shared: Path, tmp_path: Path, scstore_command: Run) -> None:
    """Two public data sets, no Python written: the first to learn from, the second to label."""
    run = scstore_command
    panel = ["CD79A", "MS4A1", "CD3D", "CD3E", "IL7R", "NKG7", "GNLY", "LYZ", "CD14", "FCN1", "S100A8", "CST3", "PPBP"]
    for name, rows in (("pbmc_sorted", slice(None, None, 4)), ("pbmc_3donors", slice(None, None, 3))):
        cells = anndata.read_h5ad(shared / "cells" / f"{name}.h5ad")
        cells[rows, [gene for gene in panel if gene in cells.var_names]].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    model = shared / "llama-stories260k"
    run("extract", "pbmc_sorted.h5ad", "-o", "ref.zarr", "--model", model)
    run("extract", "pbmc_3donors.h5ad", "-o", "new.zarr", "--like", "ref.zarr")
    run("fit", "ref.zarr", "--label", "cell_type", "-o", "head")
    run("predict", "new.zarr", "--head", "head", "-o", "labels.csv")
    labels = pd.read_csv(tmp_path / "labels.csv", index_col="cell_id")["best_label"]
    truth = anndata.read_h5ad(tmp_path / "pbmc_3donors.h5ad").obs["cell_type"].astype(str)
    assert (labels[truth == "B"] == "bcells").mean() > 0.6
    assert (labels[truth == "Mono_CD14"] == "monocytes").mean() > 0.6


def test_the_clock_is_not_part_of_a_store(folder: Path, scstore_command: Run) -> None:
    """The same run later gives the same bytes."""
    from scstore import fsio

    for name in ("a", "b"):
        (folder / name).mkdir()
        scstore_command("extract", "cells.h5ad", "-o", f"{name}/s.zarr", "--model", "./model")
    assert fsio.digest_tree(folder / "a" / "s.zarr") == fsio.digest_tree(folder / "b" / "s.zarr")


def test_a_wrong_option_is_json_too(scstore_command: Run) -> None:
    """What typer finds, before and after the command's name."""
    for words in (["fit", "x.zarr", "--nope", "--json"], ["--json", "nope"], ["--json", "fit"]):
        error = json.loads(scstore_command(*words, code=2).stdout)["error"]
        assert error["kind"] == "usage"
        assert error["message"]
