from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import roc_auc_score

from scstore.errors import DamagedError, OptionError
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.fusion import FusedHead
from scstore.heads.rejection import SURE, Distances, Rejection, Thresholds

TRAIN = 900


@pytest.fixture(scope="module")
def views(cells_factory: Any) -> dict[str, Any]:
    made = cells_factory(1600, 24, 8, seed=3, spread=1.3)
    return {"a": made.X[:, :16], "b": made.X[:, 16:], "y": made.y}


@pytest.fixture(scope="module")
def fitted(views: dict[str, Any]) -> FusedHead:
    """Trained without the cells of type 1."""
    known = np.flatnonzero(views["y"][:TRAIN] != "type 1")
    return FusedHead(n_folds=3).fit({name: views[name][known] for name in "ab"}, views["y"][known], keep=0.9)


def judge(head: FusedHead, views: dict[str, Any], rows: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    said = head.judge({name: views[name][rows] for name in "ab"})
    assert said.novelty is not None
    return head.classes_[said.proba.argmax(axis=1)], said.proba.max(axis=1), said.novelty


@pytest.mark.parametrize("rule", ["confidence", "distance", "both"])
@pytest.mark.parametrize("keep", [None, 0.98, 0.8])
def test_the_stated_share_of_new_known_cells_is_kept(
    rule: str, keep: float | None, fitted: FusedHead, views: dict[str, Any]
) -> None:
    assert fitted.rejection_ is not None
    new = np.flatnonzero(views["y"] != "type 1")
    new = new[new >= TRAIN]
    label, confidence, novelty = judge(fitted, views, new)
    right = label == views["y"][new]
    limits = fitted.rejection_.thresholds(rule, keep)
    passed = (confidence >= limits.confidence) & (novelty <= limits.novelty)
    wanted = keep or 0.9  # a little more is kept: the heads of the folds had seen fewer cells
    assert passed[right].mean() > wanted - 0.04
    if limits.confidence < SURE:
        assert passed[right].mean() < wanted + 0.09
    else:  # no label that is sure enough is ever taken back for its confidence
        assert passed[right & (confidence >= SURE) & (novelty <= limits.novelty)].all()


def test_cells_of_a_class_never_seen_are_novel(fitted: FusedHead, views: dict[str, Any]) -> None:
    new = np.arange(TRAIN, 1600)
    _, _, novelty = judge(fitted, views, new)
    strange = views["y"][new] == "type 1"
    assert roc_auc_score(strange, novelty) > 0.9
    assert fitted.rejection_ is not None
    assert (novelty[strange] > fitted.rejection_.thresholds("distance").novelty).mean() > 0.7


def test_expression_is_where_novelty_is_measured() -> None:
    rng = np.random.default_rng(0)
    rates = rng.gamma(1, 1, 60) * np.exp(rng.normal(0, 0.8, (4, 60)))
    codes = rng.integers(0, 4, 900)
    X = sparse.csr_matrix(np.log1p(rng.poisson(rates[codes])).astype(np.float32))
    train, noise = np.flatnonzero(codes[:600] != 3), rng.normal(size=(900, 5)).astype(np.float32)
    genes = [f"g{i}" for i in range(60)]
    head = FusedHead(n_folds=3, n_genes=25).fit(
        {"X": X[train], "other": noise[train]}, codes[train], gene_names=genes, keep=0.95
    )
    assert head.rejection_ is not None
    assert head.rejection_.distances.views == ("X",)
    test = {"X": X[600:][:, [genes.index(gene) for gene in head.genes_ or ()]], "other": noise[600:]}
    novelty = head.judge(test).novelty
    assert roc_auc_score(codes[600:] == 3, novelty) > 0.85


def test_no_thresholds_unless_asked_for(views: dict[str, Any]) -> None:
    head = FusedHead(n_folds=2).fit({"b": views["b"][:80]}, views["y"][:80])
    assert head.rejection_ is None
    assert head.judge({"b": views["b"][:5]}).novelty is None
    alone = FusedHead().fit({"b": views["b"][:3]}, ["x", "y", "z"], keep=0.95)
    assert alone.rejection_ is None  # no cell could be held out


def test_a_saved_head_judges_alike(fitted: FusedHead, views: dict[str, Any]) -> None:
    arrays, state = split_arrays(fitted.to_state())
    loaded = FusedHead.from_state(join_arrays(arrays, state))
    for seen, again in zip(judge(fitted, views, slice(0, 50)), judge(loaded, views, slice(0, 50)), strict=True):
        np.testing.assert_array_equal(seen, again)
    assert loaded.rejection_ is not None
    assert loaded.rejection_.thresholds("both") == fitted.rejection_.thresholds("both")


def test_a_cell_is_as_novel_alone_as_among_others(fitted: FusedHead, views: dict[str, Any]) -> None:
    together = judge(fitted, views, slice(0, 60))[2]
    alone = np.concatenate([judge(fitted, views, slice(i, i + 1))[2] for i in range(60)])
    np.testing.assert_allclose(alone, together, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rejection.units", lambda a: -a),
        ("rejection.units", lambda a: a[:-1]),
        ("rejection.confidence", lambda a: a[:-1]),
        ("rejection.novelty", lambda a: a[:0]),
        ("rejection.distances.centres", lambda a: a[:-1]),
        ("rejection.distances.centres", lambda a: a[:, :-1]),
        ("rejection.distances.axes", lambda a: a[:-1]),
    ],
)
def test_damage_is_refused(name: str, change: Any, fitted: FusedHead) -> None:
    """RELIABILITY 38."""
    arrays, state = split_arrays(fitted.to_state())
    with pytest.raises(DamagedError):
        FusedHead.from_state(join_arrays({**arrays, name: change(arrays[name])}, state))
    with pytest.raises(DamagedError):
        FusedHead.from_state(join_arrays(arrays, {**state, "rejection": {**state["rejection"], "keep": 7.0}}))
    with pytest.raises(DamagedError):
        FusedHead.from_state(join_arrays(arrays, {**state, "rejection": None}))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 200),
    keep=st.floats(0.01, 1),
    rule=st.sampled_from(["confidence", "distance", "both"]),
    ties=st.booleans(),
)
def test_at_least_the_stated_share_of_held_out_cells_passes(
    seed: int, n: int, keep: float, rule: str, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    confidence, novelty = rng.uniform(size=n), rng.gamma(2, 0.5, n)
    if ties:
        confidence, novelty = confidence.round(1), novelty.round(0)
    none = Distances((), *(np.empty((0, 0)),) * 3)
    held_out: dict[str, Any] = {"confidence": confidence, "novelty": novelty, "keep": 0.5}
    limits = Rejection(distances=none, units=np.empty(0), **held_out).thresholds(rule, keep)
    passed = (confidence >= limits.confidence) & (novelty <= limits.novelty)
    assert passed.mean() >= keep - 1e-9
    sure = confidence >= SURE
    assert limits.confidence <= SURE
    if rule == "confidence":
        assert passed[sure].all()
    if not ties and rule == "distance":
        assert passed.sum() == n - int(np.floor((1 - keep) * n + 1e-9))


def test_rules_and_fractions_that_do_not_exist(fitted: FusedHead, views: dict[str, Any]) -> None:
    assert fitted.rejection_ is not None
    assert fitted.rejection_.thresholds("none") == Thresholds(0.0, np.inf)
    with pytest.raises(OptionError, match="unassigned='often'"):
        fitted.rejection_.thresholds("often")
    for keep in (0.0, 1.1, -1.0, float("nan")):
        with pytest.raises(OptionError, match="keep="):
            fitted.rejection_.thresholds("both", keep)


def test_novelty_is_the_mahalanobis_distance_from_the_mean_of_the_label(views: dict[str, Any]) -> None:
    head = FusedHead(n_folds=2).fit({"b": views["b"][:300]}, views["y"][:300], keep=0.9)
    assert head.rejection_ is not None
    distances, codes = head.rejection_.distances, np.searchsorted(head.classes_, views["y"][:300])
    placed = (views["b"][:300] - distances.mean) @ distances.axes
    centres = np.array([placed[codes == code].mean(axis=0) for code in range(len(head.classes_))])
    np.testing.assert_allclose(distances.centres, centres, atol=1e-9)
    inside = placed - centres[codes]
    assert np.abs(np.cov(inside.T, bias=True)).max() < 1.001  # whitened, but for the ridge
    measured = distances.measure(head.members_, {"b": views["b"][:300]}, codes)
    np.testing.assert_allclose(measured, np.linalg.norm(inside, axis=1), rtol=1e-6)


@pytest.mark.parametrize("wrong", [["a"], ["b", "nowhere"]])
def test_distances_of_other_views_are_damage(wrong: list[str], fitted: FusedHead) -> None:
    arrays, state = split_arrays(fitted.to_state())
    state["rejection"]["distances"]["views"] = wrong
    with pytest.raises(DamagedError):
        FusedHead.from_state(join_arrays(arrays, state))
