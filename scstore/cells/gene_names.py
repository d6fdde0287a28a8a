"""Which columns of a matrix are genes, of which species, and what they are called, wherever programs keep it."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.matrices import RowMatrix
from scstore.errors import show, show_some

ENSEMBL_ID = re.compile(r"(ENS[A-Z]*\d{6,})(\.\d+)?")  # ENSG00000167286.8; not the symbol ENSAP2
# Columns of ``var`` with names, as :func:`column_key` writes them; the symbols best first.
SYMBOL_KEYS = (
    "symbol", "symbols", "genesymbol", "genesymbols", "genename", "genenames", "featurename", "featurenames",
    "geneshortname", "hgncsymbol", "mgisymbol", "externalgenename",
)  # fmt: skip
ID_KEYS = (
    "geneids", "geneid", "ensemblid", "ensemblids", "ensembl", "ensemblgeneid", "featureid", "featureids", "accession",
)  # fmt: skip
# Titles that may mean anything: looked at where the index has no symbol.
VAGUE_KEYS = ("index", "name", "names", "gene", "genes", "feature", "features", "id", "ids")
NAME_KEYS = (*ID_KEYS, *SYMBOL_KEYS, *VAGUE_KEYS)
# Byte order marks, zero-width characters, nonbreaking spaces, and quotes that are left when a table is written by hand.
NO_TEXT = {ord(mark): None for mark in "\ufeff\u200b\u2060"} | {ord("\xa0"): " ", ord("\t"): " "}
TO_CLEAN = re.compile("[\ufeff\u200b\u2060\xa0\\s\"'`]")
BYTES = re.compile(r"b(['\"])(.*)\1")
MISSING = {"", "nan", "na", "n/a", "<na>", "none", "null", "-"}
# ENSG…_CD3D, CD3D_ENSG…, CD3D (ENSG…), ENSG…|CD3D.
SEPARATORS = r"[\s_|:;,()\[\]/-]+"
COMBINED = re.compile(
    rf"(?:(?P<before>.+?){SEPARATORS})?(?P<id>ENS[A-Z]*G\d{{6,}})(?:\.\d+)?(?:{SEPARATORS}(?P<after>.*?))?[)\]]?"
)
# What follows an id and is no symbol: the copy on the Y chromosome; alevin's and kb's unspliced or ambiguous counts.
NO_SYMBOL = {"PAR_Y", "U", "A", "I", "S"}
# Names of registers, which are no symbols.
REGISTERED = re.compile(r"(?:HGNC|MGI|RGD|NCBI\w*|Entrez\w*):.*|ENS[A-Z]*\d{6,}.*", re.IGNORECASE)
# hg38_CD3D, GRCh38______ENSG…, GRCm39-Cd3d, GRCh38_premrna_CD3D.
ASSEMBLY = re.compile(
    r"((?:GRC[a-z]\d\d|hg\d\d|mm\d\d?|rn\d|danRer\d\d|mRatBN[\d.]+|CHM13|human|mouse|homo_?sapiens|mus_?musculus)"
    r"[a-z\d.]*?(?:[_-]+(?:pre-?mrna|p\d+|v\d+))?)[_-]+(?=\w)",
    re.IGNORECASE,
)
BEFORE_ID = re.compile(r"(.+?)[_-]+(?=ENS[A-Z]*G\d{6,})")
# Genes by which a prefix of all names is known to be one.
WELL_KNOWN = {"actb", "gapdh", "malat1", "b2m", "eef1a1", "rpl3", "rps6", "ftl", "ptprc", "cd3d", "cd74", "lyz"}
FEWEST_WITH_PREFIX = 5
# What a program writes where it has no names: 0, gene_7, Gene7, V7, feature 7.
NUMBER = re.compile(r"\d+(\.0)?")
PLACEHOLDER = re.compile(r"\d+(\.0)?|gene[ _.-]?\d+|Gene\d+|V\d+|(?i:feature|var|col|column|unnamed)[ _.:-]*\d+")
# TBCE-1, TBCE.1; but IGHV1-69-2 is a gene beside IGHV1-69.
MADE_UNIQUE = re.compile(r"((?!IG[HKL]|TR[ABDG]).+)[.-]\d{1,2}")


def column_key(title: object) -> str:
    """Return a column's title without capitals and separators: ``Gene_Symbol``, ``gene.symbol`` -> ``genesymbol``."""
    return re.sub(r"[\W_]", "", str(title).casefold())


