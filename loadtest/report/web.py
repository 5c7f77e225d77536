"""Extend Locust's page with the tab "Triton", a start form that refuses a run that cannot work, and downloads.

Source: https://docs.locust.io/en/stable/extending-locust.html#extending-the-web-ui
"""

import json
from collections.abc import Callable
from typing import Any

from flask import Response, jsonify, request
from locust.env import Environment

from loadtest import options
from loadtest.errors import LoadTestError
from loadtest.report import files
from loadtest.report.outcome import Outcome
from loadtest.report.result import Result
from loadtest.run import check

_COLUMNS = {
    "name": "Stage",
    "concurrency": "Users",
    "throughput": "Rows/s",
    "p50": "p50 (µs)",
    "p90": "p90 (µs)",
    "p99": "p99 (µs)",
    "queue": "Queue (µs)",
    "input": "Input (µs)",
    "infer": "Inference (µs)",
    "output": "Output (µs)",
    "batches": "Executed batch sizes (size: count)",
    "failures": "Failures",
    "wrong": "Wrong answers",
}
_DOWNLOADS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "report.html": ("text/html", files.to_html),
    "result.json": ("application/json", files.to_json),
    "stages.csv": ("text/csv", files.to_csv),
}

_TAB_SCRIPT = """<script>
setInterval(() => {
  let frame = document.getElementById("triton-live");
  const shown = new URLSearchParams(location.search).get("tab") === "triton";
  const table = document.querySelector(".MuiTableContainer-root");
  if (shown && table && !frame) {
    frame = document.createElement("iframe");
    Object.assign(frame, {id: "triton-live", src: "@BASE@/triton/live", title: "Triton figures"});
    frame.style = "width:100%;height:1500px;border:0";
    table.after(frame);
  } else if (!shown && frame) frame.remove();
}, 300);
</script>"""


def set_up(environment: Environment, outcome: Outcome) -> None:
    """Extend Locust's page."""
    web_ui: Any = environment.web_ui
    parsed = environment.parsed_options
    base = (parsed.web_base_path if parsed else "") or ""
    web_ui.template_args |= _template(base)
    web_ui.app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the form keeps the options' order
    _add_routes(web_ui, outcome, base)
    web_ui.app.before_request(lambda: _refuse_start(environment, base))
    web_ui.app.after_request(lambda response: _extend(response, outcome, base))


def _template(base: str) -> dict[str, Any]:
    return {
        "extended_tabs": [{"title": "Triton", "key": "triton"}],
        "extended_tables": [
            {"key": "triton", "structure": [{"key": key, "title": title} for key, title in _COLUMNS.items()]}
        ],
        "extended_csv_files": [
            {"href": f"{base}/triton/{name}?download=1", "title": f"Download Triton {name}"} for name in _DOWNLOADS
        ],
    }


def _add_routes(web_ui: Any, outcome: Outcome, base: str) -> None:
    def send(name: str) -> Response:
        result = outcome.now()
        if result is None:
            return Response("No run has been started yet.", 404)
        mimetype, write = _DOWNLOADS[name]
        response = Response(write(result), mimetype=mimetype)
        if request.args.get("download"):
            response.headers["Content-Disposition"] = f"attachment; filename={name}"
        return response

    def live() -> Response:
        return Response(files.read_page(), mimetype="text/html")

    for name in _DOWNLOADS:
        view = web_ui.auth_required_if_enabled(lambda name=name: send(name))
        web_ui.app.add_url_rule(f"{base}/triton/{name}", f"triton_{name}", view)
    web_ui.app.add_url_rule(f"{base}/triton/live", "triton_live", web_ui.auth_required_if_enabled(live))


def _refuse_start(environment: Environment, base: str) -> Response | None:
    """Answer a start that cannot work with the reason, before the first user starts."""
    parsed = environment.parsed_options
    if parsed is None or request.method != "POST" or request.path != f"{base}/swarm":
        return None
    text = options.to_text(parsed, environment.host)
    text.update({name: request.form[name].strip() for name in text if name in request.form})
    try:
        check(text)
    except LoadTestError as error:
        return jsonify({"success": False, "message": str(error), "host": environment.host})
    return None


def _extend(response: Response, outcome: Outcome, base: str) -> Response:
    if request.path == f"{base}/stats/requests" and response.is_json:
        result = outcome.now()
        rows = [_row(stage) for stage in result["stages"]] if result else []
        data = {**response.get_json(), "extended_stats": [{"key": "triton", "data": rows}]}
        response.set_data(json.dumps(data))
    elif request.path == f"{base}/" and response.mimetype == "text/html":
        script = _TAB_SCRIPT.replace("@BASE@", base)
        response.set_data(response.get_data(as_text=True).replace("</body>", f"{script}</body>"))
    return response


def _row(stage: Result) -> dict[str, Any]:
    server = stage["server"] or {}
    latency = stage["latency_us"]
    return {
        "name": stage["name"],
        "concurrency": stage["concurrency"],
        "throughput": stage["throughput_rows_per_s"],
        **{name: latency[name] for name in ("p50", "p90", "p99")},
        "queue": server.get("queue_us"),
        **{name: server.get(f"compute_{name}_us") for name in ("input", "infer", "output")},
        "batches": ", ".join(f"{size}: {count}" for size, count in server.get("batch_sizes", {}).items()),
        "failures": sum(stage["failures"].values()),
        "wrong": sum(stage["wrong"].values()),
    }
