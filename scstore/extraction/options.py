"""Options of extraction, each said once, and how a preset or another store completes them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias, TypeVar, get_args

from scstore.cells.opening import (
    AllowFractional,
    CellSource,
    Expression,
    IdPrefixFrom,
    Slot,
    SumDuplicateGenes,
)  # fmt: skip
from scstore.errors import FeatureSpaceError, OptionError
from scstore.extraction.presets import PRESETS
from scstore.genes.table import load_gene_table
from scstore.model.loading import FLOAT8
from scstore.model.projector import PROJECTORS, load_projector
from scstore.model.prompt import INSTRUCTION, SYMBOLS_INSTRUCTION
from scstore.options import Option, Overwrite, Progress, did_you_mean
from scstore.panels.panel import load_panel
from scstore.remote import there
from scstore.store.ledger import FILES
from scstore.store.mirror import local
from scstore.store.reader import Store, open_store
from scstore.untrusted.guards import FOLDERS, what_is

AUTO_PANEL, ALL_GENES = "auto", "all"

RANDOM_GENES, RENAMED, RANDOM_LLM, SHUFFLED_ORDER = "random-genes", "renamed", "random-llm", "shuffled-order"
# What each control makes meaningless.
CONTROLS = {
    RANDOM_GENES: "every gene has a random vector in place of its own",
    RENAMED: "every gene has the symbol of another one in place of its own",
    RANDOM_LLM: "the model has random weights in place of those it learnt",
    SHUFFLED_ORDER: "every cell has its genes in one random order in place of expression's",
}

# Controls have a seed of their own: ``seed`` is the projector's and stays the same for a comparison.
CONTROL_SEED = 0

DEFAULT_POOL = ("wmean", "last")
DEFAULT_COMPANIONS = ("genept", "genept_random")
GENEPT_W, GENEPT_S = "genept_w", "genept_s"

# Options that decide the feature space: what ``like`` takes from another store.
SPACE = (
    "model", "revision", "input", "genes", "panel", "top_genes", "expression_scaling", "projector", "seed",
    "instruction", "readout_token", "layers", "pool", "companions",
)  # fmt: skip

# Options without effect on symbols, and when ``pool`` is empty.
VECTORS_ONLY = ("projector", "seed", "expression_scaling")
READOUT_ONLY = (*VECTORS_ONLY, "input", "instruction", "readout_token", "layers", "spread")

# What a store's record has the digests of, beside the model.
LOADERS: dict[str, Callable[[str], Any]] = {
    "genes": load_gene_table, "panel": load_panel, "projector": load_projector,
}  # fmt: skip

# Options of a single call: whichever process creates the store, its record is the same.
NOT_RECORDED = ("device", "like", "overwrite", "progress", "shard")

StrPath: TypeAlias = str | os.PathLike[str]


class Head(Protocol):
    """A fitted head; heads themselves are imported where one is given."""

    record_: dict[str, Any]
    files_: dict[str, Path]


Like: TypeAlias = str | os.PathLike[str] | Store | Head
Cells = Annotated[
    CellSource, Option("An .h5ad, AnnData Zarr, 10x .h5 or 10x mtx folder; or an AnnData.", argument=True)
]
Output = Annotated[StrPath, Option("The store: a folder, or s3://bucket/ref.zarr.", flags=("--output", "-o"))]
Pooling = Literal["last", "mean", "wmean"]
Companion = Literal["genept", "genept_random", "genept_w", "genept_s"]


Options = TypeVar("Options", bound="SequenceOptions")


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Options of extract and align; ``None`` is «not given», so that a preset, a recipe or another store may choose."""

    model: Annotated[
        str | None,
        Option("minilm, smollm2, a Hugging Face folder, a .gguf file, or a hub name. By default Llama-2-13b."),
    ] = None
    revision: Annotated[str | None, Option("Branch, tag or commit of a hub model.", advanced=True)] = None
    genes: Annotated[StrPath | None, Option("Gene table. By default the symbols, encoded by the model.")] = None
    panel: Annotated[
        StrPath | None, Option("Genes that may enter: a panel file; auto: 200, chosen here without labels; or all.")
    ] = None
    top_genes: Annotated[
        int | None,
        Option("Most expressed genes of a cell. By default 2048, or what the model holds.", minimum=1, advanced=True),
    ] = None
    layers: Annotated[
        Sequence[int] | None,
        Option("Layers to read; -1, the default, is the last (minilm: 1,6; smollm2: 4,8).", advanced=True),
    ] = None
    pool: Annotated[
        Sequence[Pooling] | None,
        Option(
            "Readouts: last, mean, wmean (weighted by expression); or none. By default wmean,last.",
            advanced=True,
        ),
    ] = None
    expression_scaling: Annotated[
        Literal["none", "multiply"] | None, Option("multiply: scale gene vectors by expression.", advanced=True)
    ] = None
    seed: Annotated[int, Option("Seed of the projector and of the cells held out.", minimum=0, advanced=True)] = 0
    instruction: Annotated[
        str | None, Option("Words behind the genes. By default the papers', or «The cell type is».", advanced=True)
    ] = None
    readout_token: Annotated[
        str | None,
        Option("A decoder's readout token. By default that of the end, or the instruction's last.", advanced=True),
    ] = None
    expression: Expression = "counts"
    slot: Slot = None
    allow_fractional: AllowFractional = False
    sum_duplicate_genes: SumDuplicateGenes = False
    id_prefix_from: IdPrefixFrom = None
    organism: Annotated[
        str | None, Option("human or mouse. By default guessed from the cells' symbols.", advanced=True)
    ] = None
    orthologs: Annotated[
        StrPath | None, Option("Orthologs of human and mouse: read mouse cells as human ones, or back.", advanced=True)
    ] = None
    min_match: Annotated[
        float,
        Option("Smallest fraction of the cells' genes that is in the gene table.", minimum=0, maximum=1, advanced=True),
    ] = 0.3
    device: Annotated[str | None, Option("cuda, cpu or mps. By default the GPU where there is one.", advanced=True)] = (
        None
    )
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "float8"] | None,
        Option("Precision of the model. By default bfloat16 on a GPU, float32 on the CPU.", advanced=True),
    ] = None
    spread: Annotated[bool, Option("Spread the model's layers over all GPUs.", advanced=True)] = False
    tokens_per_batch: Annotated[
        int | None, Option("Padded positions of a batch. By default what the device holds.", minimum=1, advanced=True)
    ] = None
    overwrite: Overwrite = False
    progress: Progress = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, field.name, os.fspath(value))
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        _check_words("pool", self.pool, get_args(Pooling))
        if self.panel == AUTO_PANEL and self.orthologs is not None:
            raise OptionError("panel='auto' cannot go with orthologs=. Name a panel file.")

    def as_begun(self: Options, run: Mapping[str, Any]) -> Options:
        """These options with the precision and batches that a run was begun with, unless others are given."""
        return replace(
            self,
            dtype=self.dtype or run["dtype"],
            tokens_per_batch=self.tokens_per_batch or run["tokens_per_batch"],
        )

    @property
    def poolings(self) -> tuple[str, ...]:
        return DEFAULT_POOL if self.pool is None else tuple(self.pool)

    @property
    def multiplies(self) -> bool:
        """Whether gene vectors are scaled with expression."""
        return self.expression_scaling == "multiply"

    @property
    def reads_symbols(self) -> bool:
        """Whether genes enter as their symbols, and not as vectors."""
        return False

    @property
    def words(self) -> str:
        """The instruction."""
        usual = SYMBOLS_INSTRUCTION if self.reads_symbols else INSTRUCTION
        return usual if self.instruction is None else self.instruction

    @property
    def companion_views(self) -> tuple[str, ...]:
        """Views without a readout."""
        return ()

    @property
    def writes_sentences(self) -> bool:
        """Whether a view is made from sentences of gene symbols."""
        return GENEPT_S in self.companion_views

    @property
    def runs_model(self) -> bool:
        """Whether a model reads the cells."""
        return bool(self.poolings) or self.writes_sentences

    @property
    def needs_vectors(self) -> bool:
        """Whether a view is made from the genes' vectors."""
        return bool({*self.companion_views} - {GENEPT_S}) or (bool(self.poolings) and not self.reads_symbols)

    @property
    def panel_file(self) -> str | None:
        """Path of the panel; ``None`` where all genes may enter."""
        return None if self.panel in (None, ALL_GENES) else str(self.panel)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(SequenceOptions):
    """Options of extract."""

    preset: Annotated[
        Literal["default", "scinterpreter", "screader", "genept-w", "genept-s"] | None,
        Option("A published recipe, or the best choice without labels (default). Other options given here win."),
    ] = None
    like: Annotated[Like | None, Option("Take the whole feature space of another store, or of a head.")] = None
    input: Annotated[
        Literal["vectors", "symbols"],
        Option("How genes enter the model: as projected vectors (the papers'), or as tokens.", advanced=True),
    ] = "vectors"
    control: Annotated[
        Literal["random-genes", "renamed", "random-llm", "shuffled-order"] | None,
        Option(
            "Make one thing meaningless, for a comparison: gene vectors, symbols, weights, or order of genes.",
            advanced=True,
        ),
    ] = None
    companions: Annotated[
        Sequence[Companion] | None,
        Option(
            "Views without a readout, or none. By default genept,genept_random; of symbols only with genes=.",
            advanced=True,
        ),
    ] = None
    projector: Annotated[
        StrPath,
        Option("From gene vectors into the model: aligned, native, random, or what align trained.", advanced=True),
    ] = "aligned"
    keep_expression: Annotated[
        bool,
        Option("Keep the expression as the store's X.", flags=("--keep-expression/--no-expression",), advanced=True),
    ] = True
    store_dtype: Annotated[Literal["float16", "float32"], Option("Precision of the views.", advanced=True)] = "float16"
    shard_rows: Annotated[
        int | None, Option("Cells of a shard. By default about 16 MB, at most 4096.", minimum=1, advanced=True)
    ] = None
    shard: Annotated[str | None, Option("i/n: extract part i (from 0) of n, as one job of an array.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_words("companions", self.companions, get_args(Companion))
        if self.trained_projector is not None and not Path(self.trained_projector).exists():
            suggestion = did_you_mean(self.trained_projector, PROJECTORS, form="projector='{}'")
            raise OptionError(f"projector={str(self.projector)!r}: no such folder.{suggestion}")
        if self.reads_symbols and self.preset not in (None, "default"):
            raise OptionError(f"preset={self.preset!r} reads gene vectors: it cannot go with input='symbols'.")
        if self.dtype == FLOAT8 and self.spread:
            raise OptionError(f"dtype={FLOAT8!r} cannot go with spread=True: it takes half the memory, on one device.")
        self._check_control()
        self._check_idle()

    def _check_control(self) -> None:
        """Refuse a control that has nothing to act on, or would not be one."""
        if self.control == RANDOM_GENES and self.reads_symbols:
            raise OptionError("control='random-genes' is for gene vectors. With input='symbols' it is 'renamed'.")
        if self.control == RANDOM_GENES and self.trained_projector is not None:
            raise OptionError(
                f"control='random-genes' cannot go with projector={self.projector!r}, which was trained for other gene "
                "vectors. Build a table with encoder='random:WIDTH', train a projector for it, and extract with both."
            )
        if self.control == RANDOM_GENES and not self.poolings and GENEPT_W not in self.companion_views:
            raise OptionError("control='random-genes': no view has gene vectors. Name a pooling, or genept_w.")
        if self.control in (RANDOM_LLM, SHUFFLED_ORDER) and not self.runs_model:
            raise OptionError(f"control={self.control!r}: no model reads the cells. Name a pooling, or genept_s.")
        if self.control == RANDOM_LLM and self.spread:
            raise OptionError("control='random-llm' cannot go with spread=True: its weights are drawn on one device.")

    def _check_idle(self) -> None:
        """Refuse options without effect: those of readouts without one, those of gene vectors with symbols."""
        if not self.poolings and not self.companion_views:
            raise OptionError("pool=() and companions=(): no view is left to extract. Name one.")
        why, names = "with input='symbols'", [*VECTORS_ONLY] if self.reads_symbols else []
        if not self.poolings:
            names = [*READOUT_ONLY, *(["top_genes"] if self.companion_views == (GENEPT_W,) else [])]
            why = f"without a readout: the store has {', '.join(self.companion_views)}"
        usual = {field.name: (field.default,) for field in fields(self)} | {"expression_scaling": (None, "none")}
        if idle := next((name for name in names if getattr(self, name) not in usual[name]), None):
            raise OptionError(f"{idle}={getattr(self, idle)!r} has no effect {why}.")

    @property
    def reads_symbols(self) -> bool:
        return self.input == "symbols"

    @property
    def companion_views(self) -> tuple[str, ...]:
        """The companions that the store gets: with random gene vectors, only what these change."""
        usual = () if self.reads_symbols and self.genes is None else DEFAULT_COMPANIONS
        names = usual if self.companions is None else tuple(self.companions)
        return tuple(name for name in names if name == GENEPT_W) if self.control == RANDOM_GENES else names

    @property
    def trained_projector(self) -> str | None:
        """Path of the trained projector, if the projector is one."""
        return None if self.projector in PROJECTORS else str(self.projector)


def _check_words(name: str, words: Sequence[str] | None, known: tuple[str, ...]) -> None:
    if words is not None and (not set(words) <= set(known) or len(set(words)) < len(words)):
        wrong = next((word for word in words if word not in known), "")
        msg = f"{name}={list(words)}: name each of {', '.join(known)} at most once.{did_you_mean(wrong, known)}"
        raise OptionError(msg)


def complete_options(options: ExtractOptions) -> ExtractOptions:
    """Fill in what was not given, from the preset or from the store that the cells are to be like."""
    if options.like is not None:
        options = _options_like(options.like, options)
    elif options.preset is not None:
        chosen = PRESETS[options.preset].options
        options = replace(options, **{name: chosen[name] for name in chosen if getattr(options, name) is None})
    if options.control == RENAMED and not (options.reads_symbols and options.poolings):
        raise OptionError("control='renamed': no readout has symbols to rename. Give input='symbols'.")
    return options


def _options_like(reference: Like, options: ExtractOptions) -> ExtractOptions:
    default = ExtractOptions()
    for name in ("preset", *SPACE):
        if (value := getattr(options, name)) != getattr(default, name):
            raise OptionError(f"{name}={value!r} cannot go with like=: the feature space is taken from {reference}.")
    record, folder = reference_record(reference)
    taken: Mapping[str, Any] = record["options"]
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in taken.items() if name in SPACE
    }
    values["control"] = taken["control"] or options.control
    if FLOAT8 in (options.dtype, taken["dtype"]):
        if options.dtype not in (None, taken["dtype"]):
            raise OptionError(f"dtype={options.dtype!r} cannot go with like=: {reference} is in {taken['dtype']}.")
        values["dtype"] = taken["dtype"]
    if options.control not in (None, values["control"]):
        raise OptionError(f"control={options.control!r}: {reference} is a control itself.")
    for name in FILES:
        if _is_file(name, values.get(name)):
            values[name] = str(there(folder / values[name]))
            if not Path(values[name]).exists():
                raise FeatureSpaceError(f"{reference}: its {name} file {values[name]} is missing. Put it back.")
    for name, load in LOADERS.items():
        recorded = record[name] or {}
        if values.get(name) and recorded and load(values[name]).digest != recorded["digest"]:
            raise FeatureSpaceError(
                f"like={str(reference)!r}: {values[name]} was replaced since: it is not what {reference} was made with "
                f"({name}). Put that one back, or extract the reference again."
            )
    return replace(options, **values)


def reference_record(reference: Like) -> tuple[Mapping[str, Any], Path]:
    """Return the record of the run that a store, or the cells of a head, were extracted by, and its files' folder."""
    head: Any = None
    reference = local(reference)
    if not isinstance(reference, str | os.PathLike | Store):
        head = reference
    elif not isinstance(reference, Store) and what_is(reference) == FOLDERS["head.json"]:
        from scstore.heads.artifact import load_head

        head = load_head(reference)
    if head is not None:
        record: Any = head.record_.get("extraction")
        if record is None:
            raise FeatureSpaceError(
                f"like={_name(reference)!r}: it reads expression alone: nothing is to be extracted."
            )
        files = {name: str(path.absolute()) for name, path in head.files_.items()}
        return {**record, "options": {**record["options"], **files}}, Path()
    store = open_store(reference)
    if store.record is None:
        raise FeatureSpaceError(f"like={_name(reference)!r}: scstore did not extract it.")
    return store.record, store.path.parent


def _name(reference: Like) -> str:
    return str(getattr(reference, "path", reference if isinstance(reference, str | os.PathLike) else "the head"))


def options_record(options: ExtractOptions, folder: Path) -> dict[str, Any]:
    """The options as JSON, files relative to the store's folder so that both can be moved together."""
    values: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(options)}
    values |= {"pool": options.poolings, "panel": options.panel_file}
    for name in FILES:
        if _is_file(name, values[name]):
            values[name] = Path(os.path.relpath(values[name], folder)).as_posix()
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name not in NOT_RECORDED
    }


def _is_file(name: str, value: Any) -> bool:
    return value is not None and not (name == "projector" and value in PROJECTORS)
