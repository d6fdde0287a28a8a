"""What an extraction will do, settled and checked before any model is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from scstore.backbone.layout import INSTRUCTION, LAYOUTS, Layout, make_layout
from scstore.backbone.model import DEFAULT_MODEL, MINILM, ModelFiles, load_tokenizer, locate_model
from scstore.backbone.projector import PROJECTORS
from scstore.cells.expression import TARGET_SUM
from scstore.errors import FeatureSpaceError, OptionError
from scstore.spec import Space
from scstore.stores.layout import StorePlan, ViewSpec, default_shard_rows
from scstore.stores.reader import open_store
from scstore.tokens.batches import POOLINGS

__all__ = [
    "DEFAULT_TOP_GENES",
    "ExtractOptions",
    "check_default_model",
    "layout_space",
    "options_like",
    "settle_layout",
    "view_specs",
]

DEFAULT_TOP_GENES = 2048
RANKINGS = ("lognorm", "median")
SCALINGS = ("none", "multiply")
STORE_DTYPES = ("float16", "float32")
PRECISIONS = ("native", "float8")
SPACE_FIELDS = (
    "model", "revision", "genes", "panel", "top_genes", "ranking", "expression_scaling", "projector", "seed", "layout",
    "instruction", "readout_token", "layers", "pool", "precision",
)  # fmt: skip
"""Options that decide the feature space: what ``--like`` takes from another store."""

FILES = ("genes", "panel", "projector")
"""Options of the feature space that name files."""

PATHS = (*FILES, "orthologs")
"""All options that name files; a store's record has them relative to its folder."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Options of ``scstore extract``, under the names of the command line.

    Attributes
    ----------
    model
        ``minilm``, a folder in Hugging Face layout, or a hub name.
    revision
        Branch, tag or commit of a hub model.
    genes
        A gene table file; without one the symbols are encoded by the model and cached beside the store.
    panel
        A panel file, or ``None``: all genes may enter.
    top_genes
        The most expressed genes of a cell that enter; 2,048 or what the model's context holds.
    ranking
        ``lognorm``: by log-normalised expression; ``median``: divided by the panel's per-gene medians.
    expression_scaling
        ``multiply`` scales each gene's vector with its expression.
    projector
        ``aligned``, ``native`` or ``random``, or the path of a projector that ``scstore align`` trained.
    seed
        Of the projector.
    layout
        ``genes-first`` or ``instruction-first``.
    instruction
        Words behind (or before) the genes.
    readout_token
        A decoder's readout token; its end-of-sequence token by default.
    layers
        Layers to read; by default the last (of ``minilm``: the first and the last).
    pool
        Of ``last``, ``mean``, ``wmean``; by default ``wmean`` and ``last``.
    expression
        ``counts`` or ``lognorm``: what the input holds.
    slot
        ``X``, ``layers/NAME`` or ``raw``; looked for by default.
    allow_fractional
        Accept pseudo-counts that are no whole numbers.
    sum_duplicate_genes
        Add up the counts of genes of the same name.
    id_prefix_from
        A column of ``obs`` put before the cell ids, to make them unique.
    organism
        ``human`` or ``mouse``, for gene tables made from symbols or holding several organisms; guessed by default.
    orthologs
        A table of human and mouse orthologs, by which cells of the other species are read as cells of the gene
        table's (or panel's).
    min_match
        Smallest fraction of the input's genes that must be in the gene table.
    keep_expression
        Keep the log-normalised expression as the store's ``X``.
    store_dtype
        ``float16`` or ``float32``.
    shard_rows
        Rows of a shard; about 16 MB, at most 4,096, by default.
    device, dtype
        Where and in which precision the model runs.
    precision
        ``native``, or ``float8``: linear layers in float8 on GPUs that have it; another feature space.
    spread
        Spread the model's layers over all GPUs, for a model that does not fit one.
    tokens_per_batch
        Padded positions in a batch.
    """

    model: str | None = None
    revision: str | None = None
    genes: str | None = None
    panel: str | None = None
    top_genes: int | None = None
    ranking: str = "lognorm"
    expression_scaling: str = "none"
    projector: str = "aligned"
    seed: int = 0
    layout: str = "genes-first"
    instruction: str = INSTRUCTION
    readout_token: str | None = None
    layers: tuple[int, ...] | None = None
    pool: tuple[str, ...] = ("wmean", "last")
    expression: str = "counts"
    slot: str | None = None
    allow_fractional: bool = False
    sum_duplicate_genes: bool = False
    id_prefix_from: str | None = None
    organism: str | None = None
    orthologs: str | None = None
    min_match: float = 0.3
    keep_expression: bool = True
    store_dtype: str = "float16"
    shard_rows: int | None = None
    device: str | None = None
    dtype: str | None = None
    precision: str = "native"
    spread: bool = False
    tokens_per_batch: int | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("ranking", RANKINGS),
            ("expression_scaling", SCALINGS),
            ("layout", LAYOUTS),
            ("expression", ("counts", "lognorm")),
            ("store_dtype", STORE_DTYPES),
            ("precision", PRECISIONS),
        ):
            if (value := getattr(self, name)) not in known:
                msg = f"{_flag(name)} {value}: not one of {', '.join(known)}."
                raise OptionError(msg)
        if self.trained_projector is not None and not Path(self.trained_projector).exists():
            msg = f"--projector {self.projector}: not one of {', '.join(PROJECTORS)}, and no such projector is there."
            raise OptionError(msg)
        if not self.pool or not set(self.pool) <= set(POOLINGS) or len(set(self.pool)) < len(self.pool):
            msg = f"--pool {','.join(self.pool)}: name each of {', '.join(POOLINGS)} at most once."
            raise OptionError(msg)
        for name in ("top_genes", "shard_rows", "tokens_per_batch"):
            if (number := getattr(self, name)) is not None and number < 1:
                msg = f"{_flag(name)} {number}: must be at least 1."
                raise OptionError(msg)
        if self.ranking == "median" and self.panel is None:
            msg = "--ranking median needs --panel: the per-gene medians are fitted with the panel."
            raise OptionError(msg)

    @property
    def trained_projector(self) -> str | None:
        """Path of the trained projector, if the projector is one."""
        return None if self.projector in PROJECTORS else self.projector


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def options_like(reference: str | os.PathLike[str], options: ExtractOptions) -> ExtractOptions:
    """Take everything that decides the feature space from another store.

    Parameters
    ----------
    reference
        A store that ``scstore extract`` made.
    options
        The caller's; those that decide the feature space must be left at their defaults.

    Raises
    ------
    OptionError
        If one of them is not.
    FeatureSpaceError
        If the reference has no record, or its gene table, panel or projector has moved.
    """
    default = ExtractOptions()
    for name in SPACE_FIELDS:
        if getattr(options, name) != getattr(default, name):
            msg = f"{_flag(name)} cannot go with --like: the feature space is taken from {reference}."
            raise OptionError(msg)
    record = open_store(reference).record
    if record is None:
        msg = f"--like {reference}: scstore did not extract it, so there is no feature space to take."
        raise FeatureSpaceError(msg)
    taken: Mapping[str, Any] = record["options"]
    values: dict[str, Any] = {name: tuple(v) if isinstance(v := taken[name], list) else v for name in SPACE_FIELDS}
    folder = Path(reference).parent
    for name in FILES:
        if _is_file(name, values[name]):
            values[name] = os.path.normpath(folder / values[name])
            if not Path(values[name]).exists():
                msg = f"--like {reference}: its {name} file {values[name]} is not there. Put it back beside the store."
                raise FeatureSpaceError(msg)
    return replace(options, **values)


def check_default_model() -> None:
    """Refuse to run the default model, 13 billion parameters, where there is no GPU.

    Raises
    ------
    OptionError
        With what it would take and what can be used instead.
    """
    import importlib.util

    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return
    msg = (
        f"No GPU here, and no --model was named: the default, {DEFAULT_MODEL}, has 13 billion parameters. It takes a "
        "GPU "
        f"with 32 GB or more, and 26 GB of weights. On this machine use the embedded model: --model {MINILM} (or name "
        "a "
        f"model: --model {DEFAULT_MODEL} --device cpu runs it here, at minutes a cell)."
    )
    raise OptionError(msg)


@dataclass(frozen=True)
class SettledLayout:
    """What depends on the model alone.

    Attributes
    ----------
    files
        The model, not loaded.
    layout
        Tokens around the genes.
    top_genes
        Genes a cell may have.
    top_genes_because
        What set that number, in words.
    layers
        Layers to read.
    """

    files: ModelFiles
    layout: Layout
    top_genes: int
    top_genes_because: str
    layers: tuple[int, ...]


def settle_layout(options: ExtractOptions, *, n_panel: int | None) -> SettledLayout:
    """Choose what the options leave open and check it against the model.

    Raises
    ------
    OptionError
        If the genes and instruction do not fit the model's context, or a layer is not there.
    """
    if options.model is None:
        check_default_model()
    files = locate_model(options.model or DEFAULT_MODEL, revision=options.revision)
    layout = make_layout(
        files,
        load_tokenizer(files),
        order=options.layout,
        instruction=options.instruction,
        readout_token=options.readout_token,
    )
    room = files.context - layout.frame.overhead
    if room < 1:
        msg = f"--instruction: it fills the {files.context} positions of {files.name}. Shorten it."
        raise OptionError(msg)
    if options.top_genes is not None and options.top_genes > room:
        msg = (
            f"--top-genes {options.top_genes}: {files.name} has {files.context} positions and the instruction takes "
            f"{layout.frame.overhead}. At most {room} genes fit."
        )
        raise OptionError(msg)
    limits = [(options.top_genes, "--top-genes")] if options.top_genes else [(DEFAULT_TOP_GENES, "the default")]
    limits.append((room, "what the model's context holds"))
    if n_panel is not None:
        limits.append((n_panel, "the panel"))
    top_genes, because = min(limits, key=lambda limit: limit[0])
    layers = options.layers or ((1, files.n_layers) if files.name == MINILM else (files.n_layers,))
    if len(set(layers)) < len(layers) or not all(1 <= layer <= files.n_layers for layer in layers):
        msg = f"--layers {','.join(map(str, layers))}: {files.name} has layers 1 to {files.n_layers}; name each once."
        raise OptionError(msg)
    return SettledLayout(files, layout, top_genes, because, layers)


def layout_space(options: ExtractOptions, settled: SettledLayout) -> dict[str, Any]:
    """What stands around the genes, as a feature space names it."""
    return {
        "order": options.layout,
        "instruction": options.instruction,
        "prefix": list(settled.layout.prefix),
        "suffix": list(settled.layout.suffix),
    }


def view_specs(
    options: ExtractOptions,
    settled: SettledLayout,
    *,
    genes_digest: str,
    genes_width: int,
    panel_digest: str | None,
    projector_digest: str | None,
) -> tuple[ViewSpec, ...]:
    """The views of a store with the feature space of each, the default view first."""
    tokens: Space = {
        "genes": {"digest": genes_digest},
        "panel": {"digest": panel_digest},
        "ranking": {"by": options.ranking, "top_genes": settled.top_genes},
        "expression": {"target_sum": TARGET_SUM, "log1p": True},
    }
    frozen: Space = {
        **tokens,
        "model": {"digest": settled.files.digest},
        "layout": layout_space(options, settled),
        "projector": {"kind": options.projector, "seed": options.seed}
        if projector_digest is None
        else {"kind": "trained", "digest": projector_digest},
        "expression_scaling": options.expression_scaling,
        # rounding to float8 moves features by far more than a batch or a device does
        **({"precision": "float8"} if options.precision == "float8" else {}),
    }
    specs = [
        ViewSpec(
            f"readout_{pool}_l{layer}",
            settled.files.width,
            options.store_dtype,
            {**frozen, "view": "readout", "layer": layer, "pooling": pool},
        )
        for layer in settled.layers
        for pool in options.pool
    ]
    genept = {"view": "genept", **tokens, "vectors": "whitened"}
    control = {"view": "genept", **tokens, "vectors": "random"}
    specs.append(ViewSpec("genept", genes_width, options.store_dtype, genept))
    specs.append(ViewSpec("genept_random", genes_width, options.store_dtype, control))
    return tuple(specs)


def store_plan(options: ExtractOptions, views: tuple[ViewSpec, ...], *, n_obs: int) -> StorePlan:
    """The fixed shape of the store."""
    default = default_shard_rows(n_obs, [(view.width, view.dtype) for view in views])
    return StorePlan(n_obs, min(options.shard_rows or default, n_obs), views)


def options_record(options: ExtractOptions, folder: Path) -> dict[str, Any]:
    """The options as JSON, files relative to the store's folder so that both can be moved together."""
    values: dict[str, Any] = {}
    for option in fields(options):
        if option.name == "device":  # whichever process shapes the store, its record is the same
            continue
        value = getattr(options, option.name)
        if _is_file(option.name, value):
            value = Path(os.path.relpath(value, folder)).as_posix()
        values[option.name] = list(value) if isinstance(value, tuple) else value
    return values


def _is_file(name: str, value: Any) -> bool:
    """Whether an option's value is a path."""
    return name in PATHS and value is not None and not (name == "projector" and value in PROJECTORS)
