"""A head's model card in Markdown: what it was trained on, how good it is, when it does not answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scstore import fsio
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.artifact import AnyHead
from scstore.heads.missing_genes import MIN_ACCURACY, MissingGenes
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rejection import RULES, ConfidenceRejection
from scstore.reporting.markdown import as_table, escaped

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy (mean recall)",
    "macro_f1": "macro-F1",
    "nll": "negative log-likelihood, nats",
    "ece": "expected calibration error, 15 bins",
    "coverage_95": "largest share of the cells, most confident first, of which 95 % are right",
}
WHY = {
    "confidence": "confidence below {confidence:.3f}",
    "distance": "novelty above {novelty:.2f}",
    "both": "confidence below {confidence:.3f}, or novelty above {novelty:.2f}",
}
TWO_COLUMNS = ("", "")
LOOKED_UP = (
    "`predict` looks up the row of the genes at hand, takes its temperature and thresholds, and refuses cells below an "
    f"accuracy of {MIN_ACCURACY:.0%} (`min_accuracy`)."
)
CARD_HEADING = "## Training data and head"


def save_model_card(head: AnyHead, output: str | os.PathLike[str], *, name: str, overwrite: bool = False) -> Path:
    """Write :func:`model_card` to a ``.md`` file, atomically."""
    target = fsio.check_output(output, overwrite=overwrite, problem=_problem)
    with fsio.atomic_path(target, overwrite=overwrite) as partial:
        partial.write_text(model_card(head, name=name), encoding="utf-8")
    return target


def _problem(path: Path) -> str | None:
    """Return why a file is no model card, which says so in its headings; ``None`` if it is one."""
    is_one = path.is_file() and CARD_HEADING in path.read_text(encoding="utf-8", errors="replace")
    return None if is_one else "is not a model card of scstore's"


def model_card(head: AnyHead, *, name: str) -> str:
    """Describe a head from what its file says alone, so the same head has the same card; ``name`` is the title."""
    record = head.record_
    versions = ", ".join(f"{package} {number}" for package, number in sorted(record["versions"].items()))
    parts = [
        f"# {escaped(name)}",
        _training(head, record),
        _held_out(head, record),
        _rejection(head),
        _missing_genes(head),
        _feature_space(head, record),
        _privacy(head),
        f"## Versions\n\n{escaped(versions)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _training(head: AnyHead, record: Mapping[str, Any]) -> str:
    trained = record["trained_on"]
    partial = ", which was not finished" if trained["partial"] else ""
    rows = [
        ("labels", f"{record['label']} of {trained['name']}{partial}"),
        ("cells", f"{trained['n_cells']:,} of {len(trained['classes'])} classes (ids {trained['ids'][:19]}…)"),
    ]
    for level in record.get("levels", []):
        seen = f"; held-out accuracy {level['held_out']['accuracy']:.3f}" if level["held_out"]["n"] else ""
        rows.append((f"level {level['column']}", f"{len(level['classes'])} labels{seen}"))
    if isinstance(head, AcrossGenesHead):
        rows.append(("head", f"{head.kind}; expression of any genes, through the texts of the genes"))
    else:
        rows.append(("head", f"{head.kind}; views {', '.join(head.views_)}"))
        rows.append(("class shares taken back", f"{head.prior_adjustment:g}"))
    rows += [(f"member {view}", how) for view, how in record.get("training", {}).items()]
    return f"{CARD_HEADING}\n\n" + as_table(TWO_COLUMNS, [*rows, ("seed", str(record["seed"]))])


def _held_out(head: AnyHead, record: Mapping[str, Any]) -> str:
    found, classes = head.held_out_, record["trained_on"]["classes"]
    if not found["n"]:
        words = "No cell could be held out: the accuracy of the head is unknown, and it is not calibrated."
        counts = as_table(["class", "training cells"], [(name, f"{n:,}") for name, n in classes.items()])
        return f"## Held-out cells\n\n{words}\n\n{counts}"
    figures = [(words, f"{found[key]:.3f}") for key, words in METRICS.items() if found.get(key) is not None]
    rows = []
    for name, n in classes.items():
        seen = record["held_out_by_class"].get(name)
        of_class = [f"{seen[key]:.3f}" for key in ("precision", "recall", "f1")] if seen else ["–"] * 3
        rows.append((name, f"{n:,}", *of_class))
    if (group := record.get("group")) is None:
        held_out, unseen = "held out at random", "it"
        end = "Expect less for cells of other donors or laboratories."
    else:
        held_out, unseen = f"whole groups of {escaped(group)} held out", "any cell of its group"
        end = "Cells of a class that no other group has are not counted."
    if isinstance(head, AcrossGenesHead):
        how = (
            f"predictions: each cell twice, {held_out}, by heads that had seen neither {unseen} nor any of the genes "
            "it was measured on."
        )
        temperatures = f"One temperature, fitted on these predictions: {head.temperature_:.2f}."
    else:
        how = f"cells, {held_out}, each predicted by heads that had not seen {unseen}."
        by_view = zip(head.views_, head.fusion_.temperatures, strict=True)
        listed = ", ".join(f"{escaped(view)} {value:.2f}" for view, value in by_view)
        temperatures = f"Temperatures, fitted on these cells: {listed}; of all together {head.fusion_.temperature:.2f}."
    bins = [
        (f"{part['n']:,}", f"{part['confidence']:.3f}", f"{part['accuracy']:.3f}") for part in record["reliability"]
    ]
    parts = [
        "## Held-out cells",
        f"{found['n']:,} {how} {end}",
        as_table(TWO_COLUMNS, figures),
        as_table(["class", "training cells", "precision", "recall", "F1"], rows),
        "## Calibration",
        temperatures,
        as_table(["cells with such confidence", "mean confidence", "share right"], bins),
    ]
    return "\n\n".join(parts)


def _rejection(head: AnyHead) -> str:
    title, rejection = "## When the label is `unassigned`", head.rejection_
    if rejection is None:
        return f"{title}\n\nNever: the head has no thresholds."
    words = (
        f"Thresholds that {rejection.keep:.0%} of {len(rejection.confidence):,} correctly labelled held-out cells pass "
        f"(`keep={rejection.keep:g}`)."
    )
    rules: tuple[str, ...] = ("confidence",)
    if not isinstance(rejection, ConfidenceRejection):
        rules = tuple(rule for rule in RULES if rule != "none")
        words += (
            " Novelty is the distance to the mean of the training cells of the label, measured in "
            f"{escaped(', '.join(rejection.distances.views))}; 1 is the 95 % quantile of held-out cells."
        )
    why = [(f"unassigned={rule}", WHY[rule].format(**vars(rejection.thresholds(rule)))) for rule in rules]
    text = f"{title}\n\n{words}\n\n" + as_table(["rule", ""], why)
    if isinstance(head, AcrossGenesHead) or head.hierarchy_ is None:
        return text
    levels = (f"{level.column} from {level.threshold(rejection.keep):.3f}" for level in head.hierarchy_.levels[::-1])
    return f"{text}\n\nBelow that, a coarser label is given if it is sure enough: {escaped(', '.join(levels))}."


def _missing_genes(head: AnyHead) -> str:
    """Say what held-out cells showed where genes are missing; nothing for a head that does not read expression."""
    if isinstance(head, AcrossGenesHead):
        words = (
            "Held-out cells were labelled with ever fewer of their genes, and got the right label as often as the "
            "table says. Two random halves of the genes agree as far as their texts say the same of the cells. "
            f"{LOOKED_UP}"
        )
        title = "## When few genes are measured, or such as say little"
        return "" if head.cases_ is None else _cases(title, words, head.cases_, "agreement of the halves")
    if head.genes_ is None:
        return ""
    title = "## When genes are missing"
    other = [view for view in head.views_ if view != EXPRESSION]
    alone = f" The head then reads expression alone, without {escaped(', '.join(other))}." if other else ""
    words = (
        f"Of the {len(head.genes_):,} genes that the head reads, those that new cells were not measured on are "
        f"estimated from the others, by how genes vary together in the training cells.{alone}"
    )
    if head.missing_ is None:
        return f"{title}\n\n{words} How well that works could not be measured: no held-out cell was labelled correctly."
    words += (
        " Held-out cells with genes taken away, at random and lowest expressed first, got the right label as often as "
        f"the table says. {LOOKED_UP}"
    )
    return _cases(title, words, head.missing_, "what labels depend on, measured or explained by measured genes")


def _cases(title: str, words: str, seen: MissingGenes, known: str) -> str:
    rows = [
        (f"{share:.0%}", f"{accuracy:.3f}", f"{temperature:.2f}")
        for share, accuracy, temperature in zip(seen.known, seen.accuracy, seen.temperature, strict=True)
    ]
    return f"{title}\n\n{words}\n\n" + as_table([known, "accuracy", "temperature"], rows[::-1])


def _privacy(head: AnyHead) -> str:
    title = "## What the head keeps of its training cells"
    if head.kind == "knn":
        return f"{title}\n\nThe head is its training cells, or a sample of them: their features and their labels."
    return (
        f"{title}\n\nNo cell: weights, means and spreads over many cells (the mean of a class of one cell is that "
        "cell), the confidence of held-out cells, and a digest of the cells' ids."
    )


def _feature_space(head: AnyHead, record: Mapping[str, Any]) -> str:
    if isinstance(head, AcrossGenesHead):
        texts, n_genes = record["gene_texts"], len(record["genes"]["symbol"])
        encoder = ", ".join(f"{key} {value}" for key, value in sorted(texts["encoder"].items()))
        return (
            f"## Feature space\n\nTexts of genes, whichever were measured ({n_genes:,} in training), in the form "
            f"{escaped(texts['template'])}, encoded by: {escaped(encoder)}."
        )
    rows = [(name, f"{head.widths_[name]:,}", record["views"][name]["fingerprint"]) for name in head.views_]
    text = "## Feature space\n\n" + as_table(["view", "width", "fingerprint"], rows)
    if head.genes_ is None:
        return text
    listed = escaped(", ".join(record["genes"]["symbol"]))
    return f"{text}\n\nThe {len(head.genes_):,} genes that the head reads the expression of, best first: {listed}."
