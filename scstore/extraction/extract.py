"""``scstore extract``: cells through a frozen language model into a store."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells.matrices import fitting_names
from scstore.cells.opening import open_cells
from scstore.errors import CellsWarning, LockedError, OptionError, OutputError, ScstoreError, show, show_some
from scstore.extraction.auto_panel import panel_of_store
from scstore.extraction.model_reader import CellReader, cells_per_second, load_reader
from scstore.extraction.options import AUTO_PANEL, Cells, ExtractOptions, Output, complete_options
from scstore.extraction.plan import ExtractionPlan, check_same_run, make_plan
from scstore.extraction.sequence_plan import READ_ROWS
from scstore.options import with_options
from scstore.progress import Reporter
from scstore.remote import POOL, there
from scstore.store.ledger import (
    FILES,
    MADE_BESIDE,
    MANIFEST,
    NOT_YET,
    PREFIX,
    STATUS,
    STATUS_EMPTY,
    STATUS_OK,
    Part,
    StorePlan,
    check_fixed_files,
    check_shard,
    committed_shards,
    creation_lock,
    file_beside,
    part_lock,
)
from scstore.store.mirror import local, place_for, send_shape
from scstore.store.reader import Store, open_store
from scstore.store.writer import build_store, commit_shard, store_problem
from scstore.tokens.sequences import RankedCells

T = TypeVar("T")

POLL = 0.2  # seconds between looks at a store that another process is creating; 25 times as many at an address


@dataclass(frozen=True)
class Process:
    """One process among those on the store, its share of the shards, and its GPU where a launcher started several."""

    part: Part
    device: str | None
    is_silent: bool = False  # a launcher started several, and another one speaks for all


def this_process(part: Part | None = None) -> Process:
    """Find this process's part: as given, as ``accelerate launch`` or ``torchrun`` set it, or the whole."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Process(part or Part(), None)
    if part is not None:
        raise OptionError(f"shard='{part.index}/{part.count}': the {world} processes launched share the work already.")
    import torch

    device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}" if torch.cuda.is_available() else None
    rank = int(os.environ["RANK"])
    return Process(Part(rank, world), device, is_silent=rank > 0)


def create_or_wait(target: Path, process: Process, create: Callable[[], T], *, overwrite: bool) -> T | None:
    """Create the store under a lock that others see, or wait until another process has; None where it was there."""
    if overwrite and process.part.count > 1:
        raise OptionError("overwrite=True: several processes cannot replace a store. Delete it first, then start them.")
    lock, place = creation_lock(target), fsio.mirror_of(target) or fsio
    while overwrite or not _has_shape(target):
        try:
            with place.lock(lock):
                if _has_shape(target) and not overwrite:
                    return None
                return create()
        except LockedError:
            with suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > fsio.STALE:
                    raise
            time.sleep(POLL if place is fsio else 25 * POLL)
    return None


def _has_shape(store: Path) -> bool:
    """Whether a store has been created, on this disk or at its address."""
    mirror = fsio.mirror_of(store)
    return (store / "zarr.json").exists() if mirror is None else bool(mirror.size(store / MANIFEST))


N_GENES = "scstore_n_genes"
# Shards, or blocks of the input, that are read before they are asked for.
PREFETCHED = 2


@with_options(ExtractOptions)
def extract(cells: Cells, output: Output, options: ExtractOptions) -> Store:
    """Run cells through a frozen language model once and keep what its hidden states say about them.

    Killed anywhere, the same call goes on where it stopped and ends in the same store.

    Returns
    -------
    Store
        Open for reading; complete unless other processes are still at work on their parts.

    Raises
    ------
    CellsError
        If the cells cannot be used as they are.
    GenesError
        If too few genes match the gene table.
    OptionError
        If options do not go together, or the default model finds no GPU.
    FeatureSpaceError
        If ``output`` is a store of other cells or another feature space; the differing fields are listed.
    NumericsError
        If a hidden state is not finite.
    LockedError
        If another process extracts the same shards.

    Examples
    --------
    >>> store = scstore.extract("cells.h5ad", "stores/ref.zarr", model="minilm")  # doctest: +SKIP
    >>> store.views  # doctest: +SKIP
    ('readout_wmean_l1', 'readout_last_l1', 'readout_wmean_l6', 'readout_last_l6', 'genept', 'genept_random', 'X')
    """
    progress = options.progress or Reporter()
    process = this_process(None if options.shard is None else Part.parse(options.shard))
    completed = complete_options(options)
    settings = replace(completed, device=completed.device or process.device)
    address = fsio.address_of(output)
    target = place_for(address, overwrite=options.overwrite) if address else Path(output)
    mirror = fsio.mirror_of(target)
    if mirror is None and target.exists() and not options.overwrite and not _has_shape(target):
        raise OutputError(f"{target} exists and is not a store. Choose another name.")
    _check_name(target, settings)
    fsio.mend(target)
    fsio.check_output(target, overwrite=True, problem=store_problem if options.overwrite else lambda _: None)
    with part_lock(target, process.part), open_cells(cells, id_prefix_from=settings.id_prefix_from) as opened:
        planned = partial(make_plan, cells, opened, target, progress=progress)

        def create() -> tuple[ExtractionPlan, CellReader | None]:
            try:
                if mirror is None:
                    return _create(target, planned(settings), progress)
                return _create_there(target, settings, planned, progress)
            except BaseException as error:
                if not isinstance(error, Exception):  # stopped by hand
                    progress.note(f"nothing is kept yet: {target} appears once all cells have been read")
                raise

        created = create_or_wait(target, process, create, overwrite=options.overwrite)
        if mirror is not None:
            local(address)
            _fetch_beside(target)
        if created is None:  # it was there, or another process has created it
            plan, model = planned(_as_begun(settings, open_store(target))), None
            check_same_run(target, plan)
            if mirror is None:  # there each is compared when it comes
                check_fixed_files(target)
        else:
            plan, model = created
        _run(target, plan, process.part, model, progress)
    return open_store(address or target)


