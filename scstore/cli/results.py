"""What each command prints (``show_FUNCTION``), and options of the command line alone (``adapt_FUNCTION``)."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scstore import fsio
from scstore.cells.matrices import likely_columns
from scstore.cli.builder import in_flags, state
from scstore.errors import OptionError
from scstore.model.shapes import Gpu
from scstore.options import Option, Overwrite
from scstore.progress import Output
from scstore.tables import FORMATS

if TYPE_CHECKING:
    from scstore.annotation.predict import PredictionCounts
    from scstore.evaluation.result import Evaluation
    from scstore.genes.table import GeneTable
    from scstore.heads.artifact import AnyHead
    from scstore.model.projector import ProjectorFile
    from scstore.panels.panel import Panel
    from scstore.search.query import Neighbours
    from scstore.store.reader import Store
    from scstore.store.verify_store import Finding, Verification

EXIT_DAMAGED = 3  # when something is wrong with what was verified
LISTED = 1000  # findings that are printed; ``--json`` gives all
SHOWN = 8  # genes of a panel that are printed
REASONS = {"unsure": "confidence too low", "far": "too far from the training cells", "empty": "no gene to read"}


def adapt_extract(
    given: dict[str, Any],
    *,
    dry_run: Annotated[bool, Option("Estimate GPU-hours, memory and sizes, and print a job array.")] = False,
    gpu: Gpu = None,
) -> dict[str, Any]:
    """Print an estimate in place of the extraction, and let one of a launcher's processes speak for all."""
    from scstore.extraction.estimate import estimate
    from scstore.extraction.extract import this_process

    if this_process(given.get("shard")).is_silent:
        state.output = Output(quiet=True)
    if dry_run:
        cells, output = given.pop("cells"), given.pop("output")
        found = estimate(cells, output, **given, gpu=gpu, progress=state.reporter)
        words = {"output": output, **{name: v for name, v in given.items() if name not in ("shard", "overwrite")}}
        said = [f"{name}={(str(v) if isinstance(v, Path) else v)!r}" for name, v in words.items()]
        typed = in_flags(" ".join(said), state.parameters)
        line = f"scstore extract {shlex.quote(str(cells))} {typed} --shard $SLURM_ARRAY_TASK_ID/{found.jobs}"
        script = [found.sbatch, line] if found.tokens else []
        state.output.result({**asdict(found), "script": script}, *found.lines(), *script)
        raise typer.Exit
    if gpu is not None:
        raise OptionError(f"gpu={gpu!r} has an effect with dry_run=True only.")
    return given


def show_extract(store: "Store", given: Mapping[str, Any]) -> None:
    output, done = given["output"], int(store.committed.sum())
    control = (store.record or {}).get("control")
    lines = [f"{output}: {done:,} of {store.n_obs:,} cells so far; other processes extract the rest"]
    if done == store.n_obs:
        label = next(iter(likely_columns(store.obs)), None)
        if control is not None:
            words = ["evaluate", "STORE", "--label", label or "COLUMN", "--control", f"{control['kind']}={output}"]
        elif given["like"] is not None or label is None:
            words = ["annotate", str(output), "--head", "HEAD", "-o", "annotated.h5ad"]
        else:
            words = ["fit", str(output), "--label", label.replace(",", r"\,"), "-o", f"heads/{label}"]
        lines = [f"{output}: {done:,} cells, views {', '.join(store.views)}", f"next: scstore {shlex.join(words)}"]
    state.output.result(store.info, *lines)


def show_panel(panel: "Panel", given: Mapping[str, Any]) -> None:
    output = given["output"]
    purpose = "chosen without labels" if given["label_free"] else f"that separate {panel.label}"
    symbols = [str(name) for name in panel.obs["symbol"]]
    more = ", …" if len(symbols) > SHOWN else ""
    words = ["extract", str(given["cells"]), "-o", "STORE", "--panel", str(output)]
    state.output.result(
        {"panel": str(output), "digest": panel.digest, "genes": symbols, "record": dict(panel.record)},
        f"{output}: {len(panel)} genes {purpose}: {', '.join(symbols[:SHOWN])}{more}",
        f"next: scstore {shlex.join(words)}",
    )


