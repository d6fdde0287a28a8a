"""Several stores of one feature space as one: what lies on the new store's bounds is linked, not copied."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells.opening import IdPrefixFrom, identify_cells
from scstore.errors import CellsError, FeatureSpaceError, IncompleteStoreError, NotAStoreError, OptionError, show_some
from scstore.options import Option, Overwrite, Progress, public
from scstore.progress import Reporter
from scstore.remote import there
from scstore.sealed import fingerprint, view_differences
from scstore.store import ledger
from scstore.store.ledger import StorePlan, chunk_path
from scstore.store.reader import Store, open_store
from scstore.store.views import BLOCK, SPARSE_CHUNK, View
from scstore.store.writer import StoreBuilder, chunk_bytes, store_problem


@dataclass(frozen=True)
class _Part:
    """One of the stores, and its first row in the new one."""

    store: Store
    record: Mapping[str, Any]
    plan: StorePlan
    start: int
    views: Mapping[str, View]


@public
def merge(
    parts: Annotated[
        Sequence[str | os.PathLike[str]], Option("Finished stores, in the order of their cells.", argument=True)
    ],
    output: Annotated[str | os.PathLike[str], Option("The store to write.", flags=("--output", "-o"))],
    *,
    id_prefix_from: IdPrefixFrom = None,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> Store:
    """Put stores of one feature space into one: parts of a job array, other donors' runs.

    Files of rows are linked (two names of the same bytes) where the shards of a part are those of the new store, and
    written anew elsewhere. The parts stay as they are, and may be deleted: the new store's record holds theirs.

    Returns
    -------
    Store
        Open for reading. It appears whole; an existing one stays until then.

    Raises
    ------
    CellsError, FeatureSpaceError, IncompleteStoreError
        If cell ids repeat, or the parts differ in their genes or feature space, or are not finished.
    OutputError
        If the output exists, or is to be replaced and is not a store.
    """
    target = fsio.check_output(output, overwrite=overwrite, problem=store_problem)
    progress = progress or Reporter()
    opened = _open([parts] if isinstance(parts, str | os.PathLike) else parts)
    first = opened[0].store
    obs = identify_cells(_joined_obs(opened), source="the merged cells", id_prefix_from=id_prefix_from)
    ids = [str(name) for name in obs.index]
    plan, record = _planned(opened, ids, target)
    with ledger.part_lock(target, ledger.Part()), fsio.atomic_folder(target, overwrite=overwrite) as folder:
        builder = StoreBuilder(folder)
        if "X" in first.views:
            builder.write_expression(_expression(opened, progress), n_genes=len(first.var))
        builder.write_frames(obs, first.var, record)
        builder.create_views(plan)
        builder.seal()
        linked = sum(_write_shard(folder, plan, shard, opened, ids) for shard in range(plan.n_shards))
    progress.note(f"{linked:,} of {plan.n_shards:,} shards are linked with those of parts, the others written anew")
    return open_store(target)


def _open(paths: Sequence[str | os.PathLike[str]]) -> list[_Part]:
    """Open the stores, and refuse those that cannot stand in one."""
    parts: list[_Part] = []
    for path in paths:
        store = open_store(path)
        if store.plan is None or store.record is None:
            raise NotAStoreError(f"{store.path}: not a store that `scstore extract` wrote, and only those are merged.")
        if n_missing := int((~store.committed).sum()):
            why = f"{n_missing:,} of {store.n_obs:,} cells are not extracted yet"
            raise IncompleteStoreError(f"{store.path}: {why}. Run the same `scstore extract` again, then merge.")
        if parts:
            _check_alike(parts[0].store, store)
        views = {view.name: store.view(view.name) for view in store.plan.views}
        parts.append(_Part(store, store.record, store.plan, sum(part.plan.n_obs for part in parts), views))
    if not parts:
        raise OptionError("parts=[]: name the stores to be merged.")
    return parts


def _check_alike(first: Store, other: Store) -> None:
    old, new = first.record or {}, other.record or {}
    if fields := view_differences(old["views"], new["views"]):
        lines = "\n  ".join([f"{other.path}: another feature space than {first.path}'s:", *fields])
        raise FeatureSpaceError(f"{lines}\nExtract those cells again with like={str(first.path)!r}.")
    if not first.var.astype(str).equals(other.var.astype(str)):
        genes = show_some(first.var.index.symmetric_difference(other.var.index)) or "other order or names"
        cure = "A gene that was not measured is no zero: take the same genes, or extract with keep_expression=False."
        raise CellsError(f"{other.path}: the genes of its X are not those of {first.path}: {genes}. {cure}")


def _joined_obs(parts: Sequence[_Part]) -> pd.DataFrame:
    """Return the metadata of all cells, with the columns of any part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ids that repeat, which are refused later, and of columns without a value
        obs = anndata.concat([anndata.AnnData(obs=part.store.obs) for part in parts], join="outer").obs
    for name in {ledger.SEEN_BY_PANEL, ledger.SEEN_BY_PROJECTOR}.intersection(obs):
        obs[name] = obs[name].fillna(False).astype(bool)  # noqa: FBT003  # of a part without it, no cell was seen
    return obs


