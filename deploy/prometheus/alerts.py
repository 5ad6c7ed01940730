"""Every alert but those of the service levels: when it fires, how bad it is, what it says.

Expressions name no job: whatever once exposed `plumbline_build_info` is an agent. They add replicas up by job
and model, since in a fleet each one reads some of the partitions only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agent.measure.redlines import RED_LINE
from agent.respond import families
from deploy.prometheus.settings import Settings
from detectors import REGISTRY

Severity = Literal["critical", "warning", "info"]

LATCHED = "model:plumbline_alarm_active:latched"

BY_MODEL = "sum by (job, model_name)"
MAX_BY_MODEL = "max by (job, model_name)"
BY_TOPIC = "sum by (job, topic)"

HARM = ("fairness", "performance")
CONSTRAINTS = "|".join(
    sorted([RED_LINE, *(name for name, kind in REGISTRY.items() if getattr(kind, "family") in HARM)])  # noqa: B009
)
"""Red lines, and detectors of labelled harm."""

_MONITOR = (
    "{{ $labels.detector }}{{ with $labels.metric }} ({{ . }}){{ end }}"
    "{{ with $labels.feature }} of {{ . }}{{ end }}"
    "{{ with $labels.segment }} for {{ . }}{{ end }}"
)
_MODEL = "{{ $labels.model_name }}"
_VERSION = f"{_MODEL}{{{{ with $labels.model_version }}}} version {{{{ . }}}}{{{{ end }}}}"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule."""

    name: str
    severity: Severity
    signal: str
    """What is watched; a page of one signal makes its tickets superfluous (Alertmanager's inhibition)."""
    expr: str
    hold: str
    """Its `for`, unscaled; empty: at once."""
    summary: str
    description: str
    dashboard: str = "model"
    """Which dashboard shows it."""
    window: str = ""
    """The long window of a burn rate: it tells alerts of one name apart."""


def counter(name: str) -> str:
    """A counter's name on /metrics; it must be one that the exposition explains."""
    if name not in families.COUNTERS:
        raise KeyError(f"agent.respond.families does not know the counter {name}")
    return f"plumbline_{name}_total"


def latched() -> str:
    """The alarms as last told by a living agent.

    While no agent speaks for a model its alarms stand as they stood: the crash of the monitor neither ends an
    incident nor begins it a second time.
    """
    labels = "job, model_name, model_version, detector, feature, segment, metric, severity"
    alarm, alive = families.ALARM.name, families.SERIES.name
    return (
        f"max by ({labels}) ({alarm})\n"
        f"or\n"
        f"max by ({labels}) (last_over_time({alarm}[1h]))\n"
        f"unless on (job, model_name) {alive}"
    )


