"""The page in a real browser: the form filled, a run started, the tab read, the report downloaded."""

import csv
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.load_results import make_result, record_of, window
from support.load_run import PATIENCE_S, arguments, environment, is_up, wait_until
from support.load_settings import read
from support.reserved import reserved_ports

from builder.server import Server
from loadtest.options import Option, all_options, grouped
from loadtest.report.page import to_html
from loadtest.run import Run
from loadtest.scenarios import make_stages, users

selenium = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
Select = pytest.importorskip("selenium.webdriver.support.ui").Select
exceptions = pytest.importorskip("selenium.common.exceptions")

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs Debian's chromium and chromium-driver"),
]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1000"
)
LADDER = [
    "Throughput",
    "Latency",
    "Right answers within the p99 limit",
    "Server time per request",
    "Executed batch sizes",
]
SCROLLS = "document.scrollingElement.scrollHeight > document.scrollingElement.clientHeight"
IS_TOO_WIDE = "document.documentElement.scrollWidth > innerWidth"
TEXT_BEYOND_ITS_CHART = """
    const isWithin = (part, whole) => part.left >= whole.left - 1 && part.right <= whole.right + 1
        && part.top >= whole.top - 1 && part.bottom <= whole.bottom + 1;
    return [...document.querySelectorAll('.plot')].flatMap(plot => [...plot.querySelectorAll('svg text')]
        .filter(text => text.textContent && !isWithin(text.getBoundingClientRect(), plot.getBoundingClientRect()))
        .map(text => text.textContent));"""


SECRET = "very-secret-key"


@pytest.fixture
def page(server: Server, tmp_path: Path) -> Iterator[str]:
    """Locust with its page, no model chosen yet; the page's address."""
    log = tmp_path / "log"
    with reserved_ports(1) as (port,):
        command = arguments(server, tmp_path / "out", "--web-port", str(port), "--header", f"X-Key: {SECRET}", model="")
        with log.open("wb") as output:
            locust = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: is_up(address), log.read_text)
            yield address
        finally:
            locust.terminate()
            assert locust.wait(PATIENCE_S) == 0, log.read_text()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(holds: Callable[[], object]) -> None:
    """Wait until this is true of the page. If the page replaces or moves an element meanwhile, look again."""
    wait_until(lambda: _holds(holds), lambda: "the page did not change in time")


def _holds(holds: Callable[[], object]) -> bool:
    try:
        return bool(holds())
    except (exceptions.StaleElementReferenceException, exceptions.ElementNotInteractableException):
        return False


def fill(browser: Any, **fields: str) -> None:
    """Type into the start form's fields, as a user would."""

    def types(name: str, value: str) -> bool:
        field = browser.find_element(By.NAME, name)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.clear()
        field.send_keys(value)
        return bool(field.get_property("value") == value)

    for name, value in fields.items():
        wait_for(partial(types, name, value))


def wait_for_form(browser: Any) -> None:
    """Wait until the part of the form that holds this project's options is unfolded."""
    wait_for(lambda: browser.find_elements(By.NAME, "model"))
    wait_for(lambda: browser.find_element(By.NAME, "model").is_displayed())


def headings_and_fields(browser: Any) -> list[str]:
    """The headings and the labels of the form's options, from top to bottom."""
    script = """return [...document.querySelectorAll('.triton-heading, [data-triton]')].map(
        part => (part.querySelector('label, .MuiFormControlLabel-label') || part).textContent)"""
    return [str(text) for text in browser.execute_script(script)]


def greyed_out(browser: Any) -> set[str]:
    """The labels of the fields that the chosen scenario does not use; each says so."""
    boxes = browser.find_elements(By.CSS_SELECTOR, ".triton-unused")
    assert all("Not used by scenario" in box.get_property("textContent") for box in boxes)
    assert all(box.find_element(By.CSS_SELECTOR, "input, select").get_property("disabled") for box in boxes)
    return {box.find_element(By.TAG_NAME, "label").get_property("textContent") for box in boxes}


def is_unused(option: Option, scenario: str) -> bool:
    return bool(users(option.name)) and scenario not in users(option.name)


def press_start(browser: Any) -> None:
    button = browser.find_element(By.XPATH, "//button[@type='submit']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def download(browser: Any, name: str, folder: Path) -> Path:
    """Click on a file's link in the tab of downloads, and wait for the file."""
    link = f"//a[contains(., 'Download Triton {name}')]"
    wait_for(lambda: browser.find_elements(By.XPATH, link))
    browser.find_element(By.XPATH, link).click()
    file = folder / "downloads" / name
    wait_for(file.exists)
    return file


def titles(browser: Any) -> list[str]:
    """The titles of the charts, once they are drawn."""
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, ".plot .xtitle")) >= 2)
    return [caption.text for caption in browser.find_elements(By.TAG_NAME, "figcaption")]


def cells(browser: Any, head: str) -> list[str]:
    """A column of the first table."""
    table = browser.find_element(By.TAG_NAME, "table")
    place = [one.text for one in table.find_elements(By.TAG_NAME, "th")].index(head)
    return [
        row.find_elements(By.TAG_NAME, "td")[place].text for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]


def find_misfits(browser: Any) -> list[Any]:
    """What is wrong with a report: errors of its scripts, a page wider than the window, text beyond its chart."""
    errors = [entry["message"] for entry in browser.get_log("browser")]
    wide = ["the page is too wide"] if browser.execute_script(f"return {IS_TOO_WIDE}") else []
    return [*errors, *wide, *browser.execute_script(TEXT_BEYOND_ITS_CHART)]


