"""Files made to do harm, each by one exact change of a clean one; ``python tests/attacks/make.py FOLDER`` writes all.

What is tried elsewhere is not repeated: sizes, links, codecs, weights and pickles in ``tests/untrusted``, heads in
``heads/test_artifact.py``, names that leave a store in ``stores/test_verify.py``, random changes in ``faults``.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import zarr
from anndata.io import read_elem, write_elem

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mutations import GENE_INFO, make_inputs

from scstore.errors import CellsError, DamagedError, GenesError, NotAStoreError, ScstoreError
from scstore.fsio import write_json
from scstore.sealed import seal
from scstore.store.ledger import read_manifest, write_manifest

__all__ = ["ATTACKS", "Attack", "make_all"]

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Attack:
    """One file or folder.

    Attributes
    ----------
    clean
        Name in :func:`mutations.make_inputs` of the file that is copied; empty for a new file.
    name
        Name of the copy.
    change
        Makes the copy harmful.
    read
        What it is handed to, by name in ``test_attacks.READERS``.
    error
        Class of the error; ``None`` for what verify lists as findings.
    words
        What tells the reason in the message: a regular expression.
    """

    clean: str
    name: str
    change: Callable[[Path], object]
    read: str
    error: type[ScstoreError] | None
    words: str


def replace(path: Path, name: str, **declared: object) -> None:
    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, **declared).attrs.update(attributes)


def huge(name: str, shape: tuple[int, ...], *, chunks: tuple[int, ...]) -> Callable[[Path], None]:
    """An array of which no value was ever written."""
    return lambda path: replace(path, name, shape=shape, dtype="f4", chunks=chunks)


def huge_in_a_larger_file(path: Path) -> None:
    """As large as the whole file could unpack to, but not what the array itself stores."""
    with h5py.File(path, "r+") as file:
        noise = np.random.default_rng(0).integers(0, 256, MEGABYTE, dtype=np.uint8)
        file.create_dataset("uns/noise", data=noise)
    huge("X", (20, 10_000_000), chunks=(20, 100_000))(path)


def huge_together(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for i in range(100):
            file.create_dataset(f"uns/a{i}", shape=(15_000_000,), dtype="f4", chunks=(10_000,))


def huge_chunk(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("uns/a", shape=(10,), maxshape=(None,), dtype="f4", chunks=(400_000_000,))


def links_without_end(path: Path) -> None:
    """Thirty groups, each with two names for the next: a thousand million ways."""
    with h5py.File(path, "r+") as file:
        group = file.require_group("uns")
        for _ in range(30):
            below = group.create_group("a")
            group["b"] = below
            group = below


def deep_groups(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        group = file.require_group("uns")
        for _ in range(500):
            group = group.create_group("a")


def other_file(path: Path) -> Path:
    secret = path.with_name(f"{path.name}.secret")
    with h5py.File(secret, "w") as file:
        file["data"] = np.arange(20.0)
    return secret


def link_outside(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        secret = other_file(path)
        with h5py.File(path, "r+") as file:
            file[name] = h5py.ExternalLink(str(secret), "/data")

    return change


def link_to_a_link(path: Path) -> None:
    """A link inside the file that goes by way of one that leaves it."""
    secret = other_file(path)
    with h5py.File(path, "r+") as file:
        file["way"] = h5py.ExternalLink(str(secret), "/")
        file["obs/n"] = h5py.SoftLink("/way/data")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(20, 5), dtype="f4")
    layout[:, 0] = h5py.VirtualSource(str(other_file(path)), "data", shape=(20,))
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("obsm/secret", layout)


def longer_than_it_is(path: Path) -> None:
    """A Blosc chunk that says it has 134 MB, and that its first block begins after 18 MB: a crash of Blosc."""
    chunk = path / "X" / "indices" / "0"
    data = bytearray(chunk.read_bytes())
    data[15:20] = b"\x08\x09\x0a\x0b\x01"
    chunk.write_bytes(data)


def pickled(path: Path) -> None:
    metadata = path / "obs" / "_index" / ".zarray"
    about = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**about, "compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}))
    (path / "obs" / "_index" / "0").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")


def shard_elsewhere(path: Path) -> None:
    """The bytes of a shard are a link to a file outside the store."""
    shard = next(file for file in sorted((path / "obsm").rglob("c/0/0")) if file.is_file())
    secret = path.with_name(f"{path.name}.secret")
    secret.write_bytes(bytes(shard.stat().st_size))
    shard.unlink()
    shard.symlink_to(secret)


def record(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """The record of a shard, changed and sealed again."""

    def write(path: Path) -> None:
        file = path / "_scstore" / "shards" / "000000.json"
        body = {key: value for key, value in json.loads(file.read_text()).items() if key != "digest"}
        change(body)
        write_json(file, seal(body))

    return write


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def values(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    """An array of numbers with other values, written as its library writes it: every checksum is right."""

    def write(path: Path) -> None:
        group = zarr.open_group(path, mode="r+", use_consolidated=False) if path.is_dir() else h5py.File(path, "r+")
        found = group[name][:]
        change(found)
        group[name][:] = found
        if not path.is_dir():
            group.close()
        if (path / "_scstore").is_dir():  # whoever can write files can write their digests
            write_manifest(path, read_manifest(path))

    return write


def outside(indices: np.ndarray) -> None:
    indices[3] = 1_000_000


def negative(indices: np.ndarray) -> None:
    indices[3] = -1_000_000


def descending(pointers: np.ndarray) -> None:
    pointers[3:5] = pointers[4] + 1000, pointers[3]


def run_record(**changes: object) -> Callable[[Path], None]:
    """The record of a store's run, changed and sealed again."""

    def write(path: Path) -> None:
        group = zarr.open_group(path, mode="r+", use_consolidated=False)["uns/scstore"]
        body = {key: value for key, value in json.loads(str(read_elem(group["record"]))).items() if key != "digest"}
        write_elem(group, "record", json.dumps(seal({**body, **changes})))

    return write


