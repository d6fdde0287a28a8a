from __future__ import annotations

from collections.abc import Callable


def test_a_quick_run_gives_equal_rows_and_every_figure(benchmark: Callable) -> None:
    lines, found = benchmark("extract_cpu", "--quick", "--models", "llama")
    assert any("speed goals are not" in line for line in lines)
    assert lines[-1].startswith("goals checked: llama: difference from the hand-written loop")
    assert lines[-1].endswith("all held")
    assert {"date", "versions", "cpu_cores", "torch_threads"} <= set(found["environment"])
    llama = found["figures"]["llama"]
    assert llama["weights"] == "random"
    assert llama["largest_relative_difference"] <= 1e-4
    assert set(llama["overhead"]) == {"extracting", "shaping the store and extracting", "whole call"}
    assert all(rate > 0 for rate in llama["cells_per_second"].values())
    assert 1 <= llama["padded_over_real_tokens"] < 1.5
    assert found["figures"]["ranking"]["cells_per_second"]["two_threads"] > 0
    checked = {goal["name"]: goal["held"] for goal in found["goals"]}
    assert checked["llama: difference from the hand-written loop"] is True
    assert checked["llama: times the hand-written loop"] is None
    assert checked["ranking, cells/s"] is None
