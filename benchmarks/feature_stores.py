"""The stores that benchmarks/features.py compares: one cell file, a panel of the training cells, one thing changed."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np

import scstore
from scstore.errors import FeatureSpaceError

LABEL = "cell_type"
PANEL_GENES = 100
"""What an inner cross-validation chose for the blood donors (2026-11-21); for the pancreas it was 50."""
CONTROLS = {"random genes": "random-genes", "random model": "random-llm", "shuffled order": "shuffled-order"}
"""Names in the tables, and what ``scstore extract --control`` calls them."""
DEFAULT, REGRESSION = "default", "regression"
"""Rows of :func:`scstore.evaluate`: what ``scstore fit`` makes, and what needs neither model nor texts."""
LABEL_FREE = "label-free panel: "
"""Before the names of the rows whose panel saw no label."""


@dataclass(frozen=True)
class Pair:
    """Cells of a file, of which those whose ``column`` is ``value`` are held out."""

    file: Path
    column: str
    value: str

    @classmethod
    def of(cls, folder: Path, words: str) -> Pair:
        """From ``FILE:COLUMN:VALUE``."""
        file, column, value = words.split(":")
        return cls(folder / file, column, value)

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.file.stem}-{self.value}"

    @cached_property
    def cells(self) -> anndata.AnnData:
        """All of them, raw counts."""
        return anndata.read_h5ad(self.file)

    @cached_property
    def labels(self) -> np.ndarray:
        """``(n,)`` text."""
        return self.cells.obs[LABEL].astype(str).to_numpy()

    @cached_property
    def held_out(self) -> np.ndarray:
        """``(n,) bool``: the test side."""
        return (self.cells.obs[self.column].astype(str) == self.value).to_numpy()

    @cached_property
    def tested(self) -> np.ndarray:
        """``(m,)`` rows of the cells that are scored: of the test side, with a label that the training side has."""
        return np.flatnonzero(self.held_out & np.isin(self.labels, self.labels[~self.held_out]))


@dataclass(frozen=True)
class Source:
    """A store, and the rows that are read from it.

    Attributes
    ----------
    prefix
        Before the rows' names.
    store
        Its path.
    views
        Rows wanted, as for :func:`scstore.evaluate`.
    controls
        Stores by name.
    """

    prefix: str
    store: Path
    views: tuple[str, ...]
    controls: dict[str, list[Path]]


@dataclass(frozen=True)
class Stores:
    """Makes the stores, once: a folder that is kept has them for the next time."""

    work: Path
    genes: Path
    model: str
    layers: tuple[int, ...]
    top_genes: int
    tell: Callable[[str], None]
    panel_genes: int = PANEL_GENES

    @property
    def readout(self) -> str:
        """The default view, chosen beforehand."""
        return f"readout_wmean_l{self.layers[0]}"

    def panel(self, pair: Pair, name: str, **how: Any) -> str:
        """A panel fitted on the training cells; of ``panel_genes``, unless ``n_genes`` says otherwise."""
        path = self.work / f"{pair.name}-{name}.h5ad"
        how = {"n_genes": self.panel_genes, **how}
        scstore.panel(pair.cells[~pair.held_out].copy(), path, overwrite=True, **how)
        return str(path)

    def extract(self, pair: Pair, name: str, **options: Any) -> Path:
        """A store of all cells of the file; one of another feature space is replaced."""
        path = self.work / f"{name}.zarr"
        given = {"model": self.model, "genes": str(self.genes), **options}
        fresh = not path.exists()
        try:
            scstore.extract(pair.file, path, **given)
        except FeatureSpaceError:
            fresh = True
            scstore.extract(pair.file, path, overwrite=True, **given)
        if fresh:
            self.tell(f"extracted {path.name}")
        return path

    def labelled(self, pair: Pair) -> Source:
        """The panel by ANOVA F: every view and combination, and every control."""
        panel, readout = self.panel(pair, "panel", label=LABEL), self.readout
        poolings = ("wmean", "last", "mean")
        store = self.extract(pair, f"{pair.name}-panel", panel=panel, layers=self.layers, pool=poolings)
        shallow: dict[str, Any] = {"panel": panel, "layers": self.layers[:1], "pool": ("wmean",)}
        controls = {
            name: [self.extract(pair, f"{pair.name}-{control}", control=control, **shallow)]
            for name, control in CONTROLS.items()
        }
        alone = [f"readout_{pool}_l{layer}" for pool in poolings for layer in self.layers]
        together = [f"{readout}+genept", f"{readout}+X", "genept+X"]
        without = ["genept_random", "X", "genept_random+X", REGRESSION]
        return Source("", store, (DEFAULT, *alone, "genept", *together, *without), controls)

    def label_free(self, pair: Pair) -> Source:
        """The panel that saw no label, and the controls that fewer labels ask for."""
        panel = self.panel(pair, "label-free", label_free=True)
        shallow: dict[str, Any] = {"panel": panel, "layers": self.layers[:1], "pool": ("wmean",)}
        store = self.extract(pair, f"{pair.name}-label-free", **shallow)
        controls = {
            name: [self.extract(pair, f"{pair.name}-label-free-{CONTROLS[name]}", control=CONTROLS[name], **shallow)]
            for name in ("random genes", "random model")
        }
        views = (DEFAULT, self.readout, "genept", "genept+X", "genept_random", "X", "genept_random+X", REGRESSION)
        return Source(LABEL_FREE, store, views, controls)

    def whole(self, pair: Pair) -> list[Source]:
        """No panel: the most expressed genes, GenePT-w, GenePT-s. The same for every pair of a file."""
        name, first, last = pair.file.stem, self.layers[0], self.layers[-1]
        ends = tuple(dict.fromkeys((first, last)))
        most = self.extract(pair, f"{name}-all-genes", top_genes=self.top_genes, layers=ends, pool=("wmean", "last"))
        papers = f"readout_last_l{last}"
        return [
            Source("all genes: ", most, (self.readout, papers), {}),
            Source("all genes: ", self.extract(pair, f"{name}-genept-w", preset="genept-w"), ("genept_w",), {}),
            Source("all genes: ", self.extract(pair, f"{name}-genept-s", preset="genept-s"), ("genept_s",), {}),
        ]


def ncbi_table(path: Path, symbols: Collection[str], ncbi: Path, *, encoder: str) -> Path:
    """Write the gene table of NCBI's texts of some human genes, beside it the lines of NCBI's file about these."""
    source, wanted = ncbi / "Homo_sapiens.gene_info.gz", path.parent / "gene_info.gz"
    with gzip.open(source, "rt", encoding="utf-8") as lines, gzip.open(wanted, "wt", encoding="utf-8") as out:
        out.writelines(line for line in lines if line.startswith("#") or line.split("\t")[2] in symbols)
    texts = {"gene_info": wanted, "gene_summary": ncbi / "gene_summary.gz", "organism": "human"}
    scstore.build_genes(path, **texts, encoder=encoder, device="cpu")
    return path
