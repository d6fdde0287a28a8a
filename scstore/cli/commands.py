"""The applications that the commands belong to, and the list of the commands."""

from functools import partial
from typing import Any

import typer

from scstore.cli.builder import LOOK, Command, group_of

MODEL = r"With a model (scstore\[extract])"
LAPTOP = "On a laptop, without the model"


def _command(
    panel: str, name: str, summary: str, *examples: str, function: str = "", show: str = "", **more: Any
) -> Command:
    """Describe a command: by default of the public function of its name, printed by ``show_FUNCTION``."""
    place = function or f"scstore:{name}"
    show = show or f"scstore.cli.results:show_{place.partition(':')[2]}"
    return Command(name, place, show, summary, panel, examples, **more)


_model, _laptop = partial(_command, MODEL), partial(_command, LAPTOP)
COMMANDS = (
    _model(
        "extract",
        "Run cells through a frozen language model, once, into a store.",
        "scstore extract cells.h5ad -o stores/ref.zarr                        # Llama-2-13b, on a GPU",
        "scstore extract cells.h5ad -o stores/ref.zarr --model minilm         # a laptop",
        "scstore extract new.h5ad -o stores/new.zarr --like stores/ref.zarr   # cells to be labelled",
        "scstore extract cells.h5ad -o stores/w.zarr --preset genept-w --genes genes/human.h5ad",
        adapt="scstore.cli.results:adapt_extract",
    ),
    _model(
        "panel",
        "Choose the genes that may enter a cell's sequence, once, for every later extraction.",
        "scstore panel cells.h5ad --label cell_type -o panels/blood.h5ad",
        "scstore panel cells.h5ad --label cell_type --group donor -o panels/blood.h5ad",
        "scstore panel cells.h5ad --label-free -o panels/unlabelled.h5ad",
    ),
    _model(
        "align",
        "Train a projector through the frozen model on labelled cells.",
        "scstore align cells.h5ad --label cell_type --panel panels/blood.h5ad -o projectors/blood",
        "scstore extract cells.h5ad -o stores/ref.zarr --panel panels/blood.h5ad --projector projectors/blood",
    ),
    _laptop(
        "annotate",
        "Label cells with a trained head, and give them back whole, with labels, reasons and a UMAP.",
        "scstore annotate cells.h5ad --head heads/blood -o annotated.h5ad",
        "scstore annotate filtered_feature_bc_matrix.h5 --head heads/blood -o annotated.h5ad",
        "scstore annotate cells.h5ad --head heads/blood -o annotated.h5ad --report page.html",
        "scstore annotate cells.h5ad --head heads/blood -o doubtful.xlsx --only-unassigned",
        function="scstore.labelling.annotate:annotate_to_file",
        show="scstore.cli.results:show_predict_to_file",
        required=("output",),
    ),
    _laptop(
        "name",
        "Label cells of which none is labelled, from texts about genes and cell types.",
        'scstore name cells.h5ad --types "B cell,T cell,NK cell,monocyte" -o named.h5ad',
        'scstore name cells.h5ad --types "hematopoietic cell" --cluster leiden -o named.h5ad --report page.html',
        "scstore name cells.h5ad --types markers.csv -o named.h5ad       # a table of label and gene",
        "scstore name cells.h5ad --labels cell_type -o ids.csv           # your labels as ids of the Cell Ontology",
        "scstore name --labels labels.txt -o ids.csv",
        function="scstore.labelling.name:name_to_file",
        show="scstore.cli.results:show_predict_to_file",
        adapt="scstore.cli.results:adapt_name",
        optional=("cells", "types"),
    ),
    _laptop(
        "fit",
        "Train a head on a store's cached features. No model, no GPU.",
        "scstore fit stores/ref.zarr --label cell_type -o heads/cell_type",
        "scstore fit any.h5ad --view X_pca --label leiden --head knn -o heads/leiden",
        "scstore fit stores/ref.zarr --label lineage,cell_type -o heads/two_levels",
        required=("output",),
    ),
    _laptop(
        "predict",
        "Label cells with a trained head, into a table.",
        "scstore predict stores/new.zarr --head heads/cell_type -o labels.csv --proba",
        function="scstore.annotation.predict:predict_to_file",
        required=("output",),
    ),
    _laptop(
        "query",
        "Find the nearest reference cells of every cell.",
        "scstore query stores/new.zarr --reference stores/ref.zarr -k 15 -o neighbours.parquet",
        "scstore query stores/new.zarr --reference stores/ref.zarr --where \"tissue == 'lung'\" -o lung.csv",
        "scstore query stores/new.zarr --reference stores/ref.zarr --summarise cell_type -o shares.csv",
        function="scstore.search.query:query_to_file",
        required=("output",),
    ),
    _laptop(
        "evaluate",
        "Score a store's views by cross-validation, with every control in the same table.",
        "scstore evaluate stores/ref.zarr --label cell_type --group donor -o evaluation",
        "scstore evaluate stores/ref.zarr --label cell_type --train-on species=human --test-on species=mouse",
        "scstore evaluate any.h5ad --label leiden --view X_pca,X_scVI,X",
        adapt="scstore.cli.results:adapt_evaluate",
    ),
    _laptop(
        "report",
        "Write one page about labelled cells, to read and to show.",
        "scstore report annotated.h5ad -o page.html",
        "scstore report annotated.h5ad -o page.html --sample donor --cluster leiden --evaluation evaluation",
        "scstore report annotated.h5ad -o page.html --head heads/blood --reference reference.h5ad",
        show="scstore.cli.results:show_export",
    ),
    _laptop("info", "Say what a store or head holds.", function="scstore.cli.info:info", show="scstore.cli.info:show"),
    _laptop("merge", "Put stores of one feature space into one.", "scstore merge parts/*.zarr -o stores/ref.zarr"),
    _laptop("export", "Write a store as one .h5ad file."),
    _laptop(
        "pull",
        "Copy a store or head from an address, or a part of a store.",
        "scstore pull s3://atlas/stores/lung.zarr -o stores/lung.zarr",
        "scstore pull hf://lab/heads/lung -o heads/lung",
        "scstore pull s3://atlas/stores/lung.zarr -o t.h5ad --view readout --where \"cell_type == 'T cell'\"",
        show="scstore.cli.results:show_copied",
    ),
    _laptop(
        "push",
        "Copy a store or head to an address.",
        "scstore push stores/lung.zarr s3://atlas/stores/lung.zarr",
        "scstore push heads/lung hf://lab/heads/lung",
        show="scstore.cli.results:show_copied",
    ),
    _laptop(
        "verify",
        "Look for damage, and list all of it. Exit code 3 where there is any.",
        "scstore verify stores/ref.zarr --deep             # every byte against its digest",
        "scstore verify stores/ref.zarr --deep --repair    # then run the same extract again",
        "scstore verify heads/cell_type",
    ),
)
GENES = (
    _model(
        "build",
        "Encode descriptions of genes into a gene table.",
        "scstore genes build --organism human --gene-info info.gz --gene-summary gene_summary.gz -o human.h5ad",
        "scstore genes build --vectors GenePT_gene_embedding_ada_text.pickle --organism human -o genept.h5ad",
        'scstore genes build --text genes.tsv --template "{symbol}: {name}. {summary}" -o mine.h5ad',
        function="scstore:build_genes",
    ),
)