def _planned(parts: Sequence[_Part], ids: list[str], target: Path) -> tuple[StorePlan, dict[str, Any]]:
    """Choose the shards, those of the parts where these have several, and write the new store's record."""
    first, folder = parts[0], parts[0].store.path.parent
    several = [part.plan.shard_rows for part in parts if part.plan.n_shards > 1]
    shard_rows = max(several, default=ledger.default_shard_rows(len(ids), first.plan.views))
    moved = {}
    for name in ledger.FILES:
        if (given := first.record["options"].get(name)) and (file := there(folder / given)).exists():
            moved[name] = Path(os.path.relpath(file, target.parent)).as_posix()
    names = show_some(part.store.path.name for part in parts)
    record: dict[str, Any] = {
        **{name: value for name, value in first.record.items() if name != "parts"},
        "shard_rows": shard_rows,
        "options": {**first.record["options"], **moved},
        "input": {"name": names, "kind": "merged", "slot": f"{len(parts):,} stores", "ids": ledger.ids_digest(ids)},
    }

    def told(part: _Part) -> dict[str, Any]:
        own = {name: value for name, value in part.record.items() if record.get(name) != value}
        return {"name": part.store.path.name, "digest": part.plan.run, "n_obs": part.plan.n_obs, "record": own}

    record |= {"parts": [told(part) for part in parts]}
    return StorePlan(len(ids), shard_rows, first.plan.views, run=fingerprint(record)), record


def _expression(parts: Sequence[_Part], progress: Reporter) -> Iterator[csr_matrix]:
    # about as many values as some chunks hold: to add to a chunk is to write it again
    step = BLOCK * max(1, min(8, 4 * SPARSE_CHUNK // max(1, parts[0].store.view("X")[:BLOCK].nnz)))
    with progress.track("merging expression", sum(part.plan.n_obs for part in parts), "cells") as track:
        for part in parts:
            for start in range(0, part.plan.n_obs, step):
                yield (rows := part.store.view("X")[start : start + step])
                track.advance(rows.shape[0])


def _write_shard(folder: Path, plan: StorePlan, shard: int, parts: Sequence[_Part], ids: list[str]) -> bool:
    """Link a shard's files with those of a part that has the same, or write them; return whether all are linked."""
    start, stop = plan.bounds(shard)
    own = [(part, max(start - part.start, 0), min(stop - part.start, part.plan.n_obs)) for part in parts]
    inside = [one for one in own if one[1] < one[2]]
    part, same, views, linked = inside[0][0], {}, {}, 0
    bounds = start - part.start, stop - part.start
    number = bounds[0] // part.plan.shard_rows
    if part.plan.shard_rows == plan.shard_rows and part.plan.bounds(number) == bounds:
        found = ledger.read_record(part.store.path, number)
        if found is not None and not ledger.foreign_fields(found, part.plan, number, None):
            same = found["views"]  # else reading the rows says what is wrong
    for view in plan.views:
        file, theirs = chunk_path(folder, view.name, shard), chunk_path(part.store.path, view.name, number)
        fsio.disk.make_folder(file.parent)
        # their bytes are not read: whoever reads them compares them with their digest, which stays
        sound = view.name in same and ledger.file_problem(theirs, same[view.name], hashed=False) is None
        if sound and fsio.disk.link(theirs, file):
            views[view.name] = same[view.name]
            linked += 1
            continue
        data = chunk_bytes(np.concatenate([one.views[view.name][a:b] for one, a, b in inside]), plan.shard_rows)
        with fsio.disk.create(file) as opened:
            fsio.disk.write(opened, data)
        views[view.name] = {"bytes": data.nbytes, "digest": fsio.digest_bytes(data)}
    ledger.write_record(folder, plan, shard, ids=ids[start:stop], views=views)
    return linked == len(views)
