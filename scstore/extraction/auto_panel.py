"""The label-free panel of ``panel='auto'``: fitted on the cells once, kept beside their store, reused afterwards."""

import os
from pathlib import Path

import anndata

from scstore.cells.opening import CellFile
from scstore.errors import FeatureSpaceError, GenesError, OutputError
from scstore.extraction.options import SequenceOptions
from scstore.panels.panel import DEFAULT_N_GENES, load_panel, panel
from scstore.progress import Reporter
from scstore.store.ledger import file_beside, ids_digest
from scstore.store.reader import Store

# Options of extraction that decide how a panel reads its cells.
READ_WITH = ("expression", "slot", "allow_fractional", "sum_duplicate_genes", "id_prefix_from")


def kept_panel(
    source: str | os.PathLike[str] | anndata.AnnData,
    target: Path,
    options: SequenceOptions,
    cells: CellFile,
    progress: Reporter,
) -> Path:
    """Return the panel kept beside a store to be made; fit it on the cells (``source``, opened) if there is none."""
    file = file_beside(target, ".panel.h5ad")
    if file.exists():
        found = load_panel(file)
        own = found.record.get("input", {})
        made = (found.record.get("label_free"), found.record.get("n_genes"), own.get("name"), own.get("ids"))
        ids = ids_digest([str(name) for name in cells.obs.index])
        if made != (True, DEFAULT_N_GENES, Path(cells.source).name, ids):
            raise OutputError(
                f"{file}: panel='auto' keeps its panel there, and this one was fitted otherwise than on "
                f"{cells.source}. Move or delete it, or use it: panel={str(file)!r}."
            )
        progress.note(f"panel: {file} ({len(found)} genes chosen without labels, fitted before)")
        return file
    try:
        how = {name: getattr(options, name) for name in READ_WITH}
        panel(source, file, label_free=True, n_genes=DEFAULT_N_GENES, progress=progress, **how)
    except GenesError as error:
        raise GenesError(f"panel='auto' takes {DEFAULT_N_GENES} genes: {error} Or give panel='all'.") from error
    progress.note(f"panel: {DEFAULT_N_GENES} genes chosen on these cells without labels, kept in {file}")
    return file


def panel_of_store(store: Store) -> Path:
    """Return the panel that ``panel='auto'`` kept when a store was made; it is never fitted again."""
    file = file_beside(store.path, ".panel.h5ad")
    recorded = (store.record or {}).get("options", {}).get("panel")
    if recorded != file.name:
        raise FeatureSpaceError(
            f"{store.path} is a store of another run: its panel is {recorded or 'none'}, not one of panel='auto'. Give "
            "the options it was made with, choose another output, or pass overwrite=True."
        )
    if not file.exists():
        raise FeatureSpaceError(f"{store.path}: its panel {file} is missing. Put it back, or pass overwrite=True.")
    return file
