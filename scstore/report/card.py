"""A head's model card: what it was trained on, how good it is, when it does not answer. Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scstore import fsio
from scstore.heads.across_genes import AcrossGenesHead, ConfidenceRejection
from scstore.heads.artifact import AnyHead
from scstore.heads.rejection import RULES

__all__ = ["model_card", "save_model_card"]

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy (mean recall)",
    "macro_f1": "macro-F1",
    "nll": "negative log-likelihood, nats",
    "ece": "expected calibration error, 15 bins",
}

WHY = {
    "confidence": "confidence below {confidence:.3f}",
    "distance": "novelty above {novelty:.2f}",
    "both": "confidence below {confidence:.3f}, or novelty above {novelty:.2f}",
}


def save_model_card(head: AnyHead, output: str | os.PathLike[str], *, name: str, overwrite: bool = False) -> Path:
    """Write :func:`model_card` to a file, atomically.

    Parameters
    ----------
    head
        With its record: from :func:`scstore.fit` or :func:`scstore.load_head`.
    output
        The ``.md`` file.
    name
        Of the head.
    overwrite
        Replace an existing file.

    Raises
    ------
    OutputError
        If the file exists.
    """
    target = fsio.check_output(output, overwrite=overwrite)
    with fsio.atomic_path(target) as partial:
        partial.write_text(model_card(head, name=name), encoding="utf-8")
    return target


def model_card(head: AnyHead, *, name: str) -> str:
    """What a head is, in Markdown: all that its file says and nothing else, so the same head has the same card.

    Parameters
    ----------
    head
        With its record: from :func:`scstore.fit` or :func:`scstore.load_head`.
    name
        Of the head, for the title.
    """
    record = head.record_
    parts = [
        f"# {_plain(name)}",
        _training(head, record),
        _held_out(head, record),
        _rejection(head),
        _feature_spaces(head, record),
        _versions(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _training(head: AnyHead, record: Mapping[str, Any]) -> str:
    trained = record["trained_on"]
    partial = ", which was not finished" if trained["partial"] else ""
    rows = [
        ("labels", f"`{_plain(record['label'])}` of {_plain(trained['name'])}{partial}"),
        ("cells", f"{trained['n_cells']:,} of {len(trained['classes'])} classes (ids {trained['ids'][:19]}…)"),
        *_levels(record),
        *_kind(head),
        *((f"member {view}", _plain(how)) for view, how in record.get("training", {}).items()),
        ("seed", str(record["seed"])),
    ]
    return "## Training data and head\n\n" + _table(["", ""], rows)


def _levels(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Levels, coarse to fine, and how well each was told on held-out cells."""
    rows = []
    for level in record.get("levels", []):
        seen = f"; held-out accuracy {level['held_out']['accuracy']:.3f}" if level["held_out"]["n"] else ""
        rows.append((f"level `{_plain(level['column'])}`", f"{len(level['classes'])} labels{seen}"))
    return rows


def _kind(head: AnyHead) -> list[tuple[str, str]]:
    if isinstance(head, AcrossGenesHead):
        return [("head", f"{head.kind}; expression of any genes, through the texts of the genes")]
    fused = f", {head.fuse} fusion" if len(head.views_) > 1 else ""
    return [
        ("head", f"{head.kind}; views {', '.join(head.views_)}{fused}"),
        ("class shares taken back", f"{head.prior_adjustment:g}"),
    ]


