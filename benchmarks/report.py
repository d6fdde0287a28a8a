"""The report page of many cells: seconds to write, megabytes, and what a headless Chromium takes to open and redraw it.

    python benchmarks/report.py [--sizes 2000 10000 100000] [--json FILE] [--quick]

Synthetic counts (synthetic_cells.py) of ten types, labelled by a head of expression that was fitted on 1,000 others;
their UMAP is random numbers, since only its drawing is measured. Opening is the browser's own load time; a redraw is a
key that zooms, until two frames later. Without Chromium, chromedriver and selenium these two are left out.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np
from measuring import Findings, parser, seconds, table

N_GENES, N_TYPES, REFERENCE = 1_500, 10, 1_000
MEGABYTES = {10_000: 10}  # at most, by number of cells
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update \
--disable-sync --no-first-run --window-size=1280,1000"
REDRAWS = 5
REDRAW = """
const done = arguments[0], map = document.getElementById("map"), begun = performance.now();
map.dispatchEvent(new KeyboardEvent("keydown", { key: "+" }));
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
"""


def labelled(folder: Path, n: int) -> anndata.AnnData:
    """Cells with labels and a UMAP, in memory."""
    from synthetic_cells import write_typed_cells

    import scstore

    made = [
        write_typed_cells(folder / f"{name}{n}.h5ad", size, n_types=N_TYPES, n_genes=N_GENES, seed=seed)
        for seed, (name, size) in enumerate((("reference", REFERENCE), ("cells", n)))
    ]
    head = scstore.fit(made[0], label="cell_type")
    cells = scstore.annotate(anndata.read_h5ad(made[1]), head, umap=False)
    rng = np.random.default_rng(0)
    cells.obsm["X_umap"] = rng.normal(rng.normal(scale=6, size=(N_TYPES, 2))[rng.integers(0, N_TYPES, n)])
    cells.obs["donor"] = rng.choice([f"donor {i}" for i in range(8)], n)
    return cells


def in_browser(page: Path, folder: Path) -> tuple[float, float] | None:
    """Seconds to open the page, and the median of milliseconds of a redraw."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        return None
    if browser is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS.split(), f"--user-data-dir={folder / 'user'}"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=Service(driver)) as opened:
        opened.get(page.as_uri())
        timing = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime;"
        load = opened.execute_script(timing) / 1000
        return load, float(np.median([opened.execute_async_script(REDRAW) for _ in range(REDRAWS)]))


def main() -> int:
    options = parser("The report page of many cells.")
    options.add_argument("--sizes", type=int, nargs="+", default=[2_000, 10_000, 100_000])
    words = options.parse_args()
    import scstore

    findings, rows = Findings("benchmarks/report.py"), []
    for n in [300] if words.quick else words.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            cells, page = labelled(folder, n), folder / "page.html"
            written = seconds(lambda cells=cells, page=page: scstore.report(cells, page))
            size, shown = page.stat().st_size / 1e6, in_browser(page, folder)
        opened, redraw = shown or (None, None)
        rows.append([f"{n:,}", written, size, *("-" if one is None else one for one in (opened, redraw))])
        findings.figures[str(n)] = {"write_s": written, "megabytes": size, "open_s": opened, "redraw_ms": redraw}
        if n in MEGABYTES:
            findings.at_most(f"{n:,} cells: MB", size, MEGABYTES[n], check=not words.quick)
    table(["cells", "write, s", "MB", "open, s", "redraw, ms"], rows)
    return findings.finish(words.json)


if __name__ == "__main__":
    sys.exit(main())
