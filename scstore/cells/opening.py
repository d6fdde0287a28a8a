"""Inputs of cells, whatever their format, which is found by its content and not by its name."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import h5py
import pandas as pd
from anndata import AnnData

from scstore.cells import anndata_files
from scstore.cells.count_matrices import find_mtx, read_10x_hdf5, read_mtx_folder, tenx_groups
from scstore.cells.gene_names import Genes, find_genes
from scstore.cells.labels import check_column
from scstore.cells.matrices import Opened, RowMatrix
from scstore.errors import CellsError, ScstoreError, show, show_some
from scstore.options import Option, did_you_mean
from scstore.untrusted.guards import FORMATS, STORES, Guard, check_path, other_hdf5, reading, what_else, what_is
from scstore.untrusted.hdf5 import open_hdf5
from scstore.untrusted.zarr import open_zarr

# An .h5ad, AnnData Zarr, 10x .h5 or 10x mtx folder, or an AnnData.
CellSource: TypeAlias = str | os.PathLike[str] | AnnData
Expression = Annotated[Literal["counts", "lognorm"], Option("What the input holds: counts or log-normalised values.")]
Slot = Annotated[str | None, Option("Where the expression is: X, layers/NAME or raw; by default found.", advanced=True)]
AllowFractional = Annotated[bool, Option("Accept corrected counts that are not whole numbers.", advanced=True)]
SumDuplicateGenes = Annotated[bool, Option("Add up the counts of genes of the same name.", advanced=True)]
IdPrefixFrom = Annotated[str | None, Option("Column of obs put before cell ids, to make them unique.", advanced=True)]


@dataclass(frozen=True, eq=False)
class CellFile(contextlib.AbstractContextManager["CellFile"]):
    """An input of cells whose matrices are read by runs of rows; close it, or use it in a ``with`` statement."""

    source: str  # the path, or "AnnData in memory": every message begins with it
    obs: pd.DataFrame  # its index is the cell ids, unique strings
    slots: Mapping[str, RowMatrix]  # "X", "layers/NAME", "raw", as far as there: (n_cells, n_genes of the slot)
    genes: Mapping[str, Genes]  # of each slot
    opened_notes: tuple[str, ...] = ()  # lines to print about the whole
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    @property
    def n_cells(self) -> int:
        return len(self.obs)

    def matrix(self, slot: str) -> RowMatrix:
        if slot not in self.slots:
            suggestion = did_you_mean(slot, self.slots, form="slot='{}'")
            raise CellsError(f"{self.source}: no slot {show(slot)}.{suggestion} It has: {', '.join(self.slots)}.")
        return self.slots[slot]

    def var(self, slot: str) -> pd.DataFrame:
        """Return the genes of a slot: clean names as index, ``symbol`` and ``ensembl_id``, empty where unknown."""
        self.matrix(slot)  # refuses one that is not there
        if problem := self.genes[slot].problem:
            raise CellsError(f"{self.source}: {problem}")
        return self.genes[slot].var

    def notes(self, slot: str) -> list[str]:
        return [*self.opened_notes, *self.genes[slot].notes]

    def close(self) -> None:
        self.resources.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def identify_cells(obs: pd.DataFrame, *, source: str, id_prefix_from: str | None = None) -> pd.DataFrame:
    """Return ``obs`` with ids that are unique strings, ``<value>:<id>`` where a column gives a prefix."""
    obs = obs.copy(deep=False)
    ids = pd.Index([str(name) for name in obs.index], dtype=object, name=obs.index.name)
    if id_prefix_from is not None:
        check_column(obs, id_prefix_from, option="id_prefix_from", source=source)
        column = obs[id_prefix_from]
        if column.isna().any():
            cell = show(ids[int(column.isna().to_numpy().argmax())])
            raise CellsError(f"{source}: cell {cell} has no {show(id_prefix_from)}. Fill it, or choose another column.")
        prefixed = [f"{prefix}:{name}" for prefix, name in zip(column, ids, strict=True)]
        ids = pd.Index(prefixed, dtype=object, name=ids.name)
    if not ids.is_unique:
        repeated = ids[ids.duplicated()].unique()
        what = f"cell ids occur more than once: {show_some(repeated)} ({len(repeated):,} in all)"
        cure = "Make them unique, or put a column (batch, donor, …) before every id with id_prefix_from=COLUMN."
        raise CellsError(f"{source}: {what}. {cure}")
    obs.index = ids
    return obs


def open_cells(source: str | os.PathLike[str] | AnnData, *, id_prefix_from: str | None = None) -> CellFile:
    with contextlib.ExitStack() as stack:
        if isinstance(source, AnnData):
            name, opened = anndata_files.describe_anndata(source), anndata_files.open_anndata(source)
        else:
            name = str(source)
            with reading(name, "it"):
                opened = _open_path(source, stack=stack)
        if not opened.slots:
            raise CellsError(f"{name}: there is no matrix (X, layers or raw). Give the file that holds the expression.")
        n_genes = max(matrix.shape[1] for matrix in opened.slots.values())
        if not len(opened.obs) or not n_genes:
            what = "genes" if len(opened.obs) else "cells"
            raise CellsError(f"{name}: there are 0 {what} in it. Check the filtering step that wrote it.")
        obs = identify_cells(opened.obs, source=name, id_prefix_from=id_prefix_from)
        named, raw = find_genes(opened.var, opened.raw_var), None
        if opened.raw_var is not None:
            raw = find_genes(opened.raw_var, opened.var)
        genes = {slot: raw if raw is not None and slot == "raw" else named for slot in opened.slots}
        slots = {slot: genes[slot].of(rows, source=name, name=slot) for slot, rows in opened.slots.items()}
        if all(found.problem for found in genes.values()):
            raise CellsError(f"{name}: {next(iter(genes.values())).problem}")
        return CellFile(name, obs, slots, genes, opened.notes, stack.pop_all())


def open_root(
    place: str | os.PathLike[str], *, error: type[ScstoreError] = CellsError, damaged: type[ScstoreError] = CellsError
) -> Any:
    """Open the root group of cells; ``None`` for a folder with a matrix, ``damaged`` if it asks for what is refused."""
    if (what := what_is(place)) not in STORES:
        name = f"{place}: this" if isinstance(place, str | os.PathLike) else "This"
        raise error(f"{name} is {what}, where cells are wanted: {FORMATS}. Swapped with another?")
    path = Path(place)
    check_path(path, error=error)
    if path.is_dir():
        return _open_folder(path, error=error)
    if not h5py.is_hdf5(path):
        raise error(f"{path}: it is {what_else(path)}. Known are {FORMATS}.")
    root = open_hdf5(path, error=damaged, unreadable=error)
    if not ("obs" in root or tenx_groups(root)):
        with root:
            raise error(f"{path}: it is {other_hdf5(set(root))}. Known are {FORMATS}.")
    return root


def _open_folder(path: Path, *, error: type[ScstoreError]) -> Any:
    names = {p.name for p in path.iterdir()}
    if names & {"zarr.json", ".zgroup", ".zarray"}:
        root = open_zarr(path, error=error)
        if "obs" in root:
            return root
        only = show_some(sorted(names), limit=6)
        raise error(f"{path}: it is Zarr without obs, only {only}. Of a SpatialData folder give tables/NAME.")
    if find_mtx(path):
        return None
    below = sorted([*path.glob("*"), *path.glob("*/*")])
    cells = [p for p in below if p.suffix in (".h5ad", ".h5mu", ".h5", ".zarr") or (p.is_dir() and find_mtx(p))]
    inside = [str(p.relative_to(path)) for p in cells]
    hint = f" Inside it there is {show_some(inside)}: give that." if inside else ""
    listing = show_some(sorted(names), limit=6) or "nothing"
    raise error(f"{path}: a folder with {listing} is neither AnnData Zarr nor 10x. Known are {FORMATS}.{hint}")


def _open_path(source: str | os.PathLike[str], *, stack: contextlib.ExitStack) -> Opened:
    root = open_root(source)
    if root is None:
        return read_mtx_folder(Path(source))
    if isinstance(root, h5py.Group):
        stack.enter_context(root)
    guard = Guard(str(source))
    if "obs" not in root:
        return read_10x_hdf5(root, guard=guard)
    group, note = anndata_files.read_modality(root, source=guard.source)
    opened = anndata_files.read_anndata(group, guard=guard)
    shared = None if group is root else anndata_files.read_frame(root, "obs", guard=guard)
    obs = opened.obs if shared is None else anndata_files.with_shared_obs(opened.obs, shared)
    return replace(opened, obs=obs, notes=(note,) if note else ())
