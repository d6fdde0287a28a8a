"""The planning page holds what its command prints, and the simulated schedule adds up."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import ROOT

PAGE = ROOT / "docs" / "planning.md"


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import planning

    return planning


def test_the_page_holds_what_the_command_prints(
    planning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the files that it names: newer ones change it when the command is run again."""
    text = PAGE.read_text(encoding="utf-8")
    for name in set(re.findall(r"\w+_[\d-]+\.json", text)):
        shutil.copy(planning.RESULTS / name, tmp_path)
    written = tmp_path / "page.md"
    written.write_text(re.sub(r"^\|.*\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["planning.py", "--results", str(tmp_path), "--page", str(written)])
    assert planning.main() == 0
    assert written.read_text(encoding="utf-8") == text


def test_what_nobody_measured_is_called_assumed(planning: ModuleType, tmp_path: Path) -> None:
    for file in planning.RESULTS.glob("*.json"):
        if not file.name.startswith("extract_gpu"):
            shutil.copy(file, tmp_path)
    rates, said = planning.gpu_rates(planning.Results(tmp_path))
    assert "assumed" in said
    assert 5 < rates["2048 genes"] < 20 < rates["200-gene panel"] < 500
    (tmp_path / next(tmp_path.glob("heads_*")).name).unlink()
    assert planning.Results(tmp_path).newest("heads") is not None  # the older one
    with pytest.raises(SystemExit, match="nothing_DATE"):
        planning.Results(tmp_path).needed("nothing")


def test_what_is_fetched_is_measured_once_it_has_been(planning: ModuleType, tmp_path: Path) -> None:
    assert any("assumed" in row.rests_on for row in planning.traffic(planning.Results(tmp_path)))
    scan = {"megabytes": 400.0, "seconds": {"scstore": [4.0, 3.0, 9.0]}}
    found = {"width": 512, "125 MB/s": scan, "rows": [{"rows": 10, "bytes": 10_240}]}
    (tmp_path / "remote_2026-11-26.json").write_text(json.dumps({"environment": {"gpu": None}, "figures": found}))
    values = [row.value(1_000_000) for row in planning.traffic(planning.Results(tmp_path))]
    assert values == pytest.approx([10.24, 10_240 / 100 / 60, 0.1024])


def test_without_failures_one_run_does_it(planning: ModuleType) -> None:
    found = planning.simulated(1_205, workers=100, life_hours=1e9, other_n=True)
    assert found.hours == (pytest.approx((5 + 13) / 60),)
    assert (found.died, found.lost_shards) == (0, 0)
    assert found.spent == pytest.approx((100 * 5 + 1_205) / 60)


@pytest.mark.parametrize("other_n", [True, False])
def test_what_dead_workers_leave_is_done_by_later_runs(planning: ModuleType, other_n: bool) -> None:
    """Time spent is that of the shards, of the starts and of the lost work: nothing is done twice or left out."""
    found = planning.simulated(20_000, workers=200, life_hours=2, other_n=other_n)
    assert len(found.hours) > 2
    assert 0 < found.lost_shards < found.died
    starts = 60 * found.spent - 20_000 - found.lost_shards
    assert 0 < starts / 5 <= 200 + found.died * 200
    again = planning.simulated(20_000, workers=200, life_hours=2, other_n=not other_n)
    assert (sum(found.hours) < sum(again.hours)) is other_n
