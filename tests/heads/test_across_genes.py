from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scstore.errors import CellsError, DamagedError, LabelsError, OptionError
from scstore.heads.across_genes import (
    SHRINKAGE,
    AcrossGenesHead,
    ClassProfiles,
    expression_components,
    fit_mixture,
    text_agreement,
)
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.rejection import Thresholds

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
    assert fitted.held_out_["n"] == 1800  # each cell twice, by each of three deals of the genes
    assert fitted.held_out_["accuracy"] > 0.9


def test_vectors_that_mean_nothing_carry_nothing_over(fitted: AcrossGenesHead) -> None:
    expression, labels, vectors = world(200, seed=1, genes=KNOWN)
    controls = []
    for seed in range(3):  # three groups can be named rightly by luck, but not each time
        shuffled = np.random.default_rng(seed).permutation(vectors)
        controls.append(AcrossGenesHead().fit(expression, labels, vectors=shuffled, centre=vectors.mean(axis=0)))
    assert np.mean([control.held_out_["accuracy"] for control in controls]) < 0.7
    # and they say so: the temperature is fitted on genes held out
    wrong = [control for control in controls if control.held_out_["accuracy"] < 0.5]
    assert wrong
    assert all(control.temperature_ > fitted.temperature_ for control in wrong)


def test_fewer_genes_are_looked_up_among_held_out_cells_that_had_as_few(fitted: AcrossGenesHead) -> None:
    assert fitted.cases_ is not None
    assert fitted.cases_.accuracy[-1] > 0.9 > 0.6 > fitted.cases_.accuracy[0]
    assert fitted.cases_.temperature[-1] < fitted.cases_.temperature[0]
    found = []
    for n_genes in (100, 8):
        expression, truth, vectors = world(200, seed=7, genes=slice(100, 100 + n_genes))
        able, case = fitted.for_cells(expression, vectors=vectors)
        assert case is not None
        assert able.temperature_ == case.temperature
        assert (np.diff(able.confidence_) >= 0).all()
        proba = able.predict_proba(expression, vectors=vectors)
        right = (able.classes_[proba.argmax(axis=1)] == truth).mean()
        found.append((case.known, case.accuracy, right, proba.max(axis=1).mean()))
    (known, told, right, sure), (few_known, few_told, few_right, few_sure) = found
    assert known > 0.4 > few_known
    assert right > 0.95 > 0.8 > few_right
    assert told > 0.9
    assert few_told < 0.7
    assert few_sure < few_right + 0.1  # not more confident than right
    assert sure > 0.9
    assert fitted.temperature_ != able.temperature_  # the head itself stays as it was


def test_halves_agree_where_genes_tell_the_classes_apart(fitted: AcrossGenesHead) -> None:
    expression, _, vectors = world(200, seed=8, genes=NEW)
    units = (vectors - vectors.mean(axis=0)) / np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)[:, None]

    def agreement(cells: sparse.csr_matrix, units: np.ndarray) -> float:
        return text_agreement(fitted._profiles, cells, units, np.random.default_rng(0))

    assert agreement(expression, units) > 0.4
    everybody = sparse.csr_matrix(np.random.default_rng(0).poisson(2, expression.shape).astype(np.float32))
    assert agreement(everybody, units) < 0.1  # expressed by all types alike
    assert agreement(sparse.csr_matrix(np.ones(expression.shape, np.float32)), units) < 1e-6
    assert agreement(expression[:, :1], units[:1]) == 0  # the other half is empty


