from __future__ import annotations

import shutil
from collections.abc import Callable


def test_a_quick_run_gives_every_figure(benchmark: Callable) -> None:
    _, found = benchmark("report", "--quick")
    (figures,) = found["figures"].values()
    assert figures["write_s"] > 0
    assert 0.01 < figures["megabytes"] < 1
    if shutil.which("chromium") and shutil.which("chromedriver"):
        assert figures["open_s"] > 0
        assert figures["redraw_ms"] > 0
    else:
        assert figures["open_s"] is figures["redraw_ms"] is None