def model_alerts(s: Settings) -> Iterator[Alert]:
    """What is wrong with a model, or with what is known of it."""
    predictions, read = counter("predictions"), counter("records")
    joined = f'{families.JOIN.name}{{state="joined"}}'
    yield Alert(
        "PlumblineConstraintBroken",
        "critical",
        "constraint",
        f'{LATCHED}{{severity="page",detector=~"{CONSTRAINTS}"}} == 1',
        "",
        "A model breaks a constraint on quality or fairness.",
        f"{_VERSION}: labelled outcomes show a broken constraint ({_MONITOR}).",
    )
    yield Alert(
        "PlumblineDetectorPage",
        "critical",
        "detector",
        f'{LATCHED}{{severity="page",detector!~"{CONSTRAINTS}"}} == 1',
        "",
        "A model fails silently.",
        f"{_VERSION}: {_MONITOR} has raised a page within the false-page budget.",
    )
    yield Alert(
        "PlumblineDetectorTicket",
        "warning",
        "drift",
        f'{LATCHED}{{severity="ticket"}} == 1',
        "",
        "A model's input or output has drifted.",
        f"{_VERSION}: {_MONITOR} has opened a ticket. No harm is proven.",
    )
    yield Alert(
        "PlumblineNoPredictions",
        "critical",
        "volume",
        f"{BY_MODEL} (increase({predictions}[{s.range(s.no_predictions)}])) == 0\n"
        f"and {BY_MODEL} ({predictions}) > 0",
        "10m",
        "A model has stopped predicting.",
        f"{_MODEL} has made no prediction for {s.no_predictions}.",
    )
    yield Alert(
        "PlumblineLabelsMissing",
        "warning",
        "labels",
        f"{BY_MODEL} ({joined}) <= {BY_MODEL} ({joined} offset {s.range(s.no_labels)})\n"
        f"and {BY_MODEL} ({joined}) > 0\n"
        f"and {BY_MODEL} (increase({predictions}[{s.range(s.no_labels)}])) > 0",
        "15m",
        "A model's labels have stopped coming.",
        f"{_MODEL} predicts, but no label has joined a prediction for {s.no_labels}.",
    )
    yield Alert(
        "PlumblineJudgementStalled",
        "warning",
        "labels",
        f"{MAX_BY_MODEL} (changes({families.JOINT_WATERMARK.name}[{s.range('1h')}])) == 0\n"
        f"and {MAX_BY_MODEL} (changes({families.WATERMARK.name}[{s.range('1h')}])) > 0",
        "30m",
        "Judgement by labels stands still.",
        f"{_MODEL}: predictions go on, but the time up to which labels are complete "
        "has not moved for an hour.",
    )
    yield Alert(
        "PlumblineReviewDue",
        "warning",
        "review",
        f"{MAX_BY_MODEL} ({families.REVIEWS_DUE.name}) > 0",
        "1d",
        "Metrics wait for their owners' review.",
        f"{_MODEL}: {{{{ $value }}}} metrics were to be reviewed by now; whether they still stand for what "
        "matters is unchecked.",
    )
    blind = f'{families.MONITORS.name}{{detector=~"{CONSTRAINTS}"'
    yield Alert(
        "PlumblineBlind",
        "warning",
        "blindness",
        f'{BY_MODEL} ({blind},verdict=~"blind|not_enough_evidence"}})\n/ {BY_MODEL} ({blind}}}) > 0.5',
        "1d",
        "A model's harm could not be seen.",
        f"{_MODEL}: {{{{ $value | humanizePercentage }}}} of the monitors of quality and fairness "
        "have had too little evidence for a day.",
    )
    yield Alert(
        "PlumblineFallingBehind",
        "warning",
        "delay",
        f"{MAX_BY_MODEL} (deriv({families.WATERMARK.name}[{s.range('15m')}])) < 0.9\n"
        f"and time() - {MAX_BY_MODEL} ({families.WATERMARK.name}) > {s.seconds('30m')}",
        "15m",
        "The agent falls behind its topics.",
        f"{_MODEL}: the agent's event time is over half an hour old and advances slower than the clock.",
        "agent",
    )
    dead = f'{read}{{outcome="dead_lettered"}}'
    waiting = f"sum by (job, topic, partition) ({families.LAG.name})"
    pace = f"sum by (job, topic, partition) (deriv({families.POSITION.name}[{s.range('15m')}]))"
    yield Alert(
        "PlumblineLagHigh",
        "warning",
        "lag",
        f"{waiting} / {pace} > {s.seconds('30m')}",
        "15m",
        "Records wait long to be read.",
        "Partition {{ $labels.partition }} of {{ $labels.topic }}: at the pace of the last quarter of an "
        "hour what waits there takes {{ $value | humanizeDuration }} to read (+Inf: it stands still).",
        "agent",
    )
    yield Alert(
        "PlumblineDeadLetters",
        "warning",
        "dead_letters",
        f"{BY_TOPIC} (increase({dead}[{s.range('1h')}])) > {s.dead_letters_an_hour}",
        "",
        "Records cannot be read.",
        "{{ $value | humanize }} records of {{ $labels.topic }} went to the dead letters within an hour.",
        "agent",
    )
    yield Alert(
        "PlumblineDeadLetterRatioHigh",
        "critical",
        "dead_letters",
        f"{BY_TOPIC} (rate({dead}[{s.range('10m')}]))\n"
        f"/ {BY_TOPIC} (rate({read}[{s.range('10m')}])) > {s.dead_letter_ratio}",
        "10m",
        "A topic is mostly unreadable to the agent.",
        "{{ $value | humanizePercentage }} of the records of {{ $labels.topic }} go to the dead letters: "
        "what is shown of its models is not to be trusted.",
        "agent",
    )


