"""The command line. Each command parses its words and calls one workflow; heavy imports wait until then."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from scstore.console import Output
from scstore.errors import ScstoreError

__all__ = ["app", "main"]

app = typer.Typer(
    name="scstore",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Pay for the large language model once, on a GPU; annotate single cells for ever after, on a laptop.\n\n"
        "`scstore demo` shows the whole path on real cells, in minutes.\n\n"
        "**extract** runs a frozen language model over cells and writes a store (needs `scstore[extract]`); **fit**, "
        "**predict** and **query** work on stores and on any AnnData with embeddings, without the model."
    ),
)
genes_app = typer.Typer(no_args_is_help=True, help="Gene tables: descriptions of genes as vectors.")
app.add_typer(genes_app, name="genes")

output = Output()
debug = False

Cells = Annotated[
    Path, typer.Argument(help="Cells: .h5ad, AnnData Zarr, 10x .h5, or 10x mtx folder.", show_default=False)
]
StoreArgument = Annotated[
    Path, typer.Argument(help="A store, or any .h5ad or AnnData Zarr with obsm matrices.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Work with the cells that are extracted so far.")]
Label = Annotated[str, typer.Option(help="Column of obs.", show_default=False)]
Expression = Annotated[str, typer.Option(help="What the input holds: counts or lognorm.")]
Slot = Annotated[str | None, typer.Option(help="Where: X, layers/NAME or raw. Looked for by default.")]
AllowFractional = Annotated[
    bool, typer.Option("--allow-fractional", help="Accept pseudo-counts that are no whole numbers.")
]
Device = Annotated[str | None, typer.Option(help="cuda, cpu, …. The GPU where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. bfloat16 on a GPU, float32 on the CPU.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]


def _version(value: bool) -> None:  # noqa: FBT001  # typer's signature
    if value:
        from importlib.metadata import version

        typer.echo(f"scstore {version('scstore')}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    show_trace: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    global output, debug  # the command line is one process, one call
    output = Output(quiet=quiet, as_json=as_json)
    debug = show_trace


def _numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,6", param_hint=option) from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


EXTRACT_HELP = """Run cells through a frozen language model, once, into a store. Killed, the same command goes on.

Examples:

    scstore extract cells.h5ad -o stores/ref.zarr                                   # Llama-2-13b, on a GPU

    scstore extract cells.h5ad -o stores/ref.zarr --model minilm --panel panels/blood.h5ad    # a laptop

    scstore extract new.h5ad -o stores/new.zarr --like stores/ref.zarr               # cells to be labelled
