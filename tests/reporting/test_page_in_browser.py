"""The page in a real Chromium: it draws, answers to mouse and keyboard, and asks nobody for anything."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_cells import NASTY, nasty_cells

from scstore.reporting.page import describe, write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'scstore[dev]'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs Chromium: apt-get install chromium chromium-driver", allow_module_level=True)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --window-size=1280,1000"
)
N = 400


@pytest.fixture(scope="module")
def cells() -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    return nasty_cells(N)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(cells: Any, downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with the page, in light colours."""
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("browser")
    obs, umap, record = cells
    page = describe(obs, umap, record, source=f"{NASTY[4]}.h5ad")
    codes = base64.b64encode(np.zeros((N, 1), dtype="<i4").tobytes()).decode()
    page["nearest"] = {"k": 1, "columns": ["donor"], "ids": ["ref<1>"], "about": [NASTY[0]], "codes": codes}
    page["nearest"]["distances"] = base64.b64encode(np.full((N, 1), 0.25, dtype="<f4").tobytes()).decode()
    row = {"name": NASTY[0], "kind": "with the model", "seen": False, "mean": 0.9, "folds": [0.8, 0.95]}
    control = {**row, "name": "- <b>", "kind": "control: neither", "mean": 0.6}
    page["evaluation"] = {"says": NASTY[2], "title": "three donors", "rows": [row, control]}
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={folder / 'user'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        started.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
        )
        started.get("about:blank")
        started.get_log("performance")  # of the browser's own first page
        started.get(write_page(page, folder / "page.html", overwrite=False).as_uri())
        yield started
    finally:
        started.quit()


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def texts(browser: Any, selector: str) -> list[str]:
    return [found.get_property("textContent") for found in browser.find_elements("css selector", selector)]


def mouse(browser: Any) -> Any:
    return webdriver.ActionChains(browser, duration=20)


def places(browser: Any, umap: np.ndarray) -> np.ndarray:
    """Where the cells are on the canvas, from its middle, ``(n, 2)``."""
    canvas = one(browser, "#map")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    size = np.array([canvas.size["width"], canvas.size["height"]])
    low, high = umap.min(axis=0), umap.max(axis=0)
    scale = (size / (high - low)).min() * 0.94
    return (umap - (low + high) / 2) * scale * [1, -1]


def downloaded(folder: Path, name: str) -> pd.DataFrame:
    for _ in range(200):
        if (folder / name).exists() and (folder / name).stat().st_size:
            found = pd.read_csv(folder / name, keep_default_na=False)
            (folder / name).unlink()
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name} was not downloaded")


def test_names_are_shown_as_text(browser: Any, cells: Any) -> None:
    assert one(browser, "h1").text.startswith(NASTY[4])
    assert set(texts(browser, ".legend span")) == {*NASTY, "unassigned"}
    assert texts(browser, ".genes li") == list(NASTY)
    assert set(texts(browser, "section:nth-of-type(3) tbody th")) == set(NASTY)
    assert NASTY[0] in texts(browser, "#colour option")
    assert len(browser.find_elements("tag name", "script")) == 2
    assert not browser.find_elements("tag name", "img")
    assert browser.find_elements("css selector", ".dots .control")


