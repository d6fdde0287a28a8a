from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scstore.errors import GenesError
from scstore.genes.descriptions import describe_by_symbol
from scstore.genes.encoders import RandomEncoder
from scstore.genes.merging import merge_tables
from scstore.genes.table import GeneTable


def table(*symbols: str, organism: str = "human", encoder: dict[str, object] | None = None) -> GeneTable:
    obs, template = describe_by_symbol(symbols, organism=organism)
    random = RandomEncoder(4)
    return GeneTable(obs, random.encode(symbols), encoder or random.identity, template)


def test_rows_stand_below_each_other_with_their_organism() -> None:
    human, mouse = table("CD3D", "C3", "A", "A"), table("Cd3d", "C3", organism="mouse")
    merged = merge_tables([human, mouse], ["h", "m"])
    assert list(merged.obs.index) == ["CD3D", "C3", "A", "A-1", "Cd3d", "C3-1"]
    assert list(merged.obs["organism"]) == ["human"] * 4 + ["mouse"] * 2
    np.testing.assert_array_equal(merged.vectors, np.concatenate([human.vectors, mouse.vectors]))
    assert (merged.encoder, merged.template) == (human.encoder, "{symbol}")


def test_the_same_gene_twice_is_refused() -> None:
    with pytest.raises(GenesError, match=r"h and g both hold 2 genes of human: C3, LYZ\."):
        merge_tables([table("C3", "LYZ"), table("MM", organism="mouse"), table("LYZ", "C3")], ["h", "m", "g"])


def test_vectors_of_other_making_are_refused_with_what_differs() -> None:
    other = GeneTable(
        table("B").obs, np.zeros((1, 4), dtype=np.float32), {"kind": "random", "width": 4, "seed": 1}, "x"
    )
    with pytest.raises(GenesError) as caught:
        merge_tables([table("A"), other], ["h", "m"])
    assert "encoder.seed: 0 → 1" in str(caught.value)
    assert 'template: "{symbol}" → "x"' in str(caught.value)
    with pytest.raises(GenesError, match="width: 4 → 5"):
        merge_tables([table("A"), replace(table("B"), vectors=np.zeros((1, 5), dtype=np.float32))], ["h", "m"])


def test_the_folder_of_a_model_does_not_matter_where_its_weights_are_the_same() -> None:
    first, second = ({"kind": "huggingface", "model": name, "digest": "d"} for name in ("./a", "/b"))
    merged = merge_tables([table("A", encoder=first), table("B", encoder=second)], ["h", "m"])
    assert merged.encoder == first
