"""Panels: the genes that may enter a sequence, in a file with a digest."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from scstore import fsio
from scstore.sealed import FileKind, canonical_json, read_sealed_file, write_sealed_file

KIND = FileKind("panel", "panel", "scstore panel")
COLUMNS = ("symbol", "ensembl_id")


@dataclass(frozen=True)
class Panel:
    """Genes that may enter a sequence, rows of ``obs``, best first."""

    obs: pd.DataFrame  # symbol and ensembl_id, empty where unknown; of fitted panels score; names in the index
    label: str  # column of the labels it saw; empty without labels
    trained_on: tuple[str, ...] = field(repr=False)  # ids of the cells whose labels it saw, sorted
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.obs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the genes in their order: what a fingerprint holds."""
        genes = {name: list(self.obs[name]) for name in COLUMNS} | {"name": list(self.obs.index)}
        return fsio.digest_bytes(canonical_json({"genes": genes}).encode())


def save_panel(panel: Panel, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    trained_on = np.array(panel.trained_on, dtype=object)
    adata = anndata.AnnData(obs=panel.obs, uns={"scstore": {"trained_on": trained_on}})
    header = {"label": panel.label, "record": panel.record}
    return write_sealed_file(path, KIND, panel, adata, header, overwrite=overwrite)


def load_panel(path: str | os.PathLike[str]) -> Panel:
    """Read a panel and compare it with its digest (GenesError, NewerFormatError, DamagedError)."""

    def build(adata: anndata.AnnData, header: Mapping[str, Any]) -> Panel:
        ids = tuple(str(name) for name in adata.uns["scstore"]["trained_on"])
        obs = adata.obs.astype(dict.fromkeys(COLUMNS, str))
        return Panel(obs, str(header["label"]), ids, dict(header["record"]))

    return read_sealed_file(path, KIND, build)
