"""``scstore extract --control``: the same run with one thing made meaningless."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import extract, make_cells

import scstore
from scstore.errors import FeatureSpaceError, OptionError
from scstore.extraction.options import CONTROLS, ExtractOptions
from scstore.genes.table import load_gene_table
from scstore.genes.vectors import RandomEncoder
from scstore.model.loading import load_backbone, locate_model
from scstore.model.projector import project
from scstore.sealed import differences

KIND = "control.kind: (absent) → "
OF_VECTORS = [name for name in CONTROLS if name != "renamed"]


@pytest.fixture(scope="module")
def reference(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 60 cells in float32."""
    path = tmp_path_factory.mktemp("reference") / "ref.zarr"
    extract(make_cells(), path, llama, store_dtype="float32")
    return path


@pytest.fixture(scope="module")
def controls(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, scstore.Store]:
    """A store of each control, like the reference."""
    folder = tmp_path_factory.mktemp("controls")
    return {name: control(name, reference, folder / f"{name}.zarr") for name in OF_VECTORS}


def control(name: str, reference: Path, out: Path, **options: Any) -> scstore.Store:
    return scstore.extract(make_cells(), out, like=reference, control=name, store_dtype="float32", **options)


@pytest.mark.parametrize("name", OF_VECTORS)
def test_only_one_thing_of_the_space_differs(name: str, reference: Path, controls: dict[str, scstore.Store]) -> None:
    store, real = controls[name], scstore.open(reference)
    told = differences(real.view("readout").space, store.view("readout").space)
    weights = ['model.weights: (absent) → "random"'] if name == "random-llm" else []
    assert told == [f'{KIND}"{name}"', "control.seed: (absent) → 0", *weights]
    assert np.abs(store.view("readout")[:] - real.view("readout")[:]).max() > 0.01
    assert store.record is not None
    assert store.record["control"] == {"kind": name, "seed": 0}
    for view in set(store.views) - {"readout_wmean_l3", "readout_last_l3", "X"}:  # what it does not touch
        assert store.view(view).fingerprint == real.view(view).fingerprint
        np.testing.assert_array_equal(store.view(view)[:], real.view(view)[:])
    assert ("genept" in store.views) == (name != "random-genes")


def test_random_genes_by_hand(reference: Path, llama: Path, controls: dict[str, scstore.Store]) -> None:
    """The same as a table of random vectors by symbol, projected as ever."""
    store = controls["random-genes"]
    table = load_gene_table(reference.with_suffix(".genes.h5ad"))
    vectors = RandomEncoder(32).encode(list(table.obs["symbol"]))
    backbone = load_backbone(locate_model(str(llama)), device=torch.device("cpu"), dtype=torch.float32)
    inputs = project(vectors, backbone.token_embeddings, kind="aligned")
    ranked, words = sequence(store, 0), instruction(backbone)
    hidden = run(backbone, [inputs[gene] for gene in ranked], words)
    np.testing.assert_allclose(store.view("readout_last_l3")[[0]][0], hidden[-1], rtol=1e-4, atol=1e-5)


def test_random_llm_by_hand(reference: Path, llama: Path, controls: dict[str, scstore.Store]) -> None:
    store = controls["random-llm"]
    table = load_gene_table(reference.with_suffix(".genes.h5ad"))
    backbone = load_backbone(locate_model(str(llama)), device=torch.device("cpu"), dtype=torch.float32, random_seed=0)
    inputs = project(table.vectors, backbone.token_embeddings, kind="aligned")
    hidden = run(backbone, [inputs[gene] for gene in sequence(store, 0)], instruction(backbone))
    np.testing.assert_allclose(store.view("readout_last_l3")[[0]][0], hidden[-1], rtol=1e-4, atol=1e-5)


def test_shuffled_order_by_hand(reference: Path, llama: Path, controls: dict[str, scstore.Store]) -> None:
    """The genes of every cell in one order, the same weights in the pooling."""
    store = controls["shuffled-order"]
    table = load_gene_table(reference.with_suffix(".genes.h5ad"))
    backbone = load_backbone(locate_model(str(llama)), device=torch.device("cpu"), dtype=torch.float32)
    inputs = project(table.vectors, backbone.token_embeddings, kind="aligned")
    genes = sorted(sequence(store, 0), key=lambda gene: hashlib.sha256(f"0\0GENE{gene}".encode()).digest())
    hidden = run(backbone, [inputs[gene] for gene in genes], instruction(backbone))
    np.testing.assert_allclose(store.view("readout_last_l3")[[0]][0], hidden[-1], rtol=1e-4, atol=1e-5)
    values = store.view("X")[0:1].toarray()[0, genes]
    mean = (hidden[1 : 1 + len(genes)] * values[:, None]).sum(0) / values.sum()
    np.testing.assert_allclose(store.view("readout_wmean_l3")[[0]][0], mean, rtol=1e-4, atol=1e-5)


