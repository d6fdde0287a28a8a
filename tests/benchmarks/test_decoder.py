"""What a decoder knows of cells: a quick run on made-up donors and a tiny Llama."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import ROOT

import scstore

PAIR = "blood, donor 3pv1 left out"


@pytest.fixture
def words(llama: Path, made_up_donors: Path, tmp_path: Path) -> list[object]:
    """Of a quick run; the gene tables that it would build of NCBI's files are there."""
    folder = tmp_path / "kept" / "blood--donor-3pv1-left-out"
    folder.mkdir(parents=True)
    for name in ("minilm", "random-384"):
        cells = made_up_donors / "pbmc_3donors.h5ad"
        scstore.build_genes(folder / f"genes-{name}.h5ad", cells=cells, encoder="random:16")
    given: list[object] = [made_up_donors, made_up_donors, "--model", llama, "--pairs", PAIR, "--cells", 30]
    return [*given, "--panel-genes", 20, "--layers", 1, 2, "--work", "kept", "--quick"]


def test_a_quick_run_compares_symbols_with_renamed_ones(words: list[object], benchmark: Callable) -> None:
    names = ["symbols", "renamed symbols", "symbols renamed otherwise"]
    words += ["--readings", *names, "--few", 2, "--trained", 0]
    lines, found = benchmark("decoder", *words)
    assert sum(": read " in line for line in lines) == 6  # disjoint genes as well
    assert lines[-1].startswith("goals checked: none")
    found = found["figures"]
    pair = found["pairs"][PAIR]
    assert len(pair["layers, all labels"]) == len(pair["layers, disjoint genes"]) == 3 * 2 * 3
    assert set(found["regimes"]) == {"all labels", "2 labelled cells a label", "disjoint genes"}
    rows = found["regimes"]["all labels"]
    expected = {"default": "nothing", "PCA of all reference cells": "nothing", "symbols: wmean": "model"}
    expected |= {"default, offered the readout": "choice", "default + symbols": "model"}
    expected |= {
        "renamed symbols: last": "control",
        "default + PCA of all reference cells + symbols renamed otherwise": "control",
    }
    assert {row: rows[row]["uses"] for row in expected} == expected
    assert min(rows[row]["macro_f1"] for row in ("default", "default, offered the readout")) > 0.9
    for first, second in (names[:2], names[::2], names[1:]):
        assert f"{first}: last - {second}: last" in found["meaning"]["all labels"]
    assert set(found["symbols_less_renamed"]["disjoint genes"]) == set(found["symbols_less_renamed"]["all labels"])

    lines, again = benchmark("decoder", *words)
    assert not any(": read " in line or line.endswith(": measured") for line in lines)
    assert again["figures"]["pairs"] == found["pairs"]


def test_a_quick_run_trains_projectors(words: list[object], benchmark: Callable) -> None:
    _, found = benchmark("decoder", *words, "--readings", "vectors", "--few", "--trained-layers", 1)
    found = found["figures"]
    rows = found["regimes"]["all labels, trained projector"]
    expected = {
        "trained vectors: last": "model",
        "trained random vectors: wmean": "control",
        "gene texts": "gene texts",
    }
    assert {row: rows[row]["uses"] for row in expected} == expected
    assert "trained vectors: last - trained random vectors: last" in found["meaning"]["all labels, trained projector"]
    disjoint = found["regimes"]["disjoint genes"]
    expected = {"gene texts: grouped": "gene texts", "random gene vectors": "nothing", "vectors: grouped": "model"}
    assert {row: disjoint[row]["uses"] for row in expected} == expected


def test_names_are_dealt_among_the_genes_of_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from decoder_stores import Part

    cells = anndata.AnnData(np.eye(4, dtype=np.float32), var=pd.DataFrame(index=["A", "B", "C", "D"]))
    part = Part(cells, ["A", "B", "D"], tmp_path / "panel.h5ad")
    dealt = part.with_names_dealt(1).cells.var_names
    assert dealt[2] == "C"
    assert sorted(dealt) == ["A", "B", "C", "D"]
    assert all(new != old for new, old in zip(dealt[[0, 1, 3]], ["A", "B", "D"], strict=True))


def test_sides_are_centred_each_on_its_own_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from decoder_rows import Matrix

    rng = np.random.default_rng(0)
    one = Matrix(rng.normal(3, 2, size=(50, 4)), rng.normal(-1, 2, size=(40, 4)))
    for scaled in (True, False):
        apart = one.apart(scaled=scaled)
        np.testing.assert_allclose([apart.train.mean(axis=0), apart.test.mean(axis=0)], 0, atol=1e-12)
        np.testing.assert_allclose(apart.train.std(axis=0) if scaled else apart.train.std(), 1, atol=1e-5)


def test_a_setting_is_chosen_on_training_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from decoder_rows import Known, Matrix, best, regression, settings

    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 20)
    noise, told = (Matrix(rng.normal(size=(60, 50)), rng.normal(size=(10, 50))) for _ in range(2))
    told.train[:20, 0] += 4
    known = Known(np.arange(40), labels)
    one = best(settings({"noise": noise, "told": told}, (0.01, 1.0), known))
    assert one.view == "told"
    assert one.held_out[0] > 0.9
    whole = regression(one.C).fit(told.train[:40], labels).predict_proba(told.test)
    np.testing.assert_allclose(one.said.proba, whole, atol=5e-3)
