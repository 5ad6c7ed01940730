"""A Kafka consumer that is connected, or the words for why there is none.

The client never decodes, commits or resets by itself, and creates no topics.
"""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.net.compat import KafkaNetClient

from agent.config import KafkaConfig
from agent.errors import ConfigError
from agent.events import Partition
from agent.ingest.client import client_options, connection_errors
from agent.ingest.records import read_columns
from agent.ingest.refusal import why_not

CONNECT_MS = 5_000


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
    """A connected member of the group; StartError says what refused it. Secrets are read anew each time."""
    clients: list[Any] = []

    def client(**options: Any) -> Any:  # noqa: ANN401 # untyped client
        clients.append(KafkaNetClient(**options))
        return clients[-1]

    with connection_errors() as causes:
        try:
            if config.client == "confluent-kafka":
                return _librdkafka()(config, {**options, **client_options(config)}, instance, causes)
            consumer = KafkaConsumer(
                **{**options, **client_options(config)},
                group_id=config.group_id,
                group_instance_id=instance,
                partition_assignment_strategy=[CooperativeStickyAssignor],
                kafka_client=client,
            )
            read_columns(consumer, config.max_poll_records)
            return consumer
        except ConfigError:
            raise
        except Exception as error:
            for half_open in clients:
                half_open.close()
            raise why_not(config, error, causes) from error


def _librdkafka() -> Any:  # noqa: ANN401 # an extra
    try:
        from agent.ingest.librdkafka import LibrdkafkaConsumer
    except ImportError as error:
        raise ConfigError(
            f"kafka.client: confluent-kafka is not installed ({error.name}). "
            "Install plumbline[fast], or leave kafka.client at kafka-python."
        ) from error
    return LibrdkafkaConsumer


def name_of(partition: Partition) -> str:
    """A partition, as every message names it."""
    return f"{partition.topic}[{partition.partition}]"
