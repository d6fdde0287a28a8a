"""Published gene vectors, such as GenePT's, as gene tables."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.gene_names import ENSEMBL_ID
from scstore.errors import GenesError
from scstore.genes.matching import guess_organism
from scstore.genes.table import COLUMNS, GeneTable, unique_names
from scstore.untrusted.guards import EXHAUSTS, FLOOR, RATIO, check_path, reading
from scstore.untrusted.pickles import read_pickle

PUBLISHED = "published"  # ``text_source`` of genes with unknown texts, and the kind of their encoder
FORMS = "a pickle of {symbol: vector} or .parquet"


def read_published(path: str | os.PathLike[str], *, organism: str | None = None) -> GeneTable:
    """Read published vectors of genes, by symbols or Ensembl ids, as a gene table; the first bytes decide the form."""
    file = Path(path)
    names, rows = _read(file)
    vectors = _matrix(file, names, rows)
    ids = [found[1] if (found := ENSEMBL_ID.fullmatch(name)) else "" for name in names]
    plain = [gene or name for gene, name in zip(ids, names, strict=True)]
    if "" in plain:
        raise GenesError(f"{file}: gene {plain.index('') + 1} has no name.")
    if repeated := list(dict.fromkeys(pd.Series(plain)[pd.Index(plain).duplicated()])):
        raise GenesError(f"{file}: genes occur more than once: {', '.join(repeated[:3])} ({len(repeated):,} in all).")
    known = {"symbol": plain, "ensembl_id": ids, "text_source": PUBLISHED}
    obs = pd.DataFrame(known, index=unique_names(plain), dtype=str).reindex(columns=COLUMNS, fill_value="")
    obs["organism"] = (guess_organism(plain) or "") if organism is None else organism
    identity = {"kind": PUBLISHED, "file": file.name, "digest": fsio.digest_file(file)}
    return GeneTable(obs, vectors, identity, "")


def _read(file: Path) -> tuple[list[str], Any]:
    check_path(file, error=GenesError)
    with reading(file, "it", error=GenesError, cure=f"Give {FORMS}."), file.open("rb") as handle:
        head = handle.read(8)
    if head.startswith(b"\x80") or file.suffix in (".pickle", ".pkl"):
        vectors = read_pickle(file)
        if other := [name for name in vectors if not isinstance(name, str)]:
            raise GenesError(f"{file}: the key {other[0]!r:.60} is not a gene name.")
        return list(vectors), list(vectors.values())
    if head.startswith(b"PAR1"):
        with reading(file, "it", error=GenesError, cure="Make it anew."):
            return _from_parquet(file)
    unpack = ": unpack it first (gunzip)" if head.startswith(b"\x1f\x8b") else ""
    raise GenesError(f"{file}: is not {FORMS}{unpack}.")


def _from_parquet(file: Path) -> tuple[list[str], Any]:
    from pyarrow.parquet import read_metadata

    about = read_metadata(file)
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    # of one value, thousands pack into a byte
    _check_size(file, 2, sum(group.column(i).num_values for group in groups for i in range(group.num_columns)))
    frame = pd.read_parquet(file)
    if "gene" in frame:
        frame = frame.set_index("gene")
    elif isinstance(frame.index, pd.RangeIndex) and frame.shape[1]:
        frame = frame.set_index(frame.columns[0])
    return list(map(str, frame.index)), frame.to_numpy(dtype=np.float64)


def _check_size(file: Path, n_genes: int, width: int) -> None:
    """Refuse vectors that take far more memory than the file has bytes: one may stand under many names."""
    if (size := 4 * n_genes * width) > max(FLOOR, RATIO * file.stat().st_size):
        raise GenesError(f"{file}: its {n_genes:,} vectors of {width:,} numbers would take {size:,} bytes. {EXHAUSTS}")


def _matrix(file: Path, names: Sequence[str], rows: Iterable[Any]) -> NDArray[np.float32]:
    if not len(names):
        raise GenesError(f"{file}: contains no genes.")
    matrix: NDArray[np.float32] = np.empty((len(names), 0), dtype=np.float32)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        try:  # numbers alone: a list of one list under many names would unfold
            is_flat = isinstance(row, np.ndarray) or not isinstance(row[0], (list, tuple, str, bytes, dict))
            vector = np.asarray(row, dtype=None if isinstance(row, np.ndarray) else float) if is_flat else np.empty(0)
        except (TypeError, ValueError, LookupError):  # a ragged list, or no list
            vector = np.empty(0)
        if vector.ndim != 1 or not vector.size or vector.dtype.kind not in "fiu":
            raise GenesError(f"{file}: the vector of gene {name!r:.60} is not a list of numbers.")
        if i == 0:
            _check_size(file, len(names), len(vector))
            matrix = np.empty((len(names), len(vector)), dtype=np.float32)
        if len(vector) != matrix.shape[1]:
            raise GenesError(f"{file}: gene {name!r:.60} has {len(vector):,} numbers, not {matrix.shape[1]:,}.")
        with np.errstate(over="ignore"):
            matrix[i] = vector
        if not np.isfinite(matrix[i]).all():
            raise GenesError(f"{file}: the vector of gene {name!r:.60} is not finite.")
    return matrix
