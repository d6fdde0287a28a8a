"""The views that a head reads of cells that do not have them: extracted on the spot, as its training cells were."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scstore.errors import FeatureSpaceError, ScstoreError
from scstore.extraction.extract import extract
from scstore.extraction.options import READOUT_ONLY, ExtractOptions, complete_options
from scstore.heads.artifact import AnyHead
from scstore.progress import Reporter
from scstore.store.reader import Store

# Cells in a shard without a model: half a dozen shards are in memory at once, and nobody resumes what is thrown away.
SHARD_ROWS = 512


def extract_views(
    store: Store, head: AnyHead, views: Sequence[str], target: Path, *, name: str, progress: Reporter
) -> Store:
    """Extract the ``views`` of a store's cells into a new store at ``target``.

    Gene vectors alone need no model. :class:`FeatureSpaceError` where the head does not carry what it takes, or the
    model cannot be run here: with the views that are lacking, the reason and what helps.
    """
    slot = store.expression_slot
    try:
        if slot is None:
            raise FeatureSpaceError(f"{store.path} has no expression to compute them from")
        like = complete_options(ExtractOptions(like=head))
        companions = tuple(view for view in views if not view.startswith("readout_"))
        has_readouts = len(companions) < len(views)
        spaces: list[Any] = [head.record_["views"][view]["space"] for view in views]
        chosen: dict[str, Any] = {
            "like": None,
            **({} if has_readouts else {name: getattr(ExtractOptions, name) for name in READOUT_ONLY}),
            "pool": like.pool if has_readouts else (),
            "companions": companions,
            "expression": slot.kind,
            "slot": slot.slot,
            "allow_fractional": slot.fractional,
            "keep_expression": False,
            "shard_rows": None if has_readouts else SHARD_ROWS,
            "top_genes": next(space.get("top_genes") for space in spaces),
            "progress": progress,
        }
        return extract(store.source, target, **{**vars(like), **chosen})
    except (ScstoreError, ImportError) as error:
        why = f"{name} reads {', '.join(views)}, which {store.path} does not have and which cannot be computed here"
        alone = " Or label by expression alone: members=['X']." if "X" in head.views_ else ""
        cure = f"Where the model runs: scstore extract CELLS -o STORE --like {name}, and give that store."
        raise FeatureSpaceError(f"{why}: {str(error).rstrip('.')}. {cure}{alone}") from error