def clean_texts(values: Iterable[object]) -> list[str]:
    texts = list(map(str, values))
    for i, text in enumerate(texts):
        if TO_CLEAN.search(text):
            plain = text.translate(NO_TEXT).strip()
            found = BYTES.fullmatch(plain)
            texts[i] = (found[2] if found else plain).strip(" \r\n\"'`")
    return texts


def strings(values: pd.Series) -> list[str]:
    missing = values.isna().to_numpy()
    return ["" if absent else text for text, absent in zip(clean_texts(values), missing, strict=True)]


def stable_id(name: str) -> str:
    """Return an Ensembl id without its version; other names, such as 'RP11-206L10.2', unchanged."""
    found = ENSEMBL_ID.fullmatch(name)
    return found[1] if found else name


def name_columns(var: pd.DataFrame) -> dict[str, object]:
    """Return the columns of ``var`` with names, title by key, in the order in which they are looked at."""
    by_key = {column_key(title): title for title in reversed(list(var.columns))}
    return {key: by_key[key] for key in NAME_KEYS if key in by_key}


def split_genome(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take a genome's name off names that (nearly) all begin with one; return the names, and what was taken off."""
    found = [ASSEMBLY.match(name) or (BEFORE_ID.match(name) if "ENS" in name else None) for name in names]
    counts = Counter(match[1] for match in found if match)
    enough = max(2, 0.05 * len(names))
    is_genome = [match is not None and counts[match[1]] >= enough for match in found]
    if 2 * sum(is_genome) < len(names):
        return _split_shared(names)
    cut = [match if ok else None for match, ok in zip(found, is_genome, strict=True)]
    rest = [name[match.end() :] if match else name for name, match in zip(names, cut, strict=True)]
    return _split_shared(rest)[0], [match[1] if match else "" for match in cut]  # GRCh38-2020-A_CD3D


def _split_shared(names: Sequence[str]) -> tuple[list[str], list[str]]:
    none = [""] * len(names)
    low, high = min(names, default=""), max(names, default="")
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), 0)
    prefix = re.match(r".*[_:|.-]", low[:same])
    if prefix is None or len(names) < FEWEST_WITH_PREFIX:
        return list(names), none
    rest = [name[prefix.end() :] for name in names]
    if not WELL_KNOWN & {name.casefold() for name in rest} and not all(map(ENSEMBL_ID.fullmatch, rest)):
        return list(names), none
    return rest, [prefix[0].rstrip("_:|.-")] * len(names)


def _take_apart(name: str) -> tuple[str, str]:
    """Return the Ensembl id and the symbol in a name, each empty where there is none."""
    if "ENS" not in name:
        return "", name
    if ENSEMBL_ID.fullmatch(name):
        return stable_id(name), ""
    found = COMBINED.fullmatch(name)
    rest = found and (found["before"] or found["after"] or "")
    if not found or rest in NO_SYMBOL or (found["before"] and found["after"]):
        return "", name
    return found["id"], "" if NUMBER.fullmatch(rest or "") else rest or ""  # a version of a version: ENSG….5_2


