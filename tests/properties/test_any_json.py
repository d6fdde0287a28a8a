"""Whatever stands in a store's own JSON, and even where its digest matches: a typed error, and no way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr
from anndata.io import write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from support import make_cells
from warm import scratch_folder

import scstore
from scstore import fsio
from scstore.errors import DamagedError, ScstoreError
from scstore.sealed import seal
from scstore.store.ledger import MANIFEST, read_manifest, read_record, record_path

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(
    st.sampled_from(["..", ".", "", "obs", "obsm", "genept", "c", "0", "/", "\\", "C:", "~", "a\0b", "zarr.json"]),
    min_size=1, max_size=5,
).map("/".join)  # fmt: skip
FILE = st.fixed_dictionaries({"bytes": st.integers(-1, 2**40) | JSON, "digest": st.text(max_size=8) | JSON})
FILES = st.dictionaries(PATHS | st.sampled_from(["genept", "genept_random"]), FILE | JSON, max_size=3) | JSON
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "shard": st.just(1) | JSON, "start": st.just(4) | JSON, "stop": st.just(8) | JSON, "ids": st.text() | JSON,
        "views": FILES,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with scratch_folder() as folder:
        cells = make_cells(10, 6)
        cells.write_h5ad(Path(folder) / "cells.h5ad")
        scstore.build_genes(Path(folder) / "genes.h5ad", cells=cells, encoder="random:3")
        path = Path(folder) / "s.zarr"
        options: dict[str, Any] = {"pool": (), "companions": ("genept", "genept_random"), "shard_rows": 4}
        scstore.extract(cells, path, genes=str(Path(folder) / "genes.h5ad"), **options)
        yield path


def use(root: Path) -> None:
    """What a reader does, and `verify`."""
    for work in (lambda: scstore.open(root).to_anndata(), lambda: scstore.verify(root, deep=True)):
        try:
            work()
        except ScstoreError as error:
            assert str(error)


def written(value: Any, *, sealed: bool) -> bytes:
    if sealed and isinstance(value, dict):
        return fsio.json_bytes(seal({key: item for key, item in value.items() if key != "digest"}))
    return json.dumps(value).encode()


@settings(max_examples=30)
@given(value=st.fixed_dictionaries({"format": st.just("1.0"), "files": FILES}) | JSON, sealed=st.booleans())
def test_any_manifest_is_refused_or_stays_inside(root: Path, value: Any, sealed: bool) -> None:
    """RELIABILITY 30, I4, I5."""
    file, whole = root / MANIFEST, (root / MANIFEST).read_bytes()
    try:
        file.write_bytes(written(value, sealed=sealed))
        try:
            names = list(read_manifest(root))
        except DamagedError as error:
            assert "manifest" in str(error) or "JSON" in str(error)
        else:
            assert sealed
            assert all((root / name).resolve().is_relative_to(root.resolve()) for name in names)
        use(root)
    finally:
        file.write_bytes(whole)


@settings(max_examples=30)
@given(value=RECORDS | JSON, sealed=st.booleans())
def test_any_record_of_a_shard_is_refused_or_stays_inside(root: Path, value: Any, sealed: bool) -> None:
    """RELIABILITY 30, 31, I4, I5: the other shards are read as before."""
    file = record_path(root, 1)
    whole = file.read_bytes()
    before = scstore.open(root).view("genept")[:4]
    try:
        file.write_bytes(written(value, sealed=sealed))
        try:
            record = read_record(root, 1)
        except DamagedError:
            pass
        else:
            assert sealed
            assert record is not None
            assert not any("/" in view or view in (".", "..") for view in record["views"])
        use(root)
        assert (scstore.open(root).view("genept")[:4] == before).all()
    finally:
        file.write_bytes(whole)


@settings(max_examples=15)
@given(value=st.dictionaries(st.sampled_from(["views", "shard_rows", "default_view", "format", "kind"]), JSON))
def test_any_record_of_the_run_is_used_or_refused(root: Path, value: dict[str, Any]) -> None:
    """I4: sealed by somebody else, with fields that make no sense."""
    changed = shutil.copytree(root, root.parent / "changed.zarr")
    try:
        body = {**(scstore.open(root).record or {}), **value}
        group = zarr.open_group(changed, mode="r+", use_consolidated=False)
        write_elem(group["uns/scstore"], "record", json.dumps(seal(body)))
        use(changed)
    finally:
        shutil.rmtree(changed)
