from __future__ import annotations

import pytest

from scstore.genes.species import common_name, guess_organism


@pytest.mark.parametrize(
    ("names", "organism"),
    [
        (["CD3D", "HLA-DRA", "C1orf112", "AL627309.1", "RP11-206L10.2", "MT-ND1"], "human"),
        (["Cd3d", "H2-Ab1", "mt-Nd1", "1700001A01Rik", "Gm1992", "Ms4a1"], "mouse"),
        (["ENSG00000167286.8", "ENSG00000156738"], "human"),
        (["ENSMUSG00000032094", "ENSMUSG00000024673.3", "CD3D"], "mouse"),
        (["ENSRNOG00000014297", "ENSDARG00000000001"], None),
        (["ENSRNOG00000014297", "ENSRNOG00000014298", "Cd3d"], None),
        (["C3", "F2", "T"], None),
        (["0", "1", "17"], None),
        ([], None),
        (["CD3D", "Cd3d"], None),
    ],
)
def test_guess_organism(names, organism):
    """RELIABILITY 9: ids decide, else capitals; without a majority nobody is guessed."""
    assert guess_organism(iter(names)) == organism


def test_common_name():
    assert [common_name(name) for name in ("Homo sapiens", "mus_musculus", "10090", "Human", "Danio rerio")] == [
        "human",
        "mouse",
        "mouse",
        "human",
        "danio rerio",
    ]
