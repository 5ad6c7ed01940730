"""Why the broker is not reached, or refuses: what, where and remedy, for whoever is on call.

The client tells most of it only to its log, one cause per attempt, and raises a mere time-out; of the causes
the one that says most is told. Texts of the broker are not repeated, for nobody knows what they quote.
"""

from __future__ import annotations

from collections.abc import Sequence

from kafka.errors import (
    AuthorizationError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from agent.config import KafkaConfig
from agent.errors import ConfigError, StartError
from agent.ingest.client import PASSWORD_VARIABLE

_REFUSED = (
    AuthorizationError,
    ConfigError,
    IllegalSaslStateError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)


class BrokerUnreachable(StartError):
    """No broker answers; unlike every other StartError this one may pass by itself."""


def why_not(config: KafkaConfig, error: Exception, causes: Sequence[Exception] = ()) -> StartError:
    """What an error, and what the client's log held beside it, mean for the start."""
    every = [*causes, error]
    if refused := next((one for one in every if isinstance(one, _REFUSED)), None):
        return StartError(refusal(config, refused))
    if distrust := next(filter(None, (_distrust(config, str(one)) for one in every)), None):
        return StartError(f"{where(config)}: {distrust}")
    cause = next((one for one in reversed(every) if not isinstance(one, KafkaTimeoutError)), error)
    if isinstance(error, KafkaError):
        return BrokerUnreachable(f"{where(config)} cannot be reached: {say(cause)}. {_look(config, cause)}")
    return StartError(f"{where(config)}: {say(cause)}. Check the kafka section.")


def refusal(config: KafkaConfig, error: Exception) -> str:
    """The words for a broker that answers, and says no."""
    if isinstance(error, ConfigError):
        return str(error)
    asked = f"{where(config)} refuses {_who(config)}"
    match error:
        case TopicAuthorizationFailedError():
            return (
                f"{asked}: no right to {_topics(error)}. Grant Read and Describe on what is read, "
                "Write and Describe on what is written."
            )
        case GroupAuthorizationFailedError():
            return (
                f"{asked}: no right to group {config.group_id}. Grant Read on it, or correct kafka.group_id."
            )
        case AuthorizationError():
            return f"{asked}: {type(error).__name__}. Grant the right that it lacks."
        case UnsupportedSaslMechanismError() | IllegalSaslStateError():
            return (
                f"{where(config)} does not offer the SASL mechanism {config.sasl_mechanism}. "
                "Set kafka.sasl_mechanism to one of the listener's (sasl.enabled.mechanisms)."
            )
    password = config.sasl_password_file or PASSWORD_VARIABLE
    return f"{asked}: wrong user or password. Check kafka.sasl_username, and the password in {password}."


def _topics(error: Exception) -> str:
    named = error.args[0] if error.args else None
    known = sorted(map(str, named)) if isinstance(named, set | frozenset | list | tuple) else []
    return f"topic {', '.join(known)}" if known else "a topic"


def _distrust(config: KafkaConfig, text: str) -> str | None:
    """What a failed TLS handshake says; None if it was none, or may pass by itself."""
    text = text.lower()
    if "certificate verify failed" in text:
        return _their_certificate(config, text)
    if "sslv3 alert" in text or "tlsv1 alert" in text or "tlsv13 alert" in text:
        return _our_certificate(config, text)
    return None


def _their_certificate(config: KafkaConfig, text: str) -> str:
    told = "Nothing was sent."
    if "expired" in text or "not yet valid" in text:
        state = "has expired" if "expired" in text else "is not valid yet"
        return f"the broker's certificate {state}. {told} Have it renewed; or is this machine's clock wrong?"
    if "mismatch" in text:
        return (
            f"the broker's certificate is made out to another name. {told} Use a name that it holds in "
            "kafka.bootstrap_servers, and in the broker's advertised.listeners."
        )
    if "issuer" in text or "self-signed" in text or "self signed" in text:
        trusted = f"kafka.ssl_cafile {config.ssl_cafile}" if config.ssl_cafile else "this system"
        return (
            f"the broker's certificate is signed by no authority that {trusted} knows. {told} "
            "Set kafka.ssl_cafile to the certificate of the authority that signed it."
        )
    return (
        f"the broker's certificate is not accepted. {told} Look at it: openssl s_client -connect HOST:PORT."
    )


def _our_certificate(config: KafkaConfig, text: str) -> str:
    if "handshake failure" in text or "protocol version" in text:
        return "no TLS version or cipher in common. Let the broker offer TLS 1.2 or 1.3."
    if config.ssl_certfile is None:
        return "the broker asks for a client certificate. Set kafka.ssl_certfile and kafka.ssl_keyfile."
    return (
        f"the broker refuses the certificate kafka.ssl_certfile {config.ssl_certfile}: it has expired, or "
        "whoever signed it is not trusted. Look (openssl x509 -noout -enddate -issuer -in FILE) and renew it."
    )


def _look(config: KafkaConfig, cause: Exception) -> str:
    text = str(cause).lower()
    protocol = config.security_protocol
    if "handshake failed" in text:
        return (
            f"Does the port speak TLS? kafka.security_protocol is {protocol}. "
            "Nothing was sent in the clear, and nothing will be."
        )
    if "disconnected" in text or "frame length" in text or "reset" in text:
        remedy = "Use the listener's protocol: " + (
            "SASL_SSL or SSL" if "SSL" not in protocol else "see its config"
        )
        login = " Or are kafka.sasl_username and its password wrong?" if "SASL" in protocol else ""
        return f"The port hangs up on kafka.security_protocol {protocol}. {remedy}.{login}"
    if isinstance(cause, KafkaTimeoutError) and not protocol.startswith("SASL"):
        return (
            "Check kafka.bootstrap_servers, and that the broker is up; or does the listener ask for a user "
            f"(kafka.security_protocol {'SASL_SSL' if protocol == 'SSL' else 'SASL_PLAINTEXT'})?"
        )
    return "Check kafka.bootstrap_servers, kafka.security_protocol, and that the broker is up."


def _who(config: KafkaConfig) -> str:
    if config.sasl_username is not None:
        return f"user {config.sasl_username}"
    return f"the owner of {config.ssl_certfile}" if config.ssl_certfile else "who gives no name"


def where(config: KafkaConfig) -> str:
    """The broker, as every message names it."""
    return f"Kafka at {config.bootstrap_servers}"


def say(error: Exception) -> str:
    """An error in words; of foreign ones only the kind, since their text may quote a payload."""
    if isinstance(error, KafkaError | StartError):
        return str(error)  # begins with its kind
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__