def find_names(var: pd.DataFrame) -> tuple[pd.DataFrame, list[list[str]]]:
    """Return ``var`` with clean names, ``symbol`` and ``ensembl_id``, and for each column of names its genomes."""
    titles = name_columns(var)
    columns = {"": clean_texts(var.index), **{key: strings(var[title]) for key, title in titles.items()}}
    genomes = []
    for key, names in columns.items():
        columns[key], taken = split_genome(names)
        genomes.append(taken)
    parts = {key: [_take_apart(name) for name in names] for key, names in columns.items()}
    order = [key for key in SYMBOL_KEYS if key in parts] + [""] + [key for key in VAGUE_KEYS if key in parts]
    known = {symbol for _, symbol in parts[""]}  # TBCE-1 and TBCE.1 beside TBCE are the same
    numbered = [(own, symbol, MADE_UNIQUE.fullmatch(symbol)) for own, symbol in parts[""]]
    parts[""] = [(own, found[1] if found and found[1] in known else symbol) for own, symbol, found in numbered]
    symbols = _first((parts[key] for key in [*order, *(key for key in ID_KEYS if key in parts)]), 1, _is_symbol)
    ids = _first((parts[key] for key in ["", *titles]), 0, bool)
    for title in var.columns if not any(ids) else ():  # whatever it is called
        own = [stable_id(name) if ENSEMBL_ID.fullmatch(name) else "" for name in strings(var[title])]
        ids = own if 2 * sum(map(bool, own)) > len(own) else ids
    found = var.copy(deep=False)
    for key, title in titles.items():
        found[title] = pd.Series(columns[key], index=found.index, dtype=object)
    found["symbol"] = pd.Series(symbols, index=found.index, dtype=object)
    found["ensembl_id"] = pd.Series(ids, index=found.index, dtype=object)
    repeated = {symbol for symbol, n in Counter(symbols).items() if n > 1}
    index = list(columns[""])  # one that says nothing (a number, two names in one) becomes the symbol or id
    for i, (name, part, symbol, gene_id) in enumerate(zip(index, parts[""], symbols, ids, strict=True)):
        if not name or NUMBER.fullmatch(name) or all(part):
            index[i] = (gene_id if symbol in repeated else "") or symbol or gene_id or name
    return found.set_axis(pd.Index(index, dtype=object)), genomes


def _is_symbol(text: str) -> bool:
    if text.casefold() in MISSING or " " in text:
        return False
    return not (NUMBER.fullmatch(text) or REGISTERED.fullmatch(text))


def _first(columns: Iterable[Sequence[tuple[str, str]]], which: int, good: Callable[[str], bool]) -> list[str]:
    return [next((part[which] for part in own if good(part[which])), "") for own in zip(*columns, strict=True)]


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
FEWEST_PAIRS = 4  # symbols that differ by capitals alone, CD3D and Cd3d: a species has a few
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
        return RowMatrix(shape, lambda start, stop: matrix.rows(start, stop)[:, keep], source, name)


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
    if dates := [name for name in found.index if DATE.fullmatch(name)]:
        notes.append(f"gene names: {len(dates):,} were made dates by a spreadsheet, and are lost ({show_some(dates)})")
    problem = _several_species(found, [*genomes, *own], notes) or _spliced_apart(found) or _nameless(found)
    return Genes(found, keep, tuple(notes), problem)


def _joined(var: pd.DataFrame, beside: pd.DataFrame | None) -> pd.DataFrame:
    """Add the columns about genes that ``var`` lacks and a frame of the same genes has."""
    if beside is None or beside is var or not len(var):
        return var
    own = {column_key(title) for title in var.columns}
    known = {*NAME_KEYS, *TYPE_KEYS, *GENOME_KEYS, "filteredprobes"}
    titles = [title for title in beside.columns if column_key(title) in known - own]
    index, theirs = pd.Index(clean_texts(var.index)), pd.Index(clean_texts(beside.index))
    is_other = 2 * index.isin(theirs).sum() < min(len(index), len(theirs))
    is_numbered_anew = all(map(str.isdecimal, index)) and len(index) != len(theirs)  # after genes were left out
    if not titles or not theirs.is_unique or is_other or is_numbered_anew:
        return var
    more = beside[titles].astype(object).set_axis(theirs).reindex(index)
    return pd.concat([var, more.set_axis(var.index)], axis=1)


def has_gene_expression(var: pd.DataFrame) -> bool:
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


def _several_species(var: pd.DataFrame, genomes: list[list[str]], notes: list[str]) -> str | None:
    """Return why genes are of several species; a note tells of a reporter's or virus's, which are kept."""
    cure = "Write the cells and genes of one to a file of their own."
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
            names = sorted(first[species] or species for species in held)
            return f"it holds {len(names)} genomes ({show_some(names, limit=6)}). {cure}"
        few = {first[s] or s: n for s, n in counts.items() if held and n and s not in held}
        said = [f"genes of another genome are kept: {n:,} of {show(name)}" for name, n in few.items()]
        notes += [line for line in said if line not in notes]
    symbols = {name for name in var["symbol"] if name}
    pairs = len(symbols) - len({name.casefold() for name in symbols})
    return f"it holds 2 genomes (human, mouse). {cure}" if pairs > max(FEWEST_PAIRS, len(symbols) / 10) else None


@functools.cache
def _species(genome: str) -> str:
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
