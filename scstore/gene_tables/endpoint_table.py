"""Gene tables encoded by an endpoint: what it will cost, going on after a failure, tidying up."""

from __future__ import annotations

import os
import time

import pandas as pd

from scstore.gene_tables.endpoint import BATCH_TEXTS, Endpoint, EndpointEncoder
from scstore.gene_tables.journal import open_journal
from scstore.gene_tables.web import Sleep
from scstore.genes.encoders import encode_texts
from scstore.genes.table import GeneTable, save_gene_table
from scstore.progress import Reporter

__all__ = ["encode_at_endpoint"]

EXAMPLES = 5


def encode_at_endpoint(
    obs: pd.DataFrame,
    template: str,
    model: str,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    timeout: float = 60.0,
    sleep: Sleep = time.sleep,
    progress: Reporter | None = None,
) -> GeneTable:
    """Encode described genes by the model of an endpoint and write the table.

    Vectors are kept in a file beside ``output`` as they come; the same call sends only what is missing. The file goes
    once the table is written.

    Parameters
    ----------
    obs, template
        Described genes.
    model
        Name of the model at the endpoint of ``OPENAI_BASE_URL``.
    output
        The table.
    overwrite
        Replace an existing table.
    timeout
        Seconds that a request may take without a sign of the server.
    sleep
        Waits between the tries of a request.
    progress
        Told what it will cost, and what happens.

    Raises
    ------
    OptionError
        If the key is not set or not accepted, or the endpoint refuses model or texts.
    NetworkError
        If the endpoint does not answer as it should, try after try.
    LockedError
        If another process makes the same table.
    """
    progress = progress or Reporter()
    endpoint = Endpoint.from_environment(model)
    texts = list(obs["text"])
    with (
        open_journal(endpoint.journal_beside(output), endpoint.maker) as journal,
        EndpointEncoder(endpoint, journal, timeout=timeout, sleep=sleep, progress=progress) as encoder,
    ):
        progress.note(encoder.estimate(texts))
        if long := list(obs.index[obs["text"].str.len() > encoder.max_characters]):
            examples = ", ".join(map(str, long[:EXAMPLES])) + (", …" if len(long) > EXAMPLES else "")
            progress.warn(
                f"texts that are cut to {encoder.max_characters:,} characters, because the endpoint takes no longer "
                f"ones: {len(long):,} ({examples})"
            )
        vectors = encode_texts(encoder, texts, batch_size=BATCH_TEXTS, progress=progress)
        table = GeneTable(obs, vectors, encoder.identity, template)
        save_gene_table(table, output, overwrite=overwrite)
        journal.delete()
    return table
