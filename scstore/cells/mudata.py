"""MuData (``.h5mu``, Zarr): several AnnData in one file, of which that of the genes is read."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scstore.errors import CellsError, show_some

# What the modality of gene expression is called.
RNA = ("rna", "gex", "gene expression", "gene_expression", "transcriptome", "genes")


def is_mudata(root: Any) -> bool:
    """Whether a root group, h5py or Zarr, holds modalities."""
    return "mod" in root and "X" not in root


def rna_modality(root: Any, *, source: str) -> tuple[Any, str]:
    """Return the group of the modality of gene expression, and a line to print."""
    names = sorted(root["mod"])
    found = [name for name in names if name.casefold() in RNA] or (names if len(names) == 1 else [])
    if len(found) != 1:
        raise CellsError(
            f"{source}: it is MuData of the modalities {show_some(names, limit=6)}, none of them called rna. Write "
            "that of the genes to a file of its own (mdata.mod[NAME].write_h5ad)."
        )
    others = [name for name in names if name != found[0]]
    left = f"; left out: {show_some(others)}" if others else ""
    return root["mod"][found[0]], f"{source}: MuData, of which the modality {found[0]!r} is read{left}"


def with_shared_obs(obs: pd.DataFrame, shared: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that MuData keeps for the cells of all modalities."""
    titles = [title for title in shared.columns if title not in obs.columns and ":" not in str(title)]
    if not titles or not shared.index.is_unique or not obs.index.isin(shared.index).all():
        return obs
    return obs.join(shared[titles])
