"""result.json, its JSON Schema and its documentation agree. Every result made in the tests is checked as well."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from support.load_results import result_of
from support.load_run import ROOT
from support.load_schema import FILE, HOW_TO_ADD, check, read_schema

from loadtest.commands import main
from loadtest.report import SCHEMA

OPTIONAL = {"gpu_utilization", "cpu_utilization", "gpu_memory_used_bytes", "cpu_memory_used_bytes", "gpu_power_watts"}
"""Keys that may be missing, because not every server's metrics have them. Everything else is null instead."""


def objects(schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"top": schema, **{name: kind for name, kind in schema["$defs"].items() if "properties" in kind}}


def test_the_schema_is_a_schema_and_has_the_results_number() -> None:
    Draft202012Validator.check_schema(read_schema())
    assert read_schema()["properties"]["schema"] == {"const": SCHEMA, "description": "the number of this schema"}


@pytest.mark.parametrize("kind", objects(read_schema()).values(), ids=objects(read_schema()))
def test_an_object_has_exactly_the_keys_that_are_described(kind: Mapping[str, Any]) -> None:
    """So a key of the schema that no result has fails every result, and so does a key that the schema lacks."""
    assert kind["additionalProperties"] is False
    assert set(kind["properties"]) - set(kind["required"]) <= OPTIONAL, HOW_TO_ADD
    assert set(kind["required"]) <= set(kind["properties"])
    assert all(value["description"] for value in kind["properties"].values())


@pytest.mark.parametrize("change", [{"surprise": 1}, {"seconds": "long"}, {"windows": [{}]}, {"wrong": {"nan": -1}}])
def test_a_result_that_the_schema_does_not_describe_is_found(change: dict[str, Any]) -> None:
    result = result_of((100, 1000))
    result["stages"][0].update(change)
    with pytest.raises(AssertionError, match=next(iter(change))):
        check(result)


def test_a_missing_key_is_found() -> None:
    result = result_of((100, 1000))
    del result["stages"][0]["client_processes"]
    with pytest.raises(AssertionError, match="client_processes"):
        check(result)


def test_the_page_in_the_docs_is_made_from_the_schema() -> None:
    made = subprocess.run(
        [sys.executable, "docs/result_schema.py"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert (ROOT / "docs" / "result-schema.md").read_text() == made.stdout, HOW_TO_ADD


def test_the_command_prints_the_schema() -> None:
    assert CliRunner().invoke(main, ["schema"]).output == FILE.read_text()
