"""NCBI's files from a real server on this machine that cuts, changes and lies."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from loopback import Loopback, answer, serve
from support import Notes

from scstore.errors import LockedError, NetworkError
from scstore.fsio import lock
from scstore.gene_tables.download import ATTEMPTS, NCBI_URL, NcbiFiles, download_ncbi

NAMES = (
    "GENE_INFO/Mammalia/Homo_sapiens.gene_info.gz",
    "GENE_INFO/Mammalia/Mus_musculus.gene_info.gz",
    "gene_summary.gz",
    "gene_orthologs.gz",
)
SUMMARY = "/gene_summary.gz"
Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


def content(name: str, *, version: int = 1) -> bytes:
    """A gzip file of some length that does not pack to nothing."""
    noise = random.Random(f"{name}{version}").randbytes(40_000).hex()  # noqa: S311
    return gzip.compress(f"#tax_id\t{name}\n{noise}\n".encode(), mtime=0)


class Server:
    """A file server with Range and ETag, both of which can be switched off, and one-time faults by path."""

    def __init__(self) -> None:
        self.files = {f"/{name}": content(name) for name in NAMES}
        self.etag = '"v1"'
        self.ranges = True
        self.faults: dict[str, list[Fault]] = {}
        self.loopback: Loopback

    def __call__(self, request: BaseHTTPRequestHandler, _: bytes) -> None:
        data = self.files.get(request.path)
        if data is None:
            answer(request, 404, b"")
            return
        if left := self.faults.get(request.path):
            left.pop(0)(request, data)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if wanted and self.ranges and request.headers.get("if-range") == self.etag:
            start = int(wanted[1])
            extent = f"bytes {start}-{len(data) - 1}/{len(data)}"
            answer(request, 206, data[start:], etag=self.etag, content_range=extent)
        else:
            answer(request, 200, data, **({"etag": self.etag} if self.etag else {}))

    def asked(self, path: str = SUMMARY) -> list[str | None]:
        """The ranges that were asked of a file, one a request."""
        return [headers.get("Range") for _, where, headers, _ in self.loopback.requests if where == path]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    with serve(server) as server.loopback:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("SCSTORE_NCBI_URL", server.loopback.url)
        yield server


def fetch(folder: Path, waits: list[float] | None = None, notes: Notes | None = None) -> NcbiFiles:
    return download_ncbi(folder, sleep=([] if waits is None else waits).append, progress=notes)


def cut(at: int, *, etag: str = '"v1"') -> Fault:
    """Promise the whole file and hang up after some bytes."""

    def fault(request: BaseHTTPRequestHandler, data: bytes) -> None:
        answer(request, 200, data[:at], content_length=str(len(data)), etag=etag)

    return fault


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ALL = sorted(name.rpartition("/")[2] for name in NAMES)


def test_files_are_fetched_once(server: Server, tmp_path: Path) -> None:
    files = fetch(tmp_path / "ncbi")
    for path in (*files.gene_info.values(), files.gene_summary, files.gene_orthologs):
        assert gzip.decompress(path.read_bytes()).startswith(b"#tax_id\t")
    assert names(tmp_path / "ncbi") == ALL
    assert len(server.loopback.requests) == 4
    notes = Notes()
    assert fetch(tmp_path / "ncbi", notes=notes) == files
    assert len(server.loopback.requests) == 4
    assert "4 were there" in notes.said[0]


def test_a_cut_connection_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.faults[SUMMARY] = [cut(9000)]
    waits: list[float] = []
    files = fetch(tmp_path, waits)
    assert files.gene_summary.read_bytes() == server.files[SUMMARY]
    assert server.asked() == [None, "bytes=9000-"]
    assert len(waits) == 1
    assert names(tmp_path) == ALL


def test_a_later_run_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.faults[SUMMARY] = [cut(9000), *[lambda request, _: answer(request, 503, b"")] * ATTEMPTS]
    waits: list[float] = []
    with pytest.raises(NetworkError, match=r"gene_summary\.gz: cannot be fetched .*503.*--gene-info FILE"):
        fetch(tmp_path, waits)
    assert len(waits) == ATTEMPTS - 1
    assert (tmp_path / "gene_summary.gz.part").stat().st_size == 9000
    server.faults.clear()
    assert fetch(tmp_path).gene_summary.read_bytes() == server.files[SUMMARY]
    assert server.asked()[-1] == "bytes=9000-"
    assert names(tmp_path) == ALL


@pytest.mark.parametrize("change", ["another version", "no ranges", "no etag", "weak etag"])
def test_what_cannot_be_gone_on_with_begins_again(server: Server, tmp_path: Path, change: str) -> None:
    """The result is the server's present file, never two halves of two files."""
    server.faults[SUMMARY] = [cut(9000, etag={"no etag": "", "weak etag": 'W/"v1"'}.get(change, '"v1"'))]
    if change == "another version":
        server.etag, server.files[SUMMARY] = '"v2"', content("gene_summary.gz", version=2)
    server.ranges = change != "no ranges"
    assert fetch(tmp_path).gene_summary.read_bytes() == server.files[SUMMARY]
    again = None if "etag" in change else "bytes=9000-"
    assert server.asked() == [None, again]
    assert names(tmp_path) == ALL


def test_a_server_that_answers_another_range_or_none(server: Server, tmp_path: Path) -> None:
    def other(request: BaseHTTPRequestHandler, data: bytes) -> None:
        answer(request, 206, data[5:], etag='"v1"', content_range=f"bytes 5-{len(data) - 1}/{len(data)}")

    server.faults[SUMMARY] = [cut(9000), other, cut(7000), lambda request, _: answer(request, 416, b"")]
    assert fetch(tmp_path).gene_summary.read_bytes() == server.files[SUMMARY]
    assert server.asked() == [None, "bytes=9000-", None, "bytes=7000-", None]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"<html>log in to the hotel's network</html>", "no whole gzip"),
        (gzip.compress(b"hello world\n"), "it begins with b'hello wo'"),
        (content("gene_summary.gz")[:-1], "no whole gzip"),
        (content("gene_summary.gz")[:-6] + b"\0" + content("gene_summary.gz")[-5:], "no whole gzip"),
        (b"", "no whole gzip|begins with b''"),
    ],
    ids=["page", "other", "cut", "damaged", "empty"],
)
def test_wrong_bytes_never_get_the_files_name(server: Server, tmp_path: Path, bad: bytes, said: str) -> None:
    good = server.files[SUMMARY]
    server.files[SUMMARY] = bad
    with pytest.raises(NetworkError, match=said):
        fetch(tmp_path)
    assert not (tmp_path / "gene_summary.gz").exists()
    server.files[SUMMARY] = good
    assert fetch(tmp_path).gene_summary.read_bytes() == good


def test_what_is_not_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    del server.files[SUMMARY]
    waits: list[float] = []
    with pytest.raises(NetworkError, match=r"gene_summary\.gz: the server answered 404.*SCSTORE_NCBI_URL"):
        fetch(tmp_path, waits)
    assert waits == []


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for url in ("http://127.0.0.1:9", "gopher://x"):
        with pytest.raises(NetworkError, match=rf"{url}/GENE_INFO.*cannot be fetched.*--gene-info FILE"):
            download_ncbi(tmp_path, base_url=url, sleep=[].append)
    assert NCBI_URL.startswith("https://")


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    with lock(tmp_path / ".fetching.lock"), pytest.raises(LockedError):
        fetch(tmp_path)
