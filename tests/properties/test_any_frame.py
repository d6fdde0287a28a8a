"""Whatever metadata cells have: it comes back from the store and from its export, or is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from warm import scratch_folder

import scstore
from scstore import fsio
from scstore.cells.matrices import fitting_names
from scstore.errors import CellsError, OptionError
from scstore.store.obs_filter import cells_where

N = 4
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text(":/\\._ ac-", max_size=5),
    st.integers(1, 40).map(lambda n: "long name é" * n),
    st.sampled_from(["index", "_index", ".", "..", "../../up", "zarr.json", "c", "label:fine", "c:", "a/b"]),
).filter(lambda name: not name.startswith("scstore_"))


def column(values: st.SearchStrategy[object], dtype: str | None = None) -> st.SearchStrategy[pd.Series]:
    return st.lists(values, min_size=N, max_size=N).map(lambda listed: pd.Series(listed, dtype=dtype))


COLUMNS = st.one_of(
    column(TEXT, "object"),
    column(st.one_of(TEXT, st.none()), "object"),
    column(TEXT, "category"),
    column(st.one_of(TEXT, st.none()), "category"),
    column(st.integers(-(2**63), 2**63 - 1), "int64"),
    column(st.floats(width=32), "float32"),
    column(st.floats(), "float64"),
    column(st.booleans(), "bool"),
    column(st.one_of(st.booleans(), st.none()), "boolean"),
    column(st.one_of(st.integers(0, 9), st.none()), "Int64"),
    column(st.integers(0, 3), "category"),
    column(st.datetimes(pd.Timestamp("1900-01-01").to_pydatetime(), pd.Timestamp("2100-01-01").to_pydatetime())),
    column(st.one_of(TEXT, st.integers(0, 9)), "object"),
)

FRAMES = st.tuples(
    st.lists(TEXT.filter(len), min_size=N, max_size=N, unique=True), st.dictionaries(NAMES, COLUMNS, max_size=4)
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with scratch_folder() as scratch:
        place = Path(scratch)
        cells = anndata.AnnData(COUNTS, var=pd.DataFrame(index=GENES))
        cells.write_h5ad(place / "cells.h5ad")
        scstore.build_genes(place / "genes.h5ad", cells=place / "cells.h5ad", encoder="random:2")
        yield place


GENES = ["CD3D", "CD8A", "MS4A1"]
COUNTS = csr_matrix(np.arange(1, 1 + N * len(GENES), dtype=np.float32).reshape(N, len(GENES)))


def same(got: pd.Series, wanted: pd.Series) -> None:
    """Values as they were; what AnnData has no form for as its text."""
    missing = wanted.isna().to_numpy()
    np.testing.assert_array_equal(got.isna().to_numpy(), missing)
    if pd.api.types.is_float_dtype(wanted.dtype):
        np.testing.assert_array_equal(got.to_numpy(), wanted.to_numpy())
    else:
        assert got[~missing].astype(str).tolist() == wanted[~missing].astype(str).tolist()


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(frame=FRAMES)
def test_metadata_survives_the_store_and_the_export(
    folder: Path, frame: tuple[list[str], dict[str, pd.Series]]
) -> None:
    """RELIABILITY 15: ids and columns with anything in them."""
    ids, columns = frame
    obs = pd.DataFrame({name: values.to_numpy() for name, values in columns.items()}, index=ids)
    for name, values in columns.items():
        obs[name] = values.set_axis(obs.index)
    root, exported = folder / "s.zarr", folder / "s.h5ad"
    for file in (root, exported):
        fsio.disk.delete(file)
    cells = anndata.AnnData(COUNTS, obs=obs, var=pd.DataFrame(index=GENES))
    try:
        scstore.extract(cells, root, genes=str(folder / "genes.h5ad"), pool=(), companions=("genept",))
    except CellsError as error:
        assert any(f"obs column {name[:60]!r}" in str(error) for name in columns)
        assert not root.exists()
        return
    scstore.export(root, exported)
    assert scstore.verify(root, deep=True).ok
    for path in (root, exported):
        read = scstore.open(path).obs
        assert read.index.tolist() == ids
        names = [name for name in read if not name.startswith("scstore_")]
        assert names == fitting_names(columns)
        for stored, name in zip(names, columns, strict=True):
            same(read[stored], obs[name])


ATOMS = st.sampled_from(["'a'", '"b c"', "1", "-2.5", "1e400", "true", "false", "('a', 1)", "()", "nan", "0x1"])
TESTS = st.builds(
    "{} {} {}".format,
    st.sampled_from(["c0", "`c 1`", "c2", "nothing", "``", "index"]),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in", "is"]),
    ATOMS,
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("{} or {}".format, inner, inner),
        st.builds("not {}".format, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=80)
@given(columns=st.tuples(COLUMNS, COLUMNS, COLUMNS), condition=CONDITIONS)
def test_any_condition_on_any_columns_is_a_mask_or_a_plain_error(
    columns: tuple[pd.Series, ...], condition: str
) -> None:
    obs = pd.DataFrame(dict(zip(("c0", "c 1", "c2"), columns, strict=True)))
    try:
        mask = cells_where(obs, condition)
    except OptionError as error:
        assert "where=" in str(error)
        return
    assert mask.dtype == bool
    assert mask.shape == (N,)
