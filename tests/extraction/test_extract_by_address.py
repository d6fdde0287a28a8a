"""Extraction into a bucket: the bytes of a store on disk, locks that hold, nothing lost by kills and bad servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import pytest
from address_files import SECRET
from broken_disk import Killed
from support import Run, extract, make_cells, make_store

import scstore
from scstore import errors, fsio, remote
from scstore.disk import this_process
from scstore.extraction import extract as workflow
from scstore.remote import Mirror, mount
from scstore.sealed import seal
from scstore.store.ledger import MANIFEST, chunk_path, record_path

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("own_cache")

ROWS = {"shard_rows": 16}  # four shards of 60 cells
SHARDS = "_scstore/shards/"


class Bucket:
    """What lies in the bucket, behind the server's back, and what the server does to requests that write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from moto.backends import get_backend
        from moto.s3.responses import S3Response

        self.put: list[str] = []
        self.answer: Callable[[Any, str, Callable[[], Any]], Any] = lambda _response, _name, write: write()
        self._keys = lambda: get_backend("s3")["123456789012"]["aws"].buckets["empty"].keys
        self._one_by_one = threading.Lock()  # as a server writes; moto looks, then writes
        real = S3Response.put_object

        def put_object(response: Any) -> Any:
            with self._one_by_one:
                name = response.parse_key_name()
                self.put.append(name)
                return self.answer(response, name, lambda: real(response))

        monkeypatch.setattr(S3Response, "put_object", put_object)

    def names(self) -> list[str]:
        return sorted(self._keys())

    def __getitem__(self, name: str) -> bytes:
        with self._one_by_one:
            return bytes(self._keys()[name].value)

    def __setitem__(self, name: str, data: bytes) -> None:
        self._keys()[name].value = data

    def __delitem__(self, name: str) -> None:
        self._keys().pop(name)

    def silent_since(self, name: str, year: int) -> None:
        self._keys()[name].last_modified = self._keys()[name].last_modified.replace(year=year)

    def files(self, store: str = "s.zarr") -> dict[str, bytes]:
        return {name.removeprefix(f"{store}/"): self[name] for name in self.names() if name.startswith(f"{store}/")}


