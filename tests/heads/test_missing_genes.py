"""Genes that were not measured: estimated, and labelled as surely as held-out cells that lacked as much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from scstore.errors import DamagedError, LabelsError
from scstore.heads.artifact import join_arrays, load_head, save_head, split_arrays
from scstore.heads.calibration import Fusion
from scstore.heads.fusion import FusedHead
from scstore.heads.linear import ExpressionHead
from scstore.heads.missing_genes import FIELDS, SHARES, HeldOutCase, MissingGenes, measured_cases, share_known

N, GENES, CLASSES = 480, 160, 5
NAMES = [f"g{i}" for i in range(GENES)]


def structured(n: int, seed: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Cells whose genes vary together in programs, which differ between the types."""
    shared = np.random.default_rng(0)
    programs, owners = shared.gamma(0.3, 1.5, (CLASSES + 4, GENES)), shared.uniform(0.2, 1, (CLASSES, CLASSES + 4))
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CLASSES, n)
    use = owners[codes] * rng.gamma(4, 0.25, (n, CLASSES + 4)) + 2.5 * np.eye(CLASSES, CLASSES + 4)[codes]
    counts = rng.poisson(use @ programs).astype(np.float32)
    return sparse.csr_matrix(np.log1p(counts)), np.array([f"type {code}" for code in codes])


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    X, y = structured(N, 1)
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(N, 6)).astype(np.float32)
    told = (np.eye(CLASSES)[np.unique(y, return_inverse=True)[1]] + rng.normal(0, 0.4, (N, CLASSES))).astype(np.float32)
    return {"X": X, "noise": noise, "told": told, "y": y}


@pytest.fixture(scope="module")
def fitted(cells: dict[str, Any]) -> FusedHead:
    return FusedHead(n_folds=3).fit(
        {name: cells[name] for name in ("X", "told")}, cells["y"], gene_names=NAMES, keep=0.95
    )


