"""The extraction pass against the matrix-product ceiling of one GPU, in the same run.

    python benchmarks/extract_gpu.py [--budget-s 480] [--json FILE]
    python benchmarks/extract_gpu.py --shape tiny --device cpu       the very same code where there is no GPU

Llama-2-13b's shape with random weights made on the device, synthetic cells with the lengths of real ones: 2,048 genes,
a 200-gene panel, and that panel's symbols as three to five tokens each. Layers as transformers has them, compiled as
scstore runs them, and in float8; beside them the loop written by hand.

FLOP are counted on real tokens only, per token and layer 2 × weights of the linear layers, per cell and layer
2 × t² × width for causal attention (half of 4 × t² × width). Padding, pooling, the head and whatever else is done count
as nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import numpy as np
import torch
from device_passes import (
    Pass,
    Regime,
    cosines,
    cut_to,
    hand_pass,
    matmul_ceiling,
    own_pass,
    profile,
    symbols_of,
)
from measuring import Findings, parser, table
from random_models import LLAMA_2_13B, TINY, llama_config, llama_on, token_layout
from scipy.sparse import csr_matrix
from synthetic_cells import lognorm, make_counts

from scstore.genes.vectors import RandomEncoder
from scstore.model.gpu_layers import compile_layers, to_float8
from scstore.model.prompt import Layout
from scstore.model.readout import Readout
from scstore.model.shapes import cell_flop
from scstore.progress import Reporter

OF_CEILING, FLOAT8_TIMES = 0.85, 1.6
WORSE = 1.05
"""Times as far from float32 as the loop written by hand in the same precision, at most."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything at one shape."""

    config: dict[str, Any]
    n_genes: int
    median: int
    top_genes: int
    panel: int
    panel_expressed: tuple[int, int]
    matmul: tuple[int, ...]
    tokens: int
    pool: int
    """Different cells; longer passes run them again."""
    seconds: float
    """Wanted of a pass; the number of cells follows from the ceiling."""
    numerics: dict[str, Any]


SHAPES = {
    "llama-2-13b": Sizes(
        LLAMA_2_13B, 20_000, 2000, 2048, 200, (50, 120), (8192, 16384), 32768, 4096, 11.0,
        llama_config(width=1024, inner=2752, layers=40, heads=8, vocabulary=1000),
    ),
    "tiny": Sizes(
        TINY, 1000, 100, 128, 40, (10, 24), (256, 512), 1024, 48, 0.0,
        llama_config(width=64, inner=176, layers=40, heads=4, vocabulary=256),
    ),
}  # fmt: skip


@dataclass
class Clock:
    """Keeps the whole within its time: a part that would not fit is left out and listed."""

    budget: float
    found: Findings
    begun: float = field(default_factory=time.perf_counter)

    def has(self, part: str, needs: float) -> bool:
        """Whether a part that takes about so many seconds still fits."""
        fits = time.perf_counter() - self.begun + needs <= self.budget
        if not fits:
            self.found.not_reached.append(part)
        return fits


