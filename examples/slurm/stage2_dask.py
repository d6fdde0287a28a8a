"""Fit and predict over millions of cells on nodes that SLURM gives, with Dask.

    pip install 'scstore[dask]' dask-jobqueue          # in the environment that the nodes use
    python stage2_dask.py stores/ref.zarr stores/new.zarr cell_type

It runs on a login node, or in a small job of its own, and asks SLURM for jobs that each hold four workers. A job that
is killed is replaced, and what its workers held is made again.
"""

from __future__ import annotations

import sys

import scstore


def main(reference: str, new: str, label: str) -> None:
    from dask_jobqueue import SLURMCluster

    # four processes of one thread each, 16 GB and 4 cores together; add account=, queue= as your site asks
    with SLURMCluster(cores=4, processes=4, memory="16GB", walltime="02:00:00") as cluster:
        cluster.scale(jobs=8)
        address = cluster.scheduler_address
        scstore.fit(reference, "heads/atlas", label=label, dask=address)
        scstore.predict(new, "heads/atlas", output="labels.parquet", dask=address)


if __name__ == "__main__":
    main(*sys.argv[1:])