def new_cells(head: FusedHead, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    X, y = structured(n, 5)
    return X.toarray()[:, [NAMES.index(gene) for gene in head.genes_ or ()]], y


def half(head: FusedHead) -> np.ndarray:
    return np.random.default_rng(3).random(len(head.genes_ or ())) < 0.5


def test_missing_genes_estimated_label_far_better_than_zeros(fitted: FusedHead) -> None:
    values, y = new_cells(fitted)
    for share, gain in ((0.5, 0.05), (0.2, 0.3)):
        measured = np.asarray(np.random.default_rng(3).random(values.shape[1]) < share)
        head, estimate, case = fitted.for_genes(measured)
        assert estimate is not None
        assert case is not None
        zeros = np.where(measured, values, 0).astype(np.float32)
        right = (head.predict({"X": estimate.over(zeros)}) == y).mean()
        assert right > (head.predict({"X": zeros}) == y).mean() + gain
        assert abs(right - case.accuracy) < 0.08  # what held-out cells foretold
        proba = head.predict_proba({"X": estimate.over(zeros)})
        assert abs(proba.max(axis=1).mean() - right) < 0.08  # and it knows how sure it can be


def test_where_all_genes_are_measured_it_is_the_head_itself(fitted: FusedHead) -> None:
    head, estimate, case = fitted.for_genes(np.ones(len(fitted.genes_ or ()), dtype=bool))
    assert head is fitted
    assert estimate is None
    assert case is None


def test_without_some_genes_it_reads_expression_alone_with_the_case_s_temperature(fitted: FusedHead) -> None:
    head, _, case = fitted.for_genes(half(fitted))
    assert fitted.views_ == ("X", "told")
    assert head.views_ == ("X",)
    assert case is not None
    assert fitted.missing_ is not None
    assert head.rejection_ is not None
    assert head.fusion_.temperature == case.temperature
    assert head.fusion_.temperatures == fitted.fusion_.temperatures[:1]
    row = np.flatnonzero(fitted.missing_.known <= case.known)[-1]
    assert case.accuracy == fitted.missing_.accuracy[row]
    np.testing.assert_array_equal(head.rejection_.confidence, fitted.missing_.confidence[row])
    np.testing.assert_array_equal(head.rejection_.novelty, fitted.missing_.novelty[row])
    assert fitted.views_ == ("X", "told")  # the head itself is as it was


def test_without_thresholds_there_is_an_estimate_and_no_case(cells: dict[str, Any]) -> None:
    head = FusedHead(n_folds=2).fit({"X": cells["X"]}, cells["y"], gene_names=NAMES)
    found, estimate, case = head.for_genes(half(head))
    assert found is head
    assert estimate is not None
    assert case is None


def test_masks_go_from_all_genes_to_one(fitted: FusedHead) -> None:
    mean = np.array([3.0, 1, 2, 0, 5, 4, 7, 6, 9, 8])
    cases = list(measured_cases(mean, np.random.default_rng(0)))
    assert len(cases) == 1 + 2 * len(SHARES)
    assert cases[0].all()
    assert [int(case.sum()) for case in cases[-2:]] == [1, 1]
    lowest = cases[2 + 2 * SHARES.index(0.5)]
    assert lowest.tolist() == (mean >= 5).tolist()
    reducer = fitted.members_["X"].reducer
    assert reducer is not None
    importance = fitted.gene_importance()
    assert (importance >= 0).all()
    measured = half(fitted)
    more = measured | (np.arange(len(measured)) < 40)
    few, many = (share_known(reducer.estimate(which), importance) for which in (measured, more))
    assert importance[measured].sum() / importance.sum() < few < many < 1
    assert share_known(reducer.estimate(np.ones_like(measured)), importance) == 1


def case(known: float, right: int, *, n: int = 40) -> HeldOutCase:
    """Held-out cells of which ``right`` get their label, class 0, surely."""
    log_proba = np.log(np.where(np.arange(n)[:, None] < right, [[0.9, 0.1]], [[0.2, 0.8]]))
    return HeldOutCase(known, log_proba, np.arange(1.0, n + 1))


def test_cases_are_in_order_and_no_better_than_where_more_is_known() -> None:
    fusion = Fusion(np.array([0.5, 0.5]), 0.5, (1.0,), 1.0)
    truth, units = np.zeros(40, dtype=np.int64), np.array([2.0, 1.0])
    seen = MissingGenes.fit([case(1.0, 36), case(0.2, 20), case(0.5, 38), case(0.3, 0)], truth, fusion, units=units)
    assert seen is not None
    assert seen.known.tolist() == [0.2, 0.5, 1.0]  # what is never right says nothing of thresholds
    assert seen.accuracy.tolist() == [0.5, 0.9, 0.9]
    assert seen.temperature[0] > seen.temperature[1]
    assert seen.novelty[0].max() == 20 / 2
    for known, wanted in ((0.0, 0.2), (0.2, 0.2), (0.49, 0.2), (0.5, 0.5), (0.99, 0.5), (1.0, 1.0)):
        at = seen.at(known)
        assert at.temperature == seen.temperature[seen.known.tolist().index(wanted)]
        assert at.known == known
    assert MissingGenes.fit([case(0.5, 0)], truth, fusion, units=units) is None


def test_a_saved_head_copes_alike(fitted: FusedHead, tmp_path: Path) -> None:
    save_head(fitted, tmp_path / "head", record={})
    loaded = load_head(tmp_path / "head")
    assert isinstance(loaded, FusedHead)
    assert loaded.missing_ is not None
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(loaded.missing_, name), getattr(fitted.missing_, name))
    values, _ = new_cells(fitted, 30)
    found = []
    for head in (fitted, loaded):
        able, estimate, _ = head.for_genes(half(fitted))
        assert estimate is not None
        found.append(able.judge({"X": estimate.over(values)}))
    np.testing.assert_array_equal(found[0].proba, found[1].proba)
    np.testing.assert_array_equal(found[0].novelty, found[1].novelty)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("known", lambda a: a[::-1].copy()),
        ("accuracy", lambda a: a[:-1]),
        ("accuracy", lambda a: a + 1),
        ("temperature", lambda a: -a),
        ("confidence", lambda a: a[:, :-1]),
        ("novelty", lambda a: a[:-1]),
        ("confidence", lambda a: a[0]),
    ],
)
def test_damaged_cases_are_refused(name: str, change: Any, fitted: FusedHead) -> None:
    arrays, state = split_arrays(fitted.to_state())
    key = f"missing.{name}"
    with pytest.raises(DamagedError):
        FusedHead.from_state(join_arrays({**arrays, key: change(arrays[key])}, state))


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_only_knn_keeps_cells(kind: str, cells: dict[str, Any]) -> None:
    params: dict[str, Any] | None = {"hidden": (4,), "epochs": 2} if kind == "mlp" else None
    head = FusedHead(kind, params=params or {}, n_folds=2).fit(
        {name: cells[name] for name in ("X", "told")}, cells["y"], gene_names=NAMES, keep=0.95
    )
    arrays, _ = split_arrays(head.to_state())
    of_cells = [name for name, array in arrays.items() if array.ndim > 1 and N in array.shape]
    assert bool(of_cells) == (kind == "knn")
    if kind != "knn":  # one number a held-out cell is how sure or how far it was, not what it was
        rows = [name for name, array in arrays.items() if array.ndim == 1 and len(array) > 200]
        assert set(rows) <= {"rejection.confidence", "rejection.novelty"}


