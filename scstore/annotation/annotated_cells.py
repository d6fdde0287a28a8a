"""Cells with their labels: what is added to an AnnData, in memory or in a copy of its file."""

from __future__ import annotations

import colorsys
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData, settings
from anndata.io import write_elem

from scstore import fsio
from scstore.annotation.majority import HETEROGENEOUS
from scstore.annotation.prediction_frames import UNASSIGNED
from scstore.cells.matrices import fitting_names
from scstore.errors import CellsError, OutputError, show
from scstore.hdf5_output import hdf5_output
from scstore.store.export import MADE_HERE, check_h5ad_output, is_legacy, write_h5ad
from scstore.store.reader import HEAD_SPACE, Store

PREFIX, OWN = "scstore_", "scstore"
SPACE, PROBABILITY = HEAD_SPACE, "scstore_probability"
# Where uns["scstore"] says how the labels were made.
RECORD = "annotation"
# obs columns that names by texts alone have (scstore.name).
ONLY_NAMES = ("third_label", "score", "second_score", "third_score", "p_value", "ontology_id")
ONLY_HEADS = ("majority_", "label:", "confidence:", "novelty", "suggestion")
# Beginnings of obs columns that only some annotations have: those of an earlier one are deleted.
OPTIONAL = tuple(f"{PREFIX}{name}" for name in (*ONLY_HEADS, *ONLY_NAMES))
# Colours that are told apart with any colour vision (Okabe and Ito, 2008), their yellow, which is hard to see on white,
# replaced by a wine red (Tol); more labels get hues of three lightnesses.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#882255", "#000000")
GREY, LIGHT_GREY = "#B0B0B0", "#D9D9D9"
BRIGHTEST = 0.65  # of a label's colour, as the eye weighs red, green and blue; 1 is white


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is added to ``n`` cells: columns of obs, matrices of obsm ``(n, …)``, and entries of uns."""

    obs: pd.DataFrame
    obsm: Mapping[str, np.ndarray[Any, Any]]
    uns: Mapping[str, Any]
    record: Mapping[str, Any]

    @classmethod
    def make(cls, frame: pd.DataFrame, obsm: Mapping[str, Any], record: Mapping[str, Any]) -> Annotation:
        """Take a table of predictions of all cells; probabilities go to obsm, colours of the labels to uns."""
        probabilities = [name for name in frame.columns if name.startswith("p(")]
        obs = frame.drop(columns=probabilities)
        obs.columns = pd.Index(fitting_names(pd.Index([f"{PREFIX}{name}" for name in obs.columns])))
        uns: dict[str, Any] = {}
        for name in obs.columns:
            if isinstance(obs[name].dtype, pd.CategoricalDtype):
                obs[name] = obs[name].cat.remove_unused_categories()
            if name.startswith((f"{PREFIX}label", f"{PREFIX}majority_label")):
                uns[f"{name}_colors"] = label_colours(list(obs[name].cat.categories))
        if probabilities:
            obsm = {**obsm, PROBABILITY: frame[probabilities].to_numpy()}
            uns[f"{PROBABILITY}_classes"] = np.array([name[2:-1] for name in probabilities], dtype=object)
        return cls(obs, obsm, uns, record)


def label_colours(labels: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return a colour for each label ``(n,)``, greys for those that are none."""
    named = [label for label in labels if label not in (UNASSIGNED, HETEROGENEOUS)]
    colours = list(PALETTE)
    if len(named) > len(colours):
        parts = ((i / len(named), (0.35, 0.5, 0.65)[i % 3], 0.65) for i in range(len(named)))
        colours = [_on_white(*colorsys.hls_to_rgb(*part)) for part in parts]
    chosen = dict(zip(named, colours, strict=False)) | {UNASSIGNED: GREY, HETEROGENEOUS: LIGHT_GREY}
    return np.array([chosen[label] for label in labels], dtype=object)


def _on_white(red: float, green: float, blue: float) -> str:
    """Return a colour as text, darkened where it is too light for a dot on white, as yellow is."""
    share = min(1, BRIGHTEST / (0.3 * red + 0.59 * green + 0.11 * blue))
    return "#" + "".join(f"{round(255 * share * value):02X}" for value in (red, green, blue))


def add_to_anndata(adata: AnnData, annotation: Annotation) -> AnnData:
    """Add labels to an AnnData in memory, of a view to a copy, in place of those of an earlier run."""
    adata = adata.copy() if adata.is_view else adata
    about = adata.uns.get(OWN)
    adata.uns[OWN] = dict(about) if isinstance(about, Mapping) else {}
    _add(adata.obs, adata.obsm, adata.uns, annotation)
    return adata


