from __future__ import annotations

from pathlib import Path

import pytest

import scstore
from scstore.gene_tables.describe import describe_genes
from scstore.genes.table import load_gene_table


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    symbols = {"human": ["CD3D", "LYZ", "MS4A1"], "mouse": ["Cd3d", "Lyz2"]}
    for organism, names in symbols.items():
        (tmp_path / f"{organism}.tsv").write_text("symbol\n" + "\n".join(names) + "\n")
        out = tmp_path / f"{organism}.h5ad"
        scstore.build_genes(out, text=tmp_path / f"{organism}.tsv", organism=organism, encoder="random:6")
    return [tmp_path / f"{organism}.h5ad" for organism in symbols]


def test_what_a_table_holds(tables: list[Path]) -> None:
    assert describe_genes(tables[0]) == {
        "n_genes": 3,
        "width": 6,
        "encoder": {"kind": "random", "width": 6, "seed": 0},
        "template": "{symbol}",
        "organisms": {"human": 3},
        "texts": {"symbol": 3},
        "coverage": "symbol 3 (100%)",
        "digest": load_gene_table(tables[0]).digest,
    }
