from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scstore.errors import CellsError, FeatureSpaceError, GenesError, LabelsError, OptionError
from scstore.heads import class_numbers, fusion
from scstore.heads.artifact import split_arrays
from scstore.heads.calibration import fit_fusion
from scstore.heads.fusion import FusedHead
from scstore.heads.hierarchy import label_cells

N, TRAIN = 500, 350
GENES = [f"gene {i}" for i in range(60)]


@pytest.fixture(scope="module")
def views(cells_factory: Any) -> dict[str, Any]:
    """Two views and the expression of the same cells; each tells the classes apart in part."""
    made = cells_factory(N, 24, 4, seed=3, spread=1.5)
    rng = np.random.default_rng(1)
    codes = np.unique(made.y, return_inverse=True)[1]
    rates = rng.gamma(1, 1, 60) * np.exp(rng.normal(0, 0.45, (4, 60)))
    return {
        "a": made.X[:, :16].astype(np.float16),
        "b": made.X[:, 16:],
        "X": sparse.csr_matrix(np.log1p(rng.poisson(rates[codes])).astype(np.float32)),
        "y": made.y,
    }


def part(views: dict[str, Any], rows: Any, *, names: str = "abX", genes: list[str] | None = None) -> dict[str, Any]:
    chosen = {name: views[name][rows] for name in names}
    if genes is not None and "X" in chosen:
        chosen["X"] = chosen["X"][:, [GENES.index(gene) for gene in genes]]
    return chosen


@pytest.fixture(scope="module")
def fitted(views: dict[str, Any]) -> FusedHead:
    train = slice(0, TRAIN)
    return FusedHead(n_genes=20, n_components=8).fit(part(views, train), views["y"][train], gene_names=GENES)


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_every_kind(kind: str, views: dict[str, Any]) -> None:
    params = {"hidden": (16,), "epochs": 60} if kind == "mlp" else None
    head = FusedHead(kind, params=params, n_folds=3)
    head.fit(part(views, slice(0, TRAIN)), views["y"][:TRAIN], gene_names=GENES)
    assert head.views_ == ("X", "a", "b")
    assert list(head.members_) == ["X", "a", "b"]
    test = part(views, slice(TRAIN, N), genes=head.genes_)
    proba = head.predict_proba(test)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    accuracy = (head.predict(test) == views["y"][TRAIN:]).mean()
    assert accuracy > 0.85
    assert head.held_out_["n"] == TRAIN
    assert abs(head.held_out_["accuracy"] - accuracy) < 0.06
    assert head.held_out_["ece"] < 0.08


def test_fusion_is_better_than_its_parts(views: dict[str, Any], fitted: FusedHead) -> None:
    alone = [
        FusedHead().fit(part(views, slice(0, TRAIN), names=name), views["y"][:TRAIN], gene_names=GENES).held_out_["nll"]
        for name in "abX"
    ]
    assert fitted.held_out_["nll"] < min(alone)


