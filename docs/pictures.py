"""Make the pictures of docs/images again: the start form, the tab with the live figures, a report, and a tuning.

    python docs/pictures.py [--seconds 10] [--only tuning] [--tuning tune.json]

A residual network, which takes the server a millisecond per row, is served and load tested from Locust's page in a real
browser (Debian's chromium and chromium-driver), and tuned afterwards. Use a quiet machine: a run with notes, such as on
figures that are not stable, is said so, and its pictures should not be kept. `--tuning` draws one that was measured
before.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from load_client_cost import prepare  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from support.load_run import arguments, environment  # noqa: E402
from support.load_server import serving  # noqa: E402

from builder.server import Server, free_port  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WIDTH, FORM_HEIGHT, MOST_HEIGHT = 1200, 1500, 4000
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Start the browser, with a window of the pictures' width."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        resize(driver, FORM_HEIGHT)
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, height: int) -> None:
    """Make the window as high as this."""
    size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@contextmanager
def page(server: Server, log: Path) -> Iterator[str]:
    """Start Locust with its page; yield the page's address."""
    port = free_port()
    with log.open("wb") as file:
        command = arguments(server, log.parent / "ladder", "--web-port", str(port), model="")
        process = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def wait_until(holds: Callable[[], object], timeout_s: float) -> None:
    """Wait until this is true of the page, or end the program."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with suppress(OSError, NoSuchElementException, StaleElementReferenceException):
            if holds():
                return
        time.sleep(0.2)
    raise SystemExit(f"nothing happened for {timeout_s:g} s")


def save_whole_page(driver: Any, name: str) -> None:
    """Save a picture of all of the page, once its charts are drawn."""
    resize(driver, FORM_HEIGHT)
    time.sleep(1)
    height = driver.execute_script("return document.documentElement.scrollHeight")
    resize(driver, min(height, MOST_HEIGHT))
    time.sleep(1)
    driver.save_screenshot(str(IMAGES / name))


def fill_in(driver: Any, fields: dict[str, str]) -> None:
    """Type into the fields of the start form, and show it from the model on."""
    for name, value in fields.items():
        field = driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(value)
    heading = driver.find_element(By.XPATH, "//h3[text()='Model']")
    driver.execute_script(
        "document.activeElement.blur(); scrollBy(0, arguments[0].getBoundingClientRect().top - 20)", heading
    )


def run_ladder(driver: Any, address: str, fields: dict[str, str], seconds: float) -> None:
    """Fill in the start form, run the ladder, and save the pictures of the form and of the tab."""
    wait_until(lambda: urllib.request.urlopen(address, timeout=2), 30)
    driver.get(address)
    wait_until(lambda: driver.find_element(By.NAME, "model").is_displayed(), 30)
    fill_in(driver, fields)
    driver.save_screenshot(str(IMAGES / "start-form.png"))
    driver.find_element(By.NAME, "model").submit()
    wait_until(lambda: driver.find_element(By.XPATH, "//*[text()='Triton']"), 30)
    driver.find_element(By.XPATH, "//*[text()='Triton']").click()
    wait_until(lambda: driver.find_element(By.ID, "triton-live"), 10)
    driver.switch_to.frame("triton-live")
    wait_until(lambda: "running" not in driver.find_element(By.TAG_NAME, "h1").text, 10 * seconds + 60)
    driver.switch_to.default_content()
    save_whole_page(driver, "triton-tab.png")


def run_spike(driver: Any, server: Server, folder: Path, repository: Path, model: str, seconds: float) -> None:
    """Run a spike without the page, and save a picture of its report."""
    options = ("--repository", repository, "--scenario", "spike", "--concurrency", "2,16", "--max-p99-ms", "50")
    more = [str(option) for option in (*options, "--stage-time", seconds)]
    command = arguments(server, folder, "--headless", "--only-summary", *more, model=model)
    subprocess.run(command, env=environment(), check=False, capture_output=True)
    driver.get((folder / "report.html").as_uri())
    save_whole_page(driver, "report.png")


def draw_tuning(driver: Any, folder: Path, record: Path) -> None:
    """Save a picture of the page of a tuning that was measured before."""
    command = [sys.executable, "-m", "loadtest", "tuning", str(record), "--output", str(folder / "report.html")]
    subprocess.run(command, check=True, cwd=ROOT)
    driver.get((folder / "report.html").as_uri())
    save_whole_page(driver, "tuning.png")


def tune(driver: Any, folder: Path, repository: Path, model: str, seconds: float) -> None:
    """Tune the model, and save a picture of the page."""
    options = ("--max-p99-ms", "50", "--stage-time", f"{seconds / 2:g}s", "--report-dir", folder, "--fresh")
    command = [sys.executable, "-m", "builder", "tune", model, "--repository", repository, *options]
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)
    draw_tuning(driver, folder, folder / "tune.json")


def find_notes(folder: Path) -> list[str]:
    """Return what is not right about a run."""
    result = json.loads((folder / "result.json").read_text())
    return [*result["verdict"]["reasons"], *result["notes"]]


def load_tests(driver: Any, folder: Path, repository: Path, model: str, seconds: float) -> list[str]:
    """Make the pictures of the load test, and return what is not right about its runs."""
    with serving(repository) as server:
        fields = {"model": model, "repository": str(repository), "concurrency": "1,2,4,8,16", "maxLatencyMs": "50"}
        with page(server, folder / "log") as address:
            run_ladder(driver, address, {**fields, "stageTime": f"{seconds:g}"}, 5 * seconds)
        run_spike(driver, server, folder / "spike", repository, model, seconds)
    return find_notes(folder / "ladder") + find_notes(folder / "spike")


def main() -> None:
    """Make the pictures; the exit code is 1 if a run had notes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="how long each stage is measured")
    parser.add_argument("--only", choices=["load-tests", "tuning"], help="make only these pictures")
    parser.add_argument("--tuning", type=Path, help="draw this tune.json instead of a new tuning, and nothing else")
    given = parser.parse_args()
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "model_repository"
        if given.tuning is not None:
            with browser(folder / "profile") as driver:
                draw_tuning(driver, folder, given.tuning.absolute())
            return
        model = prepare(repository, "residual")
        with browser(folder / "profile") as driver:
            if given.only != "tuning":
                notes = load_tests(driver, folder, repository, model, given.seconds)
            if given.only != "load-tests":
                tune(driver, folder / "tuning", repository, model, given.seconds)
    for note in notes:
        print(f"note: {note}")
    sys.exit(1 if notes else 0)


if __name__ == "__main__":
    main()
