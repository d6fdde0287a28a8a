from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.heads.summary import summarise


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), n=st.integers(0, 20), classes=st.integers(2, 6))
def test_summaries(seed: int, n: int, classes: int) -> None:
    proba = np.random.default_rng(seed).dirichlet(np.ones(classes), n)
    names = np.array([f"t{i}" for i in range(classes)])
    label, confidence, margin = summarise(proba, names)
    np.testing.assert_array_equal(label, names[proba.argmax(axis=1)] if n else [])
    np.testing.assert_array_equal(confidence, proba.max(axis=1) if n else [])
    assert ((margin >= 0) & (margin <= confidence)).all()


def test_of_equal_classes_the_first_is_named() -> None:
    label, confidence, margin = summarise(np.array([[0.4, 0.4, 0.2]]), np.array(["a", "b", "c"]))
    assert (label[0], confidence[0], margin[0]) == ("a", 0.4, 0.0)


def test_a_class_that_was_chosen_otherwise() -> None:
    proba = np.array([[0.3, 0.25, 0.45], [0.1, 0.7, 0.2]])
    label, confidence, margin = summarise(proba, np.array(["a", "b", "c"]), chosen=np.array([0, 1]))
    assert list(label) == ["a", "b"]
    np.testing.assert_allclose(confidence, [0.3, 0.7])
    np.testing.assert_allclose(margin, [-0.15, 0.5])
