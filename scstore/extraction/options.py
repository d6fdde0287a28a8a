"""Options of an extraction, checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from scstore.errors import FeatureSpaceError, OptionError
from scstore.extraction.presets import check_preset
from scstore.model.projector import PROJECTORS
from scstore.model.sequence_frame import INSTRUCTION
from scstore.store.reader import open_store
from scstore.tokens.batches import POOLINGS
from scstore.tokens.genept import COMPANIONS

__all__ = [
    "AUTO_PANEL",
    "CONTROLS",
    "CONTROL_SEED",
    "RANDOM_GENES",
    "RANDOM_LLM",
    "SHUFFLED_ORDER",
    "ExtractOptions",
    "options_like",
    "options_record",
]

SCALINGS = ("none", "multiply")
STORE_DTYPES = ("float16", "float32")
SPACE_FIELDS = (
    "model", "revision", "genes", "panel", "top_genes", "expression_scaling", "projector", "seed",
    "instruction", "readout_token", "layers", "pool", "companions",
)  # fmt: skip
"""Options that decide the feature space: what ``--like`` takes from another store."""

OF_THE_READOUT = (
    "expression_scaling", "projector", "seed", "instruction", "readout_token", "layers",
    "spread",
)  # fmt: skip
"""Options that say nothing where no readout is wanted."""

GENEPT_W, GENEPT_S = "genept_w", "genept_s"

AUTO_PANEL = "auto"
"""``--panel auto``: a label-free panel of these cells, kept beside the store."""

RANDOM_GENES, RANDOM_LLM, SHUFFLED_ORDER = "random-genes", "random-llm", "shuffled-order"
CONTROLS = {
    RANDOM_GENES: "every gene has a random vector in place of its own",
    RANDOM_LLM: "the model has random weights in place of those it learnt",
    SHUFFLED_ORDER: "every cell has its genes in one random order in place of expression's",
}
"""What ``--control`` makes meaningless, in words."""

CONTROL_SEED = 0
"""Of the controls: a seed of its own, since ``--seed`` is the projector's and must stay the same for a comparison."""

FILES = ("genes", "panel", "projector")
"""Options of the feature space that name files."""