"""


@app.command(help=EXTRACT_HELP)
def extract(
    cells: Cells,
    out: Annotated[Path, typer.Option("--output", "-o", help="The store to write.", show_default=False)],
    *,
    model: Annotated[
        str | None,
        typer.Option(help="minilm, a folder, or a hub name. By default meta-llama/Llama-2-13b-hf.", show_default=False),
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Take the feature space of another store.")] = None,
    genes: Annotated[
        Path | None, typer.Option(help="Gene table. By default the symbols, encoded by the model.")
    ] = None,
    panel: Annotated[str, typer.Option(help="Panel file: the genes that may enter; or all.")] = "all",
    top_genes: Annotated[int | None, typer.Option(help="Most expressed genes a cell: 2048, or what fits.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to read, such as 20,40. The last (minilm: 1,6).")] = None,
    pool: Annotated[str, typer.Option(help="Of last, mean, wmean (weighted by expression).")] = "wmean,last",
    projector: Annotated[str, typer.Option(help="Gene vectors into the model: aligned, native, random.")] = "aligned",
    seed: Annotated[int, typer.Option(help="Of the projector.")] = 0,
    layout: Annotated[str, typer.Option(help="genes-first or instruction-first.")] = "genes-first",
    instruction: Annotated[str | None, typer.Option(help="Words beside the genes. The papers' by default.")] = None,
    readout_token: Annotated[str | None, typer.Option(help="Of a decoder. Its end-of-sequence token.")] = None,
    ranking: Annotated[str, typer.Option(help="lognorm, or median: divided by the panel's medians.")] = "lognorm",
    expression_scaling: Annotated[str, typer.Option(help="multiply: scale gene vectors by expression.")] = "none",
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    sum_duplicate_genes: Annotated[
        bool, typer.Option("--sum-duplicate-genes", help="Add up genes of the same name.")
    ] = False,
    id_prefix_from: Annotated[str | None, typer.Option(help="obs column to put before cell ids.")] = None,
    organism: Annotated[str | None, typer.Option(help="human or mouse. Guessed from the symbols.")] = None,
    min_match: Annotated[
        float, typer.Option(help="Fraction of genes that must match the gene table.", min=0, max=1)
    ] = 0.3,
    no_expression: Annotated[bool, typer.Option("--no-expression", help="Do not keep the expression as X.")] = False,
    store_dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    shard_rows: Annotated[int | None, typer.Option(help="Rows of a shard. About 16 MB, at most 4096.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    tokens_per_batch: Annotated[int | None, typer.Option(help="Padded positions of a batch.")] = None,
    overwrite: Overwrite = False,
) -> None:
    from scstore.workflows.extract import extract as run

    chosen: dict[str, Any] = {} if instruction is None else {"instruction": instruction}
    store = run(
        cells,
        out,
        like=like,
        overwrite=overwrite,
        progress=output.reporter,
        model=model,
        revision=revision,
        genes=None if genes is None else str(genes),
        panel=None if panel == "all" else panel,
        top_genes=top_genes,
        layers=_numbers(layers, "--layers"),
        pool=_words(pool),
        projector=projector,
        seed=seed,
        layout=layout,
        readout_token=readout_token,
        ranking=ranking,
        expression_scaling=expression_scaling,
        expression=expression,
        slot=slot,
        allow_fractional=allow_fractional,
        sum_duplicate_genes=sum_duplicate_genes,
        id_prefix_from=id_prefix_from,
        organism=organism,
        min_match=min_match,
        keep_expression=not no_expression,
        store_dtype=store_dtype,
        shard_rows=shard_rows,
        device=device,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
        **chosen,
    )
    output.result(
        store.info,
        f"{out}: {store.n_obs:,} cells, views {', '.join(store.views)}",
        f"next: scstore fit {out} --label COLUMN -o heads/NAME",
    )


@app.command()
def fit(
    store: StoreArgument,
    label: Label,
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the head.", show_default=False)],
    *,
    head: Annotated[str, typer.Option(help="linear, mlp or knn.")] = "linear",
    view: Annotated[
        list[str] | None,
        typer.Option(help="Feature matrix; repeat for several. Readout, genept and X by default."),
    ] = None,
    fuse: Annotated[str, typer.Option(help="Several views: late (averaged) or early (joined).")] = "late",
    seed: Annotated[int, typer.Option(help="The same seed gives the same head.")] = 0,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a head on a store's cached features. No model, no GPU.

    Examples
    --------
        scstore fit stores/ref.zarr --label cell_type -o heads/cell_type

        scstore fit any.h5ad --view X_pca --label leiden --head knn -o heads/leiden
    """
    from scstore.workflows.fit import fit as run

    trained = run(
        store,
        out,
        label=label,
        head=head,
        views=view,
        fuse=fuse,
        seed=seed,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=output.reporter,
    )
    held_out = trained.held_out_
    output.result(
        {"head": str(out), "classes": [str(name) for name in trained.classes_], "held_out": held_out},
        f"{out}: {head} head for {len(trained.classes_)} labels on {', '.join(trained.views_)}",
        _held_out_line(held_out),
        f"next: scstore predict STORE --head {out} -o annotated.h5ad",
    )


def _held_out_line(held_out: dict[str, Any]) -> str:
    return (
        f"on {held_out['n']:,} cells held out in turn: accuracy {held_out['accuracy']:.3f}, macro-F1 "
        f"{held_out['macro_f1']:.3f}, calibration error {held_out['ece']:.3f}"
    )


