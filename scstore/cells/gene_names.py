"""What the genes of a file are called: names cleaned, taken apart, and found wherever programs keep them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import pandas as pd

# ENSG00000167286.8; not the symbol ENSAP2.
ENSEMBL_ID = re.compile(r"(ENS[A-Z]*\d{6,})(\.\d+)?")

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
    """Return texts without byte order marks, outer blanks and quotes."""
    texts = list(map(str, values))
    for i, text in enumerate(texts):
        if TO_CLEAN.search(text):
            plain = text.translate(NO_TEXT).strip()
            found = BYTES.fullmatch(plain)
            texts[i] = (found[2] if found else plain).strip(" \r\n\"'`")
    return texts


def strings(values: pd.Series) -> list[str]:
    """Return the cleaned texts of a column, empty where missing."""
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
    """Take a genome's name off names that (nearly) all begin with one; return the names, and what was taken off.

    The prefix of an assembly, what stands before Ensembl ids, or what all names share before well-known genes.
    """
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


def _once(names: Sequence[str]) -> list[str]:
    """Return symbols without the number that makes a repeated one unique (``TBCE-1`` and ``TBCE.1`` beside TBCE)."""
    known = set(names)
    numbered = [MADE_UNIQUE.fullmatch(name) for name in names]
    return [m[1] if m and m[1] in known else name for name, m in zip(names, numbered, strict=True)]


def find_names(var: pd.DataFrame) -> tuple[pd.DataFrame, list[list[str]]]:
    """Return ``var`` with clean names, and for each column of names the genomes that stood before them.

    Its index and its columns of names are cleaned; ``symbol`` and ``ensembl_id`` (without version) are new, each empty
    where the file does not know it. An index that says nothing (a number, two names in one) becomes the symbol or id.
    """
    titles = name_columns(var)
    columns = {"": clean_texts(var.index), **{key: strings(var[title]) for key, title in titles.items()}}
    genomes = []
    for key, names in columns.items():
        columns[key], taken = split_genome(names)
        genomes.append(taken)
    parts = {key: [_take_apart(name) for name in names] for key, names in columns.items()}
    order = [key for key in SYMBOL_KEYS if key in parts] + [""] + [key for key in VAGUE_KEYS if key in parts]
    own_symbols = _once([symbol for _, symbol in parts[""]])
    parts[""] = [(own, symbol) for (own, _), symbol in zip(parts[""], own_symbols, strict=True)]
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
    index = list(columns[""])
    for i, (name, part, symbol, gene_id) in enumerate(zip(index, parts[""], symbols, ids, strict=True)):
        if not name or NUMBER.fullmatch(name) or all(part):
            index[i] = (gene_id if symbol in repeated else "") or symbol or gene_id or name
    return found.set_axis(pd.Index(index, dtype=object)), genomes


def _is_symbol(text: str) -> bool:
    if text.casefold() in MISSING or " " in text:
        return False
    return not (NUMBER.fullmatch(text) or REGISTERED.fullmatch(text))


def _first(columns: Iterable[Sequence[tuple[str, str]]], which: int, good: Callable[[str], bool]) -> list[str]:
    """Return for each gene the first good id (0) or symbol (1)."""
    return [next((part[which] for part in own if good(part[which])), "") for own in zip(*columns, strict=True)]
