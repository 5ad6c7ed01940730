"""How this agent talks to Kafka: connection options, secrets, and what the client library may log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agent.config import KafkaConfig
from agent.errors import ConfigError
from agent.ingest import tls

PASSWORD_VARIABLE = "PLUMBLINE_KAFKA_PASSWORD"


def client_options(config: KafkaConfig) -> dict[str, Any]:
    """Options that consumer and producer share; ConfigError if a password or a file is missing."""
    _silence()
    options: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in config.bootstrap_servers.split(",")],
        "client_id": config.client_id,
        "security_protocol": config.security_protocol,
        "reconnect_backoff_max_ms": 5_000,
    }
    if config.security_protocol.startswith("SASL"):
        if config.sasl_mechanism is None or config.sasl_username is None:
            raise ConfigError(
                f"kafka.security_protocol {config.security_protocol} needs kafka.sasl_mechanism and "
                "kafka.sasl_username. Set both, or use PLAINTEXT or SSL."
            )
        options |= {
            "sasl_mechanism": config.sasl_mechanism,
            "sasl_plain_username": config.sasl_username,
            "sasl_plain_password": _password(config),
        }
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(config, name)
        if path is not None and not path.is_file():
            raise ConfigError(f"kafka.{name}: {path} is not a file. Mount it, or correct the path.")
    if config.security_protocol.endswith("SSL"):
        options["ssl_context"] = tls.context(config)
    return options


def _password(config: KafkaConfig) -> str:
    if config.sasl_password_file is None:
        if not (password := os.environ.get(PASSWORD_VARIABLE)):
            raise ConfigError(
                f"kafka.sasl_mechanism {config.sasl_mechanism} needs a password. "
                f"Set kafka.sasl_password_file, or {PASSWORD_VARIABLE} in the environment."
            )
        return password
    return tls.secret_in(config.sasl_password_file, "kafka.sasl_password_file", PASSWORD_VARIABLE)


def _silence() -> None:
    """At DEBUG the client prints passwords and payloads; no log level may bring that about."""
    logger = logging.getLogger("kafka")
    if logger.getEffectiveLevel() < logging.WARNING or logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


class _Causes(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.errors.extend(arg for arg in record.args if isinstance(arg, Exception))


@contextmanager
def connection_errors() -> Iterator[list[Exception]]:
    """Why connections failed inside the block: the client tells only its log, and raises a mere time-out."""
    causes = _Causes()
    logger = logging.getLogger("kafka.net.manager")
    logger.addHandler(causes)
    try:
        yield causes.errors
    finally:
        logger.removeHandler(causes)
