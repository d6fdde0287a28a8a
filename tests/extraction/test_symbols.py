"""``scstore extract --input symbols``: genes as the model's own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from support import extract, make_cells
from transformers import AutoModel

import scstore
from scstore.errors import FeatureSpaceError, OptionError
from scstore.extraction.estimate import estimate
from scstore.extraction.options import ExtractOptions
from scstore.model.loading import load_tokenizer, locate_model

NAMES = (
    "CD3D IL7R LTB CD3E CD8A CD8B NKG7 GNLY KLRD1 MS4A1 CD79A CD79B LYZ S100A8 S100A9 FCGR3A FCER1A CST3 PPBP PF4 "
    "HLA-DRA HLA-A MT-CO1 RPL13 TYROBP LST1 GZMB PRF1 CCR7 SELL TCL1A IGHM JCHAIN MZB1 CD14 CD4 CD68 ITGAM VWF B2M"
).split()
SYMBOLS: dict[str, Any] = {"input": "symbols", "store_dtype": "float32"}
POOL = ("last", "mean", "wmean")


def named(n_cells: int = 12, *, seed: int = 0, **options: Any) -> anndata.AnnData:
    cells = make_cells(n_cells, seed=seed, **options)
    cells.var_names = NAMES
    return cells


def by_hand(name: str, symbols: list[str], values: np.ndarray, layers: tuple[int, ...]) -> dict[str, np.ndarray]:
    """One cell as one text, through transformers with all hidden states kept."""
    files = locate_model(name)
    tokenizer, model = load_tokenizer(files), AutoModel.from_pretrained(files.folder, dtype=torch.float32).eval()
    text = f"Genes: {', '.join(symbols)}, The cell type is"
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before = tokenizer.bos_token_id if files.is_decoder else tokenizer.cls_token_id
    ids = [before, *read["input_ids"], *([] if files.is_decoder else [tokenizer.sep_token_id])]
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    places, at = [], len("Genes: ")
    for symbol in symbols:
        at += len(symbol)
        places.append(1 + max(i for i, (start, _) in enumerate(read["offset_mapping"]) if start < at))
        at += len(", ")
    found = {}
    for layer in layers:
        hidden = states[layer][0].numpy()
        found[f"readout_last_l{layer}"] = hidden[-1 if files.is_decoder else 0]
        found[f"readout_mean_l{layer}"] = hidden[places].mean(0)
        found[f"readout_wmean_l{layer}"] = values @ hidden[places] / values.sum()
    return found


def ranked(store: scstore.Store, row: int) -> tuple[list[str], np.ndarray]:
    """Symbols and values of a cell in descending expression, as many as were read."""
    values = store.view("X")[row : row + 1].toarray()[0]
    genes = np.argsort(-values, kind="stable")[: store.obs["scstore_n_genes"].iloc[row]]
    return [str(store.var.index[gene]) for gene in genes], values[genes]


@pytest.mark.parametrize(
    ("model", "layers"), [("llama", (1, 3)), ("bert", (1, 3)), ("stories", (2, 5)), ("smollm2", (1, 3))]
)
def test_it_is_a_loop_over_transformers(
    model: str, layers: tuple[int, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = str(request.getfixturevalue("shared") / "llama-stories260k" if model == "stories" else "")
    name = name or str(request.getfixturevalue(model))
    store = scstore.extract(named(), tmp_path / "s.zarr", model=name, layers=layers, pool=POOL, **SYMBOLS)
    assert store.obs["scstore_n_genes"].nunique() > 3  # so that batches have padding
    for row in (0, 5, 11):
        for view, expected in by_hand(name, *ranked(store, row), layers).items():
            got = store.view(view)[[row]][0]
            assert np.abs(got - expected).max() <= 2e-4 * np.abs(expected).max(), view
    assert store.views[-1] == "X"
    assert not any(view.startswith("genept") for view in store.views)


def test_as_many_genes_enter_as_the_context_holds(llama: Path, tmp_path: Path) -> None:
    store = extract(named(), tmp_path / "s.zarr", llama, **SYMBOLS)
    tokenizer = load_tokenizer(locate_model(str(llama)))

    def length(symbols: list[str]) -> int:
        text = f"Genes: {', '.join(symbols)}, The cell type is"
        return 1 + len(tokenizer(text, add_special_tokens=False)["input_ids"])

    for row in range(len(store.obs)):
        values = store.view("X")[row : row + 1].toarray()[0]
        every = [str(store.var.index[gene]) for gene in np.argsort(-values, kind="stable") if values[gene] > 0]
        n_read = store.obs["scstore_n_genes"].iloc[row]
        assert length(every[:n_read]) <= 128
        assert n_read == len(every) or length(every[: n_read + 1]) > 128
    assert (store.obs["scstore_n_genes"] < (store.view("X")[:] > 0).sum(axis=1).A1).any()
    with pytest.raises(OptionError, match="At most"):
        extract(named(), tmp_path / "t.zarr", llama, top_genes=39, **SYMBOLS)


def test_a_cell_alone_in_a_batch_and_in_parts(llama: Path, tmp_path: Path) -> None:
    cells = named(40, empty=2)
    whole = extract(cells, tmp_path / "s.zarr", llama, pool=POOL, **SYMBOLS)
    alone = extract(cells[7:8].copy(), tmp_path / "a.zarr", llama, pool=POOL, **SYMBOLS)
    parts = tmp_path / "p.zarr"
    for index in (1, 0):
        extract(cells, parts, llama, pool=POOL, shard_rows=16, shard=f"{index}/2", **SYMBOLS)
    (parts / "_scstore" / "shards" / "000001.json").unlink()
    resumed = extract(cells, parts, llama, pool=POOL, shard_rows=16, **SYMBOLS)
    for view in (view for view in whole.views if view != "X"):
        rows = whole.view(view)[:]
        np.testing.assert_allclose(alone.view(view)[:][0], rows[7], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(resumed.view(view)[:], rows, rtol=1e-4, atol=1e-5)
        assert not rows[2].any()
        assert alone.view(view).fingerprint == whole.view(view).fingerprint
    with pytest.raises(FeatureSpaceError):
        extract(cells, parts, llama, pool=POOL, shard_rows=16, instruction="This is a", **SYMBOLS)


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("panel") / "p.h5ad"
    scstore.panel(named(60), file, label_free=True, n_genes=12)
    return str(file)


def test_with_a_panel_the_space_is_the_same_for_other_files(llama: Path, panel: str, tmp_path: Path) -> None:
    """Whatever their other genes and the order of these, by which ties would be broken."""
    cells = named(20)
    other = cells[:, NAMES[::-1]].copy()
    in_panel = set(anndata.read_h5ad(panel).obs["symbol"])
    other.var_names = [name if name in in_panel or i % 7 else f"OTHER{i}" for i, name in enumerate(NAMES[::-1])]
    stores = [
        extract(one, tmp_path / f"{i}.zarr", llama, panel=panel, pool=POOL, **SYMBOLS)
        for i, one in enumerate((cells, other))
    ]
    for view in (f"readout_{pool}_l3" for pool in POOL):
        assert stores[0].view(view).fingerprint == stores[1].view(view).fingerprint
        np.testing.assert_allclose(stores[0].view(view)[:], stores[1].view(view)[:], rtol=1e-4, atol=1e-5)
    assert stores[0].view("X").shape == stores[1].view("X").shape == (20, 40)
    scstore.panel(named(60, seed=1), tmp_path / "q.h5ad", label_free=True, n_genes=11)
    another = extract(cells, tmp_path / "q.zarr", llama, panel=str(tmp_path / "q.h5ad"), pool=POOL, **SYMBOLS)
    assert another.view("readout").space["input"] != stores[0].view("readout").space["input"]


def test_renamed_gives_every_gene_another_ones_symbol(llama: Path, panel: str, tmp_path: Path) -> None:
    """The same as cells whose genes have the dealt symbols; the same deal for all cells with one panel."""
    cells = named(20)
    real = extract(cells, tmp_path / "s.zarr", llama, panel=panel, pool=POOL, **SYMBOLS)
    store = scstore.extract(cells, tmp_path / "r.zarr", like=real, control="renamed", store_dtype="float32")
    in_panel = list(anndata.read_h5ad(panel).obs["symbol"])
    found = {}
    for gene in in_panel:  # a cell with this gene alone
        one = cells[:1].copy()
        one.X = np.array([[float(name == gene) for name in NAMES]], dtype=np.float32)
        for control in (None, "renamed"):
            out = tmp_path / f"{gene}-{control}.zarr"
            made = extract(one, out, llama, panel=panel, pool=("mean",), control=control, **SYMBOLS)
            found[gene, control] = made.view("readout")[:][0]
    distances = np.array([[np.abs(found[a, "renamed"] - found[b, None]).max() for b in in_panel] for a in in_panel])
    dealt = distances.argmin(axis=1)
    assert (distances.min(axis=1) < 1e-5).all()
    assert sorted(dealt) == list(range(len(in_panel)))
    assert (dealt != np.arange(len(in_panel))).all()
    for view in (f"readout_{pool}_l3" for pool in POOL):
        assert store.view(view).space["control"] == {"kind": "renamed", "seed": 0}
        assert np.abs(store.view(view)[:] - real.view(view)[:]).max() > 0.01


def test_mouse_cells_by_their_orthologs_or_by_their_own_symbols(llama: Path, panel: str, tmp_path: Path) -> None:
    mouse = named(20)
    mouse.var_names = [name.capitalize() for name in NAMES]
    (tmp_path / "o.csv").write_text("human,mouse\n" + "".join(f"{name},{name.capitalize()}\n" for name in NAMES))
    orthologs = str(tmp_path / "o.csv")
    human = extract(named(20), tmp_path / "h.zarr", llama, panel=panel, **SYMBOLS)
    read = extract(mouse, tmp_path / "m.zarr", llama, panel=panel, orthologs=orthologs, **SYMBOLS)
    np.testing.assert_allclose(read.view("readout")[:], human.view("readout")[:], rtol=1e-4, atol=1e-5)
    assert read.view("readout").fingerprint == human.view("readout").fingerprint
    assert read.record is not None
    assert read.record["input"]["orthologs"]["to"] == "human"
    own = extract(mouse, tmp_path / "own.zarr", llama, **SYMBOLS)
    assert own.view("readout").space["input"] != human.view("readout").space["input"]


@pytest.mark.parametrize(
    "options",
    [
        {"projector": "random"},
        {"seed": 1},
        {"expression_scaling": "multiply"},
        {"preset": "scinterpreter"},
        {"pool": ()},
    ],
)
def test_what_acts_on_vectors_alone_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ExtractOptions(**{"input": "symbols", "companions": ("genept_w",), **options})


def test_companions_take_a_gene_table(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text("symbol\n" + "\n".join(NAMES) + "\n")
    scstore.build_genes(tmp_path / "g.h5ad", text=tmp_path / "g.tsv", encoder="random:8")
    store = extract(named(), tmp_path / "s.zarr", llama, genes=str(tmp_path / "g.h5ad"), **SYMBOLS)
    assert {"genept", "genept_random"} <= set(store.views)
    plain = extract(named(), tmp_path / "p.zarr", llama, **SYMBOLS)
    np.testing.assert_allclose(store.view("readout")[:], plain.view("readout")[:], rtol=1e-4, atol=1e-5)


def test_a_dry_run_counts_tokens(smollm2: str, tmp_path: Path) -> None:
    cells = named(60)
    found = estimate(cells, tmp_path / "s.zarr", model=smollm2, input="symbols", layers=(2,))
    tokenizer = load_tokenizer(locate_model(smollm2))
    n_tokens = [len(tokenizer(f" {name},", add_special_tokens=False)["input_ids"]) for name in NAMES]
    expected = int(((cells.X > 0) @ np.array(n_tokens)).sum()) + 60 * 8
    assert found.tokens == pytest.approx(expected, rel=0.25)
    assert found.gpu == "cpu"


def test_a_head_on_symbols_labels_new_cells_through_the_model(llama: Path, panel: str, tmp_path: Path) -> None:
    store = extract(named(120), tmp_path / "ref.zarr", llama, panel=panel, **SYMBOLS)
    renamed = scstore.extract(named(120), tmp_path / "renamed.zarr", like=store, control="renamed")
    found = scstore.evaluate(store, label="cell_type", folds=3, group="donor", controls={"renamed": renamed})
    rows = [row.name for row in found.regimes[0].scored.rows]
    assert {"readout_wmean_l3", "renamed: readout_wmean_l3", "renamed: readout_last_l3"} <= set(rows)
    compared = [(c.row, c.baseline) for c in found.regimes[0].comparisons if c.why == "control"]
    assert ("readout_last_l3", "renamed: readout_last_l3") in compared
    head = scstore.fit(store, label="cell_type", views=["readout", "X"], output=tmp_path / "head")
    new = named(30, seed=1)[:, NAMES[:30]].copy()
    labelled = scstore.annotate(new, tmp_path / "head", umap=False)
    again = scstore.extract(new, tmp_path / "new.zarr", like=tmp_path / "head")
    assert again.view("readout").fingerprint == store.view("readout").fingerprint
    predicted = scstore.predict(again, tmp_path / "head")
    assert list(labelled.obs["scstore_label"]) == list(predicted["label"])
    with pytest.raises(FeatureSpaceError):
        scstore.predict(renamed, head)
