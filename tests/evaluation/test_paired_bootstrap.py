from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from scstore.evaluation.paired_bootstrap import Difference, paired_difference


def classifiers(rng: np.random.Generator, truth: np.ndarray, better: float, worse: float) -> tuple[np.ndarray, ...]:
    """Two classifiers that share most of their errors."""
    hard, wrong = rng.random(len(truth)), (truth + 1) % 3
    return tuple(np.where(hard < right, truth, wrong)[None, :] for right in (better, worse))


def test_the_mean_is_the_difference_of_macro_f1_and_runs_are_averaged() -> None:
    rng = np.random.default_rng(0)
    truth, first, second = (rng.integers(0, 4, (3, 150)) for _ in range(3))
    truth[1, :20] = -1  # not scored in that run
    found = paired_difference(truth, first, second, n_resamples=50)
    expected = []
    for t, a, b in zip(truth, first, second, strict=True):
        here = t >= 0
        scores = [f1_score(t[here], p[here], average="macro", labels=np.unique(t[here])) for p in (a, b)]
        expected.append(scores[0] - scores[1])
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.low < found.mean < found.high
    assert (found.n_cells, found.n_groups) == (150, None)


def test_equal_classifiers_differ_by_nothing_and_the_order_turns_the_sign() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 200)
    better, worse = classifiers(rng, truth, 0.9, 0.7)
    same = paired_difference(truth[None], better, better)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    there = paired_difference(truth[None], better, worse)
    back = paired_difference(truth[None], worse, better)
    assert there.low > 0
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_a_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 100)
    pair = classifiers(rng, truth, 0.8, 0.75)
    first, again, other = (paired_difference(truth[None], *pair, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first != other
    assert first.mean == other.mean


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_cover_the_true_difference(grouped: bool) -> None:
    """Of 100 experiments about 95 intervals hold the difference that very many cells have."""
    rng = np.random.default_rng(3)

    def experiment(n_groups: int, size: int) -> tuple[np.ndarray, ...]:
        groups = np.repeat(np.arange(n_groups), size)
        truth = rng.integers(0, 3, len(groups))
        shift = rng.normal(0, 0.15 if grouped else 0, n_groups)[groups]
        hard, wrong = rng.random(len(groups)), (truth + 1) % 3
        first = np.where(hard < 0.8 + shift, truth, wrong)
        second = np.where(hard < 0.7, truth, wrong)
        return truth, first, second, groups

    truth, first, second, _ = experiment(4000, 30)
    real = f1_score(truth, first, average="macro") - f1_score(truth, second, average="macro")
    covered = 0
    for i in range(100):
        truth, first, second, groups = experiment(6, 30)
        clusters = groups if grouped else None
        found = paired_difference(truth[None], first[None], second[None], groups=clusters, n_resamples=400, seed=i)
        covered += found.low <= real <= found.high
    assert 88 <= covered <= 100


def test_groups_are_drawn_whole_and_few_of_them_say_little() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(3), 50)
    truth = rng.integers(0, 3, 150)
    wrong = (truth + 1) % 3
    first = np.where(groups == 0, wrong, truth)  # one group all wrong, the others all right
    second = np.where(rng.random(150) < 0.6, truth, wrong)
    by_cell = paired_difference(truth[None], first[None], second[None])
    by_group = paired_difference(truth[None], first[None], second[None], groups=groups)
    assert (by_group.n_cells, by_group.n_groups) == (150, 3)
    assert by_group.high - by_group.low > 3 * (by_cell.high - by_cell.low)


def test_a_single_group_falls_back_to_cells() -> None:
    truth = np.array([[0, 1, 0, 1, 1]])
    found = paired_difference(truth, truth, 1 - truth, groups=np.zeros(5, dtype=int))
    assert (found.n_cells, found.n_groups, found.mean) == (5, 1, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "n_groups", "expected"),
    [
        (0.1, 0.3, None, "gain"),
        (-0.3, -0.1, 5, "loss"),
        (-0.1, 0.1, 12, "nothing"),
        (0.1, 0.3, 4, "no verdict"),
        (0.1, 0.3, 1, "no verdict"),
    ],
)
def test_fewer_than_five_groups_give_no_verdict(low: float, high: float, n_groups: int | None, expected: str) -> None:
    found = Difference((low + high) / 2, low, high, 100, n_groups)
    assert [word for word in ("gain", "loss", "nothing", "no verdict") if word in found.verdict] == [expected]
    assert Difference(-0.012, -0.028, 0.004, 9, None).words == "−0.012 [−0.028, +0.004]"
    assert Difference(-0.012, -0.028, 0.004, 9, 4).words == "−0.012"


@settings(max_examples=40)
@given(n=st.integers(1, 30), classes=st.integers(1, 4), seed=st.integers(0, 99))
def test_intervals_are_finite_and_within_bounds(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, first, second = (rng.integers(0, classes, (2, n)) for _ in range(3))
    found = paired_difference(truth, first, second, groups=rng.integers(0, 3, n), n_resamples=30)
    assert -1 <= found.low <= found.high <= 1
