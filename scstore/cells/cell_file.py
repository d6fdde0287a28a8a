"""An opened input of cells, of whatever format: its cells, its matrices, and what their columns mean."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

import pandas as pd

from scstore.cells.matrices import RowMatrix
from scstore.errors import CellsError
from scstore.escaping import show, show_some

__all__ = ["CellFile", "check_extent", "identify_cells"]


@dataclass(frozen=True, eq=False)
class CellFile:
    """An input of cells whose matrices are read by runs of rows, never whole.

    Use it as a context manager, or call :meth:`close`: files are open and temporary copies exist until then.

    Attributes
    ----------
    source
        The path, or ``"AnnData in memory"``; every message begins with it.
    obs
        (n_cells, …) metadata; the index is the cell ids, unique strings.
    slots
        The matrices: ``"X"``, ``"layers/NAME"``, ``"raw"``, as far as there are any, each (n_cells, n_genes
        of the slot).
    slot_vars
        For each slot (n_genes of the slot, …) what is known of its genes; ``"raw"`` has its own. The index
        need not be unique.
    resources
        What :meth:`close` closes.
    """

    source: str
    obs: pd.DataFrame
    slots: Mapping[str, RowMatrix]
    slot_vars: Mapping[str, pd.DataFrame]
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    def matrix(self, slot: str) -> RowMatrix:
        """Return the matrix of a slot, (n_cells, n_genes of the slot).

        Raises
        ------
        CellsError
            If there is no such slot.
        """
        self._check(slot)
        return self.slots[slot]

    def var(self, slot: str) -> pd.DataFrame:
        """Return the genes of a slot, (n_genes of the slot, …).

        Raises
        ------
        CellsError
            If there is no such slot.
        """
        self._check(slot)
        return self.slot_vars[slot]

    def _check(self, slot: str) -> None:
        if slot not in self.slots:
            msg = (
                f"{self.source}: there is no slot {show(slot)}. It has: {', '.join(self.slots)}. "
                "Choose one of these with --slot."
            )
            raise CellsError(msg)

    def close(self) -> None:
        """Close the file and delete temporary copies; the matrices cannot be read any more."""
        self.resources.close()

    def __enter__(self) -> CellFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def identify_cells(obs: pd.DataFrame, *, source: str, id_prefix_from: str | None = None) -> pd.DataFrame:
    """Give every cell an id that is a string and its own.

    Parameters
    ----------
    obs
        (n_cells, …) metadata, index = ids as stored.
    source
        For messages.
    id_prefix_from
        A column of ``obs``: ids become ``<its value>:<id>``.

    Returns
    -------
    (n_cells, …) a copy with the new index.

    Raises
    ------
    CellsError
        If ids repeat, or the column is absent or has missing values.
    """
    obs = obs.copy(deep=False)
    ids = pd.Index([str(name) for name in obs.index], dtype=object, name=obs.index.name)
    if id_prefix_from is not None:
        if id_prefix_from not in obs.columns:
            known = ", ".join(map(str, obs.columns)) or "no columns"
            msg = f"{source}: obs has no column {show(id_prefix_from)} for --id-prefix-from. It has: {known}."
            raise CellsError(msg)
        column = obs[id_prefix_from]
        if column.isna().any():
            cell = show(ids[int(column.isna().to_numpy().argmax())])
            msg = (
                f"{source}: cell {cell} has no value in obs column {show(id_prefix_from)}, so it gets no "
                "prefix. Fill the column, or choose another for --id-prefix-from."
            )
            raise CellsError(msg)
        ids = pd.Index(
            [f"{prefix}:{name}" for prefix, name in zip(column, ids, strict=True)],
            dtype=object,
            name=ids.name,
        )
    if not ids.is_unique:
        repeated = ids[ids.duplicated()].unique()
        msg = (
            f"{source}: cell ids occur more than once: {show_some(repeated)} ({len(repeated):,} in all). "
            "Make them unique; if an obs column (batch, donor, …) tells such cells apart, "
            "--id-prefix-from OBS_COLUMN puts its value before every id."
        )
        raise CellsError(msg)
    obs.index = ids
    return obs


def check_extent(obs: pd.DataFrame, slots: Mapping[str, RowMatrix], *, source: str) -> None:
    """Refuse an input without cells, without a matrix or without genes.

    Raises
    ------
    CellsError
        As said.
    """
    if not len(obs):
        msg = f"{source}: there are 0 cells in it. Check the filtering step that wrote it."
        raise CellsError(msg)
    if not slots:
        msg = (
            f"{source}: there is no matrix in it: no X, no layers, no raw. "
            "Give the file that holds the expression of the cells."
        )
        raise CellsError(msg)
    if not any(matrix.shape[1] for matrix in slots.values()):
        msg = f"{source}: there are 0 genes in it. Check the filtering step that wrote it."
        raise CellsError(msg)
