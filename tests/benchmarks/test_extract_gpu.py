from __future__ import annotations

from collections.abc import Callable

import pytest
from support import ROOT

TINY = ["--shape", "tiny", "--device", "cpu"]


def test_the_whole_benchmark_runs_at_a_small_shape_on_the_cpu(benchmark: Callable) -> None:
    lines, found = benchmark("extract_gpu", *TINY, "--quick")
    assert any("not checked on this device" in line for line in lines)
    assert lines[-1].startswith("goals checked: ")
    assert found["not_reached"] == []
    figures = found["figures"]
    assert figures["ceiling"]["flop_per_second"] > 0
    passes = figures["passes"]
    own = [name for name in passes if name.startswith("scstore")]
    assert len(own) == 4  # two regimes, symbols, and half depth
    assert all(passes[name]["cells_per_second"] > 0 and passes[name]["batches_halved"] == 0 for name in own)
    for name in passes:
        if name.startswith("by hand"):
            assert passes[name]["smallest_cosine_to_scstore"] == pytest.approx(1, abs=1e-5)
            assert passes[name]["batch"] == 16
    near = figures["smallest cosine to float32"]
    assert min(near["scstore, bfloat16"].values()) >= 0.999
    assert 0.98 < min(near["scstore, float8"].values()) < min(near["scstore, bfloat16"].values())
    speed = [goal for goal in found["goals"] if "ceiling" in goal["name"] or "float8" in goal["name"]]
    assert len(speed) == 5  # two regimes and the symbols; two in float8
    assert all(goal["held"] is None for goal in speed)


def test_what_does_not_fit_the_time_is_listed(benchmark: Callable) -> None:
    lines, found = benchmark("extract_gpu", *TINY, "--budget-s", "0")
    assert any("not reached in the time given" in line for line in lines)
    assert any("by hand" in part or "depth" in part for part in found["not_reached"])


def test_overlapping_kernels_are_busy_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from device_passes import device_time

    def event(name: str, begun: float, lasted: float, cat: str = "kernel") -> dict:
        return {"name": name, "ts": begun, "dur": lasted, "cat": cat}

    events = [
        event("nvjet_gemm", 0, 4e5),
        event("pytorch_flash::flash_fwd_kernel<cutlass>", 5e5, 2e5),
        event("Memcpy HtoD", 1e5, 1e5, "gpu_memcpy"),
        event("cudaLaunchKernel", 0, 9e5, "cuda_runtime"),
    ]
    seen = device_time(events, wall=1.0)
    assert seen["idle_share"] == pytest.approx(0.4)
    assert seen["seconds_by_kind"] == pytest.approx({"matrix products": 0.4, "attention": 0.2, "copies": 0.1})
