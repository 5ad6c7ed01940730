"""The rules' tests, for `promtool test rules`: each alert fires, resolves, and does not fire beside that.

A case is a story in series and what fires at which minute of it. Series are promtool's notation: 0x10 is zero
and ten more of it, 0+5x10 goes up by five.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

AGENT = 'job="plumbline",instance="a:9464"'
MODEL = f'{AGENT},model_name="credit"'
ALIVE = f"plumbline_series{{{MODEL}}}"
BUILD = f'plumbline_build_info{{{AGENT},version="1"}}'


@dataclass(frozen=True, slots=True)
class Firing:
    """One alert as its receiver sees it."""

    description: str
    labels: Mapping[str, str]
    severity: str


@dataclass(frozen=True, slots=True)
class Case:
    """Series, and what an alert does at which time."""

    alert: str
    says: str
    series: Mapping[str, str]
    at: Mapping[str, Sequence[Firing]]
    interval: str = "1m"
    """Of scrapes and evaluations: coarse for stories of days."""


def _of(severity: str, description: str, **labels: str) -> list[Firing]:
    return [Firing(description, {"job": "plumbline"} | labels, severity)]


def _alarm(detector: str, severity: str, feature: str = "", segment: str = "", metric: str = "") -> str:
    where = f'detector="{detector}",feature="{feature}",segment="{segment}",metric="{metric}"'
    return f'plumbline_alarm_active{{{MODEL},model_version="1",{where},severity="{severity}"}}'


def _monitor(detector: str, feature: str = "", segment: str = "", metric: str = "") -> dict[str, str]:
    named = {"detector": detector, "feature": feature, "segment": segment, "metric": metric}
    return {"model_name": "credit", "model_version": "1"} | {k: v for k, v in named.items() if v}


def _lag(partition: str) -> str:
    return f'plumbline_consumer_lag_records{{{AGENT},topic="feedback",partition="{partition}"}}'


def _offset(partition: str) -> str:
    return f'plumbline_next_offset{{{AGENT},topic="feedback",partition="{partition}"}}'


def _waiting(partition: str, time: str) -> list[Firing]:
    return _of(
        "warning",
        f"Partition {partition} of feedback: at the pace of the last quarter of an hour what waits there "
        f"takes {time} to read (+Inf: it stands still).",
        topic="feedback",
        partition=partition,
    )


def _records(outcome: str) -> str:
    return f'plumbline_records_total{{{AGENT},topic="predictions",outcome="{outcome}"}}'


_PREDICTIONS = f'plumbline_predictions_total{{{MODEL},model_version="1"}}'
_ERRORS = f'plumbline_prediction_errors_total{{{MODEL},model_version="1"}}'
_FAST = f'plumbline_latency_seconds_bucket{{{MODEL},model_version="1",le="0.25"}}'
_ANSWERED = f'plumbline_latency_seconds_count{{{MODEL},model_version="1"}}'
_JOINED = f'plumbline_join_events{{{MODEL},state="joined"}}'
_WATERMARK = f"plumbline_watermark_timestamp_seconds{{{MODEL}}}"
_JOINT = f"plumbline_joint_watermark_timestamp_seconds{{{MODEL}}}"
_UP = f"up{{{AGENT}}}"
_CREDIT = {"model_name": "credit"}
_INSTANCE = {"instance": "a:9464"}

_UNFAIR = _of(
    "critical",
    "credit version 1: labelled outcomes show a broken constraint (group_ratio for sex=f).",
    **_monitor("group_ratio", segment="sex=f"),
)
_SURGE = _of(
    "critical",
    "credit version 1: missing_surge of age has raised a page within the false-page budget.",
    **_monitor("missing_surge", feature="age"),
)
_DRIFT = _of(
    "warning",
    "credit version 1: histogram_drift of age has opened a ticket. No harm is proven.",
    **_monitor("histogram_drift", feature="age"),
)


def _unfair(metric: str) -> list[Firing]:
    return _of(
        "critical",
        f"credit version 1: labelled outcomes show a broken constraint (group_ratio ({metric}) for sex=f).",
        **_monitor("group_ratio", segment="sex=f", metric=metric),
    )


def _blind(blind: str, seeing: str) -> dict[str, str]:
    monitors = f'plumbline_monitors{{{MODEL},detector="group_ratio"'
    return {
        f'{monitors},verdict="not_enough_evidence"}}': blind,
        f'{monitors},verdict="ok"}}': seeing,
        f'plumbline_monitors{{{MODEL},detector="histogram_drift",verdict="ok"}}': "9x4000",
    }


def _burn(what: str, over: str, ratio: str, factor: str, severity: str) -> list[Firing]:
    text = f"credit: {ratio} of its predictions {what} (over {over}), {factor} times what the budget allows."
    return _of(severity, text, model_name="credit", window=over)


_END, _SLOW = "end in an error", "take over 0.25 s"

CASES: tuple[Case, ...] = (
    Case(
        "PlumblineConstraintBroken",
        "A fairness page pages from raised to resolved; a ticket and another family's page do not.",
        {
            ALIVE: "9x30",
            _alarm("group_ratio", "page", segment="sex=f"): "0x4 1x9 0x9",
            _alarm("missing_surge", "page", feature="age"): "1x30",
            _alarm("histogram_drift", "ticket", feature="age"): "1x30",
        },
        {"4m": [], "5m": _UNFAIR, "14m": _UNFAIR, "15m": []},
    ),
    Case(
        "PlumblineConstraintBroken",
        "The agent's crash and return leave the page as it was, to resolve in its own time.",
        {
            ALIVE: "9x4 stale _x4 9x20",
            _alarm("group_ratio", "page", segment="sex=f"): "1x4 stale _x4 1x4 0x9",
        },
        {"4m": _UNFAIR, "6m": _UNFAIR, "9m": _UNFAIR, "12m": _UNFAIR, "16m": []},
    ),
    Case(
        "PlumblineConstraintBroken",
        "A version that is replaced leaves the exposition, and its alarm ends with it, for the agent lives.",
        {ALIVE: "9x30", _alarm("group_ratio", "page", segment="sex=f"): "1x4 stale"},
        {"4m": _UNFAIR, "5m": []},
    ),
    Case(
        "PlumblineConstraintBroken",
        "Another replica speaks for the model: what the dead one said last no longer counts.",
        {
            ALIVE: "9x4 stale",
            _alarm("group_ratio", "page", segment="sex=f"): "1x4 stale",
            ALIVE.replace("a:9464", "b:9464"): "_x9 9x20",
        },
        {"4m": _UNFAIR, "8m": _UNFAIR, "11m": []},
    ),
    Case(
        "PlumblineConstraintBroken",
        "Of two metrics of one group each is named, and each ends by itself.",
        {
            ALIVE: "9x30",
            _alarm("group_ratio", "page", segment="sex=f", metric="selection_rate"): "0x4 1x9 0x9",
            _alarm("group_ratio", "page", segment="sex=f", metric="false_positive_rate"): "0x9 1x9 0x9",
        },
        {
            "5m": _unfair("selection_rate"),
            "12m": _unfair("false_positive_rate") + _unfair("selection_rate"),
            "16m": _unfair("false_positive_rate"),
            "25m": [],
        },
    ),
    Case(
        "PlumblineDetectorPage",
        "A silent failure pages from raised to resolved; a constraint's page and a ticket do not.",
        {
            ALIVE: "9x30",
            _alarm("missing_surge", "page", feature="age"): "0x4 1x9 0x9",
            _alarm("rate_drop", "page"): "1x30",
            _alarm("histogram_drift", "ticket", feature="age"): "1x30",
        },
        {"4m": [], "5m": _SURGE, "15m": []},
    ),
    Case(
        "PlumblineDetectorTicket",
        "A drift opens a ticket and closes it; pages open none.",
        {
            ALIVE: "9x30",
            _alarm("histogram_drift", "ticket", feature="age"): "0x4 1x9 0x9",
            _alarm("missing_surge", "page", feature="age"): "1x30",
        },
        {"4m": [], "5m": _DRIFT, "15m": []},
    ),
    Case(
        "PlumblineNoPredictions",
        "Predictions stop at 60 m: the page comes after 70 minutes, and ends with the next prediction.",
        {_PREDICTIONS: "0+5x60 300x100 301x20"},
        {
            "60m": [],
            "2h5m": [],
            "2h15m": _of("critical", "credit has made no prediction for 1h.", **_CREDIT),
            "2h45m": [],
        },
    ),
    Case(
        "PlumblineNoPredictions",
        "A model that never predicted, and one whose second version took over, are no outage.",
        {
            _PREDICTIONS: "300x300",
            f'plumbline_predictions_total{{{MODEL},model_version="2"}}': "0+5x300",
            f'plumbline_predictions_total{{{AGENT},model_name="new",model_version="1"}}': "0x300",
        },
        {"4h": []},
    ),
    Case(
        "PlumblineLabelsMissing",
        "No label from 10 h on: the ticket comes 26 h later, and ends with the next label.",
        {_JOINED: "1+10x120 1201x480 1202x240", _PREDICTIONS: "0+50x900"},
        {
            "20h": [],
            "35h": [],
            "38h": _of(
                "warning", "credit predicts, but no label has joined a prediction for 26h.", **_CREDIT
            ),
            "51h": [],
        },
        interval="5m",
    ),
    Case(
        "PlumblineLabelsMissing",
        "A model that rests needs no labels; nor does one that never had any.",
        {
            _JOINED: "100x600",
            _PREDICTIONS: "500x600",
            _JOINED.replace("credit", "unlabelled"): "0x600",
            _PREDICTIONS.replace("credit", "unlabelled"): "0+50x600",
        },
        {"40h": [], "49h": []},
        interval="5m",
    ),
    Case(
        "PlumblineJudgementStalled",
        "The joint watermark stands from 30 m on while predictions go on, until it moves again.",
        {_WATERMARK: "0+60x300", _JOINT: "0+60x30 1800x180 12000+60x60"},
        {
            "1h": [],
            "1h55m": [],
            "2h5m": _of(
                "warning",
                "credit: predictions go on, but the time up to which labels are complete "
                "has not moved for an hour.",
                **_CREDIT,
            ),
            "3h35m": [],
        },
    ),
    Case(
        "PlumblineJudgementStalled",
        "Where predictions stand still too, judgement waits for nothing.",
        {_WATERMARK: "9000x300", _JOINT: "1800x300"},
        {"4h": []},
    ),
    Case(
        "PlumblineBlind",
        "Two of three monitors of harm blind for a day is a ticket, until they see; drift does not count.",
        _blind("2x400 1x40", "1x400 2x40"),
        {
            "23h": [],
            "25h": _of(
                "warning",
                "credit: 66.67% of the monitors of quality and fairness "
                "have had too little evidence for a day.",
                **_CREDIT,
            ),
            "33h30m": [],
        },
        interval="5m",
    ),
    Case(
        "PlumblineReviewDue",
        "Two metrics past their review for a day are a ticket until they are reviewed.",
        {f"plumbline_metric_reviews_due{{{MODEL}}}": "0x11 2x400 0x60"},
        {
            "24h": [],
            "26h": _of(
                "warning",
                "credit: 2 metrics were to be reviewed by now; whether they still stand for what matters "
                "is unchecked.",
                **_CREDIT,
            ),
            "35h": [],
        },
        interval="5m",
    ),
    Case("PlumblineBlind", "One of three blind is none.", _blind("1x600", "2x600"), {"2d": []}, "5m"),
    Case(
        "PlumblineFallingBehind",
        "Event time at half the clock's pace, half an hour old: a ticket until it is caught up with.",
        {_WATERMARK: "0+30x120 7200+120x60"},
        {
            "50m": [],
            "1h20m": _of(
                "warning",
                "credit: the agent's event time is over half an hour old and advances slower than the clock.",
                **_CREDIT,
            ),
            "2h20m": [],
        },
    ),
    Case(
        "PlumblineFallingBehind",
        "Old data read faster than life (a replay), and steady lateness of a few minutes, are no delay.",
        {_WATERMARK: "-900000+600x200", _WATERMARK.replace("credit", "steady"): "-600+60x200"},
        {"1h": [], "3h": []},
    ),
    Case(
        "PlumblineLagHigh",
        "One partition stands still with records waiting while the other is read: a ticket until it is read.",
        {
            _lag("0"): "0x20 0+60x60 0x60",
            _offset("0"): "0+60x20 1200x60 4800+60x60",
            _lag("1"): "60x140",
            _offset("1"): "0+60x140",
        },
        {"35m": [], "58m": _waiting("0", "+Inf"), "1h40m": []},
    ),
    Case(
        "PlumblineLagHigh",
        "What waits takes an hour at the present pace: a ticket, with the pace and not the backlog deciding.",
        {
            _lag("0"): "0x20 3600x60 0x30",
            _offset("0"): "0+60x200",
            _lag("1"): "0x20 3600x60 0x30",
            _offset("1"): "0+600x200",
        },
        {"30m": [], "40m": _waiting("0", "1h 0m 0s"), "1h25m": []},
    ),
    Case(
        "PlumblineLagHigh",
        "A quiet partition whose one new record waits for the next poll is none; nor is one that is empty.",
        {_lag("0"): "0x30 1 0x30", _offset("0"): "7x31 8x30", _lag("1"): "0x60", _offset("1"): "7x60"},
        {"30m": [], "45m": [], "1h": []},
    ),
    Case(
        "PlumblineReloadFailed",
        "A refused configuration is a ticket until one is taken; a slip that is mended at once is none.",
        {f"plumbline_config_last_reload_successful{{{AGENT}}}": "1x9 0 1x9 0x19 1x9"},
        {
            "12m": [],
            "23m": [],
            "27m": _of(
                "warning",
                "a:9464 goes on under the old configuration: its last reload was refused.",
                **_INSTANCE,
            ),
            "41m": [],
        },
    ),
    Case(
        "PlumblineDeadLetters",
        "Two unreadable records a minute are 120 an hour: a ticket, until they have stopped for an hour.",
        {_records("dead_lettered"): "0+2x120 240x120", _records("merged"): "0+1000x300"},
        {
            "30m": [],
            "1h30m": _of(
                "warning",
                "120 records of predictions went to the dead letters within an hour.",
                topic="predictions",
            ),
            "3h5m": [],
        },
    ),
    Case(
        "PlumblineDeadLetters",
        "One a minute is below the limit.",
        {_records("dead_lettered"): "0+1x300"},
        {"2h": [], "4h": []},
    ),
    Case(
        "PlumblineDeadLetterRatioHigh",
        "Every fifth record unreadable is a page within twenty minutes, until records are read again.",
        {_records("dead_lettered"): "0x10 0+20x40 800x60", _records("merged"): "0+80x120"},
        {
            "12m": [],
            "40m": _of(
                "critical",
                "20% of the records of predictions go to the dead letters: "
                "what is shown of its models is not to be trusted.",
                topic="predictions",
            ),
            "1h5m": [],
        },
    ),
    Case(
        "PlumblineDeadLetterRatioHigh",
        "One in twenty is a ticket at most; a silent topic divides by nothing.",
        {
            _records("dead_lettered"): "0+5x120",
            _records("merged"): "0+95x120",
            _records("dead_lettered").replace("predictions", "silent"): "7x120",
        },
        {"1h": [], "2h": []},
    ),
    Case(
        "PlumblineAgentDown",
        "An agent that answers no scrape for five minutes pages until it does.",
        {BUILD: "1x9 stale _x9 1x9", _UP: "1x9 0x9 1x9"},
        {
            "14m": [],
            "16m": _of(
                "critical", "a:9464 of plumbline has not answered a scrape for five minutes.", **_INSTANCE
            ),
            "21m": [],
        },
    ),
    Case(
        "PlumblineAgentDown",
        "What never was an agent may be down; a restart of three minutes is no page.",
        {'up{job="node",instance="n:9100"}': "0x60", BUILD: "1x9 stale _x2 1x60", _UP: "1x9 0x2 1x60"},
        {"13m": [], "1h": []},
    ),
    Case(
        "PlumblineAgentAbsent",
        "The last target that was an agent is gone: a page until one is back.",
        {BUILD: "1x9 stale _x20 1x9", _UP: "1x9 stale _x20 1x9"},
        {
            "20m": [],
            "27m": [Firing("Prometheus knows no agent any more: no model is monitored.", {}, "critical")],
            "33m": [],
        },
    ),
    Case(
        "PlumblineAgentAbsent",
        "An agent that is known but down is not absent, and one of two is enough.",
        {
            BUILD: "1x9 stale",
            _UP: "1x9 0x60",
            BUILD.replace("a:9464", "b:9464"): "1x9 stale",
            _UP.replace("a:9464", "b:9464"): "1x9 stale",
        },
        {"50m": []},
    ),
    Case(
        "PlumblineAgentStalled",
        "Connected, partitions in hand and no commit for 15 minutes: a page until the next commit.",
        {
            f"plumbline_last_commit_timestamp_seconds{{{AGENT}}}": "0+60x10 600x20 1860+60x20",
            f"plumbline_source_connected{{{AGENT}}}": "1x60",
            f"plumbline_assigned_partitions{{{AGENT}}}": "2x60",
        },
        {
            "24m": [],
            "28m": _of("critical", "a:9464 is connected and has committed nothing for 18m 0s.", **_INSTANCE),
            "32m": [],
        },
    ),
    Case(
        "PlumblineAgentStalled",
        "A replica without partitions, or without its broker, has nothing to commit.",
        {
            f"plumbline_last_commit_timestamp_seconds{{{AGENT}}}": "0x60",
            f"plumbline_source_connected{{{AGENT}}}": "1x60",
            f"plumbline_assigned_partitions{{{AGENT}}}": "0x60",
            f"plumbline_last_commit_timestamp_seconds{{{AGENT}}}".replace("a:", "b:"): "0x60",
            f"plumbline_source_connected{{{AGENT}}}".replace("a:", "b:"): "0x60",
            f"plumbline_assigned_partitions{{{AGENT}}}".replace("a:", "b:"): "2x60",
        },
        {"50m": []},
    ),
    Case(
        "PlumblineStateNotWritable",
        "Two minutes without room on the disk are a page until there is some.",
        {f"plumbline_state_writable{{{AGENT}}}": "1x9 0x14 1x9"},
        {
            "11m": [],
            "13m": _of(
                "critical",
                "a:9464 cannot write its state and reads nothing new: its models are not monitored.",
                **_INSTANCE,
            ),
            "26m": [],
        },
    ),
    Case(
        "PlumblineSourceDisconnected",
        "No broker for ten minutes is a page until it answers.",
        {f"plumbline_source_connected{{{AGENT}}}": "1x9 0x14 1x9"},
        {
            "19m": [],
            "21m": _of(
                "critical",
                "a:9464 has not reached its source for ten minutes: its models are not monitored.",
                **_INSTANCE,
            ),
            "25m": [],
        },
    ),
    Case(
        "PlumblineSourceDisconnected",
        "A broker's restart of five minutes is no page.",
        {f"plumbline_source_connected{{{AGENT}}}": "1x9 0x4 1x9"},
        {"14m": [], "20m": []},
    ),
    Case(
        "PlumblineOutboxStuck",
        "An outbox that only grows is stuck, until it empties.",
        {f"plumbline_outbox_messages{{{AGENT}}}": "0x9 1+1x39 0x9"},
        {
            "30m": [],
            "40m": _of(
                "warning",
                "a:9464 keeps 16 or more messages (dead letters, retraining requests) that nobody takes.",
                **_INSTANCE,
            ),
            "51m": [],
        },
    ),
    Case(
        "PlumblineOutboxStuck",
        "An outbox that is never empty but is emptied again and again is not.",
        {f"plumbline_outbox_messages{{{AGENT}}}": "3 1 4 1 5 9 2 6 5 3 5 8 9 7 9 3 2 3 8 4 6 2 6 4 3 3"},
        {"20m": [], "25m": []},
    ),
    Case(
        "PlumblineOutboxRefused",
        "A message given up is a ticket until the agent is started anew.",
        {f"plumbline_outbox_refused_messages{{{AGENT}}}": "0x4 2x9 0x9"},
        {
            "4m": [],
            "6m": _of(
                "warning", "a:9464 has given up 2 messages that are too large for their topic.", **_INSTANCE
            ),
            "15m": [],
        },
    ),
    Case(
        "PlumblineSeriesDropped",
        "Series left out for an hour are told, until there is room.",
        {f"plumbline_series_dropped{{{MODEL}}}": "0x9 7x90 0x9"},
        {
            "1h": [],
            "1h15m": _of(
                "info", "credit: 7 series are left out of /metrics; they are in /status.", **_CREDIT
            ),
            "1h42m": [],
        },
    ),
    Case(
        "PlumblineAvailabilityBudgetBurn",
        "1 % errors instead of 0.05 %: pages within minutes, until soon after the errors; tickets linger.",
        {_PREDICTIONS: "0+5000x400", _ERRORS: "0x72 50+50x120 6050x240"},
        {
            "6h": [],
            "10h": [
                *_burn(_END, "1h", "1%", "14.4", "critical"),
                *_burn(_END, "6h", "0.6667%", "6", "critical"),
                *_burn(_END, "1d", "0.4%", "3", "warning"),
                *_burn(_END, "3d", "0.4%", "1", "warning"),
            ],
            "16h45m": _burn(_END, "1d", "0.602%", "3", "warning")
            + _burn(_END, "3d", "0.602%", "1", "warning"),
            "30h": [],
        },
        interval="5m",
    ),
    Case(
        "PlumblineAvailabilityBudgetBurn",
        "Errors within the budget burn none.",
        {_PREDICTIONS: "0+10000x360", _ERRORS: "0+4x360"},
        {"12h": [], "30h": []},
        interval="5m",
    ),
    Case(
        "PlumblineLatencyBudgetBurn",
        "Every second answer is slow: pages within the hour, and they end with the slowness.",
        {_ANSWERED: "0+5000x400", _FAST: "0+5000x72 362500+2500x24 427500+5000x300"},
        {
            "6h": [],
            "7h30m": [
                *_burn(_SLOW, "1h", "50%", "14.4", "critical"),
                *_burn(_SLOW, "6h", "12.5%", "6", "critical"),
                *_burn(_SLOW, "1d", "10%", "3", "warning"),
            ],
            "20h": [],
        },
        interval="5m",
    ),
    Case(
        "PlumblineLatencyBudgetBurn",
        "Half a percent of slow answers is within the budget.",
        {_ANSWERED: "0+1000x360", _FAST: "0+995x360"},
        {"12h": [], "30h": []},
        interval="5m",
    ),
    Case(
        "PlumblineWatchdog",
        "It always fires, also where there is nothing to see.",
        {},
        {
            "0m": [
                Firing("This alert always fires; whoever misses it must be told by other means.", {}, "info")
            ]
        },
    ),
)


def tests(interval: str) -> dict[str, Any]:
    """The test file of the cases of one interval, as a document."""
    return {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": interval,
        "tests": [_test(case) for case in CASES if case.interval == interval],
    }


def _test(case: Case) -> dict[str, Any]:
    return {
        "name": f"{case.alert}: {case.says}",
        "interval": case.interval,
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {
                "eval_time": at,
                "alertname": case.alert,
                "exp_alerts": [_expected(case.alert, one) for one in firing],
            }
            for at, firing in case.at.items()
        ],
    }


def _expected(alert: str, firing: Firing) -> dict[str, Any]:
    rule = _rules()[alert, firing.severity, firing.labels.get("window", "")]
    url = str(rule["annotations"]["dashboard_url"])
    for name in ("job", "model_name"):
        url = url.replace(f"{{{{ $labels.{name} }}}}", firing.labels.get(name, ""))
    return {
        "exp_labels": dict(firing.labels) | rule["labels"],
        "exp_annotations": rule["annotations"] | {"description": firing.description, "dashboard_url": url},
    }


@cache
def _rules() -> dict[tuple[str, str, str], dict[str, Any]]:
    from deploy.prometheus.generate import rules

    every = [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]
    return {(r["alert"], r["labels"]["severity"], r["labels"].get("window", "")): r for r in every}
