"""The report's page as a browser shows it: at two widths, in light and dark, and printed.

HPT_SCREENSHOTS names a folder that keeps what it looked like.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from many_figures import everything
from mlflow import MlflowClient
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import presence_of_element_located
from selenium.webdriver.support.ui import WebDriverWait
from test_appendix import EXHIBITS, NASTY

from hpt_dist.report.exhibits import MOST_TRIALS, Exhibits, TrialCard
from hpt_dist.report.report import build
from hpt_dist.tracking import tracker
from hpt_dist.tracking.tracker import RunIdentity

WIDTHS = {"phone": 390, "screen": 1280}
MODES = ("light", "dark")
# What is wider than the window, unless it scrolls inside of what holds it.
TOO_WIDE = """
const wide = [...document.querySelectorAll("main *")].filter(one =>
  !one.closest(".wide, pre, .panels") && one.getBoundingClientRect().right > innerWidth + 1);
return [document.documentElement.scrollWidth > innerWidth, wide.map(one => one.tagName)]
"""
SMALLEST_TEXT = """
return Math.min(...[...document.querySelectorAll(".drawings text")].map(one =>
  parseFloat(getComputedStyle(one).fontSize) * one.ownerSVGElement.getScreenCTM().a))
"""
REQUESTS = "return performance.getEntriesByType('resource').map(one => one.name)"


def cards() -> Exhibits:
    [card] = EXHIBITS.trials
    many = [
        TrialCard(**{**vars(card), "name": f"{card.name} {NASTY} {n}", "curves": dict(curves(n))})
        for n in range(MOST_TRIALS)
    ]
    return Exhibits(**{**vars(EXHIBITS), "trials": tuple(many)})


def curves(seed: int) -> Iterator[tuple[str, Any]]:
    for name in ("loss", "accuracy on validation", "spread of features", "learning rate"):
        yield name, tuple((step, 1 / (step + seed + 1)) for step in range(0, 5000, 50))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of figure, twelve trainings and names that mean harm."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(build(*everything()).html(cards()), encoding="utf-8")
    return file


def shown(driver: webdriver.Chrome, page: Path, width: int, mode: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": mode}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())


def keep(driver: webdriver.Chrome, name: str, folder: Path) -> Path:
    """Keep a picture of the whole page, and return its file."""
    folder = Path(os.environ.get("HPT_SCREENSHOTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"}
    )
    file = folder / f"report-{name}.png"
    file.write_bytes(base64.b64decode(found["data"]))
    return file


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The browser as it is, which forgets afterwards what was emulated."""
    yield chromium
    for command in ("clearDeviceMetricsOverride", "setEmulatedMedia"):
        chromium.execute_cdp_cmd(f"Emulation.{command}", {})


@pytest.mark.services
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_too_wide_and_nothing_fails(
    browser: webdriver.Chrome, page: Path, tmp_path: Path, width: str, mode: str
) -> None:
    browser.get_log("browser")  # what others have left
    shown(browser, page, WIDTHS[width], mode)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.execute_script(TOO_WIDE) == [False, []]
    assert browser.execute_script(SMALLEST_TEXT) >= 7.5
    assert browser.execute_script(REQUESTS) == []
    assert browser.get_log("browser") == []
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[mode]
    assert keep(browser, f"{width}-{mode}", tmp_path).stat().st_size > 10_000


@pytest.mark.services
def test_a_click_on_a_head_sorts_by_numbers(browser: webdriver.Chrome, page: Path) -> None:
    shown(browser, page, WIDTHS["screen"], "light")
    column = """
    const table = [...document.querySelectorAll("table")].find(one =>
      one.tHead.textContent.includes("images/s"));
    if (arguments[0]) table.tHead.rows[0].cells[4].querySelector("button").click();
    const number = row => parseFloat(row.cells[4].textContent.replace(/,/g, ""));
    return [...table.tBodies[0].rows].map(number);
    """
    before = browser.execute_script(column, False)
    assert before != sorted(before)
    assert browser.execute_script(column, True) == sorted(before)
    assert browser.execute_script(column, True) == sorted(before, reverse=True)


@pytest.mark.services
def test_it_prints_on_paper(browser: webdriver.Chrome, page: Path) -> None:
    shown(browser, page, WIDTHS["screen"], "dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script(TOO_WIDE)[0] is False
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"


@pytest.mark.services
def test_mlflow_shows_it(browser: webdriver.Chrome, mlflow_server: str, page: Path) -> None:
    launch = RunIdentity(experiment="pages", name="launch", key="launch-1")
    parent = tracker.open_parent(mlflow_server, launch)
    tracker.log_parent(mlflow_server, parent, artifacts={"report.html": page.read_bytes()})
    found = MlflowClient(mlflow_server).get_experiment_by_name("pages")
    assert found
    browser.get(f"{mlflow_server}/{tracker.page_of(found.experiment_id, parent, 'report.html')}")
    wait = WebDriverWait(browser, 60)
    wait.until(presence_of_element_located((By.CSS_SELECTOR, "iframe")))
    browser.switch_to.frame(browser.find_element(By.CSS_SELECTOR, "iframe"))
    wait.until(presence_of_element_located((By.CSS_SELECTOR, "p.lead")))
    assert browser.find_elements(By.CSS_SELECTOR, ".panels svg")
    browser.switch_to.default_content()
