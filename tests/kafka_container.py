"""One Kafka broker in a container, with the very settings that the brokers made from jars have."""

import io
import tarfile
import time

from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.kafka_node import CLUSTER_ID, SETTINGS, Broker

START = "/tmp/start-broker"
PORT = 9092
INSIDE = "BROKER://127.0.0.1:19092"
"""The broker also speaks to itself (transaction markers): not by the address that only holds outside."""
STARTED = r".*Kafka Server started.*"


class KafkaContainer(DockerContainer):
    """The image waits for its start script: the address to advertise is known once its port is mapped."""

    def __init__(self, image: str) -> None:
        super().__init__(image)
        self.with_exposed_ports(PORT)
        for name, value in _environment().items():
            self.with_env(name, value)
        self.with_command(["sh", "-c", f"until [ -f {START} ]; do sleep 0.1; done; exec sh {START}"])

    def start_broker(self, timeout: int = 60) -> Broker:
        """Hands the address in, and returns when the broker serves."""
        bootstrap = f"{self.get_container_host_ip()}:{self.get_exposed_port(PORT)}"
        advertised = f"PLAINTEXT://{bootstrap},{INSIDE}"
        script = f"export KAFKA_ADVERTISED_LISTENERS={advertised}\nexec /etc/kafka/docker/run\n"
        self.get_wrapped_container().put_archive("/tmp", _archive(START.removeprefix("/tmp/"), script))
        LogMessageWaitStrategy(STARTED).with_startup_timeout(timeout).wait_until_ready(self)
        return Broker(bootstrap)


def _environment() -> dict[str, str]:
    """server.properties as the image takes it: `a.b-c_d` is KAFKA_A_B___C__D."""
    lines = [line for line in SETTINGS.read_text().splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines) | {
        "listeners": f"PLAINTEXT://0.0.0.0:{PORT},{INSIDE},CONTROLLER://127.0.0.1:9093",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT",
        "inter.broker.listener.name": "BROKER",
        "controller.quorum.voters": "1@127.0.0.1:9093",
        "log.dirs": "/var/lib/kafka/data",
    }
    named = {
        "KAFKA_" + key.replace("_", "__").replace("-", "___").replace(".", "_").upper(): value
        for key, value in settings.items()
    }
    return named | {"CLUSTER_ID": CLUSTER_ID, "KAFKA_HEAP_OPTS": "-Xms256m -Xmx256m"}


def _archive(name: str, text: str) -> bytes:
    """A tar of one file that everybody may read: the image's user is not ours."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = len(text), 0o644, int(time.time())
        archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()
