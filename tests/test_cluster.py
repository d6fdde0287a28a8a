"""Stage 2 on a Dask cluster of real processes: the same answers, whatever happens to a worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support import Run

import scstore
from scstore import cluster
from scstore.cluster import Held, each, on_cluster
from scstore.errors import DamagedError, FaultError, MissingExtraError, NetworkError, OptionError
from scstore.heads import rows as rows_of
from scstore.heads.artifact import save_head
from scstore.heads.linear import LinearHead
from scstore.heads.preprocessing import ExpressionReducer
from scstore.heads.rows import RowSubset

distributed = pytest.importorskip("distributed")

N_CELLS, N_GENES = 600, 60


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Two workers, each a process; one that ends is started again."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts and an embedding of three cell types and four donors."""
    rng = np.random.default_rng(0)
    kinds = np.arange(N_CELLS) % 3
    rates = np.full((3, N_GENES), 0.5)
    rates[kinds[:3], np.arange(3)] = 8.0
    counts = rng.poisson(rates[kinds]).astype(np.float32)
    embedding = (rng.normal(0, 2, (3, 16))[kinds] + rng.normal(0, 1.5, (N_CELLS, 16))).astype(np.float32)
    obs = pd.DataFrame(
        {"cell_type": [f"type {kind}" for kind in kinds], "donor": [f"d{i % 4}" for i in range(N_CELLS)]},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    adata = anndata.AnnData(csr_matrix(counts), obs=obs, obsm={"X_emb": embedding})
    adata.var_names = [f"GENE{i}" for i in range(N_GENES)]
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def head(file: Path) -> Any:
    return scstore.fit(file, label="cell_type", views=["X", "X_emb"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for no matrix, parts of 64 rows, blocks of 100 cells."""
    monkeypatch.setattr(rows_of, "MEMORY_LIMIT", 1)
    monkeypatch.setattr(rows_of, "PART_ROWS", 64)
    monkeypatch.setattr("scstore.annotation.prediction_frames.BLOCK", 100)
    monkeypatch.setattr("scstore.search.query.BLOCK_BYTES", 4 * 16 * 100)


@pytest.mark.usefixtures("small")
def test_labels_are_those_of_one_process(file: Path, head: Any, workers: Any) -> None:
    here = scstore.predict(file, head, proba=True, majority="donor")
    there = scstore.predict(file, head, proba=True, majority="donor", dask=workers.scheduler_address)
    pd.testing.assert_frame_equal(here, there, check_exact=True)


@pytest.mark.usefixtures("small")
def test_annotated_cells_are_those_of_one_process(file: Path, head: Any, workers: Any) -> None:
    here = scstore.annotate(file, head, umap=False)
    there = scstore.annotate(file, head, umap=False, dask=workers.scheduler_address)
    pd.testing.assert_frame_equal(here.obs, there.obs, check_exact=True)
    assert np.array_equal(here.obsm["X_scstore"], there.obsm["X_scstore"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("exact", [True, False])
def test_neighbours_are_those_of_one_process(
    file: Path, workers: Any, monkeypatch: pytest.MonkeyPatch, *, exact: bool
) -> None:
    monkeypatch.setattr("scstore.search.query.EXACT_BELOW", 100)
    here = scstore.query(file, file, view="X_emb", k=5, exact=exact)
    there = scstore.query(file, file, view="X_emb", k=5, exact=exact, dask=workers.scheduler_address)
    pd.testing.assert_frame_equal(here.table, there.table, check_exact=True)


def test_scores_are_those_of_one_process(file: Path, workers: Any) -> None:
    how: dict[str, Any] = {"label": "cell_type", "group": "donor", "folds": 2, "views": ["X_emb", "regression"]}
    how["leave_one_class_out"] = True
    here, there = (scstore.evaluate(file, **how, dask=dask) for dask in (None, workers.scheduler_address))
    (mine,), (theirs,) = here.regimes, there.regimes
    pd.testing.assert_frame_equal(mine.scored.scores, theirs.scored.scores, check_exact=True)
    pd.testing.assert_frame_equal(mine.scored.predictions, theirs.scored.predictions, check_exact=True)
    assert here.left_out_classes == there.left_out_classes


@pytest.mark.parametrize("memory", ["held by the workers", "read in each iteration"])
def test_a_linear_head_is_that_of_one_process_but_for_rounding(
    file: Path, workers: Any, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    monkeypatch.setattr("scstore.heads.linear.HELD", 0.4 if memory.startswith("held") else 0.0)
    monkeypatch.setattr(rows_of, "PART_ROWS", 200)
    store = scstore.open(file)
    view, labels = store.view("X_emb"), store.obs["cell_type"]
    here = LinearHead().fit(view, labels)
    with on_cluster(workers.scheduler_address, store):
        there = LinearHead(memory_limit=1).fit(view, labels)
    assert (here.solver_, there.solver_) == ("exact", "cluster")
    assert there.training_note().startswith("logistic regression, on a cluster: ")
    again = LinearHead.from_state(there.to_state())
    assert np.abs(here.predict_proba(view) - again.predict_proba(view)).max() < 0.03
    assert (here.predict(view) == again.predict(view)).mean() > 0.995


def test_what_fits_into_memory_is_fitted_here(file: Path, head: Any, workers: Any, tmp_path: Path) -> None:
    names: dict[str, Any] = {"label": "cell_type", "views": ["X", "X_emb"]}
    scstore.fit(file, tmp_path / "head", **names, dask=workers.scheduler_address)
    save_head(head, tmp_path / "here", record=head.record_)
    here, there = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("here", "head"))
    assert here == there


def test_a_fit_uses_the_workers_from_its_label_to_its_thresholds(
    file: Path, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_of, "MEMORY_LIMIT", 1)
    monkeypatch.setattr("scstore.heads.class_numbers.MANY_ROWS", 100)  # as of many cells, one part is held out
    monkeypatch.setattr("scstore.heads.class_numbers.PART_ROWS", 100)
    how: dict[str, Any] = {"label": "cell_type", "params": {"memory_limit": 1}, "dask": workers.scheduler_address}
    head = scstore.fit(file, **how)
    assert "on a cluster" in head.record_["training"]["X"]
    assert head.held_out_["accuracy"] > 0.85


@pytest.mark.usefixtures("small")
def test_genes_and_axes_are_those_of_one_process(file: Path, workers: Any) -> None:
    store = scstore.open(file)
    rows = RowSubset(store.view("X"), np.arange(3, N_CELLS))
    labels = store.obs["cell_type"].to_numpy(dtype=object)[3:]
    how: dict[str, Any] = {"n_genes": 20, "n_components": 0, "background": RowSubset(store.view("X"), np.arange(500))}
    here = ExpressionReducer.fit(rows, labels, **how)
    with on_cluster(workers.scheduler_address, store):
        there = ExpressionReducer.fit(rows, labels, **how)
    for name in ("selected", "places", "free"):
        assert np.array_equal(getattr(here, name), getattr(there, name))
    for name in ("mean", "scale", "spread"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=1e-9)


@pytest.mark.usefixtures("small")
def test_the_command_writes_the_same_table(file: Path, head: Any, workers: Any, scstore_command: Run) -> None:
    saved = file.with_name("head")
    save_head(head, saved, record=head.record_, overwrite=True)
    address = workers.scheduler_address
    scstore_command("predict", file, "--head", saved, "-o", "here.csv")
    scstore_command("predict", file, "--head", saved, "-o", "there.csv", "--dask", address)
    assert Path("here.csv").read_bytes() == Path("there.csv").read_bytes()


def test_a_scheduler_file_names_the_cluster(file: Path, head: Any, workers: Any, tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text(json.dumps({"type": "Scheduler", "address": workers.scheduler_address}))
    found = scstore.predict(file, head, dask=str(tmp_path / "scheduler.json"))
    pd.testing.assert_frame_equal(found, scstore.predict(file, head))
    with pytest.raises(NetworkError):
        scstore.predict(file, head, dask=str(tmp_path / "missing.json"))


def _end_once(marker: Path, number: int) -> int:
    if number == 7 and not marker.exists():
        marker.touch()
        os._exit(1)
    return number**2


def test_a_worker_that_ends_changes_nothing(workers: Any, tmp_path: Path) -> None:
    with on_cluster(workers.scheduler_address):
        found = list(each(partial(_end_once, tmp_path / "ended"), range(20)))
    assert (tmp_path / "ended").exists()
    assert found == [number**2 for number in range(20)]


def _row_sums(part: Any, factor: int) -> int:
    return int(part.sum()) * factor


def test_pieces_that_are_lost_with_a_worker_are_made_again(workers: Any) -> None:
    with on_cluster(workers.scheduler_address):
        held = Held.make(np.arange, range(1, 41))
        wanted = sum(n * (n - 1) // 2 for n in range(1, 41))
        assert held.map(_row_sums, 1).total(sum) == wanted
        before = set(held.cluster.client.scheduler_info()["workers"])
        with pytest.raises(distributed.comm.CommClosedError):
            held.cluster.client.run(os._exit, 1, workers=[min(before)])
        assert held.map(_row_sums, 3).total(sum) == 3 * wanted


def _end(number: int) -> None:
    os._exit(number)


def test_a_piece_that_ends_every_worker_is_an_error(workers: Any) -> None:
    with on_cluster(workers.scheduler_address), pytest.raises(FaultError) as caught:
        list(each(_end, [1]))
    assert caught.value.kind == "fault"


def test_damage_that_a_worker_finds_is_the_same_error(evaluation_store: Path, workers: Any, tmp_path: Path) -> None:
    store = Path(shutil.copytree(evaluation_store, tmp_path / "ref.zarr"))
    view = scstore.open(store).default_view
    head = scstore.fit(store, label="cell_type", views=[view])
    chunk = next((store / "obsm" / view / "c").glob("*/0"))
    chunk.write_bytes(b"\x01" + chunk.read_bytes()[1:])
    head.rejection_ = None  # which looks at some cells before
    with pytest.raises(DamagedError, match="does not match its digest"):
        scstore.predict(store, head, dask=workers.scheduler_address)


def test_a_store_by_address_is_read_by_the_workers(
    evaluation_store: Path, files: Path, server: Any, workers: Any
) -> None:
    shutil.copytree(evaluation_store, files / "ref.zarr")
    view = scstore.open(evaluation_store).default_view
    head = scstore.fit(evaluation_store, label="cell_type", views=[view])
    found = scstore.predict(f"{server.url}/ref.zarr", head, dask=workers.scheduler_address)
    pd.testing.assert_frame_equal(found, scstore.predict(evaluation_store, head))


def test_a_store_that_was_made_anew_is_opened_anew(file: Path, workers: Any, tmp_path: Path) -> None:
    head, path = scstore.fit(file, label="cell_type", views=["X_emb"]), tmp_path / "cells.h5ad"
    adata = anndata.read_h5ad(file)
    for cells in (adata, adata[::-1].copy()):
        cells.write_h5ad(tmp_path / "new.h5ad")
        (tmp_path / "new.h5ad").replace(path)
        for name in (path, path.as_uri()):
            found = scstore.predict(name, head, dask=workers.scheduler_address)
            pd.testing.assert_frame_equal(found, scstore.predict(path, head))


def test_cells_in_memory_are_refused(file: Path, head: Any, workers: Any) -> None:
    with pytest.raises(OptionError) as caught:
        scstore.predict(anndata.read_h5ad(file), head, dask=workers.scheduler_address)
    assert caught.value.kind == "option"


def test_an_address_where_nobody_answers_is_an_error(file: Path, head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NetworkError) as caught:
        scstore.predict(file, head, dask=address)
    assert caught.value.kind == "network"


def test_a_cluster_without_workers_is_an_error(file: Path, head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as nobody,
        pytest.raises(NetworkError, match="no worker"),
    ):
        scstore.predict(file, head, dask=nobody.scheduler_address)


def test_workers_of_another_version_are_refused(
    file: Path, head: Any, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "version", lambda _: "999")
    with pytest.raises(OptionError):
        scstore.predict(file, head, dask=workers.scheduler_address)


def test_without_dask_the_extra_is_named(file: Path, head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=re.escape("scstore[dask]")):
        scstore.predict(file, head, dask="tcp://127.0.0.1:1")


def test_a_script_may_start_workers_of_its_own(file: Path, tmp_path: Path) -> None:
    script = f"""
import scstore
if __name__ == "__main__":
    head = scstore.fit({str(file)!r}, label="cell_type", views=["X_emb"])
    scstore.predict({str(file)!r}, head, output="labels.csv", dask="local")
"""
    (tmp_path / "run.py").write_text(script)
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, check=True)
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == N_CELLS + 1


@pytest.mark.parametrize("order", ["as they lie", "mixed"])
def test_parts_are_all_rows_once_and_end_where_files_do(order: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    index = np.arange(5, 95, 2) if order == "as they lie" else np.random.default_rng(1).permutation(100)[:45]
    found = list(rows_of._parts(RowSubset(RowSubset(matrix, np.arange(100)), index), 16))
    assert [place.stop for place, _ in found][:-1] == [place.start for place, _ in found][1:]
    values = np.concatenate([part[np.arange(part.shape[0])] for _, part in found])
    assert np.array_equal(values, matrix[index])
    if order == "as they lie":
        assert [int(index[place.start]) // 16 for place, _ in found] == list(range(6))
    assert all(part.index.size == place.stop - place.start for place, part in found)
