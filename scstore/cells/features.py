"""Which columns of a matrix are genes, of which species, and what they are called: all inputs pass here."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.gene_names import NAME_KEYS, SYMBOL_KEYS, clean_texts, column_key, find_names, name_columns, strings
from scstore.cells.matrices import RowMatrix, SlicedRows
from scstore.errors import show, show_some

GENE_EXPRESSION = "gene expression"

TYPE_KEYS = ("featuretypes", "featuretype", "featurebiotype", "type", "types", "modality")
GENOME_KEYS = ("genome", "featurereference", "organism", "species")

# Feature types, in small letters without separators, that no vocabulary uses for genes.
NO_GENES = re.compile(
    r"antibod.*|adt|abseq|(surface )?proteins?|prot|hto|hashtag.*|.*multiplexing.*|crispr.*|[sg]*guides?|s?grna|custom|"
    r"antigen.*|peaks?|atac.*|chromatin.*|spike.?ins?|ercc|.*control.*|.*codeword.*|blank.*|probes?|vdj.*|tags?"
)

# What is no gene by its name, where the file does not say so.
NO_GENE_NAMES = {
    "antibodies": re.compile(
        r".*TotalSeq.*|(HTO|[Hh]ash[Tt]ag|[Ss]ample[ _]?[Tt]ag)([ _.-]?\d+([ _.-].*)?|[ _-].+)|CMO3\d\d|"
        r"(ADT|adt)[_-].+|.+[_-](ADT|HTO)|.+-[ACGT]{15}"
    ),
    "peaks": re.compile(r"(\w+_)?(chr\w+|[\dXYM]+T?|(GL|KI)\d+\.\d)[:_-]\d+[_-]\d+"),
    "spike-ins": re.compile(r"ERCC-\d{5}"),
    "controls": re.compile(r"(NegControl|NegPrb|SystemControl|FalseCode|Unassigned|Deprecated|BLANK|Blank)\w*[_-]?\d+"),
    "reads of no gene": re.compile(
        r"__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)|N_[a-z]\w+|unmapped"
    ),
}
ANY_OF_THEM = re.compile("|".join(form.pattern for form in NO_GENE_NAMES.values()))

# ENSG00000167286|CD3D|1a2b3c4: a probe of a gene.
PROBE = re.compile(r"\|[0-9a-f]{6,8}$")
DEPRECATED_PROBE = "DEPRECATED_"

# Genomes by the start of their name or the letters of their Ensembl ids.
SPECIES = {
    "human": re.compile(r"grch|hg\d|human|homo|chm13|(ncbitaxon:)?9606$|ensg$"),
    "mouse": re.compile(r"grcm|mm\d|mouse|mus|(ncbitaxon:)?10090$|ensmusg$"),
    "rat": re.compile(r"rn\d|rat|mratbn|grcr|(ncbitaxon:)?10116$|ensrnog$"),
}
ENSEMBL_SPECIES = re.compile(r"ENS[A-Z]*?G(?=\d{6,})")
# Genes of another genome that are a virus, a reporter or a transgene, not a species: of no known one, of a known one.
FEW_GENES, FEW_SHARE = 200, 0.05
# Symbols that differ by capitals alone, CD3D and Cd3d: a species has a few.
FEWEST_PAIRS = 4

DATE = re.compile(r"\d{1,2}-(Mar|Sep|Dec|Oct|Nov|Apr|Feb)|(Mar|Sep|Dec|Oct|Nov|Apr|Feb)-\d{1,2}|\d{4}-\d\d-\d\d.*")


@dataclass(frozen=True, eq=False)
class Genes:
    """The genes of a slot: their names, their columns (``None``: all), lines to print, and why they cannot be used."""

    var: pd.DataFrame
    keep: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    problem: str | None = None

    def of(self, matrix: RowMatrix, *, source: str, name: str) -> RowMatrix:
        if (keep := self.keep) is None:
            return matrix
        shape = (matrix.shape[0], len(keep))
        return SlicedRows(shape, lambda start, stop: matrix.rows(start, stop)[:, keep], source, name)


def find_genes(var: pd.DataFrame, beside: pd.DataFrame | None = None) -> Genes:
    """Find the genes among the features that ``var`` describes; ``beside`` is a frame that may know more of them."""
    features = _joined(var, beside)
    by_key = {column_key(title): title for title in reversed(list(features.columns))}
    kinds = _other_kinds(features, by_key)
    gone = kinds != ""
    notes = []
    if gone.any():
        counts = Counter(kinds[gone])
        listed = ", ".join(f"{n:,} {kind}" for kind, n in counts.most_common(6))
        some = show_some(clean_texts(features.index[gone][:3]))
        notes.append(f"features: {int((~gone).sum()):,} genes; left out, being no genes: {listed} (e.g. {some})")
        if gone.all():
            why = f"no feature is a gene (of type 'Gene Expression'): there are {listed}. Give gene counts."
            return Genes(features, problem=why)
    keep = np.flatnonzero(~gone).astype(np.int64) if gone.any() else None
    found, genomes = find_names(_of_probes(features[~gone], notes))
    if taken := sorted({name for names in genomes for name in names if name}):
        notes.append(f"gene names: the prefix of the genome ({show_some(taken)}) is taken off")
    own = [strings(found[by_key[key]]) for key in GENOME_KEYS if key in by_key]
    if several := _several_species(found, [*genomes, *own], notes):
        those = f"{len(several)} genomes ({show_some(several, limit=6)})"
        return Genes(found, keep, problem=f"it holds {those}. Write the cells and genes of one to a file of their own.")
    if apart := _spliced_apart(found):
        return Genes(found, keep, problem=apart)
    if dates := [name for name in found.index if DATE.fullmatch(name)]:
        notes.append(f"gene names: {len(dates):,} were made dates by a spreadsheet, and are lost ({show_some(dates)})")
    return Genes(found, keep, tuple(notes), _nameless(found))


def _joined(var: pd.DataFrame, beside: pd.DataFrame | None) -> pd.DataFrame:
    """Add the columns about genes that ``var`` lacks and a frame of the same genes has."""
    if beside is None or beside is var or not len(var):
        return var
    own = {column_key(title) for title in var.columns}
    known = {*NAME_KEYS, *TYPE_KEYS, *GENOME_KEYS, "filteredprobes"}
    titles = [title for title in beside.columns if column_key(title) in known - own]
    index, theirs = pd.Index(clean_texts(var.index)), pd.Index(clean_texts(beside.index))
    if all(map(str.isdecimal, index)) and len(index) != len(theirs):  # numbered anew after genes were left out
        return var
    if not titles or not theirs.is_unique or 2 * index.isin(theirs).sum() < min(len(index), len(theirs)):
        return var
    more = beside[titles].astype(object).set_axis(theirs).reindex(index)
    return pd.concat([var, more.set_axis(var.index)], axis=1)


def has_gene_expression(var: pd.DataFrame) -> bool:
    """Whether features say that they are, or some of them are, gene expression."""
    titles = (title for title in var.columns if column_key(title) in TYPE_KEYS)
    return any(GENE_EXPRESSION in map(_plain, strings(var[title])) for title in titles)


def _plain(kind: str) -> str:
    return re.sub(r"[ _-]+", " ", kind.casefold())


def _other_kinds(features: pd.DataFrame, by_key: Mapping[str, object]) -> NDArray[np.object_]:
    """Return for each feature what it is if it is no gene, else an empty text."""
    kinds = np.full(len(features), "", dtype=object)
    typed = np.zeros(len(features), dtype=bool)
    for key in TYPE_KEYS:
        if key not in by_key:
            continue
        types = np.array(strings(features[by_key[key]]), dtype=object)
        plain = np.array([_plain(name) for name in types], dtype=object)
        no_gene = np.array([bool(NO_GENES.fullmatch(name)) for name in plain], dtype=bool)
        if (plain == GENE_EXPRESSION).any():  # the vocabulary of 10x: whatever else has a type is no gene
            typed |= plain != ""
            no_gene |= (plain != GENE_EXPRESSION) & (plain != "")
        kinds[no_gene & (kinds == "")] = types[no_gene & (kinds == "")]
    names = clean_texts(features.index)
    symbols = [strings(features[by_key[key]]) for key in SYMBOL_KEYS if key in by_key]
    for i, own in enumerate(zip(names, *symbols, strict=True)):
        if own[0].startswith(DEPRECATED_PROBE):
            kinds[i] = kinds[i] or "deprecated probes"
        elif not typed[i] and not kinds[i] and any(map(ANY_OF_THEM.fullmatch, own)):
            kinds[i] = next(kind for kind, form in NO_GENE_NAMES.items() if any(map(form.fullmatch, own)))
    if "filteredprobes" in by_key:
        unused = [text.casefold() in ("false", "0", "0.0") for text in strings(features[by_key["filteredprobes"]])]
        kinds[np.array(unused, dtype=bool) & (kinds == "")] = "probes that the run left out"
    return kinds


def _of_probes(features: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Name probes by their genes: the columns of one gene then have one name, and are refused or summed."""
    names = clean_texts(features.index)
    n_probes = sum(bool(PROBE.search(name)) for name in names)
    if not n_probes or 2 * n_probes < len(names):
        return features
    features = features.copy(deep=False)
    features.index = pd.Index([PROBE.sub("", name) for name in names], dtype=object)
    for title in name_columns(features).values():
        values = [PROBE.sub("", name) for name in strings(features[title])]
        features[title] = pd.Series(values, index=features.index, dtype=object)
    cure = "Give filtered_feature_bc_matrix.h5 of the same run, or add them up with sum_duplicate_genes=True."
    notes.append(f"features: {n_probes:,} are probes, several of one gene. {cure}")
    return features


