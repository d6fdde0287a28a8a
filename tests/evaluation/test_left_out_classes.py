from __future__ import annotations

import json
from pathlib import Path

import pytest

import scstore
from scstore.errors import LabelsError


def test_cells_of_classes_left_out_stand_out(evaluation_store: Path) -> None:
    ask = {"label": "cell_type", "folds": 3, "leave_one_class_out": True}
    found = scstore.evaluate(evaluation_store, views=["X", "genept"], **ask)
    assert found.left_out_classes is not None
    by_class = found.left_out_classes.by_class["- X"]
    counts = scstore.open(evaluation_store).obs["cell_type"].drop("cell5").value_counts()
    assert {name: one.n_unknown for name, one in by_class.items()} == counts.to_dict()
    for one in by_class.values():
        assert one.auroc > 0.5
        assert one.auroc_novelty > 0.6
        assert one.kept > 0.7
        assert 0 <= one.rejected <= 1
    assert any("AUROC novelty" in line for line in found.lines())
    kept = json.loads(json.dumps(found.as_json(), allow_nan=False))["left_out_classes"]
    assert kept["by_class"]["- X"]["type 0"]["n_known"] == by_class["type 0"].n_known


def test_two_classes_are_too_few(evaluation_store: Path) -> None:
    with pytest.raises(LabelsError) as caught:
        scstore.evaluate(evaluation_store, label="species", views=["X"], folds=2, leave_one_class_out=True)
    assert "leave_one_class_out" in str(caught.value)
