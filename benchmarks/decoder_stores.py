"""What benchmarks/decoder.py reads of the cells: one pair, with the decoder or a control of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from decoder_rows import Matrix
from feature_stores import ncbi_table
from lab_pairs import Cut, Pair, cut, few

import scstore

POOLINGS = ("last", "mean", "wmean")
LEAST_A_LABEL = 10
"""Cells of a label that are read at least, where there are so many."""
SYMBOLS, VECTORS = "symbols", "vectors"
WITH_MEANING = (SYMBOLS, VECTORS)
READINGS: dict[str, dict[str, Any]] = {
    SYMBOLS: {"input": "symbols"},
    "renamed symbols": {"input": "symbols", "control": "renamed"},
    "symbols, random weights": {"input": "symbols", "control": "random-llm"},
    VECTORS: {},
    "random vectors": {"control": "random-genes"},
}
"""Ways to read the cells: options of ``scstore extract``. All but two are controls."""


@dataclass(frozen=True)
class Sides:
    """Cells of a pair, and those of them that the model reads.

    Attributes
    ----------
    cut
        All: what needs neither labels nor a model is fitted on its whole training side.
    read, tested
        Rows of the training and of the test side that are read.
    cells
        Counts of ``read`` and then ``tested``.
    panel
        Names of the panel's genes, chosen without labels on the training side; its file lies in the folder.
    folder
        Of what belongs to this pair.
    """

    cut: Cut
    read: np.ndarray
    tested: np.ndarray
    cells: anndata.AnnData
    panel: list[str]
    folder: Path

    @property
    def columns(self) -> np.ndarray:
        """Genes of the panel as columns of the cut."""
        place = {name: column for column, name in enumerate(self.cut.genes)}
        return np.array([place[name] for name in self.panel])


def sides(data: Path, pair: Pair, work: Path, *, cells: int, genes: int, seed: int) -> Sides:
    """Draw the cells of a pair, and choose the panel."""
    one, rng = cut(data, pair, seed), np.random.default_rng(seed)
    read, tested = (_drawn(labels, cells, rng) for labels in (one.labels, one.truth))
    files = [anndata.read_h5ad(data / f"{side.file}.h5ad") for side in (pair.train, pair.test)]
    train, test = (
        file[rows][:, np.isin(file.var_names, one.genes)].copy() for file, rows in zip(files, one.rows, strict=True)
    )
    folder = work / "".join(letter if letter.isalnum() else "-" for letter in pair.name)
    folder.mkdir(parents=True, exist_ok=True)
    panel = scstore.panel(train, folder / "panel.h5ad", label_free=True, n_genes=genes, overwrite=True, progress=False)
    parts = {"train": train[read], "test": test[:, train.var_names][tested]}
    both = anndata.concat(parts, index_unique="-")
    return Sides(one, read, tested, both, list(panel.obs.index), folder)


def _drawn(labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of about ``most`` cells: some of each label, then whichever."""
    if len(labels) <= most:
        return np.arange(len(labels))
    some = few(labels, LEAST_A_LABEL, rng)
    others = rng.permutation(np.setdiff1d(np.arange(len(labels)), some))
    return np.sort(np.concatenate([some, others[: max(0, most - len(some))]]))


@dataclass(frozen=True)
class Reader:
    """Reads cells with one model; what it has read is kept in the pair's folder for the next time.

    Attributes
    ----------
    model
        As for ``scstore extract``.
    ncbi
        Folder of NCBI's gene files.
    layers
        Layers to read.
    tell
        Says what was done.
    """

    model: str
    ncbi: Path
    layers: tuple[int, ...]
    tell: Callable[[str], None]

    def read(self, sides: Sides, name: str) -> dict[str, Matrix]:
        """Every view of one way to read the cells, by name."""
        kept = sides.folder / f"{name}, layers {' '.join(map(str, self.layers))}.npz"
        if not kept.exists():
            np.savez(kept, **self._views(sides, name))
            self.tell(f"read {name}")
        n = len(sides.read)
        with np.load(kept) as views:
            return {view: Matrix(values[:n], values[n:]) for view, values in views.items()}

    def _views(self, sides: Sides, name: str) -> dict[str, np.ndarray]:
        how = READINGS[name]
        if how.get("input") != "symbols":
            how = {**how, "genes": self._gene_table(sides)}
        store = scstore.extract(
            sides.cells,
            sides.folder / f"{name}.zarr",
            model=self.model,
            panel=sides.folder / "panel.h5ad",
            layers=self.layers,
            pool=POOLINGS,
            keep_expression=False,
            store_dtype="float32",
            dtype="bfloat16",
            device="cpu",
            min_match=0.0,
            overwrite=True,
            progress=False,
            **how,
        )
        return {view: np.asarray(store.view(view)[:], dtype=np.float32) for view in store.views}

    def _gene_table(self, sides: Sides) -> Path:
        """NCBI's texts of the panel's genes, encoded by the embedded encoder."""
        path = sides.folder / "genes.h5ad"
        return path if path.exists() else ncbi_table(path, set(sides.panel), self.ncbi, encoder="minilm")
