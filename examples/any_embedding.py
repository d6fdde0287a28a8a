"""Heads and search on embeddings that scstore did not make: any obsm matrix of any .h5ad.

Here the PCA that comes with scanpy's blood cells. No model, no torch.

    python examples/any_embedding.py FOLDER
"""

import sys
from pathlib import Path

import scanpy as sc

import scstore


def main(folder: Path) -> None:
    """Fit a kNN head on X_pca of some cells and label the others."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = sc.datasets.pbmc68k_reduced()
    cells[:500].copy().write_h5ad(folder / "known.h5ad")
    cells[500:].copy().write_h5ad(folder / "new.h5ad")

    head = scstore.fit(folder / "known.h5ad", label="bulk_labels", head="knn", views=["X_pca"])
    labels = scstore.predict(folder / "new.h5ad", head)
    truth = scstore.open(folder / "new.h5ad").obs["bulk_labels"].astype(str)
    print(f"agreement with the labels held back: {(labels['best_label'] == truth).mean():.2f}")

    neighbours = scstore.query(folder / "new.h5ad", folder / "known.h5ad", view="X_pca", k=5, columns=["bulk_labels"])
    print(neighbours)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "any_embedding"))