@dataclass
class Bench:
    """One model on one device, and everything measured with it."""

    sizes: Sizes
    device: torch.device
    dtype: torch.dtype
    found: Findings
    clock: Clock
    scratch: Path
    layout: Layout
    cells: csr_matrix
    gene_inputs: np.ndarray
    ceiling: float
    backbone: Any = None
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    as_they_are: dict[str, Pass] = field(default_factory=dict)
    by_hand: dict[str, Pass] = field(default_factory=dict)
    own: dict[str, Pass] = field(default_factory=dict)

    @property
    def regimes(self) -> tuple[Regime, Regime]:
        admitted = np.arange(self.sizes.n_genes) < self.sizes.panel
        return (
            Regime(f"{self.sizes.panel}-gene panel", self.sizes.panel, admitted),
            Regime(f"{self.sizes.top_genes} genes", self.sizes.top_genes, None),
        )

    @property
    def symbols(self) -> Regime:
        """The panel's genes as tokens of the model."""
        vocabulary = self.sizes.config["vocab_size"]
        slots = symbols_of(self.sizes.n_genes, self.layout, vocabulary=vocabulary)
        return replace(self.regimes[0], name=f"symbols of the {self.regimes[0].name}", slots=slots)

    @property
    def depth(self) -> int:
        return int(self.backbone.files.n_layers)

    def some_cells(self, regime: Regime, depth: int) -> csr_matrix:
        """As many as take about the time wanted; a run forms its batches among as many (``batch_unit``)."""
        lengths = regime.lengths(regime.rank(self.cells[:64]), self.layout)
        flop = float(cell_flop(self.sizes.config, lengths, depth=depth).mean())
        wanted = int(self.sizes.seconds * self.ceiling * 0.7 / flop) or self.sizes.pool
        return self.cells[:wanted]

    def readout(self, layer: int, regime: Regime) -> Readout:
        inputs = self.gene_inputs if regime.slots is None else None
        return Readout(self.backbone, self.layout, inputs, layers=(layer,))

    def pass_of(self, regime: Regime, depth: int, label: str) -> tuple[Pass, np.ndarray]:
        """One warmed-up, timed pass of scstore's pipeline."""
        with cut_to(self.backbone, depth):
            readout = self.readout(depth, regime)
            cells = self.some_cells(regime, depth)
            options = {"tokens": self.sizes.tokens, "depth": depth, "scratch": self.scratch}
            own_pass(readout, self.layout, cells[:32], regime, **options)
            done, rows = own_pass(readout, self.layout, cells, regime, **options)
        self.note(label, done)
        return done, rows

    def note(self, label: str, done: Pass, **more: Any) -> None:
        self.found.figures.setdefault("passes", {})[label] = done.figures(self.ceiling) | more
        rate = done.flop / done.seconds
        print(f"{label}: {done.cells / done.seconds:.4g} cells/s, {rate / self.ceiling:.1%} of the ceiling", flush=True)

    def compare(self, label: str, done: Pass, other: Pass, what: str) -> float:
        """Note how many times as fast as another pass one was."""
        times = (done.cells / done.seconds) / (other.cells / other.seconds)
        self.found.figures["passes"][label].setdefault("times_as_fast_as", {})[what] = times
        print(f"  {times:.2f} times as fast as {what}")
        return times

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


def measure_as_they_are(bench: Bench) -> None:
    """The same pipeline over layers as transformers has them, and the loop written by hand."""
    for regime, n_cells in zip(bench.regimes, (512, 32), strict=True):
        label = f"layers as they are, {regime.name}"
        if bench.clock.has(label, 1.6 * bench.sizes.seconds):
            bench.as_they_are[regime.name], bench.rows[regime.name] = bench.pass_of(regime, bench.depth, label)
        label = f"by hand, {regime.name}"
        if regime.name not in bench.rows or not bench.clock.has(label, 0.8 * bench.sizes.seconds):
            continue
        own = bench.rows[regime.name]
        rows, readout = bench.cells[: min(n_cells, own.shape[2])], bench.readout(bench.depth, regime)
        done, theirs, batch = hand_pass(readout, bench.layout, rows, regime, layers=(bench.depth,))
        agree = float(cosines(own[:, :, : rows.shape[0]], theirs).min())
        bench.by_hand[regime.name] = done
        bench.note(label, done, batch=batch, smallest_cosine_to_scstore=agree)
        print(f"  batches of {batch}; smallest cosine to scstore's rows {agree:.6f}")