def _held_out(head: AnyHead, record: Mapping[str, Any]) -> str:
    found = head.held_out_
    if not found["n"]:
        counts = [(_plain(name), f"{n:,}") for name, n in record["trained_on"]["classes"].items()]
        words = "No cell could be held out: how good the head is cannot be said, and it is not calibrated."
        return f"## Held-out cells\n\n{words}\n\n" + _table(["class", "training cells"], counts)
    figures = [(words, f"{found[key]:.3f}") for key, words in METRICS.items() if found.get(key) is not None]
    by_class = record.get("held_out_by_class", {})
    classes = []
    for name, n in record["trained_on"]["classes"].items():
        seen = by_class.get(name)
        figures_of = [f"{seen[key]:.3f}" for key in ("precision", "recall", "f1")] if seen else ["–"] * 3
        classes.append((_plain(name), f"{n:,}", *figures_of))
    if isinstance(head, AcrossGenesHead):
        how = (
            f"{found['n']:,} predictions: each cell twice, by heads that had seen neither it nor any of the genes that "
            "it was measured on. Other donors' cells do worse."
        )
        temperatures = f"One temperature, fitted on these predictions: {head.temperature_:.2f}."
    else:
        how = f"Each of {found['n']:,} cells was predicted by heads that had not seen it. Other donors' cells do worse."
        told = ", ".join(f"{view} {value:.2f}" for view, value in head.temperatures_.items())
        temperatures = f"Temperatures, fitted on these cells: {told}; of all together {head.temperature_:.2f}."
    bins = [
        (f"{part['n']:,}", f"{part['confidence']:.3f}", f"{part['accuracy']:.3f}")
        for part in record.get("reliability", [])
    ]
    return "\n\n".join(
        [
            "## Held-out cells",
            how,
            _table(["", ""], figures),
            _table(["class", "training cells", "precision", "recall", "F1"], classes),
            "## Calibration",
            temperatures,
            _table(["cells with such confidence", "mean confidence", "share right"], bins),
        ]
    )


def _rejection(head: AnyHead) -> str:
    title = "## When the label is `unassigned`"
    if head.rejection_ is None:
        return f"{title}\n\nNever: the head has no thresholds."
    rejection = head.rejection_
    passing = (
        f"Thresholds that {rejection.keep:.0%} of {len(rejection.confidence):,} rightly labelled held-out cells pass "
        f"(`--keep {rejection.keep:g}`)."
    )
    if isinstance(rejection, ConfidenceRejection):
        why = WHY["confidence"].format(**rejection.thresholds("confidence")._asdict())
        return f"{title}\n\n{passing}\n\n" + _table(["", "why"], [("`--unassigned confidence`", why)])
    rows = [
        (f"`--unassigned {rule}`", WHY[rule].format(**rejection.thresholds(rule)._asdict()))
        for rule in RULES
        if rule != "none"
    ]
    words = (
        f"{passing} Novelty is the distance to the training cells of the label, measured in "
        f"{', '.join(rejection.distances.views)}; 1 is the 95 % quantile of held-out cells."
    )
    return f"{title}\n\n{words}\n\n" + _table(["", "why"], rows) + _backs_off(head, rejection.keep)


def _backs_off(head: AnyHead, keep: float) -> str:
    """From which confidence a coarser label stands where the finest does not."""
    if isinstance(head, AcrossGenesHead) or head.hierarchy_ is None:
        return ""
    told = ", ".join(
        f"`{_plain(level.column)}` from {level.threshold(keep):.3f}" for level in head.hierarchy_.levels[::-1]
    )
    return f"\n\nWhere confidence is too low, a coarser label stands that is sure enough: {told}."


def _feature_spaces(head: AnyHead, record: Mapping[str, Any]) -> str:
    if isinstance(head, AcrossGenesHead):
        texts, n_genes = record["gene_texts"], len(record["genes"]["symbol"])
        encoder = ", ".join(f"{key} {value}" for key, value in sorted(texts["encoder"].items()))
        return (
            f"## Feature space\n\nTexts of genes, whichever were measured ({n_genes:,} in training), in the form "
            f"`{_plain(texts['template'])}`, encoded by: {_plain(encoder)}."
        )
    rows = [(name, f"{head.widths_[name]:,}", record["views"][name]["fingerprint"]) for name in head.views_]
    text = "## Feature space\n\n" + _table(["view", "width", "fingerprint"], rows)
    if head.genes_ is None:
        return text
    return f"{text}\n\nGenes whose expression is read: {_plain(', '.join(record['genes']['symbol']))}."


def _versions(record: Mapping[str, Any]) -> str:
    if not record.get("versions"):
        return ""
    return "## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in sorted(record["versions"].items()))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _plain(text: str) -> str:
    """Text of a data set that can neither break a table nor become markup."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")
    return " ".join(escaped.split())
