"""CellTypist with its default options, run by the Python of an environment that has it; needs nothing of scstore.

python celltypist_alone.py FOLDER reads expression.npz and job.json there, and writes said.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anndata
import celltypist
import pandas as pd
from scipy import sparse

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
expression = sparse.load_npz(folder / "expression.npz").tocsr()
genes = pd.DataFrame(index=job["genes"])
tested = anndata.AnnData(
    expression[job["tested"]], obs=pd.DataFrame(index=[str(row) for row in job["tested"]]), var=genes
)
said = []
for rows in job["trainings"]:
    labels = [job["labels"][row] for row in rows]
    model = celltypist.train(expression[rows], labels=labels, genes=job["genes"], check_expression=False)
    found = celltypist.annotate(tested, model=model, majority_voting=False)
    said.append([str(label) for label in found.predicted_labels["predicted_labels"]])
(folder / "said.json").write_text(json.dumps(said), encoding="utf-8")
