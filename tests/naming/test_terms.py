"""Labels as terms of the Cell Ontology; lists of types."""

from __future__ import annotations

from pathlib import Path

import pytest

from scstore.errors import OptionError
from scstore.naming.terms import find_terms, load_texts, read_types

MEANT = {
    "T_CD4": "CL:0000624",
    "CD8+ T cells": "CL:0000625",
    "NK": "CL:0000623",
    "B.cell.1": "CL:0000236",
    "Tcells.naive": "CL:0000898",
    "pDCs": "CL:0000784",
    "VSMC": "CL:0000359",
    "Treg": "CL:0000815",
    "pancreatic alpha cell": "CL:0000171",
    "pro-B cell": "CL:0000826",
    "plasma": "CL:0000786",
    "Macrophages": "CL:0000235",
}


def test_labels_find_their_terms() -> None:
    found = find_terms(MEANT)
    assert dict(found["id"]) == MEANT
    assert set(found["status"]) == {"ok"}
    assert (found["next_score"] <= found["score"]).all()
    assert (found["next_id"] != found["id"]).all()


def test_what_is_no_cell_type_is_unsure() -> None:
    found = find_terms(["Neoplasm 7q", "cluster twelve", "qwertz", "", "17"])
    assert set(found["status"]) == {"unsure"}
    assert found["score"].max() < 0.55
    assert find_terms([]).empty


def test_the_shipped_texts_fit_together() -> None:
    texts = load_texts()
    assert len(texts.gene_vectors) == texts.genes["vector"].max() + 1
    assert len(texts.term_vectors) == len(texts.terms) > 3000
    assert texts.gene_vectors.shape[1] == texts.term_vectors.shape[1] == texts.projection.shape[1]
    assert set(texts.genes["organism"]) == {"human", "mouse"}
    rows = texts.genes.groupby("organism").size()
    assert rows["human"] > 20_000 and rows["mouse"] > 15_000
    b_cells = texts.within("CL:0000236")
    assert "CL:0000236" in b_cells and "CL:0000788" in b_cells and "CL:0000084" not in b_cells


def test_types_are_labels_a_lineage_or_general_terms(tmp_path: Path) -> None:
    assert read_types(["B cell", "own words"]).ids == ["CL:0000236", ""]
    general, blood = read_types("cl"), read_types("hematopoietic cell")
    assert 50 < len(general.labels) < 100 and len(blood.labels) > 200
    assert read_types("CL:0000988").ids == read_types("CL_0000988").ids == blood.ids
    file = tmp_path / "types.txt"
    file.write_text("# mine\nB cell\n\nT cell\n")
    assert read_types(file).labels == ["B cell", "T cell"]
    table = tmp_path / "markers.tsv"
    table.write_text("gene\tlabel\nMS4A1\tmine\nCD3E\tyours\nCD19\tmine\n")
    assert read_types(str(table)).markers == {"mine": ["MS4A1", "CD19"], "yours": ["CD3E"]}


@pytest.mark.parametrize("types", ["hematopoetic cell", "CL:9999999", ["B cell", "B cell"], [], ["B cell", " "]])
def test_types_that_say_nothing_are_refused(types: str | list[str]) -> None:
    with pytest.raises(OptionError):
        read_types(types)