def measure_own(bench: Bench) -> None:
    """Scstore's pipeline at full depth, its layers compiled on a GPU, with a profile; the goal of 85 %."""
    if bench.on_gpu:
        begun = time.perf_counter()
        compile_layers(bench.backbone.model, bench.backbone.layers, Reporter())
        bench.found.figures["seconds to compile"] = spent = time.perf_counter() - begun
        print(f"\nlayers compiled in {spent:.1f} s")
    for regime in (*bench.regimes, bench.symbols):
        label = f"scstore, {regime.name}, depth {bench.depth}"
        if not bench.clock.has(label, 1.6 * bench.sizes.seconds):
            continue
        done, rows = bench.pass_of(regime, bench.depth, label)
        bench.own[regime.name] = done
        share = done.flop / done.seconds / bench.ceiling
        bench.found.at_least(f"{regime.name}: share of the ceiling", share, OF_CEILING, check=bench.on_gpu)
        for what, theirs in (("layers as they are", bench.as_they_are), ("the loop by hand", bench.by_hand)):
            if regime.name in theirs:
                bench.compare(label, done, theirs[regime.name], what)
        if regime.name in bench.rows:
            near = float(cosines(rows, bench.rows[regime.name][:, :, : rows.shape[2]]).min())
            bench.found.figures["passes"][label]["smallest_cosine_to_layers_as_they_are"] = near
        if bench.on_gpu and bench.clock.has(f"profile, {regime.name}", bench.sizes.seconds):
            profile_own(bench, regime, label)


