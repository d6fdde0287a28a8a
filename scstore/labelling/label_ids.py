"""Labels of any laboratory as ids of the Cell Ontology."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd

from scstore.cells.labels import check_column, missing_labels
from scstore.errors import OptionError
from scstore.naming.terms import find_terms, read_labels
from scstore.options import Option, Overwrite, public
from scstore.store.reader import Cells, open_store
from scstore.tables import check_table, four_digits, write_table


@public
def label_ids(
    labels: Annotated[
        str | os.PathLike[str] | Sequence[str], Option("Labels, a file of one a line, or an obs column of the cells.")
    ],
    cells: Annotated[Cells | None, Option("Cells with that column.")] = None,
    *,
    output: Annotated[str | os.PathLike[str] | None, Option("A table to write: .csv, .tsv, .parquet, .xlsx.")] = None,
    overwrite: Overwrite = False,
) -> pd.DataFrame:
    """Find the term of the Cell Ontology that each label means, by its words.

    Returns
    -------
    DataFrame
        Index: the labels, each once. Columns: ``id`` and ``term`` of the nearest term, ``score`` (similarity of the
        words; 1 for a name or synonym), ``status`` (``unsure`` where no name is near enough: look at it), and
        ``next_id``, ``next_term`` and ``next_score`` of the second nearest.

    Raises
    ------
    OptionError
        If there is no such file or column, or no label.

    Examples
    --------
    >>> scstore.label_ids(["T_CD4", "NK"])["id"].tolist()
    ['CL:0000624', 'CL:0000623']
    """
    if output is not None:
        check_table(output, overwrite=overwrite)
    if cells is not None:
        store, column = open_store(cells), os.fspath(labels) if isinstance(labels, str | os.PathLike) else ""
        check_column(store.obs, column, option="labels", source=str(store.path))
        values = store.obs[column]
        found = [str(one) for one in values[~missing_labels(values)].unique()]
    elif isinstance(labels, str | os.PathLike):
        if not Path(labels).is_file():
            raise OptionError(f"labels={os.fspath(labels)!r}: no such file. For a column of cells, give the cells too.")
        found = read_labels(Path(labels))
    else:
        found = list(labels)
    if not found:
        raise OptionError("labels: there are none.")
    table = find_terms(found)
    if output is not None:
        write_table(four_digits(table), output, index=True)
    return table
