"""Opening a store, or any AnnData on disk that has feature matrices."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells import anndata_files
from scstore.cells.expression import TARGET_SUM, ExpressionSlot, find_expression, lognorm_block
from scstore.cells.matrices import is_numeric, plain_frame
from scstore.cells.opening import CellFile, identify_cells, open_cells, open_root
from scstore.described import Described
from scstore.errors import (
    CellsError,
    CellsWarning,
    DamagedError,
    IncompleteStoreError,
    InputError,
    NotAStoreError,
    OptionError,
    printable,
    show,
)
from scstore.options import Option, did_you_mean, public
from scstore.progress import Reporter
from scstore.sealed import Space, fingerprint
from scstore.store.ledger import (
    CURE,
    LEDGER,
    STATUS,
    STATUS_EMPTY,
    ManifestStore,
    StorePlan,
    committed_shards,
    decoding,
    parse_run_record,
    view_specs,
)
from scstore.store.mirror import MirroredView, fetch_records, local
from scstore.store.views import ShardView, View, array_view
from scstore.untrusted.guards import Guard
from scstore.untrusted.zarr import lost_chunks

# Where a head placed the cells; two heads make two spaces of it.
HEAD_SPACE = "X_scstore"
# Feature space of log-normalised expression, the same for every data set: genes are matched by name.
EXPRESSION_SPACE: Space = {"view": "X", "expression": {"target_sum": TARGET_SUM, "log1p": True}}


class Store(Described):
    """Cells with their feature matrices.

    A store that ``scstore extract`` wrote, the ``.h5ad`` exported from one, any other ``.h5ad`` or AnnData Zarr, a 10x
    file or folder, or an AnnData in memory. Nothing is read before it is asked for.

    Parameters
    ----------
    path
        The store, file or AnnData. :func:`scstore.open` does the same.

    Attributes
    ----------
    path
        Where it is; ``AnnData in memory`` for one.
    source
        What it was opened from.
    record
        The record of the run that made it; ``None`` for an AnnData that scstore did not make.
    """

    def __init__(self, path: str | os.PathLike[str] | anndata.AnnData) -> None:
        self._about = self._no_expression = ""
        self._cells: CellFile | None = None
        self._root: Any
        self._group: Any
        self.source, self.record, self._specs = path, None, {}
        if isinstance(path, anndata.AnnData):
            self.path = Path(anndata_files.describe_anndata(path))
            obsm = {name: array for name, array in path.obsm.items() if isinstance(array, np.ndarray)}
            parts = {"obs": plain_frame(path.obs), "var": plain_frame(path.var), "obsm": obsm, "uns": path.uns}
            self._root = self._group = parts
        else:
            self._open(path)
        if (text := self.uns("scstore", "record")) is not None:
            self.record = parse_run_record(self.path, str(text))
            with decoding(self.path, "the run's record"):
                self._specs = view_specs(self.record)
        if self.is_sharded:
            checked = ManifestStore(self._group.store, self.path)
            self._group = zarr.open_group(checked, mode="r", use_consolidated=False)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._place is None:
            raise OptionError("dask=: workers read cells from files. Write these with write_h5ad, and name the file.")
        return _opened, self._place

    @cached_property
    def _place(self) -> tuple[str, str] | None:
        """Where another process opens this, and what tells it from something else that lay or will lie there."""
        if isinstance(self.source, anndata.AnnData):
            return None
        made = "" if self.record is None else fingerprint(self.record)
        if (address := fsio.address_of(self.source)) and not address.startswith("file:"):
            return address, made
        found = self.path.stat()
        return str(self.path.absolute()), f"{made} {found.st_ino} {found.st_mtime_ns}"

    def _open(self, path: str | os.PathLike[str]) -> None:
        if isinstance(path, str | os.PathLike):
            path = local(path) if fsio.address_of(path) else path
            fsio.mend(path)
        with decoding(path, "it"):
            self._root = self._group = open_root(path, error=NotAStoreError, damaged=DamagedError)
            is_anndata = self._root is not None and "obs" in self._root
        self.path = Path(path)
        if not is_anndata:  # but a 10x file or folder
            self._cells = open_cells(path)
            self._root = self._group = {"obs": self._cells.obs, "var": pd.DataFrame(), "obsm": {}}
        else:
            self._group, self._about = anndata_files.read_modality(self._root, source=str(self.path))

    @property
    def _is_foreign(self) -> bool:
        """Whether expression is looked for as in any input of cells."""
        return self.record is None or not self.is_anndata_on_disk

    def described(self) -> tuple[str, Mapping[str, str]]:
        """Return what is shown at a prompt and in notebooks."""
        done = "" if self.is_complete else f", {int(self.committed.sum()):,} of them extracted"
        views = ", ".join(self.views) or "none"
        columns = ", ".join(map(str, self.obs.columns)) or "none"
        return f"Store {self.path}", {"cells": f"{self.n_obs:,}{done}", "views": views, "obs": columns}

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Metadata of the cells, ``(n_obs, n_columns)``; the index holds their ids."""
        frame = self._frame("obs")
        if isinstance(self._group, dict):
            return identify_cells(frame, source=str(self.path))
        frame.index = frame.index.astype(str)
        return anndata_files.with_shared_obs(frame, self._frame("obs", root=self._root)) if self.is_modality else frame

    def _frame(self, name: str, *, root: Any = None) -> pd.DataFrame:
        if self.is_sharded:
            with decoding(self.path, name):
                return read_elem(self._group[name])
        if isinstance(self._group, dict):
            return self._group[name]
        frame = anndata_files.read_frame(self._group if root is None else root, name, guard=Guard(str(self.path)))
        return pd.DataFrame() if frame is None else frame

    @property
    def notes(self) -> list[str]:
        """Lines about a file: what in it is not read as cells and genes, or that it is a paper's recipe."""
        if paper := self._paper:
            return [f"preset {paper}: by default its own {self.default_view} alone is read; views= names others"]
        slot = self.expression_slot if self._is_foreign else None
        if slot is None or self._cells is None:
            return [self._about] if self._about else []
        return self._cells.notes(slot.slot)

    @cached_property
    def var(self) -> pd.DataFrame:
        """Metadata of the genes of ``X``."""
        return self._frame("var")

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs)

    @property
    def is_sharded(self) -> bool:
        """Whether this is a Zarr store that scstore wrote, with records of its shards."""
        return self.record is not None and isinstance(self._group, zarr.Group) and (self.path / LEDGER).is_dir()

    @property
    def is_anndata_on_disk(self) -> bool:
        """Whether this is an AnnData in Zarr or HDF5."""
        return not isinstance(self._group, dict)

    @property
    def group_name(self) -> str:
        """Where the AnnData is in its file: ``/``, or a modality's place."""
        return str(self._group.name) if self.is_anndata_on_disk and not self.is_sharded else "/"

    @property
    def is_modality(self) -> bool:
        """Whether this is one modality of a MuData file."""
        return self._root is not self._group and not self.is_sharded

    @cached_property
    def plan(self) -> StorePlan | None:
        """Shards and views of a store that scstore wrote; ``None`` for other files."""
        if self.record is None or not self.is_sharded:
            return None
        views = tuple(self._specs.values())
        plan = StorePlan(self.n_obs, int(self.record["shard_rows"]), views, run=fingerprint(self.record))
        if (mirror := fsio.mirror_of(self.path)) is not None:
            fetch_records(mirror, self.path, plan)
        return plan

    @cached_property
    def views(self) -> tuple[str, ...]:
        """Names of the feature matrices: the dense entries of ``obsm``, then ``X`` where there is expression."""
        names = list(self._specs)
        if not self.is_sharded:
            names = [name for name, is_matrix in self._obsm.items() if is_matrix]
            names.sort(key=[*self._specs, *names].index)
        if self._is_foreign:
            has_expression = self.expression_slot is not None
        else:
            with decoding(self.path, "X"):
                has_expression = "X" in self._group
        return (*names, "X") if has_expression else tuple(names)

    @cached_property
    def _obsm(self) -> dict[str, bool]:
        """Names in obsm, and whether each is a dense matrix of numbers."""
        with decoding(self.path, "obsm"):
            obsm: Any = self._group.get("obsm", {})
            if isinstance(obsm, h5py.Dataset):  # one array of records, as anndata before 0.7 wrote it
                types = {name: obsm.dtype[name] for name in obsm.dtype.names or ()}
                return {name: len(one.shape) == 1 and is_numeric(one.base) for name, one in types.items()}
            arrays = ((name, obsm[name]) for name in sorted(obsm))
            return {name: len(getattr(one, "shape", ())) == 2 and is_numeric(one.dtype) for name, one in arrays}

    @property
    def default_view(self) -> str:
        """The view used where none is named.

        Raises
        ------
        InputError
            If scstore did not make this file and it has not exactly one ``obsm`` matrix.
        """
        if self.record is not None:
            return str(self.record["default_view"])
        matrices = [name for name in self.views if name != "X"]
        if len(matrices) == 1:
            return matrices[0]
        cure = "Name a view" if matrices else "Extract these cells first (scstore.extract), or name the view X"
        raise InputError(f"{self.path} has no default view. It has: {', '.join(self.views) or 'none'}. {cure}.")

    @property
    def _paper(self) -> str:
        """The preset of a paper that the store was extracted by, if it was."""
        preset = (self.record or {}).get("options", {}).get("preset")
        return "" if preset in (None, "default") else str(preset)

    @property
    def default_views(self) -> tuple[str, ...]:
        """The views that a head is trained on where none is named: the default view, ``genept``, ``X``, if present.

        Of a store that was extracted by the preset of a paper it is that paper's own view alone; of cells that scstore
        did not extract, expression where there is any.
        """
        if self.record is None and "X" in self.views:
            return ("X",)
        companions = ("genept", "X") if self.record is not None and not self._paper else ()
        return tuple(dict.fromkeys([self.default_view, *(name for name in companions if name in self.views)]))

    def view(self, name: str) -> View:
        """Open one feature matrix, which is read by rows.

        Parameters
        ----------
        name
            A name in :attr:`views`; ``readout`` stands for :attr:`default_view`.

        Returns
        -------
        View
            ``view[rows]`` gives ``(n_rows, width)``: an array, of ``X`` a CSR matrix.

        Raises
        ------
        InputError
            If there is no such matrix.
        """
        if name == "readout":
            name = self.default_view
        if name not in self.views:
            known = f"{did_you_mean(name, self.views)} It has: {', '.join(self.views) or 'none'}."
            raise InputError(f"{self.path} has no view {show(name)}{self.why_not(name)}.{known}")
        view = self._expression if name == "X" else self._matrix(name)
        if (
            self._place is not None
        ):  # not the store itself, whose file would stay open as long as the two hold each other
            view.opened_by = _view, (*self._place, name)
        return view

    def _matrix(self, name: str) -> View:
        spec = self._specs.get(name)
        if self.plan is not None and spec is not None:
            if (mirror := fsio.mirror_of(self.path)) is not None:
                return MirroredView(self.path, self.plan, spec, self.obs.index, mirror=mirror)
            return ShardView(self.path, self.plan, spec, self.obs.index)
        with decoding(self.path, name):
            obsm = self._group["obsm"]
            array = Guard(str(self.path)).member(obsm, name) if isinstance(obsm, h5py.Group) else obsm[name]
            is_ours = isinstance(array, zarr.Array) and array.dtype.kind == "f" and np.isnan(array.fill_value)
        if is_ours and spec is not None:
            raise DamagedError(f"{self.path}: its folder {LEDGER}, which says what was extracted, is missing. {CURE}")
        if array.shape[0] != self.n_obs:
            why = f"obsm has {array.shape[0]:,} rows of {name} for {self.n_obs:,} cells"
            raise InputError(f"{self.path}: {why}. Write a matrix with one row a cell.")
        n_lost, n_chunks = lost_chunks(array)
        if 0 < n_lost < n_chunks:
            why = f"chunks of obsm/{name} have no file: they are zeros, which Zarr leaves out, or were lost"
            raise CellsError(f"{self.path}: {why}. Copy the folder again; if they are zeros, write it as .h5ad.")
        space = {"view": name, "source": "not extracted by scstore", "width": int(array.shape[1])}
        if name == HEAD_SPACE and (digest := self.annotation.get("head_digest")):
            space["head"] = str(digest)
        return array_view(name, array, space if spec is None else spec.space, source=self.path)

    def why_not(self, name: str) -> str:
        """Why something that is in the file is no view, as the end of a sentence; empty where nothing is known."""
        if name == "X" and self.record is None and self._no_expression:
            return f": {self._no_expression.rstrip('.')} (in scstore.extract)"
        if name not in self._obsm or self.is_sharded:
            return ""
        return ": in obsm it is text, a table or sparse. Write it as a dense matrix of numbers"

    @property
    def committed(self) -> NDArray[np.bool_]:
        """Mask ``(n_obs,)`` of the cells that have been extracted."""
        if self.plan is None:
            return np.ones(self.n_obs, dtype=bool)
        done: NDArray[np.bool_] = np.asarray(committed_shards(self.path, self.plan), dtype=bool)
        return done[np.arange(self.n_obs) // self.plan.shard_rows]

    @property
    def is_complete(self) -> bool:
        """Whether every row has been extracted."""
        return bool(self.committed.all())

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Mask ``(n_obs,)`` of the cells without any gene to read; their rows are zeros."""
        if self.record is None or STATUS not in self.obs:  # without its record it is an earlier run's
            return np.zeros(self.n_obs, dtype=bool)
        return np.asarray(self.obs[STATUS].astype(str) == STATUS_EMPTY)

    def uns(self, *names: str) -> Any:
        """Return an entry of ``uns`` by its names, the outermost first; None where there is none."""
        found: Any = self._group
        with decoding(self.path, "/".join(("uns", *names))):
            for name in ("uns", *names):
                if not hasattr(found, "keys") or name not in found:
                    return None
                found = found[name]
            return read_elem(found) if self.is_anndata_on_disk else found

    def usable_rows(self, *, allow_partial: bool = False) -> NDArray[np.int64]:
        """Return the row numbers of the cells that are extracted and not empty.

        Parameters
        ----------
        allow_partial
            Leave out cells that are not extracted yet, instead of refusing.

        Returns
        -------
        ndarray
            ``(n_usable,) int64``, ascending.

        Raises
        ------
        IncompleteStoreError
            If rows are missing and ``allow_partial`` is not set.
        """
        committed = self.committed
        if not committed.all() and not allow_partial:
            why = f"{int((~committed).sum()):,} of {self.n_obs:,} cells are not extracted yet"
            raise IncompleteStoreError(f"{self.path}: {why}. Run `scstore extract` again, or set allow_partial=True.")
        return np.flatnonzero(committed & ~self.empty)

    @property
    def annotation(self) -> Mapping[str, Any]:
        """How :func:`scstore.annotate` labelled these cells, from ``uns``; empty where it did not."""
        found = self.uns("scstore", "annotation")
        return found if isinstance(found, Mapping) else {}

    @property
    def info(self) -> dict[str, Any]:
        """Description of the store as JSON values, as ``scstore info`` prints it."""
        record = self.record or {}
        views = {}
        for view in map(self.view, self.views):
            space = {"fingerprint": view.fingerprint, "space": dict(view.space)}
            views[view.name] = {"width": view.shape[1], "dtype": str(view.dtype), **space}
        committed = int(self.committed.sum())
        return {
            "path": printable(str(self.path)),
            "kind": "store" if self.record is not None else "anndata",
            "format": record.get("format"),
            "n_obs": self.n_obs,
            "n_committed": committed,
            "complete": committed == self.n_obs,
            "n_empty": int(self.empty.sum()),
            "obs_columns": [str(name) for name in self.obs.columns],
            "views": views,
            "default_view": record.get("default_view"),
            "run": {k: v for k, v in record.items() if k not in ("views", "format", "kind", "default_view")},
        }

    def to_anndata(
        self, views: Sequence[str] | None = None, *, rows: NDArray[np.int64] | None = None
    ) -> anndata.AnnData:
        """Read cells and views into memory.

        Parameters
        ----------
        views
            Names of the views to include; all by default, and then a file that scstore did not make is read as it is.
        rows
            Row numbers of the cells to include; all by default.

        Returns
        -------
        AnnData
            ``obs`` (and ``X`` with its ``var``), one ``obsm`` entry a view, the run's record in ``uns``.

        Raises
        ------
        IncompleteStoreError
            If one of the rows is not extracted yet.
        """
        names = self.views if views is None else [self.default_view if n == "readout" else n for n in views]
        chosen = slice(None) if rows is None else rows
        if self._is_foreign and views is None:  # what scstore did not make: all of it, as it is
            whole = self._whole()
            return whole if rows is None else whole[rows].copy()
        X = self.view("X")[chosen] if "X" in names else None
        var = None if X is None else self.expression_genes
        adata = anndata.AnnData(X=X, obs=self.obs.iloc[chosen].copy(), var=var)
        for name in names:
            if name != "X":
                adata.obsm[name] = np.asarray(self.view(name)[chosen])
        with decoding(self.path, "uns"):
            if self.is_anndata_on_disk and "uns" in self._group:
                adata.uns = read_elem(self._group["uns"])
        return adata

    def _whole(self) -> anndata.AnnData:
        """Read a file that scstore did not make, with everything in it."""
        if isinstance(self.source, anndata.AnnData):
            return self.source
        if self._cells is not None and not self.is_anndata_on_disk:
            matrix = self._cells.matrix("X")
            return anndata.AnnData(matrix.rows(0, matrix.shape[0]), obs=self.obs, var=self._cells.var("X"))
        whole = anndata_files.read_whole(self._group, self.path)
        if self.is_modality:
            whole.obs = self.obs
        return whole

    @property
    def expression_genes(self) -> pd.DataFrame:
        """Metadata of the columns of the view ``X``: index, ``symbol`` and ``ensembl_id`` where known."""
        if not self._is_foreign or self.expression_slot is None or self._cells is None:
            frame = self.var.copy()
        else:
            frame = self._cells.var(self.expression_slot.slot).copy()
        if "symbol" not in frame:
            frame["symbol"] = ""
        named = zip(frame["symbol"].astype(str), frame.index.astype(str), strict=True)
        frame["symbol"] = [symbol or name for symbol, name in named]
        if "ensembl_id" not in frame:
            frame["ensembl_id"] = ""
        return frame

    @cached_property
    def expression_slot(self) -> ExpressionSlot | None:
        """Where cells that scstore did not extract have expression, if anywhere."""
        try:
            self._cells = self._cells or open_cells(self.source)
        except CellsError as error:
            self._no_expression = str(error).removeprefix(f"{self.path}: ")
            return None
        for kind in ("counts", "lognorm"):
            try:
                return find_expression(self._cells, expression=kind, declared=False)
            except CellsError as error:
                self._no_expression = self._no_expression or str(error).removeprefix(f"{self.path}: ")
        return None

    @cached_property
    def _expression(self) -> View:
        if not self._is_foreign:
            with _damage(self.path):
                guard, shape = Guard(str(self.path)), (self.n_obs, len(self.var))
                matrix = anndata_files.open_matrix(self._group["X"], shape=shape, name="X", guard=guard)
            if matrix is None:
                raise DamagedError(f"{self.path}: X is empty.")

            def stored(start: int, stop: int) -> csr_matrix:
                with _damage(self.path):
                    return matrix.rows(start, stop)

            return View("X", matrix.shape, np.float32, EXPRESSION_SPACE, stored)
        cells, slot = self._cells, self.expression_slot
        if cells is None or slot is None:
            raise InputError(f"{self.path} has no expression: neither counts nor log-normalised values.")
        if slot.remark:
            Reporter().warn(f"{self.path}: {slot.slot} {slot.remark}", CellsWarning)
        rows = partial(lognorm_block, cells, slot)
        return View("X", cells.slots[slot.slot].shape, np.float32, EXPRESSION_SPACE, rows)


@lru_cache(maxsize=8)
def _opened(path: str, what: str) -> Store:
    """Open a store once in a process of a cluster."""
    del what
    return Store(path)


def _view(path: str, what: str, name: str) -> View:
    return _opened(path, what).view(name)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn :class:`CellsError` into damage: scstore itself wrote this expression."""
    try:
        with decoding(path, "X"):
            yield
    except CellsError as error:
        raise DamagedError(str(error)) from error


# What every function of stage 2 reads.
Cells: TypeAlias = str | os.PathLike[str] | anndata.AnnData | Store


@public
def open_store(
    path: Annotated[Cells, Option("A store, an AnnData on disk or in memory, or a 10x file or folder.")],
) -> Store:
    """Open a store, an exported ``.h5ad``, any AnnData, or a 10x file or folder, for reading.

    Returns
    -------
    Store
        Nothing of it is read before it is asked for.

    Raises
    ------
    NotAStoreError
        If there is nothing that scstore can read.
    NewerFormatError
        If a newer scstore wrote it.
    DamagedError
        If the record of its run is damaged, or the file asks for what is refused.

    Examples
    --------
    >>> store = scstore.open("stores/ref.zarr")  # doctest: +SKIP
    >>> store.view("X")[:100]  # doctest: +SKIP
    """
    if isinstance(path, Store):
        return path
    return Store(path)
