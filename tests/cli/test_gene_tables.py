"""The gene commands as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import Run, make_cells


def test_from_texts_to_a_table(tmp_path: Path, scstore_command: Run) -> None:
    (tmp_path / "g.tsv").write_text("symbol\ttext\nCD3D\tT cells\nLYZ\tmonocytes\n")
    words = ["genes", "build", "--text", "g.tsv", "--organism", "human", "--encoder", "random:8", "-o", "g.h5ad"]
    said = scstore_command(*words).stdout
    assert "g.h5ad: 2 genes × 8" in said
    assert "next: scstore extract" in said
    said = scstore_command("info", "g.h5ad").stdout
    for line in ("2 genes × 8", "encoder: kind random, seed 0, width 8", "template: {text}", "digest: sha256:"):
        assert line in said
    found = json.loads(scstore_command("--json", "info", "g.h5ad").stdout)
    assert (found["organisms"], found["coverage"]) == ({"human": 2}, "template 2 (100%)")


def test_an_endpoint_without_a_key(tmp_path: Path, scstore_command: Run) -> None:
    pytest.importorskip("openai")
    (tmp_path / "g.tsv").write_text("symbol\nCD3D\n")
    empty = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
    words = ["genes", "build", "--text", "g.tsv", "--encoder", "openai:text-embedding-ada-002", "-o", "g.h5ad"]
    said = scstore_command(*words, code=2, env=empty).stderr
    assert "OPENAI_API_KEY" in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["g.tsv"]


def test_only_the_genes_of_cells(tmp_path: Path, scstore_command: Run) -> None:
    for name, columns in (("a", [1, 2]), ("b", [2, 3])):
        make_cells(3)[:, columns].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    (tmp_path / "genes.tsv").write_text("symbol\n" + "".join(f"GENE{i}\n" for i in range(40)))
    words = "genes build --text genes.tsv --encoder random:4 -o g.h5ad --only-genes-of a.h5ad --only-genes-of b.h5ad"
    done = scstore_command(*words.split())
    assert "g.h5ad: 40 genes × 4" in done.stdout
    assert "3 of 40" in done.stderr
