"""The process that reads the attacks: little memory, little time, one line of JSON for each."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mutations import _read_cells, _read_store

import scstore
from scstore.genes.descriptions import read_descriptions
from scstore.genes.ncbi import read_gene_info, read_summaries
from scstore.genes.orthologs import read_orthologs
from scstore.genes.published import read_published
from scstore.genes.table import load_gene_table
from scstore.panels.panel import load_panel

MEMORY = 1 << 30
"""Bytes that reading an attack may map, beyond what the imports have."""

SECONDS = 20
"""CPU time of one attack, without that of the child process of scstore's."""


def _verify(path: Path) -> None:
    found = scstore.verify(path, deep=True).findings
    if found:
        raise FoundError(f"{path}: {'; '.join(finding.message for finding in found)}")


class FoundError(Exception):
    """What verify lists."""


READERS: dict[str, Callable[[Path], object]] = {
    "cells": _read_cells,
    "store": _read_store,
    "verify": _verify,
    "gene table": load_gene_table,
    "panel": load_panel,
    "published": read_published,
    "texts": read_descriptions,
    "summaries": read_summaries,
    "gene_info": lambda path: read_gene_info(path, organism="human"),
    "orthologs": read_orthologs,
}


def main() -> None:
    """Read ``[[what, reader, path], …]`` from stdin; write ``[what, error, message, seconds]`` a line."""
    warnings.simplefilter("ignore")  # damaged files make libraries warn
    attacks = json.load(sys.stdin)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    for what, reader, path in attacks:
        begun = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(begun) + SECONDS, resource.RLIM_INFINITY))
        kind, message = "", ""
        try:
            READERS[reader](Path(path))
        except FoundError as error:
            kind, message = "findings", str(error)
        except Exception as error:  # noqa: BLE001  # which it is, the test looks at
            kind, message = type(error).__name__, str(error)
        sys.stdout.write(json.dumps([what, kind, message, time.process_time() - begun]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