def agent_alerts(s: Settings) -> Iterator[Alert]:
    """What is wrong with the agent itself."""
    was_agent = f"and on (job, instance) last_over_time({families.BUILD.name}[1d])"
    connected = families.CONNECTED.name
    yield Alert(
        "PlumblineAgentDown",
        "critical",
        "agent",
        f"up == 0\n{was_agent}",
        "5m",
        "An agent does not answer.",
        "{{ $labels.instance }} of {{ $labels.job }} has not answered a scrape for five minutes.",
        "agent",
    )
    yield Alert(
        "PlumblineAgentAbsent",
        "critical",
        "agent",
        f"absent(up {was_agent})",
        "15m",
        "No agent is left.",
        "Prometheus knows no agent any more: no model is monitored.",
        "agent",
    )
    yield Alert(
        "PlumblineAgentStalled",
        "critical",
        "agent",
        f"time() - {families.LAST_COMMIT.name} > {s.seconds('10m')}\n"
        f"and on (job, instance) {connected} == 1\n"
        f"and on (job, instance) {families.PARTITIONS.name} > 0",
        "5m",
        "An agent answers but does not work.",
        "{{ $labels.instance }} is connected and has committed nothing for {{ $value | humanizeDuration }}.",
        "agent",
    )
    yield Alert(
        "PlumblineStateNotWritable",
        "critical",
        "agent",
        f"{families.WRITABLE.name} == 0",
        "2m",
        "An agent cannot write its state.",
        "{{ $labels.instance }} cannot write its state and reads nothing new: its models are not monitored.",
        "agent",
    )
    yield Alert(
        "PlumblineSourceDisconnected",
        "critical",
        "source",
        f"{connected} == 0",
        "10m",
        "An agent cannot reach its broker.",
        "{{ $labels.instance }} has not reached its source for ten minutes: its models are not monitored.",
        "agent",
    )
    yield Alert(
        "PlumblineOutboxStuck",
        "warning",
        "outbox",
        f"min_over_time({families.OUTBOX.name}[{s.range('15m')}]) > 0\n"
        f"and resets({families.OUTBOX.name}[{s.range('15m')}]) == 0",
        "10m",
        "Messages do not leave the agent.",
        "{{ $labels.instance }} keeps {{ $value }} or more messages (dead letters, retraining requests) "
        "that nobody takes.",
        "agent",
    )
    yield Alert(
        "PlumblineOutboxRefused",
        "warning",
        "outbox_refused",
        f"{families.REFUSED.name} > 0",
        "",
        "The broker refuses messages for good.",
        "{{ $labels.instance }} has given up {{ $value }} messages that are too large for their topic.",
        "agent",
    )
    yield Alert(
        "PlumblineReloadFailed",
        "warning",
        "reload",
        f"{families.RELOADED.name} == 0",
        "5m",
        "An agent has refused its new configuration.",
        "{{ $labels.instance }} goes on under the old configuration: its last reload was refused.",
        "agent",
    )
    yield Alert(
        "PlumblineSeriesDropped",
        "info",
        "series",
        f"{MAX_BY_MODEL} ({families.SERIES_DROPPED.name}) > 0",
        "1h",
        "A model has more series than it may have.",
        f"{_MODEL}: {{{{ $value }}}} series are left out of /metrics; they are in /status.",
        "agent",
    )
    yield Alert(
        "PlumblineWatchdog",
        "info",
        "watchdog",
        "vector(1)",
        "",
        "Alerting works.",
        "This alert always fires; whoever misses it must be told by other means.",
        "agent",
    )
