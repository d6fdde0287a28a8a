from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix, csr_matrix
from support import Notes, extract, make_cells

import scstore
from scstore.errors import (
    FeatureSpaceError,
    GenesError,
    NumericsError,
    OptionError,
    OutputError,
)
from scstore.extraction.extract import prefetch
from scstore.model.readout import Readout
from scstore.tokens.sequences import Batch

VIEWS = ("readout_wmean_l3", "readout_last_l3", "genept", "genept_random", "X")


@pytest.fixture(scope="module")
def plain(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> scstore.Store:
    """A store of the 60 cells in memory, with the default options."""
    return extract(make_cells(), tmp_path_factory.mktemp("plain") / "s.zarr", llama)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.abs(a - b) / np.abs(b).max(axis=1, keepdims=True)).max())


def test_a_finished_store_opens_with_anndata_alone(bert: Path, cells_file: Path, tmp_path: Path) -> None:
    extract(cells_file, tmp_path / "s.zarr", bert, shard_rows=16)
    script = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import anndata, numpy\n"
        "adata = anndata.read_zarr(sys.argv[1])\n"
        "assert 'scstore' not in sys.modules\n"
        "assert all(numpy.isfinite(view).all() for view in adata.obsm.values())\n"
        "print(adata.n_obs, *sorted(adata.obsm), *adata.obs.columns)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "s.zarr"], capture_output=True, text=True, cwd="/")
    views = "genept genept_random readout_last_l3 readout_wmean_l3".split()
    columns = "cell_type donor scstore_n_genes scstore_status".split()
    assert done.stdout.split() == ["60", *views, *columns], done.stderr


