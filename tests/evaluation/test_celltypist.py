"""CellTypist is not among the packages that the tests install: a stand-in with its interface takes its place."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Notes

import scstore
from scstore.errors import OptionError

STAND_IN = """
import numpy as np
import pandas as pd
from scipy.sparse import spmatrix
from sklearn.linear_model import SGDClassifier

TRAINED = []


class Result:
    def __init__(self, matrix):
        self.probability_matrix = matrix


def train(X=None, labels=None, genes=None, check_expression=True, use_SGD=False, **kwargs):
    assert isinstance(X, spmatrix) and not check_expression and len(genes) == X.shape[1]
    if not use_SGD:
        raise TypeError("LogisticRegression.__init__() got an unexpected keyword argument 'multi_class'")
    TRAINED.append(X.shape[0])
    return SGDClassifier(loss="log_loss", **kwargs).fit(X, np.asarray(labels)), list(genes)


def annotate(filename="", model=None, majority_voting=False):
    classifier, genes = model
    assert list(filename.var_names) == genes
    scores = 1 / (1 + np.exp(-np.clip(classifier.decision_function(filename.X), -30, 30)))
    return Result(pd.DataFrame(scores, index=filename.obs_names, columns=classifier.classes_))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    module = tmp_path / "celltypist.py"
    module.write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    real = sys.modules.pop("celltypist", None)
    yield module
    sys.modules.pop("celltypist", None)
    if real is not None:
        sys.modules["celltypist"] = real


def test_it_has_a_row_trained_on_the_fold_where_it_is_installed(installed: Path, evaluation_store: Path) -> None:
    found = scstore.evaluate(evaluation_store, label="cell_type", folds=3)
    row = found.regimes[0].scored.rows[-1]
    assert (row.name, row.uses, row.marked) == ("celltypist", "nothing", "- celltypist")
    scores = found.regimes[0].scored.scores.query("row == 'celltypist'")
    assert scores["n_train"].tolist() == sys.modules["celltypist"].TRAINED
    assert all(82 <= n <= 85 for n in sys.modules["celltypist"].TRAINED)
    one = found.predictions.query("row == 'celltypist'")
    assert (one["label"].astype(str) == one["predicted"].astype(str)).mean() > 0.8
    assert one["confidence"].between(1 / 3, 1).all()


def test_its_failure_is_a_note(installed: Path, evaluation_store: Path) -> None:
    installed.write_text("def train(*words, **options):\n    raise ValueError('no such solver')\n")
    notes = Notes()
    found = scstore.evaluate(evaluation_store, label="cell_type", folds=2, views=["X", "celltypist"], progress=notes)
    assert [row.name for row in found.regimes[0].scored.rows] == ["X"]
    assert any("CellTypist failed" in line and "no such solver" in line for line in found.regimes[0].notes)
    assert any("no such solver" in line for line in notes.said)


@pytest.mark.skipif(importlib.util.find_spec("celltypist") is not None, reason="CellTypist is installed here")
def test_where_it_is_not_installed_it_has_no_row_unless_asked_for(evaluation_store: Path) -> None:
    found = scstore.evaluate(evaluation_store, label="cell_type", folds=2)
    assert "celltypist" not in [row.name for row in found.regimes[0].scored.rows]
    with pytest.raises(OptionError, match="pip install celltypist"):
        scstore.evaluate(evaluation_store, label="cell_type", views=["celltypist"])
