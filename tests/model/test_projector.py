from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scstore.errors import DamagedError, FeatureSpaceError, NewerFormatError, NotAStoreError, OptionError, OutputError
from scstore.fsio import json_bytes
from scstore.model.projector import ProjectorFile, aligned_map, load_projector, orthonormal, project, save_projector
from scstore.model.trained_projector import TrainedProjector
from scstore.sealed import seal, unseal


@pytest.fixture
def tokens() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(300, 16) @ torch.randn(16, 16) * 0.3 + 0.1


@pytest.fixture
def genes() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((200, 24)) @ rng.standard_normal((24, 24))).astype(np.float32)


@pytest.mark.parametrize("kind", ["aligned", "random"])
def test_the_norm_is_that_of_tokens(kind: str, tokens: torch.Tensor, genes: np.ndarray) -> None:
    projected = project(genes, tokens, kind=kind)
    assert projected.shape == (200, 16)
    assert projected.dtype == np.float32
    assert np.median(np.linalg.norm(projected, axis=1)) == pytest.approx(float(tokens.norm(dim=1).median()), rel=1e-4)


def test_aligned_vectors_point_where_tokens_point(tokens: torch.Tensor, genes: np.ndarray) -> None:
    """Their directions spread as the tokens' do, which random projections of the same vectors do not."""

    def spread(vectors: np.ndarray) -> np.ndarray:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.cov(unit.T)

    target = spread(tokens.numpy())
    aligned, random = (spread(project(genes, tokens, kind=kind)) for kind in ("aligned", "random"))
    assert np.linalg.norm(aligned - target) < 0.6 * np.linalg.norm(random - target)


def test_native_vectors_stay_as_they_are(tokens: torch.Tensor, genes: np.ndarray) -> None:
    np.testing.assert_array_equal(project(genes[:, :16], tokens, kind="native"), genes[:, :16])
    with pytest.raises(OptionError):
        project(genes, tokens, kind="native")


@pytest.mark.parametrize("kind", ["aligned", "random"])
def test_a_seed_gives_the_same_vectors(kind: str, tokens: torch.Tensor, genes: np.ndarray) -> None:
    first = project(genes, tokens, kind=kind, seed=1)
    np.testing.assert_array_equal(first, project(genes, tokens, kind=kind, seed=1))
    assert not np.allclose(first, project(genes, tokens, kind=kind, seed=2))


@pytest.mark.parametrize(("rows", "columns"), [(5, 9), (9, 5), (6, 6)])
def test_the_shorter_side_is_orthonormal(rows: int, columns: int) -> None:
    matrix = orthonormal(rows, columns, seed=0)
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-12)


FITS: dict[str, Any] = {"model": {"digest": "sha256:m", "width": 8}, "layout": {"prefix": [1]}}


@pytest.fixture
def projector() -> ProjectorFile:
    torch.manual_seed(0)
    vectors = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    module = TrainedProjector(6, 8, blocks=1, start=aligned_map(vectors, torch.randn(50, 8)))
    return ProjectorFile(
        shape={"width_in": 6, "width_out": 8, "blocks": 1, "start": "aligned"},
        arrays=module.to_arrays(),
        fits=FITS,
        trained_on=("a", "c"),
        held_out=("b", "é\n"),
        training={"label": "cell_type", "curve": [{"epoch": 0}]},
    )


def test_what_is_saved_is_read_back(projector: ProjectorFile, tmp_path: Path) -> None:
    save_projector(projector, tmp_path / "p")
    read = load_projector(tmp_path / "p")
    assert read.digest == projector.digest
    assert (read.shape, read.fits, read.training) == (projector.shape, projector.fits, projector.training)
    assert read.seen == ("a", "b", "c", "é\n")
    assert (read.label, read.training["curve"]) == ("cell_type", [{"epoch": 0}])
    vectors = np.random.default_rng(1).standard_normal((9, 6)).astype(np.float32)
    np.testing.assert_array_equal(read.build().project(vectors), projector.build().project(vectors))


def test_the_same_projector_gives_the_same_bytes(projector: ProjectorFile, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_projector(projector, tmp_path / name)
    for file in ("projector.json", "projector.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_digest_is_of_what_decides_the_input_vectors(projector: ProjectorFile) -> None:
    assert replace(projector, trained_on=("x",), training={"label": "y"}).digest == projector.digest
    moved = {name: value + (name == "layers.1.bias") for name, value in projector.arrays.items()}
    assert replace(projector, arrays=moved).digest != projector.digest
    assert replace(projector, shape={**projector.shape, "start": "none"}).digest != projector.digest


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(bytes(raw))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_and_seal(path: Path, **changes: Any) -> None:
    path.write_bytes(json_bytes(seal({**(unseal(json.loads(path.read_text())) or {}), **changes})))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit of the weights": lambda p: _flip(p / "projector.safetensors"),
    "weights cut off": lambda p: (p / "projector.safetensors").write_bytes(b"\x08") and None,
    "weights gone": lambda p: (p / "projector.safetensors").unlink(),
    "no JSON": lambda p: (p / "projector.json").write_text("{") and None,
    "no object": lambda p: (p / "projector.json").write_text("[]") and None,
    "a field changed": lambda p: _edit(p / "projector.json", trained_on=[]),
    "no format": lambda p: _edit(p / "projector.json", format=None),
    "a shape changed and sealed": lambda p: _edit_and_seal(p / "projector.json", shape={"start": "none"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(damage: str, projector: ProjectorFile, tmp_path: Path) -> None:
    save_projector(projector, tmp_path / "p")
    DAMAGE[damage](tmp_path / "p")
    with pytest.raises(DamagedError, match=r"projector\."):
        load_projector(tmp_path / "p")


def test_weights_that_do_not_fit_their_description_are_refused(projector: ProjectorFile) -> None:
    for arrays in (
        {name: value for name, value in projector.arrays.items() if name != "norm"},
        {**projector.arrays, "more": projector.arrays["norm"]},
        {**projector.arrays, "norm": projector.arrays["norm"].astype(np.float64)},
        {**projector.arrays, "centre": projector.arrays["centre"][:-1]},
    ):
        with pytest.raises(DamagedError, match="norm|more|centre"):
            replace(projector, arrays=arrays).build()


def test_a_newer_format_is_named(projector: ProjectorFile, tmp_path: Path) -> None:
    save_projector(projector, tmp_path / "p")
    _edit_and_seal(tmp_path / "p" / "projector.json", format="2.0")
    with pytest.raises(NewerFormatError, match=r"2\.0"):
        load_projector(tmp_path / "p")


def test_where_nothing_is_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotAStoreError):
        load_projector(tmp_path)


def test_what_is_there_is_kept(projector: ProjectorFile, tmp_path: Path) -> None:
    save_projector(projector, tmp_path / "p")
    with pytest.raises(OutputError):
        save_projector(projector, tmp_path / "p")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError):
        save_projector(projector, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_misfit_names_every_field(projector: ProjectorFile) -> None:
    projector.check_fits(FITS, path="p")
    other = {"model": {"digest": "sha256:other", "width": 8}, "layout": {"prefix": [1, 2]}}
    with pytest.raises(FeatureSpaceError) as refused:
        projector.check_fits(other, path="projectors/p")
    assert "projectors/p" in str(refused.value)
    assert "the model: another one" in str(refused.value)
    assert "the words before the genes: others" in str(refused.value)
    assert "width" not in str(refused.value)
