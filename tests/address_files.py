"""The golden store and its heads on servers of this machine."""

from __future__ import annotations

import logging
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Loopback, files_below, serve
from support import ROOT

from scstore import fsio, remote

GOLDEN = ROOT / "stores" / "golden" / "1.0"
SECRET = "a-secret-key"  # noqa: S105


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(fsio, "MIRRORS", {})
    monkeypatch.setattr(remote, "_bytes", {"kept": -1, "coming": 0})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The golden store, its files and heads, in the folder ``data``, which servers show."""
    shutil.copytree(GOLDEN, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def server(files: Path) -> Iterator[Loopback]:
    with serve(files_below(files)) as running:
        yield running


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        yield "http://{}:{}".format(*running.get_host_and_port())
    finally:
        running.stop()


def _put(url: str, data: bytes) -> None:
    plain = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, data, plain, method="PUT"), timeout=60)  # noqa: S310  # our own


@pytest.fixture
def empty(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a bucket with nothing in it."""
    for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    urllib.request.urlopen(f"{s3}/moto-api/reset", b"", timeout=60)  # noqa: S310  # our own
    _put(f"{s3}/empty", b"")
    return "s3://empty"


@pytest.fixture
def bucket(s3: str, empty: str, files: Path) -> str:
    """The address of a bucket with these files."""
    _put(f"{s3}/bucket", b"")
    for name in fsio.files_below(files):
        _put(f"{s3}/bucket/{name}", (files / name).read_bytes())
    return empty.replace("empty", "bucket")


@pytest.fixture(params=["http", "s3"])
def base(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("bucket") if request.param == "s3" else request.getfixturevalue("server").url
