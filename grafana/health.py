"""Can the agents themselves be believed?"""

from __future__ import annotations

from typing import Any

from grafana.frame import build_dashboard
from grafana.parts import (
    AGENT,
    ALL_OR_RED,
    FEW_ARE_WELL,
    MODEL,
    NONE_IS_WELL,
    Column,
    Panel,
    Query,
    Steps,
    by,
    course,
    number,
    of,
    rate,
    rows,
    total,
    worst,
)

LAST_COMMIT = "plumbline_last_commit_timestamp_seconds"
LAG = "plumbline_consumer_lag_records"
STALE: Steps = ((None, "green"), (60, "orange"), (300, "red"))


def dashboard() -> dict[str, Any]:
    return build_dashboard(
        "plumbline-agent",
        "Whether the agents read, keep up, write their state and deliver: no other number is better than "
        "these.",
        ("model_name",),
        (
            ("Vital numbers", _vital()),
            ("Reading", _reading()),
            ("Labels and clocks", _labels()),
            ("State and delivery", _state()),
            ("Cost of watching", _cost()),
        ),
    )


def _vital() -> list[Panel]:
    return [
        number(
            "Agents that answer",
            "Share of the agents whose last scrape succeeded.",
            f"sum({of('up', AGENT)}) / count({of('up', AGENT)})",
            unit="percentunit",
            steps=ALL_OR_RED,
        ),
        number(
            "Source reached",
            "Whether the last poll of every agent reached its source. An agent without a broker stays alive "
            "and tries again.",
            by("min", "", of("plumbline_source_connected", AGENT)),
            steps=ALL_OR_RED,
            texts={"0": ("no", "red"), "1": ("yes", "green")},
        ),
        number(
            "Oldest last commit",
            "Seconds since the agent that waits longest wrote its state. All that is exposed is as old as "
            "that.",
            f"max(time() - {of(LAST_COMMIT, AGENT)})",
            unit="s",
            steps=STALE,
        ),
        number(
            "Records waiting",
            "Records between the agents' position and the end of their partitions. Known for Kafka only.",
            total("", of(LAG, AGENT)),
            unit="short",
            width=3,
            none="not from Kafka",
        ),
        number(
            "Messages waiting",
            "Retraining requests and dead letters that are committed and not yet acknowledged by their sink.",
            total("", of("plumbline_outbox_messages", AGENT)),
            steps=((None, "green"), (1, "orange"), (100, "red")),
            width=3,
        ),
        number(
            "Configuration in force",
            "Whether every agent took its last reload. One that refused it goes on under the old "
            "configuration; its log says why.",
            by("min", "", of("plumbline_config_last_reload_successful", AGENT)),
            steps=ALL_OR_RED,
            texts={"0": ("old", "red"), "1": ("as in the file", "green")},
            width=3,
            none="cannot be reloaded",
        ),
        number(
            "Messages given up",
            "Messages that no sink will ever take, because they are too large, since the agents started.",
            total("", of("plumbline_outbox_refused_messages", AGENT)),
            steps=NONE_IS_WELL,
            width=3,
        ),
    ]


def _reading() -> list[Panel]:
    return [
        course(
            "Records read per second",
            "Records taken from the source, by topic.",
            Query(total("topic", rate("plumbline_records_read_total", AGENT)), "{{topic}}"),
            unit="ops",
            low=0,
        ),
        course(
            "What became of them",
            "Records per second by outcome. Every record has exactly one: merged is well; late, duplicate, "
            "ignored and dead-lettered are told apart.",
            Query(total("topic, outcome", rate("plumbline_records_total", AGENT)), "{{topic}}: {{outcome}}"),
            unit="ops",
            low=0,
            stacked=True,
        ),
        course(
            "Dead letters",
            "Records per second that could not be used, by reason. They are kept in the dead-letter topic "
            "or file.",
            Query(
                total("topic, reason", rate("plumbline_dead_letters_total", AGENT)), "{{topic}}: {{reason}}"
            ),
            unit="ops",
            low=0,
            none="no dead letters",
        ),
        course(
            "Records waiting, by partition",
            "Records between the position and the end of each partition. A line that only rises is an agent "
            "that does not keep up. Known for Kafka only.",
            Query(total("topic, partition", of(LAG, AGENT)), "{{topic}} {{partition}}"),
            unit="short",
            low=0,
            none="not from Kafka",
        ),
    ]


