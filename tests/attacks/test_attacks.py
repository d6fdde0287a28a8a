"""Every attack is refused with the right error, and none of them runs anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attacks.make import ATTACKS, HARMLESS, make_all
from mutations import _read_cells, _read_store

import scstore
from scstore.errors import ScstoreError
from scstore.genes.orthologs import read_orthologs
from scstore.genes.published import read_gene_info, read_published, read_summaries
from scstore.genes.table import load_gene_table, read_descriptions
from scstore.panels.panel import load_panel

pytestmark = pytest.mark.filterwarnings("ignore")  # anndata's, on writing the clean files and reading damaged ones

READERS: dict[str, Callable[[Path], object]] = {
    "cells": _read_cells,
    "store": _read_store,
    "verify": lambda path: scstore.verify(path, deep=True).findings,
    "head": scstore.load_head,
    "gene table": load_gene_table,
    "panel": load_panel,
    "published": read_published,
    "texts": read_descriptions,
    "summaries": read_summaries,
    "gene_info": lambda path: read_gene_info(path, organism="human"),
    "orthologs": read_orthologs,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_all(tmp_path_factory.mktemp("attacks") / "all")


@pytest.mark.parametrize("what", ATTACKS)
def test_an_attack_is_refused_by_name(what: str, made: dict[str, Path]) -> None:
    """RELIABILITY 14, 37, 40, I4, I5: one typed error that names the file and the reason."""
    attack, path = ATTACKS[what], made[what]
    if attack.error is None:
        assert attack.words in " ".join(finding.message for finding in READERS[attack.read](path))  # type: ignore[attr-defined]
        return
    with pytest.raises(ScstoreError, match=attack.words) as caught:
        READERS[attack.read](path)
    assert type(caught.value) is attack.error
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("what", HARMLESS)
def test_what_is_only_odd_is_read(what: str, made: dict[str, Path]) -> None:
    READERS[HARMLESS[what].read](made[what])


def test_nothing_ran_and_nothing_is_large(made: dict[str, Path]) -> None:
    """RELIABILITY 37, I5."""
    assert not any(path.parent.joinpath("harmed").exists() for path in made.values())
    assert max(path.stat().st_size for path in made.values()) < 2 << 20
