"""Which gene of one input is which gene of another."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.genes.matching import gene_names
from scstore.panels.joined_genes import join_genes

CD3D, CD3E, LYZ, NEW = "ENSG00000167286", "ENSG00000198851", "ENSG00000090382", "ENSG00000999999"


def names(*genes: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(genes, columns=["name", "symbol", "ensembl_id"])


def test_genes_meet_by_ensembl_id_first_and_by_symbol_else() -> None:
    by_id = names((CD3D, "CD3D", CD3D), (CD3E, "T3E", CD3E), (LYZ, "LYZ", LYZ))
    by_symbol = names(("LYZ", "LYZ", ""), ("CD3E", "CD3E", CD3E), ("MS4A1", "MS4A1", ""))
    joined = join_genes([by_id, by_symbol])
    assert list(joined.obs["symbol"].iloc[joined.rows[1]]) == ["LYZ", "CD3E", "MS4A1"]
    assert list(joined.obs["ensembl_id"].iloc[joined.rows[0]]) == [CD3D, CD3E, LYZ]
    assert joined.n_inputs[joined.rows[0]].tolist() == [1, 2, 2]
    assert len(joined) == 4


def test_an_id_decides_against_a_symbol() -> None:
    """The second input's gene has the id of one gene and the symbol of another: it is the one of the id."""
    first = names(("A", "A", CD3D), ("B", "B", CD3E))
    second = names(("B", "B", CD3D))
    joined = join_genes([first, second])
    assert joined.rows[1][0] == joined.rows[0][0]
    assert len(joined) == 2


def test_an_id_that_was_replaced_still_meets_by_symbol() -> None:
    joined = join_genes([names(("A", "A", CD3D)), names(("A", "A", NEW))])
    assert len(joined) == 1


def test_two_genes_of_one_input_stay_two() -> None:
    twins = names(("A", "A", CD3D), ("A-1", "A", CD3E))
    joined = join_genes([twins, names(("A", "A", ""))])
    assert list(joined.obs.index) == ["A", "A (ENSG00000167286)", "A-1"]
    assert joined.rows[1].tolist() == [0]


def test_values_are_spread_to_the_joined_genes() -> None:
    joined = join_genes([names(("B", "B", ""), ("A", "A", "")), names(("C", "C", ""))])
    np.testing.assert_array_equal(joined.spread(np.array([2.0, 1.0]), 0), [1, 2, np.nan])
    np.testing.assert_array_equal(joined.spread(np.array([3.0]), 1), [np.nan, np.nan, 3])


def test_repetitions_are_left_to_the_first_gene_of_their_name() -> None:
    var = pd.DataFrame(index=["A", "B", "A"])
    own, groups = gene_names(var, sum_duplicates=True)
    joined = join_genes([own], [groups])
    assert joined.rows[0].tolist() == [0, 1, -1]


GENES = st.lists(
    st.tuples(st.sampled_from("ABCDEFG"), st.sampled_from(["", CD3D, CD3E, LYZ, NEW])),
    unique_by=(lambda gene: gene[0], lambda gene: gene[1] or gene[0]),
    min_size=1,
)


@settings(max_examples=60)
@given(inputs=st.lists(GENES, min_size=1, max_size=4), data=st.data())
def test_the_order_of_inputs_and_genes_does_not_matter(
    inputs: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    frames = [names(*((symbol, symbol, ensembl) for symbol, ensembl in genes)) for genes in inputs]
    order = data.draw(st.permutations(range(len(frames))))
    shuffled = [frames[i].iloc[data.draw(st.permutations(range(len(frames[i]))))] for i in order]
    one, other = join_genes(frames), join_genes([frame.reset_index(drop=True) for frame in shuffled])
    pd.testing.assert_frame_equal(one.obs, other.obs)
    for place, i in enumerate(order):
        back = dict(zip(shuffled[place]["name"], other.rows[place], strict=True))
        assert [back[name] for name in frames[i]["name"]] == one.rows[i].tolist()
    assert one.obs.index.is_unique
    for rows in one.rows:
        assert len(set(rows.tolist())) == len(rows)