def pipe(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)

    return write


def endless(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to("/dev/zero")

    return write


HEADER, ROW = GENE_INFO.splitlines(keepends=True)
ROWS = "".join(ROW.format(id=i) for i in range(1, 12))


def gzip_bomb(path: Path) -> None:
    """400 kB that unpack to 400 MB, in one line."""
    with gzip.open(path, "wb") as file:
        file.write(b"#tax_id\tGeneID\tSource\tSummary\n9606\t1\tRefSeq\t")
        for _ in range(400):
            file.write(bytes(MEGABYTE))


ENDLESS = "nested without end"
ELSEWHERE = "a link into another file, which is not followed"

ATTACKS: dict[str, Attack] = {
    "a table of terabytes": Attack(
        "gene table",
        "huge.h5ad",
        huge("X", (10**6, 10**6), chunks=(100, 100)),
        "gene table",
        GenesError,
        r"X declares 4,000,000,000,000 bytes",
    ),
    "a table that stores nothing": Attack(
        "gene table",
        "nothing.h5ad",
        huge_in_a_larger_file,
        "gene table",
        GenesError,
        "X declares 800,000,000 bytes, but only 0 bytes",
    ),
    "many arrays of nothing": Attack(
        "panel", "together.h5ad", huge_together, "panel", GenesError, r"its arrays declare [\d,]+ bytes together"
    ),
    "a chunk of gigabytes": Attack(
        "exported store", "chunk.h5ad", huge_chunk, "store", DamagedError, "one chunk of uns/a decodes to"
    ),
    "links without end": Attack("gene table", "links.h5ad", links_without_end, "gene table", GenesError, ENDLESS),
    "deep groups": Attack("gene table", "deep.h5ad", deep_groups, "gene table", GenesError, ENDLESS),
    "a table's link outside": Attack(
        "gene table", "outside.h5ad", link_outside("obsm/x"), "gene table", GenesError, ELSEWHERE
    ),
    "a store's link outside": Attack(
        "exported store", "out_store.h5ad", link_outside("obsm/x"), "store", DamagedError, ELSEWHERE
    ),
    "a link to a link outside": Attack("cells .h5ad", "way.h5ad", link_to_a_link, "cells", CellsError, ELSEWHERE),
    "a store's values elsewhere": Attack(
        "exported store", "virtual.h5ad", virtual, "store", DamagedError, "the values of obsm/secret lie in other"
    ),
    "a Blosc chunk of another length": Attack(
        "cells Zarr", "blosc.zarr", longer_than_it_is, "cells", CellsError, "X/indices/0"
    ),
    "a pickle in a store": Attack(
        "cells Zarr", "pickle.zarr", pickled, "store", CellsError, "obs/_index is stored as a Python pickle"
    ),
    "a shard outside the store": Attack(
        "store", "symlink.zarr", shard_elsewhere, "store", DamagedError, "does not match its digest"
    ),
    "a record of a thousand million rows": Attack(
        "store",
        "rows.zarr",
        record(lambda body: body.update(stop=10**9)),
        "verify",
        None,
        "rows",
    ),
    "a record without views": Attack(
        "store", "views.zarr", record(lambda body: body.pop("views")), "store", DamagedError, "record"
    ),
    "views that are no mapping": Attack(
        "store", "views7.zarr", record(lambda body: body.update(views=7)), "store", DamagedError, "record"
    ),
    "shards of eight thousand million rows": Attack(
        "store", "endless.zarr", run_record(shard_rows=1 << 33), "store", DamagedError, "other rows, run"
    ),
    "a store's record that is a pipe": Attack(
        "store", "pipe.zarr", pipe("_scstore/shards/000000.json"), "store", CellsError, "pipe, device or socket"
    ),
    "a manifest without end": Attack(
        "store", "zero.zarr", endless("_scstore/manifest.json"), "store", CellsError, "pipe, device or socket"
    ),
    "a manifest without end, verified": Attack(
        "store", "zero2.zarr", endless("_scstore/manifest.json"), "verify", None, "pipe, device or socket"
    ),
    "a head that is a pipe": Attack("head", "pipe_head", pipe("head.json"), "head", NotAStoreError, "no head"),
    "weights that never end": Attack("head", "zero_head", endless("weights.safetensors"), "head", DamagedError, "weig"),
    **{
        f"{what} of {clean}": Attack(clean, f"{what[:5]}_{clean[:7].replace(' ', '')}{end}", change, read, error, words)
        for clean, end, read, error in (
            ("store", ".zarr", "store", DamagedError),
            ("exported store", ".h5ad", "store", DamagedError),
            ("cells Zarr", ".zarr", "cells", CellsError),
            ("cells .h5ad", ".h5ad", "cells", CellsError),
        )
        for what, change, words in (
            ("columns outside", values("X/indices", outside), "column 1,000,000"),
            ("below zero: columns", values("X/indices", negative), "column -1,000,000"),
            ("pointers that descend", values("X/indptr", descending), "indptr"),
        )
    },
    "deep JSON of texts": Attack(
        "", "deep.json", text("[" * 200_000), "texts", GenesError, "gene texts cannot be read"
    ),
    "texts that are no UTF-8": Attack(
        "", "latin.tsv", text(b"symbol\ttext\nA\t\xff\xfe\n"), "texts", GenesError, "gene texts cannot be read"
    ),
    "a gzip bomb of summaries": Attack("", "gene_summary.gz", gzip_bomb, "summaries", GenesError, "unpacks to more"),
    "a gzip bomb of texts": Attack("", "bomb.tsv.gz", gzip_bomb, "texts", GenesError, "unpacks to more"),
    "a gzip bomb of orthologs": Attack("", "bomb.csv.gz", gzip_bomb, "orthologs", GenesError, "unpacks to more"),
    "gene_info that is no UTF-8": Attack(
        "", "latin_info", text((HEADER + ROWS).encode() + b"9606\t\xff\n"), "gene_info", GenesError, "cannot be read"
    ),
}
"""By what they are. All of them are smaller than two megabytes."""

HARMLESS: dict[str, Attack] = {
    "a mark of byte order": Attack("", "bom.tsv", text("\ufeffsymbol\ttext\nA\tx\n"), "texts", None, ""),
    "line ends of Windows": Attack("", "crlf_info", text((HEADER + ROWS).replace("\n", "\r\n")), "gene_info", None, ""),
    "a symbol twice in JSON": Attack("", "twice.json", text('{"A": "x", "A": "y"}'), "texts", None, ""),
    "NaN in JSON": Attack("", "nan.json", text('{"A": NaN, "B": "y"}'), "texts", None, ""),
}
"""Odd but no attack: they are read."""


def make_all(folder: Path) -> dict[str, Path]:
    """Write every attack; the path of each, by what it is."""
    clean = folder / "clean"
    clean.mkdir(parents=True)
    inputs = {kind: path for kind, (path, _) in make_inputs(clean).items()}
    made = {}
    for what, attack in {**ATTACKS, **HARMLESS}.items():
        path = made[what] = folder / attack.name
        if attack.clean:
            original = inputs[attack.clean]
            (shutil.copytree if original.is_dir() else shutil.copyfile)(original, path)
        attack.change(path)
    return made


if __name__ == "__main__":
    for what, path in make_all(Path(sys.argv[1])).items():
        sys.stdout.write(f"{path}: {what}\n")
