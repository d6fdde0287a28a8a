from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ortho_group
from support import Notes
from threadpoolctl import threadpool_limits

from scstore import fsio
from scstore.errors import GenesError
from scstore.genes import vectors as vectors_module
from scstore.genes.vectors import KeptVectors, RandomEncoder, encode_texts, matrix_power, whiten


class LengthEncoder:
    """Vectors that show what was asked: the length of the text. It stops at one, and makes nonsense of another."""

    width = 1

    def __init__(self, *, bad: str | None = None, stop: str | None = None) -> None:
        self.asked: list[list[str]] = []
        self.bad, self.stop = bad, stop

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "length"}

    def batches(self, texts: Sequence[str]) -> Iterable[Sequence[str]]:
        return [texts[start : start + 2] for start in range(0, len(texts), 2)]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.stop in texts:
            raise KeyboardInterrupt
        self.asked.append(list(texts))
        return np.array([[np.nan if text == self.bad else len(text)] for text in texts], dtype=np.float32)


def test_texts_are_encoded_once_longest_first_and_given_back_in_order() -> None:
    encoder = LengthEncoder()
    vectors = encode_texts(encoder, ["bb", "a", "cccc", "a", "ddd"])
    assert encoder.asked == [["cccc", "ddd"], ["bb", "a"]]
    assert vectors.ravel().tolist() == [2, 1, 4, 1, 3]


def test_what_was_encoded_before_it_was_stopped_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path))
    kept, again, notes = KeptVectors({"kind": "length"}), LengthEncoder(), Notes()
    with pytest.raises(KeyboardInterrupt):
        encode_texts(LengthEncoder(stop="a"), ["bb", "a", "cccc", "ddd"], kept=kept)
    assert encode_texts(again, ["bb", "a", "cccc"], kept=kept, progress=notes).ravel().tolist() == [2, 1, 4]
    assert again.asked == [["bb", "a"]]
    assert notes.said == ["gene texts: 1 were encoded before, 2 are left"]
    encode_texts(again, ["a", "ddd"], kept=kept)
    assert len(again.asked) == 1


def test_a_cache_that_cannot_be_written_to_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "file"))
    notes = Notes()
    assert encode_texts(LengthEncoder(), ["a"], kept=KeptVectors({}), progress=notes).tolist() == [[1]]
    assert any(str(tmp_path / "file") in said for said in notes.said)
    assert (tmp_path / "file").read_text() == "mine"


def test_kept_vectors_of_another_width_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path))
    kept = KeptVectors({"kind": "length"})
    kept.add({"a": np.zeros(3, dtype=np.float32)})
    with pytest.raises(GenesError, match=re.escape(str(kept.folder))):
        encode_texts(LengthEncoder(), ["a", "bb"], kept=kept)


def test_a_vector_that_is_not_finite_names_its_text() -> None:
    with pytest.raises(GenesError, match="'ddd'"):
        encode_texts(LengthEncoder(bad="ddd"), ["a", "ddd"])


def test_no_texts_are_refused() -> None:
    with pytest.raises(GenesError, match="no gene texts"):
        encode_texts(LengthEncoder(), [])


def test_random_vectors_depend_on_the_text_and_the_seed_alone() -> None:
    alone = RandomEncoder(8).encode(["CD3D"])
    among = RandomEncoder(8).encode(["LYZ", "CD3D"])
    np.testing.assert_array_equal(alone[0], among[1])
    assert not np.array_equal(among[0], among[1])
    assert not np.array_equal(alone, RandomEncoder(8, seed=1).encode(["CD3D"]))


def test_random_vectors_are_standard_normal() -> None:
    vectors = RandomEncoder(256).encode([f"gene{i}" for i in range(200)])
    assert abs(vectors.mean()) < 0.02
    assert abs(vectors.std() - 1) < 0.02


def test_whitened_vectors_have_unit_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3).astype(np.float32)
    monkeypatch.setattr(vectors_module, "SHRINKAGE", 0)
    white = whiten(vectors)
    np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-5)


def test_whitening_turns_with_the_vectors() -> None:
    """It does not depend on the basis, hence not on eigenvector signs that differ between libraries."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((100, 5)).astype(np.float32)
    turn = ortho_group.rvs(5, random_state=2)
    np.testing.assert_allclose(whiten((vectors @ turn).astype(np.float32)), whiten(vectors) @ turn, atol=1e-3)


def test_fewer_genes_than_dimensions_stay_finite() -> None:
    assert np.isfinite(whiten(np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32))).all()


def test_powers_multiply() -> None:
    rng = np.random.default_rng(3)
    half = rng.standard_normal((4, 4))
    matrix = half @ half.T
    root = matrix_power(matrix, 0.5, 0.0)
    np.testing.assert_allclose(root @ root, matrix, atol=1e-9)


def test_the_number_of_threads_decides_no_digit() -> None:
    """RELIABILITY 70: of directions that hold nothing but noise least of all."""
    vectors = RandomEncoder(384).encode([f"g{i}" for i in range(24)])
    vectors[:, :5] = vectors[:, 5:10]
    found = set()
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.add(whiten(vectors).tobytes())
    assert len(found) == 1


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
