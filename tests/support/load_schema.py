"""The JSON Schema of a load test's result, which every result made in a test must keep."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FILE = Path(__file__).parents[2] / "loadtest" / "report" / "result.schema.json"
HOW_TO_ADD = (
    "To add a key: describe it in loadtest/report/result.schema.json, under `properties` and in `required` (give null "
    "where it does not apply), then run `python docs/result_schema.py > docs/result-schema.md`."
)


def read_schema() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


VALIDATOR = Draft202012Validator(read_schema())


def check(result: Any) -> None:
    """Fail unless the result, as a program would read it, is what the schema describes."""
    errors = [
        f"{error.json_path}: {error.message[:300]}" for error in VALIDATOR.iter_errors(json.loads(json.dumps(result)))
    ]
    assert not errors, "\n".join([*errors[:10], HOW_TO_ADD])
