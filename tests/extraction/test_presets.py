from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from support import Notes, extract, make_cells
from typer.testing import CliRunner

import scstore
from scstore.cli import app
from scstore.errors import OptionError
from scstore.evaluation.design import choose_rows
from scstore.extraction.estimate import estimate
from scstore.extraction.options import ExtractOptions, complete_options
from scstore.extraction.presets import PRESETS
from scstore.extraction.sequence_plan import DEFAULT_TOP_GENES
from scstore.genes.table import COLUMNS, GeneTable, load_gene_table, save_gene_table
from scstore.model.loading import DEFAULT_MODEL, load_backbone, locate_model
from scstore.model.projector import project
from scstore.model.prompt import INSTRUCTION
from scstore.model.text_encoder import HuggingFaceEncoder

SYMBOLS = ["CD3E", "NKG7", "B2M", "MS4A1"]
COUNTS = np.array([[1, 0, 8, 1], [0, 0, 0, 0], [2, 6, 0, 2]], dtype=np.float32)
LOGNORM = [  # log1p of counts per 10,000, written out
    {"B2M": np.log1p(8000), "CD3E": np.log1p(1000), "MS4A1": np.log1p(1000)},
    {},
    {"NKG7": np.log1p(6000), "CD3E": np.log1p(2000), "MS4A1": np.log1p(2000)},
]
FLOAT = {"store_dtype": "float32"}


@pytest.fixture
def few() -> anndata.AnnData:
    """Three cells, one empty, of four genes; CD3E and MS4A1 tie, CD3E is first in the table."""
    obs = pd.DataFrame({"cell_type": ["T", "none", "NK"]}, index=["a", "b", "c"])
    return anndata.AnnData(csr_matrix(COUNTS), obs=obs, var=pd.DataFrame(index=SYMBOLS))


def vectors_of(path: Path) -> dict[str, NDArray[np.float32]]:
    table = load_gene_table(path)
    return dict(zip(table.obs["symbol"], table.vectors, strict=True))


