"""Options of every command that reads cells: each is an annotation for a parameter or a field."""

from __future__ import annotations

import os
from typing import Annotated, Literal, TypeAlias

import anndata

from scstore.options import Option

# An .h5ad, AnnData Zarr, 10x .h5 or 10x mtx folder, or an AnnData.
CellSource: TypeAlias = str | os.PathLike[str] | anndata.AnnData

Expression = Annotated[Literal["counts", "lognorm"], Option("What the input holds: counts or log-normalised values.")]
Slot = Annotated[str | None, Option("Where the expression is: X, layers/NAME or raw; by default found.", advanced=True)]
AllowFractional = Annotated[bool, Option("Accept corrected counts that are not whole numbers.", advanced=True)]
SumDuplicateGenes = Annotated[bool, Option("Add up the counts of genes of the same name.", advanced=True)]
IdPrefixFrom = Annotated[str | None, Option("Column of obs put before cell ids, to make them unique.", advanced=True)]
