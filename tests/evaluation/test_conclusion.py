"""What is said first: the sentence itself, for every kind of finding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from scstore.evaluation.conclusion import RowComparison, conclude
from scstore.evaluation.paired_bootstrap import Difference
from scstore.evaluation.runs import Scored
from scstore.evaluation.table_rows import EvaluationRow

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
