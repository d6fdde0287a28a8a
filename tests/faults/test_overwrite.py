"""Only what scstore wrote, of the same kind, is ever replaced; all else is refused before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import make_cells

import scstore
from scstore import fsio
from scstore.errors import OutputError
from scstore.reporting.card import model_card
from scstore.reporting.evaluation_files import check_evaluation_output
from scstore.tables import write_table

ABSENT = "absent.h5ad"  # whoever opens it before it looks at the output ends in another error

REPLACE: dict[str, Callable[[Path], Any]] = {
    "extract": lambda out: scstore.extract(ABSENT, out, model=ABSENT, overwrite=True),
    "panel": lambda out: scstore.panel(ABSENT, out, label="cell_type", overwrite=True),
    "genes": lambda out: scstore.build_genes(out, cells=ABSENT, encoder="random:8", overwrite=True),
    "align": lambda out: scstore.align(ABSENT, out, label="cell_type", model=ABSENT, overwrite=True),
    "fit": lambda out: scstore.fit(ABSENT, out, label="cell_type", overwrite=True),
    "predict": lambda out: scstore.predict(ABSENT, ABSENT, output=out, overwrite=True),
    "query": lambda out: scstore.query(ABSENT, ABSENT, output=out, overwrite=True),
    "export": lambda out: scstore.export(ABSENT, out, overwrite=True),
    "evaluate": lambda out: check_evaluation_output(out, figures=False, overwrite=True),
}
# By what writes them: endings of names that it takes.
ENDINGS = {"predict": (".csv", ".parquet"), "query": (".csv", ".parquet")}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything, some with more in it, under names that say what may replace it: ``fit export.h5ad``."""
    folder = tmp_path_factory.mktemp("things")
    cells = make_cells(30)
    cells.obsm["X_pca"] = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    cells.write_h5ad(folder / "cells.h5ad")
    head = scstore.fit(folder / "cells.h5ad", folder / "fit", label="cell_type", views=["X_pca"])
    (folder / "fit" / "README.md").write_text(model_card(head, name="fit"), encoding="utf-8")
    scstore.annotate(folder / "cells.h5ad", head, output=folder / "export.h5ad", proba=True, umap=False)
    for ending in ENDINGS["query"]:
        scstore.predict(folder / "cells.h5ad", head, folder / f"predict query{ending}")
        write_table(cells.obs, folder / f"mine{ending}", index=True)
    scstore.panel(folder / "cells.h5ad", folder / "panel", label="cell_type", n_genes=9)
    scstore.build_genes(folder / "genes", cells=folder / "cells.h5ad", encoder="random:8")
    scstore.extract(
        folder / "cells.h5ad", folder / "extract", genes=str(folder / "genes"), pool=(), companions=("genept",)
    )
    (folder / "notes.txt").write_text("years of work")
    for name, place in (("fit", "head"), ("extract", "store")):
        (folder / f"{place} with notes").mkdir()
        for file in (folder / name).iterdir():
            (folder / f"{place} with notes" / file.name).symlink_to(file)
        (folder / f"{place} with notes" / "notes.txt").write_text("years of work")
    (folder / "several").mkdir()
    for name in ("fit", "extract"):
        (folder / "several" / name).symlink_to(folder / name)
    (folder / "link").symlink_to("nowhere")
    for ending in ("", ".csv", ".parquet", ".h5ad"):
        os.mkfifo(folder / f"pipe{ending}")
    return folder


@pytest.mark.parametrize("name", REPLACE)
def test_what_is_of_another_kind_is_refused_before_any_work(name: str, things: Path) -> None:
    """RELIABILITY 57."""
    before, refused = fsio.digest_tree(things), []
    for thing in sorted(things.iterdir()):
        if name in thing.stem.split():
            continue
        if name in ENDINGS and thing.suffix not in ENDINGS[name]:
            continue
        with pytest.raises(OutputError, match=thing.name):
            REPLACE[name](thing)
        refused.append(thing.name)
    assert len(refused) >= 2
    assert fsio.digest_tree(things) == before
