"""What can go wrong, named by what the caller does about it.

PlumblineError         exit 1
├── ConfigError        the user's config or command line is wrong: say key, value and remedy, exit 2
├── StartError         broker, topic or credentials are not usable: exit 1, or wait (on_start_failure)
├── StateError         the store refuses: locked by another agent, of another format, damaged: exit 2
├── StateBusyError     the store cannot be written now (disk full, read-only, failing): keep all, try again
└── PoisonError        nearly all of the input cannot be used: exit 3 before more of it is diverted
"""

from __future__ import annotations


class PlumblineError(Exception):
    """Every error that is meant for a person; its text is the message they see."""

    exit_code = 1


class ConfigError(PlumblineError):
    """The configuration cannot be used. The text names the key, the value and the remedy."""

    exit_code = 2


class StartError(PlumblineError):
    """The agent cannot start to consume; nothing was consumed."""


class StateError(PlumblineError):
    """The state directory cannot be used safely; another start would meet the same."""

    exit_code = 2


class StateBusyError(PlumblineError):
    """The state cannot be written now. Nothing of the commit was; it may be tried again as it is."""


class PoisonError(PlumblineError):
    """More of the input is unusable than `dead_letters` allows; what broke the limit was not committed."""

    exit_code = 3