def test_a_run_is_started_watched_and_downloaded_in_the_page(
    browser: Any, page: str, repository: Path, tmp_path: Path
) -> None:
    browser.get(page)
    wait_for_form(browser)
    expected = [
        part
        for heading, group in grouped().items()
        for part in (heading, *(option.label for option in group if not option.is_secret))
    ]
    wait_for(lambda: len(headings_and_fields(browser)) >= len(expected))
    assert headings_and_fields(browser) == expected
    assert greyed_out(browser) == {option.label for option in all_options() if is_unused(option, "steps")}
    Select(browser.find_element(By.NAME, "scenario")).select_by_value("rate")
    wait_for(lambda: greyed_out(browser) == {option.label for option in all_options() if is_unused(option, "rate")})
    Select(browser.find_element(By.NAME, "scenario")).select_by_value("steps")
    fill(browser, model="classifier", repository=str(repository), concurrency="1,2,4,8", maxLatencyMs="5000")
    fill(browser, stageTime="2", warmUp="0.3", minRequests="100")
    press_start(browser)
    wait_for(lambda: browser.find_elements(By.XPATH, "//*[text()='Triton']"))
    browser.find_element(By.XPATH, "//*[text()='Triton']").click()
    wait_for(lambda: browser.find_elements(By.ID, "triton-live"))
    browser.switch_to.frame("triton-live")
    wait_for(lambda: "8 users" in browser.find_element(By.TAG_NAME, "body").text)
    wait_for(lambda: "passed" in browser.find_element(By.TAG_NAME, "h1").text)
    assert "classifier over http: passed" in browser.find_element(By.TAG_NAME, "body").text
    wait_for(lambda: titles(browser) == LADDER)  # which the tab draws anew when there is news
    wait_for(lambda: cells(browser, "users") == ["1", "2", "4", "8"])
    wait_for(lambda: not browser.execute_script(f"return {SCROLLS}"))  # only the page scrolls, not the frame in it
    browser.switch_to.default_content()
    wait_for(lambda: not browser.execute_script(f"return {IS_TOO_WIDE}"))
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
    assert titles(browser) == LADDER
    assert find_misfits(browser) == []
    assert json.loads((tmp_path / "out" / "result.json").read_text())["verdict"]["passed"]
    with urllib.request.urlopen(page) as start:
        assert not any(SECRET in text for text in (start.read().decode(), report.read_text(), result_file.read_text()))


def large_result() -> dict[str, Any]:
    """A spike with large figures, long names, and failures of every kind."""
    settings = read("--scenario", "spike", "--concurrency", "2,512", "--max-p99-ms", "4000")
    bad: dict[str, Any] = {"failures": Counter(timeout=1000), "wrong": Counter(tolerance=2000), "unchecked": 3000}
    records = [
        record_of(stage, *(window(123_456, 3_456_789, **bad) for _ in range(5)), start_s=5.0 * place)
        for place, stage in enumerate(make_stages(settings.load))
    ]
    result = make_result(Run(settings, time.time(), records, complete=True))
    result["run"]["models"][0]["name"] = "a_model_with_a_long_name_" * 8
    result["messages"] = {"timeout": "no answer within ten seconds; " * 20}
    result["stages"][1]["name"] = "a stage with a long name " * 3
    result["stages"][1]["p99_of_requests_us"] = result["stages"][1]["latency_us"]["p99"]
    result["stages"][1]["intervals"] = {"throughput_rows_per_s": [123_450.1, 123_467.8], "p99_us": [3.4e6, 3.5e6]}
    return result


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_report_with_large_figures_and_long_names_fits_the_window(browser: Any, tmp_path: Path, theme: str) -> None:
    (tmp_path / "report.html").write_text(to_html(large_result()))
    media = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get((tmp_path / "report.html").as_uri())
    assert titles(browser) == ["Latency", "Throughput", "Requests in flight at the end of each window", "Failures"]
    assert find_misfits(browser) == []
    widths = [plot.size["width"] for plot in browser.find_elements(By.CSS_SELECTOR, ".plot")]
    assert all(400 < width < 700 for width in widths)
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 18, 18)"}[theme]


def test_a_start_that_cannot_run_is_refused_with_the_reason(browser: Any, page: str) -> None:
    browser.get(page)
    wait_for_form(browser)
    fill(browser, model="nothing")
    press_start(browser)
    wait_for(lambda: "the server does not serve this" in browser.find_element(By.TAG_NAME, "body").text)
    assert not browser.find_elements(By.XPATH, "//*[text()='STOP']")
    for changed in ("host", "grpc_address", "header", "header_file"):
        form = urllib.parse.urlencode({"model": "classifier", changed: "127.0.0.1:1"})
        with urllib.request.urlopen(f"{page}/swarm", form.encode()) as answer:
            said = json.load(answer)
        assert not said["success"]
        assert "the page cannot change this option" in said["message"]
    for foreign in ({"Origin": "https://other.example"}, {"Host": "other.example"}):
        request = urllib.request.Request(f"{page}/swarm", b"model=classifier", foreign)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value as answer:
            assert answer.code == 403
    with urllib.request.urlopen(f"{page}/stats/requests") as answer:
        assert json.load(answer)["state"] == "ready"