def _plot(name: str, summary: str, example: str) -> Command:
    """Describe the command of a function of ``scstore.pl``."""
    adapt, show = (f"scstore.cli.results:{what}_plot" for what in ("adapt", "show"))
    return _laptop(
        name, summary, f"scstore plot {name} {example}", function=f"scstore.pl:{name}", show=show, adapt=adapt
    )


PLOTS = (
    _plot("umap", "Cells by label, or by any column.", "annotated.h5ad -o umap.pdf"),
    _plot("confusion", "Labels against true labels.", "annotated.h5ad --truth cell_type -o confusion.svg"),
    _plot("composition", "Shares of the labels in each sample.", "annotated.h5ad --by donor -o composition.png"),
    _plot("confidence", "How sure the labels are.", "annotated.h5ad -o confidence.png"),
    _plot("evaluation", "What an evaluation found.", "evaluation -o evaluation.pdf"),
    _plot("markers", "The strongest genes of each label.", "heads/blood --cells annotated.h5ad -o markers.png"),
)
app = typer.Typer(
    name="scstore",
    cls=group_of(COMMANDS),
    no_args_is_help=True,
    **LOOK,
    help=(
        "Pay for the large language model once, on a GPU; annotate single cells on a laptop.\n\n"
        "**extract** runs a frozen language model over cells and writes a store (needs `scstore[extract]`); **fit**, "
        "**predict** and **query** work on stores and on any AnnData with embeddings, without the model."
    ),
)
for name, commands, about, panel in (
    ("genes", GENES, "Gene tables: genes as vectors of text.", MODEL),
    ("plot", PLOTS, "Figures of labelled cells: .png, .pdf, .svg.", LAPTOP),
):
    group = typer.Typer(cls=group_of(commands), no_args_is_help=True, help=about)
    group.callback()(lambda: None)
    app.add_typer(group, name=name, rich_help_panel=panel)
