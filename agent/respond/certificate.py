"""The certificate that this agent serves with; a renewed one counts at the next connection."""

from __future__ import annotations

import ssl
from pathlib import Path
from socket import socket

import structlog

from agent.errors import ConfigError

_log = structlog.get_logger()


class Certificate:
    """TLS 1.2 or later with the certificate in these files; ConfigError where they cannot be used."""

    def __init__(self, cert: Path, key: Path | None) -> None:
        self._files = cert, key
        try:
            self._context = self._read()
        except OSError as error:  # an SSLError is one
            files = " with ".join(str(file) for file in self._files if file)
            why = "no PEM, not a pair, or a key with a password" if isinstance(error, ssl.SSLError) else None
            raise ConfigError(
                f"http.tls_cert_file: {files}: {why or error.strerror}. "
                "Name PEM files of a certificate and its open key that this user may read."
            ) from None

    def wrap(self, connection: socket, timeout_s: float) -> ssl.SSLSocket:
        """Shake hands within the time, or OSError; the connection is closed then."""
        try:
            self._context = self._read()
        except OSError:  # half renewed: one file is new, the other not yet
            _log.warning("http_certificate_unreadable", file=str(self._files[0]))
        connection.settimeout(timeout_s)
        return self._context.wrap_socket(connection, server_side=True)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files, password="")  # without one, OpenSSL would ask the terminal
        return context
