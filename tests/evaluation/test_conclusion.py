"""What is said first: the sentence itself, for every kind of finding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from scstore.evaluation.conclusion import Difference, RowComparison, conclude, paired_difference
from scstore.evaluation.design import EvaluationRow
from scstore.evaluation.runs import Scored

ROWS = (EvaluationRow("default", ("X", "readout"), "model"), EvaluationRow("regression", (), "nothing"))


def said(
    with_it: float, without: float, *, unit: str = "donor", rows: Any = ROWS, kept: Any = None, **difference: Any
) -> str:
    """The conclusion about two rows of these scores."""
    scores = pd.DataFrame({"row": ["default", "regression"], "macro_f1": [with_it, without]})
    scored = Scored(rows, scores, pd.DataFrame(), {}, (), kept or {})
    mean = with_it - without
    ends = {"mean": mean, "low": mean - 0.02, "high": mean + 0.02}
    found = Difference(**{**ends, "n_cells": 1190, "n_groups": 8, **difference})
    return conclude(scored, [RowComparison("default", "regression", "no model", found)], unit=unit)[0]


NOTHING = "On your cells the language model makes no difference: F1 .96 with it, .96 without it"
FEW = "too few to tell whether the language model helps: F1 .96 with it, .96 without it."


@pytest.mark.parametrize(
    ("scores", "difference", "expected"),
    [
        ((0.96, 0.961), {}, f"{NOTHING}; eight donors."),
        ((0.96, 0.96), {"n_groups": None}, f"{NOTHING}; 1,190 cells."),
        ((0.96, 0.96), {"n_groups": 12, "unit": "batch"}, f"{NOTHING}; 12 batches."),
        ((0.96, 0.96), {"unit": "donor_id"}, f"{NOTHING}; eight groups (donor_id)."),
        ((0.93, 0.91), {"low": -0.01}, NOTHING.replace("the language model makes no difference", "no difference can be "
         "shown for the language model").replace(".96", ".93", 1).replace(".96", ".91") + "; eight donors."),
        ((0.96, 0.91), {}, "On your cells the language model helps: F1 .96 with it, .91 without it; eight donors."),
        ((0.964, 0.96), {"low": 0.001},
         "On your cells the language model helps: F1 .964 with it, .960 without it; eight donors."),
        ((0.9, 0.96), {}, NOTHING.replace("makes no difference", "does not help").replace(".96", ".90", 1)
         + "; eight donors."),
        ((0.96, 0.96), {"n_groups": 3}, f"Three donors are {FEW}"),
        ((0.96, 0.96), {"n_groups": 1}, f"One donor is {FEW}"),
    ],
)  # fmt: skip
def test_the_sentence(scores: tuple[float, float], difference: dict[str, Any], expected: str) -> None:
    assert said(*scores, **difference) == expected


def test_a_default_head_that_never_kept_the_model_says_so() -> None:
    rows = (
        replace(ROWS[0], views=("X", "genept", "readout_wmean_l4"), optional=("genept", "readout_wmean_l4")),
        ROWS[1],
    )
    never = {"default": {"X": 5, "genept": 2, "readout_wmean_l4": 0}}
    told = said(0.73, 0.72, rows=rows, kept=never, n_groups=3)
    assert "leaves it out in every fold" in told
    assert "with it" not in told
    assert "F1 .73, against .72 of" in told
    assert told.endswith("three donors.")
    assert "F1 .96 with it" in said(0.96, 0.96, rows=rows, kept={"default": {"X": 5, "readout_wmean_l4": 1}})
    texts = (replace(rows[0], views=("X", "genept"), optional=("genept",), uses="gene texts"), ROWS[1])
    assert "leaves it out" in said(0.73, 0.72, rows=texts, kept={"default": {"X": 5, "genept": 0}})
    assert "with it" in said(0.73, 0.72, rows=texts, kept={"default": {"X": 5, "genept": 1}})


def test_a_row_that_has_seen_the_labels_concludes_nothing() -> None:
    seen = (replace(ROWS[0], seen=True), ROWS[1])
    assert "F1" not in said(0.99, 0.9, rows=seen)
    assert "no row with the model" in said(0.99, 0.9, rows=(replace(ROWS[0], uses="nothing"), ROWS[1]))


@pytest.mark.parametrize("low", [0.01, -0.01])
def test_a_gain_is_compared_with_the_control_of_its_row(low: float) -> None:
    """Such as renamed symbols: a gain that it has as well is not due to what the model knows."""
    control = EvaluationRow("renamed: default", ("X", "readout"), "control", control="renamed")
    scores = pd.DataFrame({"row": ["default", "regression", control.name], "macro_f1": [0.96, 0.91, 0.9]})
    scored = Scored((*ROWS, control), scores, pd.DataFrame(), {}, (), {})

    def found(low: float) -> Difference:
        return Difference(mean=0.05, low=low, high=0.07, n_cells=1190, n_groups=8)

    compared = [RowComparison("default", "regression", "no model", found(0.02))]
    compared.append(RowComparison("default", control.name, "control", found(low)))
    said, every = conclude(scored, compared, unit="donor")
    assert "the control renamed (F1 .90)" in said
    assert ("not the reason" in said) == (low < 0)
    assert any(f"{control.words}" in line for line in every)


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
