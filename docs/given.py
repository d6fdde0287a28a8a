"""The small files that the pages of the site name. The build makes them once; by hand: ``python docs/given.py FOLDER``.

Blood cells that scanpy carries. Types are coarse, so that few cells tell them apart; donors and tissues are made up.
"""

import contextlib
import gzip
import shlex
import sys
import warnings
from pathlib import Path

import anndata
import numpy as np
import scanpy

from scstore.cli import run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))
TYPES = {"CD14+ Monocyte": "monocyte", "CD19+ B": "B", "CD56+ NK": "NK", "Dendritic": "dendritic"}
STEPS = """
panel reference.h5ad --label cell_type -n 50 -o panels/blood.h5ad
genes build --organism human --gene-info ncbi/Homo_sapiens.gene_info.gz --gene-summary ncbi/gene_summary.gz \
    -o genes/human.h5ad
extract reference.h5ad -o stores/ref.zarr --model minilm --layers 1 --panel panels/blood.h5ad
extract new.h5ad -o stores/new.zarr --like stores/ref.zarr
fit reference.h5ad --label cell_type --group donor -o heads/blood
annotate new.h5ad --head heads/blood -o annotated.h5ad
"""
INFO = """#tax_id GeneID Symbol Synonyms dbXrefs description type_of_gene Full_name_from_nomenclature_authority
chromosome map_location Other_designations"""  # columns of NCBI's gene_info


def main(folder: Path) -> None:
    """Write the cells and NCBI's files in small, and run the steps."""
    import demo

    folder.mkdir(parents=True)
    demo.write_cells(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's, about the age of the file
        full = scanpy.datasets.pbmc68k_reduced()
    known, others = np.split(np.random.default_rng(0).permutation(full.raw.var_names)[:350], [250])
    for source, most, genes, names in (
        ("reference", 36, known, ["reference", "cells"]),
        ("new", 15, others, ["targeted"]),
        ("new", 15, known, ["new"]),
    ):
        cells = anndata.read_h5ad(folder / f"{source}.h5ad")
        cells = cells[cells.obs["bulk_labels"] != "CD34+", genes].copy()
        _describe(cells, full)
        cells = cells[(cells.obs.groupby("cell_type").cumcount() < most).to_numpy()].copy()
        for name in names:
            cells.write_h5ad(folder / f"{name}.h5ad")
    _write_ncbi(folder / "ncbi", [*known, *others])
    with contextlib.chdir(folder):
        codes = [run(["--quiet", *shlex.split(line)]) for line in STEPS.strip().splitlines()]
    if any(codes):
        raise SystemExit(1)


def _describe(cells: anndata.AnnData, full: anndata.AnnData) -> None:
    """Give the columns of `obs` that pages name, and a UMAP."""
    kinds = [TYPES.get(label, "T") for label in cells.obs["bulk_labels"]]
    cells.obs["cell_type"] = kinds
    cells.obs["lineage"] = ["myeloid" if kind in ("monocyte", "dendritic") else "lymphoid" for kind in kinds]
    rng = np.random.default_rng(0)
    for name, values in {"donor": [f"d{i}" for i in range(1, 4)], "tissue": ["blood", "lung"]}.items():
        cells.obs[name] = rng.choice(values, cells.n_obs)
    cells.obs["leiden"] = full.obs.loc[cells.obs_names, "louvain"].astype(str)
    cells.obsm["X_umap"] = full[cells.obs_names].obsm["X_umap"]


def _write_ncbi(folder: Path, symbols: list[str]) -> None:
    """Files in the form of NCBI's, with these genes and made-up texts."""
    folder.mkdir()
    genes, texts = [INFO.split()], [["#tax_id", "GeneID", "Source", "Summary"]]
    for number, name in enumerate(symbols, 1):
        genes.append(["9606", str(number), name, "-", "-", "-", "protein-coding", f"gene {number}", "-", "-", "-"])
        texts.append(["9606", str(number), "RefSeq", f"What {name} does."])
    for name, rows in {"Homo_sapiens.gene_info.gz": genes, "gene_summary.gz": texts}.items():
        (folder / name).write_bytes(gzip.compress("".join("\t".join(row) + "\n" for row in rows).encode()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
