"""The page in a real browser: the form filled, a run started, the tab read, the report downloaded."""

import csv
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.load_run import arguments, environment

from builder.server import Server, free_port
from loadtest.options import Option, all_options, grouped
from loadtest.scenarios import users

selenium = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
Select = pytest.importorskip("selenium.webdriver.support.ui").Select
StaleElementReferenceException = pytest.importorskip("selenium.common.exceptions").StaleElementReferenceException

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SCREENSHOTS = os.environ.get("LOADTEST_SCREENSHOTS")
"""A directory to save pictures of the page to; the documentation shows them."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs Debian's chromium and chromium-driver"),
]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1500,1700"
)


@pytest.fixture
def page(server: Server, tmp_path: Path) -> Iterator[str]:
    """Locust with its page, no model chosen yet; the page's address."""
    port = free_port()
    command = arguments(server, tmp_path / "out", "--web-port", str(port), model="")
    with (tmp_path / "log").open("wb") as log:
        locust = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_up(address), 30)
        yield address
    finally:
        locust.terminate()
        assert locust.wait(20) == 0, (tmp_path / "log").read_text()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(holds: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until this is true of the page. If the page replaces an element while it is read, read it again."""
    until = time.monotonic() + timeout_s
    while not _holds(holds):
        assert time.monotonic() < until, "the page did not change in time"
        time.sleep(0.1)


def _holds(holds: Callable[[], object]) -> bool:
    try:
        return bool(holds())
    except StaleElementReferenceException:
        return False


def fill(browser: Any, **fields: str) -> None:
    """Type into the start form's fields, as a user would."""
    for name, value in fields.items():
        field = browser.find_element(By.NAME, name)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.clear()
        field.send_keys(value)


def wait_for_form(browser: Any) -> None:
    """Wait until the part of the form that holds this project's options is unfolded."""
    wait_until(lambda: browser.find_elements(By.NAME, "model"))
    wait_until(lambda: browser.find_element(By.NAME, "model").is_displayed())


def headings_and_fields(browser: Any) -> list[str]:
    """The headings and the labels of the form's options, from top to bottom."""
    return [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".triton-heading, [data-triton] > label")]


def greyed_out(browser: Any) -> set[str]:
    """The labels of the fields that the chosen scenario does not use; each says so."""
    boxes = browser.find_elements(By.CSS_SELECTOR, ".triton-unused")
    assert all("Not used by scenario" in box.text for box in boxes)
    assert all(box.find_element(By.CSS_SELECTOR, "input, select").get_property("disabled") for box in boxes)
    return {box.find_element(By.TAG_NAME, "label").text for box in boxes}


def is_unused(option: Option, scenario: str) -> bool:
    return bool(users(option.name)) and scenario not in users(option.name)


def press_start(browser: Any) -> None:
    button = browser.find_element(By.XPATH, "//button[@type='submit']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def download(browser: Any, name: str, folder: Path) -> Path:
    """Click on a file's link in the tab of downloads, and wait for the file."""
    link = f"//a[contains(., 'Download Triton {name}')]"
    wait_until(lambda: browser.find_elements(By.XPATH, link))
    browser.find_element(By.XPATH, link).click()
    file = folder / "downloads" / name
    wait_until(file.exists)
    return file


def picture(browser: Any, name: str) -> None:
    if SCREENSHOTS:
        browser.save_screenshot(str(Path(SCREENSHOTS) / name))


def test_a_run_is_started_watched_and_downloaded_in_the_page(
    browser: Any, page: str, repository: Path, tmp_path: Path
) -> None:
    browser.get(page)
    wait_for_form(browser)
    assert headings_and_fields(browser) == [
        part for heading, group in grouped().items() for part in (heading, *(option.label for option in group))
    ]
    assert greyed_out(browser) == {option.label for option in all_options() if is_unused(option, "steps")}
    Select(browser.find_element(By.NAME, "scenario")).select_by_value("rate")
    assert greyed_out(browser) == {option.label for option in all_options() if is_unused(option, "rate")}
    Select(browser.find_element(By.NAME, "scenario")).select_by_value("steps")
    fill(browser, model="classifier", repository=str(repository), concurrency="1,2,4,8", maxLatencyMs="5000")
    fill(browser, stageTime="2", warmUp="0.3")
    picture(browser, "start-form.png")
    press_start(browser)
    wait_until(lambda: browser.find_elements(By.XPATH, "//*[text()='Triton']"))
    browser.find_element(By.XPATH, "//*[text()='Triton']").click()
    wait_until(lambda: browser.find_elements(By.ID, "triton-live"))
    browser.switch_to.frame("triton-live")
    wait_until(lambda: "8 users" in browser.find_element(By.TAG_NAME, "body").text, 40)
    wait_until(lambda: "passed" in browser.find_element(By.TAG_NAME, "h1").text, 30)
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "p99 µs" in text
    assert "classifier over http: passed" in text
    assert len(browser.find_elements(By.CSS_SELECTOR, "svg rect")) > 8
    height = "return document.scrollingElement.scrollHeight - document.scrollingElement.clientHeight"
    assert browser.execute_script(height) == 0, "only the page scrolls, not the frame in it"
    browser.switch_to.default_content()
    picture(browser, "triton-tab.png")
    browser.find_element(By.XPATH, "//*[text()='Download Data']").click()
    report, table, result_file = (
        download(browser, name, tmp_path) for name in ("report.html", "stages.csv", "result.json")
    )
    with table.open(newline="") as lines:
        assert [line["concurrency"] for line in csv.DictReader(lines)] == ["1", "2", "4", "8"]
    result = json.loads(result_file.read_text())
    assert [stage["concurrency"] for stage in result["stages"]] == [1, 2, 4, 8]
    assert result["run"]["limits"]["max_p99_ms"] == 5000
    browser.get(report.as_uri())
    assert "classifier over http: passed" in browser.find_element(By.TAG_NAME, "h1").text
    picture(browser, "report.png")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["verdict"]["passed"]


def test_a_start_that_cannot_run_is_refused_with_the_reason(browser: Any, page: str) -> None:
    browser.get(page)
    wait_for_form(browser)
    fill(browser, model="nothing")
    press_start(browser)
    wait_until(lambda: "the server does not serve this" in browser.find_element(By.TAG_NAME, "body").text)
    assert not browser.find_elements(By.XPATH, "//*[text()='STOP']")
