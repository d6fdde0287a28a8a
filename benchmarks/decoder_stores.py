"""What benchmarks/decoder.py reads of the cells: one pair, with the decoder or a control of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from decoder_rows import Matrix
from feature_stores import ncbi_table
from lab_pairs import Cut, Pair, cut, few

import scstore
from scstore.panels.panel import load_panel, save_panel
from scstore.tokens.sequences import renamed

POOLINGS = ("last", "mean", "wmean")
TRAINED_POOLINGS = ("last", "wmean")
LEAST_A_LABEL = 6
"""Cells of a label that are read at least, where there are so many."""
GENES = 1500
"""Genes of a gene table, beside the panel's."""
SYMBOLS, VECTORS = "symbols", "vectors"
RENAMED, RENAMED_AGAIN = "renamed symbols", "symbols renamed otherwise"
TRAINED, TRAINED_RANDOM = "trained vectors", "trained random vectors"
LABEL = "label_to_learn"


@dataclass(frozen=True)
class Way:
    """A way to read the cells.

    Attributes
    ----------
    options
        Of ``scstore extract``.
    meaning
        Whether it has all that the model and the texts know; it is a control otherwise.
    renamed
        Seed of names that are dealt anew before ``scstore extract`` sees them; 0 is that of its own control.
    deepest
        Layers beyond are not read, to save time.
    encoder
        Of the gene table.
    trained
        Whether ``scstore align`` makes the projector, from the training cells' labels.
    """

    options: dict[str, Any]
    meaning: bool = False
    renamed: int = 0
    deepest: int | None = None
    encoder: str = "minilm"
    trained: bool = False

    def layers(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Those of the wanted layers that are read."""
        return tuple(layer for layer in wanted if self.deepest is None or layer <= self.deepest) or tuple(wanted[:1])


RANDOM_WEIGHTS = {"control": "random-llm"}
WAYS = {
    SYMBOLS: Way({"input": "symbols"}, meaning=True),
    RENAMED: Way({"input": "symbols", "control": "renamed"}),
    RENAMED_AGAIN: Way({"input": "symbols"}, renamed=1),
    "symbols, random weights": Way({"input": "symbols", **RANDOM_WEIGHTS}, deepest=8),  # a quarter of the time
    VECTORS: Way({}, meaning=True),
    "random vectors": Way({"control": "random-genes"}),
    "vectors, random weights": Way(RANDOM_WEIGHTS, deepest=8),
    TRAINED: Way({}, meaning=True, trained=True),
    TRAINED_RANDOM: Way({}, encoder="random:384", trained=True),
}
READINGS = [name for name, way in WAYS.items() if not way.trained]


@dataclass(frozen=True)
class Part:
    """Cells to be read on the genes of a panel, whose file is ``panel``."""

    cells: anndata.AnnData
    genes: list[str]
    panel: Path

    def with_names_dealt(self, seed: int) -> Part:
        """Cells whose genes of the panel have each other's names."""
        dealt = dict(zip(self.genes, renamed(self.genes, seed=seed), strict=True))
        cells = self.cells.copy()
        cells.var_names = [dealt.get(name, name) for name in cells.var_names]
        return replace(self, cells=cells)


@dataclass(frozen=True)
class Sides:
    """Cells of a pair, and those of them that the model reads.

    Attributes
    ----------
    cut
        All: what needs neither labels nor a model is fitted on its whole training side.
    read, tested
        Rows of the training and of the test side that are read.
    parts
        Counts of ``read`` and then ``tested``, together or each on genes of its own.
    panel
        Names of the panel's genes, chosen without labels on the training side.
    work
        Folder of what belongs to this pair.
    """

    cut: Cut
    read: np.ndarray
    tested: np.ndarray
    parts: tuple[Part, ...]
    panel: list[str]
    work: Path

    @property
    def folder(self) -> Path:
        """Of what is read in these parts."""
        return self.parts[0].panel.parent

    @property
    def labels(self) -> np.ndarray:
        """Of ``read``."""
        return self.cut.labels[self.read]

    @property
    def truth(self) -> np.ndarray:
        """Labels of ``tested``."""
        return self.cut.truth[self.tested]

    def columns(self, genes: Sequence[str]) -> np.ndarray:
        """Genes as columns of the cut."""
        place = {name: column for column, name in enumerate(self.cut.genes)}
        return np.array([place[name] for name in genes])

    def gene_table(self, encoder: str = "minilm") -> Path:
        """Where the gene table is, or will be."""
        return self.work / f"genes-{encoder.replace(':', '-')}.h5ad"

    @cached_property
    def disjoint(self) -> Sides:
        """The training side on one half of the panel's genes, dealt at random, the test side on the other."""
        panel, cells, folder = load_panel(self.parts[0].panel), self.parts[0].cells, self.work / "disjoint"
        folder.mkdir(exist_ok=True)
        dealt, parts = np.random.default_rng(0).permutation(len(panel)), []
        for half, rows in enumerate((slice(None, len(self.read)), slice(len(self.read), None))):
            own = replace(panel, obs=panel.obs.iloc[np.sort(dealt[half::2])])
            path = save_panel(own, folder / f"panel{half}.h5ad", overwrite=True)
            parts.append(Part(cells[rows].copy(), list(own.obs.index), path))
        return replace(self, parts=tuple(parts))


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
    path = folder / "panel.h5ad"
    panel = scstore.panel(train, path, label_free=True, n_genes=genes, overwrite=True, progress=False)
    both = anndata.concat({"train": train[read], "test": test[:, train.var_names][tested]}, index_unique="-")
    names = list(panel.obs.index)
    return Sides(one, read, tested, (Part(both, names, path),), names, folder)


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
    layers, trained_layers
        Layers to read, and those that projectors are trained for, each by itself.
    tell
        Says what was done.
    """

    model: str
    ncbi: Path
    layers: tuple[int, ...]
    trained_layers: tuple[int, ...]
    tell: Callable[[str], None]

    def read(self, sides: Sides, name: str) -> dict[str, Matrix]:
        """Every view of one way to read the cells, by name."""
        way = WAYS[name]
        layers = self.trained_layers if way.trained else way.layers(self.layers)
        kept = sides.folder / f"{name}, layers {' '.join(map(str, layers))}.npz"
        if not kept.exists():
            read = self._trained(sides, name) if way.trained else self._all_parts(sides, name, layers)
            np.savez(kept, **read)
            self.tell(f"read {name}{', disjoint genes' if len(sides.parts) > 1 else ''}")
        n = len(sides.read)
        with np.load(kept) as views:
            return {view: Matrix(values[:n], values[n:]) for view, values in views.items()}

    def _all_parts(self, sides: Sides, name: str, layers: tuple[int, ...]) -> dict[str, np.ndarray]:
        parts = [self._views(sides, part, WAYS[name], layers=layers, pool=POOLINGS) for part in sides.parts]
        return {view: np.concatenate([part[view] for part in parts]) for view in parts[0]}

    def _trained(self, sides: Sides, name: str) -> dict[str, np.ndarray]:
        """Each layer through a projector that was trained for it, on the labels of all training cells that are read."""
        (part,), way, views = sides.parts, WAYS[name], {}
        train = part.cells[: len(sides.read)].copy()
        train.obs[LABEL] = sides.labels
        for layer in self.trained_layers:
            how: dict[str, Any] = {"layers": (layer,), "pool": TRAINED_POOLINGS}
            projector = sides.folder / f"{name}, layer {layer}"
            given = {**self._shared(part), "genes": self._gene_table(sides, way.encoder), **how}
            scstore.align(train, projector, label=LABEL, **given)
            views |= self._views(sides, part, way, **how, projector=str(projector))
        return {view: values for view, values in views.items() if view.startswith("readout_")}

    def _views(self, sides: Sides, part: Part, way: Way, **how: Any) -> dict[str, np.ndarray]:
        if way.options.get("input") != "symbols":
            how["genes"] = self._gene_table(sides, way.encoder)
        if way.renamed:
            part = part.with_names_dealt(way.renamed)
        store = scstore.extract(
            part.cells,
            sides.folder / "read.zarr",
            keep_expression=False,
            store_dtype="float32",
            **self._shared(part),
            **way.options,
            **how,
        )
        return {view: np.asarray(store.view(view)[:], dtype=np.float32) for view in store.views}

    def _shared(self, part: Part) -> dict[str, Any]:
        run = {"dtype": "bfloat16", "device": "cpu", "min_match": 0.0, "overwrite": True, "progress": False}
        return {"model": self.model, "panel": part.panel, **run}

    def _gene_table(self, sides: Sides, encoder: str) -> Path:
        """NCBI's texts of the panel's genes, encoded, and of enough others that whitening leaves kin genes alike."""
        path = sides.gene_table(encoder)
        if not path.exists():
            variable = np.argsort(-sides.cut.train.var(axis=0), kind="stable")[:GENES]
            names = {sides.cut.genes[column] for column in variable}
            ncbi_table(path, names | set(sides.panel), self.ncbi, encoder=encoder)
        return path
