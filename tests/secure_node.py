"""A Kafka with doors: TLS, SCRAM and rights (ACLs), for the tests of what happens in front of them.

Beside the open listener, where the tests are at home and may do everything, there is one per way in:
`scram` (SASL_SSL), `mtls` (SSL with a client's certificate), and `expired` and `misnamed`, whose own
certificate is past its end or made out to another host. Nobody else may do anything before it is granted.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)

from tests.certificates import Authority
from tests.kafka_node import KafkaNode, _free_ports

MECHANISM = "SCRAM-SHA-512"
_PROTOCOLS = {"scram": "SASL_SSL", "mtls": "SSL", "expired": "SASL_SSL", "misnamed": "SASL_SSL"}


class SecureNode(KafkaNode):
    """One broker process with every way in; `doors` has the address of each."""

    def __init__(self, java: str, lib: Path, directory: Path) -> None:
        super().__init__(java, lib, directory)
        self.doors: dict[str, str] = {}
        self.authority = Authority(directory.with_name(directory.name + "-certificates"))

    def add_user(self, name: str, password: str) -> None:
        """Let a user in at the `scram` door, or change the password."""
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            user = UserScramCredentialUpsertion(name, MECHANISM.replace("-", "_"), password, iterations=4096)
            admin.alter_user_scram_credentials([user])

    def grant(self, user: str, kind: str, name: str, *operations: str) -> None:
        """Allow operations (READ, WRITE, …) on a TOPIC or GROUP of this name."""
        pattern = ResourcePattern(ResourceType[kind], name, ACLResourcePatternType.LITERAL)
        allow = ACLPermissionType.ALLOW
        acls = [ACL(f"User:{user}", "*", ACLOperation[one], allow, pattern) for one in operations]
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.create_acls(acls)

    def revoke(self, user: str, kind: str, name: str) -> None:
        """Take every operation on it away."""
        pattern = ResourcePatternFilter(ResourceType[kind], name, ACLResourcePatternType.LITERAL)
        every = ACLFilter(f"User:{user}", "*", ACLOperation.ANY, ACLPermissionType.ANY, pattern)
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.delete_acls([every])

    def _configure(self) -> None:
        super()._configure()
        settings = dict(
            line.split("=", 1)
            for line in self._properties.read_text().splitlines()
            if line[:1] not in ("", "#")
        )
        self.doors = {
            door: f"127.0.0.1:{port}" for door, port in zip(_PROTOCOLS, _free_ports(4), strict=True)
        }
        certificates = {
            "scram": self.authority.sign("broker"),
            "mtls": self.authority.sign("broker"),
            "expired": self.authority.sign("expired-broker", days=-1),
            "misnamed": self.authority.sign("misnamed-broker", host="kafka.example"),
        }
        more = "".join(f",{door.upper()}://{address}" for door, address in self.doors.items())
        speaking = "".join(f",{door.upper()}:{protocol}" for door, protocol in _PROTOCOLS.items())
        settings |= {
            "listeners": settings["listeners"] + more,
            "advertised.listeners": settings["advertised.listeners"] + more,
            "listener.security.protocol.map": settings["listener.security.protocol.map"] + speaking,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # who comes in at the open listener
            "sasl.enabled.mechanisms": MECHANISM,
            "listener.name.mtls.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        }
        for door, leaf in certificates.items():
            prefix = f"listener.name.{door}"
            settings[f"{prefix}.ssl.keystore.type"] = settings[f"{prefix}.ssl.truststore.type"] = "PEM"
            settings[f"{prefix}.ssl.keystore.location"] = str(leaf.pem)
            settings[f"{prefix}.ssl.truststore.location"] = str(self.authority.cert)
            if _PROTOCOLS[door] == "SASL_SSL":
                module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                settings[f"{prefix}.{MECHANISM.lower()}.sasl.jaas.config"] = module
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