def test_cells_are_drawn_and_explained(browser: Any, cells: Any) -> None:
    obs, umap, _ = cells
    drawn = (
        "const c = document.getElementById('map'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    )
    assert browser.execute_script(f"{drawn} return new Set(new Uint32Array(d.buffer)).size") > len(NASTY)
    where, cell = places(browser, umap), int(umap[:, 0].argmax())
    mouse(browser).move_to_element_with_offset(one(browser, "#map"), *map(round, where[cell])).perform()
    told = one(browser, ".tip").text
    assert told.startswith(obs.index[cell])
    assert f"label: {obs['scstore_label'].iloc[cell]}" in told
    assert f"second label: {obs['scstore_second_label'].iloc[cell]}" in told
    assert f"{NASTY[0]} (ref<1>, distance 0.25)" in told


def test_a_lasso_selects_cells_for_a_csv(browser: Any, cells: Any, downloads: Path) -> None:
    obs, umap, _ = cells
    where, canvas = places(browser, umap), one(browser, "#map")
    square = [(-150, -150), (0, -150), (0, 100), (-150, 100)]
    action = mouse(browser).move_to_element_with_offset(canvas, *square[0]).click_and_hold()
    for corner in (*square[1:], square[0]):
        action = action.move_to_element_with_offset(canvas, *corner)
    action.release().perform()
    inside = (np.abs(where - [-75, -25]) < [75, 125]).all(axis=1)
    edge = np.abs(np.abs(where - [-75, -25]) - [75, 125]).min(axis=1) < 1
    one(browser, "#chosen .csv").click()
    found = downloaded(downloads, "selected.csv")
    chosen = set(obs.index[inside & ~edge])
    assert chosen
    assert chosen <= set(found["cell_id"]) <= set(obs.index[inside | edge])
    both = obs.loc[found["cell_id"]]
    assert list(found["scstore_label"]) == list(both["scstore_label"])
    np.testing.assert_allclose(found["scstore_novelty"], both["scstore_novelty"], rtol=1e-6)
    assert list(found[NASTY[0]]) == list(both[NASTY[0]])
    mouse(browser).move_to_element(canvas).click().send_keys("\ue00c").perform()
    assert not browser.find_elements("css selector", "#chosen table")


def test_the_legend_selects_with_the_keyboard(browser: Any, cells: Any) -> None:
    button = one(browser, ".legend button")
    button.send_keys("\ue007")
    n = int((cells[0]["scstore_label"] == texts(browser, ".legend span")[0]).sum())
    assert one(browser, "#chosen h3").text == f"{n} selected cells"
    button.send_keys("\ue007")
    one(browser, "#colour").send_keys("novelty")
    assert not browser.find_elements("css selector", ".legend button")


def test_doubtful_cells_are_sorted_filtered_and_downloaded(browser: Any, cells: Any, downloads: Path) -> None:
    obs = cells[0]
    doubtful = obs[obs["scstore_status"] != "ok"]
    table = "section:nth-of-type(4) "
    assert one(browser, f"{table} [role=status]").text.startswith(f"{len(doubtful)} of {len(doubtful)} cells")
    heading = next(b for b in browser.find_elements("css selector", f"{table} th button") if b.text == "novelty")
    heading.click()
    by_novelty = doubtful["scstore_novelty"].sort_values(ascending=False)
    assert texts(browser, f"{table} tbody td:first-child") == list(by_novelty.index[:50])
    assert one(browser, f"{table} [aria-sort=descending]").text.startswith("novelty")
    assert browser.switch_to.active_element.text.startswith("novelty")
    one(browser, f"{table} .next").click()
    assert texts(browser, f"{table} tbody td:first-child") == list(by_novelty.index[50:100])
    one(browser, f"{table} input").send_keys("<IMG onerror")
    one(browser, f"{table} .csv").click()
    found = downloaded(downloads, "doubtful.csv")
    shown = ["scstore_label", "scstore_best_label", "scstore_second_label", "scstore_reason"]
    words = doubtful[shown].astype(str).agg(" ".join, axis=1) + doubtful.index
    assert list(found["cell_id"]) == [name for name in by_novelty.index if "<img" in words[name]]


def test_themes_keys_and_narrow_screens(browser: Any) -> None:
    colours = [browser.execute_script("return getComputedStyle(document.body).backgroundColor")]
    one(browser, "#theme").click()
    colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]
    mouse(browser).send_keys("\ue004").perform()
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420


def test_nothing_is_fetched_and_nothing_fails(browser: Any) -> None:
    """The last test: the logs of all the others."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
