"""What the YAML file and the environment say, as one plain tree that remembers where each value came from.

YAML is read by the 1.2 core schema: `no`, `12:30` and `007` are text, only true/false are booleans. So a
class named `no` stays a class. Nothing is constructed but mappings, lists and scalars.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agent.errors import ConfigError

Loc = tuple[str | int, ...]
"""The way to a value: ("models", "credit", "segments", 0)."""

Nodes = tuple[yaml.Node, ...]

PREFIX = "PLUMBLINE_"
_LONGEST_FILE = 1_000_000
_MOST_VALUES = 100_000
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")}
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}


class Problem(NamedTuple):
    """One mistake: where, what is expected, what to do. `shown` is the value given, fit to be printed."""

    loc: Loc
    expected: str
    remedy: str
    shown: str = ""


@dataclass
class Document:
    """The tree, the line of every key and item, and the environment variables that replaced values."""

    name: str
    data: dict[str, object] = field(default_factory=dict)
    lines: dict[Loc, int] = field(default_factory=dict)
    variables: dict[Loc, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, loc: Loc) -> str:
        """Name the place of a value, or of the nearest thing around it: "file:line" or the variable."""
        for end in range(len(loc), 0, -1):
            if loc[:end] in self.variables:
                return f"environment variable {self.variables[loc[:end]]}"
            if loc[:end] in self.lines:
                return f"{self.name}:{self.lines[loc[:end]]}"
        return self.name

    def value(self, loc: Loc) -> object:
        """Return what was given at `loc`; None where nothing was."""
        node: object = self.data
        for part in loc:
            if isinstance(node, dict):
                node = node.get(part)
            elif isinstance(node, list) and isinstance(part, int) and part < len(node):
                node = node[part]
            else:
                return None
        return node


def read(path: Path, environ: Mapping[str, str]) -> Document:
    """Read the file and lay the environment over it; raise ConfigError where there is no tree to speak of."""
    document = Document(path.name)
    root = _compose(_text(path), path.name)
    if root is None:
        raise ConfigError(f"{path.name} is empty; {_START}")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path.name}:1: expected `key: value` lines at the top of the file; {_START}")
    try:
        document.data = _mapping(document, root, (), ())
    except RecursionError:
        raise ConfigError(f"{path.name} is nested too deeply to be a config") from None
    _override(document, environ)
    return document


_START = "start from a file of deploy/examples/, or see `plumbline schema config`"


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); name an existing file with -c"
        ) from None
    if len(raw) > _LONGEST_FILE:
        raise ConfigError(
            f"{path} has {len(raw):,} bytes; is that a config? At most {_LONGEST_FILE:,} are read"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path.name}:{line}: not UTF-8; save the file with that encoding") from None


def _compose(text: str, name: str) -> yaml.Node | None:
    """Parse; the message never quotes the line, since a secret may stand in it."""
    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        hint = "; YAML is indented with spaces, never tabs" if "\\t" in str(error.problem) else ""
        what = str(error.problem or error.context)
        raise ConfigError(
            f"{name}:{line}: not valid YAML: {what}{hint}; check this line and the one before"
        ) from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply to be a config") from None
    except yaml.YAMLError:
        raise ConfigError(
            f"{name}: holds characters that YAML does not allow; save it as plain text"
        ) from None


def _build(document: Document, node: yaml.Node, loc: Loc, above: Nodes) -> object:
    if len(document.lines) > _MOST_VALUES:
        raise ConfigError(f"{document.name} has more than {_MOST_VALUES:,} values; do aliases multiply?")
    if node.tag not in _PLAIN_TAGS:
        document.problems.append(Problem(loc, "a plain value, without a YAML tag", f"remove {node.tag}"))
        return None
    if node in above:
        document.problems.append(
            Problem(loc, "a value that does not contain itself", "remove the alias (*name)")
        )
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, loc, above)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            document.lines[(*loc, index)] = item.start_mark.line + 1
            items.append(_build(document, item, (*loc, index), (*above, node)))
        return items
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return _scalar(node.value) if plain else node.value


def _mapping(document: Document, node: yaml.MappingNode, loc: Loc, above: Nodes) -> dict[str, object]:
    built: dict[str, object] = {}
    merged: dict[str, object] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        here, line = (*loc, key), key_node.start_mark.line + 1
        if key == "<<":
            merged |= _merged(document, value_node, loc, (*above, node))
        elif key in built:
            remedy = f"keep one of the lines {document.lines[here]} and {line}"
            document.problems.append(Problem(here, "each key once", remedy))
        else:
            document.lines[here] = line
            built[key] = _build(document, value_node, here, (*above, node))
    return merged | built


def _merged(document: Document, node: yaml.Node, loc: Loc, above: Nodes) -> dict[str, object]:
    """The keys that `<<: *anchor` brings; the mapping's own keys win over them."""
    value = _build(document, node, loc, above)
    if isinstance(value, dict):
        return value
    document.problems.append(Problem((*loc, "<<"), "an alias of a mapping, `<<: *name`", "name one mapping"))
    return {}


