from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import sparse

from scstore.errors import DamagedError, NewerFormatError, NotAStoreError, OptionError, OutputError, ScstoreError
from scstore.fsio import digest_bytes, digest_file
from scstore.heads.artifact import load_head, save_head
from scstore.heads.fusion import FusedHead
from scstore.sealed import canonical_json

RECORD = {"label": "cell_type", "views": {"a": {"space": {"layer": 3}}}, "note": "naïve T, 日本語, <b>"}
GENES = [f"gene {i}" for i in range(12)]


@pytest.fixture(scope="module")
def views(cells_factory: Any) -> dict[str, Any]:
    made = cells_factory(90, 6, 3)
    codes = np.unique(made.y, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    X = sparse.csr_matrix(rng.poisson(rng.gamma(0.5, 2, (3, 12))[codes]).astype(np.float32))
    return {"a": made.X[:, :3], "b": made.X[:, 3:], "X": X, "y": made.y}


def fit(views: dict[str, Any], kind: str = "linear", **options: Any) -> FusedHead:
    params = {"hidden": (4,), "epochs": 3} if kind == "mlp" else None
    head = FusedHead(kind, params=params, n_folds=2, n_genes=5, n_components=2, **options)
    return head.fit({name: views[name] for name in "abX"}, views["y"], gene_names=GENES)


def selected(views: dict[str, Any], head: FusedHead) -> dict[str, Any]:
    columns = [GENES.index(gene) for gene in head.genes_ or ()]
    return {"a": views["a"], "b": views["b"], "X": views["X"][:, columns]}


@pytest.fixture(scope="module")
def head(views: dict[str, Any]) -> FusedHead:
    return fit(views)


@pytest.fixture
def folder(head: FusedHead, tmp_path: Path) -> Path:
    save_head(head, tmp_path / "head", record=RECORD)
    return tmp_path / "head"


def resign(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Change head.json as somebody would who knows how the digests are made."""
    file = folder / "head.json"
    document = json.loads(file.read_text())
    del document["digest"]
    document["weights"] = digest_file(folder / "weights.safetensors")
    change(document)
    document["digest"] = digest_bytes(canonical_json(document).encode())
    file.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_what_is_loaded_predicts_the_same_bits(kind: str, views: dict[str, Any], tmp_path: Path) -> None:
    head = fit(views, kind)
    save_head(head, tmp_path / "h", record=RECORD)
    loaded = load_head(tmp_path / "h")
    record = loaded.record_
    assert record == RECORD == loaded.record_
    test = selected(views, head)
    np.testing.assert_array_equal(loaded.predict_proba(test), head.predict_proba(test))
    for name in (
        "kind",
        "n_folds",
        "views_",
        "genes_",
        "held_out_",
        "widths_",
    ):
        assert getattr(loaded, name) == getattr(head, name)
    assert loaded.classes_.tolist() == head.classes_.tolist()
    assert sorted(path.name for path in (tmp_path / "h").iterdir()) == ["head.json", "weights.safetensors"]
    save_head(loaded, tmp_path / "again", record=record)
    for name in ("head.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "h" / name).read_bytes()


@settings(max_examples=10)
@given(seed=st.integers(0, 500), n=st.integers(4, 40), width=st.integers(1, 9))
def test_any_head_comes_back(seed: int, n: int, width: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, width)), np.array([f"ü{i % 3}" for i in range(n)])
    head = FusedHead(n_folds=2, random_state=seed).fit({"v": X}, y)
    path = tmp_path_factory.mktemp("any") / "head"
    save_head(head, path, record={})
    np.testing.assert_array_equal(load_head(path).predict_proba({"v": X}), head.predict_proba({"v": X}))


def test_the_same_seed_gives_the_same_bytes(views: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_head(fit(views), tmp_path / name, record=RECORD)
    for file in ("head.json", "weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("name", ["head.json", "weights.safetensors"])
def test_a_head_with_one_byte_changed_is_refused(name: str, folder: Path) -> None:
    """RELIABILITY 36: head with one byte changed."""
    file = folder / name
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(ScstoreError):
            load_head(folder)
    for other in (whole[:-1], whole + b"\n", whole + b"\0", b""):
        file.write_bytes(other)
        with pytest.raises(DamagedError):
            load_head(folder)
    file.write_bytes(whole)
    load_head(folder)


class Canary:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def dump_pt(value: object, file: IO[bytes]) -> None:
    """What torch.save writes: a zip with a pickle inside."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value))


@pytest.mark.parametrize("dump", [pickle.dump, joblib.dump, dump_pt], ids=["pickle", "joblib", "pt"])
@pytest.mark.parametrize("name", ["", "head.json", "weights.safetensors"])
def test_a_pickle_is_refused_and_never_runs(name: str, dump: Callable[..., None], folder: Path, tmp_path: Path) -> None:
    """RELIABILITY 37: pickle, joblib or .pt renamed to a head."""
    canary = tmp_path / "ran"
    target = folder / name if name else tmp_path / "renamed"
    with target.open("wb") as file:
        dump(Canary(canary), file)
    for signed in (False, True):
        if signed and name == "weights.safetensors":
            resign(folder)
        with pytest.raises(DamagedError if name else NotAStoreError):
            load_head(target if not name else folder)
    assert not canary.exists()
    with target.open("rb") as file:
        pickle.loads(zipfile.ZipFile(file).read("archive/data.pkl")) if dump is dump_pt else joblib.load(file)  # noqa: S301
    assert canary.exists(), "the canary does sing when it is let out"


def test_a_foreign_index_beside_a_head_is_not_looked_at(folder: Path, head: FusedHead, views: dict[str, Any]) -> None:
    """RELIABILITY 39: foreign index file beside a head."""
    (folder / "index.faiss").write_bytes(b"IxFI" + os.urandom(200))
    (folder / "model.pkl").write_bytes(b"\x80\x04.")
    test = selected(views, head)
    np.testing.assert_array_equal(load_head(folder).predict_proba(test), head.predict_proba(test))


@pytest.mark.parametrize("version", ["2.0", "10.0"])
def test_a_newer_format_is_named(version: str, folder: Path) -> None:
    """RELIABILITY 34: format one version newer."""
    resign(folder, lambda document: document.update(format=version))
    with pytest.raises(NewerFormatError, match=version):
        load_head(folder)


def test_a_format_that_is_not_a_version_is_damage(folder: Path) -> None:
    resign(folder, lambda document: document.update(format="9" * 5000))
    with pytest.raises(DamagedError):
        load_head(folder)


def test_a_path_that_is_no_head(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("{}")
    (tmp_path / "odd" / "head.json").mkdir(parents=True)
    for name in ("folder", "file", "odd", "absent"):
        with pytest.raises(NotAStoreError):
            load_head(tmp_path / name)


def test_weights_missing(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(DamagedError):
        load_head(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": "1.0"}',
        b"[" * 200_000,
        b"\xff\xfe",
        b'{"format": "1.0", "x": NaN}',
    ],
)
def test_a_description_that_is_none_is_damage(content: bytes, folder: Path) -> None:
    (folder / "head.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"head\.json"):
        load_head(folder)


def test_a_description_beyond_any_size_is_not_read(folder: Path) -> None:
    """RELIABILITY 38: memory bounded."""
    with (folder / "head.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError):
        load_head(folder)


def member(document: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = document["members"]["X"]
    return first


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no classes": lambda d: d.pop("classes"),
    "other classes": lambda d: d.update(classes=["p", "q", "r"]),
    "a class fewer": lambda d: d["classes"].pop(),
    "no members": lambda d: d.update(members={}),
    "members no list": lambda d: d.update(members=3),
    "a member fewer": lambda d: d["members"].pop("a"),
    "a member twice": lambda d: d["members"].update(c=d["members"]["a"]),
    "a view renamed": lambda d: d["members"].update(elsewhere=d["members"].pop("X")),
    "no reducer": lambda d: member(d).pop("reducer"),
    "another width": lambda d: member(d)["head"].update(n_features_in=9),
    "temperature zero": lambda d: d.update(temperature=0),
    "temperature of a member negative": lambda d: d["temperatures"].update(a=-1.0),
    "temperature no number": lambda d: d.update(temperature="hot"),
    "kind unknown": lambda d: d.update(kind="forest"),
    "kind another": lambda d: d.update(kind="knn"),
    "folds no number": lambda d: d.update(n_folds="five"),
    "parameter unknown": lambda d: d.update(params={"code": "import os"}),
    "genes missing": lambda d: d.update(genes=None),
    "a gene fewer": lambda d: d["genes"].pop(),
    "held_out no object": lambda d: d.update(held_out=3),
    "no record": lambda d: d.pop("record"),
    "digest of the weights no text": lambda d: d.update(weights=None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_signed_description_that_contradicts_itself_is_refused(name: str, folder: Path) -> None:
    resign(folder, CHANGES[name])
    with pytest.raises(DamagedError):
        load_head(folder)


@pytest.mark.parametrize("attack", ["transposed", "dtype", "nan", "extra", "missing", "scale"])
def test_signed_weights_that_do_not_fit_are_refused(attack: str, folder: Path) -> None:
    """RELIABILITY 38: wrong shapes, NaN weights."""
    file = folder / "weights.safetensors"
    arrays = load_file(file)
    coef = next(name for name in arrays if name.endswith("coef"))
    change = {
        "transposed": lambda: {coef: np.ascontiguousarray(arrays[coef].T)},
        "dtype": lambda: {coef: arrays[coef].astype(np.int64)},
        "nan": lambda: {coef: arrays[coef] * np.nan},
        "extra": lambda: {"9.more": np.zeros(3)},
        "scale": lambda: {name: -arrays[name] for name in arrays if name.endswith("scale")},
        "missing": dict,
    }[attack]()
    arrays |= change
    if attack == "missing":
        del arrays[coef]
    save_file(arrays, file)
    resign(folder)
    with pytest.raises(DamagedError):
        load_head(folder)


def test_an_existing_head_is_kept_unless_told_otherwise(folder: Path, head: FusedHead) -> None:
    """RELIABILITY 43: output exists."""
    before = (folder / "head.json").read_bytes()
    with pytest.raises(OutputError, match="overwrite"):
        save_head(head, folder, record={"other": 1})
    assert (folder / "head.json").read_bytes() == before
    save_head(head, folder, record={"other": 1}, overwrite=True)
    assert load_head(folder).record_ == {"other": 1}


def test_only_a_head_is_ever_replaced(head: FusedHead, tmp_path: Path) -> None:
    """RELIABILITY 43: --overwrite on the wrong folder deletes nothing."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError):
        save_head(head, tmp_path / "home", record={}, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_crash_while_writing_leaves_the_old_head(
    folder: Path, head: FusedHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 43: crash while writing it."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scstore.fsio.write_bytes", full)
    with pytest.raises(OSError):
        save_head(head, folder, record={}, overwrite=True)
    assert load_head(folder).record_ == RECORD
    assert [path.name for path in folder.parent.iterdir()] == ["head"]


@pytest.mark.parametrize("record", [{"a": float("nan")}, {"a": {1, 2}}, {"a": (1, 2)}, {3: 1}])
def test_a_record_that_is_no_json_is_refused(record: Any, head: FusedHead, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        save_head(head, tmp_path / "h", record=record)
    assert not list(tmp_path.iterdir())


def test_a_record_too_large_is_refused(head: FusedHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scstore.sealed.DESCRIPTION_LIMIT", 1000)
    with pytest.raises(OptionError):
        save_head(head, tmp_path / "h", record={"ids": ["x"] * 1000})


def test_loading_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "from scstore.heads.artifact import load_head\n"
        f"load_head({str(folder)!r})\n"
        "print([name for name in ('faiss', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
