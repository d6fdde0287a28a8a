"""MuData (``.h5mu``, Zarr): several AnnData in one file, of which that of the genes is read."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from scstore.cells.anndata_files import read_frame
from scstore.cells.features import has_gene_expression
from scstore.errors import CellsError, show_some
from scstore.untrusted.guards import Guard

# What the modality of gene expression is called: rna, gex, RNA:counts.
RNA = re.compile(r"(?:.*[^a-z])?(?:rna|gex|genes?|transcriptome)(?:[^a-z].*)?")


def is_mudata(root: Any) -> bool:
    """Whether a root group, h5py or Zarr, holds modalities."""
    return "mod" in root and "X" not in root


def rna_modality(root: Any, *, source: str) -> tuple[Any, str]:
    """Return the group of the modality of gene expression, and a line to print."""
    names = sorted(root["mod"])
    found = names if len(names) == 1 else [name for name in names if RNA.fullmatch(name.casefold())]
    if len(found) != 1:
        guard = Guard(source)
        frames = ((name, read_frame(root["mod"][name], "var", guard=guard)) for name in found or names)
        found = [name for name, var in frames if var is not None and has_gene_expression(var)]
    if len(found) != 1:
        held = f"it is MuData of {show_some(names, limit=6)}, not one of them called rna or of the type Gene Expression"
        raise CellsError(f"{source}: {held}. Write that of the genes to a file: mdata.mod[NAME].write_h5ad(PATH).")
    others = [name for name in names if name != found[0]]
    left = f"; left out: {show_some(others)}" if others else ""
    return root["mod"][found[0]], f"{source}: MuData, of which the modality {found[0]!r} is read{left}"


def with_shared_obs(obs: pd.DataFrame, shared: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that MuData keeps for the cells of all modalities."""
    titles = [title for title in shared.columns if title not in obs.columns and ":" not in str(title)]
    if not titles or not shared.index.is_unique or not obs.index.isin(shared.index).all():
        return obs
    return obs.join(shared[titles])