def show_align(projector: "ProjectorFile", given: Mapping[str, Any]) -> None:
    best, curve, output = projector.training["best_epoch"], projector.training["curve"], given["output"]
    rows = []
    for row in curve:
        views = row["held_out"].values()
        scores = [sum(view[score] for view in views) / len(views) for score in ("accuracy", "macro_f1")]
        losses = ["" if row[name] is None else f"{row[name]:.3f}" for name in ("train_loss", "held_out_loss")]
        rows.append([str(row["epoch"]), *losses, *(f"{score:.3f}" for score in scores)])
    headings = ["epoch", "train loss", "held-out loss", "accuracy", "macro-F1"]
    state.output.table(f"learning curve, means over the readouts (epoch {best} was kept)", headings, rows)
    kept = ("model", "revision", "genes", "panel", "orthologs", "expression_scaling", "layers", "top_genes")
    words = ["extract", str(given["cells"]), "-o", "STORE", "--projector", str(output)]
    for name in (name for name in kept if given[name]):
        value = ",".join(given[name]) if isinstance(given[name], list) else str(given[name])
        words += [f"--{name.replace('_', '-')}", value]
    state.output.result(
        {"projector": str(output), "digest": projector.digest, "best_epoch": best, "curve": curve},
        f"{output}: trained on {len(projector.trained_on):,} cells for {given['label']}, best epoch {best}",
        f"next: scstore {shlex.join(words)}",
    )


def show_build_genes(table: "GeneTable", given: Mapping[str, Any]) -> None:
    path, values = given["output"], table.info
    organisms = ", ".join(f"{name or 'not named'} {count:,}" for name, count in values["organisms"].items())
    state.output.result(
        {"genes": str(path), **values},
        f"{path}: {values['n_genes']:,} genes × {values['width']}",
        f"encoder: {', '.join(f'{name} {value}' for name, value in values['encoder'].items())}",
        f"template: {values['template'] or 'none'}; sources of the texts: {values['coverage']}",
        f"organisms: {organisms}",
        f"digest: {values['digest']}",
        f"next: scstore extract CELLS -o STORE --genes {path}",
    )


def show_fit(head: "AnyHead", given: Mapping[str, Any]) -> None:
    """Write the model card and print how good the head is."""
    from scstore.reporting.card import model_card

    folder = Path(given["output"])
    fsio.write_bytes(card := folder / "README.md", model_card(head, name=folder.name).encode())
    state.output.result(
        {"head": str(folder), "classes": [str(name) for name in head.classes_], "held_out": head.held_out_},
        f"{folder}: {given['head']} head for {len(head.classes_)} labels on {', '.join(head.views_)}",
        *level_lines(head.record_),
        held_out_line(head.held_out_),
        f"model card: {card}",
        f"next: scstore annotate CELLS --head {folder} -o annotated.h5ad",
    )


def level_lines(record: Mapping[str, Any]) -> list[str]:
    levels = [level for level in record.get("levels", []) if level["held_out"]["n"]]
    said = [f"{one['column']} {one['held_out']['accuracy']:.3f} ({len(one['classes'])} labels)" for one in levels]
    return [f"accuracy on held-out cells, coarse to fine: {', '.join(said)}"] if said else []


def held_out_line(held_out: Mapping[str, Any]) -> str:
    if not held_out["n"]:
        return "No label has enough cells to hold any out; no accuracy is reported."
    scores = f"accuracy {held_out['accuracy']:.3f}, macro-F1 {held_out['macro_f1']:.3f}"
    rest = f"calibration error {held_out['ece']:.3f}, coverage at 95 % right {held_out['coverage_95']:.2f}"
    return f"on {held_out['n']:,} cells held out in turn: {scores}, {rest}"


