"""A reference, heads trained on it, and new cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import make_cells, make_store

import scstore


@pytest.fixture(scope="session")
def folder(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ref.zarr``, ``head`` for its cell types, ``named`` for labels with awkward names, and ``new.zarr``.

    Of the 41 new cells, cell5 and cell40 are empty and cell7 is in no cluster of ``leiden``. Not to be written to.
    """
    folder = tmp_path_factory.mktemp("annotation")
    cells = make_cells(90)
    cells.obs["named"] = cells.obs["cell_type"].astype(str).replace({"type 0": "CD4/CD8, naïve"})
    make_store(cells, folder / "ref.zarr", llama)
    new = make_cells(41, seed=1, empty=40)
    new.X = new.X.multiply((np.arange(41) != 5)[:, None]).tocsr()
    clusters = new.obs["cell_type"].astype(str).str.replace("type", "cluster")
    new.obs["leiden"] = clusters.where(clusters.index != "cell7")
    new.obs["nothing"] = ""
    make_store(new, folder / "new.zarr", llama, shard_rows=16)
    scstore.fit(folder / "ref.zarr", folder / "head", label="cell_type")
    scstore.fit(folder / "ref.zarr", folder / "named", label="named", views=["genept", "X"])
    return folder
