"""What can go wrong, named by what the caller does about it.

PlumblineError
├── ConfigError      the user's config or command line is wrong: say key, value and remedy, exit 2
├── StartError       broker, topic, credentials or state are not usable: exit 1, or wait (on_start_failure)
└── StateError       the store refuses: locked by another agent, of a newer format, damaged
"""

from __future__ import annotations


class PlumblineError(Exception):
    """Every error that is meant for a person; its text is the message they see."""


class ConfigError(PlumblineError):
    """The configuration cannot be used. The text names the key, the value and the remedy."""


class StartError(PlumblineError):
    """The agent cannot start to consume; nothing was consumed."""


class StateError(PlumblineError):
    """The state directory cannot be used safely."""
