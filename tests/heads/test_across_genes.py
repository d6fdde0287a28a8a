"""The head for cells measured on other genes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scstore.errors import CellsError, DamagedError, LabelsError, OptionError
from scstore.heads.across_genes import AcrossGenesHead

CLASSES = np.array(["alpha", "beta", "delta"])


def world(n: int, *, seed: int, genes: slice) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Cells of three types; each type has genes of its own, whose texts resemble one another."""
    types = np.random.default_rng(0)
    owner = types.integers(0, 4, 200)  # the fourth owner's genes are everybody's
    vectors = np.eye(4, 16)[owner] + types.normal(size=(200, 16)) * 0.35 + 2
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    rates = 0.3 + 2.0 * (owner[None] == codes[:, None]) + 1.0 * (owner == 3)[None]
    counts = rng.poisson(rates)
    expression = np.log1p(counts)[:, genes]
    return sparse.csr_matrix(expression.astype(np.float32)), CLASSES[codes], vectors[genes].astype(np.float32)


KNOWN, NEW = slice(0, 100), slice(100, 200)


@pytest.fixture(scope="module")
def fitted() -> AcrossGenesHead:
    expression, labels, vectors = world(300, seed=1, genes=KNOWN)
    return AcrossGenesHead().fit(expression, labels, vectors=vectors, centre=vectors.mean(axis=0))


def test_it_labels_cells_with_no_gene_in_common(fitted: AcrossGenesHead) -> None:
    expression, truth, vectors = world(200, seed=2, genes=NEW)
    proba = fitted.predict_proba(expression, vectors=vectors)
    assert (fitted.classes_[proba.argmax(axis=1)] == truth).mean() > 0.95
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert fitted.held_out_["n"] == 600  # each cell twice
    assert fitted.held_out_["accuracy"] > 0.9


def test_vectors_that_mean_nothing_carry_nothing_over(fitted: AcrossGenesHead) -> None:
    expression, labels, vectors = world(200, seed=1, genes=KNOWN)
    controls = []
    for seed in range(6):  # three groups can be named rightly by luck, but not six times
        shuffled = np.random.default_rng(seed).permutation(vectors)
        controls.append(AcrossGenesHead().fit(expression, labels, vectors=shuffled, centre=vectors.mean(axis=0)))
    assert np.mean([control.held_out_["accuracy"] for control in controls]) < 0.7
    # and they say so: the temperature is fitted on genes held out
    wrong = [control for control in controls if control.held_out_["accuracy"] < 0.5]
    assert wrong
    assert all(control.temperature_ > fitted.temperature_ for control in wrong)


def test_rows_in_pieces_are_judged_as_in_one(fitted: AcrossGenesHead, monkeypatch: pytest.MonkeyPatch) -> None:
    expression, _, vectors = world(120, seed=4, genes=NEW)
    whole = fitted.predict_proba(expression, vectors=vectors)
    monkeypatch.setattr("scstore.heads.rows.BLOCK_BYTES", 1 << 12)
    np.testing.assert_allclose(fitted.predict_proba(expression, vectors=vectors), whole, atol=1e-6)


def test_it_comes_back_from_arrays_bit_for_bit(fitted: AcrossGenesHead) -> None:
    expression, _, vectors = world(80, seed=5, genes=NEW)
    arrays, state = fitted.to_arrays()
    back = AcrossGenesHead.from_arrays(arrays, state)
    assert (back.predict_proba(expression, vectors=vectors) == fitted.predict_proba(expression, vectors=vectors)).all()
    assert back.held_out_ == fitted.held_out_
    assert back.rejection_ is not None
    assert fitted.rejection_ is not None
    assert back.rejection_.thresholds("both") == fitted.rejection_.thresholds("both")


def test_damage_is_found(fitted: AcrossGenesHead) -> None:
    arrays, state = fitted.to_arrays()
    for name in arrays:
        with pytest.raises(DamagedError, match=name):
            AcrossGenesHead.from_arrays({key: a for key, a in arrays.items() if key != name}, state)
    for field in state:
        if field != "kind":
            with pytest.raises(DamagedError, match="malformed"):
                AcrossGenesHead.from_arrays(arrays, {key: value for key, value in state.items() if key != field})
    with pytest.raises(DamagedError, match="malformed"):
        AcrossGenesHead.from_arrays(arrays, {**state, "floor": 0.0})
    with pytest.raises(DamagedError, match="means"):
        AcrossGenesHead.from_arrays({**arrays, "means": arrays["means"][:, :-1]}, state)


def test_thresholds_keep_the_share_asked_for(fitted: AcrossGenesHead) -> None:
    right, rejection = fitted.confidence_, fitted.rejection_
    assert rejection is not None
    for keep in (0.5, 0.9, 1.0):
        assert (right >= rejection.thresholds("both", keep).confidence).mean() >= keep
    assert rejection.thresholds("confidence", 1.0) == (right[0], np.inf)
    assert rejection.thresholds("both") == rejection.thresholds("both", 0.95)
    assert rejection.thresholds("none").confidence == 0
    with pytest.raises(OptionError, match="knows no distance"):
        rejection.thresholds("distance")
    with pytest.raises(OptionError, match="one of none"):
        rejection.thresholds("sometimes")


def test_too_few_cells_are_refused(fitted: AcrossGenesHead) -> None:
    expression, labels, vectors = world(99, seed=6, genes=KNOWN)
    with pytest.raises(LabelsError, match="100 or more"):
        AcrossGenesHead().fit(expression, labels, vectors=vectors, centre=vectors.mean(axis=0))
    with pytest.raises(CellsError, match="49 cells"):
        fitted.predict_proba(expression[:49], vectors=vectors)
    with pytest.raises(OptionError, match="15 wide"):
        fitted.predict_proba(expression, vectors=vectors[:, :15])
