from __future__ import annotations

from pathlib import Path

import pytest

import scstore
from scstore.errors import GenesError, OptionError, OutputError
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


def test_merged_tables_are_tables(tables: list[Path], tmp_path: Path) -> None:
    merged = scstore.merge_genes(tables, tmp_path / "both.h5ad")
    assert load_gene_table(tmp_path / "both.h5ad").digest == merged.digest
    assert describe_genes(tmp_path / "both.h5ad")["organisms"] == {"human": 3, "mouse": 2}
    found = scstore.neighbours("Cd3d", genes=tmp_path / "both.h5ad", k=2)
    assert len(found) == 2
    assert "Cd3d" not in found.index


def test_mistakes(tables: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        scstore.merge_genes(tables, tables[0])
    with pytest.raises(OptionError, match="two or more"):
        scstore.merge_genes(tables[:1], tmp_path / "x.h5ad")
    with pytest.raises(GenesError, match="no such gene table"):
        scstore.merge_genes([*tables, tmp_path / "absent.h5ad"], tmp_path / "x.h5ad")
    with pytest.raises(OptionError, match="-k 0"):
        scstore.neighbours("CD3D", genes=tables[0], k=0)
    assert not (tmp_path / "x.h5ad").exists()
