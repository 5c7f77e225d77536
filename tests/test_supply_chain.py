"""The audit of CI fails when an update would fix a vulnerability, and never because it could not look."""

import json
import re
import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def audit() -> Any:
    """`.ci/audit` as a module."""
    loader = SourceFileLoader("audit", str(ROOT / ".ci" / "audit"))
    spec = spec_from_loader("audit", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def package(name: str, *fixes: str) -> dict[str, Any]:
    """What pip-audit says about a package with one vulnerability."""
    return {"name": name, "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": list(fixes)}]}


def outcome(audit: Any, monkeypatch: pytest.MonkeyPatch, report: str) -> object:
    """Return the exit code, or the message, of an audit in which pip-audit prints this report."""
    monkeypatch.setattr(audit, "call", lambda *_: report)
    try:
        audit.main()
    except SystemExit as end:
        return end.code
    return 0


def test_a_vulnerability_that_an_update_fixes_fails_the_audit(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.dumps(
        {"dependencies": [package("flask", "1.1"), package("numpy"), {"name": "x", "skip_reason": "?"}]}
    )
    assert (
        outcome(audit, monkeypatch, report) == "audit: 1 to fix: run .ci/lock, or accept it with a reason in .ci/audit"
    )
    printed = capsys.readouterr().out
    assert "audit: 2 of 3 packages were checked" in printed
    assert "flask 1.0: CVE-1: fixed in 1.1" in printed
    assert "numpy 1.0: CVE-1: no version fixes it yet" in printed


def test_an_accepted_package_is_printed_and_does_not_fail(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.dumps({"dependencies": [package("nvidia-pytriton", "9.0")]})
    assert outcome(audit, monkeypatch, report) == 0
    assert "nvidia-pytriton 1.0: CVE-1: accepted: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "report", ["no report", "{}", "[1]", json.dumps({"dependencies": [{"name": "x", "skip_reason": "not found"}]})]
)
def test_an_audit_that_learns_nothing_is_skipped_with_the_reason(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: str
) -> None:
    assert outcome(audit, monkeypatch, report) == 0
    assert capsys.readouterr().out.startswith("audit: skipped: ")


def test_a_tool_that_fails_or_hangs_is_a_reason_to_skip(audit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(audit.NotChecked, match="sh failed: no network"):
        audit.call("sh", "-c", "echo no network >&2; exit 1")
    monkeypatch.setattr(audit, "TIMEOUT_S", 0.1)
    with pytest.raises(audit.NotChecked, match="did not end"):
        audit.call("sleep", 60)


def test_accepted_packages_are_still_used(audit: Any) -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert set(audit.ACCEPTED) <= pinned


def test_what_ci_installs_is_pinned() -> None:
    """`.ci/lock` resolves the extras that `.ci/run` and the README install, and every package of them has a version."""
    asked = set(re.findall(r"'\.\[([a-z,]+)\]'", (ROOT / ".ci" / "run").read_text() + (ROOT / "README.md").read_text()))
    locked = re.findall(r"\{ROOT\}\[([\w,]+)\]", (ROOT / ".ci" / "lock").read_text())
    extras = {extra for extras in asked for extra in extras.split(",")} - {"gpu", "otel"}
    assert extras <= set(locked[0].split(","))
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    listed = toml.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {re.split(r"[<>=\[;]", text)[0] for extra in extras for text in listed[extra]}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert "tensorrt-rtx-cu13-libs" in named
    assert named <= pinned