@pytest.mark.parametrize("name", ["scinterpreter", "screader"])
def test_the_papers_sequence_by_hand(name: str, few: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    """[BOS] genes in descending expression, instruction, readout token: its hidden state after the last layer."""
    store = extract(few, tmp_path / "s.zarr", llama, preset=name, **FLOAT)
    assert store.views == ("readout_last_l3", "genept", "genept_random", "X")
    backbone = load_backbone(locate_model(str(llama)), device=torch.device("cpu"), dtype=torch.float32)
    table = load_gene_table(tmp_path / "s.genes.h5ad")
    projected = dict(
        zip(table.obs["symbol"], project(table.vectors, backbone.token_embeddings, kind="aligned"), strict=True)
    )
    tokenizer, tokens = backbone.tokenizer, backbone.token_embeddings
    words = tokenizer(INSTRUCTION, add_special_tokens=False)["input_ids"]
    for row, genes in enumerate(LOGNORM):
        if not genes:
            assert not store.view("readout")[row : row + 1].any()
            continue
        scaled = [
            torch.tensor(projected[symbol]) * (float(value) if name == "screader" else 1.0)
            for symbol, value in genes.items()
        ]
        around = [tokens[tokenizer.bos_token_id]], [*tokens[words], tokens[tokenizer.eos_token_id]]
        inputs = torch.stack([*around[0], *scaled, *around[1]])[None]
        with torch.inference_mode():
            states = backbone.model(inputs_embeds=inputs, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(store.view("readout")[[row]][0], states[-1][0, -1].numpy(), rtol=1e-4, atol=1e-5)


def test_genept_w_by_hand(few: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    """L2-normalised mean of the gene vectors as they come, over all expressed genes, weighted by log1p(CP10k)."""
    store = extract(few, tmp_path / "s.zarr", llama, preset="genept-w", **FLOAT)
    assert (store.views, store.default_view, store.default_views) == (
        ("genept_w", "X"),
        "genept_w",
        ("genept_w",),
    )
    vectors = vectors_of(tmp_path / "s.genes.h5ad")
    for row, genes in enumerate(LOGNORM):
        total = sum((value * vectors[symbol] for symbol, value in genes.items()), np.zeros(32))
        expected = total / np.linalg.norm(total) if genes else total
        np.testing.assert_allclose(store.view("genept_w")[[row]][0], expected, rtol=1e-5, atol=1e-6)
    assert np.flatnonzero(store.empty).tolist() == [1]
    assert store.record is not None
    assert store.record["model"] is None
    assert (store.record["options"]["preset"], store.record["options"]["pool"]) == ("genept-w", [])


def test_genept_w_has_no_limit_of_genes(llama: Path, tmp_path: Path) -> None:
    """128 positions hold fewer genes than these cells have; a weighted mean takes them all."""
    rng = np.random.default_rng(0)
    symbols = [f"GENE{i}" for i in range(200)]
    vectors = rng.standard_normal((200, 5)).astype(np.float32)
    obs = pd.DataFrame({column: [""] * 200 for column in COLUMNS}, index=symbols).assign(symbol=symbols, text=symbols)
    save_gene_table(GeneTable(obs, vectors, {"kind": "test"}, ""), tmp_path / "g.h5ad")
    cells = anndata.AnnData(csr_matrix(np.ones((2, 200), dtype=np.float32)), var=pd.DataFrame(index=symbols))
    how: dict[str, Any] = {"genes": str(tmp_path / "g.h5ad"), **FLOAT}
    # the table is there, so that no model is looked for: the default one would be refused here
    alone = scstore.extract(cells, tmp_path / "w.zarr", preset="genept-w", **how)
    beside = extract(cells, tmp_path / "r.zarr", llama, companions=("genept_w", "genept"), **how)
    expected = vectors.sum(0) / np.linalg.norm(vectors.sum(0))
    for store in (alone, beside):
        np.testing.assert_allclose(store.view("genept_w")[:], [expected] * 2, rtol=1e-5)
    assert alone.view("genept_w").fingerprint == beside.view("genept_w").fingerprint
    assert alone.obs["scstore_n_genes"].tolist() == [200, 200]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_genept_s_by_hand(kind: str, few: anndata.AnnData, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The encoder's mean-pooled vector of the symbols in descending expression, of length one."""
    model = request.getfixturevalue(kind)
    store = extract(few, tmp_path / "s.zarr", model, preset="genept-s", **FLOAT)
    encoder = HuggingFaceEncoder(
        load_backbone(locate_model(str(model)), device=torch.device("cpu"), dtype=torch.float32), max_tokens=128
    )
    encoded = encoder.encode(["B2M CD3E MS4A1", "NKG7 CD3E MS4A1"])
    expected = encoded / np.linalg.norm(encoded, axis=1, keepdims=True)
    assert (store.views, store.default_views) == (("genept_s", "X"), ("genept_s",))
    np.testing.assert_allclose(store.view("genept_s")[[0, 2]], expected, rtol=1e-4, atol=1e-6)
    assert not store.view("genept_s")[1:2].any()
    assert load_gene_table(tmp_path / "s.genes.h5ad").width == 0  # no gene was encoded


def test_what_is_given_wins() -> None:
    settings = complete_options(ExtractOptions(preset="screader", pool=("mean",), panel=Path("p.h5ad")))
    assert (settings.poolings, settings.panel, settings.multiplies) == (("mean",), "p.h5ad", True)
    assert complete_options(ExtractOptions(preset="default")).panel == "auto"
    assert complete_options(ExtractOptions(preset="default", panel="all")).panel_file is None
    with pytest.raises(OptionError, match="preset"):
        scstore.extract("cells.h5ad", "s.zarr", preset="scgpt")  # type: ignore[arg-type]


def test_every_preset_is_of_options_and_of_the_papers_numbers() -> None:
    for name, preset in PRESETS.items():
        assert complete_options(ExtractOptions(preset=name)).preset == name  # type: ignore[arg-type]
        assert preset.source
    assert (DEFAULT_MODEL, DEFAULT_TOP_GENES) == ("meta-llama/Llama-2-13b-hf", 2048)


def test_an_untrained_projector_is_said(few: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    notes = Notes()
    extract(few, tmp_path / "s.zarr", llama, preset="scinterpreter", progress=notes)
    assert any("--recipe papers" in note and "'aligned'" in note for note in notes.said)


def test_a_paper_s_own_view_is_fitted_alone(llama: Path, tmp_path: Path) -> None:
    store = extract(make_cells(), tmp_path / "s.zarr", llama, preset="scinterpreter")
    assert store.default_views == ("readout_last_l3",)
    notes = Notes()
    assert scstore.fit(store, label="cell_type", progress=notes).views_ == ("readout_last_l3",)
    assert sum("preset scinterpreter" in line for line in notes.said) == 1
    assert scstore.fit(store, label="cell_type", views=["readout", "X"]).views_ == ("X", "readout_last_l3")
    found = scstore.evaluate(store, label="cell_type", folds=2, views=["readout", "regression"])
    assert found.regimes[0].comparisons[0].row == "readout_last_l3"


def test_a_preset_with_like_is_refused(few: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    extract(few, tmp_path / "s.zarr", llama)
    with pytest.raises(OptionError, match="preset"):
        scstore.extract(few, tmp_path / "n.zarr", like=tmp_path / "s.zarr", preset="genept-w")


@pytest.mark.parametrize("name", ["genept-w", "genept-s"])
def test_stores_without_a_readout_go_the_whole_way(name: str, llama: Path, tmp_path: Path) -> None:
    ref, new = tmp_path / "ref.zarr", tmp_path / "new.zarr"
    extract(make_cells(60), ref, llama, preset=name, shard_rows=16)
    scstore.extract(make_cells(20, seed=1), new, like=ref)
    scstore.fit(ref, tmp_path / "head", label="cell_type")
    labels = scstore.predict(new, tmp_path / "head")
    assert (labels["label"].astype(str) == scstore.open(new).obs["cell_type"].astype(str)).mean() > 0.7
    assert len(scstore.query(new, ref, k=2).table) == 40
    view = name.replace("-", "_")
    rows = {row.name: row.uses for row in choose_rows(scstore.open(ref), views=None, controls={})}
    assert rows[view] == {"genept_w": "gene texts", "genept_s": "model"}[view]
    found = estimate(make_cells(60), tmp_path / "e.zarr", model=str(llama), preset=name)
    assert (found.flop > 0, found.tokens > 0) == (name == "genept-s",) * 2


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "genept-w", "layers": (1,)},
        {"preset": "genept-w", "projector": "native"},
        {"preset": "genept-w", "top_genes": 5},
        {"preset": "genept-s", "expression_scaling": "multiply"},
        {"companions": ("genept", "genept")},
        {"companions": ("X",)},
        {"preset": "default", "orthologs": "o.tsv"},
    ],
)
def test_options_that_decide_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        complete_options(ExtractOptions(**options))


def test_a_table_without_vectors_serves_sentences_alone(few: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    extract(few, tmp_path / "s.zarr", llama, preset="genept-s")
    with pytest.raises(OptionError, match="genes"):
        extract(few, tmp_path / "r.zarr", llama, genes=str(tmp_path / "s.genes.h5ad"))


def test_the_command(few: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    few.write_h5ad(tmp_path / "c.h5ad")
    words = ["extract", str(tmp_path / "c.h5ad"), "-o", str(tmp_path / "s.zarr"), "--model", str(llama)]
    done = CliRunner().invoke(app, [*words, "--preset", "screader", "--pool", "wmean"])
    assert done.exit_code == 0, done.output
    store = scstore.open(tmp_path / "s.zarr")
    assert store.views[0] == "readout_wmean_l3"
    assert store.view("readout").space["expression_scaling"] == "multiply"
