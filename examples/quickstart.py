"""The whole path in Python: cells to a store, a head, labels, neighbours.

Runs on 200 of the blood cells that scanpy carries, with the embedded model; needs `pip install 'scstore[demo]'`.

    python examples/quickstart.py FOLDER
"""

import sys
from pathlib import Path

import anndata
import scanpy as sc

import scstore


def main(folder: Path) -> None:
    """Extract, fit, predict, query."""
    folder.mkdir(parents=True, exist_ok=True)
    full = sc.datasets.pbmc68k_reduced()
    cells = anndata.AnnData(full.raw.X, obs=full.obs[["bulk_labels"]], var=full.raw.var[[]])
    known, new = cells[:150].copy(), cells[150:200].copy()

    # once, where the model runs: which genes may enter, then the pass itself
    lognorm = {"expression": "lognorm"}  # these cells come normalised; raw counts need no word
    scstore.panel(known, folder / "panel.h5ad", label="bulk_labels", n_genes=100, overwrite=True, **lognorm)
    panel = str(folder / "panel.h5ad")
    reference = scstore.extract(known, folder / "ref.zarr", model="minilm", panel=panel, overwrite=True, **lognorm)
    store = scstore.extract(new, folder / "new.zarr", like=folder / "ref.zarr", overwrite=True, **lognorm)
    print(reference)

    # for ever after, on any laptop, without the model
    head = scstore.fit(reference, label="bulk_labels", head="linear")
    labels = scstore.predict(store, head)
    print(labels.head())
    agreement = (labels["best_label"] == store.obs["bulk_labels"].astype(str)).mean()
    print(f"agreement with the labels held back: {agreement:.2f}")

    neighbours = scstore.query(store, reference, k=3, columns=["bulk_labels"])
    print(neighbours.table.head(3))

    # a view is an array, read when asked for
    readout = store.view("readout")
    print(readout, readout[:2].shape)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
