"""Write the golden files of the current formats to stores/golden/VERSION: run once for a release, never again for it.

    python tests/make_golden.py

The cells and random model they were made of, a tiny store with its gene table and panel, one head of each kind, and
`expected.json`: what every later scstore must read, and compute anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from support import ROOT, make_cells, write_model

import scstore
from scstore import fsio
from scstore.sealed import FORMAT

HEADS = ("linear", "mlp", "knn")


def observe(folder: Path) -> dict[str, object]:
    """What is read from golden files, as JSON values."""
    store = scstore.open(folder / "store.zarr")
    dense = [name for name in store.views if name != "X"]
    predicted = {head: scstore.predict(store, folder / head) for head in HEADS}
    return {
        "views": list(store.views),
        "fingerprints": {name: store.view(name).fingerprint for name in store.views},
        "rows": {name: fsio.digest_bytes(store.view(name)[:].tobytes()) for name in dense},
        "expression": [round(float(value), 5) for value in store.view("X")[:5].data],
        "ids": list(store.obs.index),
        "empty": [int(row) for row in store.empty.nonzero()[0]],
        "labels": {head: list(frame["label"]) for head, frame in predicted.items()},
        "confidence": {head: [round(float(c), 4) for c in frame["confidence"]] for head, frame in predicted.items()},
    }


def main() -> None:
    """Make them."""
    target = ROOT / "stores" / "golden" / FORMAT
    if target.exists():
        sys.exit(f"{target} exists: golden files of a released format are never written again.")
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        out = Path("golden")
        write_model(out / "model")
        make_cells(36, 24, empty=5).write_h5ad(out / "cells.h5ad")
        scstore.panel(out / "cells.h5ad", out / "panel.h5ad", label="cell_type", n_genes=15)
        options = {"model": str(out / "model"), "panel": str(out / "panel.h5ad"), "shard_rows": 16}
        scstore.extract(out / "cells.h5ad", out / "store.zarr", **options)
        for head in HEADS:
            scstore.fit(out / "store.zarr", out / head, label="cell_type", head=head)
        (out / "expected.json").write_text(json.dumps(observe(out), indent=1) + "\n")
        shutil.copytree(out, target)


if __name__ == "__main__":
    main()
