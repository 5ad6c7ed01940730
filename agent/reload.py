"""Reload: a restart in place. The file is read anew and the committed state under it, or all stays as it was.

What holds a connection, a port or a file cannot change that way, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from agent.config import Config
from agent.errors import ConfigError, PlumblineError
from agent.pipeline import Pipeline

_log = structlog.get_logger()

FIXED = (
    "kafka",
    "sources",
    "state.dir",
    "state.max_megabytes",
    "http",
    "dead_letters.topic",
    "dead_letters.path",
    "retraining_topic",
)
"""Keys and sections that only a restart changes."""


class Reload:
    """Whether a reload was asked for, and how the last one ended."""

    def __init__(self, read: Callable[[], Config]) -> None:
        self.successful = True
        self._read = read
        self._asked = False

    def ask(self) -> None:
        """For signal handlers and other threads: a plain assignment, because a handler must take no lock."""
        self._asked = True

    def taken(self) -> bool:
        """Was one asked for since the last call? Several askings are one."""
        if not self._asked:
            return False
        self._asked = False  # what is asked for from here on finds the file unread
        return True

    def attempt(self, running: Pipeline) -> Pipeline | None:
        """A pipeline under the file as it is now and the state as committed; None where that cannot be.

        Nothing may end the running one: what a restart would die of is logged here, and the old config stays.
        """
        self.successful = False
        try:
            config = self._read()
            refuse(running.config, config)
            made = Pipeline(config, running.store, version=running.version)
            made.assign(running.partitions)
            made.view(0.0)
        except PlumblineError as error:
            _log.error("reload_refused", error=str(error))
            return None
        except Exception as error:
            _log.error("reload_failed", exc_info=error)
            return None
        self.successful = True
        _log.info("reloaded", config_sha256=config.digest())
        return made


def refuse(old: Config, new: Config) -> None:
    """Raise ConfigError where something differs that a running process holds on to."""
    if changed := sorted({key for name in FIXED for key in _changed(old, new, name)}):
        raise ConfigError(
            f"{', '.join(changed)}: cannot change while the agent runs; "
            "restart it, or take the change back and reload"
        )


def _changed(old: Config, new: Config, name: str) -> Iterator[str]:
    """The dotted keys of a section or value that differ."""
    section, _, key = name.partition(".")
    before, after = getattr(old, section), getattr(new, section)
    if before == after:
        return
    keys = (key,) if key else getattr(type(before), "model_fields", ())
    if not keys:
        yield name
    yield from (f"{section}.{one}" for one in keys if getattr(before, one) != getattr(after, one))
