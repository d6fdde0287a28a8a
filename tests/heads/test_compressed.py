from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scstore.heads.compressed import (
    Compression,
    HeldOut,
    ListSearch,
    choose_probes,
    encode,
    fit_compression,
    held_out_again,
)
from scstore.heads.exact_search import centre_of, nearest, unit_rows, unit_view


@pytest.fixture(scope="module")
def rows(cells_factory: Any) -> np.ndarray:
    values = cells_factory(2000, 48, 6).X
    return unit_rows(values, centre_of(values))


@pytest.fixture(scope="module")
def fitted(rows: np.ndarray) -> tuple[Compression, HeldOut]:
    return fit_compression(rows, seed=1)


@pytest.fixture(scope="module")
def search(rows: np.ndarray, fitted: tuple[Compression, HeldOut]) -> ListSearch:
    return in_memory(rows, fitted[0])


def in_memory(rows: np.ndarray, compression: Compression) -> ListSearch:
    codes = np.empty((len(rows), compression.centroids.shape[1]), dtype=np.float16)
    lists = encode(rows, compression, codes, block_bytes=10_000)
    return ListSearch.in_memory(compression, codes, lists)


def test_the_truth_is_that_of_an_exact_search_without_the_row_itself(rows: np.ndarray, fitted: Any) -> None:
    held_out = fitted[1]
    distances = np.linalg.norm(rows[held_out.own][:, None] - rows[None], axis=2)
    distances[np.arange(len(held_out.own)), held_out.own] = np.inf
    wanted = np.sort(np.argsort(distances, axis=1)[:, :10], axis=1)
    assert (np.sort(held_out.truth, axis=1) == wanted).mean() > 0.999
    assert len(np.unique(held_out.own)) == len(held_out.own) == 200


def test_components_are_orthonormal_and_lists_are_by_the_nearest_centroid(rows: np.ndarray, fitted: Any) -> None:
    compression = fitted[0]
    width = compression.components.shape[1]
    np.testing.assert_allclose(compression.components.T @ compression.components, np.eye(width), atol=1e-5)
    codes, lists = compression.encode(rows[:50])
    apart = np.linalg.norm(codes[:, None].astype(float) - compression.centroids[None], axis=2)
    np.testing.assert_array_equal(lists, apart.argmin(axis=1))


def test_the_recall_told_is_that_of_another_count(rows: np.ndarray, fitted: Any, search: ListSearch) -> None:
    """Measured again by hand, on rows of the reference that the choice did not see."""
    compression, held_out = fitted
    probing = choose_probes(search, held_out, target=0.9)
    assert probing.recall >= 0.9
    assert probing.n_queries == 100
    others = np.setdiff1d(np.arange(len(rows)), held_out.own)[:300]
    _, found = search.search(compression.project(rows[others]), k=11, probes=probing.probes)
    distances = np.linalg.norm(rows[others][:, None] - rows[None], axis=2)
    truth = np.argsort(distances, axis=1)[:, 1:11]
    recall = np.mean([len(set(f) & set(t)) / 10 for f, t in zip(found, truth, strict=True)])
    assert abs(recall - probing.recall) < 0.05


def test_fewer_lists_find_less(fitted: Any, search: ListSearch) -> None:
    compression, held_out = fitted
    everything = slice(0, None)
    recalls = [
        held_out.recall(search.search(compression.project(held_out.queries), k=11, probes=p)[1], everything)
        for p in (1, 4, search.n_lists)
    ]
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] > 0.97


def test_a_recall_that_cannot_be_reached_takes_all_lists_and_says_what_it_is(fitted: Any, search: ListSearch) -> None:
    held_out = fitted[1]
    wrong = HeldOut(held_out.own, held_out.queries, (held_out.truth + 7) % 2000)
    probing = choose_probes(search, wrong)
    assert probing.probes == search.n_lists
    assert probing.recall < 0.2