def _several_species(var: pd.DataFrame, genomes: list[list[str]], notes: list[str]) -> list[str]:
    """Return the genomes of a file that holds genes of more than one species, else nothing.

    A reporter, a transgene or the genes of a virus beside them are no second species: a note says that they are kept.
    """
    by_id = [_species(found[0]) if (found := ENSEMBL_SPECIES.match(name)) else "" for name in var["ensembl_id"]]
    for names in (*genomes, by_id):
        first: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for name, other in zip(names, by_id, strict=True):
            species = "" if "_and_" in name else _species(name)
            if species not in SPECIES and other:
                species = other  # a genome by a name of the lab's own
            first.setdefault(species, name)
            counts[species] += bool(species)
        held = [s for s, n in counts.items() if n > FEW_GENES or (s in SPECIES and n > max(1, FEW_SHARE * len(names)))]
        if len(held) > 1:
            return sorted(first[species] or species for species in held)
        few = {first[s] or s: n for s, n in counts.items() if held and n and s not in held}
        said = [f"genes of another genome are kept: {n:,} of {show(name)}" for name, n in few.items()]
        notes += [line for line in said if line not in notes]
    symbols = {name for name in var["symbol"] if name}
    pairs = len(symbols) - len({name.casefold() for name in symbols})
    return ["human", "mouse"] if pairs > max(FEWEST_PAIRS, len(symbols) / 10) else []


