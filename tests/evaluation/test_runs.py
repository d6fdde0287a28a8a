from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from scstore.evaluation.design import EvaluationRow, ViewSource
from scstore.evaluation.runs import predict_rows
from scstore.heads.fusion import FusedHead
from scstore.heads.rows import Rows
from scstore.progress import Track

N, TRAIN = 110, 70
GENES = [f"GENE{i}" for i in range(30)]
ROWS = [
    EvaluationRow("readout", ("readout",), "model"),
    EvaluationRow("readout+genept+X", ("readout", "genept", "X"), "model"),
    EvaluationRow("X", ("X",), "nothing"),
    EvaluationRow("other: readout+X", ("readout", "X"), "control", control="other"),
    EvaluationRow("default", ("readout", "genept", "X"), "model", optional=("readout", "genept")),
]


class Counted(Track):
    def __init__(self) -> None:
        self.n = 0

    def advance(self, n: int = 1) -> None:
        self.n += n


@pytest.fixture(scope="module")
def made() -> tuple[dict[ViewSource, Any], np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, N)
    views: dict[ViewSource, Any] = {
        ViewSource(name, control): (np.eye(5)[codes] + rng.normal(0, spread, (N, 5))).astype(np.float32)
        for name, control, spread in (("readout", "", 0.5), ("genept", "", 9.0), ("readout", "other", 0.9))
    }
    rates = rng.gamma(1, 1, 30) * np.exp(rng.normal(0, 0.6, (3, 30)))
    views[ViewSource("X", "")] = sparse.csr_matrix(np.log1p(rng.poisson(rates[codes])).astype(np.float32))
    return views, np.array(["a", "b", "c"], dtype=object)[codes]


@pytest.mark.parametrize(("kind", "grouped"), [("linear", False), ("linear", True), ("mlp", False), ("knn", True)])
def test_every_row_has_the_numbers_of_a_head_of_its_own(
    kind: str, grouped: bool, made: tuple[dict[ViewSource, Any], np.ndarray]
) -> None:
    views, labels = made
    groups = np.arange(TRAIN) % 4 if grouped else None
    asked: list[ViewSource] = []

    def sides(source: ViewSource) -> tuple[Rows, Rows]:
        asked.append(source)
        return views[source][:TRAIN], views[source][TRAIN:]

    track, made_like = Counted(), FusedHead(kind, n_folds=3, prior_adjustment=0.3, random_state=5)
    how: dict[str, Any] = {"gene_names": GENES, "head": made_like, "track": track, "groups": groups}
    found = dict(predict_rows(ROWS, labels[:TRAIN], sides, **how))
    # expression is the cells' own, whatever the control: four views for eleven members of rows
    assert sorted(asked) == sorted(views)
    assert track.n == 4
    for row, said in found.items():
        head = FusedHead(kind, n_folds=3, prior_adjustment=0.3, random_state=5)
        train = {source.view: views[source][:TRAIN] for source in row.sources}
        names = GENES if "X" in train else None
        head.fit(train, labels[:TRAIN], gene_names=names, groups=groups, optional=row.optional)
        test = {source.view: views[source][TRAIN:] for source in row.sources}
        if head.genes_ is not None:
            test["X"] = test["X"][:, [GENES.index(gene) for gene in head.genes_]]
        assert said.classes == tuple(head.classes_)
        assert said.kept == head.views_
        assert ("genept" in said.kept) == ("genept" in row.views and not row.optional)  # it knows nothing
        np.testing.assert_array_equal(said.proba, head.predict_proba(test))


def test_views_are_fitted_as_rows_need_them(made: tuple[dict[ViewSource, Any], np.ndarray]) -> None:
    """Rows come one by one, and a view that is asked for late is not fitted early."""
    views, labels = made
    track = Counted()
    rows = predict_rows(
        ROWS,
        labels[:TRAIN],
        lambda source: (views[source][:TRAIN], views[source][TRAIN:]),
        gene_names=GENES,
        head=FusedHead("knn", n_folds=3, prior_adjustment=0.5, random_state=0),
        track=track,
    )
    counts = [(row.name, track.n) for row, _ in rows]
    assert counts == [("readout", 1), ("readout+genept+X", 3), ("X", 3), ("other: readout+X", 4), ("default", 4)]
