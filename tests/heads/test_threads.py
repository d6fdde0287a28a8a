from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from scstore.heads import threads
from scstore.heads.threads import in_threads, no_spinning, one_blas_thread


def test_products_run_on_one_thread_inside_and_on_as_many_as_before_outside() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))

    def used() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = used()
    with one_blas_thread():
        assert all(n == 1 for n in used())
        with one_blas_thread():
            assert all(n == 1 for n in used())
        assert all(n == 1 for n in used())
    assert used() == before


def test_nothing_spins_and_faiss_keeps_its_threads() -> None:
    import faiss

    def used(layer: str) -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool.get("threading_layer") == layer]

    before, of_faiss = used("pthreads"), faiss.omp_get_max_threads()
    with no_spinning():
        assert all(n == 1 for n in used("pthreads"))
        assert faiss.omp_get_max_threads() == of_faiss
    assert used("pthreads") == before
    with one_blas_thread(), no_spinning():
        assert all(n == 1 for n in used("pthreads"))


@pytest.mark.parametrize("processors", [1, 4])
def test_results_come_in_the_order_of_the_items(processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "cpu_count", lambda: processors)
    assert list(in_threads(lambda n: n * n, range(20))) == [n * n for n in range(20)]
    assert list(in_threads(lambda n: n, [])) == []