def test_views_are_what_the_parts_give(cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    store = extract(cells, tmp_path / "s.zarr", llama, store_dtype="float32")
    assert store.views == VIEWS
    counts = cells.X.toarray()
    expected = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(store.view("X")[:].toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(store.view("genept")[:], axis=1), 1, rtol=1e-5)
    assert store.obs["scstore_n_genes"].tolist() == (counts > 0).sum(1).tolist()


def test_a_cell_alone_in_a_batch_and_in_another_order(cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    """The same vector: max relative difference ≤ 1e-5 in float32 on the CPU."""
    whole = extract(cells, tmp_path / "whole.zarr", llama, store_dtype="float32")
    turned = extract(
        cells[::-1].copy(), tmp_path / "turned.zarr", llama, store_dtype="float32", shard_rows=7, tokens_per_batch=150
    )
    alone = extract(cells[13].copy(), tmp_path / "alone.zarr", llama, store_dtype="float32")
    for view in VIEWS[:-1]:
        everyone = whole.view(view)[:]
        assert relative(turned.view(view)[:][::-1], everyone) <= 1e-5
        assert relative(alone.view(view)[:], everyone[13:14]) <= 1e-5


def test_every_form_of_the_same_cells_gives_the_same_store(
    cells: anndata.AnnData, plain: scstore.Store, llama: Path, tmp_path: Path
) -> None:
    """RELIABILITY 12: CSR, CSC, dense, int and float dtypes, in memory, .h5ad, Zarr."""
    forms: dict[str, Any] = {}
    for name, matrix in {
        "csc.h5ad": csc_matrix(cells.X),
        "dense.h5ad": cells.X.toarray(),
        "int.h5ad": csr_matrix(cells.X).astype(np.int64),
        "double.zarr": csr_matrix(cells.X).astype(np.float64),
    }.items():
        other = anndata.AnnData(matrix, obs=cells.obs, var=cells.var)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata announces its next Zarr default
            (other.write_zarr if name.endswith("zarr") else other.write_h5ad)(tmp_path / name)
        forms[name] = tmp_path / name
    for name, form in forms.items():
        store = extract(form, tmp_path / f"{name}.store.zarr", llama)
        for view in VIEWS[:-1]:
            np.testing.assert_array_equal(store.view(view)[:], plain.view(view)[:])
        np.testing.assert_array_equal(store.view("X")[:].toarray(), plain.view("X")[:].toarray())


def test_an_empty_cell_is_kept_and_marked(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 10."""
    notes = Notes()
    store = extract(make_cells(20, empty=4), tmp_path / "s.zarr", llama, progress=notes)
    assert np.flatnonzero(store.empty).tolist() == [4]
    assert not store.view("readout_wmean_l3")[4:5].any()
    assert 4 not in store.usable_rows()
    assert any("1 cells express none" in note for note in notes.said)


def test_one_cell(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 11: one cell."""
    assert extract(make_cells(1), tmp_path / "s.zarr", llama).view("readout_last_l3")[:].shape == (1, 32)


@pytest.mark.parametrize("pool", [("mean",), ("last", "mean", "wmean")])
def test_views_are_named_by_pooling_and_layer(cells: anndata.AnnData, llama: Path, tmp_path: Path, pool: Any) -> None:
    store = extract(cells, tmp_path / "s.zarr", llama, layers=(3, 1), pool=pool)
    readouts = [name for name in store.views if name.startswith("readout")]
    assert readouts == [f"readout_{name}_l{layer}" for layer in (3, 1) for name in pool]
    assert store.default_view == readouts[0]


def test_genes_and_instruction_beyond_the_context_are_refused_with_the_largest_number(
    cells: anndata.AnnData, llama: Path, tmp_path: Path
) -> None:
    """RELIABILITY 17."""
    with pytest.raises(OptionError, match="At most (?P<n>[0-9]+) genes fit") as caught:
        extract(cells, tmp_path / "s.zarr", llama, top_genes=1000)
    largest = int(str(caught.value).split("At most ")[1].split()[0])
    extract(cells, tmp_path / "s.zarr", llama, top_genes=largest)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": (4,)},
        {"layers": (0,)},
        {"layers": (1, 1)},
        {"pool": ("first",)},
        {"pool": (), "companions": ()},
        {"projector": "magic"},
        {"store_dtype": "int8"},
        {"top_genes": 0},
        {"expression": "tpm"},
    ],
)
def test_options_that_make_no_sense_are_refused(
    cells: anndata.AnnData, llama: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError):
        extract(cells, tmp_path / "s.zarr", llama, **options)
    assert not (tmp_path / "s.zarr").exists()


WITHOUT_TORCH = """
import sys
sys.modules |= {"torch": None, "transformers": None}
import scstore
store = scstore.extract(sys.argv[1], sys.argv[2], preset="genept-w", genes=sys.argv[3])
print(*store.views, store.is_complete)
"""


def test_genept_w_needs_no_torch(cells_file: Path, tmp_path: Path) -> None:
    scstore.build_genes(tmp_path / "genes.h5ad", cells=cells_file, encoder="random:8")
    words = [cells_file, tmp_path / "w.zarr", tmp_path / "genes.h5ad"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, timeout=1800)
    assert done.stdout.split() == ["genept_w", "X", "True"], done.stderr


def test_without_a_gpu_the_default_model_says_what_it_takes(
    cells: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(OptionError, match="minilm"):
        scstore.extract(cells, tmp_path / "s.zarr")


def test_like_takes_the_whole_feature_space(llama: Path, tmp_path: Path) -> None:
    scstore.panel(make_cells(), tmp_path / "panel.h5ad", label="cell_type", n_genes=12)
    options = {"panel": str(tmp_path / "panel.h5ad"), "layers": (2,), "pool": ("mean",)}
    first = extract(make_cells(), tmp_path / "a.zarr", llama, **options)
    fewer = make_cells(30, seed=5)[:, :30].copy()
    second = scstore.extract(fewer, tmp_path / "b.zarr", like=tmp_path / "a.zarr")
    for view in first.views:
        assert first.view(view).fingerprint == second.view(view).fingerprint
    with pytest.raises(OptionError, match="layers"):
        scstore.extract(fewer, tmp_path / "c.zarr", like=tmp_path / "a.zarr", layers=(1,))
    (tmp_path / "a.genes.h5ad").unlink()
    with pytest.raises(FeatureSpaceError, match=r"a\.genes\.h5ad"):
        scstore.extract(fewer, tmp_path / "c.zarr", like=tmp_path / "a.zarr")


@pytest.mark.parametrize("what", ["genes", "panel", "model"])
def test_like_notices_what_was_replaced(llama: Path, tmp_path: Path, what: str) -> None:
    """RELIABILITY 54: the digests of the record are compared with what lies there."""
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    scstore.panel(make_cells(), tmp_path / "panel.h5ad", label="cell_type", n_genes=12)
    extract(make_cells(), tmp_path / "a.zarr", model, panel=str(tmp_path / "panel.h5ad"))
    if what == "genes":
        extract(make_cells(n_genes=30), tmp_path / "other" / "a.zarr", model)
        shutil.copy(tmp_path / "other" / "a.genes.h5ad", tmp_path / "a.genes.h5ad")
    elif what == "panel":
        scstore.panel(make_cells(), tmp_path / "panel.h5ad", label="donor", n_genes=12, overwrite=True)
    else:
        config = (model / "tokenizer_config.json").read_text()
        (model / "tokenizer_config.json").write_text(config + " ")
    with pytest.raises(FeatureSpaceError):
        scstore.extract(make_cells(5), tmp_path / "b.zarr", like=tmp_path / "a.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_stores_with_dots_in_their_names_share_nothing(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 54."""
    first = extract(make_cells(), tmp_path / "pbmc.v1", llama)
    extract(make_cells(n_genes=30), tmp_path / "pbmc.v2", llama)
    new = scstore.extract(make_cells(5), tmp_path / "new.zarr", like=tmp_path / "pbmc.v1")
    assert new.view("readout").fingerprint == first.view("readout").fingerprint
    with pytest.raises(OutputError, match=r"pbmc\.v1\.genes\.h5ad"):
        extract(make_cells(n_genes=30), tmp_path / "pbmc.v1.zarr", llama)


def test_columns_of_an_earlier_run_are_left_out(llama: Path, tmp_path: Path) -> None:
    """An annotated file as cells again: its marks and labels are not this run's."""
    cells, notes = make_cells(), Notes()
    cells.obs["scstore_seen_by_panel"] = True
    cells.obs["scstore_label"] = "type 0"
    cells.obs["scstore_status"] = "empty"
    store = extract(cells, tmp_path / "s.zarr", llama, progress=notes)
    assert list(store.obs) == ["cell_type", "donor", "scstore_n_genes", "scstore_status"]
    assert not store.empty.any()
    assert sum("scstore_label" in said for said in notes.said) == 1


def test_store_and_gene_table_can_be_moved_together(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    extract(make_cells(), tmp_path / "old" / "a.zarr", llama)
    shutil.move(tmp_path / "old", tmp_path / "new")
    scstore.extract(make_cells(5), tmp_path / "b.zarr", like=tmp_path / "new" / "a.zarr")


def test_a_panel_admits_its_genes_alone(llama: Path, tmp_path: Path) -> None:
    cells = make_cells()
    fitted = scstore.panel(cells, tmp_path / "panel.h5ad", label="cell_type", n_genes=6)
    store = extract(cells, tmp_path / "s.zarr", llama, panel=str(tmp_path / "panel.h5ad"))
    counts = cells[:, list(fitted.obs.index)].X.toarray()
    assert store.obs["scstore_n_genes"].tolist() == (counts > 0).sum(1).tolist()
    assert store.view("X").shape == (60, 40)


def test_mouse_cells_against_a_human_table_are_refused_before_any_model(tmp_path: Path, cells: anndata.AnnData) -> None:
    """RELIABILITY 9: the model named here does not even exist."""
    human, mouse = cells.copy(), cells.copy()
    names = ["CD3D", "CD3E", "LYZ", "MS4A1", "NKG7"] * 8
    human.var_names = [f"{name}{i}" for i, name in enumerate(names)]
    mouse.var_names = [name.capitalize() for name in human.var_names]
    human.write_h5ad(tmp_path / "human.h5ad")
    scstore.build_genes(tmp_path / "genes.h5ad", cells=tmp_path / "human.h5ad", encoder="random:8", organism="human")
    with pytest.raises(GenesError, match="(?i)mouse"):
        extract(mouse, tmp_path / "s.zarr", tmp_path / "no model", genes=str(tmp_path / "genes.h5ad"))


def test_expression_is_not_kept_when_not_wanted(
    cells: anndata.AnnData, plain: scstore.Store, llama: Path, tmp_path: Path
) -> None:
    without = extract(cells, tmp_path / "b.zarr", llama, keep_expression=False)
    assert without.views == VIEWS[:-1]
    assert not (tmp_path / "b.zarr" / "_scstore" / "expression").exists()
    np.testing.assert_array_equal(without.view("genept")[:], plain.view("genept")[:])
    assert anndata.read_zarr(tmp_path / "b.zarr").X is None


def test_an_output_that_is_no_store_is_kept(cells_file: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 43."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("1")
    with pytest.raises(OutputError):
        extract(cells_file, tmp_path / "precious", llama)
    assert (tmp_path / "precious" / "data").read_text() == "1"


def test_overwrite_makes_a_new_store(cells_file: Path, llama: Path, tmp_path: Path) -> None:
    extract(cells_file, tmp_path / "s.zarr", llama)
    store = extract(cells_file, tmp_path / "s.zarr", llama, layers=(1,), overwrite=True)
    assert "readout_wmean_l1" in store.views


def test_hidden_states_that_overflow_stop_the_run(cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 18: the shard is not committed; the message names the cell and the cure."""
    from safetensors.torch import load_file, save_file

    model = Path(shutil.copytree(llama, tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] *= 1e6
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError):
        extract(cells, tmp_path / "s.zarr", model)
    assert not scstore.open(tmp_path / "s.zarr").committed.any()
    store = extract(cells, tmp_path / "s32.zarr", model, store_dtype="float32")
    assert np.isfinite(store.view("readout_last_l3")[:]).all()


def test_ids_with_anything_in_them_are_data(cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 15."""
    odd = ["a/b", "../../etc", "line\nbreak", "ünïcödé 🧬", "x" * 10_000]
    cells = cells[: len(odd)].copy()
    cells.obs_names = odd
    store = extract(cells, tmp_path / "s.zarr", llama)
    assert list(store.obs.index) == odd
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.genes.h5ad", "s.zarr"]


def test_a_batch_too_large_for_the_memory_is_run_in_halves_and_said(
    cells: anndata.AnnData, plain: scstore.Store, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 20: results unchanged; said in the log."""
    real = Readout.run

    def small(self: Readout, batch: Batch) -> torch.Tensor:
        if len(batch.cells) > 9:
            raise torch.OutOfMemoryError
        return real(self, batch)

    monkeypatch.setattr(Readout, "run", small)
    notes = Notes()
    halved = extract(cells, tmp_path / "b.zarr", llama, progress=notes)
    assert any("run in halves" in note for note in notes.said)
    for view in VIEWS[:-1]:
        np.testing.assert_allclose(halved.view(view)[:], plain.view(view)[:], rtol=2e-3, atol=2e-3)


def test_a_model_spread_by_accelerate_gives_the_same_store(
    cells: anndata.AnnData, plain: scstore.Store, llama: Path, tmp_path: Path
) -> None:
    spread = extract(cells, tmp_path / "b.zarr", llama, spread=True)
    for view in VIEWS[:-1]:
        np.testing.assert_array_equal(spread.view(view)[:], plain.view(view)[:])


def test_the_trained_llama_writes_a_store(shared: Path, cells: anndata.AnnData, tmp_path: Path) -> None:
    store = extract(cells, tmp_path / "s.zarr", shared / "llama-stories260k")
    assert store.view(store.default_view).shape == (60, 64)
    assert store.default_view == "readout_wmean_l5"


def test_prefetched_items_keep_their_order_and_are_made_in_another_thread() -> None:
    threads: list[str] = []

    def items() -> Iterator[int]:
        for i in range(20):
            threads.append(threading.current_thread().name)
            yield i

    with ThreadPoolExecutor(1, "reader") as executor:
        assert list(prefetch(items(), executor, depth=3)) == list(range(20))
    assert {name.rsplit("_", 1)[0] for name in threads} == {"reader"}


def test_no_more_than_depth_items_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    with ThreadPoolExecutor(1) as executor:
        given = prefetch(items(), executor, depth=2)
        assert next(given) == 0
        executor.submit(lambda: None).result()  # everything submitted so far is done
        assert len(made) <= 3
        given.close()  # type: ignore[attr-defined]


def test_an_error_while_reading_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        msg = "the disk"
        raise OSError(msg)

    seen = []
    with ThreadPoolExecutor(1) as executor, pytest.raises(OSError, match="the disk"):
        for item in prefetch(items(), executor, depth=2):
            seen.append(item)  # noqa: PERF402
    assert seen == [1]
