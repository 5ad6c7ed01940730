import json
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agent.config import (
    Config,
    config_schema,
    format_duration,
    load,
    parse_duration,
)
from agent.errors import ConfigError

ROOT = Path(__file__).parent.parent
MISTAKES = sorted((Path(__file__).parent / "testdata" / "config").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))
SECRET = "correct-horse"


def write(folder: Path, text: str) -> Path:
    path = folder / "plumbline.yaml"
    path.write_text(text)
    return path


def message(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return str(caught.value)


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: path.stem)
def test_a_mistake_is_named_with_its_value_and_remedy(path: Path) -> None:
    """Each file holds one mistake and, in its comments, what the message must say; no secret is repeated."""
    text = message(path)
    for says in re.findall(r"^# says: (.*)", path.read_text(), re.MULTILINE):
        assert says in text
    assert text.count("remedy: ") <= 1, "one mistake makes one problem"
    assert path.name in text
    assert SECRET not in text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid(path: Path) -> None:
    """Every example loads, and its file follows the published JSON Schema, so that editors can use it."""
    load(path, {})
    schema = Draft202012Validator(config_schema())
    assert [error.message for error in schema.iter_errors(yaml.safe_load(path.read_text()))] == []


def test_ten_lines_are_enough() -> None:
    """The first example, comments aside, has at most ten lines."""
    lines = (ROOT / "deploy/examples/binary.yaml").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) <= 10


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Mistakes of single values, between keys and in the environment come in one message."""
    path = write(tmp_path, "models: {a: {step: 7m}, b: {threshold: 2}}\nkafka: {sasl_mechanism: PLAIN}\n")
    text = message(path, {"PLUMBLINE_HTTP__PORT": "x", "PLUMBLINE_MODELS__C__STEP": "1h"})
    assert "6 problems" in text
    for key in ("models.a.step", "models.b.threshold", "kafka.sasl_mechanism", "http.port", "models.C"):
        assert f" {key}" in text


def test_the_environment_wins(tmp_path: Path) -> None:
    """PLUMBLINE_SECTION__KEY replaces the file's value; a model is found though its name has a hyphen."""
    path = write(tmp_path, "models: {credit-risk: {step: 5m}}\nsources: [{topics: [a]}]\n")
    config = load(
        path,
        {
            "PLUMBLINE_KAFKA__BOOTSTRAP_SERVERS": "kafka:9093",
            "PLUMBLINE_MODELS__CREDIT_RISK__STEP": "15m",
            "PLUMBLINE_MODELS__CREDIT_RISK__SEGMENTS": "[sex, race]",
            "PLUMBLINE_SOURCES__0__TOPICS": "[b, c]",
            "PLUMBLINE_RETRAINING_TOPIC": "null",
            "PLUMBLINE_STATE__DIR": "here",
        },
    )
    assert config.kafka.bootstrap_servers == "kafka:9093"
    assert config.models["credit-risk"].step == timedelta(minutes=15)
    assert config.models["credit-risk"].segments == ["sex", "race"]
    assert config.sources[0].topics == ["b", "c"]
    assert config.retraining_topic is None
    assert config.state.dir == Path("here")


def test_what_kubernetes_sets_is_left_alone(tmp_path: Path) -> None:
    """Variables of a service called plumbline, and empty ones, change nothing and are no mistake."""
    path = write(tmp_path, "models: {a: {}}\n")
    environ = {
        "PLUMBLINE_PORT": "tcp://10.0.0.1:9464",
        "PLUMBLINE_SERVICE_HOST": "10.0.0.1",
        "PLUMBLINE_KAFKA__GROUP_ID": "",
    }
    assert load(path, environ) == load(path, {})


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PLUMBLINE_HTTP__PROT", "1", "did you mean port?"),
        ("PLUMBLINE_SOURCES__7__KIND", "auto", "items 0, 1, … of a list"),
        ("PLUMBLINE_HTTP__PORT__X", "1", "a section at this place"),
        ("PLUMBLINE_KAFKA__SASL_PASSWORD", SECRET, "PLUMBLINE_KAFKA_PASSWORD"),
        ("PLUMBLINE_MODELS__A__SEGMENTS", "[a", "not valid YAML"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, says: str) -> None:
    """A mistake in the environment is told by the variable's name."""
    path = write(tmp_path, "models: {a: {}}\nsources: [{topics: [a]}]\nhttp: {port: 1}\n")
    text = message(path, {variable: value})
    assert f"environment variable {variable}" in text
    assert says in text
    assert SECRET not in text


def test_yaml_reads_what_is_written(tmp_path: Path) -> None:
    """No `no` becomes false, no 12:30 a number of seconds, no leading zero an octal number."""
    text = "models: {a: {task: multiclass, classes: [no, yes, 12:30, 007, 0x1F, 1_000, ~x]}}\n"
    config = load(write(tmp_path, text), {})
    assert config.models["a"].classes == ["no", "yes", "12:30", "007", "0x1F", "1_000", "~x"]


