"""The page that shows a result: the report, in one file that needs no other, and the tab in Locust's page."""

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Literal

from loadtest.report.charts import make_charts
from loadtest.report.verdict import describe_pass

_NOT_SHOWN = {"windows", "latency_histogram"}


def to_html(result: Mapping[str, Any]) -> str:
    """Return the report: a page with its result, its charts and the library that draws them."""
    return fill_page(read_page(), to_shown(result))


def read_page(of: Literal["run", "tuning"] = "run") -> str:
    """Return the page of a load test or a tuning without a result.

    That of a load test then asks the server that it came from for the newest one.
    """
    folder = Path(__file__).parent
    page, content = ((folder / name).read_text(encoding="utf-8") for name in ("page.html", f"{of}_page.js"))
    title = {"run": "Triton load test", "tuning": "Triton tuning"}[of]
    return page.replace("@TITLE@", title).replace("/* @CONTENT@ */", content)


def fill_page(page: str, shown: Mapping[str, Any]) -> str:
    """Put what is shown, and the library that draws the charts, into a page."""
    with_plotly = page.replace("@PLOTLY@", b64encode(compress_plotly()).decode())
    return with_plotly.replace('"@SHOWN@"', to_script(shown))


def to_shown(result: Mapping[str, Any], *, is_over: bool = True) -> dict[str, Any]:
    """Return what the page shows of a run.

    That is the `result`, without what only the charts are made from, the `charts`, whether the run is `over`, and what
    `held` if it passed.
    """
    stages = [{key: value for key, value in stage.items() if key not in _NOT_SHOWN} for stage in result["stages"]]
    held = describe_pass(result) if result["verdict"]["passed"] else ""
    return {"result": {**result, "stages": stages}, "charts": make_charts(result), "over": is_over, "held": held}


def to_script(value: Any) -> str:
    """Return a value as JavaScript; no text in it can begin or end a `script` element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


@cache
def compress_plotly() -> bytes:
    """Return Plotly's JavaScript, compressed by gzip: 1.5 MB instead of 4.8 MB.

    The Python package is only used for this file, so it is not imported.
    """
    file = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    return gzip.compress(Path(str(file)).read_bytes(), mtime=0)
