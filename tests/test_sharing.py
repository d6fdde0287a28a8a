"""Pull and push: whole stores and heads, parts, what is stopped half way, and what is not replaced."""

from __future__ import annotations

import json
import shutil
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from address_files import GOLDEN
from loopback import answer, files_below, serve
from support import Run

import scstore
from scstore import errors, fsio
from scstore.store.ledger import MANIFEST, chunk_path, record_path

pytestmark = pytest.mark.usefixtures("own_cache")


def same(one: Path, other: Path) -> bool:
    return fsio.digest_tree(one) == fsio.digest_tree(other)


def test_what_is_pushed_is_pulled_byte_for_byte_with_the_files_beside_it(
    empty: str, files: Path, tmp_path: Path
) -> None:
    shutil.rmtree(files / "mlp")
    for name in ("store.zarr", "linear"):
        assert scstore.push(files / name, f"{empty}/a/{name}") == f"{empty}/a/{name}"
        scstore.push(files / name, f"{empty}/a/{name}")  # once more: the same
        assert scstore.pull(f"{empty}/a/{name}", tmp_path / "here" / name) == tmp_path / "here" / name
        assert same(tmp_path / "here" / name, files / name)
        assert scstore.verify(tmp_path / "here" / name, deep=True).findings == ()
    assert sorted(file.name for file in (tmp_path / "here").iterdir()) == [
        "linear",
        "panel.h5ad",
        "store.genes.h5ad",
        "store.zarr",
    ]
    with pytest.raises(errors.OutputError):
        scstore.pull(f"{empty}/a/linear", tmp_path / "here" / "linear")
    with pytest.raises(errors.OutputError):
        scstore.pull(f"{empty}/a/linear", tmp_path / "here" / "store.zarr", overwrite=True)
    scstore.pull(f"{empty}/a/linear", tmp_path / "here" / "linear", overwrite=True)


def test_a_push_replaces_nothing_else_and_adds_new_shards(empty: str, files: Path, tmp_path: Path) -> None:
    store = files / "store.zarr"
    record = record_path(store, 1).read_bytes()
    record_path(store, 1).unlink()
    scstore.push(store, f"{empty}/ref.zarr")
    assert scstore.open(f"{empty}/ref.zarr").committed.sum() == 20
    record_path(store, 1).write_bytes(record)
    scstore.push(store, f"{empty}/ref.zarr")
    assert scstore.open(f"{empty}/ref.zarr").is_complete
    with pytest.raises(errors.OutputError):
        scstore.push(files / "mlp", f"{empty}/ref.zarr")
    scstore.push(files / "mlp", f"{empty}/head")
    with pytest.raises(errors.OutputError):
        scstore.push(files / "linear", f"{empty}/head")
    with pytest.raises(errors.OutputError):
        scstore.push(files / "linear", empty)
    np.testing.assert_array_equal(
        scstore.open(f"{empty}/ref.zarr").view("genept")[:], scstore.open(store).view("genept")[:]
    )


def test_damaged_bytes_are_not_sent(empty: str, files: Path) -> None:
    for number, file in enumerate(
        [chunk_path(files / "store.zarr", "genept", 1), files / "store.zarr" / "obs/zarr.json"]
    ):
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(errors.DamagedError):
            scstore.push(files / "store.zarr", f"{empty}/{number}.zarr")
        with pytest.raises((errors.NotAStoreError, errors.IncompleteStoreError)):
            scstore.open(f"{empty}/{number}.zarr").view("genept")[:]
        file.write_bytes(data)
        scstore.push(files / "store.zarr", f"{empty}/{number}.zarr")
        assert scstore.open(f"{empty}/{number}.zarr").is_complete


