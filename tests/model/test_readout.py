from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import random as random_sparse
from support import write_model

from scstore.errors import FaultError
from scstore.model.loading import load_backbone, locate_model
from scstore.model.prompt import make_layout
from scstore.model.readout import Readout
from scstore.tokens.sequences import POOLINGS, Batch, RankedCells, assemble, plan_batches, rank_genes

KINDS = ["llama", "mistral", "qwen2", "qwen3", "bert"]
LAYERS = (1, 2, 3)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="module")
def genes() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((80, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def ranked() -> RankedCells:
    rows = random_sparse(24, 80, density=0.5, random_state=1, format="csr", dtype=np.float32)
    rows.data += 0.1
    return rank_genes(rows, top_genes=70)


def make(model: Path, genes: np.ndarray, *, depth: int | None = None, **options: object) -> Readout:
    files = locate_model(str(model))
    backbone = load_backbone(files, device=torch.device("cpu"), dtype=torch.float32, depth=depth)
    layout = make_layout(files, backbone.tokenizer)
    options.setdefault("layers", LAYERS)
    readout = Readout(backbone, layout, genes, **options)  # type: ignore[arg-type]
    readout.frame = layout.frame  # type: ignore[attr-defined]
    return readout


def run(readout: Readout, ranked: RankedCells, cells: list[int]) -> np.ndarray:
    frame = readout.frame  # type: ignore[attr-defined]
    return readout.run(assemble(ranked, np.array(cells), frame=frame, poolings=POOLINGS)).numpy()


def test_it_equals_transformers_own_hidden_states(model: Path, genes: np.ndarray, ranked: RankedCells) -> None:
    """One unpadded cell, against `output_hidden_states=True` pooled by hand."""
    readout = make(model, genes)
    frame = readout.frame  # type: ignore[attr-defined]
    pooled = run(readout, ranked, [5])[:, :, 0]
    batch = assemble(ranked, np.array([5]), frame=frame, poolings=POOLINGS)
    inputs = readout._inputs[torch.from_numpy(batch.slots)]
    states = readout.backbone.model(inputs_embeds=inputs, output_hidden_states=True).hidden_states
    start, stop = ranked.offsets[5], ranked.offsets[6]
    values = ranked.values[start:stop]
    for i, layer in enumerate(LAYERS):
        hidden = states[layer][0].detach().numpy()
        of_genes = hidden[frame.n_prefix : frame.n_prefix + len(values)]
        expected = [hidden[-1 if frame.readout_at_end else 0], of_genes.mean(0), values @ of_genes / values.sum()]
        np.testing.assert_allclose(pooled[i], expected, rtol=1e-4, atol=1e-5)


def test_a_cell_alone_in_a_batch_and_in_another_order(model: Path, genes: np.ndarray, ranked: RankedCells) -> None:
    """RELIABILITY 19: the same vector, relative difference ≤ 1e-5; long beside short, padding never pooled."""
    readout = make(model, genes)
    everyone = run(readout, ranked, list(range(24)))
    turned = run(readout, ranked, list(range(24))[::-1])[:, :, ::-1]
    scale = np.abs(everyone).max(axis=-1, keepdims=True)
    assert (np.abs(everyone - turned) / scale).max() <= 1e-5
    for cell in (0, 7, 23):
        alone = run(readout, ranked, [cell])[:, :, 0]
        assert (np.abs(everyone[:, :, cell] - alone) / scale[:, :, cell]).max() <= 1e-5


def test_a_truncated_model_gives_the_same_hidden_states(model: Path, genes: np.ndarray, ranked: RankedCells) -> None:
    whole = run(make(model, genes), ranked, [0, 1, 2])
    truncated = run(make(model, genes, depth=2, layers=(1, 2)), ranked, [0, 1, 2])
    np.testing.assert_array_equal(truncated, whole[:2])


def test_multiply_scales_the_gene_vectors(llama: Path, genes: np.ndarray, ranked: RankedCells) -> None:
    plain = make(llama, genes)
    scaled = make(llama, genes, multiply=True)
    cell = [3]
    batch = assemble(ranked, np.array(cell), frame=plain.frame, poolings=("mean",))  # type: ignore[attr-defined]
    by_hand = plain._inputs[torch.from_numpy(batch.slots)]
    by_hand[batch.scale > 0] *= torch.from_numpy(batch.scale[batch.scale > 0])[:, None]
    states = plain.backbone.model(inputs_embeds=by_hand, output_hidden_states=True).hidden_states
    expected = states[1][0].detach().numpy()[batch.scale[0] > 0].mean(0)
    np.testing.assert_allclose(run(scaled, ranked, cell)[0, 1, 0], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(plain, ranked, cell), run(scaled, ranked, cell))


def test_batches_of_a_plan_give_every_cell_its_own_vector(llama: Path, genes: np.ndarray, ranked: RankedCells) -> None:
    readout = make(llama, genes)
    frame = readout.frame  # type: ignore[attr-defined]
    out = np.zeros((3, 3, 24, 32), dtype=np.float32)
    for cells in plan_batches(ranked.lengths + frame.overhead, tokens=300):
        out[:, :, cells] = run(readout, ranked, list(cells))
    together = run(readout, ranked, list(range(24)))
    np.testing.assert_allclose(out, together, rtol=1e-4, atol=1e-5)


def test_half_precision_stays_close(llama: Path, genes: np.ndarray, ranked: RankedCells) -> None:
    full = run(make(llama, genes), ranked, [0, 1, 2, 3])
    files = locate_model(str(llama))
    backbone = load_backbone(files, device=torch.device("cpu"), dtype=torch.bfloat16)
    layout = make_layout(files, backbone.tokenizer)
    half = Readout(backbone, layout, genes, layers=LAYERS)
    half.frame = layout.frame  # type: ignore[attr-defined]
    low = run(half, ranked, [0, 1, 2, 3])
    cosine = (full * low).sum(-1) / (np.linalg.norm(full, axis=-1) * np.linalg.norm(low, axis=-1))
    assert cosine.min() > 0.999


def test_a_batch_that_does_not_fit_is_run_in_halves_with_the_same_result(
    llama: Path, genes: np.ndarray, ranked: RankedCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 20: out of memory above six cells a batch."""
    readout = make(llama, genes)
    whole = run(readout, ranked, list(range(24)))
    real = readout.run

    def small(batch: Batch) -> torch.Tensor:
        if len(batch.cells) > 6:
            raise torch.OutOfMemoryError
        return real(batch)

    monkeypatch.setattr(readout, "run", small)
    gathered = readout.gather(24, 3)
    frame = readout.frame  # type: ignore[attr-defined]
    gathered.add(np.arange(24), lambda some: assemble(ranked, some, frame=frame, poolings=POOLINGS))
    assert gathered.halved == 3
    np.testing.assert_allclose(gathered.rows(), whole, rtol=1e-4, atol=1e-5)


def test_a_cell_that_does_not_fit_alone_is_a_plain_error(
    llama: Path, genes: np.ndarray, ranked: RankedCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 20: or fails cleanly."""
    readout = make(llama, genes)

    def never(_batch: Batch) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(readout, "run", never)
    frame = readout.frame  # type: ignore[attr-defined]
    with pytest.raises(FaultError, match="top_genes="):
        readout.gather(4, 3).add(np.arange(4), lambda some: assemble(ranked, some, frame=frame, poolings=POOLINGS))


def test_nothing_gathered_is_zeros(llama: Path, genes: np.ndarray) -> None:
    rows = make(llama, genes).gather(5, 2).rows()
    assert rows.shape == (3, 2, 5, 32)
    assert not rows.any()