def _labels() -> list[Panel]:
    return [
        course(
            "Labels per second, by what became of them",
            "Matched labels found their prediction; orphans never did; superseded ones were corrected by a "
            "later revision.",
            Query(total("outcome", rate("plumbline_labels_total", AGENT)), "{{outcome}}"),
            unit="ops",
            width=8,
            low=0,
        ),
        course(
            "Predictions in the join",
            "Predictions since the beginning by state: joined with their label, waiting for it, or expired "
            "without.",
            Query(
                total(
                    "model_name, state", of("plumbline_join_events", MODEL, 'state=~"joined|pending|expired"')
                ),
                "{{model_name}} {{state}}",
            ),
            unit="short",
            width=8,
            low=0,
        ),
        course(
            "How far behind the clocks are",
            "Wall clock less the event time up to which predictions (and labels) are complete. Rising "
            "steadily means that nothing comes, or that it comes late; a replay of old data is far behind "
            "by nature.",
            Query(
                f"time() - {worst('model_name', of('plumbline_watermark_timestamp_seconds', MODEL))}",
                "{{model_name}} predictions",
            ),
            Query(
                f"time() - {worst('model_name', of('plumbline_joint_watermark_timestamp_seconds', MODEL))}",
                "{{model_name}} predictions and labels",
            ),
            unit="s",
            width=8,
        ),
    ]


def _state() -> list[Panel]:
    return [
        course(
            "Commits per second",
            "Transactions that wrote the agent's state. 0 is an agent that hangs.",
            Query(total("instance", rate("plumbline_commits_total", AGENT)), "{{instance}}"),
            unit="ops",
            width=8,
            low=0,
        ),
        course(
            "Age of the last commit",
            "Seconds since each agent wrote its state.",
            Query(f"time() - {worst('instance', of(LAST_COMMIT, AGENT))}", "{{instance}}"),
            unit="s",
            width=8,
            low=0,
        ),
        course(
            "Messages on their way",
            "Committed messages that are not acknowledged yet, and those given up since the start.",
            Query(total("instance", of("plumbline_outbox_messages", AGENT)), "{{instance}} waiting"),
            Query(total("instance", of("plumbline_outbox_refused_messages", AGENT)), "{{instance}} given up"),
            unit="short",
            width=8,
            low=0,
        ),
        rows(
            "Agents",
            "One row per agent: its version, whether it reaches its source, how many partitions it reads, "
            "and how long ago it wrote its state. The longest ago is on top.",
            {
                "A": by("max", "instance, version", of("plumbline_build_info", AGENT)),
                "B": worst("instance", of("plumbline_source_connected", AGENT)),
                "C": worst("instance", of("plumbline_assigned_partitions", AGENT)),
                "D": f"time() - {worst('instance', of(LAST_COMMIT, AGENT))}",
            },
            [
                Column("instance", "Agent"),
                Column("version", "Version"),
                Column("Value #B", "Source", texts={"0": ("unreachable", "red"), "1": ("reached", "green")}),
                Column("Value #C", "Partitions"),
                Column("Value #D", "Last commit", "s", decimals=0, steps=STALE),
            ],
            worst_by=["Last commit"],
            hidden=["Value #A"],
            width=14,
        ),
        course(
            "Webhook attempts, by what came of them",
            "Attempts per second to deliver retraining requests to webhooks, by outcome, and requests that "
            "were given up, by reason. Each request is tried again until it is delivered or given up.",
            Query(
                total("webhook, outcome", rate("plumbline_webhook_attempts_total", AGENT)),
                "{{webhook}}: {{outcome}}",
            ),
            Query(
                total("webhook, reason", rate("plumbline_webhook_given_up_total", AGENT)),
                "{{webhook}}: given up, {{reason}}",
            ),
            unit="ops",
            width=10,
            low=0,
            none="no webhook",
        ),
    ]


def _cost() -> list[Panel]:
    return [
        number(
            "Series left out",
            "Series that were not exposed because a model has more than its max_series; they still stand in "
            "/status.",
            total("", of("plumbline_series_dropped", MODEL)),
            steps=FEW_ARE_WELL,
            height=8,
        ),
        number(
            "Segment values left out",
            "Values of segment attributes that were not given a segment of their own per second, because "
            "there are too many.",
            total("", rate("plumbline_segment_values_dropped_total", MODEL)),
            unit="ops",
            steps=((None, "green"), (1e-9, "orange")),
            height=8,
        ),
        course(
            "Series by model",
            "Capped series that the agents expose, by model: what watching costs in Prometheus.",
            Query(total("model_name", of("plumbline_series", MODEL)), "{{model_name}}"),
            unit="short",
            width=8,
            low=0,
        ),
        course(
            "Decisions about alarms, by reason",
            "Answers of detectors per second, by what the agent made of them, also when it did nothing: "
            "quiet, not enough evidence, already active.",
            Query(total("reason", rate("plumbline_alarm_decisions_total", MODEL)), "{{reason}}"),
            unit="ops",
            width=8,
            low=0,
        ),
    ]
