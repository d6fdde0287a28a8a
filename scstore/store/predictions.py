"""Predictions inside a store: a data frame in ``obsm`` that is aligned with the cells and carries its own record.

The store's metadata (``zarr.json``) lists a prediction once it is whole; what is not listed nobody reads. The record
stands in the frame's attributes, sealed, with the digest of every column. So the metadata of the store is that of its
manifest and the entries of predictions, each of which follows from its record: a byte that changes is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anndata.io import read_elem

from scstore import fsio
from scstore.errors import DamagedError, InputError
from scstore.spec import fingerprint, seal, unseal
from scstore.store.decoding import decoding
from scstore.store.ledger import ids_digest

__all__ = [
    "METADATA",
    "NAME",
    "Listing",
    "attributes",
    "check_predictions",
    "columns_of",
    "entries_of",
    "exported_record",
    "exported_records",
    "listed_metadata",
    "prediction_files",
    "read_listing",
    "refuse_damaged",
    "refuse_stale",
    "render",
    "unlisted_predictions",
]

METADATA = "zarr.json"

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
"""What a prediction, or a column of one, may be called on disk: no path leads out of the store."""

NOTHING_INSIDE = {"kind": "inline", "must_understand": False, "metadata": {}}
"""How Zarr's consolidated metadata marks a group."""

Metadata = dict[str, Any]


def render(document: Mapping[str, Any]) -> bytes:
    """The way in which Zarr writes its metadata."""
    return json.dumps(document, indent=2).encode()


def attributes(record: Mapping[str, Any]) -> Metadata:
    """Metadata of the frame's group, which follows from its record."""
    return {
        "attributes": {
            "encoding-type": "dataframe",
            "encoding-version": "0.2.0",
            "column-order": [column["key"] for column in record["columns"]],
            "_index": "_index",
            "scstore": seal(record),
        },
        "zarr_format": 3,
        "node_type": "group",
    }


def columns_of(record: Mapping[str, Any]) -> list[str]:
    """Names of a prediction's columns, as :func:`scstore.predict` gives them."""
    return [str(column["name"]) for column in record["columns"]]


def _entry(node: Metadata) -> Metadata:
    """A node's metadata as the store's consolidated metadata has it."""
    if node["node_type"] != "group":
        return node
    return {
        "attributes": node["attributes"],
        "zarr_format": 3,
        "consolidated_metadata": NOTHING_INSIDE,
        "node_type": "group",
    }


def entries_of(folder: Path) -> dict[str, Metadata]:
    """Metadata of the columns below a frame's folder, by their place in it; without the frame itself."""
    nodes = sorted(file.parent for file in folder.rglob(METADATA) if file.parent != folder)
    return {
        node.relative_to(folder).as_posix(): _entry(json.loads((node / METADATA).read_bytes()))
        for node in nodes
    }  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """A store's consolidated metadata, and what of it is of predictions.

    Attributes
    ----------
    document
        Without predictions.
    records
        By name.
    columns
        By name, the metadata of everything below the frame, by its place in it.
    """

    document: Metadata
    records: Mapping[str, Metadata]
    columns: Mapping[str, Mapping[str, Metadata]]

    def without(self, name: str) -> Listing:
        """The listing without a prediction."""
        return Listing(
            self.document,
            {key: record for key, record in self.records.items() if key != name},
            {key: nodes for key, nodes in self.columns.items() if key != name},
        )

    def with_prediction(self, record: Metadata, columns: Mapping[str, Metadata]) -> Listing:
        """The listing with one more prediction, or another of that name."""
        name = record["name"]
        return Listing(self.document, {**self.records, name: record}, {**self.columns, name: columns})

    @property
    def base(self) -> bytes:
        """The file as it is without predictions, of which the manifest has the digest."""
        return render(self.document)

    @property
    def content(self) -> bytes:
        """The file."""
        if not self.records:
            return self.base
        consolidated = self.document["consolidated_metadata"]
        others = list(consolidated["metadata"].items())
        frames = [(f"obsm/{name}", _entry(attributes(self.records[name]))) for name in sorted(self.records)]
        below = {f"obsm/{name}/{place}": node for name in self.records for place, node in self.columns[name].items()}
        # Zarr wants what lies in one group in one run: the frames come after the views
        end = 1 + max(place for place, (key, _) in enumerate(others) if re.fullmatch("obsm(/[^/]+)?", key))
        deepest_last = sorted(below.items(), key=lambda item: (item[0].count("/"), item[0].split("/")))
        nodes = dict([*others[:end], *frames, *others[end:], *deepest_last])
        return render({**self.document, "consolidated_metadata": {**consolidated, "metadata": nodes}})


