"""One Kafka broker process that tests can stop, kill, pause and restart, and what they ask of any broker."""

import random
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

SETTINGS = Path(__file__).parent / "broker" / "server.properties"

JVM = [
    "-Xms256m",
    "-Xmx256m",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:MaxDirectMemorySize=128m",
]
LOGGING = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
CLUSTER_ID = "cGx1bWJsaW5lLXRlc3RzIQ"  # base64 of 16 bytes, as Kafka wants it


class BindFailed(Exception):
    """Another process took the port between our probe and the broker's bind."""


class Broker:
    """A running Kafka: its address, and topics with names that no other test has."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def create_topic(
        self, name: str = "topic", partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> str:
        """Creates a topic, waits until it has leaders, and returns its name: `name` and a unique ending."""
        topic = f"{name}-{uuid.uuid4().hex[:8]}"
        options = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(configs or {})}
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.create_topics({topic: options}, wait_for_metadata=True)
        return topic


class KafkaNode(Broker):
    """One broker process (KRaft, broker and controller in one) whose ports and data outlive it."""

    def __init__(
        self, java: str, lib: Path, directory: Path, overrides: Mapping[str, str] | None = None
    ) -> None:
        self.java, self.lib, self.directory = java, lib, directory
        self.log = directory / "broker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._properties = directory / "server.properties"
        self._overrides = dict(overrides or {})
        super().__init__("")

    def create(self, attempts: int = 3) -> None:
        """Formats the storage and starts the first time; a port lost to somebody else is chosen anew."""
        self._configure()
        self._format()
        try:
            self.start()
        except BindFailed:
            if attempts == 1:
                raise
            shutil.rmtree(self.directory)
            self.create(attempts - 1)

    def start(self, timeout: float = 60) -> None:
        """Starts the process and returns when the broker really serves (see `wait_ready`)."""
        java = [self.java, *JVM, *LOGGING, "-cp", f"{self.lib}/*", "kafka.Kafka", str(self._properties)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_die_with_parent(), *java],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # ctrl-C in the terminal is pytest's, not the broker's
            )
        try:
            self.wait_ready(timeout)
        except BaseException:
            self.kill9()
            raise

    def wait_ready(self, timeout: float = 60) -> None:
        """Ready means: a record written to a new topic is read back, and a group's offset is kept."""
        deadline = time.monotonic() + timeout
        host, port = self.bootstrap.split(":")
        while True:
            self._check_alive()
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except OSError:
                self._give_up_after(deadline)
        while True:
            self._check_alive()
            try:
                return _probe(self)
            except (KafkaError, AssertionError):
                self._give_up_after(deadline)

    def stop(self, grace: float = 15) -> None:
        """Ends the process in order: SIGTERM, and SIGKILL for one that does not listen."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait()
        self.process = None

    def kill9(self) -> None:
        """Ends the process as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Freezes the process: its sockets stay open and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused process go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Starts again, after an orderly stop if it still runs, with the same ports and data."""
        self.stop()
        self.start()

    def log_tail(self, lines: int = 200) -> str:
        """The last lines that the broker logged."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def rss_megabytes(self) -> float:
        """Resident memory of the broker process."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    def _configure(self) -> None:
        port, controller = _free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        settings = {
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self.directory / "data"),
        }
        added = [f"{key}={value}\n" for key, value in (settings | self._overrides).items()]
        self.directory.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(SETTINGS.read_text() + "".join(added))  # of two equal keys the last holds

    def _format(self) -> None:
        tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._properties)]
        command = [self.java, *JVM, *LOGGING, "-cp", f"{self.lib}/*", *tool]
        with self.log.open("ab") as log:
            subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _check_alive(self) -> None:
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            tail = self.log_tail()
            kind = BindFailed if "Address already in use" in tail else RuntimeError
            raise kind(f"the broker ended with exit code {code}; the end of its log:\n{tail}")

    def _give_up_after(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the broker was not ready in time; the end of its log:\n{self.log_tail()}")
        time.sleep(0.05)


def _die_with_parent() -> list[str]:
    """No broker outlives a killed pytest, if util-linux is here (a preexec_fn would run between threads)."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def _free_ports(count: int) -> list[int]:
    """Free ports, below the range of outgoing connections: none of those takes a stopped broker's port."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
    return ports


def _probe(broker: Broker) -> None:
    """Writes and reads one record and commits an offset, which makes the group coordinator's topic."""
    topic = broker.create_topic("canary")
    partition = TopicPartition(topic, 0)
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        producer.send(topic, b"alive").get(timeout=10)
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap,
        group_id=topic,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    with closing(consumer):
        consumer.assign([partition])
        records = consumer.poll(timeout_ms=5000)
        assert [record.value for record in records.get(partition, [])] == [b"alive"]
        consumer.commit({partition: OffsetAndMetadata(1, "", -1)}, timeout_ms=10_000)
