from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import ROOT, make_cells

import scstore
from scstore import fsio
from scstore.errors import LockedError, OptionError
from scstore.extraction.extract import Process, create_or_wait, this_process
from scstore.store.ledger import Part, creation_lock

WORDS = ["extract", "cells.h5ad", "-o", "s.zarr", "--shard-rows", "10"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders with the same cells: one for a single process, one for several."""
    for name in ("one", "many"):
        (tmp_path / name).mkdir()
        make_cells(75, empty=3).write_h5ad(tmp_path / name / "cells.h5ad")
        os.utime(tmp_path / name / "cells.h5ad", ns=(1, 1))
    return tmp_path


def launch(folder: Path, model: Path, *, script: Path = ROOT / "cli.py") -> subprocess.CompletedProcess[str]:
    """`accelerate launch` with two processes on the CPU."""
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run(
        [sys.executable, *launcher, str(script), *WORDS, "--model", str(model)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_LOG_LEVEL": "ERROR"},
    )


def test_several_processes_write_the_store_of_one_byte_for_byte(folder: Path, llama: Path) -> None:
    scstore.extract(folder / "one" / "cells.h5ad", folder / "one" / "s.zarr", model=str(llama), shard_rows=10)
    done = launch(folder / "many", llama)
    assert done.returncode == 0, done.stderr
    one, many = (fsio.digest_tree(folder / name / "s.zarr") for name in ("one", "many"))
    assert one == many
    assert sorted(path.name for path in (folder / "many").iterdir()) == ["cells.h5ad", "s.genes.h5ad", "s.zarr"]
    assert done.stderr.count("counts from X") == 1  # one process speaks for all


def test_processes_of_several_machines_write_the_store_of_one(folder: Path, llama: Path) -> None:
    """Two of torchrun's, each a node with one process, as srun starts them; all is told by environment variables."""
    scstore.extract(folder / "one" / "cells.h5ad", folder / "one" / "s.zarr", model=str(llama), shard_rows=10)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--rdzv-id", "7", "-m", "scstore", *WORDS]
    nodes = [
        subprocess.Popen(
            [*words, "--model", str(llama), "--device", "cpu"],
            cwd=folder / "many",
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [node.communicate(timeout=1800)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "".join(said)
    one, many = (fsio.digest_tree(folder / name / "s.zarr") for name in ("one", "many"))
    assert one == many
    assert "".join(said).count("counts from X") == 1


KILLED = """
import os, signal
import scstore.extraction.extract as workflow
from scstore.cli import main
real = workflow.commit_shard
def commit(*words, **named):
    real(*words, **named)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
workflow.commit_shard = commit
main()
"""


def test_a_killed_process_ends_the_run_and_another_number_of_them_finishes_it(folder: Path, llama: Path) -> None:
    """RELIABILITY 27: non-zero exit in bounded time; resumable, also with another number of processes."""
    scstore.extract(folder / "one" / "cells.h5ad", folder / "one" / "s.zarr", model=str(llama), shard_rows=10)
    (folder / "many" / "killed.py").write_text(KILLED)
    done = launch(folder / "many", llama, script=folder / "many" / "killed.py")
    assert done.returncode != 0
    store = scstore.open(folder / "many" / "s.zarr")
    assert not store.is_complete
    assert store.committed[10:20].all()  # what the killed process had committed
    scstore.extract(folder / "many" / "cells.h5ad", folder / "many" / "s.zarr", model=str(llama), shard_rows=10)
    assert fsio.digest_tree(folder / "one" / "s.zarr") == fsio.digest_tree(folder / "many" / "s.zarr")


def test_the_jobs_of_an_array_finish_a_store_together(folder: Path, llama: Path) -> None:
    for name, parts in (("one", [None]), ("many", ["2/3", "0/3", "1/3"])):
        for i, part in enumerate(parts):
            store = scstore.extract(
                folder / name / "cells.h5ad", folder / name / "s.zarr", model=str(llama), shard_rows=10, shard=part
            )
            assert store.is_complete == (i == len(parts) - 1)
    assert fsio.digest_tree(folder / "one" / "s.zarr") == fsio.digest_tree(folder / "many" / "s.zarr")


def test_a_process_finds_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == Process(Part(), None)
    assert this_process(Part(1, 4)).part == Part(1, 4)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    found = this_process()
    assert (found.part, found.is_silent) == (Part(5, 8), True)
    with pytest.raises(OptionError, match="8"):
        this_process(Part(0, 2))


def test_one_shapes_the_store_and_the_others_wait(tmp_path: Path) -> None:
    target, begun, go = tmp_path / "s.zarr", threading.Event(), threading.Event()
    results: list[str | None] = []

    def create() -> str:
        begun.set()
        go.wait(10)
        target.mkdir()
        (target / "zarr.json").touch()
        return "created"

    def work(index: int) -> None:
        results.append(create_or_wait(target, Process(Part(index, 2), None), create, overwrite=False))

    first = threading.Thread(target=work, args=(0,))
    first.start()
    begun.wait(10)
    second = threading.Thread(target=work, args=(1,))
    second.start()
    go.set()
    first.join()
    second.join()
    assert sorted(map(str, results)) == ["None", "created"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_creator_without_a_sign_of_life_is_not_waited_for(tmp_path: Path) -> None:
    lock = creation_lock(tmp_path / "s.zarr")
    lock.write_text('{"host": "elsewhere", "pid": 1, "since": 0}')
    os.utime(lock, (0, 0))
    with pytest.raises(LockedError, match="elsewhere"):
        create_or_wait(tmp_path / "s.zarr", Process(Part(0, 2), None), lambda: None, overwrite=False)


def test_several_processes_replace_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="overwrite"):
        create_or_wait(tmp_path / "s.zarr", Process(Part(0, 2), None), lambda: None, overwrite=True)


def test_an_existing_store_is_not_shaped_again(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "zarr.json").touch()
    assert create_or_wait(tmp_path / "s.zarr", Process(Part(), None), this_process, overwrite=False) is None
