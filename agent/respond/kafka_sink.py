"""The outbox's way to Kafka: an idempotent producer that neither blocks for long nor grows without bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from agent.config import KafkaConfig
from agent.failpoint import failpoint
from agent.ingest.client import client_options
from agent.respond.outbox import OutboxMessage

_log = structlog.get_logger()

MAX_IN_FLIGHT = 500
"""Messages handed to the producer and not yet answered; its own buffer has no bound."""

BUDGET_S = 5.0
"""How long one `publish` may take."""

_BACKOFF_S = 10.0
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)

_PRODUCER = {
    "enable_idempotence": True,
    "acks": "all",
    "max_block_ms": 1500,  # per topic whose metadata is missing
    "bootstrap_timeout_ms": 3000,
    "request_timeout_ms": 5000,
    "delivery_timeout_ms": 10_000,
    "linger_ms": 5,
    "metrics_enabled": False,
}


class KafkaSink:
    """Publishes to Kafka with all replicas acknowledging.

    A message whose answer is still due when the time is up is asked after by the next `publish`, not sent
    twice. One that is too large for the broker can never be sent: it is given up, counted and logged.
    """

    def __init__(self, options: Mapping[str, Any], monotonic: Callable[[], float]) -> None:
        self._options = {**options, **_PRODUCER}
        self._monotonic = monotonic
        self._producer: Any = None
        self._due: dict[int, Any] = {}  # message id → future
        self._not_before = float("-inf")
        self._topic_not_before: dict[str, float] = {}  # a topic without metadata blocks each send
        self._failing = False
        self._refused = 0

    @classmethod
    def from_config(cls, config: KafkaConfig, monotonic: Callable[[], float]) -> KafkaSink:
        """A sink with the address and credentials of the source. ConfigError if a secret is missing."""
        return cls(client_options(config), monotonic)

    def publish(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """Send, wait for the answers until the time is up, and return what was acknowledged (or given up)."""
        deadline = self._monotonic() + BUDGET_S
        if not messages or not self._connect():
            return []
        done: list[int] = []
        for start in range(0, len(messages), MAX_IN_FLIGHT):
            window = messages[start : start + MAX_IN_FLIGHT]
            done += self._send(window, deadline)
            failpoint("mid_outbox")
            done += self._collect(window, deadline)
            if self._due or self._monotonic() >= deadline:
                break
        self._report(len(messages) - len(done))
        return done

    @property
    def refused(self) -> int:
        """Messages that were given up because the broker will never take them."""
        return self._refused

    def close(self) -> None:
        """Give what is under way two seconds, then let go of the producer."""
        producer, self._producer = self._producer, None
        self._due.clear()
        if producer is not None:
            _release(producer)

    def _connect(self) -> bool:
        if self._producer is not None:
            return True
        if self._monotonic() < self._not_before:
            return False
        try:
            self._producer = _connected(self._options)
        except (KafkaError, OSError) as error:
            self._not_before = self._monotonic() + _BACKOFF_S
            self._fail(type(error).__name__)
            return False
        return True

    def _send(self, window: Sequence[OutboxMessage], deadline: float) -> list[int]:
        """Hand over what is not under way already; the ids of messages that were given up."""
        given_up: list[int] = []
        for message in window:
            now = self._monotonic()
            if message.id in self._due or now < self._topic_not_before.get(message.topic, now):
                continue
            if now >= deadline:
                break
            try:
                self._due[message.id] = self._producer.send(
                    message.topic, value=message.value, key=message.key, headers=list(message.headers)
                )
            except _TOO_LARGE:
                given_up.append(self._give_up(message))
            except KafkaError as error:
                self._topic_not_before[message.topic] = self._monotonic() + _BACKOFF_S
                self._fail(type(error).__name__)
        return given_up

    def _collect(self, window: Sequence[OutboxMessage], deadline: float) -> list[int]:
        done: list[int] = []
        for message in window:
            future = self._due.get(message.id)
            if future is None:
                continue
            try:
                future.get(timeout=max(deadline - self._monotonic(), 0.001))
                done.append(message.id)
            except _TOO_LARGE:
                done.append(self._give_up(message))
            except KafkaError as error:
                self._fail(type(error).__name__)
            if future.is_done:
                del self._due[message.id]
        return done

    def _give_up(self, message: OutboxMessage) -> int:
        self._refused += 1
        _log.error("outbox_message_too_large", topic=message.topic, bytes=len(message.value or b""))
        return message.id

    def _report(self, left: int) -> None:
        if left == 0:
            self._failing = False
        elif not self._due and self._failing:
            # Everything was answered and something failed for good: a fatal producer error cannot be told
            # from a passing one by its type alone, so a new producer is made. No message is lost by it.
            self.close()

    def _fail(self, error: str) -> None:
        """Say it once per outage, by the type alone: an error's text may repeat options, thus a password."""
        if not self._failing:
            _log.warning("outbox_publish_failed", error=error)
        self._failing = True


def _connected(options: Mapping[str, Any]) -> KafkaProducer:
    """A producer; one that cannot reach its broker closes the sockets that its constructor opened."""
    clients: list[Any] = []

    def remembered(**config: Any) -> Any:  # noqa: ANN401 - kafka-python has no types
        clients.append(KafkaProducer.DEFAULT_CONFIG["kafka_client"](**config))
        return clients[0]

    try:
        return KafkaProducer(**options, kafka_client=remembered)
    except BaseException:
        for client in clients:
            client.close()
        raise


def _release(producer: Any) -> None:  # noqa: ANN401 - kafka-python has no types
    try:
        producer.close(timeout=2)
    except KafkaError:
        # close() waits for a flush first, and on its time-out leaves the sender thread running.
        producer._sender.force_close()
