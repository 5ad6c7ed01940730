"""What all dashboards share: variables, links that keep time and filters, annotations, and the writing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from grafana.parts import AGENT, MODEL, SOURCE, VERSION, Panel, of, worst

SCHEMA_VERSION = 39
"""Of Grafana 10.2: older ones do not exist any more, and newer ones migrate what they load."""

TITLES = {
    "plumbline-fleet": "Fleet",
    "plumbline-model": "Model",
    "plumbline-feature": "Feature and segment",
    "plumbline-fairness": "Fairness",
    "plumbline-business": "Business and cost",
    "plumbline-agent": "Agent health",
}
"""uid → name, in the order in which one reads them. A uid never changes: alerts and bookmarks name it."""

KEPT = "${__url_time_range}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"

Section = tuple[str, Sequence[Panel]]


def link(uid: str, **variables: str) -> str:
    """Another dashboard with the same time and agents, and with these variables set."""
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{uid}?{KEPT}{chosen}"


def build_dashboard(
    uid: str, description: str, variables: Iterable[str], sections: Iterable[Section]
) -> dict[str, Any]:
    """The dashboard as the JSON that Grafana loads."""
    frame = (
        build.Dashboard(f"Plumbline / {TITLES[uid]}")
        .uid(uid)
        .description(description)
        .tags(["plumbline"])
        .time("now-6h", "now")
        .timezone("browser")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .readonly()
    )
    for name in ("datasource", "job", "instance", *variables):
        frame = frame.with_variable(VARIABLES[name])
    for other, title in TITLES.items():
        if other != uid:
            frame = frame.link(
                build.DashboardLink(title).url(f"/d/{other}").keep_time(True).include_vars(True)
            )
    for annotation in ANNOTATIONS if "model_name" in variables else ():
        frame = frame.annotation(annotation)
    for title, panels in sections:
        frame = frame.with_row(build.Row(title))
        for panel in panels:
            frame = frame.with_panel(panel)
    return _finished(frame.build())


def _finished(model: dashboard.Dashboard) -> dict[str, Any]:
    """What the library writes, less what only the newest Grafana would read otherwise than it is meant."""
    model.schema_version = SCHEMA_VERSION
    found: dict[str, Any] = json.loads(json.dumps(model, cls=JSONEncoder, sort_keys=True))
    for number, panel in enumerate(found["panels"], 1):
        panel["id"] = number
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        defaults["links"] = [
            {name: one[name] for name in ("title", "url", "targetBlank")} for one in defaults.get("links", ())
        ]
    for shown in (*found["links"], *found["annotations"]["list"]):
        shown.pop("placement", None)  # the library hides links and switches in a menu
    return found


def _chosen(text: str, value: str) -> dashboard.VariableOption:
    return dashboard.VariableOption(selected=True, text=text, value=value)


def _labels(name: str, label: str, metric: str, matchers: Iterable[str], says: str) -> build.QueryVariable:
    return (
        build.QueryVariable(name)
        .label(label)
        .description(says)
        .datasource(SOURCE)
        .query({"query": f"label_values({of(metric, matchers)}, {_source_label(name)})", "refId": name})
        .definition(f"label_values({of(metric, matchers)}, {_source_label(name)})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )


def _source_label(variable: str) -> str:
    return {"group_window": "window"}.get(variable, variable)


def _many(name: str, label: str, metric: str, matchers: Iterable[str], says: str) -> build.QueryVariable:
    """Any number of values; at first all."""
    variable = _labels(name, label, metric, matchers, says)
    return variable.multi(True).include_all(True).all_value(".+").current(_chosen("All", "$__all"))


def _one(
    name: str, label: str, metric: str, matchers: Iterable[str], says: str, first: str
) -> build.QueryVariable:
    variable = _labels(name, label, metric, matchers, says)
    return variable.multi(False).include_all(False).current(_chosen(first, first))


VARIABLES: dict[str, build.QueryVariable | build.DatasourceVariable] = {
    "datasource": build.DatasourceVariable("datasource")
    .label("Data source")
    .description("The Prometheus that scrapes the agents.")
    .type("prometheus")
    .current(_chosen("default", "default")),
    "job": _many("job", "Job", "plumbline_build_info", (), "Scrape job of the agents."),
    "instance": _many("instance", "Instance", "plumbline_build_info", AGENT[:1], "One agent's address."),
    "model_name": _many(
        "model_name", "Model", "plumbline_predictions_total", AGENT, "Models that are watched."
    ),
    "model_version": _many(
        "model_version", "Version", "plumbline_predictions_total", MODEL, "Versions that have predicted."
    ),
    "window": _one(
        "window",
        "Window",
        "plumbline_window_predictions",
        (*MODEL, 'segment=""'),
        "How much of the past a metric of the whole model is taken over.",
        "1h",
    ),
    "group_window": _one(
        "group_window",
        "Window of groups",
        "plumbline_window_predictions",
        (*VERSION, 'segment!=""'),
        "How much of the past a metric of one group is taken over; groups are small, so only the long "
        "windows are kept.",
        "24h",
    ),
    "segment": _many(
        "segment",
        "Segment",
        "plumbline_window_predictions",
        (*VERSION, 'segment!=""'),
        "Groups, as attribute=value.",
    ),
    "feature": _many(
        "feature", "Feature", "plumbline_feature_psi", VERSION, "Inputs of the model, and its score."
    ),
}


def _appeared(metric: str, labels: str) -> str:
    """The series that were not there in the day that ended a moment ago: no restart makes one."""
    before = f"last_over_time({of(metric, MODEL)}[1d] offset $__rate_interval)"
    return f"{worst(labels, of(metric, MODEL))} unless {worst(labels, before)}"


def _requested() -> str:
    """The time of the last request, where it is not what it was a moment ago."""
    metric = "plumbline_retraining_last_request_timestamp_seconds"
    now = worst("model_name", of(metric, MODEL))
    before = worst("model_name", f"last_over_time({of(metric, MODEL)}[1d] offset $__rate_interval)")
    return f"{now} unless ({now} == {before})"


def _active(severity: str) -> str:
    alarm = of("plumbline_alarm_active", MODEL, f'severity="{severity}"')
    return f"{worst('model_name, model_version, detector, feature, segment, metric', alarm)} == 1"


def _annotation(name: str, color: str, expr: str, title: str, text: str, tags: str) -> build.AnnotationQuery:
    note = build.AnnotationQuery().name(name).datasource(SOURCE).enable(True).hide(False).icon_color(color)
    return note.expr(expr).title_format(title).text_format(text).tag_keys(tags)


_WHERE = "{{model_name}} {{model_version}}: {{detector}} {{feature}} {{segment}} {{metric}}"

ANNOTATIONS = (
    _annotation(
        "New versions",
        "blue",
        _appeared("plumbline_version_first_seen_timestamp_seconds", "model_name, model_version"),
        "New version",
        "{{model_name}}: version {{model_version}} predicts for the first time",
        "model_name,model_version",
    ),
    _annotation("Pages", "red", _active("page"), "Page", _WHERE, "model_name,detector"),
    _annotation("Tickets", "orange", _active("ticket"), "Ticket", _WHERE, "model_name,detector"),
    _annotation(
        "Retraining requests",
        "purple",
        _requested(),
        "Retraining requested",
        "{{model_name}}: a new version is asked for",
        "model_name",
    ),
)