def test_anchors_share_settings(tmp_path: Path) -> None:
    """Models may share keys by a YAML merge; their own keys win."""
    text = "models:\n  a: &a {step: 1h, min_samples: 5}\n  b: {<<: *a, step: 2h}\n"
    config = load(write(tmp_path, text), {})
    assert (config.models["b"].step, config.models["b"].min_samples) == (timedelta(hours=2), 5)


def test_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    """A config works from any working folder; absolute paths and defaults stay what they are."""
    (tmp_path / "base.json").write_text("{}")
    text = "models: {a: {baseline: base.json}}\ndead_letters: {path: /d.jsonl}\n"
    text += "kafka: {security_protocol: SSL, ssl_cafile: ca.pem}\n"
    config = load(write(tmp_path, text), {})
    assert config.models["a"].baseline == tmp_path / "base.json"
    assert config.kafka.ssl_cafile == tmp_path / "ca.pem"
    assert config.dead_letters.path == Path("/d.jsonl")
    assert config.state.dir == Path("plumbline-state")


def test_a_baseline_may_be_missing_for_who_makes_it(tmp_path: Path) -> None:
    """`plumbline profile` can read the config that names the file it is about to write."""
    path = write(tmp_path, "models: {a: {baseline: later.json}}\n")
    assert load(path, {}, need_baselines=False).models["a"].baseline == tmp_path / "later.json"


def test_maturity_follows_a_short_horizon(tmp_path: Path) -> None:
    """Who sets only a short label_horizon is not told off for the default of another key."""
    config = load(write(tmp_path, "models: {a: {label_horizon: 2d}, b: {}}\n"), {})
    assert config.models["a"].label_maturity == timedelta(days=2)
    assert config.models["b"].label_maturity == timedelta(days=7)


@pytest.mark.parametrize("step", ["1m", "5m", "30m", "1h", "6h", "1d", "1w"])
def test_a_step_that_fits_the_panes_is_accepted(tmp_path: Path, step: str) -> None:
    """Minutes that divide an hour and whole hours are steps."""
    load(write(tmp_path, f"models: {{a: {{step: {step}}}}}\n"), {})


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"models: \x00"])
def test_what_is_not_text_is_refused(tmp_path: Path, raw: bytes) -> None:
    """A binary file gives a message, not a traceback."""
    path = tmp_path / "plumbline.yaml"
    path.write_bytes(raw)
    assert "plumbline.yaml" in message(path)


@pytest.mark.parametrize(
    "text",
    [
        "models: " + "[" * 5000,
        "models: " + "{a: " * 300 + "1" + "}" * 300,
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
        "# " + "x" * 1_000_001,
    ],
    ids=["deep list", "deep mapping", "multiplying aliases", "huge"],
)
def test_a_file_that_grows_without_bounds_is_refused(tmp_path: Path, text: str) -> None:
    """Depth, aliases of aliases and size end in a message, soon."""
    assert "plumbline.yaml" in message(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A wrong path is told with the path, and a folder is no config."""
    assert str(tmp_path / "no.yaml") in message(tmp_path / "no.yaml")
    assert "cannot be read" in message(tmp_path)


@settings(max_examples=50, deadline=None)  # two busy cores: no time limits
@given(
    st.recursive(st.text() | st.integers() | st.none() | st.booleans() | st.floats(), st.lists, max_leaves=5)
)
def test_any_value_anywhere_makes_a_config_or_a_message(value: object) -> None:
    """Whatever stands at a key, load answers with a Config or a ConfigError."""
    from agent.config.check import checked
    from agent.config.file import Document

    for data in (
        {"models": value},
        {"models": {"a": value}},
        {"models": {"a": {"step": value}}, "sources": value},
    ):
        with suppress(ConfigError):
            assert isinstance(checked(Document("x.yaml", dict(data)), Path(), need_baselines=True), Config)


@settings(max_examples=50, deadline=None)  # two busy cores: no time limits
@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10_000)))
def test_a_duration_reads_as_it_was_written(value: timedelta) -> None:
    """format_duration and parse_duration are inverse to the millisecond."""
    exact = value - value % timedelta(milliseconds=1)
    assert parse_duration(format_duration(exact)) == exact


def test_durations_add_up() -> None:
    """Units may be combined and have fractions."""
    assert parse_duration("1h30m") == timedelta(minutes=90)
    assert parse_duration("1.5h") == timedelta(minutes=90)
    assert parse_duration("250ms") == timedelta(milliseconds=250)


def test_a_shown_config_can_be_loaded(tmp_path: Path) -> None:
    """What `check --show` prints is a config again, and the same one."""
    first = load(ROOT / "deploy/examples/compas.yaml", {})
    assert load(write(tmp_path, first.model_dump_json()), {}) == first


def test_every_default_is_in_the_schema() -> None:
    """The JSON Schema states each default in the file's own words, and describes each key of a model."""
    model = config_schema()["$defs"]["ModelConfig"]["properties"]
    assert model["step"]["default"] == "5m"
    assert model["label_horizon"]["default"] == "30d"
    assert config_schema()["properties"]["models"]["minProperties"] == 1
    Draft202012Validator.check_schema(config_schema())
    json.dumps(config_schema(), allow_nan=False)
