"""What an extraction would take, from a sample of the cells and the model's shape: no GPU, no weights, no torch."""

import math
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from scstore.cells.expression import lognorm_block
from scstore.cells.opening import open_cells
from scstore.extraction.auto_panel import kept_panel
from scstore.extraction.cell_input import CellInput, MatchedGenes, find_cells, find_genes
from scstore.extraction.options import AUTO_PANEL, Cells, ExtractOptions, Output, complete_options
from scstore.extraction.sequence_plan import fewest_genes, layers_to_read
from scstore.model.loading import DEFAULT_MODEL, FLOAT8, MINILM, SMOLLM2, ModelFiles
from scstore.model.shapes import GPUS, DeviceKind, Gpu, cell_flop, device_of, model_shape, pass_bytes, weight_bytes
from scstore.options import with_options
from scstore.progress import Reporter
from scstore.store.ledger import file_beside
from scstore.tokens.sequences import count_genes

RUNS, RUN_CELLS = 8, 256  # cells that are read: so many runs, spread evenly, of so many cells

# Estimated, as the embedded model's tokenizer splits human symbols (1.47) and English (3.8).
CHARACTERS_OF_A_SYMBOLS_TOKEN, CHARACTERS_OF_A_TOKEN = 1.5, 4

VALUE_BYTES = 2.5  # bytes of a value of ``X`` on disk: 2.2 to 2.5 on real cells

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2, FLOAT8: 1}  # bytes of a weight

JOB_HOURS, MOST_JOBS = 1.0, 1000  # hours of one job of the array, and the most jobs of one, as Slurm has it

DRIVER_BYTES = 1e9  # bytes that a GPU's driver takes


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(ExtractOptions):
    """Options of estimate."""

    gpu: Gpu = None


@dataclass(frozen=True)
class Estimate:
    """What an extraction would take; all but the number of cells, the views' size and the weights is estimated."""

    n_cells: int
    n_sampled: int  # cells that were read
    n_empty: int  # cells without a gene to read
    tokens: int  # over all cells, padding not counted
    flop: float  # floating-point operations of the forward pass over them
    store_bytes: int
    weight_bytes: int  # of the layers that are loaded
    memory_bytes: int  # with the smallest batch
    gpu: str
    fits: bool
    fitting: tuple[str, ...]  # GPUs that hold it
    gpu_hours: float
    rests_on: str  # the hours
    jobs: int
    sbatch: str  # the line of a job array

    def lines(self) -> list[str]:
        """The same for a person."""
        n_read = max(1, self.n_cells - self.n_empty)
        cells = f"cells: {self.n_cells:,}, about {self.n_empty:,} of them empty; estimated on {self.n_sampled:,}"
        store = f"store: about {self.store_bytes / 1e9:,.3g} GB"
        if not self.tokens:
            return [cells, store, "no model reads the cells: no GPU is needed"]
        others = f"it fits on {', '.join(self.fitting)}" if self.fitting else "spread=True takes several GPUs"
        fits = "fits" if self.fits else f"does not fit; {others}"
        hours = f"about {self.gpu_hours:,.3g} on one {self.gpu} ({60 * self.gpu_hours:,.3g} minutes)"
        return [
            cells,
            f"tokens: about {self.tokens:,}, {self.tokens / n_read:,.0f} a cell",
            f"arithmetic: about {self.flop:.3g} FLOP, {self.flop / n_read:.3g} a cell",
            store,
            f"memory: about {self.memory_bytes / 1e9:,.3g} GB, {self.weight_bytes / 1e9:,.3g} of them weights: {fits}",
            f"{'hours' if self.gpu == 'cpu' else 'GPU-hours'}: {hours}, loading and reading not counted",
            f"estimated: {self.gpu} at {self.rests_on}",
        ]


@with_options(EstimateOptions)
def estimate(cells: Cells, output: Output, options: EstimateOptions) -> Estimate:
    """Estimate what :func:`scstore.extract` would take with the same arguments; nothing is written to ``output``.

    Reads up to 2,048 cells, spread over the input, and the shape of the model; neither GPU nor weights need be there.

    Raises
    ------
    CellsError, GenesError, OptionError, FeatureSpaceError
        As extraction would, as far as it does not take the model to find out.
    ModelError
        If the model's shape is not known here.
    """
    progress = options.progress or Reporter()
    settings = complete_options(options)
    with tempfile.TemporaryDirectory() as scratch, open_cells(cells, id_prefix_from=settings.id_prefix_from) as opened:
        found = find_cells(cells, opened, settings, progress)
        if settings.panel == AUTO_PANEL:
            settings = replace(settings, panel=str(_likely_panel(found, Path(output), Path(scratch), settings)))
        genes = find_genes(found, Path(output), settings, progress)
        match, slot = genes.match, found.slot
        runs = (lognorm_block(opened, slot, *run, groups=match.groups) for run in sampled_runs(opened.n_cells))
        sample = csr_matrix(vstack([match.apply(rows) for rows in runs], format="csr"))
    usual: DeviceKind = "cpu" if settings.device == "cpu" or settings.model in (MINILM, SMOLLM2) else "h100"
    return _estimated(settings, options.gpu or usual, genes, sample, n_cells=opened.n_cells)


def sampled_runs(n_cells: int) -> list[tuple[int, int]]:
    """First cell and the cell after the last of each run that is read."""
    if n_cells <= RUNS * RUN_CELLS:
        return [(0, n_cells)]
    return [(int(start), int(start) + RUN_CELLS) for start in np.linspace(0, n_cells - RUN_CELLS, RUNS)]


