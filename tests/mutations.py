"""Files that a user may hand to scstore, changed at random: each gives a typed error or a result, never a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from damage import files_of
from support import make_cells

import scstore
from scstore.cells.expression import find_expression, lognorm_rows
from scstore.cells.opening import open_cells
from scstore.errors import ScstoreError
from scstore.genes.orthologs import read_orthologs
from scstore.genes.published import read_gene_info
from scstore.genes.table import load_gene_table, read_descriptions
from scstore.model.projector import ProjectorFile, load_projector, save_projector
from scstore.panels.panel import load_panel

OPTIONS: dict[str, Any] = {"pool": (), "companions": ("genept",), "shard_rows": 8}

GENE_INFO = (
    "#tax_id\tGeneID\tSymbol\tLocusTag\tSynonyms\tdbXrefs\tchromosome\tmap_location\tdescription\ttype_of_gene\t"
    "Symbol_from_nomenclature_authority\tFull_name_from_nomenclature_authority\tNomenclature_status\t"
    "Other_designations\tModification_date\tFeature_type\n"
    "9606\t{id}\tGENE{id}\t-\tG{id}|H{id}\tEnsembl:ENSG{id:011d}\t1\t1q2\tgene {id}\tprotein-coding\tGENE{id}\t"
    "full name {id}\tO\tother {id}\t20240101\t-\n"
)


def make_inputs(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """A file or folder of each kind, and what reads it."""
    cells = make_cells(20, 12, empty=5)
    cells.write_h5ad(folder / "cells.h5ad")
    cells.write_zarr(folder / "cells.zarr")
    scstore.build_genes(folder / "genes.h5ad", cells=folder / "cells.h5ad", encoder="random:4")
    scstore.panel(folder / "cells.h5ad", folder / "panel.h5ad", label="cell_type", n_genes=8)
    scstore.extract(folder / "cells.h5ad", folder / "s.zarr", genes=str(folder / "genes.h5ad"), **OPTIONS)
    scstore.export(folder / "s.zarr", folder / "s.h5ad")
    scstore.fit(folder / "s.zarr", folder / "head", label="cell_type", head="linear")
    arrays = {"layers.0.weight": np.ones((4, 3), np.float32)}
    save_projector(ProjectorFile({"width_in": 3}, arrays, {}, ("a",), ("b",), {"label": "x"}), folder / "projector")
    header, row = GENE_INFO.splitlines(keepends=True)
    (folder / "gene_info").write_text(header + "".join(row.format(id=i) for i in range(1, 12)))
    (folder / "orthologs.csv").write_text("human,mouse\n" + "".join(f"GENE{i},Gene{i}\n" for i in range(9)))
    (folder / "text.tsv").write_text("symbol\ttext\n" + "".join(f"GENE{i}\twords {i}\n" for i in range(9)))
    return {
        "cells .h5ad": (folder / "cells.h5ad", _read_cells),
        "cells Zarr": (folder / "cells.zarr", _read_cells),
        "store": (folder / "s.zarr", _read_store),
        "store verified": (folder / "s.zarr", lambda path: scstore.verify(path, deep=True)),
        "exported store": (folder / "s.h5ad", _read_store),
        "head": (folder / "head", scstore.load_head),
        "projector": (folder / "projector", load_projector),
        "gene table": (folder / "genes.h5ad", load_gene_table),
        "panel": (folder / "panel.h5ad", load_panel),
        "gene_info": (folder / "gene_info", lambda path: read_gene_info(path, organism="human")),
        "orthologs CSV": (folder / "orthologs.csv", read_orthologs),
        "gene texts TSV": (folder / "text.tsv", lambda path: read_descriptions(path, organism="human")),
    }


def _read_cells(path: Path) -> None:
    with open_cells(path) as cells:
        slot = find_expression(cells)
        for _ in lognorm_rows(cells, slot):
            pass
        cells.var(slot.slot)


def _read_store(path: Path) -> None:
    store = scstore.open(path)
    for name in store.views:
        store.view(name)[:]
    _ = store.info


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with one to four changes: bits, runs of a byte, pieces lost, doubled or moved, the end cut off."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not changed:
            break
        at, length = int(rng.integers(len(changed))), int(rng.integers(1, 17))
        piece = bytes(changed[at : at + length])
        kind = int(rng.integers(7))
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at : at + length] = rng.integers(0, 256, len(piece), dtype=np.uint8).tobytes()
        elif kind == 2:
            changed[at : at + length] = (b"\0", b"\xff", b"9", b'"')[int(rng.integers(4))] * len(piece)
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = piece
        elif kind == 5:
            to = int(rng.integers(len(changed)))
            changed[to : to + len(piece)] = piece
        else:
            del changed[at:]
    return bytes(changed)


@contextmanager
def one_mutation(root: Path, rng: np.random.Generator) -> Iterator[Path]:
    """One file of a folder (or the file) is mutated for as long as the block runs; gives which."""
    files = files_of(root)
    file = files[int(rng.integers(len(files)))]
    whole = file.read_bytes()
    file.write_bytes(mutated(whole, rng))
    try:
        yield file
    finally:
        file.write_bytes(whole)


def crash(inputs: dict[str, tuple[Path, Callable[[Path], object]]], kind: str, number: int) -> str | None:
    """Do mutation `number` of a kind and read what it made; what was neither read nor refused with a typed error."""
    path, read = inputs[kind]
    with one_mutation(path, np.random.default_rng([number, *kind.encode()])) as file:
        try:
            read(path)
        except (ScstoreError, OSError):
            return None
        except Exception as error:  # noqa: BLE001  # it is what is looked for
            return f"{kind}, mutation {number}, {file.name}: {type(error).__name__}: {str(error)[:200]}"
    return None
