"""Who may ask over HTTP: the bearer of the token in a file, or a user with the password in one."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gate:
    """Either of the two opens it; what names no file opens to nobody."""

    token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    def allows(self, authorization: str) -> bool:
        """Does an Authorization header open it? Files are read each time: secrets are rotated."""
        scheme, _, given = authorization.strip().partition(" ")
        expected = self._expected(scheme.lower())
        if not expected:
            return False
        return hmac.compare_digest(given.strip().encode("latin-1", "replace"), expected)

    @property
    def challenge(self) -> str:
        """What a client is asked for: the value of WWW-Authenticate."""
        return ", ".join(self._challenges())

    def _challenges(self) -> Iterator[str]:
        if self.password_file:
            yield 'Basic realm="plumbline"'
        if self.token_file:
            yield "Bearer"

    def _expected(self, scheme: str) -> bytes | None:
        if scheme == "bearer" and self.token_file:
            return _secret(self.token_file)
        if scheme == "basic" and self.password_file and (password := _secret(self.password_file)):
            return base64.b64encode(f"{self.username}:".encode() + password)
        return None


def _secret(path: Path) -> bytes | None:
    """What a file holds; an empty one is no secret, above all not to an empty header."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        _log.warning("http_secret_unreadable", file=str(path), reason=error.strerror)
        return None
    if not secret:
        _log.warning("http_secret_empty", file=str(path))
    return secret