def test_on_disk_is_the_same_as_in_memory(rows: np.ndarray, fitted: Any, search: ListSearch, tmp_path: Path) -> None:
    compression = fitted[0]
    codes = np.empty((len(rows), compression.centroids.shape[1]), dtype=np.float16)
    lists = encode(rows, compression, codes, block_bytes=10_000)
    order = np.argsort(lists, kind="stable")
    sizes = np.bincount(lists, minlength=len(compression.centroids))
    with (tmp_path / "lists").open("wb") as file:
        for part in np.split(order, np.cumsum(sizes)[:-1]):
            file.write(codes[part].tobytes() + part.astype(np.int64).tobytes())
    mapped = ListSearch.on_disk(compression, tmp_path / "lists", sizes)
    queries = compression.project(rows[:100])
    for got, wanted in zip(mapped.search(queries, k=7, probes=3), search.search(queries, k=7, probes=3), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_only_chosen_rows_are_found_however_far_they_are(rows: np.ndarray, fitted: Any, search: ListSearch) -> None:
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[[3, 500, 1999]] = True
    queries = fitted[0].project(rows[:20])
    distances, places = search.search(queries, k=3, probes=1, chosen=chosen)
    assert set(places.ravel()) == {3, 500, 1999}
    assert (np.diff(distances, axis=1) >= 0).all()
    assert (search.search(queries, k=4, probes=1, chosen=chosen)[1][:, -1] == -1).all()


def test_the_same_seed_gives_the_same_bits(rows: np.ndarray, fitted: Any, disk_rows: Any) -> None:
    again, held_out = fit_compression(disk_rows(rows), seed=1)
    np.testing.assert_array_equal(again.components, fitted[0].components)
    np.testing.assert_array_equal(again.centroids, fitted[0].centroids)
    np.testing.assert_array_equal(held_out.own, fitted[1].own)
    other, _ = fit_compression(rows, seed=2)
    assert not np.array_equal(other.centroids, again.centroids)


def test_a_fit_reads_the_rows_once_and_samples(cells_factory: Any, disk_rows: Any) -> None:
    values = disk_rows(cells_factory(3000, 40, 4).X)
    mean, block_bytes = np.zeros(40, dtype=np.float32), 4 * 40 * 100
    compression, held_out = fit_compression(unit_view(values, mean), block_bytes=block_bytes)
    # all rows for the truth, a sample for the components (all but those held out), one for the centroids
    assert values.read <= 3000 + len(held_out.own) + 2 * 3000
    values.most = 0
    encode(unit_view(values, mean), compression, np.empty((3000, 40), "f2")[:, : compression.centroids.shape[1]],
           block_bytes=block_bytes)  # fmt: skip
    assert values.most <= 100


def test_wide_rows_are_compressed_by_a_randomised_decomposition() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(400, 8)) @ rng.normal(size=(8, 1500))).astype(np.float32)
    compression, held_out = fit_compression(unit_rows(values, values.mean(0)))
    assert compression.components.shape[1] == 16  # the narrowest: eight dimensions are all there is
    assert choose_probes(in_memory(unit_rows(values, values.mean(0)), compression), held_out).recall > 0.9


def test_equal_rows_do_no_harm() -> None:
    values = np.ones((300, 12), dtype=np.float32)
    compression, held_out = fit_compression(unit_rows(values, values.mean(0)))
    search = in_memory(unit_rows(values, values.mean(0)), compression)
    assert 0 <= choose_probes(search, held_out).recall <= 1
    assert (search.search(compression.project(np.zeros((3, 12))), k=5, probes=1)[0] == 0).all()


def test_truth_among_more_rows(rows: np.ndarray, fitted: Any) -> None:
    half = held_out_again(rows, fitted[1].own, among=np.arange(0, 2000), k=10)
    np.testing.assert_array_equal(half.own, fitted[1].own)
    assert (np.sort(half.truth) == np.sort(fitted[1].truth)).mean() > 0.999
    even = np.arange(0, 2000, 2)
    own = even[:40]
    among = held_out_again(rows, own, among=even, k=5)
    assert (among.truth % 2 == 0).all()
    _, wanted = nearest(rows[even], rows[own], k=6, mean=np.zeros(48, dtype=np.float32))
    assert (np.sort(among.truth) == np.sort(even[wanted[:, 1:]])).mean() > 0.99
