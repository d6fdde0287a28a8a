"""``scstore verify``: anything that scstore wrote, against its own digests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from scstore import fsio
from scstore.errors import DamagedError, NewerFormatError, NotAStoreError, OptionError
from scstore.genes.table import load_gene_table
from scstore.heads.artifact import HEAD, load_head
from scstore.model.projector import PROJECTOR, load_projector
from scstore.options import Option, Progress, public
from scstore.panels.panel import load_panel
from scstore.sealed import CARD, DESCRIPTION_LIMIT, FolderKind
from scstore.store.ledger import LEDGER
from scstore.store.verify_store import Finding, Verification, finding_of, verify_store
from scstore.untrusted.guards import FILES, check_layout, check_path, what_is

Load = Callable[[Path], Any]
FILE_KINDS: dict[str, tuple[str, Load]] = {
    FILES["genes"]: ("gene table", load_gene_table),
    FILES["panel"]: ("panel", load_panel),
}
FOLDERS: tuple[tuple[FolderKind, Load], ...] = ((HEAD, load_head), (PROJECTOR, load_projector))
SEALED_NOTE = "the digest covers the content: genes, texts, vectors; not the bytes that HDF5 leaves unused"


@public
def verify(
    path: Annotated[str | os.PathLike[str], Option("Anything that scstore wrote.", argument=True)],
    *,
    deep: Annotated[bool, Option("Read every byte of a store, its views and expression too.")] = False,
    gc: Annotated[bool, Option("Delete what killed runs left in a store and beside it.")] = False,
    repair: Annotated[bool, Option("Count damaged shards as not extracted, so that extract redoes them.")] = False,
    progress: Progress = None,
) -> Verification:
    """Look for damage in what scstore wrote: all of it, not the first.

    A digest finds damage. It is not a signature: anyone who can change a file can change its digest too.

    Returns
    -------
    Verification
        ``findings`` lists what is wrong; ``ok`` says whether nothing is.

    Raises
    ------
    NotAStoreError
        If scstore did not write it, so that there are no digests to compare with.
    NewerFormatError
        If a newer scstore wrote it.
    OptionError
        If ``gc`` or ``repair`` is set for anything but a store.
    LockedError
        If ``gc`` or ``repair`` is set while another process extracts into the store.

    Examples
    --------
    >>> scstore.verify("stores/ref.zarr", deep=True).ok  # doctest: +SKIP
    True
    """
    if address := fsio.address_of(path):
        raise OptionError(f"{address}: only what is on disk is verified. `scstore pull` compares all that it copies.")
    target = Path(path)
    fsio.mend(target)
    if (target / LEDGER).is_dir():
        return verify_store(target, deep=deep, gc=gc, repair=repair, progress=progress)
    check_path(target, error=NotAStoreError)
    made = (one for one in FOLDERS if any((target / name).exists() for name in (one[0].description, one[0].weights)))
    folder, load = next(made, (None, None))
    kind, load = (folder.name, load) if folder else FILE_KINDS.get(what_is(target), ("", None))
    if load is None:
        if target.is_file():
            target.open("rb").close()  # what the system refuses to read is of any kind
        raise NotAStoreError(f"{target} is nothing of scstore's that has digests to compare with.")
    if gc or repair:
        raise OptionError(f"{'gc' if gc else 'repair'}=True is for stores alone; {target} is an artifact: {kind}.")
    if folder is not None:
        others = {file.name for file in target.iterdir()} - {folder.description, folder.weights, CARD, *folder.parts}
        note = f"not checked, since scstore never reads it: {', '.join(sorted(others))}" if others else ""
        findings = tuple(_check_folder(target, folder, load))
    else:
        error, note = _error_of(load, target), SEALED_NOTE
        findings = () if error is None else (finding_of(error, ""),)
    sizes = [file.stat().st_size for file in ([target] if target.is_file() else target.iterdir()) if file.is_file()]
    notes = (note,) if note else ()
    return Verification(target, kind, deep=True, findings=findings, notes=notes, n_files=len(sizes), n_bytes=sum(sizes))


def _error_of(load: Load, path: Path) -> Exception | None:
    """Load an artifact, which compares it with its digests, and return what is wrong."""
    try:
        load(path)
    except (NewerFormatError, NotAStoreError):
        raise  # that is not damage
    except Exception as error:  # noqa: BLE001  # any error of a library on a broken file is a finding
        return error
    return None


def _check_folder(path: Path, kind: FolderKind, load: Load) -> Iterator[Finding]:
    """Check a description and its weights, the weights' own structure too where the description is damaged; copies."""
    wrong = {name for name in (kind.description, kind.weights) if not (path / name).is_file()}
    yield from (Finding(name, "missing", "is missing") for name in sorted(wrong))
    if not wrong:
        if (error := _error_of(load, path)) is None:
            copies = fsio.read_json(path / kind.description, limit=DESCRIPTION_LIMIT)["copies"]
            for name, digest in copies.items():
                if not (path / name).exists():
                    yield Finding(name, "missing", "is missing")
                elif fsio.digest_tree(path / name) != digest:
                    yield Finding(name, "damaged", "does not match its digest")
            return
        name = kind.weights if str(path / kind.weights) in f"{error}{error.__cause__}" else kind.description
        wrong.add(name)
        yield finding_of(error, name)
    if kind.weights not in wrong:
        try:
            check_layout(path / kind.weights)
        except (DamagedError, OSError) as error:
            yield finding_of(error, kind.weights)
