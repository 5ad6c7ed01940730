"""Who may change something over HTTP: the bearer of the token in a file; where no file is named, nobody."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gate:
    """The one thing that can be asked for, and the token it takes."""

    token_file: Path
    ask: Callable[[], None]

    def allows(self, authorization: str) -> bool:
        """Does an Authorization header hold the token? Read each time: secrets are rotated while we run."""
        scheme, _, given = authorization.strip().partition(" ")
        try:
            token = self.token_file.read_bytes().strip()
        except OSError as error:
            _log.warning("reload_token_unreadable", reason=error.strerror)
            return False
        if not token:
            _log.warning("reload_token_empty")
            return False
        same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
        return same and scheme.lower() == "bearer"
