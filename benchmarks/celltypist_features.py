"""celltypist.train on feature rows, run by the Python of an environment that has it; needs nothing of scstore.

python celltypist_features.py FOLDER lr|sgd THREADS reads train.npy, train_y.npy and test.npy there, and writes
celltypist.json (seconds, peak memory) and celltypist_y.npy. Features are no expression, so check_expression=False, and
prediction is what celltypist.annotate does after its check: the model's scaling, values above 10 cut off, best match.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import celltypist
import numpy as np
from own_process import peak_gb

folder, threads = Path(sys.argv[1]), int(sys.argv[3])
begun = time.perf_counter()
rows = np.load(folder / "train.npy").astype(np.float32)
labels = np.load(folder / "train_y.npy").astype(str)
model = celltypist.train(
    rows,
    labels=labels,
    genes=[f"d{i}" for i in range(rows.shape[1])],
    check_expression=False,
    use_SGD=sys.argv[2] == "sgd",
    n_jobs=threads,
)
seconds = time.perf_counter() - begun
peak = peak_gb()
begun = time.perf_counter()
tested = (np.load(folder / "test.npy").astype(np.float32) - model.scaler.mean_) / model.scaler.scale_
tested[tested > 10] = 10
said = model.classifier.classes_[np.atleast_2d(model.classifier.decision_function(tested)).argmax(axis=1)]
np.save(folder / "celltypist_y.npy", said)
figures = {"seconds": seconds, "label_seconds": time.perf_counter() - begun, "peak_gb": peak}
(folder / "celltypist.json").write_text(json.dumps(figures), encoding="utf-8")
