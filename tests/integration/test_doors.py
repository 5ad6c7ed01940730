"""Getting in at a real broker with TLS and passwords, and what is said of each way not to get in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config import KafkaConfig
from agent.errors import StartError
from agent.ingest.consumer import consumer_options, open_consumer
from agent.ingest.refusal import BrokerUnreachable
from tests.certificates import Authority
from tests.integration.secure_agent import PASSWORD_VARIABLE, Tenant
from tests.secure_node import SecureNode

WRONG = "wrong-horse-battery"

Section = dict[str, Any]


@pytest.fixture(scope="module")
def tenant(secure_broker: SecureNode) -> Tenant:
    """One user for all the ways in."""
    return Tenant(secure_broker)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the broker does not know."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def opened(section: Section) -> Any:  # noqa: ANN401 - untyped client
    """A consumer, tried for no longer than it takes to hear why not."""
    config = KafkaConfig(**section)
    return open_consumer(config, consumer_options(config) | {"bootstrap_timeout_ms": 1500}, None)


@pytest.mark.parametrize("way", ["scram", "password file", "mtls", "closed key", "one file"])
def test_every_way_in(tenant: Tenant, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SCRAM over TLS and a client's certificate open the door, wherever password and key are kept."""
    if way == "scram":
        monkeypatch.setenv(PASSWORD_VARIABLE, tenant.password)
        section = tenant.scram()
    elif way == "password file":
        (tmp_path / "password").write_text(tenant.password + "\n")
        section = tenant.scram(sasl_password_file=tmp_path / "password")
    elif way == "closed key":
        leaf = tenant.node.authority.sign(tenant.user, password="key-password")
        (tmp_path / "password").write_text("key-password\n")
        section = tenant.mtls(
            ssl_certfile=leaf.cert, ssl_keyfile=leaf.key, ssl_key_password_file=tmp_path / "password"
        )
    elif way == "one file":
        section = tenant.mtls(ssl_certfile=tenant.node.authority.sign(tenant.user).pem, ssl_keyfile=None)
    else:
        section = tenant.mtls()
    consumer = opened(section)
    try:
        assert tenant.topic in consumer.topics()
    finally:
        consumer.close()


Refused = tuple[Callable[[Tenant, Authority], Section], type[StartError], str]

REFUSALS: dict[str, Refused] = {
    "wrong password": (
        lambda t, _: t.scram(),
        StartError,
        "refuses user {user}: wrong user or password. Check kafka.sasl_username, and the password in PLUM",
    ),
    "unknown user": (lambda t, _: t.scram(sasl_username="nobody"), StartError, "refuses user nobody"),
    "mechanism mismatch": (
        lambda t, _: t.scram(sasl_mechanism="PLAIN"),
        StartError,
        "does not offer the SASL mechanism PLAIN. Set kafka.sasl_mechanism",
    ),
    "expired broker": (
        lambda t, _: t.scram("expired"),
        StartError,
        "the broker's certificate has expired. Nothing was sent. Have it renewed",
    ),
    "wrong host name": (
        lambda t, _: t.scram("misnamed"),
        StartError,
        "made out to another name. Nothing was sent. Use a name that it holds in kafka.bootstrap_servers",
    ),
    "unknown authority": (
        lambda t, stranger: t.scram(ssl_cafile=stranger.cert),
        StartError,
        "signed by no authority that kafka.ssl_cafile {stranger} knows. Nothing was sent. Set kafka.ssl_c",
    ),
    "authority of no system": (
        lambda t, _: t.scram(ssl_cafile=None),
        StartError,
        "signed by no authority that this system knows",
    ),
    "no certificate": (
        lambda t, _: t.mtls(ssl_certfile=None, ssl_keyfile=None),
        StartError,
        "asks for a client certificate. Set kafka.ssl_certfile and kafka.ssl_keyfile",
    ),
    "expired certificate": (
        lambda t, _: _shown(t, t.node.authority, days=-1),
        StartError,
        "refuses the certificate kafka.ssl_certfile {certificates}/shown.crt: it has expired, or",
    ),
    "certificate of a stranger": (
        lambda t, stranger: _shown(t, stranger, days=30),
        StartError,
        "whoever signed it is not trusted",
    ),
    "plaintext at a TLS port": (
        lambda t, _: {"bootstrap_servers": t.node.doors["scram"]},
        BrokerUnreachable,
        "hangs up on kafka.security_protocol PLAINTEXT. Use the listener's protocol: SASL_SSL or SSL",
    ),
    "password in the clear at a TLS port": (
        lambda t, _: t.scram(security_protocol="SASL_PLAINTEXT", ssl_cafile=None),
        BrokerUnreachable,
        "hangs up on kafka.security_protocol SASL_PLAINTEXT. Use the listener's protocol: SASL_SSL",
    ),
    "TLS at a plaintext port": (
        lambda t, _: t.scram() | {"bootstrap_servers": t.node.bootstrap},
        BrokerUnreachable,
        "Does the port speak TLS? kafka.security_protocol is SASL_SSL. Nothing was sent in the clear",
    ),
    "no user where one is asked for": (
        lambda t, _: t.scram(security_protocol="SSL", sasl_mechanism=None, sasl_username=None),
        BrokerUnreachable,
        "does the listener ask for a user (kafka.security_protocol SASL_SSL)?",
    ),
}


def _shown(tenant: Tenant, signer: Authority, days: int) -> Section:
    leaf = signer.sign("shown", days=days)
    return tenant.mtls(ssl_certfile=leaf.cert, ssl_keyfile=leaf.key)


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_says_what_where_and_what_to_do(
    tenant: Tenant, stranger: Authority, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names address, reason and key, and no password; waiting mends no certificate."""
    make, kind, says = REFUSALS[case]
    monkeypatch.setenv(PASSWORD_VARIABLE, WRONG if case == "wrong password" else tenant.password)
    section = make(tenant, stranger)
    with pytest.raises(StartError) as caught:
        opened(section)
    text = str(caught.value)
    assert type(caught.value) is kind, text
    assert text.startswith(f"Kafka at {section['bootstrap_servers']}")
    known = {"user": tenant.user, "stranger": stranger.cert, "certificates": tenant.node.authority.directory}
    assert says.format(**known) in text
    assert tenant.password not in text
    assert WRONG not in text
