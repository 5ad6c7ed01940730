"""Turn a document into a Config, or into one message: each mistake with its place, value and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agent.config import Config, KafkaConfig, ModelConfig, Section, SourceConfig
from agent.config.file import Document, Loc, Problem
from agent.config.rules import rules
from agent.config.words import explained
from agent.errors import ConfigError

S = TypeVar("S", bound=Section)

_PATHS: tuple[Loc, ...] = (
    ("kafka", "sasl_password_file"),
    ("kafka", "ssl_cafile"),
    ("kafka", "ssl_certfile"),
    ("kafka", "ssl_keyfile"),
    ("kafka", "ssl_key_password_file"),
    ("state", "dir"),
    ("http", "reload_token_file"),
    ("http", "tls_cert_file"),
    ("http", "tls_key_file"),
    ("http", "read_token_file"),
    ("http", "read_password_file"),
    ("dead_letters", "path"),
    ("models", "*", "baseline"),
    ("webhooks", "*", "secret_files", "*"),
    ("webhooks", "*", "header_files", "*"),
    ("webhooks", "*", "ca_file"),
)
_FOLLOWS = "default_factory_not_called"
"""What pydantic says of a default that depends on a value which is wrong itself."""


def checked(document: Document, folder: Path, *, need_baselines: bool) -> Config:
    """Validate against the models and the rules between keys; raise one ConfigError with all problems."""
    _anchor_paths(document, folder)
    problems = list(document.problems)
    config: Config | None = None
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        told = {problem.loc for problem in problems}
        problems += [
            explained(details, document)
            for details in error.errors(include_url=False)
            if details["type"] != _FOLLOWS and told.isdisjoint(_around(details["loc"]))
        ]
    problems += rules(config or _sound_parts(document.data), need_baselines=need_baselines)
    if config is None or problems:
        raise ConfigError(_message(document, problems))
    return config


def _around(loc: Loc) -> Iterator[Loc]:
    """A place and all that it lies in: a mistake there brings about mistakes here."""
    return (loc[:end] for end in range(1, len(loc) + 1))


def _message(document: Document, problems: list[Problem]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{document.name} cannot be used: {count}"]
    for problem in problems:
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.loc)
        key = "".join(parts).lstrip(".")
        shown = f": {problem.shown}" if problem.shown else ""
        lines.append(f"  {document.where(problem.loc)}: {key}{shown}")
        lines.append(f"    expected: {problem.expected}")
        lines.append(f"    remedy: {problem.remedy}")
    return "\n".join(lines)


def _anchor_paths(document: Document, folder: Path) -> None:
    """Let the file's relative paths start at its folder; the environment's and defaults stay as they are."""
    for pattern in _PATHS:
        for loc in list(_expand(document, pattern)):
            section, value = document.value(loc[:-1]), document.value(loc)
            from_file = loc not in document.variables
            if from_file and isinstance(section, dict | list) and isinstance(value, str) and value:
                section[loc[-1]] = str(folder / value)  # type: ignore[index] # its own key or index


def _expand(document: Document, pattern: Loc) -> Iterator[Loc]:
    """Every place a pattern means; a star is each key of a mapping, or each item of a list."""
    if "*" not in pattern:
        yield pattern
        return
    star = pattern.index("*")
    section = document.value(pattern[:star])
    keys: Iterable[str | int] = range(len(section)) if isinstance(section, list) else ()
    for key in section if isinstance(section, dict) else keys:
        yield from _expand(document, (*pattern[:star], key, *pattern[star + 1 :]))


def _sound_parts(data: Mapping[str, Any]) -> Config:
    """Return what is valid on its own, so that its rules are checked although other parts are broken."""
    parts: dict[str, object] = {"models": {}, "sources": []}
    models, sources = data.get("models"), data.get("sources")
    if isinstance(models, dict):
        read = {name: _validated(ModelConfig, raw) for name, raw in models.items()}
        parts["models"] = {name: model for name, model in read.items() if model}
    if isinstance(sources, list):
        found = [_validated(SourceConfig, raw) for raw in sources]
        parts["sources"] = [] if None in found else found
    if kafka := _validated(KafkaConfig, data.get("kafka", {})):
        parts["kafka"] = kafka
    return Config.model_construct(**parts)  # type: ignore[arg-type]


def _validated(section: type[S], raw: object) -> S | None:
    try:
        return section.model_validate(raw)
    except ValidationError:
        return None