def _add(obs: Any, obsm: Any, uns: Any, annotation: Annotation) -> None:
    """Add labels to the parts of an AnnData, in memory or on disk, in place of those of an earlier run."""
    texts = {name for name, dtype in annotation.obs.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)}
    columns = {str(name): v.array if name in texts else v.to_numpy() for name, v in annotation.obs.items()}
    _put(obs, columns, stale=lambda name: name.startswith(OPTIONAL))
    _put(obsm, annotation.obsm, stale=lambda name: name in (PROBABILITY, SPACE))
    _put(uns, annotation.uns, stale=lambda name: name.startswith(PREFIX) and name.endswith(("_colors", "_classes")))
    _put(uns[OWN], {RECORD: dict(annotation.record)}, stale=lambda _: False)


def _put(holder: Any, values: Mapping[str, Any], *, stale: Callable[[str], bool]) -> None:
    for name in [name for name in holder if name in values or stale(str(name))]:
        del holder[name]
    for name, value in values.items():
        if isinstance(holder, h5py.Group | zarr.Group):
            write_elem(holder, name, value)
        else:
            holder[name] = value


def check_annotated_output(store: Store, output: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Refuse an output of another form than the input's, or that may not be replaced, before the work starts."""
    target, wanted = Path(output), output_suffix(store)
    if target.suffix != wanted:
        raise OutputError(f"{target}: cells of {store.path} are given back in a file whose name ends in {wanted}.")
    if wanted == ".zarr":
        return fsio.check_output(target, overwrite=overwrite, problem=_problem)
    return check_h5ad_output(target, overwrite=overwrite)


def output_suffix(store: Store) -> str:
    """Return the ending of the file that cells are given back in: that of an AnnData as it is, else ``.h5ad``."""
    if store.path.is_dir() and store.is_anndata_on_disk and not store.is_sharded:
        return ".zarr"
    return ".h5mu" if store.is_modality else ".h5ad"


def _problem(path: Path) -> str | None:
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        return None if f"uns/{OWN}/{RECORD}" in group else "is not a folder of cells that scstore annotated"
    except Exception as error:  # noqa: BLE001  # a folder of anything
        return f"is not a folder of cells that scstore annotated ({type(error).__name__})"


def write_annotated(store: Store, output: Path, annotation: Annotation, *, overwrite: bool) -> None:
    """Write all of an input with its labels: a copy of its file that is added to, in bounded memory.

    Cells of a store or of a 10x input are written as ``.h5ad``. The file appears whole.
    """
    if output.suffix == ".zarr":
        whole = settings.override(auto_shard_zarr_v3=False)
        with fsio.atomic_folder(output, overwrite=overwrite) as folder, whole:
            _copy_folder(store.path, folder)
            consolidated = zarr.open_group(folder, mode="r").metadata.consolidated_metadata is not None
            group = zarr.open_group(folder, mode="r+", use_consolidated=False)
            _add_to_group(group[store.group_name.strip("/")] if store.is_modality else group, annotation)
            if consolidated:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # no part of format 3 yet; the input has it as well
                    zarr.consolidate_metadata(folder)
        return
    with fsio.atomic_path(output, overwrite=overwrite) as partial:
        if store.is_modality or (store.path.is_file() and store.is_anndata_on_disk and not is_legacy(store.path)):
            shutil.copyfile(store.path, partial)
        else:
            write_h5ad(store, partial, rows=None if store.is_complete else np.flatnonzero(store.committed))
        with hdf5_output(partial, "r+") as file:
            file.attrs.setdefault(MADE_HERE, "annotated")
            _add_to_group(file[store.group_name], annotation)


def _copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a Zarr folder; a link or another kind of file in it is refused."""
    for folder, names, files in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(exist_ok=True)
        for name in (*names, *files):
            mode = os.lstat(Path(folder, name)).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise CellsError(f"{source}: {show(name)} in it is a link or no ordinary file. Copy the folder first.")
        for name in files:
            shutil.copyfile(Path(folder, name), here / name)


def _add_to_group(root: Any, annotation: Annotation) -> None:
    obs, obsm, uns = (_child(root, name) for name in ("obs", "obsm", "uns"))
    _child(uns, OWN)
    _add(obs, obsm, uns, annotation)
    kept = [str(name) for name in obs.attrs["column-order"] if name in obs and name not in annotation.obs]
    names = [*kept, *annotation.obs.columns]
    obs.attrs["column-order"] = np.array(names, dtype=object) if isinstance(obs, h5py.Group) else names


def _child(group: Any, name: str) -> Any:
    """Return a group of an AnnData, made where it is missing."""
    if name not in group:
        write_elem(group, name, {})
    return group[name]