def sequence(store: scstore.Store, row: int) -> list[int]:
    """Genes of a cell in descending expression, ties in gene-table order."""
    values = store.view("X")[row : row + 1].toarray()[0]
    return [gene for gene in np.argsort(-values, kind="stable").tolist() if values[gene] > 0]


def instruction(backbone: Any) -> list[int]:
    words = backbone.tokenizer("what is the cell type of this given embedding?", add_special_tokens=False)
    return [*words["input_ids"], backbone.tokenizer.eos_token_id]


def run(backbone: Any, genes: list[Any], words: list[int]) -> Any:
    """Last hidden states of ``[BOS] genes instruction [EOS]``."""
    tokens = backbone.token_embeddings
    inputs = torch.stack([tokens[backbone.tokenizer.bos_token_id], *map(torch.tensor, genes), *tokens[words]])
    with torch.inference_mode():
        return backbone.model(inputs_embeds=inputs[None]).last_hidden_state[0].numpy()


def test_parts_and_resumption_give_the_same_rows(
    reference: Path, controls: dict[str, scstore.Store], tmp_path: Path
) -> None:
    name, parts = "shuffled-order", tmp_path / "parts.zarr"
    for index in (1, 0):
        control(name, reference, parts, shard_rows=16, shard=f"{index}/2")
    (parts / "_scstore" / "shards" / "000001.json").unlink()
    store = control(name, reference, parts, shard_rows=16)
    for view in store.views[:-1]:
        np.testing.assert_allclose(store.view(view)[:], controls[name].view(view)[:], rtol=1e-4, atol=1e-5)
    with pytest.raises(FeatureSpaceError, match="control"):
        scstore.extract(make_cells(), parts, like=reference, store_dtype="float32", shard_rows=16)


def test_a_head_refuses_them(reference: Path, controls: dict[str, scstore.Store]) -> None:
    head = scstore.fit(reference, label="cell_type", views=["readout"])
    with pytest.raises(FeatureSpaceError, match="control"):
        scstore.predict(controls["random-llm"], head)


def test_evaluate_takes_them_as_controls(reference: Path, controls: dict[str, scstore.Store]) -> None:
    found = scstore.evaluate(
        reference,
        label="cell_type",
        folds=2,
        views=["readout", "genept_random+X"],
        controls={name: [store] for name, store in controls.items()},
    )
    rows = [row.name for row in found.regimes[0].scored.rows]
    for name in OF_VECTORS:
        assert f"{name}: readout_wmean_l3" in rows


def test_a_control_of_a_weighted_mean_and_of_sentences(llama: Path, tmp_path: Path) -> None:
    weighted = extract(make_cells(), tmp_path / "w.zarr", llama, preset="genept-w")
    random = scstore.extract(make_cells(), tmp_path / "wr.zarr", like=tmp_path / "w.zarr", control="random-genes")
    assert random.views == ("genept_w", "X")
    table = load_gene_table(tmp_path / "w.genes.h5ad")
    vectors = RandomEncoder(32).encode(list(table.obs["symbol"]))
    sums = random.view("X")[:].toarray() @ vectors
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(random.view("genept_w")[:], expected, atol=1e-3)
    assert weighted.view("genept_w").fingerprint != random.view("genept_w").fingerprint
    sentences = extract(make_cells(), tmp_path / "s.zarr", llama, preset="genept-s")
    for name in ("random-llm", "shuffled-order"):
        other = scstore.extract(make_cells(), tmp_path / f"{name}.zarr", like=tmp_path / "s.zarr", control=name)
        assert np.abs(other.view("genept_s")[:] - sentences.view("genept_s")[:]).max() > 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"control": "random-llm", "spread": True},
        {"control": "random-llm", "pool": (), "companions": ("genept_w",)},
        {"control": "shuffled-order", "pool": (), "companions": ("genept",)},
        {"control": "random-genes", "pool": (), "companions": ("genept_s",)},
        {"control": "random-genes", "input": "symbols"},
    ],
)
def test_controls_of_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ExtractOptions(**options)


def test_symbols_are_renamed_only_where_they_are_read(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        control("renamed", reference, tmp_path / "r.zarr")


def test_random_genes_and_a_trained_projector_are_refused(tmp_path: Path) -> None:
    (tmp_path / "projector").mkdir()
    with pytest.raises(OptionError):
        ExtractOptions(control="random-genes", projector=str(tmp_path / "projector"))


def test_a_control_of_a_control_is_refused(controls: dict[str, scstore.Store], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="random-llm"):
        control("random-genes", controls["random-llm"].path, tmp_path / "d.zarr")
    new = scstore.extract(make_cells(5, seed=1), tmp_path / "n.zarr", like=controls["random-llm"].path)
    assert new.view("readout").space["control"]["kind"] == "random-llm"