def test_whole_groups_are_held_out(fitted: AcrossGenesHead) -> None:
    """One donor's cells have the labels of other types: heads that learned from it are of no use for the others."""
    expression, labels, vectors = world(300, seed=1, genes=KNOWN)
    donors = np.arange(300) % 2
    mixed = np.where(donors == 1, np.roll(CLASSES, 1)[np.searchsorted(CLASSES, labels)], labels)
    options = {"vectors": vectors, "centre": vectors.mean(axis=0)}
    head = AcrossGenesHead().fit(expression, mixed, groups=donors, **options)
    assert head.held_out_["accuracy"] < 0.2
    assert head.held_out_["n"] == 1800
    assert head.cases_ is None or head.cases_.accuracy[-1] < 0.2
    third = np.arange(300) % 3  # a type of one donor is learned, but never held out
    labelled = AcrossGenesHead().fit(expression, np.where(third == 1, "epsilon", labels), groups=third > 0, **options)
    assert labelled.classes_.tolist() == ["alpha", "beta", "delta", "epsilon"]
    assert labelled.held_out_["n"] == 6 * 200
    with pytest.raises(LabelsError):
        AcrossGenesHead().fit(expression, labels, groups=np.zeros(300), **options)
    with pytest.raises(LabelsError):  # the second group is too small to form groups of its own
        AcrossGenesHead().fit(expression, labels, groups=np.arange(300) < 20, **options)


def test_rows_in_pieces_are_judged_as_in_one(fitted: AcrossGenesHead, monkeypatch: pytest.MonkeyPatch) -> None:
    expression, _, vectors = world(120, seed=4, genes=NEW)
    whole = fitted.predict_proba(expression, vectors=vectors)
    monkeypatch.setattr("scstore.heads.rows.BLOCK_BYTES", 1 << 12)
    np.testing.assert_allclose(fitted.predict_proba(expression, vectors=vectors), whole, atol=1e-6)


def test_it_comes_back_from_its_state_bit_for_bit(fitted: AcrossGenesHead) -> None:
    expression, _, vectors = world(80, seed=5, genes=NEW)
    arrays, state = split_arrays(fitted.to_state())
    back = AcrossGenesHead.from_state(join_arrays(arrays, state))
    assert (back.predict_proba(expression, vectors=vectors) == fitted.predict_proba(expression, vectors=vectors)).all()
    assert back.held_out_ == fitted.held_out_
    assert back.rejection_ is not None
    assert fitted.rejection_ is not None
    assert back.rejection_.thresholds("both") == fitted.rejection_.thresholds("both")
    assert back.for_cells(expression, vectors=vectors)[0].temperature_ == (
        fitted.for_cells(expression, vectors=vectors)[0].temperature_
    )


def test_damage_is_found(fitted: AcrossGenesHead) -> None:
    arrays, state = split_arrays(fitted.to_state())
    whole = fitted.to_state()
    for name in arrays:
        with pytest.raises(DamagedError, match=name):
            AcrossGenesHead.from_state(join_arrays({key: a for key, a in arrays.items() if key != name}, state))
    for field in state:
        if field != "kind":
            with pytest.raises(DamagedError):
                AcrossGenesHead.from_state({key: value for key, value in whole.items() if key != field})
    with pytest.raises(DamagedError, match="floor"):
        AcrossGenesHead.from_state({**whole, "profiles": {**whole["profiles"], "floor": 0.0}})
    with pytest.raises(DamagedError, match="means"):
        AcrossGenesHead.from_state(
            {**whole, "profiles": {**whole["profiles"], "means": whole["profiles"]["means"][:, :-1]}}
        )


def test_thresholds_keep_the_share_asked_for(fitted: AcrossGenesHead) -> None:
    right, rejection = fitted.confidence_, fitted.rejection_
    assert rejection is not None
    for keep in (0.5, 0.9, 1.0):
        assert (right >= rejection.thresholds("both", keep).confidence).mean() >= keep
    assert rejection.thresholds("confidence", 1.0) == Thresholds(right[0], np.inf)
    assert rejection.thresholds("both") == rejection.thresholds("both", 0.95)
    assert rejection.thresholds("none").confidence == 0
    with pytest.raises(OptionError):
        rejection.thresholds("distance")
    with pytest.raises(OptionError, match="sometimes"):
        rejection.thresholds("sometimes")


def test_too_few_cells_are_refused(fitted: AcrossGenesHead) -> None:
    expression, labels, vectors = world(99, seed=6, genes=KNOWN)
    with pytest.raises(LabelsError):
        AcrossGenesHead().fit(expression, labels, vectors=vectors, centre=vectors.mean(axis=0))
    with pytest.raises(CellsError):
        fitted.predict_proba(expression[:49], vectors=vectors)
    with pytest.raises(OptionError):
        fitted.predict_proba(expression, vectors=vectors[:, :15])


