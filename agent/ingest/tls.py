"""TLS to the broker: whom we trust and who we are, read from files that may be renewed while we run."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

from agent.config import KafkaConfig
from agent.errors import ConfigError

KEY_PASSWORD_VARIABLE = "PLUMBLINE_KAFKA_KEY_PASSWORD"


def context(config: KafkaConfig) -> ssl.SSLContext:
    """TLS 1.2 or later, the broker's certificate and name always checked; ConfigError names a bad file."""
    trusting = _Context(ssl.PROTOCOL_TLS_CLIENT)
    trusting.config = config
    try:
        if config.ssl_cafile is None:
            trusting.load_default_certs()
        else:
            trusting.load_verify_locations(config.ssl_cafile)
    except OSError as error:  # an SSLError is one
        remedy = "name a file of PEM certificates that this user may read"
        raise ConfigError(f"kafka.ssl_cafile: {config.ssl_cafile}: {_words(error)}; {remedy}") from None
    trusting.identify()
    return trusting


class _Socket(ssl.SSLSocket):
    """What the client leaves out at the end of a connection.

    It drops what it has read when the end follows at once, and so the broker's word on a wrong password: here
    the end is told only to the next call. And it forgets the socket of a handshake that failed.
    """

    _heard = False

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        data = super().recv(buflen, flags)
        if not data and self._heard:
            self._heard = False
            raise ssl.SSLWantReadError
        self._heard = bool(data)
        return data


class _Context(ssl.SSLContext):
    sslsocket_class = _Socket
    config: KafkaConfig

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:  # noqa: ANN401 - as ssl has it
        """Each connection shows the certificate as it is now: short-lived ones are renewed under us."""
        self.identify()
        return super().wrap_socket(*args, **options)

    def identify(self) -> None:
        config = self.config
        if config.ssl_certfile is None:
            return
        password = key_password(config)
        try:
            self.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password)
        except (OSError, ValueError) as error:  # an SSLError is an OSError; a password may be too long
            files = " with ".join(str(path) for path in (config.ssl_certfile, config.ssl_keyfile) if path)
            raise ConfigError(f"kafka.ssl_certfile: {files}: {_words(error)}") from None


def key_password(config: KafkaConfig) -> str:
    """Empty where there is none: without any, OpenSSL would ask the terminal."""
    if config.ssl_key_password_file is None:
        return os.environ.get(KEY_PASSWORD_VARIABLE, "")
    return secret_in(config.ssl_key_password_file, "kafka.ssl_key_password_file", KEY_PASSWORD_VARIABLE)


def secret_in(path: Path, key: str, variable: str) -> str:
    """What a secret's file holds; ConfigError names the config's key, and the variable that does as well."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"{key}: {path}: {why}. Mount the file, or set {variable}.") from None


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate; set kafka.ssl_keyfile to the key it was made with"
    if reason in ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_BASE64_DECODE"):
        return "holds no PEM (-----BEGIN CERTIFICATE-----)"
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        where = f"kafka.ssl_key_password_file, {KEY_PASSWORD_VARIABLE}"
        return f"cannot be used; are both in PEM, and is the key's password right ({where})?"
    return str(error.strerror)
