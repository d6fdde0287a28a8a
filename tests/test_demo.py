from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import anndata
import matplotlib.image
import pandas as pd
import pytest
from support import Run

from scstore.demo import demo
from scstore.errors import MissingExtraError, OutputError


def test_the_demo_tells_and_leaves_what_it_promises(tmp_path: Path, scstore_command: Run) -> None:
    done = scstore_command("demo", "out")
    rows = done.stdout.splitlines()
    for title in ("readout wmean", "GenePT-w, random", "- expression", "- readout, random", "readout + GenePT-w"):
        assert any(title in row for row in rows), title
    for word in ("linear", "mlp", "knn"):
        assert any(word in row for row in rows)
    assert "scstore fit stores/ref.zarr" in done.stderr
    folder = tmp_path / "out"
    annotated = anndata.read_h5ad(folder / "annotated.h5ad")
    assert annotated.n_obs == 234
    agreement = (annotated.obs["scstore_label"].astype(str) == annotated.obs["bulk_labels"].astype(str)).mean()
    assert agreement > 0.75
    for name in ("umap.png", "confusion_matrix.png"):
        assert min(matplotlib.image.imread(folder / name).shape[:2]) > 300
    assert set(pd.read_parquet(folder / "neighbours.parquet").columns) >= {"cell_id", "neighbour", "bulk_labels"}
    assert sorted(path.name for path in (folder / "heads").iterdir()) == ["knn", "linear", "mlp"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "readout_wmean_l1" in anndata.read_zarr(folder / "ref.zarr").obsm
    again = scstore_command("--json", "demo", "out", code=2)
    assert "exists" in json.loads(again.stdout)["error"]["message"]


def test_without_its_packages_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scanpy" else real(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'scstore\[demo\]'"):
        demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError):
        demo(tmp_path / "out")
