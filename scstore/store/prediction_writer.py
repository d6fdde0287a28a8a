"""Writing a prediction into a finished store, column by column, in blocks of cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem

from scstore import fsio
from scstore.errors import DamagedError, OptionError, OutputError
from scstore.spec import fingerprint
from scstore.store.disk_store import DiskStore
from scstore.store.layout import FORMAT
from scstore.store.ledger import ids_digest, read_manifest
from scstore.store.locks import Part, part_lock
from scstore.store.predictions import METADATA, NAME, Listing, attributes, entries_of, read_listing, render
from scstore.store.reader import Store
from scstore.store.writer import GrowingArray

__all__ = ["StoredPrediction", "check_prediction", "open_prediction"]

CHUNK = 1 << 16
"""Cells of a chunk of a column."""


def check_prediction(store: Store, name: str, *, overwrite: bool = False) -> None:
    """Say whether a prediction can be written into a store, before any work is done for it.

    Raises
    ------
    OutputError
        If scstore did not write the store as a Zarr folder, or it has a prediction of that name which is not to be
        replaced, or cannot be written to.
    OptionError
        If it cannot be called that.
    """
    if not store.is_sharded:
        msg = (
            f"--into {name}: {store.path} is no store that `scstore extract` wrote, and files of others are not "
            "changed. Write the cells with their labels to a new file: -o annotated.h5ad."
        )
        raise OutputError(msg)
    if NAME.fullmatch(name) is None:
        msg = f"--into {name[:100]}: give a name of letters, digits, _ and -, such as cell_type."
        raise OptionError(msg)
    target = store.path / "obsm" / name
    listed = name in store.predictions
    if name == "readout" or (not listed and name.casefold() in {view.casefold() for view in store.views}):
        msg = f"--into {name}: {store.path} has a view of that name. Choose another name."
        raise OptionError(msg)
    if listed and not overwrite:
        msg = (
            f"{store.path} has a prediction {name!r}. Choose another name, or pass --overwrite (overwrite=True) to "
            "replace it."
        )
        raise OutputError(msg)
    fsio.check_output(target, overwrite=True)  # what is there and not listed is a killed run's


@contextmanager
def open_prediction(store: Store, name: str, *, about: Mapping[str, Any]) -> Iterator[StoredPrediction]:
    """Write a prediction into a store; it is listed, whole, when the block ends without an error.

    An earlier one of that name is there until then. The store is locked meanwhile.

    Parameters
    ----------
    store
        A finished store of scstore's.
    name
        The entry of ``obsm`` it will be.
    about
        What its record is to say of the head and the options, as JSON.

    Raises
    ------
    LockedError
        If somebody writes into the store.
    DamagedError
        If the store's metadata is not that of its manifest.
    """
    root, ids = store.path, [str(cell) for cell in store.obs.index]
    with part_lock(root, Part()):
        listing = read_listing(root)
        if fsio.digest_bytes(listing.base) != read_manifest(root)[METADATA]["digest"]:
            msg = f"{root / METADATA}: does not match its digest. `scstore verify {root}` says what else is damaged."
            raise DamagedError(msg)
        try:
            with fsio.atomic_folder(root / "obsm" / name, overwrite=True) as folder:
                columns = StoredPrediction(folder, ids)
                yield columns
                parts = columns.close()
                nodes = entries_of(folder)
                record = {
                    "format": FORMAT,
                    "kind": "prediction",
                    "name": name,
                    "n_obs": len(ids),
                    "ids": ids_digest(ids),
                    **about,
                    "columns": parts,
                    "index": fsio.digest_tree(folder / "_index"),
                    "metadata": fingerprint(nodes),
                }
                fsio.write_bytes(folder / METADATA, render(attributes(record)))
                if name in listing.records:  # so that no reader takes one's columns for the other's
                    _list(root, listing.without(name))
        except BaseException:
            if name in listing.records and _holds(root, listing.records[name]):
                _list(root, listing)
            raise
        _list(root, listing.with_prediction(record, nodes))


def _holds(root: Path, record: Mapping[str, Any]) -> bool:
    file = root / "obsm" / record["name"] / METADATA
    return file.is_file() and bool(file.read_bytes() == render(attributes(record)))


def _list(root: Path, listing: Listing) -> None:
    if (root / METADATA).read_bytes() != listing.content:
        fsio.write_bytes(root / METADATA, listing.content)


class StoredPrediction:
    """A data frame that grows on disk, in AnnData's encoding.

    Parameters
    ----------
    folder
        Where, a folder that nobody sees yet.
    ids
        Of all cells, in their order.
    """

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self._folder = folder
        self._ids = np.asarray(ids, dtype=object)
        self._group = zarr.open_group(DiskStore(folder), mode="w", zarr_format=3)
        self._arrays: dict[str, GrowingArray] = {}
        self._keys: dict[str, str] = {}
        self._categories: dict[str, dict[str, int]] = {}
        self._done = 0

    def write(self, frame: pd.DataFrame) -> None:
        """Append predictions of the next cells; every frame has the same columns.

        Raises
        ------
        ValueError
            If they are not of the next cells.
        """
        stop = self._done + len(frame)
        if list(frame.index) != list(self._ids[self._done : stop]):
            msg = f"predictions of other cells than {self._done:,} to {stop - 1:,} of the store"
            raise ValueError(msg)
        if not self._keys:
            self._keys = _keys(list(map(str, frame.columns)))
        for name, key in self._keys.items():
            values = frame[name].to_numpy()
            if values.dtype == object:
                values = self._codes(key, values)
            if key not in self._arrays:
                self._arrays[key] = self._begin(key, values.dtype)
            self._arrays[key].extend(values)
        self._done = stop

    def _codes(self, key: str, values: Any) -> Any:
        known = self._categories.setdefault(key, {})
        codes, texts = pd.factorize(values)
        places = [known.setdefault(str(text), len(known)) for text in texts]
        return np.array([*places, -1], dtype=np.int32)[codes]  # the last one for what is missing

    def _begin(self, key: str, dtype: np.dtype[Any]) -> GrowingArray:
        if key not in self._categories:
            return GrowingArray(self._group, key, dtype, chunk=CHUNK)
        group = self._group.create_group(key)
        group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
        return GrowingArray(group, "codes", dtype, chunk=CHUNK)

    def close(self) -> list[dict[str, str]]:
        """Finish the columns; gives for each its name, what it is called on disk, and its digest.

        Raises
        ------
        ValueError
            If there are not as many predictions as cells.
        """
        if self._done != len(self._ids):
            msg = f"{self._done:,} predictions for {len(self._ids):,} cells"
            raise ValueError(msg)
        with anndata.settings.override(auto_shard_zarr_v3=False):
            write_elem(self._group, "_index", self._ids)
            for key, texts in self._categories.items():
                write_elem(self._group, f"{key}/categories", np.array(list(texts), dtype=object))
        for array in self._arrays.values():
            array.close()
        return [
            {"name": name, "key": key, "digest": fsio.digest_tree(self._folder / key)}
            for name, key in self._keys.items()
        ]


def _keys(names: Sequence[str]) -> dict[str, str]:
    """What columns are called on disk: names of labels are data, which no path may be made of."""
    keys: dict[str, str] = {}
    for name in names:
        short = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:80] or "column"
        key, number = short, 2
        while key.casefold() in {taken.casefold() for taken in keys.values()}:
            key, number = f"{short}_{number}", number + 1
        keys[name] = key
    return keys
