"""The cells that are read, and which of their genes may enter: those of a gene table and a panel."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.expression import ExpressionSlot, find_expression
from scstore.cells.gene_names import ENSEMBL_ID
from scstore.cells.opening import CellFile, CellSource
from scstore.errors import CellsError, FeatureSpaceError, OptionError
from scstore.extraction.auto_panel import kept_panel
from scstore.extraction.options import AUTO_PANEL, CONTROL_SEED, SequenceOptions
from scstore.genes.matching import OTHER_TABLE, GeneMatch, common_name, describe_genes, match_genes, organisms_of
from scstore.genes.orthologs import Translation, describe_translated, match_translated, needed_translation
from scstore.genes.published import TAXA
from scstore.genes.table import DescribedGenes, GeneTable, describe_by_symbol, load_gene_table, unique_names
from scstore.panels.panel import Panel, load_panel
from scstore.progress import Reporter
from scstore.sealed import canonical_json
from scstore.tokens.sequences import renamed

LIKE_CURE = (
    "The reference's table has the genes of its own cells: extract both with one table that has the genes of either "
    "(genes=, without like=)"
)


@dataclass(frozen=True)
class CellInput:
    """Cells as given and opened, the slot of their expression, and size and time of their files, if they are files."""

    source: CellSource
    cells: CellFile
    slot: ExpressionSlot
    stamp: tuple[int, int] | None

    @property
    def var(self) -> pd.DataFrame:
        return self.cells.var(self.slot.slot)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files, or over ids, genes and values in memory."""
        if not isinstance(self.source, anndata.AnnData):
            return fsio.digest_tree(self.source)
        names = "\0".join([*map(str, self.cells.obs.index), *map(str, self.var.index)])
        digest = hashlib.sha256(names.encode())
        matrix = self.cells.slots[self.slot.slot]
        for start in range(0, matrix.shape[0], 4096):
            rows = matrix.rows(start, min(start + 4096, matrix.shape[0]))
            for array in (rows.indptr, rows.indices, rows.data):
                digest.update(np.ascontiguousarray(array).data)
        return "sha256:" + digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise CellsError if the files changed since they were opened."""
        if self.stamp is not None and _stamp(Path(self.cells.source)) != self.stamp:
            raise CellsError(f"{self.cells.source} changed while it was read. Run again once nobody writes to it.")


def find_cells(source: CellSource, cells: CellFile, options: SequenceOptions, progress: Reporter) -> CellInput:
    """Find the slot that holds the expression."""
    slot = find_expression(
        cells, expression=options.expression, slot=options.slot, allow_fractional=options.allow_fractional
    )
    stamp = None if isinstance(source, anndata.AnnData) else _stamp(Path(source))
    found = CellInput(source, cells, slot, stamp)
    slot.report(cells.source, cells, progress)
    return found


def _stamp(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), max(file.stat().st_mtime_ns for file in files)


@dataclass(frozen=True)
class MatchedGenes:
    """The cells' genes in the rows of a gene table, and those of them that may enter."""

    described: DescribedGenes
    match: GeneMatch
    panel: Panel | None
    panel_file: str | None
    enter: NDArray[np.bool_] | None  # (n_described,): the genes that may enter a sequence; all if None
    translation: Translation | None
    named: GeneTable | None

    @property
    def admitted(self) -> NDArray[np.bool_] | None:
        """``(n_matched,)``: which of the matched genes may enter; all if ``None``."""
        return None if self.enter is None else self.enter[self.match.genes]

    @property
    def digest(self) -> str:
        """SHA-256 of the symbols of all genes that may enter, in the order of the table."""
        symbols = self.described.obs["symbol"].astype(str)
        return fsio.digest_bytes(
            canonical_json((symbols if self.enter is None else symbols[self.enter]).tolist()).encode()
        )

    def symbols(self, *, rename: bool = False) -> list[str]:
        """``(n_matched,)`` symbols of the matched genes; to ``rename`` deals those anew that may enter."""
        symbols = self.described.obs["symbol"].astype(str).to_numpy(dtype=object, copy=True)
        if rename:
            enter = slice(None) if self.enter is None else self.enter
            symbols[enter] = renamed(symbols[enter].tolist(), seed=CONTROL_SEED)
        return [str(symbol) for symbol in symbols[self.match.genes]]

    @property
    def n_panel(self) -> int | None:
        return None if self.panel is None else len(self.panel)


