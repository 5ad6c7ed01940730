"""The loop, and the only clock: poll → apply → advance, and every commit interval commit → publish.

The order of a commit: (1) control records, (2) one transaction, (3) what may be seen: /metrics and /status,
(4) the outbox to its sinks, (5) the group's offsets. A crash between any two of them loses nothing and counts
nothing twice: 3 shows what 2 made durable, 4 repeats under the same keys, 5 only tells others.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog

from agent.config import Config
from agent.errors import StartError, StateBusyError
from agent.events import NO_TIME, Kind, Partition
from agent.failpoint import failpoint
from agent.ingest.kafka import KafkaSource
from agent.ingest.prefetch import Prefetch
from agent.ingest.refusal import BrokerUnreachable
from agent.ingest.source import Source
from agent.measure.clock import Clock
from agent.pipeline import Control, Pipeline
from agent.reload import Reload
from agent.respond import manual
from agent.respond.certificate import Certificate
from agent.respond.delivery import Deliveries, Report
from agent.respond.expose import Runtime
from agent.respond.gate import Gate
from agent.respond.kafka_sink import KafkaSink
from agent.respond.outbox import FileSink, Routed, Sink
from agent.respond.server import Server
from agent.respond.view import View
from agent.store import Store

_log = structlog.get_logger()

POLL_S = 0.2
RETRY_S = 5.0
SWITCH_S = 0.0005
OUTBOX_BATCH = 1000
OUTBOX_MOST = 20_000
"""With so many messages that nobody takes, or so much payload between two commits, reading rests."""
OUTBOX_BYTES = 64 << 20
SEND_S = 2.0
"""How long a commit goes on sending while everything is taken."""
SETTLE_S = 2.0
"""What webhooks get at the end; what they do not take in it waits for the next start."""


def run(
    config: Config,
    source: Source,
    *,
    stop: threading.Event,
    on_commit: Callable[[View], None] | None = None,
    serve: bool = True,
    sink: Sink | None = None,
    reload: Reload | None = None,
) -> None:
    """Monitor until `stop` is set; a source that ends is served on until then (or returns, if not serving).

    Dead letters and requests go to `sink`, or else to files.
    """
    store = Store(config.state.dir, config.state.max_megabytes << 20)
    try:
        agent = Agent(config, source, store, on_commit, sink, reload)
        try:
            if serve:
                agent.serve()
            agent.run(stop)
            if serve and not stop.is_set():
                agent.linger(stop)
        finally:
            agent.close()
    finally:
        store.close()


def run_kafka(config: Config, *, stop: threading.Event, reload: Reload | None = None) -> None:
    """Monitor the configured topics until `stop` is set."""
    os.umask(0o077)  # what the agent writes is for its owner alone
    topics = [topic for source in config.sources for topic in source.topics]
    source = Prefetch(KafkaSource(config.kafka, topics, instance(config.state.dir)), time.monotonic)
    # The poll thread decodes records under the interpreter lock; the default 5 ms would be waited out at each
    # of the many short calls by which a batch is folded.
    sys.setswitchinterval(SWITCH_S)
    files = FileSink(file_topics(config))
    named = [topic for topic in (config.dead_letters.topic, config.retraining_topic) if topic]
    broker = KafkaSink.from_config(config.kafka, time.monotonic)
    run(config, source, stop=stop, sink=Routed(dict.fromkeys(named, broker), files), reload=reload)


class Agent:
    """One running agent."""

    def __init__(
        self,
        config: Config,
        source: Source,
        store: Store,
        on_commit: Callable[[View], None] | None = None,
        sink: Sink | None = None,
        reload: Reload | None = None,
    ) -> None:
        self.config = config
        self.source = source
        self.store = store
        self.on_commit = on_commit
        self.pipeline = Pipeline(config, store, version=agent_version())
        self.server: Server | None = None
        self.sink = sink or FileSink(file_topics(config))
        self.deliveries = Deliveries(config.webhooks, time.time)
        self.idle = Idle(config.idle_timeout.total_seconds())
        self._view = self.pipeline.view(time.time() if self.pipeline.commits else 0.0)
        self._reload = reload
        self._config_since_s = time.time()
        self._acknowledged: list[int] = []
        self._asked: list[manual.Asked] = []
        self._pending = 0
        self._dirty = False

    def serve(self) -> None:
        """Listen; what an earlier run committed is shown at once."""
        http = self.config.http
        self.server = Server(
            http.host,
            http.port,
            time.monotonic,
            reload=(Gate(http.reload_token_file), self._reload.ask)
            if self._reload and http.reload_token_file
            else None,
            readers=Gate(http.read_token_file, http.read_username, http.read_password_file)
            if http.read_token_file or http.read_password_file
            else None,
            certificate=Certificate(http.tls_cert_file, http.tls_key_file) if http.tls_cert_file else None,
        )
        self.server.start()
        self._publish()
        _log.info(
            "serving", url=f"http{'s' if http.tls_cert_file else ''}://{http.host}:{self.server.port}/metrics"
        )

    def run(self, stop: threading.Event) -> None:
        """Read until the source ends or `stop` is set, and commit what was read."""
        if not self._start(stop):
            return
        due = self._next_commit()
        while not stop.is_set() and not self.source.finished:
            self._beat()
            if self._full():
                stop.wait(POLL_S)
            else:
                self._read(POLL_S)
            self._reload_if_asked()
            if time.monotonic() >= due:
                self._commit()
                due = self._next_commit()
        while not self._commit() and not stop.wait(RETRY_S):
            self._beat()
        if self.pipeline.unwritten:
            return  # it is read again by the next start
        if self.source.finished:
            self._finish()
        if self._commit():
            self.deliveries.settle(SETTLE_S)
            self._commit()  # what the first one sent is acknowledged by the second

    def linger(self, stop: threading.Event) -> None:
        """Nothing more to read: keep serving, and sending what was not taken."""
        due = self._next_commit()
        while not stop.wait(POLL_S):
            self._beat()
            self._reload_if_asked()
            if self.config.webhooks and time.monotonic() >= due:
                self._commit()
                due = self._next_commit()

    def close(self) -> None:
        """Let go of everything, each with a deadline of its own."""
        self.source.close()
        self.sink.close()
        self.deliveries.close()
        if self.server:
            self.server.close()

    def _start(self, stop: threading.Event) -> bool:
        """Start the source; broker trouble is waited out, other trouble as `on_start_failure` says."""
        while not stop.is_set():
            self._beat()
            self._reload_if_asked()
            try:
                self.source.start(self.pipeline.positions)
            except StartError as error:
                if self.config.on_start_failure == "exit" and not isinstance(error, BrokerUnreachable):
                    raise
                _log.warning("cannot_start_yet", error=str(error), retry_in_seconds=RETRY_S)
                self._publish()
                stop.wait(RETRY_S)
                continue
            self.pipeline.assign(self.source.partitions())
            return True
        return False

    def _full(self) -> bool:
        """Whether what is read now could not be kept, or could not be sent on for long."""
        waiting = self._pending >= OUTBOX_MOST or self.pipeline.unsent_bytes >= OUTBOX_BYTES
        return waiting or self.pipeline.unwritten

    def _read(self, timeout_s: float) -> None:
        batches = self.source.poll(timeout_s, time.monotonic())
        for batch in batches:
            failpoint("before_apply")
            self.pipeline.apply(batch)
            failpoint("after_apply")
        rejected = self.source.take_rejected()
        if rejected:
            self.pipeline.skipped(rejected)
        if batches or rejected:
            self._dirty = True
            self.pipeline.assign(self.source.partitions())
            self.pipeline.advance()

    def _commit(self) -> bool:
        """Whether the state could be written. Until it can, nothing new is read, shown, sent or told."""
        try:
            if self.pipeline.unwritten:
                self._write()
                _log.info("state_written_again")
            else:
                self._gather()  # 1
                delivered = self.deliveries.take()
                if self._dirty or self._acknowledged or delivered:
                    self._write(delivered)  # 2
            self._publish()  # 3
            self._send()  # 4
        except StateBusyError as error:
            _log.error("state_not_written", error=str(error))
            self._publish()
            return False
        failpoint("before_group_commit")
        self.source.commit(self.pipeline.marks())  # 5
        return True

    def _gather(self) -> None:
        """What clocks and operators decided since the last commit."""
        controls = self.idle.controls(self.pipeline, self.source.caught_up(), time.monotonic())
        if controls:
            self.pipeline.control(controls)
            self.pipeline.advance()
        self._asked = list(manual.waiting(self.config.state.dir))
        for one in self._asked:
            reason = self.pipeline.ask(one.model, one.token, force=one.force)
            _log.info("retraining_asked_by_hand", model_name=one.model, reason=reason)
        self._dirty = self._dirty or bool(controls) or bool(self._asked)

    def _write(self, delivered: Report | None = None) -> None:
        self._view = self.pipeline.commit(time.time(), self._acknowledged, delivered)
        failpoint("after_commit")
        self._acknowledged, self._dirty = [], False
        for one in self._asked:
            one.path.unlink(missing_ok=True)
        if self.on_commit:
            self.on_commit(self._view)

    def _send(self) -> None:
        after, until = 0, time.monotonic() + SEND_S
        while messages := self.store.outbox(OUTBOX_BATCH, after):
            done = self.sink.publish(messages)
            failpoint("after_outbox")
            self._acknowledged += done
            if len(done) < len(messages) or time.monotonic() >= until:
                break
            after = messages[-1].id
        self.deliveries.offer(self.store.deliveries(OUTBOX_BATCH))

    def _next_commit(self) -> float:
        return time.monotonic() + self.config.state.commit_interval.total_seconds()

    def _reload_if_asked(self) -> None:
        """Commit, and go on under the file as it is now; or, where it cannot be used, as before.

        Between two commits the store is the whole state, so that this is what a restart would do.
        """
        if self._reload is None or self.pipeline.unwritten or not self._reload.taken():
            return
        if not self._commit():
            self._reload.ask()
            return
        made = self._reload.attempt(self.pipeline)
        if made is None:
            self._publish()
            return
        self.pipeline, self.config = made, made.config
        self._config_since_s = time.time()
        self.idle.timeout_s = made.config.idle_timeout.total_seconds()
        self.deliveries.configure(made.config.webhooks)
        if self.source.finished:
            self._finish()
        self._dirty = True
        self._commit()

    def _finish(self) -> None:
        """The input has ended: everything up to the newest event is complete."""
        end_input(self.pipeline)
        self._dirty = True

    def _publish(self) -> None:
        with suppress(StateBusyError):
            self._pending = self.store.pending()
        if self.server:
            runtime = Runtime(
                connected=self.source.connected,
                partitions=len(self.source.partitions()),
                lag=self._lag(),
                outbox_pending=self._pending,
                outbox_refused=self.sink.refused,
                state_writable=not self.pipeline.unwritten,
                reload_successful=self._reload is None or self._reload.successful,
                config_since_s=self._config_since_s if self._reload else None,
            )
            self.server.publish(self._view, runtime)

    def _lag(self) -> dict[tuple[str, int], int]:
        """Records between what is committed and the end, where both are known."""
        at = self._view.positions
        return {p: max(0, end - at[p]) for p, end in self.source.ends().items() if p in at}

    def _beat(self) -> None:
        if self.server:
            self.server.beat()


class Idle:
    """Notices partitions that are read to their end and silent, so that they hold no clock back.

    Stream time then goes on from the newest event at the pace of the wall clock; it does not jump to it, so
    that a replay of old data does not end in an outage. What is decided here becomes control records.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._since: dict[tuple[str, Partition], tuple[int, float]] = {}

    def controls(self, pipeline: Pipeline, caught_up: frozenset[Partition], now_s: float) -> list[Control]:
        """Control records that are due."""
        found = []
        feedback = pipeline.read_by(Kind.FEEDBACK)
        labelled = pipeline.models.feedback_clock.low(feedback) if feedback else NO_TIME
        for name, model in pipeline.models.models.items():
            high = model.clock.high()
            if high == NO_TIME:
                continue
            waited = {
                p: self._waited(name, p, model.clock, p in caught_up, now_s)
                for p in pipeline.read_by(Kind.PREDICTION)
            }
            pause = min(waited.values(), default=0.0)
            floor = high - model.clock.lateness_ms
            if pause >= self.timeout_s:  # the whole stream is silent: labels, or else the wall clock, lead on
                floor = max(floor + int(pause * 1000), labelled)
            for p, silent in waited.items():
                if silent >= self.timeout_s and model.clock.watermark(p) < floor:
                    found.append(Control(name, p, floor))
        predicted = max((low for low, _ in pipeline.watermarks().values()), default=NO_TIME)
        clock = pipeline.models.feedback_clock
        for p in feedback:
            silent = self._waited("", p, clock, p in caught_up, now_s)
            if silent >= self.timeout_s and clock.watermark(p) < predicted:
                found.append(Control("", p, predicted))
        return found

    def _waited(
        self, stream: str, partition: Partition, clock: Clock, caught_up: bool, now_s: float
    ) -> float:
        """Seconds since the clock of a partition last moved or had something to read."""
        newest = clock.newest.get(partition, NO_TIME)
        seen, since = self._since.get((stream, partition), (newest, now_s))
        if not caught_up or seen != newest:
            since = now_s
        self._since[stream, partition] = (newest, since)
        return now_s - since