def read_listing(root: Path) -> Listing:
    """Read which predictions a store lists.

    Raises
    ------
    DamagedError
        If the metadata cannot be read, or an entry of a prediction does not match its digest.
    """
    file = root / METADATA
    with decoding(root, METADATA):
        raw = file.read_bytes()
        document = json.loads(raw)
        consolidated = document.get("consolidated_metadata")
        if consolidated is None:
            return Listing(document, {}, {})
        nodes = consolidated["metadata"]
        sealed = {
            key.removeprefix("obsm/"): node["attributes"]["scstore"]
            for key, node in nodes.items()
            if re.fullmatch("obsm/[^/]+", key) and "scstore" in node.get("attributes", {})
        }
        ours = {name: f"obsm/{name}/" for name in sealed}
        columns = {
            name: {key.removeprefix(start): node for key, node in nodes.items() if key.startswith(start)}
            for name, start in ours.items()
        }
        starts = tuple(ours.values())
        others = {key: node for key, node in nodes.items() if not f"{key}/".startswith(starts)} if starts else nodes
        document = {**document, "consolidated_metadata": {**consolidated, "metadata": others}}
        records = {name: unseal(value) for name, value in sealed.items()}
        intact = {name: record for name, record in records.items() if record is not None and _sound(name, record)}
        listing = Listing(document, intact, columns)
        whole = len(intact) == len(sealed) and listing.content == raw
        whole = whole and all(fingerprint(columns[name]) == record["metadata"] for name, record in intact.items())
    if sealed and not whole:
        msg = (
            f"{file}: what it says of the predictions {', '.join(sorted(sealed))} does not match its digest. Restore "
            "it from a copy."
        )
        raise DamagedError(msg)
    return listing


def _sound(name: str, record: Mapping[str, Any]) -> bool:
    keys = [column["key"] for column in record["columns"]]
    return record["name"] == name and all(map(NAME.fullmatch, [name, *keys]))


def listed_metadata(root: Path, expected: Mapping[str, Any]) -> Mapping[str, Any]:
    """Size and digest that ``zarr.json`` should have, given those that the manifest has.

    Those of the file where it is the manifest's with predictions listed, else the manifest's.
    """
    try:
        listing = read_listing(root)
    except (DamagedError, PermissionError):
        return expected
    if not listing.records or fsio.digest_bytes(listing.base) != expected["digest"]:
        return expected
    content = listing.content
    return {"bytes": len(content), "digest": fsio.digest_bytes(content)}


def refuse_damaged(root: Path, record: Mapping[str, Any]) -> None:
    """Refuse a prediction in a store that is not as it was written.

    Raises
    ------
    DamagedError
        Naming the first file or column.
    """
    folder = root / "obsm" / record["name"]
    for part, message in _problems(folder, record):
        msg = f"{folder / part}: {message}"
        raise DamagedError(msg)


def refuse_stale(source: Path, record: Mapping[str, Any], *, ids: Sequence[str]) -> None:
    """Refuse a prediction of other cells than the store's.

    Raises
    ------
    InputError
        Saying how to make it again.
    """
    if record["n_obs"] != len(ids) or record["ids"] != ids_digest(ids):
        msg = (
            f"{source}: the prediction {record['name']!r} is stale: it is of {record['n_obs']:,} cells and not of the "
            f"{len(ids):,} that are there now. Make it again: scstore predict --into {record['name']} --overwrite."
        )
        raise InputError(msg)


