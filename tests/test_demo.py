from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import anndata
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from scstore import demo as module
from scstore.demo import demo
from scstore.errors import MissingExtraError, OutputError


def test_the_demo_gives_and_leaves_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path on every third cell, with one kind of head."""

    def fewer_cells(folder: Path) -> tuple[Path, Path]:
        paths = whole(folder)
        for path in paths:
            anndata.read_h5ad(path)[::3].copy().write_h5ad(path)
        return paths

    whole = module._cells
    monkeypatch.setattr(module, "_cells", fewer_cells)
    monkeypatch.setattr(module, "HEADS", ("linear",))
    folder = tmp_path / "out"
    result = demo(folder)
    title, headings, rows = result.table()
    assert str(result.n_held_out) in title
    assert headings == ["features", "linear"]
    assert [row[0] for row in rows] == [
        *module.DESCRIPTIONS.values(),
        module.RANDOM_READOUT,
        module.NO_MODEL,
        module.DEFAULT,
        module.REGRESSION,
    ]
    assert any("scstore fit stores/ref.zarr" in line for line in result.lines())
    annotated = anndata.read_h5ad(result.files["annotated cells"])
    assert annotated.n_obs == result.n_held_out == 78
    assert "X_umap" in annotated.obsm
    assert result.lines()[-1].strip() == str(folder / "page.html")
    assert (folder / "page.html").stat().st_size > 20_000
    agreement = np.mean(annotated.obs["scstore_label"].astype(str) == annotated.obs["bulk_labels"].astype(str))
    assert agreement == pytest.approx(result.scores[module.DEFAULT]["linear"]["accuracy"])
    assert agreement > 0.6
    assert result.scores[module.REGRESSION]["linear"]["accuracy"] > 0.6
    for name in ("UMAP", "confusion matrix"):
        assert min(matplotlib.image.imread(result.files[name]).shape[:2]) > 300
    neighbours = pd.read_parquet(result.files["nearest reference cells"])
    assert set(neighbours.columns) >= {"cell_id", "neighbour", "bulk_labels"}
    assert [path.name for path in result.files["heads"].iterdir()] == ["linear"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "readout_wmean_l1" in anndata.read_zarr(result.files["stores"]).obsm
    with pytest.raises(OutputError):
        demo(folder)


def test_without_its_packages_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scanpy" else real(name))
    with pytest.raises(MissingExtraError, match=r"scstore\[demo\]"):
        demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()
