"""Where the tests' real Kafka broker comes from, first that applies:

1. the address in KAFKA_BOOTSTRAP_SERVERS,
2. the jars that `make jars` fetched, with Java >= 17,
3. a container of apache/kafka in the same version, where Docker answers;

`NoBroker` says why none of them did.
"""

import gc
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests import certificates
from tests.kafka_node import Broker, KafkaNode
from tests.secure_node import SecureNode

__all__ = ["Broker", "KafkaNode", "NoBroker", "SecureNode", "any_broker", "kafka_node", "secure_node"]

ROOT = Path(__file__).parent.parent
POM = Path(__file__).parent / "broker" / "pom.xml"


class NoBroker(Exception):
    """No real broker can be had here; the message says why, and what to do."""


@contextmanager
def kafka_node(directory: Path, overrides: Mapping[str, str] | None = None) -> Iterator[KafkaNode]:
    """A broker of one's own, from the jars: the only kind that a test may kill; or NoBroker."""
    node = KafkaNode(_java(), _jars(), directory, overrides)
    try:
        node.create()
        yield node
    finally:
        node.stop(grace=5)


@contextmanager
def secure_node(directory: Path) -> Iterator[SecureNode]:
    """A broker of one's own with TLS, SCRAM and ACLs, from the jars; or NoBroker."""
    if not certificates.PRESENT:
        raise NoBroker("no openssl on PATH to make certificates with")
    node = SecureNode(_java(), _jars(), directory)
    try:
        node.create()
        yield node
    finally:
        node.stop(grace=5)


@contextmanager
def any_broker(directory: Path) -> Iterator[Broker]:
    """The first broker to be had, in the order of the module's docstring; or NoBroker."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield Broker(bootstrap)
        return
    with ExitStack() as stack:
        try:
            broker: Broker = stack.enter_context(kafka_node(directory))
        except NoBroker as no_jars:
            broker = stack.enter_context(_container(str(no_jars)))
        yield broker


@contextmanager
def _container(otherwise: str) -> Iterator[Broker]:
    """A broker in a container, where a Docker engine answers."""
    if not _docker_answers():
        raise NoBroker(f"{otherwise}; and no Docker engine answers")
    from docker.errors import DockerException

    from tests.kafka_container import KafkaContainer

    with ExitStack() as stack:
        try:
            container = stack.enter_context(KafkaContainer(f"apache/kafka:{_version()}"))
        except DockerException as error:
            raise NoBroker(f"{otherwise}; and Docker cannot start one: {error}") from None
        yield container.start_broker()


def _docker_answers() -> bool:
    import docker

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # a refused client leaves its socket to the collector
        try:
            with closing(docker.from_env(timeout=5)) as client:
                return bool(client.ping())
        except docker.errors.DockerException:
            return False
        finally:
            gc.collect()


def _version() -> str:
    return str(re.findall("<kafka.version>(.*)</kafka.version>", POM.read_text())[0])


def _jars() -> Path:
    lib = ROOT / ".cache" / f"kafka-{_version()}" / "lib"
    if not (lib / ".verified").exists():
        raise NoBroker(
            f"no verified Kafka jars in {lib.relative_to(ROOT)} (`make jars` needs Java >= 17 and Maven)"
        )
    return lib


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise NoBroker("no Java on PATH (Kafka needs >= 17)")
    banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    found = re.search(r'version "(\d+)', banner)
    if found is None or int(found[1]) < 17:
        raise NoBroker(f"Java is too old for Kafka, which needs >= 17: {banner.splitlines()[0]}")
    return java