def test_a_pull_goes_on_where_it_was_stopped(files: Path, tmp_path: Path) -> None:
    broken = [chunk_path(files / "store.zarr", "genept", 2)]

    def fault(request: BaseHTTPRequestHandler, file: Path) -> bool:
        if file in broken:
            answer(request, 500, b"no")
            return True
        return False

    with serve(files_below(files, fault)) as server:
        with pytest.raises(errors.NetworkError):
            scstore.pull(f"{server.url}/store.zarr", tmp_path / "s.zarr")
        assert not (tmp_path / "s.zarr").exists()
        (kept,) = tmp_path.glob(".s.zarr.pulled-*")
        there = {f"/store.zarr/{name}" for name in fsio.files_below(kept) if fsio.PARTIAL not in name}
        broken.clear()
        server.requests.clear()
        scstore.pull(f"{server.url}/store.zarr", tmp_path / "s.zarr")
        chunks = [path for _, path, _, _ in server.requests if "/c/" in path]
    assert "/store.zarr/obsm/genept/c/2/0" in chunks
    assert there
    assert there.isdisjoint(chunks)
    assert same(tmp_path / "s.zarr", GOLDEN / "store.zarr")
    assert sorted(file.name for file in tmp_path.glob(".*")) == []


def test_a_part_is_fetched_alone(files: Path, tmp_path: Path) -> None:
    with serve(files_below(files)) as server:
        where = "cell_type == 'type 1'"
        found = scstore.open(
            scstore.pull(f"{server.url}/store.zarr", tmp_path / "s.h5ad", views=["genept"], where=where)
        )
        asked = {
            path.split("/")[3]
            for _, path, _, _ in server.requests
            if path.startswith("/store.zarr/obsm/") and "/c/" in path
        }
    whole = scstore.open(GOLDEN / "store.zarr")
    rows = np.flatnonzero(whole.obs["cell_type"] == "type 1")
    assert asked == {"genept"}
    assert found.views == ("genept",)
    assert list(found.obs.index) == list(whole.obs.index[rows])
    np.testing.assert_array_equal(found.view("genept")[:], whole.view("genept")[rows])


def test_the_hub_gets_a_card(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    sent: list[tuple[str, dict[str, Any]]] = []
    for name in ("create_repo", "upload_folder", "upload_file"):
        monkeypatch.setattr(HfApi, name, lambda _self, *given, _name=name, **named: sent.append((_name, named)))
    with serve(files_below(files / "nothing")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        scstore.push(files / "store.zarr", "hf://datasets/labs/blood/store.zarr")
        scstore.push(files / "linear", "hf://labs/heads")
    assert [name for name, _ in sent] == ["create_repo", "upload_folder", "upload_file"] * 2
    folder, card, head = sent[1][1], sent[2][1], sent[5][1]
    assert (folder["repo_id"], folder["repo_type"], folder["path_in_repo"]) == ("labs/blood", "dataset", "store.zarr")
    assert (head["repo_id"], head["repo_type"], head["path_in_repo"]) == ("labs/heads", "model", "README.md")
    assert card["path_in_repo"] == "store.zarr/README.md"
    for word in (b"36", b"readout", b"hf://datasets/labs/blood/store.zarr", b"sha256:"):
        assert word in card["path_or_fileobj"]


@pytest.mark.parametrize("address", ["https://host/ref.zarr", "ref.zarr", "file:///tmp/ref.zarr"])
def test_what_cannot_be_pushed_to_is_refused(files: Path, address: str) -> None:
    with pytest.raises(errors.OptionError):
        scstore.push(files / "linear", address)
    if not address.startswith("https"):
        with pytest.raises(errors.OptionError):
            scstore.pull(address, files / "new")
    if ":" in address:
        with pytest.raises(errors.OptionError):
            scstore.verify(address)


def test_the_commands(empty: str, files: Path, scstore_command: Run) -> None:
    assert (
        json.loads(scstore_command("--json", "push", files / "linear", f"{empty}/head").stdout)["output"]
        == f"{empty}/head"
    )
    scstore_command("pull", f"{empty}/head", "-o", "head")
    assert scstore_command("pull", f"{empty}/other", "-o", "other", code=2).stderr
    assert MANIFEST in scstore_command("pull", f"{empty}/other", "-o", "other", code=2).stderr