def _fetch_beside(target: Path) -> list[Path]:
    return [there(file_beside(target, ending)) for ending in MADE_BESIDE]


def _create_there(
    target: Path, options: ExtractOptions, planned: Callable[[ExtractOptions], ExtractionPlan], progress: Reporter
) -> tuple[ExtractionPlan, CellReader | None]:
    """As :func:`_create`, on this disk; then send the store to its address, and copies of the files that it names."""
    beside, copies = _fetch_beside(target), dict[str, Any]()
    for name in FILES:
        if (given := getattr(options, name)) is not None and (file := Path(given)).is_file():
            copies[name] = file_beside(target, f".{name}{file.suffix}")
            fsio.write_bytes(copies[name], file.read_bytes())
    with fsio.scratch_folder(fsio.cache_folder() / target.name) as folder:
        made = _create(folder / target.name, planned(replace(options, **copies)), progress)
        send_shape(folder / target.name, target, {*beside, *copies.values()}, progress)
    return made


def _check_name(target: Path, options: ExtractOptions) -> None:
    """Refuse a new store whose gene table or panel would have the name of another store's."""
    name = target.name.removesuffix(".zarr")
    twin = target.with_name(name if name != target.name else f"{name}.zarr")
    kept = file_beside(target, ".panel.h5ad" if options.panel == AUTO_PANEL else ".genes.h5ad")
    if (options.genes is None or options.panel == AUTO_PANEL) and not _has_shape(target) and _has_shape(twin):
        raise OutputError(f"{target}: {twin} has its {kept.name} beside it already. Choose another name.")


def _as_begun(options: ExtractOptions, store: Store) -> ExtractOptions:
    """The options with the panel, precision and batches that a store was begun with, unless others are given."""
    if options.panel == AUTO_PANEL:
        options = replace(options, panel=str(panel_of_store(store)))
    if store.record is None:
        return options
    return replace(options.as_begun(store.record["run"]), shard_rows=options.shard_rows or store.record["shard_rows"])


def _create(target: Path, plan: ExtractionPlan, progress: Reporter) -> tuple[ExtractionPlan, CellReader | None]:
    """Read and check every cell once, create the store; return plan with shards, and the model if timed."""
    sequences, keep = plan.sequences, plan.options.keep_expression
    cells = sequences.source.cells
    obs = _own_columns(cells.obs, cells.source, progress)
    lengths: list[NDArray[np.int64]] = []
    model = None
    var = sequences.genes.described.obs.iloc[sequences.genes.match.genes].drop(columns=["text", "text_source"])
    with build_store(target, overwrite=plan.options.overwrite) as builder:
        with ThreadPoolExecutor(1, "scstore-read") as reader:
            blocks = prefetch(sequences.expression_blocks(progress, lengths), reader, depth=PREFETCHED)
            if keep:
                builder.write_expression(blocks, n_genes=len(var))
            else:
                deque(blocks, maxlen=0)  # every cell is checked and counted all the same
        if plan.options.shard_rows is None and plan.options.runs_model:
            model = load_reader(plan, progress)
            plan = plan.at_rate(cells_per_second(model, sequences.rank(sequences.expression(0, READ_ROWS))))
        obs[N_GENES] = np.concatenate(lengths)
        obs[STATUS] = pd.Categorical(
            np.where(obs[N_GENES] > 0, STATUS_OK, STATUS_EMPTY), categories=[STATUS_OK, STATUS_EMPTY]
        )
        for column, ids in plan.trained_on.items():
            obs[column] = obs.index.astype(str).isin(ids)
        builder.write_frames(obs, var if keep else pd.DataFrame(index=var.index[:0]), plan.record)
        builder.create_views(plan.shape)
    if empty := int((obs[N_GENES] == 0).sum()):
        said = f"{empty:,} cells express none of the genes that may enter; they are kept and marked `empty`."
        progress.warn(said, CellsWarning)
    return plan, model