def test_late_fusion_is_the_mean_of_calibrated_log_probabilities(views: dict[str, Any], fitted: FusedHead) -> None:
    test = part(views, slice(TRAIN, N), genes=fitted.genes_)
    logs = []
    for name in "ab":
        scaled = fitted.members_[name].head.predict_log_proba(test[name])
        scaled = scaled / fitted.fusion_.temperatures[fitted.views_.index(name)]
        logs.append(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))
    late = FusedHead().fit(part(views, slice(0, TRAIN), names="ab"), views["y"][:TRAIN])
    fused = sum(logs) / 2 / late.fusion_.temperature
    wanted = np.exp(fused) / np.exp(fused).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(late.predict_proba(test), wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_heads_on_one_view_each_give_the_fused_head_to_the_last_bit(kind: str, views: dict[str, Any]) -> None:
    y, train, test = views["y"][:TRAIN], part(views, slice(0, TRAIN)), part(views, slice(TRAIN, N))
    options: dict[str, Any] = {"params": {"epochs": 3} if kind == "mlp" else None, "n_folds": 3, "random_state": 4}
    whole = FusedHead(kind, **options).fit(train, y, gene_names=GENES)
    alone = [FusedHead(kind, **options).fit({name: train[name]}, y, gene_names=GENES) for name in whole.views_]
    held_out = [head.held_out_log_probas_[name] for head, name in zip(alone, whole.views_, strict=True)]
    taken = 0.0 if kind == "linear" else 0.5  # linear heads weigh the classes instead
    fused = fit_fusion(held_out, alone[0].held_out_codes_, shares=whole.fusion_.shares, prior_adjustment=taken)
    assert fused.temperatures == whole.fusion_.temperatures
    assert fused.temperature == whole.fusion_.temperature
    np.testing.assert_array_equal(fused.proba(held_out), whole.held_out_proba_)
    test["X"] = part(views, slice(TRAIN, N), genes=whole.genes_)["X"]
    said = [head.members_[name].log_proba(test[name]) for head, name in zip(alone, whole.views_, strict=True)]
    np.testing.assert_array_equal(fused.proba(said), whole.predict_proba(test))


def test_without_adjustment_a_single_view_is_its_tempered_head(views: dict[str, Any]) -> None:
    head = FusedHead(prior_adjustment=0).fit(part(views, slice(0, TRAIN), names="b"), views["y"][:TRAIN])
    assert head.genes_ is None
    temperature = head.fusion_.temperatures[0] * head.fusion_.temperature
    logits = head.members_["b"].head.predict_log_proba(views["b"]) / temperature
    np.testing.assert_allclose(
        head.predict_proba({"b": views["b"]}), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    )


def test_taking_shares_back_finds_more_of_a_rare_class() -> None:
    rng = np.random.default_rng(0)
    y = np.array(["common"] * 380 + ["rare"] * 20)
    rows = rng.standard_normal((400, 3)).astype(np.float32) + (y == "rare")[:, None]
    new = np.tile([[0.0] * 3, [1.0] * 3], (300, 1)).astype(np.float32) + rng.standard_normal((600, 3)).astype("f4")
    truth = np.tile(["common", "rare"], 300)
    found = []
    for amount in (0.0, 0.5, 1.0):
        head = FusedHead(prior_adjustment=amount).fit({"a": rows}, y)
        assert head.fusion_.shares.tolist() == [0.95, 0.05]
        found.append(((head.predict({"a": new}) == "rare") & (truth == "rare")).sum())
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("amount", [-0.1, 1.1])
def test_an_adjustment_lies_between_nothing_and_all(amount: float) -> None:
    with pytest.raises(OptionError):
        FusedHead(prior_adjustment=amount)


def test_genes_are_named_in_the_order_that_prediction_takes(views: dict[str, Any], fitted: FusedHead) -> None:
    assert fitted.genes_ is not None
    assert len(fitted.genes_) == 20
    assert fitted.widths_ == {"X": 20, "a": 16, "b": 8}
    test = part(views, slice(TRAIN, N), genes=fitted.genes_)
    right = (fitted.predict(test) == views["y"][TRAIN:]).mean()
    shuffled = {**test, "X": test["X"][:, ::-1].tocsr()}
    assert (fitted.predict(shuffled) == views["y"][TRAIN:]).mean() < right


def test_held_out_predictions_leak_nothing(views: dict[str, Any]) -> None:
    """Gene selection on all rows would find noise genes that fit the labels of the held-out ones."""
    rng = np.random.default_rng(0)
    noise = sparse.random(80, 2000, density=0.3, format="csr", rng=rng, dtype=np.float32)
    y = np.array(["a", "b"] * 40)
    head = FusedHead(n_genes=20).fit({"X": noise}, y, gene_names=[str(i) for i in range(2000)])
    assert head.held_out_["accuracy"] < 0.65
    assert (head.predict({"X": noise[:, [int(g) for g in head.genes_ or ()]]}) == y).mean() > 0.9
    assert head.held_out_proba_.shape == (80, 2)


def test_the_same_seed_gives_the_same_head(views: dict[str, Any]) -> None:
    heads = [
        FusedHead("mlp", params={"epochs": 2}, n_folds=2, random_state=seed).fit(
            part(views, slice(0, 100)), views["y"][:100], gene_names=GENES
        )
        for seed in (5, 5, 6)
    ]
    arrays = [split_arrays(head.to_state())[0] for head in heads]
    assert all((arrays[0][name] == arrays[1][name]).all() for name in arrays[0])
    assert split_arrays(heads[0].to_state())[1] == split_arrays(heads[1].to_state())[1]
    assert any((arrays[0][name] != arrays[2][name]).any() for name in arrays[0])


@settings(max_examples=4)
@given(block=st.integers(1, 200))
def test_blocks_of_any_size_join_to_the_same(block: int, views: dict[str, Any], fitted: FusedHead) -> None:
    test = part(views, slice(TRAIN, N), genes=fitted.genes_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "BLOCK", block)
        np.testing.assert_allclose(fitted.predict_proba(test), fitted.judge(test).proba, atol=1e-12)


def test_rows_on_disk_are_read_in_blocks(
    views: dict[str, Any], fitted: FusedHead, disk_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {name: disk_rows(view) for name, view in part(views, slice(0, TRAIN)).items()}
    head = FusedHead(n_genes=20, n_components=8).fit(train, views["y"][:TRAIN], gene_names=GENES)
    test = part(views, slice(TRAIN, N), genes=fitted.genes_)
    lazy = {name: disk_rows(view) for name, view in test.items()}
    monkeypatch.setattr(fusion, "BLOCK", 32)
    np.testing.assert_allclose(head.predict_proba(lazy), fitted.predict_proba(test), atol=1e-6)
    assert all(view.most <= 32 for view in lazy.values())


def test_many_cells_use_one_held_out_part(views: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_numbers, "MANY_ROWS", 300)
    monkeypatch.setattr(class_numbers, "PART_ROWS", 90)
    head = FusedHead().fit(part(views, slice(0, TRAIN), names="ab"), views["y"][:TRAIN])
    assert abs(head.held_out_["n"] - 90) < 4


def test_classes_seen_once_or_twice(views: dict[str, Any]) -> None:
    """RELIABILITY 42: a class seen once."""
    y = views["y"][:60].astype(object)
    y[3], y[10], y[20] = "once", "twice", "twice"
    head = FusedHead().fit(part(views, slice(0, 60)), y, gene_names=GENES)
    assert {"once", "twice"} <= set(head.classes_)
    once, twice = (head.classes_.tolist().index(name) for name in ("once", "twice"))
    assert once not in head.held_out_codes_
    assert (head.held_out_codes_ == twice).sum() == 2
    assert np.isfinite(head.predict_proba(part(views, slice(60, 80), genes=head.genes_))).all()


def test_a_class_for_every_cell(views: dict[str, Any]) -> None:
    """RELIABILITY 42: nothing can be held out, so nothing is calibrated, and it says so."""
    head = FusedHead().fit(part(views, [0, 1, 2]), ["x", "y", "z"], gene_names=GENES)
    assert head.held_out_["n"] == 0
    assert head.fusion_.temperature == 1
    assert head.held_out_proba_.shape == (0, 3)
    assert head.predict(part(views, [0, 1, 2], genes=head.genes_)).tolist() == ["x", "y", "z"]


def test_no_cells_no_answers(views: dict[str, Any], fitted: FusedHead) -> None:
    """RELIABILITY 42: empty query."""
    empty = part(views, slice(0, 0), genes=fitted.genes_)
    assert fitted.predict_proba(empty).shape == (0, 4)
    assert len(label_cells(fitted.predict_proba(empty), fitted.classes_).label) == 0


def test_numbers_and_categories_become_text(views: dict[str, Any]) -> None:
    b = {"b": views["b"][:40]}
    assert FusedHead().fit(b, [10, 9] * 20).classes_.tolist() == ["10", "9"]
    head = FusedHead().fit(b, pd.Categorical(["u", "v"] * 20))
    assert head.predict(b).dtype.kind == "U"


@pytest.mark.parametrize(
    ("y", "named"),
    [
        (["a"] * 40, "one class"),
        (["a", "b"] * 19, "38 labels for 40 cells"),
        (["a", None] * 20, "20 of 40 labels are missing"),
        ([*(["a", "b"] * 19), "a", ""], "1 of 40 labels"),
        ([*(["a", "b"] * 19), "a", float("nan")], "1 of 40 labels"),
    ],
)
def test_labels_that_cannot_be_learned_from(y: list[Any], named: str, views: dict[str, Any]) -> None:
    """RELIABILITY 42: one class; a label column with missing values."""
    with pytest.raises(LabelsError, match=named):
        FusedHead().fit({"b": views["b"][:40]}, np.array(y, dtype=object))
    with pytest.raises(LabelsError):
        FusedHead().fit({"b": views["b"][:1]}, ["a"])


def test_views_that_do_not_fit_at_fit(views: dict[str, Any]) -> None:
    with pytest.raises(CellsError, match="a 40, b 39"):
        FusedHead().fit({"a": views["a"][:40], "b": views["b"][:39]}, views["y"][:40])
    with pytest.raises(CellsError, match="View a"):
        FusedHead().fit({"a": np.zeros(40)}, views["y"][:40])
    with pytest.raises(CellsError, match="View a"):
        FusedHead().fit({"a": np.full((40, 2), "text")}, views["y"][:40])
    with pytest.raises(OptionError):
        FusedHead().fit({}, views["y"][:40])
    for names in (None, GENES[:-1], [*GENES[:-1], GENES[0]]):
        with pytest.raises(GenesError, match="gene_names"):
            FusedHead().fit({"X": views["X"][:40]}, views["y"][:40], gene_names=names)


def test_views_that_do_not_fit_at_prediction(views: dict[str, Any], fitted: FusedHead) -> None:
    """RELIABILITY 35: a view missing or of another width."""
    test = part(views, slice(TRAIN, N), genes=fitted.genes_)
    with pytest.raises(FeatureSpaceError, match=r"Missing view\(s\): X, b"):
        fitted.predict_proba({"a": test["a"]})
    with pytest.raises(FeatureSpaceError, match=r"View a: 3 columns"):
        fitted.predict_proba({**test, "a": test["a"][:, :3]})
    with pytest.raises(FeatureSpaceError):
        fitted.predict_proba({**test, "X": views["X"][TRAIN:]})
    with pytest.raises(CellsError):
        fitted.predict_proba({**test, "a": test["a"][:5]})
    bad = test["b"].copy()
    bad[140, 0] = np.inf
    with pytest.raises(CellsError, match="Row 140"):
        fitted.predict_proba({**test, "b": bad})
    np.testing.assert_array_equal(
        fitted.predict_proba({**test, "unused": np.zeros((1, 1))}), fitted.predict_proba(test)
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "forest"}, "kind='forest'"),
        ({"params": {"k": 3}}, "a linear head has no k"),
        ({"params": {"random_state": 3}}, "random_state"),
        ({"n_folds": 1}, "n_folds=1"),
        ({"n_genes": 0}, "n_genes=0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        FusedHead(**options)


def test_weights_by_label_reach_the_heads(views: dict[str, Any]) -> None:
    heavy = {label: 50.0 if label == "type 3" else 1.0 for label in np.unique(views["y"])}
    b = {"b": views["b"]}
    plain = FusedHead(n_folds=2).fit(b, views["y"])
    weighted = FusedHead(n_folds=2, params={"class_weight": heavy}).fit(b, views["y"])
    assert (weighted.predict(b) == "type 3").sum() > (plain.predict(b) == "type 3").sum()