def shaped(n: int, *, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of three classes, their text rows (overlapping), and their components (well apart)."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    directions, places = np.eye(3, 12), np.random.default_rng(0).normal(size=(3, 4)) * 4
    rows = directions[codes] + rng.normal(size=(n, 12)) * noise
    components = places[codes] + rng.normal(size=(n, 4)) * 0.5
    return codes, rows.astype(np.float32), components


def test_profiles_are_means_and_the_covariance_within_classes() -> None:
    rng = np.random.default_rng(1)
    codes, rows = rng.integers(0, 4, 200), rng.normal(size=(200, 6)).astype(np.float32)
    whole = ClassProfiles.fit([(rows, codes)], n_classes=4, width=6)
    blocks = [(rows[start : start + 37], codes[start : start + 37]) for start in range(0, 200, 37)]
    pieces = ClassProfiles.fit(blocks, n_classes=4, width=6)
    means = np.stack([rows[codes == code].mean(axis=0) for code in range(4)])
    within = np.cov((rows - means[codes]).T, bias=True)
    shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / 6 * np.eye(6)
    np.testing.assert_allclose(whole.means, means - rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(whole.whiten(rows), np.linalg.solve(shrunk, rows.T).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole.power, np.square(rows - rows.mean(axis=0)).sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(pieces.whiten(rows), whole.whiten(rows), rtol=1e-8, atol=1e-8)


def test_groups_of_expression_mend_the_guess_of_the_texts() -> None:
    codes, rows, _ = shaped(600, seed=2, noise=1.2)
    truth, new, components = shaped(500, seed=3, noise=1.2)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    centred = (new - new.mean(axis=0)).astype(np.float64)
    precise = profiles.whiten(profiles.means)
    guess = centred @ precise.T - 0.5 * (profiles.means * precise).sum(axis=1)
    alone = (guess.argmax(axis=1) == truth).mean()
    together = (fit_mixture(profiles, new, components)(new, components).argmax(axis=1) == truth).mean()
    assert 0.5 < alone < 0.75
    assert together > 0.95


def test_a_shift_and_a_scale_of_the_new_side_change_nothing() -> None:
    codes, rows, _ = shaped(300, seed=4, noise=0.3)
    _, new, components = shaped(200, seed=5, noise=0.3)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    moved = (new * 0.5 + 3).astype(np.float32)
    here = fit_mixture(profiles, new, components)(new, components)
    there = fit_mixture(profiles, moved, components)(moved, components)
    np.testing.assert_allclose(here, there, atol=1e-3)


def test_the_order_of_the_cells_does_not_matter() -> None:
    codes, rows, _ = shaped(300, seed=6, noise=0.5)
    _, new, components = shaped(150, seed=7, noise=0.5)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    order = np.random.default_rng(0).permutation(150)
    straight = fit_mixture(profiles, new, components)(new, components)
    turned = fit_mixture(profiles, new[order], components[order])(new[order], components[order])
    np.testing.assert_allclose(straight[order], turned, atol=1e-5)
    np.testing.assert_allclose(np.exp(straight).sum(axis=1), 1)


def test_cells_that_are_all_alike_get_finite_probabilities() -> None:
    codes, rows, _ = shaped(300, seed=8, noise=0.5)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    same = np.ones((60, 12), dtype=np.float32)
    found = fit_mixture(profiles, same, np.zeros((60, 4)))(same, np.zeros((60, 4)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("n_cells", [12, 200])
def test_components_are_those_of_the_most_variable_genes(n_cells: int) -> None:
    rng = np.random.default_rng(9)
    dense = rng.normal(size=(n_cells, 700)) * np.where(np.arange(700) < 500, 1.0, 0.01)
    components = expression_components(sparse.csr_matrix(dense))
    found = components(sparse.csr_matrix(dense))
    dense[:, 500:] = 9
    np.testing.assert_array_equal(components(sparse.csr_matrix(dense)), found)
    assert found.shape == (n_cells, min(20, n_cells - 1))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(np.cov(found.T).trace() / found.shape[1], 1, rtol=1e-6)