def _own_columns(obs: pd.DataFrame, source: str, progress: Reporter) -> pd.DataFrame:
    """Return ``obs`` under names that a store can hold, without columns of an earlier run, which are not this run's."""
    stale = [name for name in obs.columns if str(name).startswith(PREFIX)]
    if stale:
        progress.warn(f"{source}: obs columns of an earlier run are left out: {show_some(stale)}", CellsWarning)
    obs = obs.drop(columns=stale)
    names = fitting_names(obs.columns)
    for old, new in zip(obs.columns, names, strict=True):
        if new != old:
            progress.warn(f"{source}: obs column {show(old)} is kept as {show(new)}", CellsWarning)
    return obs.set_axis(names, axis="columns")


def _run(target: Path, plan: ExtractionPlan, part: Part, model: CellReader | None, progress: Reporter) -> None:
    """Extract every shard of a part that is not committed yet: reading ahead, the model, writing behind."""
    store, sequences = open_store(target), plan.sequences
    shape = store.plan or plan.shape
    ids = [str(name) for name in store.obs.index]
    todo, done = _unfinished(target, shape, part, ids, progress)
    if not todo:
        return
    keep = plan.options.keep_expression and fsio.mirror_of(target) is None  # else it would be fetched again
    reader_of_cells = model or load_reader(plan, progress)

    def read() -> Iterator[tuple[int, csr_matrix, RankedCells]]:
        for shard in todo:
            start, stop = shape.bounds(shard)
            rows = store.view("X")[start:stop] if keep else sequences.expression(start, stop)
            sequences.source.check_unchanged()
            yield shard, rows, sequences.rank(rows)

    def write(shard: int, rows: csr_matrix, ranked: RankedCells, views: dict[str, NDArray[np.float32]]) -> None:
        start, stop = shape.bounds(shard)
        commit_shard(target, shape, shard, plan.companion_rows(rows, ranked) | views, ids=ids[start:stop])

    total = done + sum(stop - start for start, stop in map(shape.bounds, todo))
    pending: deque[Future[None]] = deque()
    with (
        _saying_what_is_kept(target, shape, plan.options, progress),
        progress.track("extracting", total, "cells") as track,
        ThreadPoolExecutor(1, "scstore-read") as reader,
        ThreadPoolExecutor(1, "scstore-write") as writer,
    ):
        track.resume_at(done)
        for shard, rows, ranked in prefetch(read(), reader, depth=PREFETCHED):
            views, halved = reader_of_cells.read(ranked, track)
            if halved:
                progress.warn(
                    "batches did not fit the device's memory and were run in halves; a smaller tokens_per_batch= "
                    "avoids the detour"
                )
            if len(pending) > 1:
                pending.popleft().result()
            pending.append(writer.submit(write, shard, rows, ranked, views))
        for one in pending:
            one.result()


@contextmanager
def _saying_what_is_kept(target: Path, shape: StorePlan, options: ExtractOptions, progress: Reporter) -> Iterator[None]:
    """Where a run is stopped, say how many cells are committed."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, ScstoreError):  # those say themselves what to do
            with suppress(OSError):  # the disk itself may be what failed
                done = committed_shards(target, shape)
                kept = sum(stop - start for shard, start, stop in shape.shards() if done[shard])
                again = "Run the same command again" + (", without overwrite=True," if options.overwrite else "")
                progress.note(f"{target}: {kept:,} of {shape.n_obs:,} cells are kept. {again} to go on.")
        raise


def _unfinished(
    target: Path, shape: StorePlan, part: Part, ids: list[str], progress: Reporter
) -> tuple[list[int], int]:
    """The shards of this part that must be extracted, and how many cells of it were before."""
    mine = [bounds for bounds in shape.shards() if part.owns(bounds[0])]
    look = map if fsio.mirror_of(target) is None else POOL.map
    found = look(lambda one: check_shard(target, shape, one[0], ids=ids[one[1] : one[2]]), mine)
    reasons = dict(zip((shard for shard, _, _ in mine), found, strict=True))
    todo = [shard for shard, reason in reasons.items() if reason is not None]
    done = sum(stop - start for shard, start, stop in mine if reasons[shard] is None)
    if done:
        progress.note(f"{done:,} of {shape.n_obs:,} cells were extracted before")
    if damaged := [reason for reason in reasons.values() if reason not in (None, NOT_YET)]:
        progress.warn(f"redoing damaged shards: {damaged[0]}; {len(damaged):,} in all")
    return todo, done


def prefetch(items: Iterator[T], executor: ThreadPoolExecutor, *, depth: int) -> Iterator[T]:
    """Yield the items of an iterator, the next ``depth`` of them being made by the executor's one thread meanwhile."""
    end = object()
    waiting: deque[Future[Any]] = deque(executor.submit(next, items, end) for _ in range(depth))
    while (item := waiting.popleft().result()) is not end:
        waiting.append(executor.submit(next, items, end))
        yield item
    for future in waiting:
        future.cancel()
