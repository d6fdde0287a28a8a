"""Views of the same cells, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from scstore.errors import CellsError, GenesError, OptionError
from scstore.heads.member import EXPRESSION
from scstore.heads.rows import Rows, is_lazy

__all__ = ["as_rows", "check_gene_names", "count_cells"]


def as_rows(view: Any, name: str) -> Rows:
    """A view as rows: arrays and sparse matrices in the form that can be read in pieces.

    Raises
    ------
    CellsError
        If it is no matrix of numbers.
    """
    rows: Rows = sparse.csr_matrix(view) if sparse.issparse(view) else view
    if not is_lazy(rows) and not sparse.issparse(rows):
        rows = np.asarray(rows)
    kind = getattr(getattr(rows, "dtype", None), "kind", "f")
    if len(rows.shape) != 2 or kind not in "fiub":
        msg = f"View {name}: shape {rows.shape}, where rows of numbers (cells × columns) belong."
        raise CellsError(msg)
    return rows


def count_cells(rows: Mapping[str, Rows]) -> int:
    """How many cells the views have.

    Raises
    ------
    OptionError
        If there is no view.
    CellsError
        If they differ in their number of cells.
    """
    lengths = {name: view.shape[0] for name, view in rows.items()}
    if not lengths:
        msg = "views: none given. Name at least one view to learn from."
        raise OptionError(msg)
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        msg = f"The views differ in their number of cells ({told}). Give the same cells, in the same order, in each."
        raise CellsError(msg)
    return next(iter(lengths.values()))


def check_gene_names(rows: Mapping[str, Rows], gene_names: Sequence[str] | None) -> list[str]:
    """Names of the columns of ``X``; none without it.

    Raises
    ------
    GenesError
        If they are not as many as the columns, or not distinct.
    """
    if EXPRESSION not in rows:
        return []
    names = [] if gene_names is None else [str(name) for name in gene_names]
    width = rows[EXPRESSION].shape[1]
    if len(names) != width or len(set(names)) != width:
        msg = (
            f"gene_names: {len(names):,} names ({len(set(names)):,} distinct) for the {width:,} columns of X. "
            f"Give one distinct name per column, so that later cells can be matched to them."
        )
        raise GenesError(msg)
    return names
