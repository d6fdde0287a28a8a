"""Taking genes in turn."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.panels.gene_rankings import rank_scores, take_in_turn

NAN = float("nan")


def test_ranks_follow_the_scores_and_ties_the_names() -> None:
    ranks = rank_scores(np.array([1.0, 3, NAN, 3, 0]), ["a", "z", "b", "y", "c"])
    np.testing.assert_array_equal(ranks, [3, 2, NAN, 1, 4])


def test_rankings_take_turns() -> None:
    names = ["a", "b", "c", "d", "e"]
    ranks = np.array([[1, 2, 3, 4, 5], [5, 4, NAN, 2, 1]])
    # a and e are first somewhere, with equal means; then b and d are second, with equal means; c is third
    assert [names[i] for i in take_in_turn(ranks, names)] == ["a", "e", "b", "d", "c"]
    assert [names[i] for i in take_in_turn(np.array([[1, 2, 3], [2, 1, NAN]]), names[:3])] == ["a", "b", "c"]
    assert [names[i] for i in take_in_turn(np.array([[1, 2], [3, 1]]), names[:2])] == ["b", "a"]
    assert take_in_turn(np.array([[NAN, 1, NAN]]), names[:3]).tolist() == [1]


SCORES = st.lists(st.one_of(st.just(NAN), st.integers(-3, 3).map(float)), min_size=12, max_size=12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scores=st.lists(SCORES, min_size=1, max_size=5), n=st.integers(1, 12), data=st.data())
def test_each_ranking_gets_its_share_whatever_their_order(
    scores: list[list[float]], n: int, data: st.DataObject
) -> None:
    names = [f"g{i:02}" for i in range(12)]
    ranks = np.array([rank_scores(np.array(own), names) for own in scores])
    order = take_in_turn(ranks, names)
    chosen = set(order[:n].tolist())
    for own in ranks:
        assert set(np.flatnonzero(own <= n // len(ranks)).tolist()) <= chosen
    assert set(order.tolist()) == set(np.flatnonzero(~np.isnan(ranks).all(axis=0)).tolist())
    rows = data.draw(st.permutations(range(len(ranks))))
    genes = data.draw(st.permutations(range(12)))
    again = take_in_turn(ranks[rows][:, genes], [names[i] for i in genes])
    assert [names[genes[i]] for i in again] == [names[i] for i in order]
