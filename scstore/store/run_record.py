"""What a store says of the run that made it, as it is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anndata.io import read_elem

from scstore.errors import DamagedError
from scstore.sealed import check_format
from scstore.spec import unseal
from scstore.store.layout import ViewSpec, is_inside

__all__ = ["read_run_record", "view_specs"]

STORED_DTYPES = ("float16", "float32")


def read_run_record(path: Path, group: Any) -> dict[str, Any] | None:
    """The record of the run that made a store, without its digest; ``None`` where scstore did not make it.

    Parameters
    ----------
    path
        The store, for messages.
    group
        Its Zarr group, or HDF5 file.

    Raises
    ------
    DamagedError
        If it cannot be read, or does not match its digest.
    NewerFormatError
        If a newer scstore wrote it.
    """
    try:
        if "uns" not in group or "scstore" not in group["uns"] or "record" not in group["uns/scstore"]:
            return None
        record = json.loads(str(read_elem(group["uns/scstore/record"])))
        body = unseal(record)
    except Exception as error:  # damaged metadata makes a library raise anything
        msg = f"{path}: the run's record in uns/scstore/record cannot be read ({error}). Restore the store from a copy."
        raise DamagedError(msg) from error
    check_format(path, record.get("format"))
    if body is None:
        msg = (
            f"{path}: the run's record in uns/scstore/record does not match its digest. Restore the store from a copy."
        )
        raise DamagedError(msg)
    return body


def view_specs(record: Mapping[str, Any] | None) -> dict[str, ViewSpec]:
    """The feature matrices that a run's record describes, by name.

    Raises
    ------
    ValueError
        If one leads out of the store, or has no shape.
    """
    if record is None:
        return {}
    views: Mapping[str, Any] = record["views"]
    specs = {
        name: ViewSpec(name, int(view["width"]), str(view["dtype"]), view["space"]) for name, view in views.items()
    }
    if any("/" in spec.name or not is_inside(spec.name) for spec in specs.values()):
        msg = "a view's name leads out of the store"
        raise ValueError(msg)
    if int(record["shard_rows"]) < 1 or any(s.width < 1 or s.dtype not in STORED_DTYPES for s in specs.values()):
        msg = "a shard without rows, or a view without width or of an unknown dtype"
        raise ValueError(msg)
    return specs
