from __future__ import annotations

from pathlib import Path

from support import make_cells, make_store

import scstore
from scstore.store.reader import Store


def test_gene_vectors_alone_of_a_store_with_options_of_its_readouts(llama: Path, tmp_path: Path) -> None:
    """Layers and an instruction are of no use where no readout is wanted."""
    store: Store = make_store(make_cells(), tmp_path / "s.zarr", llama, layers=(1,), instruction="a b")
    scstore.fit(store, tmp_path / "head", label="cell_type", views=["genept", "X"])
    labelled = scstore.annotate(make_cells(seed=1), tmp_path / "head", umap=False)
    assert labelled.obs["scstore_label"].notna().all()