def test_a_head_of_thirty_types_and_500_genes_is_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(360) % 30
    X = sparse.csr_matrix(np.log1p(rng.poisson(rng.gamma(0.3, 2, (30, 600))[codes])).astype(np.float32))
    names = [f"g{i}" for i in range(600)]
    head = FusedHead(n_folds=2).fit({"X": X}, [f"t{code:02}" for code in codes], gene_names=names, keep=0.95)
    assert len(head.genes_ or ()) == 500
    save_head(head, tmp_path / "head", record={})
    assert sum(path.stat().st_size for path in (tmp_path / "head").iterdir()) < 2_000_000


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_views_stay_only_if_they_help(kind: str, cells: dict[str, Any]) -> None:
    """Beside a few genes a view that tells helps; noise never does."""
    weak = cells["X"][:, :6]
    head = FusedHead(kind, n_folds=3).fit(
        {"X": weak, "noise": cells["noise"], "told": cells["told"]},
        cells["y"], gene_names=NAMES[:6], keep=0.95, optional=["noise", "told"],
    )  # fmt: skip
    assert head.views_ == ("X", "told")
    assert set(head.held_out_log_probas_) == {"X", "told"}
    bound = FusedHead(kind, n_folds=3).fit({"X": weak, "noise": cells["noise"]}, cells["y"], gene_names=NAMES[:6])
    assert bound.views_ == ("X", "noise")  # not optional


def test_distances_are_of_the_views_that_stay(cells: dict[str, Any]) -> None:
    views = {"told": cells["told"], "noise": cells["noise"]}
    head = FusedHead(n_folds=3).fit(views, cells["y"], keep=0.95, optional=["noise"])
    alone = FusedHead(n_folds=3).fit({"told": cells["told"]}, cells["y"], keep=0.95)
    assert head.views_ == ("told",)
    assert head.rejection_ is not None
    assert alone.rejection_ is not None
    np.testing.assert_allclose(head.rejection_.units, alone.rejection_.units)


