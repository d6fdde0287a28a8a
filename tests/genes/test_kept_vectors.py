from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from scstore import fsio
from scstore.genes.kept_vectors import KeptVectors


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))


def vectors(*texts: str) -> dict[str, np.ndarray]:
    return {text: np.array([len(text), sum(text.encode()), -0.5], dtype=np.float32) for text in texts}


def lists(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {text: vector.tolist() for text, vector in found.items()}


def test_vectors_are_found_by_encoder_and_text() -> None:
    kept = KeptVectors({"model": "a"})
    assert kept.find(["CD3D"]) == {}
    kept.add(vectors("CD3D", "LYZ"))
    kept.add(vectors("MS4A1"))
    again = KeptVectors({"model": "a"}).find(["LYZ", "MS4A1", "PPBP"])
    assert lists(again) == lists(vectors("LYZ", "MS4A1"))
    assert KeptVectors({"model": "b"}).find(["CD3D"]) == {}
    assert kept.folder.stat().st_mode & 0o077 == 0


def test_what_is_damaged_or_anothers_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptVectors({})
    for name in ("CD3D", "LYZ"):
        kept.add(vectors(name))
    one = sorted(kept.folder.iterdir())[0]
    content = bytearray(one.read_bytes())
    content[-1] ^= 1
    one.write_bytes(content)
    (kept.folder / f"{'0' * 64}.safetensors").write_bytes(b"mine")
    (kept.folder / "notes.txt").write_text("mine")
    assert len(kept.find(["CD3D", "LYZ"])) == 1
    kept.add(vectors("CD3D", "LYZ"))
    assert len(kept.find(["CD3D", "LYZ"])) == 2
    monkeypatch.setattr(fsio, "is_own", lambda _: False)
    assert kept.find(["CD3D", "LYZ"]) == {}


def _add(number: int) -> None:
    for i in range(5):
        KeptVectors({}).add(vectors("the same", f"{number} {i}"))


def test_several_processes_keep_vectors_at_the_same_time() -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(number,)) for number in range(3)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    names = ["the same", *(f"{number} {i}" for number in range(3) for i in range(5))]
    assert lists(KeptVectors({}).find(names)) == lists(vectors(*names))