def show_predict_to_file(counts: "PredictionCounts", given: Mapping[str, Any]) -> None:
    labels = dict(sorted(counts.cells.items(), key=lambda item: -item[1]))
    rows = []
    for name in [*labels, *(name for name in counts.majority if name not in labels)]:
        n = labels.get(name, 0)
        mean = f"{counts.confidence[name] / n:.3f}" if n else "-"
        rows.append([name, f"{n:,}", mean, *([f"{counts.majority.get(name, 0):,}"] if counts.majority else [])])
    headings = ["label", "cells", "mean confidence", *(["by majority"] if counts.majority else [])]
    state.output.table(f"{given['output']}: {counts.n_cells:,} cells", headings, rows)
    lines = []
    if given.get("only_unassigned") and Path(given["output"]).suffix in FORMATS:
        written = counts.n_cells - counts.statuses.get("ok", 0)
        lines.append(f"{written:,} cells are in the table: those whose label does not stand")
    if coarse := counts.statuses.get("coarse", 0):
        lines.append(f"{coarse:,} cells have a coarse label because their finest one is unsure")
    if why := [f"{counts.statuses[name]:,} {text}" for name, text in REASONS.items() if counts.statuses.get(name)]:
        lines.append(f"unassigned: {', '.join(why)}; the most probable label of each is in best_label")
    values = {"output": str(given["output"]), "n_cells": counts.n_cells, "labels": labels, "statuses": counts.statuses}
    if counts.suggestions:
        values["suggestions"] = counts.suggestions
        found = ", ".join(f"{n:,} look like {name}" for name, n in counts.suggestions.most_common())
        lines.append(f"of these, by texts alone: {found}; suggestions to check, not labels")
    state.output.result(values | ({"majority": counts.majority} if counts.majority else {}), *lines)
    if given.get("report") is not None:
        state.reporter.note(f"page: {given['report']}")


def adapt_name(
    given: dict[str, Any],
    *,
    labels: Annotated[
        str | None, Option("Of labels, a file of one a line or an obs column, find ids of the Cell Ontology.")
    ] = None,
) -> dict[str, Any]:
    """Find ids of labels in place of labels of cells."""
    if labels is None:
        if missing := [name for name in ("cells", "types") if name not in given]:
            raise OptionError(f"{'CELLS' if missing[0] == 'cells' else 'types='}: needed, but for labels= of a file.")
        return given
    from scstore.labelling.label_ids import label_ids

    if idle := sorted({*given} - {"cells", "output", "overwrite"}):
        raise OptionError(f"{idle[0]}= has no effect with labels=. Leave it out.")
    found = label_ids(labels, **given)
    rows = [
        [str(name), *(str(one[key]) for key in ("id", "term", "status", "next_term"))] for name, one in found.iterrows()
    ]
    state.output.table("labels and terms of the Cell Ontology", ["label", "id", "term", "status", "next best"], rows)
    stands = int((found["status"] == "ok").sum())
    state.output.result(
        {"labels": found.reset_index().to_dict("records")},
        f"{stands} of {len(found)} labels have a term; look at the others",
    )
    raise typer.Exit


def show_query_to_file(found: "Neighbours", given: Mapping[str, Any]) -> None:
    output, k, column, by = (given[name] for name in ("output", "k", "summarise", "by"))
    if by is not None:
        shares = found.table[[by, "label", "fraction", "coherence"]].itertuples(index=False, name=None)
        rows = [[str(one), str(label), f"{share:.3f}", f"{same:.3f}"] for one, label, share, same in shares]
        title = f"{output}: {column} of the {k} neighbours of each cell, by {by}"
        state.output.table(title, [by, column, "fraction", "coherence"], rows)
    numbers = {"n_cells": found.n_cells, "n_rows": found.n_rows, "k": k, "columns": list(found.table.columns)}
    line = f"{output}: shares of {column} among {k} neighbours of each of {found.n_cells:,} cells"
    if column is None:
        distance = f"median distance {found.median_distance:.3f}"
        line = f"{output}: {k} neighbours of each of {found.n_cells:,} cells, {distance}"
    state.output.result({"output": str(output), **numbers}, line)


