from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scstore
from scstore.annotation.majority import with_majority
from scstore.annotation.predict import predict_to_file
from scstore.errors import OptionError


def blocks(labels: list[str], clusters: list[int], *, size: int = 3) -> Iterator[pd.DataFrame]:
    frame = pd.DataFrame({"label": labels, "status": ["empty" if c == -2 else "ok" for c in clusters]}, dtype=object)
    frame.index = pd.Index([f"cell{i}" for i in range(len(frame))], name="cell_id")
    yield from (frame[start : start + size] for start in range(0, max(1, len(frame)), size))


def voted(labels: list[str], clusters: list[int], **options: Any) -> pd.DataFrame:
    codes = np.array(clusters, dtype=np.int32)
    parts = with_majority(blocks(labels, clusters), codes, **{"min_share": 0.0, **options})
    return pd.concat(list(parts))


def test_the_largest_share_wins_and_unassigned_votes() -> None:
    labels = ["B", "T", "T", "unassigned", "unassigned", "B", "T"]
    frame = voted(labels, [0, 0, 0, 1, 1, 1, 1])
    assert list(frame["majority_label"]) == ["T"] * 3 + ["unassigned"] * 4
    assert frame["majority_share"].tolist() == pytest.approx([2 / 3] * 3 + [0.5] * 4)
    assert list(frame["label"]) == labels
    assert list(frame.index) == [f"cell{i}" for i in range(7)]


def test_of_equal_votes_the_first_by_name_wins() -> None:
    assert set(voted(["T", "B", "T", "B"], [0] * 4)["majority_label"]) == {"B"}


def test_without_the_share_asked_for_a_cluster_is_heterogeneous() -> None:
    frame = voted(["T", "B", "T", "B", "T", "T"], [0, 0, 0, 0, 1, 1], min_share=0.6)
    assert list(frame["majority_label"]) == ["heterogeneous"] * 4 + ["T"] * 2
    assert frame["majority_share"].tolist() == [0.5] * 4 + [1.0] * 2


def test_cells_in_no_cluster_keep_their_label() -> None:
    frame = voted(["T", "B", "B"], [-1, 0, 0])
    assert list(frame["majority_label"]) == ["T", "B", "B"]
    assert np.isnan(frame["majority_share"].iloc[0])


def test_no_cells_give_an_empty_table() -> None:
    assert list(voted([], []).columns) == ["label", "status", "majority_label", "majority_share"]


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(-1, 3)), min_size=1, max_size=25))
@settings(max_examples=40)
def test_as_celltypist_counts(cells: list[tuple[str, int]]) -> None:
    """The crosstab of labels and clusters, and its largest entry by column."""
    labels, clusters = [label for label, _ in cells], [cluster for _, cluster in cells]
    frame = voted(labels, clusters)
    inside = np.array(clusters) >= 0
    assert list(frame["majority_label"][~inside]) == list(frame["label"][~inside])
    if inside.any():
        votes = pd.crosstab(frame["label"].to_numpy()[inside], np.array(clusters)[inside])
        expected = votes.idxmax(axis=0)[np.array(clusters)[inside]]
        assert list(frame["majority_label"][inside]) == list(expected)


def test_a_column_of_clusters(folder: Path) -> None:
    plain = scstore.predict(folder / "new.zarr", folder / "head")
    frame = scstore.predict(folder / "new.zarr", folder / "head", majority="leiden")
    pd.testing.assert_frame_equal(frame[plain.columns], plain)
    assert list(frame.columns[len(plain.columns) :]) == ["majority_label", "majority_share"]
    truth = scstore.open(folder / "new.zarr").obs["cell_type"].astype(str)
    rest = frame.index.difference(["cell5", "cell7", "cell40"])
    assert (frame.loc[rest, "majority_label"] == truth[rest]).all()
    assert frame.loc["cell5", "majority_label"] == "unassigned"
    assert frame.loc["cell7", "majority_label"] == frame.loc["cell7", "label"]
    assert list(frame.index[frame["majority_share"].isna()]) == ["cell5", "cell7", "cell40"]


def test_the_vote_is_in_tables_and_in_annotated_cells(folder: Path, tmp_path: Path) -> None:
    frame = scstore.predict(folder / "new.zarr", folder / "head", majority="leiden")
    counts = predict_to_file(folder / "new.zarr", folder / "head", tmp_path / "out.parquet", majority="leiden")
    assert counts.majority == frame["majority_label"].value_counts().to_dict()
    assert list(pd.read_parquet(tmp_path / "out.parquet")["majority_label"]) == list(frame["majority_label"])
    cells = scstore.annotate(folder / "new.zarr", folder / "head", majority="leiden", umap=False)
    assert list(cells.obs["scstore_majority_label"]) == list(frame["majority_label"])
    np.testing.assert_array_equal(cells.obs["scstore_majority_share"], frame["majority_share"])
    again = scstore.annotate(cells, folder / "head", umap=False)
    assert not again.obs.columns.str.contains("majority").any()


def test_wrong_options_are_refused(folder: Path) -> None:
    for asked, words in (
        ({"majority": "louvain"}, "louvain.*leiden"),
        ({"majority": "nothing"}, "nothing"),
        ({"majority": "leiden", "min_share": 1.5}, "min_share=1.5"),
        ({"min_share": 0.5}, "majority="),
    ):
        with pytest.raises(OptionError, match=words):
            scstore.predict(folder / "new.zarr", folder / "head", **asked)
