from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scstore.errors import DamagedError
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.hierarchy import Hierarchy, label_cells


@settings(max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(0, 20), classes=st.integers(2, 6))
def test_the_most_probable_label_its_confidence_and_margin(seed: int, n: int, classes: int) -> None:
    proba = np.random.default_rng(seed).dirichlet(np.ones(classes), n)
    names = np.array([f"t{i}" for i in range(classes)])
    found = label_cells(proba, names)
    np.testing.assert_array_equal(found.label, names[proba.argmax(axis=1)] if n else [])
    np.testing.assert_array_equal(found.confidence, proba.max(axis=1) if n else [])
    assert ((found.margin >= 0) & (found.margin <= found.confidence)).all()


def test_of_equal_classes_the_first_is_named() -> None:
    found = label_cells(np.array([[0.4, 0.4, 0.2]]), np.array(["a", "b", "c"]))
    assert (found.label[0], found.confidence[0], found.margin[0]) == ("a", 0.4, 0.0)


def test_a_class_that_was_chosen_otherwise() -> None:
    proba = np.array([[0.3, 0.25, 0.45], [0.1, 0.7, 0.2]])
    found = label_cells(proba, np.array(["a", "b", "c"]), chosen=np.array([0, 1]))
    assert list(found.label) == ["a", "b"]
    np.testing.assert_allclose(found.confidence, [0.3, 0.7])
    np.testing.assert_allclose(found.margin, [-0.15, 0.5])


CLASSES = np.array(["CD4", "CD8", "DC", "mono"])
PARENTS = {
    "compartment": {"CD4": "blood", "CD8": "blood", "DC": "blood", "mono": "blood"},
    "lineage": {"CD4": "T", "CD8": "T", "DC": "myeloid", "mono": "myeloid"},
}


def make(proba: Any = None, truth: Any = (), parents: Any = PARENTS) -> Hierarchy:
    codes = np.array(truth, dtype=np.int64)
    return Hierarchy.fit("cell_type", parents, classes=CLASSES, proba=np.reshape(proba or [], (-1, 4)), truth=codes)


def test_a_coarse_label_is_as_probable_as_its_fine_ones_together() -> None:
    sums = make().levels[1].sums(np.array([[0.3, 0.2, 0.15, 0.35]]))
    assert list(make().levels[1].labels) == ["T", "myeloid"]
    np.testing.assert_allclose(sums, [[0.5, 0.5]])


def test_the_fine_label_follows_the_coarse_one() -> None:
    proba = np.array([[0.3, 0.25, 0.05, 0.4], [0.1, 0.1, 0.2, 0.6]])
    assert CLASSES[make().choose(proba)].tolist() == ["CD4", "mono"]


@given(arrays(np.float64, (5, 4), elements=st.floats(0, 1)))
def test_every_level_agrees(proba: Any) -> None:
    hierarchy = make(parents={"lineage": PARENTS["lineage"]})
    chosen = hierarchy.choose(proba)
    sums = hierarchy.levels[0].sums(proba)
    mine = sums[np.arange(5), hierarchy.levels[0].parents[chosen]]
    np.testing.assert_array_equal(mine, sums.max(axis=1))
    siblings = hierarchy.levels[0].parents[None, :] == hierarchy.levels[0].parents[chosen][:, None]
    np.testing.assert_array_equal(proba[np.arange(5), chosen], np.where(siblings, proba, -1).max(axis=1))


def test_no_cells() -> None:
    assert make().choose(np.empty((0, 4))).shape == (0,)


def test_thresholds_are_read_off_cells_that_got_the_right_coarse_label() -> None:
    # the second is labelled wrongly within its lineage, rightly as T; the third in another lineage
    held_out = [[0.8, 0.1, 0.1, 0], [0.6, 0.3, 0.1, 0], [0.7, 0.2, 0.1, 0], [0.5, 0.25, 0.25, 0]]
    level = make(held_out, [0, 1, 3, 1]).levels[1]
    np.testing.assert_allclose(level.confidence, [0.75, 0.9, 0.9])
    assert level.threshold(1.0) == 0.75
    assert level.threshold(0.5) == pytest.approx(0.9)
    assert make().levels[1].threshold(0.95) == np.inf


def test_saved_and_loaded() -> None:
    first = make([[0.8, 0.1, 0.1, 0]], [0])
    arrays_, state = split_arrays(first.to_state())
    second = Hierarchy.from_state(join_arrays(arrays_, state), n_classes=4)
    assert second.column == "cell_type"
    for one, other in zip(first.levels, second.levels, strict=True):
        assert one.column == other.column
        for name in ("labels", "parents", "confidence"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_damaged_hierarchy_is_refused() -> None:
    saved, state = split_arrays(make([[0.8, 0.1, 0.1, 0], [0.6, 0.1, 0.3, 0]], [0, 0]).to_state())
    crossed = {**state["levels"][0], "labels": ["a", "b"]}
    for arrays_, state_ in (
        (saved, state | {"levels": []}),
        (saved, state | {"levels": [crossed, state["levels"][1]]}),
        (saved | {"levels.0.parents": np.array([0, 1, 0, 1])}, state | {"levels": [crossed, state["levels"][1]]}),
        (saved | {"levels.1.parents": np.array([0, 1, 2, 1])}, state),
        (saved | {"levels.1.parents": np.array([0, -1, 1, 1])}, state),
        (saved | {"levels.1.confidence": saved["levels.1.confidence"][::-1]}, state),
        ({}, state),
    ):
        with pytest.raises(DamagedError):
            Hierarchy.from_state(join_arrays(arrays_, state_), n_classes=4)
