"""What an agent's config says of a broker with doors, and who may do what behind them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.secure_node import MECHANISM, SecureNode

PASSWORD_VARIABLE = "PLUMBLINE_KAFKA_PASSWORD"


@dataclass
class Tenant:
    """A user with topics and a group of its own, and every right that an agent needs."""

    node: SecureNode
    password: str = "correct-horse-battery"
    user: str = field(default_factory=lambda: f"agent-{uuid.uuid4().hex[:8]}")
    group: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.node.add_user(self.user, self.password)
        self.topic = self.node.create_topic("guarded")
        self.dead = self.node.create_topic("dead")
        self.requests = self.node.create_topic("requests")
        for kind, name in (("TOPIC", self.topic), ("GROUP", self.group)):
            self.node.grant(self.user, kind, name, "READ", "DESCRIBE")
        for name in (self.dead, self.requests):
            self.node.grant(self.user, "TOPIC", name, "WRITE", "DESCRIBE")

    @property
    def environ(self) -> dict[str, str]:
        """Where the password is."""
        return {PASSWORD_VARIABLE: self.password}

    def scram(self, door: str = "scram", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML
        """The kafka section of who comes with a password."""
        section = {
            "bootstrap_servers": self.node.doors[door],
            "group_id": self.group,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": MECHANISM,
            "sasl_username": self.user,
            "ssl_cafile": str(self.node.authority.cert),
        }
        return {key: value for key, value in (section | more).items() if value is not None}

    def mtls(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML
        """The kafka section of who comes with a certificate."""
        leaf = self.node.authority.sign(self.user)
        section = {
            "bootstrap_servers": self.node.doors["mtls"],
            "group_id": self.group,
            "security_protocol": "SSL",
            "ssl_cafile": str(self.node.authority.cert),
            "ssl_certfile": str(leaf.cert),
            "ssl_keyfile": str(leaf.key),
        }
        return {key: value for key, value in (section | more).items() if value is not None}

    def document(self, kafka: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML
        """A whole config."""
        return {
            "kafka": kafka,
            "sources": [{"topics": [self.topic], "kind": "prediction"}],
            "models": {"m": {"min_samples": 1}},
            "state": {"commit_interval": "300ms"},
            "dead_letters": {"topic": self.dead},
            "retraining_topic": self.requests,
            **more,
        }
