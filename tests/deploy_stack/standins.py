"""Images that behave like the public ones, for machines that reach package registries but no image registry.

    python -m tests.deploy_stack.standins kafka --jars FOLDER --base IMAGE-WITH-JAVA
    python -m tests.deploy_stack.standins binary --tag prom/prometheus:TAG --base IMAGE --program prometheus …

What is built takes the public image's name, on this machine's engine only. A stand-in reads the environment,
the mounts and the arguments that deploy/compose.yaml and tests/kafka_container.py use, and no more.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

KAFKA = """\
FROM {base}
COPY jars /opt/kafka/libs
COPY run /etc/kafka/docker/run
COPY kafka-topics.sh /opt/kafka/bin/kafka-topics.sh
RUN useradd --uid 1000 appuser && mkdir -p /var/lib/kafka/data /etc/kafka/secrets /mnt/shared/config \\
 && chown -R appuser /var/lib/kafka /etc/kafka && chmod 755 /etc/kafka/docker/run /opt/kafka/bin/*.sh
USER appuser
VOLUME ["/etc/kafka/secrets", "/var/lib/kafka/data", "/mnt/shared/config"]
EXPOSE 9092
CMD ["/etc/kafka/docker/run"]
"""

# KAFKA_A_B___C__D=x is the property a.b-c_d=x, but for those that are options of the launcher.
RUN = r"""#!/bin/bash
set -euo pipefail
properties=/tmp/server.properties
options='^KAFKA_(VERSION|HEAP_OPTS|OPTS|JMX_[A-Z]+|LOG4J_[A-Z_]+|TOOLS_LOG4J_LOGLEVEL|GC_LOG_OPTS|JVM_[A-Z_]+)='
env | grep ^KAFKA_ | grep -vE "$options" | while IFS== read -r name value; do
  key=$(sed 's/^KAFKA_//; s/___/\x01/g; s/__/\x02/g; s/_/./g; s/\x01/-/g; s/\x02/_/g' <<<"$name")
  printf '%s=%s\n' "${key,,}" "$value"
done >$properties
log=-Dorg.slf4j.simpleLogger.defaultLogLevel=info
java="java ${KAFKA_HEAP_OPTS:--Xmx512m} -XX:+UseSerialGC $log -cp /opt/kafka/libs/*"
cluster=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}
set -f
$java kafka.tools.StorageTool format --ignore-formatted -t "$cluster" -c $properties
exec $java kafka.Kafka $properties
"""

TOPICS = """#!/bin/bash
exec java -Xmx128m -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' org.apache.kafka.tools.TopicCommand "$@"
"""

BINARY = """\
FROM {base}
COPY bin /bin
COPY files /
{extra}
ENTRYPOINT ["/bin/{program}"]
"""


def main() -> None:
    """Parse, and build one image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    kafka = kinds.add_parser("kafka")
    kafka.add_argument("--tag", default="apache/kafka:4.3.1")
    kafka.add_argument("--jars", type=Path, required=True, help="Kafka's jars, kafka-tools among them")
    kafka.add_argument("--base", required=True)
    binary = kinds.add_parser("binary")
    binary.add_argument("--tag", required=True)
    binary.add_argument("--files", nargs="*", default=[], type=Path, help="files of this machine it reads")
    binary.add_argument("--program", required=True, help="the image's entry point")
    binary.add_argument("--also", nargs="*", default=[], help="NAME or NAME=PROGRAM: others of the image's")
    binary.add_argument("--base", required=True)
    binary.add_argument("--uid", default="65534")
    binary.add_argument("--folder", default="/data", help="made, and given to the user")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        if given.kind == "kafka":
            kafka_context(context, given.base, given.jars)
        else:
            programs = [given.program, *given.also]
            binary_context(context, given.base, programs, given.folder, given.uid)
            for file in given.files:
                copy = context / "files" / file.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
        subprocess.run(["docker", "build", "--quiet", "--tag", given.tag, str(context)], check=True)


def kafka_context(context: Path, base: str, jars: Path) -> None:
    """apache/kafka: the broker from jars, started as the image's own launcher does."""
    shutil.copytree(jars, context / "jars")
    (context / "run").write_text(RUN)
    (context / "kafka-topics.sh").write_text(TOPICS)
    (context / "Dockerfile").write_text(KAFKA.format(base=base))


def binary_context(context: Path, base: str, programs: list[str], folder: str, uid: str) -> None:
    """prom/prometheus and prom/alertmanager: programs of this machine, run as a user without rights."""
    (context / "bin").mkdir()
    (context / "files").mkdir()
    names = []
    for program in programs:
        name, _, here = program.partition("=")
        found = shutil.which(here or name)
        if found is None:
            raise SystemExit(f"{here or name} is not on PATH")
        shutil.copy(found, context / "bin" / name)
        names.append(name)
    extra = f'RUN mkdir -p {folder} && chown {uid}:{uid} {folder}\nUSER {uid}:{uid}\nVOLUME ["{folder}"]'
    (context / "Dockerfile").write_text(BINARY.format(base=base, program=names[0], extra=extra))


if __name__ == "__main__":
    main()
