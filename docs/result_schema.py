"""Write the pages in docs about the keys of result.json, tune.json and together.json.

Each is made from a JSON Schema in loadtest/report. After a change of it:

    python docs/result_schema.py > docs/result-schema.md
    python docs/result_schema.py tuning > docs/tuning-schema.md
    python docs/result_schema.py sharing > docs/sharing-schema.md
"""

import json
import sys
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

REPORT = Path(__file__).parents[1] / "loadtest" / "report"

INTRODUCTION = """# `{file}`, schema {number}

This page is generated from the JSON Schema [{of}.schema.json](../loadtest/report/{of}.schema.json), which
`python -m loadtest schema{argument}` prints: change that file, and run
`python docs/result_schema.py{argument} > {page}`.

The number in `schema` increases if a change could mislead a program that reads the file. New keys may be added without
increasing it.

{conventions}
"""
CONVENTIONS = {
    "result": """\
The name of a time ends in its unit. `rows` counts samples, `requests` counts calls. Every key is there unless this page
says otherwise; what does not apply is null.""",
    "tuning": """\
`python -m builder tune` prints this with `--json`, and writes it to `tune.json` in its `--report-dir`. Times are in
seconds unless the name of the key ends in another unit. Every key is there; what does not apply is null.

With `--share`, it prints what [sharing-schema.md](sharing-schema.md) describes: one of these for each model, and what
came out for all of them together. With `--undo`, it prints what is below [applied](#applied).""",
    "sharing": """\
`python -m builder tune --share` prints this with `--json`, and writes it to `together.json` in its `--report-dir`. Each
model has what [`tune.json`](tuning-schema.md) has. Every key is there; what does not apply is null.""",
}
FILES = {"result": "result.json", "tuning": "tune.json", "sharing": "together.json"}
TUNING = "tuning-schema.md"
"""The page about the kinds of objects that the schema of `sharing` takes from that of `tuning`."""

Schema = Mapping[str, Any]


def page(schema: Schema, of: str) -> Iterator[str]:
    """Yield the page's blocks: the top level, then a section for each kind of object."""
    yield INTRODUCTION.format(
        file=FILES[of],
        number=schema["properties"]["schema"]["const"],
        of=of,
        argument="" if of == "result" else f" {of}",
        page=f"docs/{of}-schema.md",
        conventions=CONVENTIONS[of],
    )
    yield f"## Top level\n\n{table(schema, schema['$defs'])}\n"
    for name, kind in schema["$defs"].items():
        keys = f"\n\n{table(kind, schema['$defs'])}" if "properties" in kind else ""
        yield f"## `{name}`\n\n{kind['description']}{keys}\n"


def table(kind: Schema, here: Container[str]) -> str:
    """Return a line for each key of an object; `here` are the kinds of objects that this page describes."""
    optional = kind["properties"].keys() - set(kind["required"])
    rows = [
        f"| `{key}` | {type_of(value, here)}{', may be missing' if key in optional else ''} | {value['description']} |"
        for key, value in kind["properties"].items()
    ]
    return "\n".join(["| key | type | value |", "|---|---|---|", *rows])


def type_of(value: Schema, here: Container[str]) -> str:
    """Return the type of a value in words, with a link to the section of an object."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        page = "" if name in here else TUNING
        return f"[{name}]({TUNING})" if name == "tuning" else f"[{name}]({page}#{name})"
    if "anyOf" in value:
        return " or ".join(type_of(each, here) for each in value["anyOf"])
    if "const" in value:
        return f"{value['const']}"
    if "enum" in value:
        return " or ".join(f"`{choice}`" if choice is not None else "null" for choice in value["enum"])
    if value["type"] == "array":
        return f"array of {type_of(value['items'], here)}"
    values = value.get("additionalProperties")
    if value["type"] == "object" and isinstance(values, dict) and "$ref" in values:
        return f"object of {type_of(values, here)}"
    return value["type"] if isinstance(value["type"], str) else " or ".join(value["type"])


if __name__ == "__main__":
    of = sys.argv[1] if len(sys.argv) > 1 else "result"
    schema = json.loads((REPORT / f"{of}.schema.json").read_text(encoding="utf-8"))
    print("\n".join(page(schema, of)), end="")
