"""The commands of stage 1, which need a model: extract, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scstore.cli.sequences import (
    Companions,
    Control,
    Genes,
    Instruction,
    Layers,
    MinMatch,
    Model,
    Organism,
    PanelFile,
    Preset,
    ReadoutToken,
    Spread,
    TokensPerBatch,
    TopGenes,
    numbers,
    words,
)  # fmt: skip
from scstore.cli.shared import (
    STAGE_1,
    AllowFractional,
    Cells,
    Device,
    Dtype,
    Expression,
    IdPrefixFrom,
    Orthologs,
    Overwrite,
    Revision,
    Slot,
    SumDuplicateGenes,
    app,
    state,
)  # fmt: skip
from scstore.console import Output

__all__: list[str] = []


EXTRACT_HELP = """Run cells through a frozen language model, once, into a store. Killed, the same command goes on.

Examples:

    scstore extract cells.h5ad -o stores/ref.zarr                                   # Llama-2-13b, on a GPU

    scstore extract cells.h5ad -o stores/ref.zarr --model minilm --panel panels/blood.h5ad    # a laptop

    scstore extract new.h5ad -o stores/new.zarr --like stores/ref.zarr               # cells to be labelled

    scstore extract cells.h5ad -o stores/w.zarr --preset genept-w --genes genes/human.h5ad    # a published recipe

    scstore extract cells.h5ad -o stores/random.zarr --like stores/ref.zarr --control random-llm    # for evaluate
"""


@app.command(help=EXTRACT_HELP, rich_help_panel=STAGE_1)
def extract(
    context: typer.Context,
    cells: Cells,
    out: Annotated[Path, typer.Option("--output", "-o", help="The store to write.", show_default=False)],
    *,
    preset: Preset = None,
    model: Model = None,
    like: Annotated[Path | None, typer.Option(help="Take the feature space of another store.")] = None,
    control: Control = None,
    genes: Genes = None,
    panel: PanelFile = "all",
    top_genes: TopGenes = None,
    layers: Layers = None,
    pool: Annotated[str, typer.Option(help="Of last, mean, wmean (weighted by expression); or none.")] = "wmean,last",
    companions: Companions = "genept,genept_random",
    projector: Annotated[
        str, typer.Option(help="Gene vectors into the model: aligned, native, random, or what align trained.")
    ] = "aligned",
    seed: Annotated[int, typer.Option(help="Of the projector.")] = 0,
    instruction: Instruction = None,
    readout_token: ReadoutToken = None,
    expression_scaling: Annotated[str, typer.Option(help="multiply: scale gene vectors by expression.")] = "none",
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    sum_duplicate_genes: SumDuplicateGenes = False,
    id_prefix_from: IdPrefixFrom = None,
    organism: Organism = None,
    orthologs: Orthologs = None,
    min_match: MinMatch = 0.3,
    no_expression: Annotated[bool, typer.Option("--no-expression", help="Do not keep the expression as X.")] = False,
    store_dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    shard_rows: Annotated[int | None, typer.Option(help="Rows of a shard. About 16 MB, at most 4096.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    spread: Spread = False,
    revision: Revision = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: extract part i (from 0) of n, as one job of an array.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells, tokens, FLOP, time, sizes; extract nothing.")
    ] = False,
    tokens_per_batch: TokensPerBatch = None,
    overwrite: Overwrite = False,
) -> None:
    from scstore.extraction.estimate import estimate
    from scstore.extraction.extract import extract as run
    from scstore.extraction.processes import this_process
    from scstore.store.locks import Part

    if this_process(
        None if shard is None else Part.parse(shard)
    ).is_silent:  # one of a launcher's several speaks for all
        state.output = Output(quiet=True)
    options: dict[str, Any] = {
        "preset": preset,
        "like": like,
        "shard": shard,
        "model": model,
        "revision": revision,
        "genes": None if genes is None else str(genes),
        "panel": panel,
        "top_genes": top_genes,
        "layers": numbers(layers, "--layers"),
        "pool": words(pool),
        "companions": words(companions),
        "control": control,
        "projector": projector,
        "seed": seed,
        "instruction": instruction,
        "readout_token": readout_token,
        "expression_scaling": expression_scaling,
        "expression": expression,
        "slot": slot,
        "allow_fractional": allow_fractional,
        "sum_duplicate_genes": sum_duplicate_genes,
        "id_prefix_from": id_prefix_from,
        "organism": organism,
        "orthologs": None if orthologs is None else str(orthologs),
        "min_match": min_match,
        "keep_expression": not no_expression,
        "store_dtype": store_dtype,
        "shard_rows": shard_rows,
        "device": device,
        "dtype": dtype,
        "spread": spread,
        "tokens_per_batch": tokens_per_batch,
    }
    # what was not given is the preset's to say
    given = {name for name in context.params if str(context.get_parameter_source(name)).endswith(".COMMANDLINE")}
    if "no_expression" in given:
        given.add("keep_expression")
    options = {name: value for name, value in options.items() if name in given}
    if dry_run:
        found = estimate(cells, out, progress=state.output.reporter, **options)
        state.output.result(found.as_json(), *found.lines())
        return
    store = run(cells, out, overwrite=overwrite, progress=state.output.reporter, **options)
    done = int(store.committed.sum())
    if done < store.n_obs:
        state.output.result(
            store.info, f"{out}: {done:,} of {store.n_obs:,} cells so far; the other parts are extracted by others"
        )
        return
    purpose = (store.record or {}).get("control")
    state.output.result(
        store.info,
        f"{out}: {store.n_obs:,} cells, views {', '.join(store.views)}",
        f"next: scstore fit {out} --label COLUMN -o heads/NAME"
        if purpose is None
        else f"next: scstore evaluate STORE --label COLUMN --control {purpose['kind']}={out}",
    )


@app.command(rich_help_panel=STAGE_1)
def demo(
    folder: Annotated[Path, typer.Argument(help="Where its files go.")] = Path("demo"),
    *,
    overwrite: Overwrite = False,
) -> None:
    """Show the whole path on 700 real blood cells: panel, extract, fit, predict, query. Needs scstore[demo]."""
    from scstore.demo import demo as run

    result = run(folder, overwrite=overwrite, progress=state.output.reporter)
    state.output.table(*result.table())
    for line in result.lines():
        state.output.reporter.note(line)
    state.output.result(result.as_json())
