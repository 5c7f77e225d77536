"""Extend Locust's page with the tab "Triton", a start form that refuses a run that cannot work, and downloads.

Source: https://docs.locust.io/en/stable/extending-locust.html#extending-the-web-ui
"""

import json
import logging
import re
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flask import Response, jsonify, request
from locust.env import Environment

from loadtest import options
from loadtest.errors import LoadTestError, SettingsError, reason
from loadtest.printable import printable
from loadtest.report import files, guard, page
from loadtest.report.outcome import Outcome
from loadtest.report.result import Result
from loadtest.run import check
from loadtest.scenarios import users
from loadtest.settings import read_headers

_log = logging.getLogger(__name__)

_DOWNLOADS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "report.html": ("text/html", page.to_html),
    "result.json": ("application/json", files.to_json),
    "stages.csv": ("text/csv", files.to_csv),
}


def set_up(environment: Environment, outcome: Outcome) -> None:
    """Extend Locust's page."""
    web_ui: Any = environment.web_ui
    parsed = environment.parsed_options
    names = guard.find_names(web_ui.host, parsed.web_allowed_hosts if parsed else "")
    web_ui.app.before_request(lambda: _refuse_foreign(names))
    base = (parsed.web_base_path if parsed else "") or ""
    web_ui.template_args |= _template(base)
    web_ui.app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the form keeps the options' order
    page.compress_plotly()  # now, because it would delay requests during a run
    _add_routes(web_ui, outcome, base)
    given = options.to_text(parsed, environment.host) if parsed else {}
    web_ui.app.before_request(lambda: _refuse_start(environment, given, base))
    script = _script(base)
    web_ui.app.after_request(lambda response: _extend(response, script, base))


def check_port(web_ui: Any) -> None:
    """Check that the page can be served; Locust would show a traceback.

    Raises:
        SettingsError: Another program listens there, or this process may not.
    """
    family = socket.AF_INET6 if ":" in web_ui.host else socket.AF_INET
    try:
        socket.create_server((web_ui.host, web_ui.port), family=family).close()
    except OSError as error:
        where = f"{web_ui.host or '*'}:{web_ui.port}"
        fix = "end the program that listens there, or choose another port with --web-port"
        raise SettingsError("--web-port", f"the page cannot be served on {where}: {reason(error)}", fix) from error


def _template(base: str) -> dict[str, Any]:
    return {
        "extended_tabs": [{"title": "Triton", "key": "triton"}],
        "extended_tables": [{"key": "triton", "structure": []}],
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

    views: dict[str, Callable[[], Response]] = {
        **{name: partial(send, name) for name in _DOWNLOADS},
        "live": lambda: Response(page.read_page(), mimetype="text/html"),
        "figures.json": lambda: _figures(outcome),
        "plotly.min.js": _plotly,
    }
    for name, view in views.items():
        web_ui.app.add_url_rule(f"{base}/triton/{name}", f"triton_{name}", web_ui.auth_required_if_enabled(view))


def _figures(outcome: Outcome) -> Response:
    """Answer with what the tab shows."""
    result = outcome.now()
    if result is None:
        return Response("", 204)
    shown = page.to_shown(result, is_over=outcome.is_over)
    return Response(json.dumps(shown, allow_nan=False), mimetype="application/json")


def _plotly() -> Response:
    headers = {"Content-Encoding": "gzip", "Cache-Control": "max-age=86400"}
    return Response(page.compress_plotly(), mimetype="text/javascript", headers=headers)


def _refuse_foreign(names: frozenset[str] | None) -> Response | None:
    """Answer a request that another web page made with the reason why it is refused."""
    reason = guard.find_reason(request.method, dict(request.headers), names)
    if reason is None:
        return None
    said = printable(f"refused {request.method} {request.path}: {reason}")
    _log.warning(said)
    return Response(f"{said}\n", 403, mimetype="text/plain")


def _refuse_start(environment: Environment, given: Mapping[str, str], base: str) -> Response | None:
    """Answer a start that cannot work with the reason, before the first user starts.

    Args:
        environment: Locust's.
        given: The options on the command line.
        base: What the page's paths begin with.
    """
    parsed = environment.parsed_options
    if parsed is None or request.method != "POST" or request.path != f"{base}/swarm":
        return None
    runner: Any = environment.runner
    if runner.shape_greenlet:
        message = "a run is in progress, maybe started in another tab\nfix: wait for its end, or stop it"
        return jsonify({"success": False, "message": message, "host": environment.host})
    _forget_others(parsed, given)
    text = options.to_text(parsed, environment.host)
    text.update({name: request.form[name].strip() for name in text if name in request.form})
    try:
        _check_secrets(given, text)
        check(text)
    except LoadTestError as error:
        return jsonify({"success": False, "message": str(error), "host": environment.host})
    return None


def _forget_others(parsed: Any, given: Mapping[str, str]) -> None:
    """Set what the form does not say back to what the command line said.

    It leaves out the fields that are greyed out, and Locust would keep their values from the run before.
    """
    for option in options.all_options():
        if option.dest not in request.form and not option.is_list:
            setattr(parsed, option.dest, given[option.dest])


def _check_secrets(given: Mapping[str, str], text: Mapping[str, str]) -> None:
    """Check that the secrets of the command line go where it says, whatever the page asks for.

    Somebody who can send requests to the page must not learn them, nor send the contents of a file anywhere.

    Raises:
        SettingsError: The page asks for something else.
    """
    fixed = {option.dest: option.name for option in options.all_options() if option.is_secret}
    if read_headers(given):
        fixed |= {"host": "--host", "grpc_address": "--grpc-address"}
    for key, name in fixed.items():
        if text[key] != given[key]:
            what = "the page cannot change this option, because the command line may have given secret headers"
            raise SettingsError(name, what, f"start the load test again, with this {name}")


def _script(base: str) -> str:
    """Return what is added to Locust's page, as a `script` element."""
    script = (Path(__file__).parent / "locust_page.js").read_text(encoding="utf-8")
    form = {
        heading: [_field(option) for option in group if not option.is_secret]
        for heading, group in options.grouped().items()
    }
    for place, value in {"@BASE@": base, "@FORM@": form}.items():
        script = script.replace(f'"{place}"', page.to_script(value))
    return f"<script>{script}</script>"


def _field(option: options.Option) -> dict[str, Any]:
    """Return how the form shows an option; Locust writes a field's name as in `maxInFlight`."""
    name = re.sub("_([a-z0-9])", lambda found: found[1].upper(), option.dest)
    return {"name": name, "label": option.label, "help": option.help, "scenarios": users(option.name)}


def _extend(response: Response, script: str, base: str) -> Response:
    """Add our script to Locust's page, and let no other web page show ours in a frame, to catch clicks."""
    response.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
    if request.path == f"{base}/" and response.mimetype == "text/html":
        response.set_data(response.get_data(as_text=True).replace("</body>", f"{script}</body>"))
    return response