def test_groups_are_held_out_whole(cells: dict[str, Any]) -> None:
    """Each group has a shift of its own that a view tells: random cells look easy, other groups are not."""
    rng = np.random.default_rng(0)
    codes = np.unique(cells["y"], return_inverse=True)[1]
    groups = np.arange(N) % 4
    shifted = rng.normal(0, 0.1, (N, CLASSES * 4)) + 2 * np.eye(CLASSES * 4)[codes * 4 + groups]
    view = {"v": np.hstack([shifted, rng.normal(size=(N, 2))]).astype(np.float32)}
    cell_wise = FusedHead(n_folds=4).fit(view, cells["y"])
    by_group = FusedHead(n_folds=4).fit(view, cells["y"], groups=[f"donor {g}" for g in groups])
    assert (cell_wise.held_out_["accuracy"] or 0) > 0.95
    assert (by_group.held_out_["accuracy"] or 1) < 0.6
    assert by_group.held_out_["n"] == N
    assert by_group.fusion_.temperature * by_group.fusion_.temperatures[0] > cell_wise.fusion_.temperatures[0]


def test_a_class_of_one_group_is_learned_and_not_counted(cells: dict[str, Any]) -> None:
    groups = np.arange(N) % 2
    only = cells["y"] == "type 0"
    groups[only] = 1
    head = FusedHead(n_folds=5).fit({"told": cells["told"]}, cells["y"], keep=0.95, groups=groups)
    assert "type 0" in head.classes_
    assert 0 not in head.held_out_codes_
    assert head.held_out_["n"] == (~only).sum()
    assert (head.predict({"told": cells["told"][only]}) == "type 0").mean() > 0.8
    assert head.rejection_ is not None
    assert np.isfinite(head.rejection_.units).all()


@pytest.mark.parametrize("groups", [["a"] * N, ["a"] * (N - 1), [None] + ["a", "b"] * (N // 2 - 1) + ["b"]])
def test_groups_that_cannot_be_held_out_are_refused(groups: list[Any], cells: dict[str, Any]) -> None:
    with pytest.raises(LabelsError):
        FusedHead().fit({"told": cells["told"]}, cells["y"], groups=groups)


def test_few_labels_learn_genes_from_all_cells(cells: dict[str, Any]) -> None:
    few = np.concatenate([np.flatnonzero(cells["y"] == f"type {code}")[:3] for code in range(CLASSES)])
    options: Any = {"gene_names": NAMES, "keep": 0.95}
    head = FusedHead(n_folds=3).fit({"X": cells["X"][few]}, cells["y"][few], background=cells["X"], **options)
    alone = FusedHead(n_folds=3).fit({"X": cells["X"][few]}, cells["y"][few], **options)
    reducer, other = head.members_["X"].reducer, alone.members_["X"].reducer
    assert reducer is not None
    assert other is not None
    np.testing.assert_allclose(reducer.mean, cells["X"].toarray().mean(axis=0)[reducer.selected], rtol=1e-5)
    assert len(other.axes) < len(reducer.axes) == 20
    expression = head.members_["X"].head
    assert isinstance(expression, ExpressionHead)
    assert expression.share_ == pytest.approx(1 - 0.1**0.5)
    assert (head.predict({"X": cells["X"][:, reducer.selected]}) == cells["y"]).mean() > 0.99
    measured = half(head)
    values, y = new_cells(head)
    found, estimate, _ = head.for_genes(measured)
    assert estimate is not None
    assert (found.predict({"X": estimate.over(values)}) == y).mean() > 0.6


def test_labels_that_are_numbers_are_weighted_by_their_names(cells: dict[str, Any]) -> None:
    """Clusters are often called 0, 1, 2."""
    codes = np.unique(cells["y"], return_inverse=True)[1]
    head = FusedHead(n_folds=2).fit({"told": cells["told"]}, codes)
    named = FusedHead(n_folds=2).fit({"told": cells["told"]}, cells["y"])
    np.testing.assert_array_equal(head.predict_proba({"told": cells["told"]}), named.predict_proba(cells))