def end_input(pipeline: Pipeline) -> None:
    """The input has ended: every clock stands at the newest event of any stream, and silence is no outage."""
    clocks = [pipeline.models.feedback_clock, *(model.clock for model in pipeline.models.models.values())]
    newest = max(clock.high() for clock in clocks)
    for judge in pipeline.judges.values():
        judge.monitors.input_ended = True
    if newest > NO_TIME:
        names = pipeline.models.models
        controls = [Control(name, p, newest) for name in names for p in pipeline.read_by(Kind.PREDICTION)]
        controls += [Control("", p, newest) for p in pipeline.read_by(Kind.FEEDBACK)]
        pipeline.control(controls)
    pipeline.advance()


def agent_version() -> str:
    """Of the installed distribution."""
    try:
        return version("plumbline")
    except PackageNotFoundError:
        return "unknown"


def instance(directory: Path) -> str:
    """The name under which the agent of a state directory is known to its group, over restarts."""
    path = directory / "instance"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(uuid.uuid4().hex)
    return path.read_text().strip()


def file_topics(config: Config) -> dict[str, Path]:
    """Where dead letters and retraining requests go without a broker."""
    directory = config.state.dir
    return {
        config.dead_letters.topic or "dead-letters": config.dead_letters.path
        or directory / "dead-letters.jsonl",
        config.retraining_topic or "retraining": directory / "retraining.jsonl",
    }


__all__: Sequence[str] = ["Agent", "Idle", "agent_version", "end_input", "run"]
