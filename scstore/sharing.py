"""``scstore pull`` and ``scstore push``: stores and heads from and to an address, every file compared."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np

from scstore import fsio
from scstore.errors import DamagedError, NetworkError, NotAStoreError, OptionError, OutputError
from scstore.heads.artifact import HEAD, load_head
from scstore.options import Option, Overwrite, Progress, public
from scstore.progress import Reporter
from scstore.remote import POOL, Expected, Mirror, mount, split_address, there
from scstore.reporting.card import model_card, store_card
from scstore.sealed import CARD
from scstore.store import ledger
from scstore.store.export import check_h5ad_output, write_h5ad
from scstore.store.ledger import LEDGER, MANIFEST, chunk_path, record_path
from scstore.store.mirror import local
from scstore.store.obs_filter import cells_where
from scstore.store.reader import open_store
from scstore.store.verify_store import verify_store
from scstore.store.writer import store_problem

HERE: Any = PurePosixPath()  # names below it are names in a store

# Above a card: by it the Hub files what it describes.
HUB = "---\nlibrary_name: scstore\ntags:\n- single-cell\n- anndata\n---\n\n"

Shared = Annotated[str | os.PathLike[str], Option("Where a store or head lies: s3://bucket/ref.zarr.", argument=True)]
Output = Annotated[str | os.PathLike[str], Option("The folder to write; of a part an .h5ad.", flags=("--output", "-o"))]


@public
def pull(
    address: Shared,
    output: Output,
    *,
    views: Annotated[Sequence[str] | None, Option("Views to fetch, into an .h5ad.", flags=("--view",))] = None,
    where: Annotated[str | None, Option("Cells to fetch, into an .h5ad: a condition on obs.")] = None,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> Path:
    """Copy a store or head from an address, byte for byte; or the views and cells of a store that are named.

    A pull that was stopped goes on where it was. What is copied appears whole.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    NotAStoreError
        If neither a store nor a head is there.
    DamagedError, NetworkError, UnreadableError
        If a file there is missing or damaged, the server fails, or it refuses.
    """
    if views is not None or where is not None:
        target, store = check_h5ad_output(output, overwrite=overwrite), open_store(address)
        rows = None if where is None else np.flatnonzero(cells_where(store.obs, where))
        with fsio.atomic_path(target, overwrite=overwrite) as partial:
            write_h5ad(store, partial, views=views, rows=rows)
        return target
    base, name = split_address(_address(address))
    root = local(address)
    problem = store_problem if (root / LEDGER).is_dir() else HEAD.problem
    target = fsio.check_output(output, overwrite=overwrite, problem=problem)
    first, fixed, shards = _content(root)
    key = fsio.digest_bytes((root / first).read_bytes())[7:19]
    with fsio.atomic_path(target, overwrite=overwrite) as partial:
        kept = target.with_name(f".{target.name}.pulled-{key}")  # stays where a pull is stopped
        mirror = Mirror(kept, base, prefix=f"{name}/" if name else "")
        files = {**fixed, **{file: one for shard in shards.values() for file, one in shard.items()}}
        with (progress or Reporter()).track(f"fetching {address}", len(files), "files") as track:
            mirror.fetch({kept / file: one for file, one in files.items()}, done=track.advance)
        for copied in (*shards, first):
            fsio.disk.make_folder((kept / copied).parent)
            shutil.copyfile(root / copied, kept / copied)
        fsio.disk.rename(kept, partial)
    for beside in _files_beside(root):
        if not (file := target.with_name(beside.name)).exists():
            fsio.write_bytes(file, beside.read_bytes())
    return target


@public
def push(
    path: Annotated[str | os.PathLike[str], Option("A store or head on disk.", argument=True)],
    address: Annotated[str, Option("Where it is to lie: s3://bucket/ref.zarr.", argument=True)],
    *,
    progress: Progress = None,
) -> str:
    """Copy a store or head to an address, each file compared with its digest.

    A push that was stopped goes on where it was, and one of a store that has grown adds its new shards. On the Hub the
    folder gets a card, README.md, that is written from the record.

    Returns
    -------
    str
        The address.

    Raises
    ------
    OutputError
        If something else lies at the address.
    DamagedError, NetworkError, UnreadableError
        If a file here is damaged, the server fails, or it refuses.
    """
    root, target = Path(path), _address(address)
    base, name = split_address(target)
    if target.startswith("http"):
        raise OptionError(f"{target}: a web server is only read from. Push to s3://, gs://, az:// or hf://.")
    first, fixed, shards = _content(root)
    mirror, place = mount(target)

    def is_there(name: str, data: bytes) -> bool:
        return mirror.get(place / name, limit=ledger.MANIFEST_LIMIT) and (place / name).read_bytes() == data

    def send(name: str, expected: Expected) -> None:
        data = (root / name).read_bytes()
        if fsio.digest_bytes(data) != expected["digest"]:
            raise DamagedError(f"{root / name} does not match its digest, and is not sent.")
        mirror.put(place / name, data)
        track.advance()

    def send_shard(record: str) -> None:
        if not is_there(record, data := (root / record).read_bytes()):
            for one, expected in shards[record].items():
                send(one, expected)
            mirror.put(place / record, data)

    own, on_hub = (root / first).read_bytes(), base.startswith("hf://")
    sizes = {} if on_hub else mirror.sizes(place)
    # the shape of a store, then its shards, as on disk; what comes first also keeps others away
    is_free = not mirror.get(place / first) if on_hub else first in sizes or not sizes
    if not (is_free and (on_hub or mirror.put(place / first, own, over="create"))) and not is_there(first, own):
        raise OutputError(f"{target}: something else lies there, and is not replaced. Choose another address.")
    if on_hub:
        _push_to_hub(root, base, name)
        return target
    left = [one for one in fixed if sizes.get(one) != (root / one).stat().st_size]
    n = len(left) + sum(map(len, shards.values()))
    with (progress or Reporter()).track(f"sending to {target}", n, "files") as track:
        list(POOL.map(lambda one: send(one, fixed[one]), left))
        list(POOL.map(send_shard, shards))
    for file in _files_beside(root) if name else ():
        mirror.put(place.with_name(file.name), file.read_bytes(), over="create")
    return target


def _address(path: object) -> str:
    if not (address := fsio.address_of(path)) or address.startswith("file:"):
        raise OptionError(f"{path}: an address is wanted, such as s3://bucket/ref.zarr; a folder here is copied.")
    return address


def _content(root: Path) -> tuple[str, dict[str, Expected], dict[str, dict[str, Expected]]]:
    """Return the file that says what all is, the others that never change, and those of each shard by its record."""
    if not (root / LEDGER).is_dir():
        load_head(root)  # which compares it
        parts = (HEAD.weights, CARD, *HEAD.parts)
        names = [name for name in fsio.files_below(root) if name.split("/")[0] in parts]
        return HEAD.description, {name: {"digest": fsio.digest_file(root / name)} for name in names}, {}
    store, shards = open_store(root), {}
    if store.plan is None:
        raise NotAStoreError(f"{root}: not a store that `scstore extract` wrote.")
    for shard in range(store.plan.n_shards):
        if (record := ledger.read_record(root, shard)) is not None:
            files = {str(chunk_path(HERE, view, shard)): expected for view, expected in record["views"].items()}
            shards[str(record_path(HERE, shard))] = files
    return MANIFEST, dict(ledger.read_manifest(root)), shards


def _files_beside(root: Path) -> list[Path]:
    """Return what a store's run read and lies beside it: gene table, panel."""
    record = (open_store(root).record or {}) if (root / LEDGER).is_dir() else {}
    names = (str(record.get("options", {}).get(name)) for name in ledger.FILES)
    return [file for name in names if name == Path(name).name and (file := there(root.with_name(name))).is_file()]


