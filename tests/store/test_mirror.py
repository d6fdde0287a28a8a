"""Stores and heads by address: the same bytes and answers as on disk, from servers that fail too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from address_files import GOLDEN, SECRET
from loopback import Loopback, answer, files_below, serve
from support import Run

import scstore
from scstore import errors, fsio, remote
from scstore.extraction.options import reference_record
from scstore.store.ledger import MANIFEST, chunk_path, record_path, seal, write_manifest
from scstore.store.reader import Store

VIEW = "readout_wmean_l3"  # of 36 cells in shards of 16 rows of 64 bytes


pytestmark = pytest.mark.usefixtures("own_cache")


def dense(rows: Any) -> Any:
    return rows.toarray() if hasattr(rows, "toarray") else rows


def asked(server: Loopback) -> list[tuple[str, str]]:
    return [(path, headers.get("range", "")) for _, path, headers, _ in server.requests]


def test_every_command_of_stage_2_gives_what_it_gives_on_disk(base: str, files: Path, tmp_path: Path) -> None:
    there, here = f"{base}/store.zarr", files / "store.zarr"
    store, on_disk = scstore.open(there), scstore.open(here)
    assert store.views == on_disk.views
    pd.testing.assert_frame_equal(store.obs, on_disk.obs)
    for name in store.views:
        for rows in (slice(None), slice(3, 21), [30, 2, 2], []):
            np.testing.assert_array_equal(dense(store.view(name)[rows]), dense(on_disk.view(name)[rows]))
    for place, name in ((there, "there"), (here, "here")):
        head = scstore.fit(place, tmp_path / name / "head", label="cell_type", views=["genept", "X"])
        assert set(head.files_) == {"genes", "panel"}
        scstore.export(place, tmp_path / name / "s.h5ad")
    assert fsio.digest_tree(tmp_path / "there" / "head") == fsio.digest_tree(tmp_path / "here" / "head")
    for call in (
        lambda at: scstore.predict(at / "store.zarr", at / "linear", proba=True),
        lambda at: scstore.query(at / "store.zarr", at / "store.zarr", k=3, exact=True).table,
        lambda at: scstore.annotate(at / "store.zarr", at / "linear", umap=False).obs,
        lambda at: pd.DataFrame([repr(scstore.evaluate(at / "store.zarr", label="cell_type", folds=2))]),
        lambda at: scstore.open(tmp_path / ("here" if at is files else "there") / "s.h5ad").to_anndata().to_df(),
    ):
        pd.testing.assert_frame_equal(call(Address(base)), call(files))


class Address:
    """Joins names as a path does."""

    def __init__(self, base: str) -> None:
        self._base = base

    def __truediv__(self, name: str) -> str:
        return f"{self._base}/{name}"


def test_like_takes_the_files_beside_an_address(server: Loopback) -> None:
    record, folder = reference_record(f"{server.url}/store.zarr")
    assert remote.there(folder / record["options"]["panel"]).read_bytes() == (GOLDEN / "panel.h5ad").read_bytes()
    assert not remote.there(folder / "../../../../../etc/hostname").exists()


def test_few_rows_are_fetched_alone_and_again_from_the_cache(server: Loopback) -> None:
    view = scstore.open(f"{server.url}/store.zarr").view(VIEW)
    server.requests.clear()
    rows = view[[17, 3]]
    name = f"/store.zarr/obsm/{VIEW}/c"
    assert sorted(asked(server)) == [(f"{name}/0/0", "bytes=192-255"), (f"{name}/1/0", "bytes=64-127")]
    np.testing.assert_array_equal(rows, scstore.open(GOLDEN / "store.zarr").view(VIEW)[[17, 3]])
    view[:]
    server.requests.clear()
    np.testing.assert_array_equal(scstore.open(f"{server.url}/store.zarr").view(VIEW)[[17, 3]], rows)
    assert not [path for path, _ in asked(server) if "/c/" in path]


def test_a_server_without_ranges_sends_whole_files(files: Path) -> None:
    def fault(request: BaseHTTPRequestHandler, file: Path) -> bool:
        if "range" not in request.headers:
            return False
        answer(request, 200, file.read_bytes())
        return True

    with serve(files_below(files, fault)) as server:
        found = scstore.open(f"{server.url}/store.zarr").view(VIEW)[[17, 3]]
    np.testing.assert_array_equal(found, scstore.open(GOLDEN / "store.zarr").view(VIEW)[[17, 3]])


def cut(request: BaseHTTPRequestHandler, file: Path) -> None:
    request.send_response(200)
    request.send_header("content-length", str(file.stat().st_size))
    request.end_headers()
    request.wfile.write(file.read_bytes()[:-1])


def dropped(request: BaseHTTPRequestHandler, _file: Path) -> None:
    request.connection.close()


FAULTS: dict[str, tuple[Callable[[BaseHTTPRequestHandler, Path], None], str]] = {
    "403": (lambda request, _: answer(request, 403, b"no"), "unreadable"),
    "404": (lambda request, _: answer(request, 404, b"no"), "damaged"),
    "500": (lambda request, _: answer(request, 500, b"no"), "network"),
    "cut": (cut, "network"),
    "dropped": (dropped, "network"),
    "longer": (lambda request, file: answer(request, 200, file.read_bytes() + b"x"), "damaged"),
    "zeros": (lambda request, file: answer(request, 200, bytes(file.stat().st_size)), "damaged"),
    "page": (lambda request, _: answer(request, 200, b"<html>Sign in</html>"), "damaged"),
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, f"obsm/{VIEW}/c/1/0") for name in FAULTS),
        *((name, part) for name in ("404", "cut", "zeros") for part in ("X/data/c/0", "obs/cell_type/codes/c/0")),
    ],
)
def test_a_fault_is_an_error_and_one_that_ends_loses_nothing(files: Path, name: str, part: str) -> None:
    send, kind = FAULTS[name]
    left = [0]

    def fault(request: BaseHTTPRequestHandler, file: Path) -> bool:
        if not file.as_posix().endswith(part) or not left[0]:
            return False
        left[0] -= 1
        send(request, file)
        return True

    def read(url: str) -> Any:
        store = scstore.open(f"{url}/store.zarr")
        return [dense(store.view(view)[:]) for view in (VIEW, "X")]

    with serve(files_below(files, fault)) as server:
        left[0] = 1000
        with pytest.raises(errors.ScstoreError) as raised:
            read(server.url)
        assert raised.value.kind == kind
        left[0] = 2 if kind != "unreadable" and name != "404" else 0
        for found, expected in zip(read(server.url), read("file://" + str(GOLDEN)), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_rows_of_zeros_or_nan_in_a_piece_are_compared_with_the_digest(files: Path, value: float) -> None:
    def fault(request: BaseHTTPRequestHandler, file: Path) -> bool:
        if "range" not in request.headers:
            return False
        data = np.full(32, value, np.float16).tobytes()
        first = int(request.headers["range"].removeprefix("bytes=").split("-")[0])
        answer(request, 206, data, content_range=f"bytes {first}-{first + 63}/{file.stat().st_size}")
        return True

    with serve(files_below(files, fault)) as server:
        found = scstore.open(f"{server.url}/store.zarr").view(VIEW)[[3]]
    np.testing.assert_array_equal(found, scstore.open(GOLDEN / "store.zarr").view(VIEW)[[3]])


def test_what_is_not_extracted_yet_is_incomplete_until_it_is(files: Path, server: Loopback) -> None:
    record = record_path(files / "store.zarr", 1)
    data = record.read_bytes()
    record.unlink()
    store = scstore.open(f"{server.url}/store.zarr")
    assert store.committed.tolist() == [True] * 16 + [False] * 16 + [True] * 4
    for rows in (slice(None), [17]):
        with pytest.raises(errors.IncompleteStoreError):
            store.view(VIEW)[rows]
    np.testing.assert_array_equal(store.view(VIEW)[:16], scstore.open(GOLDEN / "store.zarr").view(VIEW)[:16])
    record.write_bytes(data)
    assert scstore.open(f"{server.url}/store.zarr").is_complete


def test_a_record_of_other_bytes_is_damage_and_a_new_one_is_read(files: Path, server: Loopback) -> None:
    scstore.open(f"{server.url}/store.zarr").view(VIEW)[:]
    chunk, record = chunk_path(files / "store.zarr", VIEW, 0), record_path(files / "store.zarr", 0)
    rows = np.fromfile(chunk, np.float16) * np.float16(2)
    chunk.write_bytes(rows.tobytes())
    said = json.loads(record.read_text())
    said["views"][VIEW]["digest"] = fsio.digest_file(chunk)
    record.write_bytes(fsio.json_bytes(seal({key: value for key, value in said.items() if key != "digest"})))
    np.testing.assert_array_equal(scstore.open(f"{server.url}/store.zarr").view(VIEW)[:16].ravel(), rows)
    chunk.write_bytes((rows * np.float16(2)).tobytes())
    shutil.rmtree(os.environ["SCSTORE_CACHE"])
    with pytest.raises(errors.DamagedError):
        scstore.open(f"{server.url}/store.zarr").view(VIEW)[:]


def test_another_store_in_its_place_is_read_as_it_is(files: Path, server: Loopback) -> None:
    root = files / "store.zarr"
    kept = (root / MANIFEST).read_bytes()
    shutil.copytree(root / "uns" / "scstore" / "format", root / "uns" / "older")
    write_manifest(root, [name for name in fsio.files_below(root) if not name.startswith(("_scstore", "obsm/"))])
    assert set(scstore.open(f"{server.url}/store.zarr").to_anndata([]).uns) == {"scstore", "older"}
    shutil.rmtree(root / "uns" / "older")
    (root / MANIFEST).write_bytes(kept)
    assert set(scstore.open(f"{server.url}/store.zarr").to_anndata([]).uns) == {"scstore"}


def test_the_cache_keeps_no_more_than_it_may(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE_BYTES", "5500")
    store, on_disk = scstore.open(f"{server.url}/store.zarr"), scstore.open(GOLDEN / "store.zarr")
    for _ in range(2):
        for name in ("genept", VIEW):
            for start in (0, 16, 32):
                rows = slice(start, start + 16)
                np.testing.assert_array_equal(store.view(name)[rows], on_disk.view(name)[rows])
    kept = [file.stat().st_size for file in Path(os.environ["SCSTORE_CACHE"]).rglob("obsm/*/c/*/0")]
    assert 0 < sum(kept) <= 5500
    monkeypatch.setattr(fsio, "MIRRORS", {})
    monkeypatch.setenv("SCSTORE_CACHE_BYTES", "900")
    with pytest.raises(errors.InputError):
        scstore.open(f"{server.url}/store.zarr").view("genept_random")[:]


def test_the_hub_is_asked_for_its_files_with_the_users_token(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(files, files.parent / "hub" / "datasets" / "lab" / "blood" / "resolve" / "v1")
    with serve(files_below(files.parent / "hub")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", SECRET)
        store = scstore.open("hf://datasets/lab/blood@v1/store.zarr")
        assert store.n_obs == 36
        assert SECRET not in json.dumps(store.info)
    assert {headers.get("authorization") for _, _, headers, _ in server.requests} == {f"Bearer {SECRET}"}


def test_no_credential_is_in_what_is_said_or_written(bucket: str, tmp_path: Path) -> None:
    scstore.fit(f"{bucket}/store.zarr", tmp_path / "head", label="cell_type")
    found = scstore.annotate(f"{bucket}/store.zarr", f"{bucket}/linear", umap=False)
    said = json.loads(json.dumps(found.uns["scstore"]["annotation"], default=str))
    assert said["cells"] == "s3://bucket/store.zarr"
    assert said["head"] == "s3://bucket/linear"
    assert said["head_digest"] == fsio.digest_file(GOLDEN / "linear" / "head.json")
    with pytest.raises(errors.NotAStoreError) as raised:
        scstore.open(f"{bucket}/other.zarr")
    kept = (file for top in ("head", "cache") for file in (tmp_path / top).rglob("*") if file.is_file())
    assert not any(SECRET in text for text in (str(raised.value), str(said)))
    assert not any(SECRET.encode() in file.read_bytes() for file in kept)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:pw@host/ref.zarr",
        "https://host/ref.zarr?sig=pw",
        "s3://bucket/../ref.zarr",
        "hf://name",
        "gs://b//x",
    ],
)
def test_an_address_with_a_password_or_a_way_out_is_refused(address: str) -> None:
    with pytest.raises(errors.InputError) as raised:
        scstore.open(address)
    assert "pw" not in str(raised.value)


def test_messages_and_the_command_line_name_the_address(server: Loopback, scstore_command: Run) -> None:
    url = f"{server.url}/store.zarr"
    assert json.loads(scstore_command("--json", "info", url).stdout)["path"] == url
    assert scstore_command("info", url).stdout.startswith(f"{url}: 36 cells")
    scstore_command("info", f"{server.url}/linear")
    assert (
        f"{url} has no view"
        in scstore_command("fit", url, "--label", "cell_type", "--view", "x", "-o", "h", code=2).stderr
    )
    done = scstore_command("--json", "export", url, "-o", "s3://bucket/s.h5ad", code=2)
    assert json.loads(done.stdout)["error"]["kind"] == "output"


def test_a_path_and_file_address_are_the_store_on_disk() -> None:
    for address in (f"file://{GOLDEN}/store.zarr", Path(f"file://{GOLDEN}/store.zarr")):
        assert Store(address).path == GOLDEN / "store.zarr"
