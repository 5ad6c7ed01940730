import pytest

from agent.config import ModelConfig, SourceConfig
from agent.errors import ConfigError
from agent.ingest.decode import Decoder
from agent.ingest.mapping import Schema, Term, parse_expression, source_of


def test_expressions_read_as_documented() -> None:
    """Alternatives, roots, quoting, converters and constants all parse to their terms."""
    text = 'value.a."b.c" | header.X-Id | kafka.timestamp_ms > epoch_ms | =x y'
    assert parse_expression("timestamp", text) == (
        Term("value", ("a", "b.c")),
        Term("header", ("x-id",)),
        Term("kafka", ("timestamp_ms",), "epoch_ms"),
        Term("constant", ("x y",)),
    )


@pytest.mark.parametrize(
    ("key", "text", "remedy"),
    [
        ("prediction_id", "id", "value.NAME"),
        ("prediction_id", "", "value.NAME"),
        ("prediction_id", "value..a", "dots between names"),
        ("prediction_id", "value", "value.prediction_id"),
        ("prediction_id", "kafka.key.x", "kafka.key"),
        ("timestamp", "value.t > epoch", "epoch_s or epoch_ms"),
        ("timestamp", "value.t >", "a converter"),
        ("label", "value.t > epoch_s", "`value.t` alone"),
        ("features", "header.x", "value.features"),
        ("colour", "value.x", "Use one of"),
        ("features.age", "value.features", "elsewhere"),
    ],
)
def test_a_bad_expression_names_key_value_and_remedy(key: str, text: str, remedy: str) -> None:
    """Whatever cannot be read is refused before the first record, in words that help."""
    source = SourceConfig(topics=["t"], fields={key: text})
    with pytest.raises(ConfigError) as told:
        Decoder([source], Schema(features=("age", "x")), max_message_bytes=1, future_skew_ms=0)
    assert remedy in str(told.value)
    assert "fields" in str(told.value)


def test_the_schema_is_the_union_over_models() -> None:
    """Features, attributes (those of intersections too) and classes of all models, in a fixed order."""
    one = ModelConfig(features={"b": "numeric"}, segments=["s"], intersections=[["s", "t"]])
    two = ModelConfig(features={"a": "categorical"}, classes=["x", "y"])
    schema = Schema(features=("a", "b"), tags=("s", "t"), classes=("0", "1", "x", "y"))
    assert Schema.of({"one": one, "two": two}) == schema == Schema.of({"two": two, "one": one})


def test_a_file_belongs_to_the_source_that_names_it() -> None:
    """By path, name or stem; else by the only source, or by the format that all share."""
    predictions = SourceConfig(topics=["predictions"], kind="prediction")
    feedback = SourceConfig(topics=["feedback"], kind="feedback")
    assert source_of("/data/feedback.jsonl.gz", [predictions, feedback]) is feedback
    assert source_of("/data/other.csv", [predictions]) is predictions
    assert source_of("/data/other.csv", [predictions, feedback]).kind == "auto"
