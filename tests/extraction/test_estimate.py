from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from support import Run, make_cells

import scstore
from scstore.errors import ModelError
from scstore.extraction.estimate import RUN_CELLS, RUNS, estimate, sampled_runs
from scstore.genes.table import GeneTable, describe_by_symbol, save_gene_table
from scstore.model.shapes import device_of

# 3 layers of 4 × 32 × 32 and 3 × 32 × 48 weights.
SHAPE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": 500, "max_position_embeddings": 128,
}  # fmt: skip
LAYER = 4 * 32 * 32 + 3 * 32 * 48

# Two, and a token for four of the 46 characters of the instruction.
AROUND = 2 + 12


@pytest.fixture
def shape(tmp_path: Path) -> str:
    """A model of which there is ``config.json`` alone."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(SHAPE))
    return str(tmp_path / "model")


def genes_of(cells: anndata.AnnData) -> np.ndarray:
    return np.asarray((csr_matrix(cells.X) > 0).sum(axis=1)).ravel()


def test_what_a_readout_takes(shape: str, tmp_path: Path) -> None:
    cells = make_cells(70, empty=2)
    before = sorted(tmp_path.rglob("*"))
    found = estimate(cells, tmp_path / "s.zarr", model=shape, layers=(2,), pool=("last",), gpu="a100")
    assert sorted(tmp_path.rglob("*")) == before
    lengths = genes_of(cells)[genes_of(cells) > 0] + AROUND
    flop = 2 * (2 * LAYER * lengths + 2 * 32 * lengths**2).sum()
    assert (found.n_cells, found.n_sampled, found.n_empty, found.tokens) == (70, 70, 1, lengths.sum())
    assert found.flop == pytest.approx(flop)
    assert found.gpu_hours == pytest.approx(flop / (0.58 * 312e12) / 3600)
    assert "58% of its 312 TFLOP/s" in found.rests_on
    # readout, genept, genept_random in half precision; 2.5 bytes a value of X
    assert found.store_bytes == round(70 * 3 * 32 * 2 + 2.5 * csr_matrix(cells.X).nnz)
    # all three layers, which encode the symbols, and the token embeddings
    assert found.weight_bytes == 2 * (3 * LAYER + 500 * 32)
    batch = 1024 * (2 * (6 * 32 + 3 * 48) + 4 * 32)
    assert found.memory_bytes == pytest.approx(found.weight_bytes + batch + 40 * 32 * 2 + 1e9)
    assert found.fits
    assert (found.jobs, found.sbatch) == (
        1, "#SBATCH --array=0-0 --gpus=1 --cpus-per-task=4 --mem=9G --time=00:31:00",
    )  # fmt: skip


def test_it_is_what_extraction_does(llama: Path, tmp_path: Path) -> None:
    cells = make_cells(60, empty=2)
    found = estimate(cells, tmp_path / "s.zarr", model=str(llama), panel="all", gpu="cpu")
    store = scstore.extract(cells, tmp_path / "s.zarr", model=str(llama))
    n_genes = store.obs["scstore_n_genes"].to_numpy()
    assert found.n_empty == (n_genes == 0).sum()
    assert found.tokens == pytest.approx(n_genes.sum(), rel=1)
    views = sum(store.view(name)[:].nbytes for name in store.views if name != "X")
    assert found.store_bytes == views + round(2.5 * csr_matrix(cells.X).nnz)


def test_a_large_model_takes_many_jobs_and_does_not_fit_everywhere(tmp_path: Path) -> None:
    """Llama-2-13b over 1,000 genes of 10,000 cells: 40 layers of 317,194,240 weights, two bytes each."""
    cells = anndata.AnnData(csr_matrix(np.ones((10_000, 1000), dtype=np.float32)))
    cells.var_names = [f"GENE{i}" for i in range(1000)]
    found = estimate(cells, tmp_path / "s.zarr", gpu="l4")
    assert found.n_sampled == RUNS * RUN_CELLS == 2048
    positions = 1000 + AROUND
    flop = 10_000 * 40 * (2 * 317_194_240 * positions + 2 * 5120 * positions**2)
    hours = flop / (0.58 * 121e12) / 3600
    assert (found.tokens, found.flop, found.gpu_hours) == pytest.approx((10_000 * positions, flop, hours))
    assert found.weight_bytes == 2 * (40 * 317_194_240 + 32_000 * 5120)
    assert not found.fits
    assert set(found.fitting) == {"h100", "h200", "b200", "a100", "a100-40gb", "a40", "l40s"}
    assert found.jobs == math.ceil(hours) > 1
    assert f"--array=0-{found.jobs - 1} --gpus=1" in found.sbatch
    assert f"--time=01:{math.ceil(60 * (hours - 0.5)):02d}:00" in found.sbatch  # twice a half, and half an hour
    assert any("does not fit; it fits on h100" in line for line in found.lines())


def test_the_gene_tables_width_and_the_panel_count(shape: str, tmp_path: Path) -> None:
    genes = describe_by_symbol([f"GENE{i}" for i in range(40)])
    save_gene_table(
        GeneTable(genes.obs, np.ones((40, 7), dtype=np.float32), {"kind": "x"}, genes.template), tmp_path / "g"
    )
    options: dict[str, Any] = {"genes": str(tmp_path / "g"), "keep_expression": False, "layers": (1,)}
    found = estimate(make_cells(50), tmp_path / "s.zarr", model=shape, **options)
    assert found.store_bytes == 50 * 2 * (2 * 32 + 2 * 7)
    assert found.weight_bytes == 2 * (LAYER + 500 * 32)  # symbols need not be encoded
    assert found.gpu == "h100"


def test_the_automatic_panel_is_chosen_on_the_sample(shape: str, tmp_path: Path) -> None:
    cells = make_cells(300, 400)
    before = sorted(tmp_path.rglob("*"))
    found = estimate(cells, tmp_path / "s.zarr", model=shape, panel="auto", top_genes=100)
    assert sorted(tmp_path.rglob("*")) == before
    whole = estimate(cells, tmp_path / "s.zarr", model=shape, panel="all", top_genes=100)
    assert 300 * AROUND < found.tokens < whole.tokens
    chosen = scstore.panel(cells, tmp_path / "s.panel.h5ad", label_free=True)
    assert found.tokens - 300 * AROUND == (cells[:, list(chosen.obs.index)].X > 0).sum()
    assert asdict(estimate(cells, tmp_path / "s.zarr", model=shape, panel="auto", top_genes=100)) == asdict(found)


def test_sentences_are_as_long_as_their_symbols(shape: str, tmp_path: Path) -> None:
    cells = anndata.AnnData(csr_matrix(np.eye(3, 9, dtype=np.float32)))
    cells.var_names = [f"ABCDE{i}" for i in range(9)]  # 6 characters: 4 tokens, and two around them
    found = estimate(cells, tmp_path / "s.zarr", model=shape, preset="genept-s", min_match=0)
    assert found.tokens == 3 * 6
    assert found.flop == pytest.approx(3 * 3 * (2 * LAYER * 6 + 2 * 32 * 36))


def test_without_a_model_no_gpu_is_needed(shape: str, tmp_path: Path) -> None:
    found = estimate(make_cells(), tmp_path / "s.zarr", model=shape, preset="genept-w")
    assert (found.tokens, found.flop, found.gpu_hours) == (0, 0, 0)
    assert any("no GPU" in line for line in found.lines())


def test_cells_without_genes_cost_nothing(shape: str, tmp_path: Path) -> None:
    found = estimate(make_cells(1, empty=0), tmp_path / "s", model=shape)
    assert (found.tokens, found.flop, found.n_empty) == (0, 0, 1)


def test_a_model_that_is_not_known_is_refused(cells: anndata.AnnData, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        estimate(cells, tmp_path / "s", model="some/model")


def test_runs_are_spread_over_all_cells() -> None:
    assert sampled_runs(2048) == [(0, 2048)]
    assert [start for start, _ in sampled_runs(1_000_000)][:: RUNS - 1] == [0, 1_000_000 - RUN_CELLS]


def test_the_command_prints_the_job_array(shape: str, cells_file: Path, tmp_path: Path, scstore_command: Run) -> None:
    words = ["extract", "cells.h5ad", "-o", "s.zarr", "--model", shape, "--layers", "1,3", "--panel", "all"]
    words += ["--dry-run", "--gpu", "l40s"]
    lines = scstore_command(*words).stdout.splitlines()
    assert lines[-2].startswith("#SBATCH --array=0-0 ")
    typed = f"--output s.zarr --model {shape} --panel all --layers 1,3"
    assert lines[-1] == f"scstore extract cells.h5ad {typed} --shard $SLURM_ARRAY_TASK_ID/1"
    found = json.loads(scstore_command("--json", *words).stdout)
    assert (found["n_cells"], found["gpu"], found["fits"], found["script"]) == (60, "l40s", True, lines[-2:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "model"]
    scstore_command("extract", "cells.h5ad", "-o", "s.zarr", "--gpu", "l40s", code=2)


def test_torch_is_not_imported(cells_file: Path) -> None:
    script = (
        "import sys\nfrom scstore import cli\n"
        f"assert cli.run(['extract', {str(cells_file)!r}, '-o', 's.zarr', '--panel', 'all', '--dry-run']) == 0\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"{device_of('h100').rests_on}" in done.stdout
