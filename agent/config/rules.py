"""The rules between keys: what no single value can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import pairwise

from agent.config import Config, ConstraintConfig, HttpConfig, KafkaConfig, ModelConfig, format_duration
from agent.config.file import Loc, Problem
from agent.errors import ConfigError

_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)


def rules(config: Config, *, need_baselines: bool) -> list[Problem]:
    """Return every broken rule of a config whose single values are right."""
    problems = [
        *_kafka(config.kafka),
        *_http(config.http),
        *_topics(config),
        *_mappings(config),
        *_webhooks(config),
    ]
    for name, model in config.models.items():
        loc: Loc = ("models", name)
        checks = (
            _classes,
            _slices,
            _windows,
            _times,
            _step,
            _constraints,
            _roles,
            _pairs,
            _experiments,
            _maintenance,
        )
        problems += [problem for check in checks for problem in check(loc, model)]
        if need_baselines:
            problems += _baseline(loc, model)
    return problems


def _kafka(kafka: KafkaConfig) -> Iterator[Problem]:
    sasl = kafka.security_protocol.startswith("SASL")
    if sasl and kafka.sasl_mechanism is None:
        remedy = "add kafka.sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
        yield Problem(
            ("kafka", "security_protocol"), "a SASL mechanism beside it", remedy, kafka.security_protocol
        )
    given = {key for key in KafkaConfig.model_fields if getattr(kafka, key) is not None}
    if not sasl and (
        first := min(given & {"sasl_mechanism", "sasl_username", "sasl_password_file"}, default="")
    ):
        remedy = "set kafka.security_protocol: SASL_SSL (or SASL_PLAINTEXT), or remove it"
        yield Problem(("kafka", first), "a security_protocol with SASL", remedy, str(getattr(kafka, first)))
    if kafka.sasl_mechanism is not None and not kafka.sasl_username:
        yield Problem(
            ("kafka", "sasl_username"), "the user of the SASL mechanism", "add kafka.sasl_username: name"
        )
    yield from _tls(kafka, sorted(key for key in given if key.startswith("ssl_")))


def _tls(kafka: KafkaConfig, given: list[str]) -> Iterator[Problem]:
    """Whoever names a certificate wants TLS: nothing may go out in the clear beside it."""
    if given and not kafka.security_protocol.endswith("SSL"):
        remedy = "set kafka.security_protocol: SSL (or SASL_SSL), or remove the ssl_ keys"
        yield Problem(
            ("kafka", given[0]), "a security_protocol with TLS", remedy, str(getattr(kafka, given[0]))
        )
    elif kafka.ssl_certfile is None and (alone := [key for key in given if key != "ssl_cafile"]):
        remedy = "add kafka.ssl_certfile: FILE, or remove it"
        yield Problem(("kafka", alone[0]), "the certificate that it belongs to", remedy)


def _http(http: HttpConfig) -> Iterator[Problem]:
    if http.tls_key_file and not http.tls_cert_file:
        remedy = "add http.tls_cert_file: FILE, or remove it"
        yield Problem(("http", "tls_key_file"), "the certificate that it belongs to", remedy)
    if http.read_username and not http.read_password_file:
        remedy = "add http.read_password_file: FILE, or remove it"
        yield Problem(("http", "read_username"), "a password beside it", remedy, http.read_username)
    if http.read_password_file and not http.read_username:
        remedy = "add http.read_username: name (a token alone goes into http.read_token_file)"
        yield Problem(("http", "read_password_file"), "the user that it belongs to", remedy)


def _topics(config: Config) -> Iterator[Problem]:
    seen: dict[str, Loc] = {}
    for index, source in enumerate(config.sources):
        for position, topic in enumerate(source.topics):
            loc: Loc = ("sources", index, "topics", position)
            if topic in seen:
                yield Problem(
                    loc, "each topic once", "remove one of the two; kind: auto reads mixed topics", topic
                )
            seen.setdefault(topic, loc)
    if config.sources and all(source.kind == "feedback" for source in config.sources):
        remedy = "add a source with kind: prediction (or auto)"
        yield Problem(("sources",), "a source that brings predictions", remedy)
    own = (
        (("dead_letters", "topic"), config.dead_letters.topic),
        (("retraining_topic",), config.retraining_topic),
    )
    for loc, name in own:
        if name in seen:
            yield Problem(
                loc,
                "a topic that is not among the sources",
                "choose another name, or null for a file",
                str(name),
            )


def _mappings(config: Config) -> Iterator[Problem]:
    """Compile each mapping expression alone, so that every broken one is named."""
    from agent.ingest.mapping import Schema, compile_fields

    schema = Schema.of(config.models)
    for index, source in enumerate(config.sources):
        for key, text in source.fields.items():
            try:
                compile_fields(source.model_copy(update={"fields": {key: text}}), schema)
            except ConfigError as error:
                remedy = str(error).removeprefix(f"sources: fields.{key}: ")
                yield Problem(("sources", index, "fields", key), "a mapping expression", remedy, text)


def _webhooks(config: Config) -> Iterator[Problem]:
    names: set[str] = set()
    for index, hook in enumerate(config.webhooks):
        loc: Loc = ("webhooks", index)
        if hook.name in names:
            yield Problem((*loc, "name"), "a name of its own", "rename one of the two", hook.name)
        names.add(hook.name)
        if hook.url.startswith("http://") and not hook.allow_private:
            remedy = "write https://, or allow_private: true for a receiver on your own network"
            yield Problem((*loc, "url"), "https://", remedy)
        if hook.preset == "generic" and not (hook.secret_files or hook.secret_env):
            remedy = "add secret_files: [FILE] (or secret_env: NAME), so that the receiver can tell it is you"
            yield Problem((*loc, "secret_files"), "a signing secret with preset: generic", remedy)
        if hook.timeout > _MINUTE:
            yield Problem((*loc, "timeout"), "at most 1m", "shorten it", format_duration(hook.timeout))
        for model in hook.models:
            if model not in config.models:
                known = ", ".join(config.models)
                remedy = f"correct the name, or add the model; there are {known}"
                yield Problem((*loc, "models"), "names of models", remedy, model)


def _classes(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    from agent.ingest.convert import canonical_class

    classes, at = model.classes, (*loc, "classes")
    if classes is not None and (twice := _repeated(map(canonical_class, classes))):
        yield Problem(
            at,
            "each class once (1, 1.0 and true are one)",
            f"remove the second {', '.join(twice)}",
            _list(classes),
        )
    if model.task == "binary":
        if classes is not None and len(classes) != 2:
            remedy = (
                "write `classes: [negative, positive]` with the names your events use, or task: multiclass"
            )
            yield Problem(at, "exactly two classes for a binary model", remedy, _list(classes))
        elif (
            classes is not None
            and model.positive is not None
            and canonical_class(model.positive) not in map(canonical_class, classes)
        ):
            remedy = f"write `positive: {classes[-1]}`, or add {model.positive} to classes"
            yield Problem(
                (*loc, "positive"), f"one of the classes: {', '.join(classes)}", remedy, model.positive
            )
        return
    if classes is None and model.baseline is None:
        remedy = "write `classes: [a, b, c]`, or name a baseline, which brings them"
        yield Problem(at, "the classes of a multiclass model", remedy)
    elif classes is not None and len(classes) < 2:
        yield Problem(at, "at least two classes", "write `classes: [a, b, c]`", _list(classes))
    for key in ("positive", "threshold"):
        if key in model.model_fields_set:
            remedy = f"remove it, or set {'.'.join(map(str, loc))}.task: binary"
            yield Problem(
                (*loc, key), "nothing: only binary models have it", remedy, str(getattr(model, key))
            )


def _slices(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    if twice := _repeated(model.segments):
        yield Problem((*loc, "segments"), "each attribute once", f"remove the second {', '.join(twice)}")
    for index, name in enumerate(model.segments):
        if "=" in name or "," in name:
            remedy = "map the attribute to another name (sources: fields:)"
            yield Problem(
                (*loc, "segments", index),
                "a name without = and comma, which slices are written with",
                remedy,
                name,
            )
    known = ", ".join(model.segments) or "none"
    for index, attributes in enumerate(model.intersections):
        at: Loc = (*loc, "intersections", index)
        if missing := [name for name in attributes if name not in model.segments]:
            remedy = f"add {', '.join(missing)} to segments, or remove it here"
            yield Problem(at, f"attributes of segments ({known})", remedy, _list(attributes))
        if _repeated(attributes):
            yield Problem(at, "different attributes", "name each once", _list(attributes))
    if _repeated([" × ".join(sorted(attributes)) for attributes in model.intersections]):
        yield Problem(
            (*loc, "intersections"), "each intersection once", "remove the repetition; order is no difference"
        )
    for name in model.fairness.reference:
        if name not in model.segments:
            remedy = f"add {name} to segments, or remove the line"
            yield Problem(
                (*loc, "fairness", "reference", name), f"an attribute of segments ({known})", remedy
            )


def _windows(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    if twice := _repeated(model.windows):
        remedy = f"remove the second {', '.join(twice)}"
        yield Problem((*loc, "windows"), "each window once", remedy, _list(model.windows))


def _times(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    if model.label_maturity > model.label_horizon:
        horizon = format_duration(model.label_horizon)
        yield Problem(
            (*loc, "label_maturity"),
            f"at most label_horizon ({horizon}): labels after it do not count",
            "shorten label_maturity or lengthen label_horizon",
            format_duration(model.label_maturity),
        )


def _step(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    step = model.step
    divides = not step % _MINUTE and not _HOUR % step
    if not divides and step % _HOUR:
        yield Problem(
            (*loc, "step"),
            "whole minutes that divide an hour (1m, 5m, 15m, 30m, …) or whole hours (1h, 6h, 1d, …)",
            "choose the nearest of these; hours are what panes are kept by",
            format_duration(step),
        )


def _constraints(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    for index, line in enumerate(model.roles.constraints):
        at: Loc = (*loc, "roles", "constraints", index)
        bars = [(line.max, line.min)] if (line.max, line.min) != (None, None) else []
        dated = [(bar.max, bar.min) for bar in line.bars]
        if line.metric.endswith("_ratio"):
            if bars or dated:
                remedy = "remove the bar; how large a ratio may be is fairness.tolerance"
                yield Problem(at, "no bar for a ratio between groups", remedy)
        elif bool(bars) == bool(dated) or any((high is None) == (low is None) for high, low in bars + dated):
            remedy = "write `max: 0.05` or `min: 0.9`, or dated ones: `bars: [{from: 2026-01-01, max: 0.05}]`"
            yield Problem(at, "one bar, max or min", remedy)
        else:
            yield from _tightening(at, line)
        if model.task == "multiclass" and line.metric not in ("accuracy", "error_rate"):
            yield Problem((*at, "metric"), "accuracy or error_rate for several classes", "choose one of them")
        groups = [part.partition("=") for part in (line.segment or "").split(",")]
        if line.segment and not all(name in model.segments and value for name, _, value in groups):
            known = ", ".join(model.segments) or "none"
            remedy = "write `segment: attribute=value`, and the attribute in segments"
            yield Problem((*at, "segment"), f"a group of segments ({known})", remedy, line.segment)


def _tightening(at: Loc, line: ConstraintConfig) -> Iterator[Problem]:
    """A bar that is loosened when it hurts is none."""
    for index, (bar, after) in enumerate(pairwise(line.bars), start=1):
        if after.begin <= bar.begin:
            yield Problem((*at, "bars", index, "from"), "a later day than the bar before", "sort them by day")
        same = (bar.max is None) == (after.max is None)
        looser = _bar(after.max, 1) > _bar(bar.max, 1) or _bar(after.min, 0) < _bar(bar.min, 0)
        if not same or looser:
            yield Problem((*at, "bars", index), "a bar as tight as the one before, or tighter", "tighten it")


def _bar(value: float | None, none: float) -> float:
    return none if value is None else value


def _roles(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    roles = model.roles
    constraints = {line.metric: "constraint" for line in roles.constraints}
    lines = [f"{line.metric} {line.segment or ''}".strip() for line in roles.constraints]
    if twice := _repeated(lines):
        yield Problem((*loc, "roles", "constraints"), "each red line once", f"remove one {', '.join(twice)}")
    if twice := _repeated([*constraints, *roles.objectives, *roles.diagnostics]):
        yield Problem((*loc, "roles"), "one role for each metric", f"decide for one: {', '.join(twice)}")


def _pairs(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    for index, pair in enumerate(model.pairs):
        at: Loc = (*loc, "pairs", index)
        if pair.metric == pair.guard:
            yield Problem((*at, "guard"), "another metric", "name what must not get worse", pair.guard)
        if model.task == "multiclass":
            yield Problem(at, "a binary model for a pair", "remove it")
    if _repeated([f"{pair.metric}/{pair.guard}" for pair in model.pairs]):
        yield Problem((*loc, "pairs"), "each pair once", "remove the repetition")


def _experiments(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    from agent.measure.arms import comparable

    known = comparable(model)
    for index, one in enumerate(model.experiments):
        at: Loc = (*loc, "experiments", index)
        if one.attribute not in model.segments:
            remedy = f"add {one.attribute} to segments: its values are the arms"
            yield Problem((*at, "attribute"), "an attribute of segments", remedy, one.attribute)
        if twice := _repeated([*one.metrics, *one.guardrails]):
            remedy = f"decide whether {', '.join(twice)} is to get better or not to get worse"
            yield Problem(at, "each metric once, also among guardrails", remedy)
        for key, metric in [("metrics", m) for m in one.metrics] + [
            ("guardrails", m) for m in one.guardrails
        ]:
            if metric not in known:
                remedy = f"choose among {', '.join(known)}"
                yield Problem((*at, key), "metrics that are means over events", remedy, metric)
        if one.control in one.variants:
            yield Problem((*at, "variants"), "arms other than the control", "remove it", one.control)
        if one.shares and abs(sum(one.shares.values()) - 1) > 1e-6:
            total = f"{sum(one.shares.values()):g}"
            yield Problem((*at, "shares"), "shares of all arms, which sum to 1", "name every arm", total)
    if twice := _repeated([one.name for one in model.experiments]):
        yield Problem((*loc, "experiments"), "each name once", f"rename one {', '.join(twice)}")


def _maintenance(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    for index, window in enumerate(model.maintenance):
        if window.to <= window.begin:
            at: Loc = (*loc, "maintenance", index, "to")
            yield Problem(at, "a time after from", "exchange the two", window.to.isoformat())


def _baseline(loc: Loc, model: ModelConfig) -> Iterator[Problem]:
    if model.baseline is not None and not model.baseline.is_file():
        profile = f"plumbline profile -c CONFIG --model {loc[-1]} --input FILE -o {model.baseline}"
        remedy = f"write it with `{profile}`, or correct the path"
        yield Problem((*loc, "baseline"), "an existing file", remedy, str(model.baseline))


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _list(names: Iterable[str]) -> str:
    return f"[{', '.join(names)}]"
