"""A Kafka consumer that is connected, or the words for why there is none.

The client never decodes, commits or resets by itself, and creates no topics.
"""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    AuthorizationError,
    IllegalSaslStateError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient

from agent.config import KafkaConfig
from agent.errors import StartError
from agent.events import Partition
from agent.ingest.client import client_options, connection_errors
from agent.ingest.records import read_columns

CONNECT_MS = 5_000
_REFUSED = (
    AuthorizationError,
    IllegalSaslStateError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)


class BrokerUnreachable(StartError):
    """No broker answers; unlike every other StartError this one may pass by itself."""


def consumer_options(config: KafkaConfig) -> dict[str, Any]:
    """Options of every consumer, inside the group or not; ConfigError if a password or a file is missing."""
    return {
        **client_options(config),
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "max_poll_records": config.max_poll_records,
        "fetch_max_bytes": 16 << 20,
        "max_partition_fetch_bytes": 2 << 20,
        "bootstrap_timeout_ms": CONNECT_MS,
    }


def open_consumer(config: KafkaConfig, options: dict[str, Any], instance: str | None) -> Any:  # noqa: ANN401 # untyped client
    """A connected member of the group; StartError says what refused it."""
    clients: list[Any] = []

    def client(**options: Any) -> Any:  # noqa: ANN401 # untyped client
        clients.append(KafkaNetClient(**options))
        return clients[-1]

    with connection_errors() as causes:
        try:
            consumer = KafkaConsumer(
                **options,
                group_id=config.group_id,
                group_instance_id=instance,
                partition_assignment_strategy=[CooperativeStickyAssignor],
                kafka_client=client,
            )
            read_columns(consumer, config.max_poll_records)
            return consumer
        except Exception as error:
            for half_open in clients:
                half_open.close()
            raise _why_not(config, error, causes) from error


def _why_not(config: KafkaConfig, error: Exception, causes: list[Exception]) -> StartError:
    """The client's own error is often a mere time-out; the causes in its log say more."""
    refused = next((c for c in causes if isinstance(c, _REFUSED)), None)
    if refused is not None or isinstance(error, _REFUSED):
        return _refused(config, refused or error)
    cause = next((c for c in reversed(causes) if not isinstance(c, KafkaTimeoutError)), error)
    if isinstance(error, KafkaTimeoutError):
        return _unreachable(config, cause)
    return StartError(f"{where(config)}: {say(cause)}. Check the kafka section.")


def start_error(config: KafkaConfig, error: KafkaError) -> StartError:
    """What an error of a connected client means for the start."""
    return _refused(config, error) if isinstance(error, AuthorizationError) else _unreachable(config, error)


def _unreachable(config: KafkaConfig, cause: Exception) -> BrokerUnreachable:
    return BrokerUnreachable(
        f"{where(config)} cannot be reached: {say(cause)}. "
        "Check kafka.bootstrap_servers, kafka.security_protocol, and that the broker is up."
    )


def _refused(config: KafkaConfig, cause: Exception) -> StartError:
    return StartError(
        f"{where(config)} refuses user {config.sasl_username}: {say(cause)}. "
        "Check kafka.sasl_username, kafka.sasl_mechanism and the password's file or variable."
    )


def where(config: KafkaConfig) -> str:
    """The broker, as every message names it."""
    return f"Kafka at {config.bootstrap_servers}"


def name_of(partition: Partition) -> str:
    """A partition, as every message names it."""
    return f"{partition.topic}[{partition.partition}]"


def say(error: Exception) -> str:
    """An error in words; of foreign ones only the kind, since their text may quote a payload."""
    if isinstance(error, KafkaError | StartError):
        return str(error)  # begins with its kind
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__