def find_genes(source: CellInput, target: Path, options: SequenceOptions, progress: Reporter) -> MatchedGenes:
    """Match the cells' genes with the gene table, or describe them by their symbols; no model is looked for."""
    named = load_gene_table(options.genes) if options.genes else None
    if options.organism:
        known = sorted({*TAXA, *([] if named is None else organisms_of(named.obs))})
        if common_name(options.organism) not in known:
            raise OptionError(f"organism={options.organism!r}: give one of {', '.join(known)}.")
    panel_file = options.panel_file
    if options.panel == AUTO_PANEL:
        panel_file = str(kept_panel(source.source, target, options, source.cells, progress))
    panel = load_panel(panel_file) if panel_file else None
    translation = None
    if options.orthologs is not None:
        translation = needed_translation(
            options.orthologs,
            source.var,
            organism=options.organism,
            table=None if named is None else named.obs,
            panel=None if panel is None else panel.obs,
            source=source.cells.source,
            progress=progress,
        )
    if named is None:
        described = (
            describe_genes(source.var, organism=options.organism, source=source.cells.source)
            if translation is None
            else describe_translated(source.var, translation)
        )
        described = described if panel is None else _with_panel(described, panel, first=options.reads_symbols)
        if n := int(described.obs["symbol"].str.fullmatch(ENSEMBL_ID.pattern).sum()):
            progress.note(
                f"{n:,} genes have no symbol and are called by their id, which tells a language model nothing"
            )
    else:
        described = DescribedGenes(named.obs, named.template)
    match_cells = match_genes if translation is None else partial(match_translated, translation=translation)
    match = match_cells(
        source.var,
        described.obs,
        min_match=options.min_match,
        sum_duplicates=options.sum_duplicate_genes,
        source=source.cells.source,
        cure=LIKE_CURE if getattr(options, "like", None) else OTHER_TABLE,
    )
    enter = named.encoded if named is not None and options.needs_vectors and not named.encoded.all() else None
    if panel is not None:
        enter = _of_panel(panel, str(panel_file), described.obs, enter, match, progress)
    progress.note(match.report)
    if panel is None:
        progress.note(
            "genes that may enter: all. A panel makes sequences 10 to 30 times shorter and did better in every test."
        )
    return MatchedGenes(described, match, panel, panel_file, enter, translation, named)


def _with_panel(described: DescribedGenes, panel: Panel, *, first: bool) -> DescribedGenes:
    """The cells' genes, and behind them the panel's that they lack: cells like these may have measured them.

    Or ``first`` all of the panel's, by its own symbols and in its order, so that these are the same for all cells.
    """
    here = match_genes(panel.obs, described.obs, min_match=0.0, source="the panel").table_rows
    taken = (panel.obs["symbol"] != "").to_numpy() & (first | (here < 0))
    theirs = panel.obs[taken]
    own = describe_by_symbol(
        theirs["symbol"], ensembl_ids=theirs["ensembl_id"], organism=str(described.obs["organism"].iloc[0])
    )
    others = described.obs.drop(described.obs.index[here[taken & (here >= 0)]])
    obs = pd.concat([own.obs, others] if first else [others, own.obs])
    return described._replace(obs=obs.set_axis(unique_names(obs["symbol"])))


def _of_panel(
    panel: Panel,
    path: str,
    obs: pd.DataFrame,
    encoded: NDArray[np.bool_] | None,
    match: GeneMatch,
    progress: Reporter,
) -> NDArray[np.bool_]:
    """Return which genes of the table are in the panel, and have a vector if others have none."""
    enter = np.zeros(len(obs), dtype=bool)
    enter[match_genes(panel.obs, obs, min_match=0.0, source="the panel").genes] = True
    measured = f"{int(enter[match.genes].sum()):,} of its {len(panel):,} are measured here"
    if encoded is not None:
        enter &= encoded
        measured += f", {int(enter[match.genes].sum()):,} of these have a vector"
    progress.note(f"genes that may enter: the panel's, {measured}")
    if not enter[match.genes].any():
        msg = f"{path}: none of the panel's genes is among the cells' genes. Fit a panel on such cells."
        raise FeatureSpaceError(msg)
    return enter