def _likely_panel(found: CellInput, target: Path, scratch: Path, options: ExtractOptions) -> Path:
    """The panel that is kept beside the store, else one chosen on the sample."""
    if (kept := file_beside(target, ".panel.h5ad")).exists():
        return kept
    cells, name = found.cells, found.slot.slot
    runs = sampled_runs(cells.n_cells)
    rows = csr_matrix(vstack([cells.matrix(name).rows(*run) for run in runs], format="csr"))
    obs = cells.obs.iloc[np.concatenate([np.arange(*run) for run in runs])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that repeat
        sample = anndata.AnnData(rows, obs=obs[[]], var=found.var)
        plain = replace(options, slot=None, id_prefix_from=None)
        return kept_panel(sample, scratch / target.name, plain, cells, Reporter())


def _estimated(
    options: ExtractOptions, gpu: DeviceKind, genes: MatchedGenes, sample: csr_matrix, *, n_cells: int
) -> Estimate:
    encodes = genes.named is None and options.needs_vectors
    files = None
    if options.runs_model or encodes:
        files = model_shape(options.model or DEFAULT_MODEL, revision=options.revision)
    overhead = 2 + math.ceil(len(options.words) / CHARACTERS_OF_A_TOKEN) if options.poolings else 2
    a_gene = 1.0  # tokens
    if options.reads_symbols and options.poolings:
        a_gene += float(np.mean([len(symbol) for symbol in genes.symbols()])) / CHARACTERS_OF_A_SYMBOLS_TOKEN
    room = int((files.context - overhead) / a_gene) if files is not None and options.runs_model else None
    top = fewest_genes(options, room, genes.n_panel)
    lengths = count_genes(sample, top_genes=top, admitted=genes.admitted)
    scale = n_cells / max(1, len(lengths))
    read = np.ceil(a_gene * lengths[lengths > 0]).astype(np.int64)
    passes = [] if files is None else _passes(options, files, genes, lengths[lengths > 0], read + overhead)
    flop, weights, memory = 0.0, 0, 0.0
    if files is not None:
        flop = scale * sum(float(cell_flop(files.config, read, depth=depth).sum()) for read, depth in passes)
        # symbols are encoded by the whole model
        depth = files.n_layers if encodes else max(depth for _, depth in passes)
        itemsize = ITEMSIZE[options.dtype or ("float32" if gpu == "cpu" else "bfloat16")]
        weights = weight_bytes(files.config, depth=depth, itemsize=itemsize)
        longest = math.ceil(top * a_gene) + overhead
        batch = pass_bytes(files.config, -(-longest // 1024) * 1024, depth=depth, itemsize=itemsize)
        memory = weights + batch + len(genes.match.genes) * files.width * max(2, itemsize) + DRIVER_BYTES
    device = device_of(gpu, is_float8=options.dtype == FLOAT8)
    hours = flop / device.speed / 3600
    jobs = max(1, min(MOST_JOBS, n_cells, math.ceil(hours / JOB_HOURS)))
    expression = VALUE_BYTES * sample.nnz * scale if options.keep_expression else 0
    return Estimate(
        n_cells=n_cells,
        n_sampled=len(lengths),
        n_empty=round(int((lengths == 0).sum()) * scale),
        tokens=round(scale * sum(int(read.sum()) for read, _ in passes)),
        flop=flop,
        store_bytes=round(n_cells * _row_bytes(options, files, genes) + expression),
        weight_bytes=weights,
        memory_bytes=round(memory),
        gpu=gpu,
        fits=device.memory is None or memory <= device.memory,
        fitting=tuple(kind for kind, (_, size) in GPUS.items() if memory <= size * 1e9),
        gpu_hours=hours,
        rests_on=device.rests_on,
        jobs=jobs,
        sbatch=_sbatch(jobs, hours, weights, gpu),
    )


def _passes(
    options: ExtractOptions,
    files: ModelFiles,
    genes: MatchedGenes,
    lengths: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> list[tuple[NDArray[np.int64], int]]:
    """Positions of cells with so many genes, those of the readout given, and layers that read them, for each pass."""
    passes = []
    if options.poolings:
        passes.append((positions, max(layers_to_read(options, files))))
    if options.writes_sentences:
        tokens = np.mean([len(symbol) for symbol in genes.symbols()]) / CHARACTERS_OF_A_SYMBOLS_TOKEN
        written = np.minimum(files.context, np.ceil(2 + lengths * tokens)).astype(np.int64)
        passes.append((written, files.n_layers))
    return passes


def _row_bytes(options: ExtractOptions, files: ModelFiles | None, genes: MatchedGenes) -> int:
    """Bytes of a cell in all views."""
    model = 0 if files is None else files.width
    vectors = model if genes.named is None else genes.named.width
    layers = len(layers_to_read(options, files)) if files is not None and options.poolings else 0
    width = layers * len(options.poolings) * model
    width += sum(model if name == "genept_s" else vectors for name in options.companion_views)
    return width * np.dtype(options.store_dtype).itemsize


def _sbatch(jobs: int, hours: float, weights: int, gpu: str) -> str:
    """The line of a job array: twice the time, and half an hour to read the cells and load the model."""
    minutes = math.ceil(60 * (2 * hours / jobs + 0.5))
    memory = f"--mem={math.ceil(weights / 1e9) + 8}G"
    where = "--cpus-per-task=2" if gpu == "cpu" else "--gpus=1 --cpus-per-task=4"
    return f"#SBATCH --array=0-{jobs - 1} {where} {memory} --time={minutes // 60:02d}:{minutes % 60:02d}:00"
