from __future__ import annotations

import gzip
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scstore import fsio
from scstore.errors import GenesError
from scstore.genes.published import read_published
from scstore.genes.table import load_gene_table, save_gene_table

NAMES = ["CD3D", "LYZ", "ENSG00000105374.9"]
VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
Write = Callable[[Path], None]


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(VECTORS, columns=list("abcd"), **columns)


FORMS: dict[str, Write] = {
    "lists.pickle": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS.tolist(), strict=True)))),
    "arrays.pkl": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS, strict=True)), protocol=4)),
    "lists.pkl": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS.tolist(), strict=True)), 4)),
    "index.parquet": lambda path: frame(index=NAMES).to_parquet(path),
    "column.parquet": lambda path: frame().assign(gene=NAMES).to_parquet(path),
    "first.parquet": lambda path: frame().assign(x=NAMES)[["x", *"abcd"]].to_parquet(path),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FORMS[name](path)
    table = read_published(path, organism="human")
    np.testing.assert_array_equal(table.vectors, VECTORS)
    assert list(table.obs.index) == ["CD3D", "LYZ", "ENSG00000105374"]
    assert list(table.obs["ensembl_id"]) == ["", "", "ENSG00000105374"]
    assert set(table.obs["organism"]) == {"human"}
    assert set(table.obs["text_source"]) == {"published"}
    assert table.encoder == {"kind": "published", "file": name, "digest": fsio.digest_file(path)}
    save_gene_table(table, tmp_path / "saved.h5ad")
    assert load_gene_table(tmp_path / "saved.h5ad").digest == table.digest


def mapping(**vectors: Any) -> Write:
    return lambda path: path.write_bytes(pickle.dumps(vectors))


BAD: dict[str, Write] = {
    "ragged.pkl": mapping(A=[1.0, 2.0], B=[1.0]),
    "nan.pkl": mapping(A=[1.0], B=[float("nan")]),
    "huge.pkl": mapping(A=[1.0], B=[1e300]),
    "words.pkl": mapping(B=["x"]),
    "nested.pkl": mapping(B=[[1.0]]),
    "scalar.pkl": mapping(B=1.0),
    "uneven.pkl": mapping(B=[[1.0], [1.0, 2.0]]),
    "none.pkl": mapping(B=None),
    "width0.pkl": mapping(B=[]),
    "empty.pkl": mapping(),
    "blank.pkl": mapping(**{"": [1.0]}),
    "keys.pkl": lambda path: path.write_bytes(pickle.dumps({7: [1.0]})),
    "versions.pkl": mapping(**{"ENSG00000167286.1": [1.0], "ENSG00000167286.2": [2.0]}),
    "twice.parquet": lambda path: frame(index=["A", "A", "B"]).to_parquet(path),
    "text.parquet": lambda path: frame().assign(gene=NAMES, x="y").to_parquet(path),
    "half.parquet": lambda path: path.write_bytes(b"PAR1\0\0"),
    "vectors.npz": lambda path: np.savez(path, genes=np.array(["A"]), vectors=np.eye(1)),
    "packed.pickle.gz": lambda path: path.write_bytes(gzip.compress(b"x")),
    "words.csv": lambda path: path.write_text("a,b\n") and None,
    "absent.pkl": lambda path: None,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_vectors_are_refused_and_named(tmp_path: Path, name: str) -> None:
    BAD[name](tmp_path / name)
    with pytest.raises(GenesError, match=name) as caught:
        read_published(tmp_path / name)
    if name in ("ragged.pkl", "nan.pkl", "huge.pkl", "words.pkl", "nested.pkl", "scalar.pkl"):
        assert "'B'" in str(caught.value)


@pytest.mark.parametrize("name", ["one vector", "lists of lists", "long words", "one number"])
def test_vectors_that_unfold(tmp_path: Path, name: str) -> None:
    """RELIABILITY 63: a little is named many times."""
    row, path = [1.5] * (1 << 15), tmp_path / "vectors"
    if name == "one number":
        pd.DataFrame({f"d{i}": np.zeros(200_000, "f4") for i in range(100)}).to_parquet(path)
    else:
        shared: Any = {"one vector": row, "lists of lists": [row] * 1000, "long words": ["x" * (1 << 20)] * 1000}[name]
        path.write_bytes(pickle.dumps({f"G{i}": shared for i in range(4000)}))
    tracemalloc.start()
    with pytest.raises(GenesError, match="would take" if name.startswith("one") else "is not a list of numbers"):
        read_published(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
