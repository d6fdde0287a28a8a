"""A fitted head as a folder: ``head.json`` and ``weights.safetensors``, nothing that can run."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

from numpy import ndarray

from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.base import JSON, State, require
from scstore.heads.fusion import FusedHead
from scstore.heads.rows import Array
from scstore.options import Option, public
from scstore.sealed import FolderKind, read_sealed_folder, write_sealed_folder
from scstore.store.mirror import local
from scstore.untrusted.guards import WEIGHTS_LIMIT

AnyHead = FusedHead | AcrossGenesHead  # a head that can be saved and loaded

# Copies of what the training cells were extracted with, by the option of ``scstore extract``.
COPIES = {"genes": "genes.h5ad", "panel": "panel.h5ad", "projector": "projector"}

HEAD = FolderKind("head", "head.json", "weights.safetensors", "scstore fit", tuple(COPIES.values()))
ARRAY = "$array"  # key of an object that stands for an array


def save_head(head: AnyHead, path: str | PathLike[str], *, record: Mapping[str, JSON], overwrite: bool = False) -> None:
    """Write a fitted head, and with it a record of JSON, whole or not at all; the same give the same bytes."""
    arrays, document = split_arrays(head.to_state())
    copies = {COPIES[name]: source for name, source in head.files_.items()}
    document["record"] = dict(record)
    write_sealed_folder(path, HEAD, document, arrays, copies=copies, overwrite=overwrite)


@public
def load_head(
    path: Annotated[str | PathLike[str], Option("Folder of a head, as scstore.fit writes it.")],
    *,
    limit: Annotated[int, Option("Most bytes of weights to read.", minimum=0)] = WEIGHTS_LIMIT,
) -> AnyHead:
    """Read a head that :func:`scstore.fit` wrote. Other files in the folder are ignored.

    Returns
    -------
    FusedHead or AcrossGenesHead
        The fitted head; ``record_`` says what it was trained on and how, as JSON values.

    Raises
    ------
    NotAStoreError
        If ``path`` holds no head.
    NewerFormatError
        If a newer scstore wrote it.
    DamagedError
        If any byte of it differs from what was written.
    """
    path = local(path)
    document, arrays = read_sealed_folder(path, HEAD, limit=limit)
    record: Any = document.pop("record", None)
    require(isinstance(record, dict), f"{path}: there is no record.")
    state = join_arrays(arrays, document)
    kind: type[AnyHead] = AcrossGenesHead if state.get("kind") == KIND else FusedHead
    head = kind.from_state(state)
    head.record_ = record
    head.files_ = {name: Path(path, copy) for name, copy in COPIES.items() if Path(path, copy).exists()}
    return head


def split_arrays(state: State) -> tuple[dict[str, Array], State]:
    """Return the arrays of a nested state, by their places in it, and the JSON that is left."""
    arrays: dict[str, Array] = {}

    def split(value: Any, path: str) -> Any:
        if isinstance(value, ndarray):
            arrays[path] = value
            return {ARRAY: path}
        if isinstance(value, dict):
            return {key: split(one, f"{path}.{key}" if path else str(key)) for key, one in value.items()}
        return [split(one, f"{path}.{i}") for i, one in enumerate(value)] if isinstance(value, list) else value

    document: State = split(state, "")
    return arrays, document


def join_arrays(arrays: Mapping[str, Array], document: Mapping[str, JSON]) -> State:
    """Undo :func:`split_arrays`; :class:`DamagedError` where an array is missing or has no place."""
    left = dict(arrays)

    def join(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {ARRAY}:
                name = str(value[ARRAY])
                require(name in left, f"The array {name!r} is missing.")
                return left.pop(name)
            return {key: join(one) for key, one in value.items()}
        return [join(one) for one in value] if isinstance(value, list) else value

    state: State = join(document)
    require(not left, f"The array {next(iter(left), None)!r} has no place.")
    return state
