"""What pydantic and the JSON Schema say of a mistake, in the words of someone who writes the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic_core import ErrorDetails

from agent.config import config_schema
from agent.config.file import Document, Loc, Problem

Schema = Mapping[str, Any]

_schema = cache(config_schema)
_SECRET = re.compile(r"pass|pwd|secret|token|credential|api_?key|private|jaas|auth", re.IGNORECASE)


def explained(details: ErrorDetails, document: Document) -> Problem:
    """Turn one of pydantic's errors into a problem with what is expected, and the nearest remedy."""
    schema = _schema()
    loc: Loc = tuple(part for part in details["loc"] if part != "[key]")
    if details["type"] == "extra_forbidden":
        return _unknown_key(loc, document, schema)
    node = _node(schema, loc)
    expected = _describe(node, schema)
    if details["type"] == "missing":
        return Problem(loc, expected, f"add it: {_example(loc, node, schema)}")
    value = document.value(loc)
    return Problem(loc, expected, _remedy(loc, node, schema, value), _shown(value))


def _remedy(loc: Loc, node: Schema, schema: Schema, value: object) -> str:
    choices = {str(choice).casefold(): choice for choice in _resolved(node, schema).get("enum", [])}
    if near := difflib.get_close_matches(str(value).casefold(), choices, n=1, cutoff=0.5):
        return f"did you mean {choices[near[0]]}?"
    if isinstance(value, bool) and node.get("type") == "string":
        return f'put it in quotes: "{str(value).lower()}"'
    if "default" in node:
        default = node["default"]
        known = "" if isinstance(default, dict) else f": the default is {_shown(default)}"
        return f"correct the value, or remove it{known}"
    return f"write for instance {_example(loc, node, schema)}"


def _unknown_key(loc: Loc, document: Document, schema: Schema) -> Problem:
    """Say which key was meant. The value is shown only where it can hardly be a secret."""
    key = str(loc[-1])
    known = list(_resolved(_node(schema, loc[:-1]), schema).get("properties", {}))
    if _secret(key):
        expected = "no secret in this file"
        if loc[0] == "kafka" and re.search("ssl|tls|key", key, re.IGNORECASE):
            remedy = "name a file in kafka.ssl_key_password_file, or set PLUMBLINE_KAFKA_KEY_PASSWORD"
        elif loc[0] == "kafka":
            remedy = "name a file that holds it in kafka.sasl_password_file, or set PLUMBLINE_KAFKA_PASSWORD"
        elif loc[0] == "webhooks":
            remedy = "name files that hold it: secret_files for signing, header_files for Authorization"
        elif loc[0] == "http" and "reload" in key:
            remedy = "name a file that holds it in http.reload_token_file"
        elif loc[0] == "http" and re.search("token|pass|auth", key, re.IGNORECASE):
            remedy = "name a file that holds it in http.read_token_file or http.read_password_file"
        else:
            remedy = "remove it; Plumbline takes no secret here"
        return Problem(loc, expected, remedy, "(not shown)")
    near = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "_", key.lower()), known, n=1)
    homes = [home for home, section in _homes(schema) if key in section]
    if near:
        remedy = f"did you mean {near[0]}?"
    elif homes:
        remedy = f"it belongs in {' or '.join(homes)}"
    else:
        remedy = "remove it or correct it"
    expected = "a known key" if near else f"one of the keys {', '.join(known)}"
    return Problem(loc, expected, remedy, _shown(document.value(loc)))


def _secret(key: str) -> bool:
    parts = re.split(r"[^a-z]+", key.lower())
    return bool(_SECRET.search(key) or difflib.get_close_matches("password", parts, n=1, cutoff=0.75))


def _homes(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every section under the name a reader of the file knows it by."""
    yield "the top level", schema["properties"]
    for name, node in schema["properties"].items():
        yield name, _resolved(node, schema).get("properties", {})
    model = schema["$defs"]["ModelConfig"]["properties"]
    yield "models.NAME", model
    for name, node in model.items():
        yield f"models.NAME.{name}", _resolved(node, schema).get("properties", {})
    yield "an item of sources", schema["$defs"]["SourceConfig"]["properties"]


def _resolved(node: Schema, schema: Schema) -> Schema:
    """Follow a reference, and of a nullable type take the other half."""
    if "$ref" in node:
        return _resolved(schema["$defs"][node["$ref"].rsplit("/", 1)[-1]], schema)
    for option in node.get("anyOf", ()):
        if option.get("type") != "null":
            return _resolved(option, schema)
    return node


def _node(schema: Schema, loc: Loc) -> Schema:
    """Find what the JSON Schema says of a place; {} where it says nothing."""
    node: Schema = schema
    for part in loc:
        inner = _resolved(node, schema)
        if isinstance(part, int):
            node = inner.get("items", {})
        else:
            extra = inner.get("additionalProperties")
            node = inner.get("properties", {}).get(part) or (extra if isinstance(extra, dict) else {})
    return node


def _describe(node: Schema, schema: Schema) -> str:
    """Say in words which values a JSON Schema node allows."""
    nullable = any(option.get("type") == "null" for option in node.get("anyOf", ()))
    return _words(_resolved(node, schema), schema) + (", or null" if nullable else "")


def _words(node: Schema, schema: Schema) -> str:
    if "x-expected" in node:
        return str(node["x-expected"])
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return str(node["const"])
    kind = node.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _bounds(node)
    if kind == "array":
        least = f" of at least {node['minItems']}" if node.get("minItems") else ""
        return f"a list{least}, [a, b]; each item {_describe(node.get('items', {}), schema)}"
    if kind == "object" and "properties" in node:
        return f"a section with `key: value` lines below it ({', '.join(node['properties'])})"
    if kind == "object":
        each = _describe(node["additionalProperties"], schema)
        return f"a mapping with `name: value` lines below it; each value {each}"
    return {"boolean": "true or false", "string": "text"}.get(str(kind), "another value")


def _bounds(node: Schema) -> str:
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    bounds = [f"{word} {node[key]:g}" for key, word in words if key in node]
    return f", {' and '.join(bounds)}" if bounds else ""


def _example(loc: Loc, node: Schema, schema: Schema) -> str:
    key = str(loc[-1]) if loc else "models"
    inner = _resolved(node, schema)
    if key == "models":
        return "models: {my-model: {task: binary}}"
    value = {"array": "[a]", "integer": "1", "number": "0.5", "boolean": "true", "object": "{}"}.get(
        str(inner.get("type")), "text"
    )
    if "enum" in inner:
        value = str(inner["enum"][0])
    elif "such as " in str(inner.get("x-expected", "")):
        value = "10m"
    return f"`{key}: {value}`" if not key.isdigit() else f"`- {value}`"


def _shown(value: object) -> str:
    """Print a value for a message: containers only when small and plain, credentials in addresses never."""
    if isinstance(value, dict):
        return "a mapping" if value else "{}"
    if isinstance(value, list):
        plain = all(isinstance(item, str | int | float | bool) for item in value)
        return (
            f"[{', '.join(_shown(item) for item in value)}]"
            if plain and len(value) <= 10
            else f"{len(value)} items"
        )
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        return str(value)
    text = re.sub(r"[^\s,/]*:[^\s,/]*@", "…@", value)
    return f'"{text[:80]}…"' if len(text) > 80 else f'"{text}"'