@app.command()
def predict(
    store: StoreArgument,
    head: Annotated[Path, typer.Option(help="Folder that `scstore fit` wrote.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", help="annotated.h5ad, labels.csv or labels.parquet.", show_default=False),
    ],
    *,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of every class.")] = False,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Label cells with a trained head.

    Examples
    --------
        scstore predict stores/new.zarr --head heads/cell_type -o annotated.h5ad

        scstore predict stores/new.zarr --head heads/cell_type -o labels.csv --proba
    """
    from scstore.workflows.predict import predict as run

    frame = run(
        store,
        head,
        out,
        proba=proba,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=output.reporter,
    )
    counts = frame["label"].value_counts()
    output.table(
        f"{out}: {len(frame):,} cells",
        ["label", "cells", "mean confidence"],
        [[str(n), f"{c:,}", f"{frame.confidence[frame['label'] == n].mean():.3f}"] for n, c in counts.items()],
    )
    output.result({"output": str(out), "n_cells": len(frame), "labels": {str(k): int(v) for k, v in counts.items()}})


@app.command()
def query(
    store: StoreArgument,
    reference: Annotated[Path, typer.Option(help="Store to look in.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="neighbours.parquet or neighbours.csv.", show_default=False)
    ],
    *,
    k: Annotated[int, typer.Option("-k", help="Neighbours a cell.")] = 15,
    view: Annotated[str | None, typer.Option(help="Feature matrix of both. The readout by default.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="obs column of the reference to bring along; repeat. All by default."),
    ] = None,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the nearest reference cells of every cell.

    Example:

        scstore query stores/new.zarr --reference stores/ref.zarr -k 15 -o neighbours.parquet
    """
    from scstore.workflows.query import query as run

    frame = run(
        store,
        reference,
        out,
        k=k,
        view=view,
        columns=column,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=output.reporter,
    )
    n_cells = frame["cell_id"].nunique()
    output.result(
        {"output": str(out), "n_cells": n_cells, "k": k, "columns": list(map(str, frame.columns))},
        f"{out}: {k} neighbours of each of {n_cells:,} cells, median distance {frame['distance'].median():.3f}",
    )


@app.command()
def panel(
    cells: Cells,
    label: Label,
    out: Annotated[Path, typer.Option("--output", "-o", help="The panel, an .h5ad.", show_default=False)],
    *,
    n_genes: Annotated[int, typer.Option("-n", help="Genes in the panel.", min=1)] = 200,
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    overwrite: Overwrite = False,
) -> None:
    """Choose the genes that tell labels apart (ANOVA F), once, for every later extraction.

    Example:

        scstore panel cells.h5ad --label cell_type -n 200 -o panels/blood.h5ad
    """
    from scstore.workflows.panel import panel as run

    fitted = run(
        cells,
        out,
        label=label,
        n_genes=n_genes,
        expression=expression,
        slot=slot,
        allow_fractional=allow_fractional,
        overwrite=overwrite,
        progress=output.reporter,
    )
    symbols = [str(name) for name in fitted.obs["symbol"]]
    output.result(
        {"panel": str(out), "digest": fitted.digest, "genes": symbols},
        f"{out}: {len(fitted)} genes that tell {label} apart: {', '.join(symbols[:8])}, …",
        f"next: scstore extract CELLS -o STORE --panel {out}",
    )


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A store, an AnnData, or a head.", show_default=False)],
) -> None:
    """Say what a store, an AnnData or a head holds."""
    if (path / "head.json").exists():
        _info_of_head(path)
        return
    from scstore.stores.reader import open_store

    store = open_store(path)
    values = store.info
    state = "complete" if values["complete"] else f"{values['n_committed']:,} extracted"
    output.table(
        f"{path}: {values['n_obs']:,} cells ({state}, {values['n_empty']:,} empty)",
        ["view", "width", "dtype", "feature space"],
        [[name, str(v["width"]), v["dtype"], v["fingerprint"][7:19]] for name, v in values["views"].items()],
    )
    run = values["run"]
    lines = [f"obs: {', '.join(values['obs_columns'])}"]
    if run:
        lines += [
            f"model: {run['model']['name']} ({run['model']['digest'][7:19]})",
            f"default view: {values['default_view']}",
            f"input: {run['input']['name']}, {run['input']['kind']} from {run['input']['slot']}",
        ]
    output.result(values, *lines)