PATHS = (*FILES, "orthologs")
"""All options that name files; a store's record has them relative to its folder."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Options of ``scstore extract``, under the names of the command line.

    Attributes
    ----------
    preset
        Name of the set of options that the others were completed from: see :mod:`scstore.extraction.presets`. It is
        recorded, and is no part of the feature space.
    model
        ``minilm``, a folder in Hugging Face layout, or a hub name.
    revision
        Branch, tag or commit of a hub model.
    genes
        A gene table file; without one the symbols are encoded by the model and cached beside the store.
    panel
        A panel file; ``None``: all genes may enter; ``auto``: 200 genes chosen without labels on these cells, kept
        beside the store as ``STORE.panel.h5ad``.
    top_genes
        The most expressed genes of a cell that enter; 2,048 or what the model's context holds. ``genept_w`` is always
        over all of them.
    expression_scaling
        ``multiply`` scales each gene's vector with its expression.
    projector
        ``aligned``, ``native`` or ``random``, or the path of a projector that ``scstore align`` trained.
    seed
        Of the projector.
    instruction
        Words behind the genes.
    readout_token
        A decoder's readout token; its end-of-sequence token by default.
    layers
        Layers to read, ``-1`` for the last; by default the last (of ``minilm``: the first and the last).
    pool
        Of ``last``, ``mean``, ``wmean``; by default ``wmean`` and ``last``. Empty: no readout is wanted.
    companions
        Views beside the readouts, or in their place: of ``genept`` (gene vectors whitened), ``genept_random`` (random
        gene vectors), ``genept_w`` (GenePT-w as published) and ``genept_s`` (GenePT-s: a sentence of gene symbols).
    control
        One thing made meaningless: ``random-genes`` (the gene vectors), ``random-llm`` (the model's weights) or
        ``shuffled-order`` (the order of the genes). Part of the feature space.
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
    spread
        Spread the model's layers over all GPUs, for a model that does not fit one.
    tokens_per_batch
        Padded positions in a batch.
    """

    preset: str | None = None
    model: str | None = None
    revision: str | None = None
    genes: str | None = None
    panel: str | None = None
    top_genes: int | None = None
    expression_scaling: str = "none"
    projector: str = "aligned"
    seed: int = 0
    instruction: str = INSTRUCTION
    readout_token: str | None = None
    layers: tuple[int, ...] | None = None
    pool: tuple[str, ...] = ("wmean", "last")
    companions: tuple[str, ...] = ("genept", "genept_random")
    control: str | None = None
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
    spread: bool = False
    tokens_per_batch: int | None = None

    def __post_init__(self) -> None:
        check_preset(self.preset)
        for name, known in (
            ("expression_scaling", SCALINGS),
            ("expression", ("counts", "lognorm")),
            ("store_dtype", STORE_DTYPES),
        ):
            if (value := getattr(self, name)) not in known:
                msg = f"{_flag(name)} {value}: not one of {', '.join(known)}."
                raise OptionError(msg)
        if self.trained_projector is not None and not Path(self.trained_projector).exists():
            msg = f"--projector {self.projector}: not one of {', '.join(PROJECTORS)}, and no such projector is there."
            raise OptionError(msg)
        for name, choices in {"pool": POOLINGS, "companions": COMPANIONS}.items():
            words = getattr(self, name)
            if not set(words) <= set(choices) or len(set(words)) < len(words):
                msg = f"{_flag(name)} {','.join(words)}: name each of {', '.join(choices)} at most once, or say none."
                raise OptionError(msg)
        for name in ("top_genes", "shard_rows", "tokens_per_batch"):
            if (number := getattr(self, name)) is not None and number < 1:
                msg = f"{_flag(name)} {number}: must be at least 1."
                raise OptionError(msg)
        if self.panel == AUTO_PANEL and self.orthologs is not None:
            msg = "--panel auto cannot go with --orthologs: it is fitted on the cells' own genes. Name a panel file."
            raise OptionError(msg)
        self._check_control()
        self._check_idle()

    def _check_control(self) -> None:
        """Refuse a control that has nothing to act on, or that would not be one."""
        if self.control is None:
            return
        if self.control not in CONTROLS:
            msg = f"--control {self.control}: not one of {', '.join(CONTROLS)}."
        elif self.control == RANDOM_GENES and self.trained_projector is not None:
            msg = (
                f"--control random-genes cannot go with --projector {self.projector}: it was trained for other gene "
                "vectors. Make random ones (scstore genes build --encoder random:WIDTH), train a projector for them "
                "(scstore align --genes), and extract with both."
            )
        elif self.control == RANDOM_GENES and not self.pool and GENEPT_W not in self.companions:
            msg = "--control random-genes: neither a readout nor genept_w is wanted, so no view has gene vectors."
        elif self.control != RANDOM_GENES and not self.runs_model:
            msg = f"--control {self.control}: no model reads the cells, so there is nothing to make meaningless."
        elif self.control == RANDOM_LLM and self.spread:
            msg = "--control random-llm cannot go with --spread: its weights are drawn on one device."
        else:
            return
        raise OptionError(msg)

    def _check_idle(self) -> None:
        """Refuse options that would decide nothing, where no readout is wanted."""
        if self.pool:
            return
        if not self.companion_views:
            msg = "--pool none --companions none: no view is left to extract. Name one."
            raise OptionError(msg)
        idle = [*OF_THE_READOUT, *(["top_genes"] if self.companion_views == (GENEPT_W,) else [])]
        default = {option.name: option.default for option in fields(self)}
        for name in idle:
            if getattr(self, name) != default[name]:
                views = ", ".join(self.companion_views)
                msg = f"{_flag(name)}: decides nothing here. Without a readout (--pool none) the store has {views}."
                raise OptionError(msg)

    @property
    def companion_views(self) -> tuple[str, ...]:
        """The companions that the store gets: with random gene vectors, only what these change."""
        if self.control == RANDOM_GENES:
            return tuple(name for name in self.companions if name == GENEPT_W)
        return self.companions

    @property
    def writes_sentences(self) -> bool:
        """Whether a view is made from sentences of gene symbols."""
        return GENEPT_S in self.companion_views

    @property
    def runs_model(self) -> bool:
        """Whether a model reads the cells."""
        return bool(self.pool) or self.writes_sentences

    @property
    def needs_vectors(self) -> bool:
        """Whether a view is made from the genes' vectors."""
        return bool(self.pool) or self.companion_views != (GENEPT_S,)

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
        If one of them is not, or the reference is a control of another kind.
    FeatureSpaceError
        If the reference has no record, or its gene table, panel or projector has moved.
    """
    default = ExtractOptions()
    if options.preset is not None:
        msg = f"--preset {options.preset} cannot go with --like: the feature space is taken from {reference}."
        raise OptionError(msg)
    for name in SPACE_FIELDS:
        if getattr(options, name) != getattr(default, name):
            msg = f"{_flag(name)} cannot go with --like: the feature space is taken from {reference}."
            raise OptionError(msg)
    record = open_store(reference).record
    if record is None:
        msg = f"--like {reference}: scstore did not extract it, so there is no feature space to take."
        raise FeatureSpaceError(msg)
    taken: Mapping[str, Any] = record["options"]
    # records of before a field came have its default
    found = {name: taken.get(name, getattr(default, name)) for name in SPACE_FIELDS}
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    values["control"] = taken.get("control")
    if options.control not in (None, values["control"]):
        if values["control"] is not None:
            msg = f"--control {options.control}: {reference} is {values['control']} itself. Name the real store."
            raise OptionError(msg)
        values["control"] = options.control
    folder = Path(reference).parent
    for name in FILES:
        if _is_file(name, values[name]):
            values[name] = os.path.normpath(folder / values[name])
            if not Path(values[name]).exists():
                msg = f"--like {reference}: its {name} file {values[name]} is not there. Put it back beside the store."
                raise FeatureSpaceError(msg)
    return replace(options, **values)


def options_record(options: ExtractOptions, folder: Path) -> dict[str, Any]:
    """The options as JSON, files relative to the store's folder so that both can be moved together."""
    values: dict[str, Any] = {}
    for option in fields(options):
        if option.name == "device":  # whichever process shapes the store, its record is the same
            continue
        value: Any = options.companion_views if option.name == "companions" else getattr(options, option.name)
        if _is_file(option.name, value):
            value = Path(os.path.relpath(value, folder)).as_posix()
        values[option.name] = list(value) if isinstance(value, tuple) else value
    return values


def _is_file(name: str, value: Any) -> bool:
    """Whether an option's value is a path."""
    return name in PATHS and value is not None and not (name == "projector" and value in PROJECTORS)