@pytest.fixture
def there(empty: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(workflow, "POLL", 0.001)
    return Bucket(monkeypatch)


@pytest.fixture
def on_disk(llama: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of the store that the same command writes to disk."""
    root = make_store(make_cells(), tmp_path / "disk" / "s.zarr", llama, **ROWS).path
    return {name: (root / name).read_bytes() for name in fsio.files_below(root)}


def test_it_is_the_store_on_disk_byte_for_byte(
    there: Bucket, on_disk: dict[str, bytes], cells: anndata.AnnData, llama: Path, tmp_path: Path
) -> None:
    store = extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    assert store.is_complete
    cached = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert not any(remote.is_bulk(file.relative_to(tmp_path).as_posix()) for file in cached)
    assert store.info["path"] == "s3://empty/s.zarr"
    assert there.files() == on_disk
    assert [name for name in there.names() if "/" not in name] == ["s.genes.h5ad"]
    order = [name for name in there.put if name.endswith((".json", "/0")) and "/zarr.json" not in name]
    assert [name.removeprefix("s.zarr/") for name in order if SHARDS in name or MANIFEST in name] == [
        *(MANIFEST, MANIFEST),
        *(f"{SHARDS}{shard:06d}.json" for shard in range(4)),
    ]
    views = [name for name in store.views if name != "X"]
    for shard in range(4):  # the bytes of all views, then their record
        record = there.put.index(str(record_path(Path("s.zarr"), shard)))
        assert all(there.put.index(str(chunk_path(Path("s.zarr"), view, shard))) < record for view in views)
    assert there.put.index("s.genes.h5ad") < len(there.put) - there.put[::-1].index(f"s.zarr/{MANIFEST}")
    kept = [*(file.read_bytes() for file in cached), *there.files().values()]
    assert not any(SECRET.encode() in data for data in kept)
    there.put.clear()
    assert extract(cells, "s3://empty/s.zarr", llama, **ROWS).is_complete
    assert {name for name in there.put if not name.endswith(".lock")} == set()
    scstore.fit("s3://empty/s.zarr", tmp_path / "head", label="cell_type")
    assert scstore.verify(scstore.pull("s3://empty/s.zarr", tmp_path / "s.zarr"), deep=True).findings == ()


def test_parts_in_one_store_at_once(there: Bucket, on_disk: dict[str, bytes], llama: Path) -> None:
    def part(shard: str) -> scstore.Store:
        return extract(make_cells(), "s3://empty/s.zarr", llama, shard=shard, **ROWS)

    with ThreadPoolExecutor(2) as both:
        list(both.map(part, ["0/2", "1/2"]))
    assert there.files() == on_disk
    assert there.put.count(f"s.zarr/{MANIFEST}") == 2  # one of them created it
    assert not [name for name in there.names() if name.endswith(".lock")]


@pytest.mark.parametrize(("held", "mine"), [("", "1/2"), (".1of2", None), (".1of2", "1/2")])
def test_a_part_that_is_held_is_refused_until_its_holder_is_dead(
    there: Bucket, cells: anndata.AnnData, llama: Path, held: str, mine: str | None
) -> None:
    mirror, root = mount("s3://empty/s.zarr")
    lock = root.with_name(f"s.zarr{held}.lock")
    mirror.put(lock, json.dumps({**this_process(), "host": "elsewhere", "boot": "other"}).encode())
    with pytest.raises(errors.LockedError) as raised:
        extract(cells, "s3://empty/s.zarr", llama, shard=mine, **ROWS)
    assert "s3://empty/s.zarr" in str(raised.value)
    assert there.names() == [lock.name]
    if mine == "1/2":
        mirror.put(lock, json.dumps({**this_process(), "pid": 2**30}).encode())  # which this machine's kernel knows
    else:
        there.silent_since(lock.name, 2020)
    assert extract(cells, "s3://empty/s.zarr", llama, shard=mine, **ROWS).n_obs == 60
    assert not [name for name in there.names() if name.endswith(".lock")]


def dies(monkeypatch: pytest.MonkeyPatch, file: str, nth: int) -> Callable[[], None]:
    """Let the process die before it writes a file the nth time: nothing that it does afterwards reaches the server."""
    real, left, dead = Mirror.insist, [nth], [False]

    def insist(self: Mirror, path: Path, action: Any, **named: Any) -> Any:
        if path.as_posix().endswith(file) and "put" in action.__qualname__:
            left[0] -= 1
            dead[0] = dead[0] or left[0] == 0
        if dead[0]:
            raise Killed
        return real(self, path, action, **named)

    def again() -> None:
        monkeypatch.setattr(Mirror, "insist", real)
        monkeypatch.setattr(remote, "is_dead", lambda *_, **__: True)

    monkeypatch.setattr(Mirror, "insist", insist)
    return again


@pytest.mark.parametrize(
    ("file", "nth", "kept"),
    [
        (MANIFEST, 1, 0),
        ("obs/zarr.json", 1, 0),
        (MANIFEST, 2, 0),
        ("readout_last_l3/c/2/0", 1, 2),
        ("000001.json", 1, 1),
    ],
)
def test_killed_anywhere_it_goes_on_and_ends_in_the_same_bytes(
    there: Bucket,
    on_disk: dict[str, bytes],
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    nth: int,
    kept: int,
) -> None:
    again = dies(monkeypatch, file, nth)
    with pytest.raises(Killed):
        extract(make_cells(), "s3://empty/s.zarr", llama, **ROWS)
    again()
    records = [name for name in there.names() if SHARDS in name]
    assert len(records) == kept
    if not there.files().get(MANIFEST):
        with pytest.raises(errors.NotAStoreError):
            scstore.open("s3://empty/s.zarr")
    else:
        assert scstore.open("s3://empty/s.zarr").committed.sum() == 16 * kept
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "another machine's"))
    monkeypatch.setattr(fsio, "MIRRORS", {})
    there.put.clear()
    assert extract(make_cells(), "s3://empty/s.zarr", llama, **ROWS).is_complete
    assert set(records).isdisjoint(there.put)
    assert there.files() == on_disk
    assert [name for name in there.names() if "/" not in name] == ["s.genes.h5ad"]


def test_what_is_missing_or_damaged_there_is_redone(
    there: Bucket, on_disk: dict[str, bytes], cells: anndata.AnnData, llama: Path
) -> None:
    root = Path("s.zarr")
    chunks, records = (
        [str(one) for one in map(of, range(4))]
        for of in (partial(chunk_path, root, "genept"), partial(record_path, root))
    )
    extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    del there[chunks[0]]
    there[chunks[1]] = there[chunks[1]][:-1]
    there[records[2]] = there[records[2]].replace(b"32", b"33")
    there[records[3]] = there[records[1]]
    there.put.clear()
    extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    assert there.files() == on_disk
    assert [name for name in there.put if SHARDS in name] == records
    del there[records[1]]
    there.put.clear()
    extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    assert there.files() == on_disk
    assert [name for name in there.put if SHARDS in name] == [records[1]]


def test_the_first_of_two_records_wins(there: Bucket, cells: anndata.AnnData, llama: Path) -> None:
    """RELIABILITY 26: locks that do not hold."""
    record = f"s.zarr/{SHARDS}000001.json"
    written: list[bytes] = []

    def meanwhile(response: Any, name: str, write: Callable[[], Any]) -> Any:
        if name == record and not written:
            body, written[:] = response.body, [response.body]
            said = {key: value for key, value in json.loads(body).items() if key != "digest"}
            said["views"]["genept"]["digest"] = "sha256:0"
            response.body = fsio.json_bytes(seal(said))
            write()
            response.body = body
        return write()

    there.answer = meanwhile
    with pytest.raises(errors.LockedError):
        extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    assert there[record] != written[0]


def refused(status: int) -> Callable[..., Any]:
    return lambda *_: (status, {}, "<Error><Code>No</Code><Message>no</Message></Error>")


def lost(_response: Any, _name: str, write: Callable[[], Any]) -> Any:
    """Write, and answer that it failed."""
    write()
    return refused(500)()


@pytest.mark.parametrize("fault", [refused(503), lost], ids=["503", "lost answer"])
def test_every_request_fails_once_and_nothing_is_lost(
    there: Bucket, on_disk: dict[str, bytes], cells: anndata.AnnData, llama: Path, fault: Callable[..., Any]
) -> None:
    failed: set[tuple[str, bytes]] = set()

    def once(response: Any, name: str, write: Callable[[], Any]) -> Any:
        if (key := (name, bytes(response.body or b""))) in failed:
            return write()
        failed.add(key)
        return fault(response, name, write)

    there.answer = once
    extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    assert there.files() == on_disk
    assert [name for name in there.names() if "/" not in name] == ["s.genes.h5ad"]


@pytest.mark.parametrize(
    ("file", "status", "kind"),
    [("s.zarr.lock", 403, "unreadable"), ("obs/zarr.json", 500, "network"), ("000002.json", 403, "unreadable")],
)
def test_a_server_that_fails_for_good_is_an_error_that_names_the_address(
    there: Bucket, on_disk: dict[str, bytes], cells: anndata.AnnData, llama: Path, file: str, status: int, kind: str
) -> None:
    no = refused(status)
    there.answer = lambda response, name, write: no(response, name, write) if name.endswith(file) else write()
    with pytest.raises(errors.ScstoreError) as raised:
        extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    assert raised.value.kind == kind
    assert "s3://empty/" in str(raised.value)
    assert SECRET not in str(raised.value)
    there.answer = lambda _response, _name, write: write()
    extract(cells, "s3://empty/s.zarr", llama, **ROWS)
    assert there.files() == on_disk


def ignoring(response: Any, _name: str, write: Callable[[], Any]) -> Any:
    response.headers = {name: v for name, v in response.headers.items() if not name.startswith("If-")}
    return write()


def unknown(response: Any, name: str, write: Callable[[], Any]) -> Any:
    return refused(501)() if "If-None-Match" in response.headers else write()


@pytest.mark.parametrize("server", [ignoring, unknown])
def test_a_server_without_conditional_writes_is_refused_before_any_work(
    there: Bucket, cells: anndata.AnnData, tmp_path: Path, server: Callable[..., Any]
) -> None:
    there.answer = server
    with pytest.raises(errors.OptionError) as raised:
        scstore.extract(cells, "s3://empty/s.zarr", model=str(tmp_path / "no model"))
    assert "push" in str(raised.value)
    assert there.names() == []


def test_listings_that_are_stale_change_nothing(
    there: Bucket, on_disk: dict[str, bytes], llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 44: what is committed is asked for by name."""
    monkeypatch.setattr(Mirror, "names", lambda *_: [])
    for part in ("0/2", "1/2"):
        extract(make_cells(), "s3://empty/s.zarr", llama, shard=part, **ROWS)
    assert there.files() == on_disk
    monkeypatch.setattr(Mirror, "names", lambda *_: ["_scstore", "s.zarr.lock"])
    extract(make_cells(), "s3://empty/s.zarr", llama, shard="0/1", **ROWS)
    assert there.files() == on_disk


def test_who_loses_a_lock_writes_nothing_more(there: Bucket, empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsio, "HEARTBEAT", 0.001)
    mirror, root = mount(f"{empty}/s.zarr")
    lock = root.with_name("s.zarr.lock")
    with mirror.lock(lock):
        first = there[lock.name]
        while there[lock.name] == first:  # it is renewed
            pass
        Mirror(root.parent, empty).put(lock, b"another's")
        with pytest.raises(errors.NetworkError):
            while True:
                mirror.put(root / "a", b"")
    assert there[lock.name] == b"another's"
    with pytest.raises(errors.LockedError), mirror.lock(lock):
        pass
    mirror.put(root / "a", b"")


def test_the_files_that_a_run_reads_lie_beside_the_store(
    there: Bucket, cells: anndata.AnnData, llama: Path, tmp_path: Path
) -> None:
    scstore.panel(cells, tmp_path / "mine.h5ad", label="cell_type", n_genes=8)
    store = extract(cells, "s3://empty/in/s.zarr", llama, panel=tmp_path / "mine.h5ad", **ROWS)
    assert store.record is not None
    assert (store.record["options"]["panel"], store.record["options"]["genes"]) == ("s.panel.h5ad", "s.genes.h5ad")
    assert there["in/s.panel.h5ad"] == (tmp_path / "mine.h5ad").read_bytes()
    assert set(scstore.fit("s3://empty/in/s.zarr", label="cell_type", views=["genept"]).files_) == {"genes", "panel"}
    other = scstore.extract(cells, "s3://empty/in/t.zarr", like="s3://empty/in/s.zarr", **ROWS)
    assert other.view("readout").fingerprint == store.view("readout").fingerprint
    assert there["in/t.panel.h5ad"] == there["in/s.panel.h5ad"]
    with pytest.raises(errors.OutputError):  # its files would have the names of the other's
        extract(cells, "s3://empty/in/s", llama, **ROWS)


@pytest.mark.parametrize(
    ("address", "options", "kind"),
    [
        ("https://host/s.zarr", {}, "option"),
        ("hf://datasets/lab/blood/s.zarr", {}, "option"),
        ("s3://empty/s.zarr", {"overwrite": True}, "option"),
        ("s3://empty", {}, "option"),
        ("s3://nothing/s.zarr", {}, "network"),
        ("s3://empty/taken", {}, "output"),
    ],
)
def test_what_cannot_be_written_is_refused(
    there: Bucket, cells: anndata.AnnData, address: str, options: dict[str, Any], kind: str
) -> None:
    mirror, root = mount("s3://empty/taken")
    mirror.put(root / "zarr.json", b"another's")
    with pytest.raises(errors.ScstoreError) as raised:
        scstore.extract(cells, address, model="no model", **options)
    assert raised.value.kind == kind
    assert there.names() == ["taken/zarr.json"]


def test_another_run_is_refused_and_the_command_names_the_address(
    there: Bucket, cells_file: Path, llama: Path, scstore_command: Run
) -> None:
    words = ["extract", cells_file, "-o", "s3://empty/s.zarr", "--model", llama, "--shard-rows", "16"]
    done = scstore_command(*words)
    assert "s3://empty/s.zarr: 60 cells" in done.stdout
    assert "addresses" not in done.stdout + done.stderr
    before = there.files()
    refused = scstore_command(*words, "--instruction", "what", code=2)
    assert "s3://empty/s.zarr is a store of another run" in refused.stderr
    assert there.files() == before
    assert json.loads(scstore_command("--json", "info", "s3://empty/s.zarr").stdout)["complete"]
    assert "-o s3://empty/s.zarr" in scstore_command(*words, "--dry-run").stdout.replace("--output", "-o")