def profile_own(bench: Bench, regime: Regime, label: str) -> None:
    """Where the device's time goes."""
    readout, cells = bench.readout(bench.depth, regime), bench.some_cells(regime, bench.depth)
    few = cells[: cells.shape[0] // 4]
    sizes = {"tokens": bench.sizes.tokens, "depth": bench.depth, "scratch": bench.scratch}
    seen = profile(lambda: own_pass(readout, bench.layout, few, regime, **sizes), bench.scratch)
    bench.found.figures.setdefault("profiles", {})[label] = seen
    kinds = ", ".join(f"{kind} {spent:.2f} s" for kind, spent in seen["seconds_by_kind"].items())
    print(f"  device idle {seen['idle_share']:.1%} of {seen['wall_seconds']:.2f} s; {kinds}")


def measure_half_depth(bench: Bench) -> None:
    """Early exit: the first half of the layers."""
    depth, regime = bench.depth // 2, bench.regimes[1]
    label = f"scstore, {regime.name}, depth {depth}"
    if bench.clock.has(label, 1.6 * bench.sizes.seconds):
        bench.pass_of(regime, depth, label)


def measure_float8(bench: Bench) -> None:
    """The same model with its layers in float8; the last part, since the model stays so."""
    for layer in bench.backbone.layers:
        layer.__dict__.pop("forward", None)
    to_float8(bench.backbone.layers, bench.device)
    if bench.on_gpu:
        compile_layers(bench.backbone.model, bench.backbone.layers, Reporter())
    for regime in bench.regimes:
        label = f"float8, {regime.name}, depth {bench.depth}"
        if regime.name in bench.own and bench.clock.has(label, 1.6 * bench.sizes.seconds):
            done, _ = bench.pass_of(regime, bench.depth, label)
            times = bench.compare(label, done, bench.own[regime.name], "bfloat16")
            bench.found.at_least(f"{regime.name}: float8 over bfloat16", times, FLOAT8_TIMES, check=bench.on_gpu)


def measure_numerics(bench: Bench) -> None:
    """How far rows in half precision and in float8 are from those in float32, at full depth and a small width."""
    if not bench.clock.has("numerics", 15):
        return
    config, rows, regime, cells = bench.sizes.numerics, {}, bench.regimes[0], bench.cells[:48]
    inputs = RandomEncoder(config["hidden_size"]).encode([f"g{i}" for i in range(bench.sizes.n_genes)])
    layers = (20, 40)
    whole, half = (llama_on(bench.device, dtype, config) for dtype in (torch.float32, torch.bfloat16))
    with torch.no_grad():
        for weights, source in zip(half.model.parameters(), whole.model.parameters(), strict=True):
            weights.copy_(source)

    def read(backbone: Any) -> np.ndarray:
        readout = Readout(backbone, bench.layout, inputs, layers=layers)
        return own_pass(readout, bench.layout, cells, regime, tokens=2048, depth=40, scratch=bench.scratch)[1]

    exact = read(whole)
    readout = Readout(half, bench.layout, inputs, layers=layers)
    rows["by hand, bfloat16"] = hand_pass(readout, bench.layout, cells, regime, layers=layers)[1]
    if bench.on_gpu:
        compile_layers(half.model, half.layers, Reporter())
    rows["scstore, bfloat16"] = read(half)
    for layer in half.layers:
        layer.__dict__.pop("forward", None)
    to_float8(half.layers, bench.device)
    rows["scstore, float8"] = read(half)
    names = [f"{pool}, layer {layer}" for layer in layers for pool in ("wmean", "last")]
    near = {
        what: dict(zip(names, cosines(found, exact).min(axis=2).ravel().tolist(), strict=True))
        for what, found in rows.items()
    }
    bench.found.figures["smallest cosine to float32"] = {"shape": config, **near}
    print(f"\nsmallest cosine to float32, random weights, 40 layers, width {config['hidden_size']}")
    table(["rows", *names], [[what, *(f"{value:.6f}" for value in found.values())] for what, found in near.items()])
    far = {what: 1 - np.mean(list(found.values())) for what, found in near.items()}
    times = float(far["scstore, bfloat16"] / far["by hand, bfloat16"])
    bench.found.at_most("bfloat16: times as far from float32 as by hand", times, WORSE)


def main() -> int:
    options_parser = parser(__doc__.splitlines()[0])
    options_parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-2-13b")
    options_parser.add_argument("--device", default="cuda")
    options_parser.add_argument("--budget-s", type=float, default=480, help="seconds for the whole (default 480)")
    options_parser.add_argument("--tokens-per-batch", type=int, help="padded positions of a batch")
    options = options_parser.parse_args()
    if options.quick:
        options.shape = "tiny"
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here; --shape tiny --device cpu runs the same code on the CPU")
        return 2
    sizes = SHAPES[options.shape]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found = Findings("benchmarks/extract_gpu.py")
    clock = Clock(options.budget_s, found)
    config = sizes.config
    print(f"shape {options.shape} with random weights, {str(dtype).removeprefix('torch.')} on {device}")
    ceiling = matmul_ceiling(device, dtype, sizes.matmul, seconds_each=min(3.0, sizes.seconds / 4))
    found.figures |= {"shape": {"name": options.shape, **config}, "ceiling": ceiling}
    print(f"ceiling: {ceiling['flop_per_second'] / 1e12:.4g} TFLOP/s of matrix products alone")
    counts = make_counts(
        sizes.pool, seed=3, n_genes=sizes.n_genes, median=sizes.median, panel=sizes.panel,
        panel_expressed=sizes.panel_expressed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        inputs = RandomEncoder(config["hidden_size"]).encode([f"g{i}" for i in range(sizes.n_genes)])
        inputs = (inputs * 0.02 * config["hidden_size"] ** 0.5).astype(np.float32)  # as long as a token embedding
        bench = Bench(
            sizes, device, dtype, found, clock, Path(scratch), token_layout(), lognorm(counts), inputs,
            ceiling["flop_per_second"],
        )  # fmt: skip
        if options.tokens_per_batch:
            bench.sizes = type(sizes)(**{**sizes.__dict__, "tokens": options.tokens_per_batch})
        measure_numerics(bench)
        bench.backbone = llama_on(device, dtype, config)
        for measure in (measure_as_they_are, measure_own, measure_half_depth, measure_float8):
            measure(bench)
    found.figures["seconds"] = time.perf_counter() - clock.begun
    return found.finish(options.json, unchecked="not checked on this device")


if __name__ == "__main__":
    sys.exit(main())