def _problems(folder: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Files and folders of a prediction that are not as they were written, and what to do."""
    cure = f"Make it again: scstore predict --into {record['name']} --overwrite."
    own = folder / METADATA
    if not own.is_file():
        yield METADATA, f"the file is missing. {cure}"
    elif own.read_bytes() != render(attributes(record)):
        yield METADATA, f"does not match its digest. {cure}"
    for key, digest in _parts(record):
        if not (folder / key).is_dir():
            yield key, f"the column is missing. {cure}"
        elif fsio.digest_tree(folder / key) != digest:
            yield key, f"does not match its digest. {cure}"


def _parts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("_index", record["index"]), *((column["key"], column["digest"]) for column in record["columns"])]


def check_predictions(root: Path, ids: Sequence[str] | None) -> list[tuple[str, str, str]]:
    """What is wrong with the predictions that a store lists, as file, problem and message.

    Parameters
    ----------
    root
        The store.
    ids
        Of its cells, where they are known.
    """
    try:
        records = read_listing(root).records
    except (DamagedError, PermissionError):
        return []  # the metadata itself is found not to match
    found = []
    for name, record in records.items():
        if ids is not None and (record["n_obs"] != len(ids) or record["ids"] != ids_digest(ids)):
            found.append((f"obsm/{name}", "inconsistent", f"the prediction is of {record['n_obs']:,} other cells"))
        for part, message in _problems(root / "obsm" / name, record):
            problem = "missing" if " is missing" in message else "damaged"
            found.append((f"obsm/{name}/{part}", problem, message))
    return found


def prediction_files(root: Path) -> set[str]:
    """Files of the predictions that a store lists, those that are there."""
    try:
        records = read_listing(root).records
    except (DamagedError, PermissionError):
        return set()
    folders = {root / "obsm" / name: record for name, record in records.items()}
    files = {folder / METADATA for folder in folders if (folder / METADATA).is_file()}
    for folder, record in folders.items():
        for key, _ in _parts(record):
            files |= {file for file in (folder / key).rglob("*") if file.is_file()}
    return {file.relative_to(root).as_posix() for file in files}


def unlisted_predictions(root: Path) -> list[Path]:
    """Folders of predictions that a killed run had finished and not listed."""
    try:
        listed = read_listing(root).records
    except (DamagedError, PermissionError):
        return []
    found = []
    for file in sorted((root / "obsm").glob(f"*/{METADATA}")):
        if file.parent.name in listed:
            continue
        try:
            record = unseal(json.loads(file.read_bytes())["attributes"]["scstore"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if record is not None and file.read_bytes() == render(attributes(record)):
            found.append(file.parent)
    return found


def exported_record(record: Mapping[str, Any]) -> str:
    """A record as text, for ``uns["scstore"]["predictions"]`` of a file or an AnnData in memory."""
    return json.dumps(seal(record), ensure_ascii=False)


def exported_records(source: Path, group: Any) -> dict[str, Metadata]:
    """Records of the predictions in an exported file, by name.

    Raises
    ------
    DamagedError
        If one does not match its digest.
    """
    if "predictions" not in group.get("uns/scstore", {}):
        return {}
    with decoding(source, "uns/scstore/predictions"):
        texts: Mapping[str, str] = read_elem(group["uns/scstore/predictions"])
        records = {name: unseal(json.loads(str(text))) for name, text in texts.items()}
    for name, record in records.items():
        if record is None or not _sound(name, record):
            msg = f"{source}: the record of the prediction {name!r} does not match its digest. Export the store again."
            raise DamagedError(msg)
    return {name: record for name, record in records.items() if record is not None and name in group["obsm"]}
