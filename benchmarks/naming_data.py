"""Make the files that ``scstore name`` ships with: vectors of genes' and of cell types' texts, reduced and rounded.

    python benchmarks/naming_data.py --genes FOLDER --ontology CL-ontology-v2026-03-26.json.zst

FOLDER holds NCBI's ``Homo_sapiens.gene_info.gz``, ``Mus_musculus.gene_info.gz`` and ``gene_summary.gz``, and one-to-one
orthologs, ``human_mouse_orthologs.csv``. The ontology is one file out of the wheel ``cellxgene-ontology-guide``, as are
``cell_subclass_list.json`` and ``cell_type_descendants.json`` beside it. Needs the embedded model (scstore[demo]); half
an hour of a processor's time.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import save_file

from scstore.gene_tables.encoding import open_encoder
from scstore.genes.orthologs import read_orthologs
from scstore.genes.published import describe_by_ncbi, read_gene_info, read_summaries
from scstore.genes.vectors import encode_texts, matrix_power
from scstore.naming.terms import GENES, TERMS, VECTORS
from scstore.progress import Reporter

Array = NDArray[np.float64]

WIDTH = 128
COMMON = 5  # types of CELLxGENE's at or below a common one, at least
# Strong directions of the genes' vectors are weakened: half a whitening, whose power is -0.5.
POWER, SHRINKAGE = -0.25, 0.05
NAMES = ["symbol", "ensembl_id", "synonyms", "organism"]


def read_terms(ontology: Path) -> pd.DataFrame:
    """Terms that are not deprecated: id, name, synonyms, ancestors, whether general or common, and their text.

    A common one is a type of CELLxGENE's cells with at least four others of them below it.
    """
    raw = pa.CompressedInputStream(pa.BufferReader(ontology.read_bytes()), "zstd").read()
    general = {*json.loads((ontology.parent / "cell_subclass_list.json").read_text())}
    below = json.loads((ontology.parent / "cell_type_descendants.json").read_text())
    used = {*below, *(name for names in below.values() for name in names)}
    rows = []
    for name, term in json.loads(raw).items():
        if not name.startswith("CL:") or term.get("deprecated"):
            continue
        synonyms = term.get("synonyms") or []
        text = term["label"] + (f" ({', '.join(synonyms)})" if synonyms else "") + f". {term.get('description') or ''}"
        above = "|".join([name, *term["ancestors"]])
        rows.append([name, term["label"], "|".join(synonyms), above, name in general, text])
    terms = pd.DataFrame(rows, columns=["id", "name", "synonyms", "ancestors", "general", "text"])
    counts = Counter(above for name, text in zip(terms["id"], terms["ancestors"], strict=True) if name in used
                     for above in text.split("|"))  # fmt: skip
    common = [name in used and counts[name] >= COMMON for name in terms["id"]]
    return terms.assign(common=common)


def read_genes(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Human genes and the mouse genes that are their orthologs, ``vector`` the row of the human gene; its texts."""
    info = {name: read_gene_info(folder / f"{file}.gene_info.gz", organism=name) for name, file in
            (("human", "Homo_sapiens"), ("mouse", "Mus_musculus"))}  # fmt: skip
    summaries = read_summaries(folder / "gene_summary.gz")
    human, mouse = info["human"], info["mouse"]
    kept = human["type"].isin(["protein-coding", "other"]) | human["gene_id"].map(summaries).fillna("").ne("")
    genes = describe_by_ncbi(human[kept].reset_index(drop=True), summaries, organism="human").obs.reset_index(drop=True)
    pairs = read_orthologs(folder / "human_mouse_orthologs.csv", gene_info=info).symbols("mouse")
    rows = {symbol: row for row, symbol in enumerate(genes["symbol"])}
    mouse = mouse.assign(organism="mouse", vector=mouse["symbol"].map(pairs).map(rows))
    mouse = mouse[mouse["vector"].notna()].drop_duplicates("vector")
    both = pd.concat([genes[NAMES].assign(vector=np.arange(len(genes))), mouse[[*NAMES, "vector"]]], ignore_index=True)
    return both.astype({"vector": np.int32}), list(genes["text"])


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def projections(genes: Array, terms: Array, width: int | None) -> tuple[Array, Array]:
    """What brings genes and terms, centred, to the directions in which they are like and unlike one another most."""
    root = matrix_power(np.cov(genes.T), POWER, SHRINKAGE)
    covariances = [np.cov((vectors @ root).T) for vectors in (genes, terms)]
    roots = [matrix_power(one, 0.5, 1e-6) for one in covariances]
    left, strengths, right = np.linalg.svd(roots[0] @ roots[1])
    ends = (left[:, :width], right[:width].T)
    inverse = [matrix_power(one, -0.5, 1e-6) for one in covariances]
    of_genes, of_terms = (root @ one @ end * np.sqrt(strengths[:width]) for one, end in zip(inverse, ends, strict=True))
    return of_genes, of_terms


def rounded(vectors: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scale = np.abs(vectors).max(axis=1) / 127
    return np.round(vectors / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=Path, required=True)
    parser.add_argument("--ontology", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("scstore/naming/data"))
    parser.add_argument("--full", type=Path, help="also write the vectors in full width and unrounded, as .safetensors")
    given = parser.parse_args()
    genes, gene_texts = read_genes(given.genes)
    terms = read_terms(given.ontology)
    with open_encoder("minilm", revision=None, device=None, dtype=None, progress=Reporter()) as (encoder, kept):
        encoded = [unit(encode_texts(encoder, texts, kept=kept)) for texts in (gene_texts, list(terms["text"]))]
    centre = encoded[1].mean(axis=0, dtype=np.float64)
    centred = [encoded[0] - encoded[0].mean(axis=0, dtype=np.float64), encoded[1] - centre]
    both = projections(*centred, WIDTH)
    arrays = {"centre": centre.astype(np.float32), "projection": both[1].astype(np.float32)}
    for name, vectors, projection in zip(("genes", "terms"), centred, both, strict=True):
        arrays[name], arrays[f"{name}_scale"] = rounded(vectors @ projection)
    given.output.mkdir(exist_ok=True)
    save_file(arrays, given.output / VECTORS)
    genes.to_parquet(given.output / GENES, compression="zstd", index=False)
    terms.drop(columns="text").to_parquet(given.output / TERMS, compression="zstd", index=False)
    if given.full is not None:
        whole = zip(("genes", "terms"), centred, projections(*centred, None), strict=True)
        save_file({name: (vectors @ one).astype(np.float32) for name, vectors, one in whole}, given.full)


if __name__ == "__main__":
    main()
