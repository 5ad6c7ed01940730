import json
from typing import Any

import numpy as np
import yaml

from agent.config import Config, SourceConfig
from agent.events import NO_TIME, Partition, RawBatch
from agent.sample import describe, masked, suggestion

SECRET = "DE89370400440532013000"
GOOD = {
    "prediction_id": "a",
    "timestamp": "2026-08-01T12:00:00Z",
    "model_name": "credit",
    "prediction": "1",
    "features": {"iban": SECRET},
}
FLAT = {"request_id": "a1", "scored_at": 1767571200.5, "score": 0.93, "amount": 12.5, "iban": SECRET}


def config(**changes: object) -> Config:
    """A config that reads native predictions."""
    return Config.model_validate({"models": {"credit": {"features": {"iban": "categorical"}}}} | changes)


def batch(*records: dict[str, Any] | bytes, topic: str = "predictions") -> RawBatch:
    """Records as they were read."""
    values = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    n = len(values)
    at = np.arange(7, 7 + n, dtype=np.int64)
    return RawBatch(Partition(topic, 2), at, np.full(n, NO_TIME, dtype=np.int64), 7 + n, values)


def test_raw_and_mapped_are_shown_without_their_values() -> None:
    """Names, kinds and lengths are shown; no value is, not even of what is no JSON."""
    text = "\n".join(describe(config(), [batch(GOOD, b"{" + SECRET.encode())], show_values=False))
    assert SECRET not in text
    assert "predictions[2] @ 7" in text
    assert '"iban": "text(22)"' in text
    assert "mapped  prediction {" in text
    assert "rejected: malformed_json" in text
    assert "2 records, 1 of them could not be used" in text


def test_values_are_shown_when_asked_for() -> None:
    """Then raw and mapped both have them."""
    text = "\n".join(describe(config(), [batch(GOOD)], show_values=True))
    assert text.count(SECRET) == 2


def test_a_model_that_is_not_configured_is_told() -> None:
    """Its events would be counted and ignored: the sample says so."""
    text = "\n".join(describe(config(), [batch(GOOD | {"model_name": "fraud"})], show_values=False))
    assert "prediction (its model is not in the config)" in text


def test_the_suggested_mapping_makes_the_records_usable() -> None:
    """What is suggested for flat records is valid YAML for the config, and reads every one of them."""
    records = [FLAT | {"request_id": f"a{i}"} for i in range(5)]
    lines = list(suggestion("scoring", [json.dumps(r).encode() for r in records]))
    suggested = yaml.safe_load("\n".join(lines[1:]).replace("=NAME", "=credit"))
    source = SourceConfig.model_validate(suggested["sources"][0])
    assert (source.preset, source.kind) == ("flat", "prediction")
    assert source.fields["prediction_id"] == "value.request_id"
    settings = config(sources=[source])
    text = "\n".join(describe(settings, [batch(*records, topic="scoring")], show_values=False))
    assert "5 records, 0 of them could not be used" in text


def test_labels_and_odd_names_are_suggested_too() -> None:
    """A record with a truth and no prediction is feedback; a name with a dot is quoted."""
    record = {"order": {"event.meta": {"request_id": "a"}}, "actual": True, "ts": 1}
    lines = list(suggestion("labels", [json.dumps(record).encode()]))
    source = yaml.safe_load("\n".join(lines[1:]))["sources"][0]
    assert source["kind"] == "feedback"
    assert source["fields"]["prediction_id"] == 'value.order."event.meta".request_id'
    assert source["fields"]["label"] == "value.actual"


def test_no_suggestion_out_of_thin_air() -> None:
    """Records without anything like an id get none."""
    [line] = suggestion("t", [b'{"x": 1}', b"nonsense"])
    assert line.startswith("no suggestion")


def test_a_mask_keeps_the_shape_alone() -> None:
    """Long lists are cut, depth is bounded, booleans and nulls are told apart."""
    assert masked({"a": [1, 2, 3, 4], "b": None, "c": True}) == {
        "a": ["number", "number", "number", "…"],
        "b": "null",
        "c": "boolean",
    }
