"""Write docs/result-schema.md: the keys of result.json, as the JSON Schema of the load test describes them.

`python docs/result_schema.py > docs/result-schema.md`, after a change of loadtest/report/result.schema.json.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parents[1] / "loadtest" / "report" / "result.schema.json"

INTRODUCTION = """# `result.json`, schema {number}

This page is generated from the JSON Schema [result.schema.json](../loadtest/report/result.schema.json), which
`python -m loadtest schema` prints: change that file, and run `python docs/result_schema.py > docs/result-schema.md`.

The number in `schema` increases if a change could mislead a program that reads the file. New keys may be added without
increasing it.

The name of a time ends in its unit. `rows` counts samples, `requests` counts calls. Every key is there unless this page
says otherwise; what does not apply is null.
"""

Schema = Mapping[str, Any]


def page(schema: Schema) -> Iterator[str]:
    """Yield the page's blocks: the top level, then a section for each kind of object."""
    yield INTRODUCTION.format(number=schema["properties"]["schema"]["const"])
    yield f"## Top level\n\n{table(schema)}\n"
    for name, kind in schema["$defs"].items():
        keys = f"\n\n{table(kind)}" if "properties" in kind else ""
        yield f"## `{name}`\n\n{kind['description']}{keys}\n"


def table(kind: Schema) -> str:
    """Return a line for each key of an object."""
    optional = kind["properties"].keys() - set(kind["required"])
    rows = [
        f"| `{key}` | {type_of(value)}{', may be missing' if key in optional else ''} | {value['description']} |"
        for key, value in kind["properties"].items()
    ]
    return "\n".join(["| key | type | value |", "|---|---|---|", *rows])


def type_of(value: Schema) -> str:
    """Return the type of a value in words, with a link to the section of an object."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "anyOf" in value:
        return " or ".join(map(type_of, value["anyOf"]))
    if "const" in value:
        return f"{value['const']}"
    if "enum" in value:
        return " or ".join(f"`{choice}`" if choice is not None else "null" for choice in value["enum"])
    if value["type"] == "array":
        return f"array of {type_of(value['items'])}"
    return value["type"] if isinstance(value["type"], str) else " or ".join(value["type"])


if __name__ == "__main__":
    print("\n".join(page(json.loads(SCHEMA.read_text(encoding="utf-8")))), end="")
