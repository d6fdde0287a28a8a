from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from support import Notes, make_cells

import scstore
from scstore import cli, console
from scstore.cli.builder import state
from scstore.errors import CellsWarning, GeneMatchWarning
from scstore.progress import Reporter, Silent


def test_a_python_caller_gets_warnings_of_its_own_line_once_a_cause() -> None:
    def call() -> None:
        Reporter().warn("genes are missing", GeneMatchWarning)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            call()
        Silent().warn("nothing")
    assert [(one.category, str(one.message), one.filename) for one in caught] == [
        (GeneMatchWarning, "genes are missing", __file__)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", scstore.ScstoreWarning)
        with pytest.raises(GeneMatchWarning):
            call()


@pytest.mark.parametrize(("quiet", "lines"), [(False, ["warning: genes are missing with --min-match"]), (True, [])])
def test_the_command_line_prints_warnings_as_lines_once(
    quiet: bool, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that come through `warnings` too; those of other packages are for `--debug`."""
    from scstore.options import parameters_of

    def app(_words: object) -> None:
        state.output = console.Output(quiet=quiet)
        state.parameters = parameters_of(scstore.extract)
        state.reporter.warn("genes are missing with min_match=", GeneMatchWarning)
        Reporter().warn("genes are missing with min_match=", GeneMatchWarning)
        warnings.warn("of another package", FutureWarning, stacklevel=1)

    monkeypatch.setattr(cli, "app", app)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.run([]) == 0
    assert capsys.readouterr().err.splitlines() == lines


def test_a_workflow_warns_its_python_caller(tmp_path: Path) -> None:
    """RELIABILITY 67, I7: what the command line prints reaches a notebook too."""
    make_cells(12, 20, empty=3).write_h5ad(tmp_path / "cells.h5ad")
    scstore.build_genes(tmp_path / "g.h5ad", cells=tmp_path / "cells.h5ad", encoder="random:4")
    how: dict[str, Any] = {"genes": str(tmp_path / "g.h5ad"), "pool": (), "companions": ("genept",)}
    with pytest.warns(CellsWarning) as caught:
        scstore.extract(tmp_path / "cells.h5ad", tmp_path / "s.zarr", **how)
    own = [warning for warning in caught if issubclass(warning.category, scstore.ScstoreWarning)]
    assert [warning.filename for warning in own] == [__file__]
    notes = Notes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", scstore.ScstoreWarning)
        scstore.extract(tmp_path / "cells.h5ad", tmp_path / "t.zarr", progress=notes, **how)
    assert any("1 cells" in said for said in notes.said)