@functools.cache
def _species(genome: str) -> str:
    """Return the common name of a known genome's species, else the genome."""
    return next((species for species, form in SPECIES.items() if form.match(genome.casefold())), genome)


def _spliced_apart(var: pd.DataFrame) -> str | None:
    """Return why genes cannot be used of which spliced and other counts stand apart (alevin, alevin-fry, kb)."""
    names = set(var.index)
    apart = [name for name in var.index if f"{name}-U" in names or f"{name}-I" in names]
    if 4 * len(apart) <= len(names):
        return None
    these = f"spliced and unspliced counts of a gene stand apart ({show(apart[0])}, with -U, -I or -A behind it)"
    return f"{these}. Add them up (pyroe.load_fry(folder, output_format='scRNA')) and write that as .h5ad."


def _nameless(var: pd.DataFrame) -> str | None:
    """Return why genes cannot be known, where most have neither a symbol nor an Ensembl id."""
    nameless = (var["symbol"] == "") & (var["ensembl_id"] == "")
    if not len(var) or 2 * nameless.sum() <= len(var):
        return None
    others = [str(title) for title in var.columns if title not in ("symbol", "ensembl_id")]
    there = f" var has the columns {show_some(others)}." if others else ""
    some = show_some(var.index[nameless.to_numpy()][:3])
    cure = "Put symbols or Ensembl ids into the index of var, or into a column 'gene_symbols' or 'gene_ids'"
    return f"the genes have no names: they are only numbered ({some}, …).{there} {cure}."
