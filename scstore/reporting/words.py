"""What a page says in words: the verdict, and a text for the methods."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from scstore.annotation.annotated_cells import PREFIX
from scstore.annotation.prediction_frames import COARSE, UNASSIGNED

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
    """Return three sentences: how many cells are labelled, how sure that is, what to look at."""
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
    return f"{stands:,} of {n:,} cells ({_percent(stands, n)}) have a label{coarse}; unassigned: {left}."


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


def _percent(part: int, whole: int) -> str:
    return f"{part / max(1, whole):.1%}" if part < whole and part / whole > 0.99 else f"{part / max(1, whole):.0%}"
