"""Results in words: cards of heads and stores in Markdown, and a page's verdict and text for the methods."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scstore.annotation.annotated_cells import PREFIX
from scstore.annotation.prediction_frames import COARSE, UNASSIGNED
from scstore.errors import printable
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.artifact import AnyHead
from scstore.heads.missing_genes import MIN_ACCURACY
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rejection import RULES, Rejection
from scstore.store.reader import Store

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy (mean recall)",
    "macro_f1": "macro-F1",
    "nll": "negative log-likelihood, nats",
    "ece": "expected calibration error, 15 bins",
    "coverage_95": "largest share of the cells, most confident first, of which 95 % are right",
}
RULE_WORDS = {
    "confidence": "confidence below {confidence:.3f}",
    "distance": "novelty above {novelty:.2f}",
    "both": "confidence below {confidence:.3f}, or novelty above {novelty:.2f}",
}
TWO_COLUMNS = ("", "")
BINS = ("cells with such confidence", "mean confidence", "share right")
LOOKED_UP = (
    "`predict` looks up the row of the genes at hand, takes its temperature and thresholds, and refuses cells below an "
    f"accuracy of {MIN_ACCURACY:.0%} (`min_accuracy`)."
)
REPLACED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in r"\|[]*`~$"}})
# What many programs make links of, and underscores that are emphasis: those within a word are not.
LINK = re.compile(r"(?<=:)//|(?<=www)\.|@", re.IGNORECASE)
EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


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
        _section("Versions", escaped(versions)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def store_card(store: Store, *, address: str) -> str:
    record: Mapping[str, Any] = store.record or {}
    rows = [("cells", f"{store.n_obs:,}"), ("columns of obs", ", ".join(map(str, store.obs.columns)))]
    for name, said in ((name, record.get(name) or {}) for name in ("input", "model", "genes", "panel", "projector")):
        rows += [(f"{name}: {key}", str(value)) for key, value in said.items() if isinstance(value, str | int)]
    views = [(one.name, f"{one.shape[1]:,}", str(one.dtype), one.fingerprint) for one in map(store.view, store.views)]
    versions = ", ".join(f"{package} {number}" for package, number in sorted(record.get("versions", {}).items()))
    parts = [
        f"# {escaped(store.path.name)}",
        f'```python\nimport scstore\n\nstore = scstore.open("{address}")\n```',
        as_table(TWO_COLUMNS, rows),
        _section("Views", as_table(["view", "width", "dtype", "fingerprint"], views)),
        _section("Versions", escaped(versions)),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *filter(None, parts)])


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
    return _section("Training data and head", as_table(TWO_COLUMNS, [*rows, ("seed", str(record["seed"]))]))


def _held_out(head: AnyHead, record: Mapping[str, Any]) -> str:
    title, found, rows = "Held-out cells", head.held_out_, []
    for name, n in record["trained_on"]["classes"].items():
        seen = record["held_out_by_class"].get(name)
        rows.append((name, f"{n:,}", *(f"{seen[key]:.3f}" if seen else "–" for key in ("precision", "recall", "f1"))))
    classes = as_table(["class", "training cells", "precision", "recall", "F1"], rows)
    if not found["n"]:
        words = "No cell could be held out: the accuracy of the head is unknown, and it is not calibrated."
        return _section(title, words, classes)
    held_out, unseen, end = "held out at random", "it", "Expect less for cells of other donors or laboratories."
    if (group := record.get("group")) is not None:
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
    figures = [(words, f"{found[key]:.3f}") for key, words in METRICS.items() if found.get(key) is not None]
    bins = [(f"{one['n']:,}", f"{one['confidence']:.3f}", f"{one['accuracy']:.3f}") for one in record["reliability"]]
    return "\n\n".join(
        [
            _section(title, f"{found['n']:,} {how} {end}", as_table(TWO_COLUMNS, figures), classes),
            _section("Calibration", temperatures, as_table(BINS, bins)),
        ]
    )


def _rejection(head: AnyHead) -> str:
    title, rejection = "When the label is `unassigned`", head.rejection_
    if rejection is None:
        return _section(title, "Never: the head has no thresholds.")
    words = (
        f"Thresholds that {rejection.keep:.0%} of {len(rejection.confidence):,} correctly labelled held-out cells pass "
        f"(`keep={rejection.keep:g}`)."
    )
    rules: tuple[str, ...] = ("confidence",)
    if isinstance(rejection, Rejection):
        rules = tuple(rule for rule in RULES if rule != "none")
        words += (
            " Novelty is the distance to the mean of the training cells of the label, measured in "
            f"{escaped(', '.join(rejection.distances.views))}; 1 is the 95 % quantile of held-out cells."
        )
    why = [(f"unassigned={rule}", RULE_WORDS[rule].format(**vars(rejection.thresholds(rule)))) for rule in rules]
    coarser = ""
    if head.hierarchy_ is not None:
        levels = head.hierarchy_.levels[::-1]
        listed = ", ".join(f"{level.column} from {level.threshold(rejection.keep):.3f}" for level in levels)
        coarser = f"Below that, a coarser label is given if it is sure enough: {escaped(listed)}."
    return _section(title, words, as_table(["rule", ""], why), coarser)


def _missing_genes(head: AnyHead) -> str:
    """Say what held-out cells showed where genes are missing; nothing for a head that does not read expression."""
    if isinstance(head, AcrossGenesHead):
        title, seen = "When few genes are measured, or such as say little", head.cases_
        known = "agreement of the halves"
        words = (
            "Held-out cells were labelled with ever fewer of their genes, and got the right label as often as the "
            "table says. Two random halves of the genes agree as far as their texts say the same of the cells. "
            f"{LOOKED_UP}"
        )
        if seen is None:
            return ""
    elif head.genes_ is None:
        return ""
    else:
        title, seen = "When genes are missing", head.missing_
        known = "what labels depend on, measured or explained by measured genes"
        other = [view for view in head.views_ if view != EXPRESSION]
        alone = f" The head then reads expression alone, without {escaped(', '.join(other))}." if other else ""
        words = (
            f"Of the {len(head.genes_):,} genes that the head reads, those that new cells were not measured on are "
            f"estimated from the others, by how genes vary together in the training cells.{alone} "
        )
        if seen is None:
            words += "How well that works could not be measured: no held-out cell was labelled correctly."
            return _section(title, words)
        words += (
            "Held-out cells with genes taken away, at random and lowest expressed first, got the right label as often "
            f"as the table says. {LOOKED_UP}"
        )
    cases = zip(seen.known, seen.accuracy, seen.temperature, strict=True)
    rows = [(f"{share:.0%}", f"{accuracy:.3f}", f"{temperature:.2f}") for share, accuracy, temperature in cases]
    return _section(title, words, as_table([known, "accuracy", "temperature"], rows[::-1]))


def _privacy(head: AnyHead) -> str:
    words = (
        "No cell: weights, means and spreads over many cells (the mean of a class of one cell is that cell), the "
        "confidence of held-out cells, and a digest of the cells' ids."
    )
    if head.kind == "knn":
        words = "The head is its training cells, or a sample of them: their features and their labels."
    return _section("What the head keeps of its training cells", words)


def _feature_space(head: AnyHead, record: Mapping[str, Any]) -> str:
    if isinstance(head, AcrossGenesHead):
        texts, n_genes = record["gene_texts"], len(record["genes"]["symbol"])
        encoder = ", ".join(f"{key} {value}" for key, value in sorted(texts["encoder"].items()))
        return _section(
            "Feature space",
            f"Texts of genes, whichever were measured ({n_genes:,} in training), in the form "
            f"{escaped(texts['template'])}, encoded by: {escaped(encoder)}.",
        )
    rows = [(name, f"{head.widths_[name]:,}", record["views"][name]["fingerprint"]) for name in head.views_]
    genes = ""
    if head.genes_ is not None:
        listed = escaped(", ".join(record["genes"]["symbol"]))
        genes = f"The {len(head.genes_):,} genes that the head reads the expression of, best first: {listed}."
    return _section("Feature space", as_table(["view", "width", "fingerprint"], rows), genes)


def escaped(text: object) -> str:
    """Return text on one line that is no HTML, link, emphasis, formula, code or table cell."""
    line = " ".join(printable(str(text)).translate(REPLACED).split())
    return EMPHASIS.sub(r"\\_", LINK.sub(lambda found: "".join(f"&#{ord(sign)};" for sign in found[0]), line))


def as_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text; columns with a heading, but for the first, are aligned to the right."""
    rule = ["---", *("---:" if heading else "---" for heading in headings[1:])]
    lines = [[escaped(cell) for cell in row] for row in (headings, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


WHY = {
    "unsure": "for want of a sure label",
    "far": "far from the reference",
    "empty": "without any of the genes that are read",
}
# Share of cells beyond a novelty of 1 from which they are unlike the reference: 5 % of its own held-out cells are.
UNLIKE, MOSTLY_UNLIKE = 0.15, 0.5
# Share of unassigned cells, and number of cells, from which a label or a cluster is one to look at.
DOUBTFUL, FEW = 0.3, 10
TEXTS = "texts"  # kind of a record of scstore.name
THINGS = 3  # to look at, at most


def verdict(obs: pd.DataFrame, record: Mapping[str, Any], cluster: str | None) -> list[str]:
    frame = obs[[name for name in obs.columns if str(name).startswith(PREFIX)]].rename(
        columns=lambda name: str(name).removeprefix(PREFIX)
    )
    frame = frame.assign(**{name: frame[name].astype(str) for name in ("label", "status")})
    return [_labelled(frame), _how_sure(frame, record), _look_at(frame, None if cluster is None else obs[cluster])]


def _labelled(frame: pd.DataFrame) -> str:
    n, counts = len(frame), frame["status"].value_counts()
    stands = int(counts.get("ok", 0)) + int(counts.get(COARSE, 0))
    coarse = f", {counts[COARSE]:,} of them a coarser one than wanted" if COARSE in counts else ""
    if stands == n:
        return f"All {n:,} cells have a label{coarse}."
    left = ", ".join(f"{counts[name]:,} {why}" for name, why in WHY.items() if name in counts)
    return (
        f"{stands:,} of {n:,} cells ({stands / n:.{int(stands / n > 0.99)}%}) have a label{coarse}; unassigned: {left}."
    )


def _how_sure(frame: pd.DataFrame, record: Mapping[str, Any]) -> str:
    if record.get("kind") == TEXTS:
        return (
            "The labels rest on texts about genes and cell types, not on labelled cells: how often they are right is "
            "not known here."
        )
    held_out, genes = record.get("held_out") or {}, record.get("genes") or {}
    right, lacking = held_out.get("accuracy"), ""
    if genes.get("missing") and "accuracy" in genes:
        right, lacking = genes["accuracy"], ", with as many genes missing (an estimate)"
    whose = f"when it had not seen their {record['group']}" if record.get("group") else "when it had not seen them"
    known = "How often the head is right was not measured"
    if right is not None:
        known = f"The head labelled {right:.0%} of reference cells right {whose}{lacking}"
    novelty = frame.get("novelty", pd.Series(dtype=float)).dropna()
    if not len(novelty):
        return f"{known}."
    beyond = float((novelty > 1).mean())
    far = f"{beyond:.0%} of your cells lie far from those of their label (5% of the reference's own do)"
    unsafe = "do not count on that here" if beyond > MOSTLY_UNLIKE else "expect less for those"
    return f"{known}; {far}." if beyond <= UNLIKE else f"{known}, but {far}: {unsafe}."


def _look_at(frame: pd.DataFrame, clusters: pd.Series | None) -> str:
    things: list[str] = []
    unsure = frame[frame["status"].isin(["unsure", COARSE])]
    if len(unsure):
        names = unsure[["best_label", "second_label"]].astype(str).to_numpy()
        pairs = pd.Series([" and ".join(sorted(pair)) for pair in names]).value_counts()
        things.append(f"{_cells(pairs.iloc[0])} between {pairs.index[0]}")
    far = frame.loc[frame["status"] == "far", "best_label"].astype(str).value_counts()
    if len(far):
        things.append(f"{_cells(far.iloc[0])} far from the reference's {far.index[0]}, though that is the best label")
    told = frame.get("suggestion", pd.Series(dtype=str)).astype(str)
    if len(told := told[told != ""].value_counts()):
        things.insert(0, f"{_cells(told.iloc[0])} that look like {told.index[0]}, a suggestion by texts alone")
    if clusters is not None:
        doubtful = (frame["label"] == UNASSIGNED).groupby(clusters.astype(str).to_numpy()).agg(["mean", "size"])
        doubtful = doubtful[(doubtful["mean"] >= DOUBTFUL) & (doubtful["size"] >= FEW)].sort_values("mean")
        if len(doubtful):
            things.append(f"cluster {doubtful.index[-1]}, {doubtful['mean'].iloc[-1]:.0%} of it unassigned")
    few = frame.loc[frame["label"] != UNASSIGNED, "label"].value_counts()
    few = few[few < FEW]
    if len(few):
        listed = ", ".join(f"{name} ({n})" for name, n in few.items())
        things.append(f"labels of few cells: {listed}")
    return f"Look first at {'; '.join(things[:THINGS])}." if things else "Nothing stands out."


def _cells(n: int) -> str:
    return "the one cell" if n == 1 else f"the {n:,} cells"


def methods(record: Mapping[str, Any], n_cells: int) -> str:
    if record.get("kind") == TEXTS:
        return _methods_of_texts(record, n_cells)
    held_out, genes, views = record.get("held_out") or {}, record.get("genes") or {}, record.get("views", [])
    group, many = record.get("group", ""), record.get("n_groups", 0)
    whose = f" ({many} values of {group})" if many else ""
    of_genes = f" of {genes['n_read']} genes" if genes else ""
    names = [f"log-normalised expression{of_genes}" if view == "X" else str(view) for view in views]
    by = f"by a head ({record.get('kind', '')}) trained on {record.get('trained_cells', 0):,} cells{whose}"
    of = f"of {record.get('trained_on', '')} with {len(record.get('labels', []))} labels of {record.get('label', '')}"
    said = [f"{n_cells:,} cells were labelled with scstore {record.get('scstore', '')} {by} {of}."]
    said.append(f"It reads {', '.join(names)}.")
    if record.get("model"):
        said.append(f"Readouts are hidden states of {record['model']} ({record.get('model_digest', '')}).")
    if missing := genes.get("missing"):
        said.append(f"{len(missing)} of the genes were not measured and were estimated from the others.")
    if held_out.get("accuracy") is not None:
        how = f"whole groups of {group} at a time" if group else "at random"
        said.append(
            f"Probabilities were calibrated on {held_out['n']:,} predictions of reference cells that were held out, "
            f"{how}; {held_out['accuracy']:.1%} of these were right (macro-F1 {held_out.get('macro_f1', 0):.3f})."
        )
    rules = []
    if least := record.get("least_confidence"):
        rules.append(f"its calibrated probability was at least {least:.3f}")
    if isinstance(most := record.get("most_novelty"), float):
        rules.append(f"the cell's novelty was at most {most:.2f}")
    if rules:
        said.append(f"A label was kept where {' and '.join(rules)}")
        if "keep" in held_out:
            said[-1] += f", as at least {held_out['keep']:.0%} of correctly labelled held-out cells do"
        said[-1] += "."
    if n := record.get("n_suggested"):
        said.append(f"For {n:,} unassigned cells a type is suggested, by texts about genes and types (MiniLM) alone.")
    return " ".join(said)


def _methods_of_texts(record: Mapping[str, Any], n_cells: int) -> str:
    by = f"each cluster of {record['cluster']}" if record.get("cluster") else "each cell, averaged with its nearest 15,"
    markers = f" and {record['markers']:,} marker genes" if record.get("markers") else ""
    return (
        f"{n_cells:,} cells were labelled with scstore {record.get('scstore', '')} without labelled cells, by the "
        f"similarity of texts (MiniLM): NCBI's of {record.get('n_genes', 0):,} genes and the Cell Ontology's of "
        f"{len(record.get('labels', [])):,} cell types{markers}. Of {by} the log-normalised expression above the "
        "mean of all cells was summed over the genes whose texts are nearest to a type's. A label was kept where "
        f"shuffled gene texts gave as high a score with p ≤ {record.get('max_p', 0):g}, and as large a lead "
        "with p ≤ 0.2."
    )
