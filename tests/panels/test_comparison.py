from __future__ import annotations

import anndata
import numpy as np
import pytest

from scstore.errors import LabelsError
from scstore.panels.comparison import design


def test_cells_without_a_label_or_group_are_not_seen(cells: anndata.AnnData) -> None:
    labels = list(cells.obs["cell_type"].astype(str))
    assert design(labels, n_cells=60, source="cells").seen.all()
    third = np.arange(60) % 3 == 0
    some = [label if kept else None for label, kept in zip(labels, third, strict=True)]
    np.testing.assert_array_equal(design(some, n_cells=60, source="cells").seen, third)
    groups = ["d" if kept else None for kept in third]
    np.testing.assert_array_equal(design(labels, groups, n_cells=60, source="cells").seen, third)


def test_a_label_of_one_cell_does_not_count_but_is_seen(cells: anndata.AnnData) -> None:
    found = design(["alone", *cells.obs["cell_type"].astype(str)[1:]], n_cells=60, source="cells")
    assert found.codes[0] == -1
    assert found.seen[0]
    assert found.n_classes == 3


def test_groups_that_do_not_count_are_named(cells: anndata.AnnData) -> None:
    labels = [f"{kind}" for kind in cells.obs["cell_type"]]
    groups = ["big"] * 56 + ["small"] * 2 + ["same"] * 2
    labels[56:] = ["type 0", "type 1", "type 2", "type 2"]
    found = design(labels, groups, n_cells=60, source="cells")
    assert found.left_out == ("same", "small")
    assert len(found.classes) == 1
    assert not found.seen[56:].any()


def test_without_labels_groups_of_ten_cells_count() -> None:
    found = design(None, ["a"] * 50 + ["b"] * 9 + [None], n_cells=60, source="cells")
    assert (found.left_out, found.by_labels) == (("b",), False)
    assert found.codes.tolist() == [0] * 50 + [-1] * 10


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["a"] * 18, None),
        (["a"] * 9 + ["b"] * 9, ["1"] * 9 + ["2"] * 9),
        (None, ["a"] * 9 + ["b"] * 9),
    ],
)
def test_nothing_to_compare_is_refused(labels: list[str | None] | None, groups: list[str | None] | None) -> None:
    with pytest.raises(LabelsError, match=r"cells\.h5ad"):
        design(labels, groups, n_cells=18, source="cells.h5ad")