def adapt_evaluate(
    given: dict[str, Any],
    *,
    output: Annotated[Path | None, Option("Folder for all results.", flags=("--output", "-o"))] = None,
    wide: Annotated[bool, Option("Print every column, and every pair with its interval.")] = False,
    figures: Annotated[bool, Option("Draw the figures (with -o; needs scstore[plot]).", advanced=True)] = True,
    overwrite: Overwrite = False,
) -> dict[str, Any]:
    from scstore.reporting.evaluation_files import check_evaluation_output

    if output is not None:
        check_evaluation_output(output, figures=figures, overwrite=overwrite)
    return given


def show_evaluate(found: "Evaluation", given: Mapping[str, Any]) -> None:
    from scstore.reporting.evaluation_files import save_evaluation

    if (output := given["output"]) is not None:
        save_evaluation(found, output, figures=given["figures"], overwrite=given["overwrite"])
        state.reporter.note(f"written to {output}")
    state.output.result(
        found.as_json(), *(in_flags(line, state.parameters) for line in found.lines(wide=given["wide"]))
    )


def adapt_plot(
    given: dict[str, Any],
    *,
    output: Annotated[Path, Option("A .png, .pdf or .svg file.", flags=("--output", "-o"))],
    overwrite: Overwrite = False,
) -> dict[str, Any]:
    from scstore.reporting.plots import Figure, check_figure

    check_figure(output, overwrite=overwrite)
    return given | {"ax": Figure()}


def show_plot(drawn: Any, given: Mapping[str, Any]) -> None:
    from scstore.reporting.plots import save_figure

    figure = (drawn[0] if isinstance(drawn, list) else drawn).figure
    save_figure(figure, given["output"], overwrite=given["overwrite"])
    state.output.result({"output": str(given["output"])}, str(given["output"]))


def show_export(written: Path, _given: Mapping[str, Any]) -> None:
    state.output.result({"output": str(written)}, f"{written}: {written.stat().st_size / 1e6:,.1f} MB")


def show_merge(store: "Store", given: Mapping[str, Any]) -> None:
    line = f"{given['output']}: {store.n_obs:,} cells of {len(given['parts']):,} stores, views {', '.join(store.views)}"
    state.output.result(store.info, line)


def show_copied(written: Path | str, _given: Mapping[str, Any]) -> None:
    state.output.result({"output": str(written)}, f"{written}: copied, each file compared with its digest")


def show_verify(found: "Verification", given: Mapping[str, Any]) -> None:
    path = Path(given["path"])
    lines = [_finding(path, finding) for finding in found.findings[:LISTED]]
    if len(found.findings) > LISTED:
        lines.append(f"… and {len(found.findings) - LISTED:,} more: scstore --json verify")
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"removed: {name}" for name in found.removed]
    if found.marked:
        lines.append(f"marked as not extracted: {_shards(found.marked)}; run the same `scstore extract` to redo them")
    elif found.damaged_shards:
        lines.append(f"damaged: {_shards(found.damaged_shards)}; --repair lets the same `scstore extract` redo them")
    if any(finding.shard is None and finding.problem != "unreadable" for finding in found.findings):
        lines.append("Damage outside the shards cannot be mended: restore it from a copy, or make it again.")
    read = f"{found.n_files:,} files, {found.n_bytes / 1e6:,.1f} MB compared with their digests"
    verdict = f"{len(found.findings):,} wrong" if found.findings else "nothing wrong"
    hint = "" if found.deep or found.findings else "; --deep reads the views and the expression too"
    state.output.result(found.as_json(), *lines, f"{path} ({found.kind}): {read}: {verdict}{hint}")
    if not found.ok:
        raise typer.Exit(EXIT_DAMAGED if found.damaged else 1)


def _finding(path: Path, finding: "Finding") -> str:
    where = f"{path}/{finding.file}" if finding.file and path.is_dir() else f"{path}"
    message = finding.message.removeprefix(f"{where}: ").removeprefix(f"{where} ")
    return f"{finding.problem}: {where}: {message}"


def _shards(numbers: tuple[int, ...]) -> str:
    more = f" and {len(numbers) - 10:,} more" if len(numbers) > 10 else ""
    return f"shard{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:10]))}{more}"