def _scalar(text: str) -> object:
    """Read a plain scalar by the core schema; leading zeros, underscores and colons leave it text."""
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    number = _NUMBER.fullmatch(text)
    if not number:
        return text
    return float(text) if number[2] or number[3] else int(text)


def _override(document: Document, environ: Mapping[str, str]) -> None:
    """Lay PLUMBLINE_SECTION__KEY over the file. A variable that is set but empty counts as not set.

    A name without `__` must be a key of the top level; others are left alone, for Kubernetes itself sets
    PLUMBLINE_PORT and the like beside a service called plumbline.
    """
    from agent.config import Config

    for variable in sorted(name for name in environ if name.startswith(PREFIX) and environ[name]):
        parts = variable.removeprefix(PREFIX).split("__")
        if len(parts) > 1 or parts[0].lower() in Config.model_fields:
            _put(document, variable, parts, environ[variable])


def _put(document: Document, variable: str, parts: list[str], text: str) -> None:
    node: Any = document.data
    loc: Loc = ()
    for part in parts[:-1]:
        key = _key(node, part, loc)
        if key is None:
            break
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node, loc = node[key], (*loc, key)
    else:
        key = _key(node, parts[-1], loc)
        if key is not None:
            loc = (*loc, key)
            node[key] = _variable_value(document, variable, loc, text)
            document.variables[loc] = variable
            return
        part = parts[-1]
    document.variables[(*loc, part)] = variable
    known = ", ".join(map(str, node)) if isinstance(node, dict) else "items 0, 1, … of a list"
    expected = f"one of: {known}" if isinstance(node, dict | list) else "a section at this place"
    document.problems.append(
        Problem((*loc, part), expected, f"correct the variable's name or unset {variable}")
    )


def _key(node: object, part: str, loc: Loc) -> str | int | None:
    """Say what a part of a variable's name stands for: a list's index, an existing key, or a new one.

    Names of models come from the file, since a variable's name cannot spell all of them.
    """
    if isinstance(node, list):
        return int(part) if part.isdigit() and int(part) < len(node) else None
    if not isinstance(node, dict):
        return None
    return _same(part, node) or (None if loc == ("models",) else part.lower())


def _same(part: str, keys: Iterable[str]) -> str | None:
    """Find the key a variable's name means: case and the characters a shell refuses do not count."""
    wanted = re.sub(r"[^a-z0-9]", "_", part.lower())
    return next((key for key in keys if re.sub(r"[^a-z0-9]", "_", key.lower()) == wanted), None)


def _variable_value(document: Document, variable: str, loc: Loc, text: str) -> object:
    """Read a value as the file would; `[a, b]` and `{a: b}` make lists and mappings."""
    if not text.startswith(("[", "{")):
        return _scalar(text)
    inner = Document(variable)
    node = _compose(text, f"environment variable {variable}")
    value = None if node is None else _build(inner, node, loc, ())
    document.problems += inner.problems
    return value
