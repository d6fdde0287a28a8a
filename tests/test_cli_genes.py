"""The gene commands as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

from support import Run, make_cells


def test_from_texts_to_neighbours(tmp_path: Path, scstore_command: Run) -> None:
    run = scstore_command
    for organism, symbols in (("human", ["CD3D", "CD3E", "LYZ", "MS4A1"]), ("mouse", ["Cd3d", "Lyz2", "Ms4a1"])):
        (tmp_path / f"{organism}.tsv").write_text("symbol\ttext\n" + "".join(f"{s}\t{s} text\n" for s in symbols))
        said = run("genes", "build", "--text", f"{organism}.tsv", "--organism", organism, "--encoder", "random:8", "-o",
                   f"{organism}.h5ad").stdout  # fmt: skip
        assert f"{organism}.h5ad: {len(symbols)} genes × 8" in said
        assert "next: scstore extract" in said
    said = run("genes", "merge", "human.h5ad", "mouse.h5ad", "-o", "both.h5ad").stdout
    assert "7 genes × 8: human 4, mouse 3" in said
    said = run("genes", "info", "both.h5ad").stdout
    for line in ("7 genes × 8", "encoder: kind random, seed 0, width 8", "template: {text}", "digest: sha256:"):
        assert line in said
    assert "organisms: human 4, mouse 3\ntexts rest on: template 7 (100%)\n" in said
    said = run("genes", "neighbours", "CD3D", "--genes", "both.h5ad", "-k", "3").stdout
    assert "whitened" in said
    found = json.loads(run("--json", "genes", "neighbours", "CD3D", "--genes", "both.h5ad", "-k", "3").stdout)
    assert len(found["neighbours"]) == 3
    assert set(found["neighbours"][0]) == {"gene", "symbol", "organism", "cosine", "text"}
    assert json.loads(run("--json", "genes", "info", "both.h5ad").stdout)["organisms"] == {"human": 4, "mouse": 3}
    said = run("genes", "neighbours", "CD3", "--genes", "both.h5ad", code=2).stderr
    assert "Close to it: CD3E, CD3D, Cd3d" in said
    said = run("genes", "merge", "human.h5ad", "human.h5ad", "-o", "x.h5ad", code=2).stderr
    assert "both hold 4 genes of human" in said


def test_an_endpoint_without_a_key(tmp_path: Path, scstore_command: Run) -> None:
    (tmp_path / "g.tsv").write_text("symbol\nCD3D\n")
    empty = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
    words = ["genes", "build", "--text", "g.tsv", "--encoder", "openai:text-embedding-ada-002", "-o", "g.h5ad"]
    said = scstore_command(*words, code=2, env=empty).stderr
    assert "OPENAI_API_KEY" in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["g.tsv"]


def test_a_server_that_is_not_there_is_a_fault(tmp_path: Path, scstore_command: Run) -> None:
    words = ["genes", "build", "--organism", "human", "--download", "ncbi", "-o", "g.h5ad", "--encoder", "random:4"]
    said = scstore_command(*words, code=1, env={"SCSTORE_NCBI_URL": "gopher://nowhere"}).stderr
    assert "gopher://nowhere/GENE_INFO/Mammalia/Homo_sapiens.gene_info.gz: cannot be fetched" in said
    assert "--gene-info FILE" in said


def test_only_the_genes_of_cells(tmp_path: Path, scstore_command: Run) -> None:
    for name, columns in (("a", [1, 2]), ("b", [2, 3])):
        make_cells(3)[:, columns].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    (tmp_path / "genes.tsv").write_text("symbol\n" + "".join(f"GENE{i}\n" for i in range(40)))
    words = "genes build --text genes.tsv --encoder random:4 -o g.h5ad --only-genes-of a.h5ad --only-genes-of b.h5ad"
    done = scstore_command(*words.split())
    assert "g.h5ad: 3 genes × 4" in done.stdout
    assert "genes: of 40 the 3 that are genes of a.h5ad, b.h5ad" in done.stderr
