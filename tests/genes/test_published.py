from __future__ import annotations

import gzip
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.errors import GenesError
from scstore.genes.published import read_published
from scstore.genes.table import load_gene_table, save_gene_table

NAMES = ["CD3D", "LYZ", "ENSG00000105374.9"]
VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
INFO = pd.DataFrame(
    {
        "gene_id": ["915", "4069", "4818", "931"],
        "symbol": ["CD3D", "LYZ", "NKG7", "MS4A1"],
        "synonyms": ["T3D|CD3-DELTA", "", "GIG1", "CD20|B1"],
        "ensembl_id": ["ENSG00000167286", "", "ENSG00000105374", "ENSG00000156738"],
    }
)
Write = Callable[[Path], None]


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(VECTORS, columns=list("abcd"), **columns)


def h5ad(matrix: Any) -> Write:
    return lambda path: anndata.AnnData(matrix, obs=pd.DataFrame(index=NAMES)).write_h5ad(path)


FORMS: dict[str, Write] = {
    "lists.pickle": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS.tolist(), strict=True)))),
    "arrays.pkl": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS, strict=True)), protocol=4)),
    "lists.pkl": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS.tolist(), strict=True)), 4)),
    "index.parquet": lambda path: frame(index=NAMES).to_parquet(path),
    "column.parquet": lambda path: frame().assign(gene=NAMES).to_parquet(path),
    "first.parquet": lambda path: frame().assign(x=NAMES)[["x", *"abcd"]].to_parquet(path),
    "dense.h5ad": h5ad(VECTORS),
    "sparse.h5ad": h5ad(csr_matrix(VECTORS)),
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


def test_gene_info_fills_in_the_other_names(tmp_path: Path) -> None:
    """By symbol, Ensembl id, and an old symbol whose gene is not there under its present one."""
    names = ["CD3D", "T3D", "ENSG00000105374", "CD20", "NOBODY", "LYZ"]
    pd.DataFrame(np.eye(6), index=names).rename(columns=str).to_parquet(tmp_path / "v.parquet")
    obs = read_published(tmp_path / "v.parquet", organism="human", gene_info=INFO).obs
    assert list(obs["symbol"]) == ["CD3D", "T3D", "NKG7", "CD20", "NOBODY", "LYZ"]
    assert list(obs["ensembl_id"]) == ["ENSG00000167286", "", "ENSG00000105374", "ENSG00000156738", "", ""]
    assert list(obs["gene_id"]) == ["915", "", "4818", "931", "", "4069"]
    assert list(obs["synonyms"]) == ["T3D|CD3-DELTA", "", "GIG1", "MS4A1|B1", "", ""]


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
    "half.h5ad": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n\0"),
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


def test_repeated_names_of_an_anndata(tmp_path: Path) -> None:
    adata = anndata.AnnData(np.eye(2), obs=pd.DataFrame(index=["A", "B"]))
    adata.obs_names = ["A", "A"]
    adata.write_h5ad(tmp_path / "twice.h5ad")
    with pytest.raises(GenesError, match=r"twice\.h5ad"):
        read_published(tmp_path / "twice.h5ad")
