"""Labels of any laboratory as terms of the Cell Ontology, found by their words; vectors of its and of genes' texts."""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from scstore.errors import OptionError, show, show_some
from scstore.options import did_you_mean
from scstore.untrusted.guards import read_unpacked, reading

GENES, TERMS, VECTORS = "genes.parquet", "terms.parquet", "vectors.safetensors"
KINDS = ("genes", "terms")


@dataclass(frozen=True, eq=False)
class Texts:
    """Genes of human and mouse and terms of the Cell Ontology, with the vectors ``(n, width)`` of their texts."""

    genes: pd.DataFrame  # as a gene table's obs, and vector, the row of gene_vectors (of the human ortholog)
    terms: pd.DataFrame  # by id: synonyms and ancestors (its own first), by |; general, common: lists of CELLxGENE's
    gene_vectors: NDArray[np.float32]
    term_vectors: NDArray[np.float32]
    centre: NDArray[np.float32]
    projection: NDArray[np.float32]  # brings the encoder's own vectors of length one here, less the centre

    def place(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        unit = encoded / np.linalg.norm(encoded, axis=1, keepdims=True)
        return np.asarray((unit - self.centre) @ self.projection)

    def within(self, lineage: str) -> list[str]:
        return [str(name) for name, text in self.terms["ancestors"].items() if lineage in text.split("|")]


@cache
def load_texts() -> Texts:
    """Read what ``benchmarks/naming_data.py`` made: whole numbers, a factor for each row; see ``data/README.md``."""
    with as_file(files("scstore.naming") / "data") as folder:
        arrays = load_file(folder / VECTORS)
        genes, terms = (pd.read_parquet(folder / name) for name in (GENES, TERMS))
    of_genes, of_terms = (arrays[kind].astype(np.float32) * arrays[f"{kind}_scale"][:, None] for kind in KINDS)
    return Texts(genes, terms.set_index("id"), of_genes, of_terms, arrays["centre"], arrays["projection"])


GENERAL = "cl"
TERM = re.compile(r"CL[:_]\d{7}")
LEAST = 0.55  # similarity of words from which a term is the label's
MOST_TYPES = 1000
# What laboratories write for what the ontology spells out.
SHORT = {
    "nk": "natural killer", "dc": "dendritic cell", "cdc": "conventional dendritic cell", "treg": "regulatory t cell",
    "pdc": "plasmacytoid dendritic cell", "mdc": "myeloid dendritic cell", "ilc": "innate lymphoid cell",
    "mono": "monocyte", "mk": "megakaryocyte", "rbc": "erythrocyte", "hsc": "hematopoietic stem cell",
    "ec": "endothelial cell", "endo": "endothelial cell", "lec": "lymphatic endothelial cell", "pb": "plasmablast",
    "vsmc": "vascular associated smooth muscle cell", "smc": "smooth muscle cell", "mac": "macrophage",
    "opc": "oligodendrocyte precursor cell", "mait": "mucosal invariant t cell", "gd": "gamma-delta",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Types:
    """Cell types to choose among: their labels, the ontology id of each or "", and marker genes by label."""

    labels: list[str]
    ids: list[str]
    markers: dict[str, list[str]]


def plain(label: str) -> str:
    """Return a label in the words that terms are found by: ``T_CD4.1`` is ``cd4 t``."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=\b[BT])(?=cell)", " ", label)
    text = re.sub(r"[._/|]+", " ", text).casefold()
    text = re.sub(r"(?<=\d)(\+|-pos(itive)?\b|hi\b)|,? alpha-beta\b", "", text)
    text = re.sub(r"(?<=\d)(-neg(ative)?\b|-(?=\s|,|$))", "neg", text)
    words = [re.sub(r"(?<=[a-z]{2})(?<!s)s$", "", word) for word in re.findall(r"[^\W_]+", text)]
    words = " ".join(SHORT.get(word, word) for word in words).split()
    kept = [word for word in words if word not in ("cell", "type") and not re.fullmatch(r"\d", word)]
    return " ".join(sorted(kept or words))


class _Words:
    """All names and synonyms of terms as rows of weighted letters and words."""

    def __init__(self, terms: pd.DataFrame) -> None:
        self.rows: list[int] = []
        self.exact: dict[str, int] = {}
        texts: list[str] = []
        names = [plain(name) for name in terms["name"]]
        for row, (name, synonyms) in enumerate(zip(names, terms["synonyms"], strict=True)):
            own = dict.fromkeys([name, *(plain(text) for text in synonyms.split("|") if text)])
            texts += own
            self.rows += [row] * len(own)
        for text, row in [*zip(names, range(len(names)), strict=True), *zip(texts, self.rows, strict=True)]:
            self.exact.setdefault(text, row)
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32)
        words = TfidfVectorizer(analyzer=str.split, sublinear_tf=True, dtype=np.float32)
        self._weigh = make_union(letters, words)
        self._matrix = self._weigh.fit_transform(texts).T.tocsr() / np.float32(2)  # of each half its cosine

    def similarities(self, labels: Sequence[str], n_terms: int) -> np.ndarray[Any, Any]:
        """Return the similarity of each label with the nearest name of each term ``(n_labels, n_terms)``."""
        texts = [plain(label) for label in labels]
        names = (self._weigh.transform(texts) @ self._matrix).toarray()
        found = np.zeros((len(labels), n_terms), dtype=np.float32)
        for row, text in enumerate(texts):
            np.maximum.at(found[row], self.rows, np.minimum(names[row], 0.99))
            if text in self.exact:
                found[row, self.exact[text]] = 1
            found[row] *= any(map(str.isalpha, text))  # the number of a cluster means no type
        return found


@cache
def _words() -> _Words:
    return _Words(load_texts().terms)


def find_terms(labels: Iterable[str]) -> pd.DataFrame:
    """Return the nearest term of the Cell Ontology of each label, ``ok`` where it is near enough, and the next best."""
    wanted = list(dict.fromkeys(map(str, labels)))
    terms = load_texts().terms
    found = _words().similarities(wanted, len(terms)) if wanted else np.zeros((0, len(terms)))
    rows = np.argsort(-found, axis=1, kind="stable")[:, :2]
    columns: dict[str, Any] = {}
    for prefix, best in (("", rows[:, 0]), ("next_", rows[:, 1])):
        scores = found[np.arange(len(wanted)), best]
        columns |= {f"{prefix}id": terms.index[best], f"{prefix}term": terms["name"].to_numpy()[best]}
        columns[f"{prefix}score"] = scores.astype(np.float64)
        if not prefix:
            columns["status"] = np.where(scores >= LEAST, "ok", "unsure")
    return pd.DataFrame(columns, index=pd.Index(wanted, name="label", dtype=object))


def read_types(types: str | os.PathLike[str] | Sequence[str]) -> Types:
    """Return the types that are meant by labels, by a file of them, by a lineage, or by ``cl``, the general ones."""
    given = [os.fspath(types)] if isinstance(types, str | os.PathLike) else [str(one) for one in types]
    texts = load_texts()
    if len(given) != 1:
        return _listed(given)
    one = given[0]
    if Path(one).is_file():
        return _read_file(Path(one))
    if one.casefold() == GENERAL:
        ids = [str(name) for name in texts.terms.index[texts.terms["general"]]]
    else:
        ids = texts.within(lineage_of(one, texts))
    return Types([str(name) for name in texts.terms.loc[ids, "name"]], ids, {})


def lineage_of(name: str, texts: Texts) -> str:
    by_name = {text.casefold(): str(found) for found, text in texts.terms["name"].items()}
    found = name.replace("_", ":") if TERM.fullmatch(name) else by_name.get(name.casefold(), "")
    if found not in texts.terms.index:
        near = did_you_mean(name, texts.terms["name"])
        raise OptionError(
            f"types={name!r}: not a file, {GENERAL!r} (the general types of the Cell Ontology), nor one of its terms."
            f"{near} Or give two or more labels."
        )
    return found


def _listed(labels: Sequence[str], markers: dict[str, list[str]] | None = None) -> Types:
    wanted = [label.strip() for label in labels if label.strip()]
    if twice := [label for label in dict.fromkeys(wanted) if wanted.count(label) > 1]:
        raise OptionError(f"types: {show(twice[0])} is there more than once. Leave one out.")
    if not 2 <= len(wanted) <= MOST_TYPES:
        raise OptionError(f"types: {len(wanted):,} labels. Give 2 to {MOST_TYPES:,} to choose among.")
    found = find_terms(wanted)
    ids = [str(one) for one in found["id"].where(found["status"] == "ok", "")]
    return Types(wanted, ids, markers or {})


def read_labels(path: Path) -> list[str]:
    with reading(path, "labels", error=OptionError, cure="Give one label a line."):
        lines = read_unpacked(path).decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _read_file(path: Path) -> Types:
    """Read one label a line, or a table with the columns ``label`` and ``gene``."""
    lines = read_labels(path)
    rows = list(csv.DictReader(lines, delimiter="\t" if lines and "\t" in lines[0] else ","))
    if not rows or not {"label", "gene"} <= {*rows[0]}:
        return _listed(lines)
    markers: dict[str, list[str]] = {}
    for row in rows:
        if row["label"] and row["gene"]:
            markers.setdefault(row["label"].strip(), []).append(row["gene"].strip())
    return _listed(list(markers), markers)


def without_text(types: Types) -> list[str]:
    return [
        label for label, name in zip(types.labels, types.ids, strict=True) if not name and label not in types.markers
    ]


def refuse_unknown(labels: Sequence[str]) -> None:
    near = find_terms(labels)["term"].iloc[0]
    raise OptionError(
        f"types: nothing is known of {show_some(labels)}. Write them out (the nearest term to the first is {near!r}), "
        "give a table of label and gene with their markers, or install scstore[demo], which encodes any text."
    )