def _push_to_hub(root: Path, base: str, name: str) -> None:
    """Write all files in one commit, of which the Hub leaves out what it has, then the card."""
    from huggingface_hub import HfApi

    if (root / LEDGER).is_dir():
        if wrong := verify_store(root, deep=True).findings:
            raise DamagedError(f"{root / wrong[0].file} {wrong[0].message}. Nothing was sent.")
        card = store_card(open_store(root), address=f"{base}/{name}".rstrip("/"))
    else:
        card = model_card(load_head(root), name=root.name)
    home = base.removeprefix("hf://")
    kind, _, repository = home.partition("s/") if home.count("/") == 2 else ("model", "", home)
    repository, _, revision = repository.partition("@")
    target: dict[str, Any] = {"repo_id": repository, "repo_type": kind, "revision": revision or None}
    try:
        (api := HfApi()).create_repo(repository, repo_type=kind, exist_ok=True)
        skipped = [f"*{fsio.PARTIAL}*", CARD]
        api.upload_folder(folder_path=root, path_in_repo=name or None, ignore_patterns=skipped, **target)
        api.upload_file(path_or_fileobj=(HUB + card).encode(), path_in_repo=f"{name}/{CARD}".lstrip("/"), **target)
    except OSError as error:  # as the Hub's client raises, with addresses in its words
        raise NetworkError(f"{base}: the Hub did not take it ({type(error).__name__}). See `hf auth login`.") from None