def _info_of_head(path: Path) -> None:
    from scstore.heads.artifact import load_head

    head, record = load_head(path)
    classes = record["trained_on"]["classes"]
    output.table(f"{path}: {head.kind} head", ["label", "training cells"], [[n, f"{c:,}"] for n, c in classes.items()])
    values = {"kind": head.kind, "views": list(head.views_), "held_out": head.held_out_, "record": record}
    output.result(
        values,
        f"label: {record['label']} of {record['trained_on']['name']}",
        f"views: {', '.join(head.views_)}",
        _held_out_line(head.held_out_),
    )


@app.command()
def export(
    store: Annotated[Path, typer.Argument(help="A finished store.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="The .h5ad to write.", show_default=False)],
    *,
    view: Annotated[list[str] | None, typer.Option(help="View to include; repeat. All by default.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a store as one .h5ad file."""
    from scstore.stores.export import export_h5ad

    written = export_h5ad(store, out, views=view, overwrite=overwrite)
    output.result({"output": str(written)}, f"{written}: {written.stat().st_size / 1e6:,.1f} MB")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where its files go.")] = Path("demo"),
    *,
    overwrite: Overwrite = False,
) -> None:
    """Show the whole path on 700 real blood cells: panel, extract, fit, predict, query. Needs scstore[demo]."""
    from scstore.demo import demo as run

    result = run(folder, overwrite=overwrite, output=output)
    output.result(result)


@genes_app.command("build")
def genes_build(
    out: Annotated[Path, typer.Option("--output", "-o", help="The table, an .h5ad.", show_default=False)],
    *,
    text: Annotated[Path | None, typer.Option(help="TSV or JSON of gene texts, with a column symbol.")] = None,
    symbols_of: Annotated[Path | None, typer.Option(help="Cells whose symbols are the texts.")] = None,
    template: Annotated[str | None, typer.Option(help='Such as "{symbol}: {name}. {summary}".')] = None,
    organism: Annotated[str | None, typer.Option(help="human or mouse.")] = None,
    encoder: Annotated[str, typer.Option(help="minilm, a folder, a hub name, or random:WIDTH.")] = "minilm",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
) -> None:
    """Encode descriptions of genes into a gene table.

    Example:

        scstore genes build --text genes.tsv --template "{symbol}: {name}. {summary}" -o genes/human.h5ad
    """
    from scstore.workflows.genes import build_genes

    table = build_genes(
        out,
        text=text,
        cells=symbols_of,
        template=template,
        organism=organism,
        encoder=encoder,
        revision=revision,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
        progress=output.reporter,
    )
    output.result(
        {"genes": str(out), "n_genes": len(table), "width": table.width, "digest": table.digest},
        f"{out}: {len(table):,} genes × {table.width}",
        f"next: scstore extract CELLS -o STORE --genes {out}",
    )


class _Stopped(BaseException):
    """SIGINT or SIGTERM: unwinds past click, so that locks and temporary files go and we say what to do next."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def main() -> None:
    """Run the command line and exit: 0 done, 1 a fault, 2 the user's to mend, 130 and 143 stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except _Stopped as stop:
        if debug:
            raise
        output.errors.print("stopped. What was finished is kept: run the same command again to go on.")
        sys.exit(stop.exit_code)
    except ScstoreError as error:
        if debug:
            raise
        output.failure(str(error), kind=error.kind)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        output.failure(f"{where}{error.strerror or error}. What was finished is kept.", kind="os")
        sys.exit(1)
    except Exception as error:  # the last resort: no traceback for a user
        if debug:
            raise
        output.failure(
            f"{type(error).__name__}: {error}\nThis is a fault of scstore's. Run `scstore --debug …` for the "
            "traceback and "
            "report it.",
            kind="internal",
        )
        sys.exit(1)
