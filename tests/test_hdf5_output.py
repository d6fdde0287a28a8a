from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from broken_disk import FAULTS, BrokenDisk, Killed, as_if_another_process, in_place_of_the_disk
from support import make_cells

import scstore
from scstore.hdf5_output import hdf5_output


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system refuses every byte past that, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of another program with an embedding, and a head on it."""
    folder = tmp_path_factory.mktemp("foreign")
    cells = make_cells(60)
    cells.obsm["X_pca"] = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    cells.write_h5ad(folder / "cells.h5ad")
    scstore.fit(folder / "cells.h5ad", folder / "head", label="cell_type", views=["X_pca"])
    return folder


Write = Callable[[Path, Path], object]
WRITERS: dict[str, Write] = {
    "export": lambda folder, out: scstore.export(folder / "cells.h5ad", out, views=["X", "X_pca"], overwrite=True),
    "annotate": lambda folder, out: scstore.annotate(
        folder / "cells.h5ad", folder / "head", output=out, proba=True, umap=False, overwrite=True
    ),
    "panel": lambda folder, out: scstore.panel(
        folder / "cells.h5ad", out, label="cell_type", n_genes=10, overwrite=True
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_does_not_fit_is_an_error_and_the_old_one_stays(name: str, foreign: Path, tmp_path: Path) -> None:
    """RELIABILITY 56: HDF5 loses chunks without a word when a data set is closed on a full disk."""
    out = tmp_path / "out.h5ad"
    WRITERS[name](foreign, out)
    old = out.read_bytes()
    for size in (len(old) * np.arange(1, 16, 2) // 16).tolist():
        with pytest.raises(OSError, match="large"), files_no_larger_than(size):
            WRITERS[name](foreign, out)
        assert out.read_bytes() == old
        assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_operation_fails_the_old_or_the_new_file_is_there(fault: str, foreign: Path, tmp_path: Path) -> None:
    """RELIABILITY 56, 65: a part of the operations; what is left behind goes with the next write."""
    out, disk = tmp_path / "out.h5ad", BrokenDisk()
    with in_place_of_the_disk(disk):
        WRITERS["annotate"](foreign, out)
    wanted = anndata.read_h5ad(out)
    for at in range(FAULTS.index(fault), len(disk.trace), 7):
        failed = False
        with in_place_of_the_disk(BrokenDisk(at, fault)):
            try:
                WRITERS["annotate"](foreign, out)
            except (OSError, scstore.ScstoreError, Killed):
                failed = True
        assert failed, disk.trace[at]
        as_if_another_process(tmp_path)
        found = anndata.read_h5ad(out)
        assert found.obs.equals(wanted.obs)
        np.testing.assert_array_equal(found.X.toarray(), wanted.X.toarray())
    WRITERS["annotate"](foreign, out)
    assert list(tmp_path.iterdir()) == [out]


def test_values_that_never_reached_the_file_are_missed(tmp_path: Path) -> None:
    """RELIABILITY 56, I7: also where nobody said why; what a copy lacked before is not ours to judge."""
    with h5py.File(tmp_path / "a", "w") as file:
        file.create_dataset("holes", (100,), "f4", chunks=(10,))[:10] = 1
    with hdf5_output(tmp_path / "a", "r+") as file:
        file.create_dataset("whole", data=np.ones(100), chunks=(10,))
    with pytest.raises(OSError, match="part"), hdf5_output(tmp_path / "a", "r+") as file:
        file.create_dataset("part", (100,), "f4", chunks=(10,))[:90] = 1
