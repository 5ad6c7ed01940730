"""What is wrong with this model, since when, and is it being mended?"""

from __future__ import annotations

from typing import Any

from grafana.frame import build_dashboard, link
from grafana.parts import (
    FEW_ARE_WELL,
    MODEL,
    NONE_IS_WELL,
    OVERALL,
    RATIO,
    VERSION,
    VERSIONS,
    Column,
    Panel,
    Query,
    by,
    course,
    increase,
    number,
    of,
    rate,
    rows,
    states,
    total,
    worst,
)

WHERE = "model_name, model_version, detector, feature, segment, metric"
ALARM = "plumbline_alarm_active"
RATIOS = "plumbline_detector_threshold_ratio"
PREDICTIONS = "plumbline_predictions_total"
ERRORS = "plumbline_prediction_errors_total"
LATENCY = "plumbline_latency_seconds_bucket"
LEGEND = "{{model_name}} {{model_version}}"
WATCHED = "{{model_version}}: {{detector}} {{feature}} {{segment}} {{metric}}"


def dashboard() -> dict[str, Any]:
    return build_dashboard(
        "plumbline-model",
        "One model: its red lines and alarms, how good its answers are, and who asked for a new version.",
        ("model_name", "model_version", "window"),
        (
            ("Vital numbers", _vital()),
            ("Alarms", _alarms()),
            ("Quality, as far as labels have come", _quality()),
            ("Traffic and answers", _traffic()),
            ("Retraining and versions", _retraining()),
        ),
    )


def _alarm(severity: str) -> str:
    return worst(WHERE, of(ALARM, VERSION, f'severity="{severity}"'))


def _vital() -> list[Panel]:
    return [
        number(
            "Pages active",
            "Alarms of this model that call somebody now.",
            total("", _alarm("page")),
            steps=NONE_IS_WELL,
        ),
        number(
            "Tickets active",
            "Alarms of this model that can wait for working hours.",
            total("", _alarm("ticket")),
            steps=FEW_ARE_WELL,
        ),
        number(
            "Nearest to an alarm",
            "The highest of all detectors' evidence over its threshold; at 1 an alarm is raised.",
            worst("", of(RATIOS, VERSION)),
            steps=RATIO,
            decimals=2,
        ),
        number(
            "Accuracy",
            "Share of right predictions among those in the window whose label has come.",
            by("min", "", of("plumbline_accuracy", OVERALL)),
            unit="percentunit",
            decimals=1,
        ),
        number(
            "Labels that have come",
            "Share of the window's predictions that have their label. All quality below is about these only.",
            by("min", "", of("plumbline_label_coverage", OVERALL)),
            unit="percentunit",
            decimals=1,
        ),
        number(
            "Predictions per second",
            "Predictions merged per second of wall-clock time.",
            total("", rate(PREDICTIONS, VERSION)),
            unit="reqps",
            decimals=1,
        ),
    ]


def _alarms() -> list[Panel]:
    def shown(severity: str) -> str:
        fired = (
            f"max_over_time({of(ALARM, VERSION, f'severity={chr(34)}{severity}{chr(34)}')}[$__range] @ end())"
        )
        return f"{_alarm(severity)} and {worst(WHERE, fired)} > 0"

    return [
        states(
            "Alarms in this time range",
            "One bar for every alarm that was active at some time in the range: red while it pages, orange "
            "while it is a ticket, green while all is well. An alarm stays until its cause has been well "
            "again for a while.",
            Query(f"2 * ({shown('page')})", WATCHED),
            Query(shown("ticket"), f"{WATCHED} (ticket)"),
            texts={"0": ("well", "green"), "1": ("ticket", "orange"), "2": ("page", "red")},
            none="No alarm in this time range",
        ),
        course(
            "How near each detector is to an alarm",
            "The ten highest of evidence over threshold. At 1 the alarm is raised and the detector starts "
            "counting again; a detector that warms up or lacks events is left out.",
            Query(
                f"topk(10, {worst(WHERE, of(RATIOS, VERSION))})",
                "{{model_version}}: {{detector}} {{feature}} {{segment}}",
            ),
            unit="none",
            steps=((None, "green"), (1, "red")),
            low=0,
            high=1.2,
            width=8,
        ),
        course(
            "Detectors that cannot see",
            "Monitors without enough events, labels or group members to see the harm that matters, by "
            "detector. While they are blind, no alarm is no proof.",
            Query(
                worst(
                    "model_name, detector",
                    of("plumbline_monitors", MODEL, 'verdict=~"blind|not_enough_evidence"'),
                ),
                "{{model_name}} {{detector}}",
            ),
            unit="none",
            low=0,
            width=8,
        ),
        course(
            "Alarms raised and resolved",
            "How many alarms changed between two points of the graph.",
            Query(
                total("change, severity", increase("plumbline_alarm_transitions_total", MODEL)),
                "{{severity}} {{change}}",
            ),
            unit="none",
            low=0,
            width=8,
        ),
    ]


def _quality() -> list[Panel]:
    drop = (*VERSION, 'detector="rate_drop"', 'metric="accuracy"')
    return [
        course(
            "Accuracy the detector believes in",
            "Accuracy as the drop detector estimates it from mature labels, with the interval that holds at "
            "every look (dashed). The page comes from the evidence that it fell further than tolerated, "
            "which may be there before the interval shows it.",
            Query(worst(VERSIONS, of("plumbline_detector_value", drop)), f"{LEGEND} estimate"),
            Query(by("min", VERSIONS, of("plumbline_detector_value_low", drop)), f"{LEGEND} at least"),
            Query(worst(VERSIONS, of("plumbline_detector_value_high", drop)), f"{LEGEND} at most"),
            unit="percentunit",
            bounds=("B", "C"),
        ),
        _metrics(
            "Right answers",
            "Of the predictions in the window whose label has come. Accuracy: share that is right. Balanced "
            "accuracy: mean recall of the classes. Always the most frequent class: what guessing would "
            "score.",
            {
                "accuracy": "accuracy",
                "balanced_accuracy": "balanced",
                "majority_class_rate": "always the most frequent",
            },
        ),
        _metrics(
            "Positives",
            "Precision: share of positive predictions that are right. Recall: share of real positives that "
            "are found. F1: their harmonic mean. ROC AUC: how well the score ranks positives above "
            "negatives.",
            {"precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC AUC"},
        ),
        _metrics(
            "Wrong answers",
            "False positive rate: share of negatives predicted positive. False negative rate: share of "
            "positives predicted negative.",
            {"false_positive_rate": "false positives", "false_negative_rate": "false negatives"},
        ),
        _metrics(
            "How far the probabilities are off",
            "Log loss: mean negative log-likelihood of the labels, in nats. Brier: mean squared error of the "
            "probability. Lower is better for both.",
            {"log_loss": "log loss", "brier": "Brier"},
            unit="none",
        ),
        course(
            "Labels behind these numbers",
            "Predictions in the window, and how many of them accuracy is computed from. The gap is labels "
            "that have not come.",
            Query(worst(VERSIONS, of("plumbline_window_predictions", OVERALL)), f"{LEGEND} predictions"),
            Query(
                worst(VERSIONS, of("plumbline_metric_samples", OVERALL, 'metric="accuracy"')),
                f"{LEGEND} with label",
            ),
            unit="short",
            low=0,
        ),
    ]


def _metrics(title: str, says: str, metrics: dict[str, str], unit: str = "percentunit") -> Panel:
    queries = [
        Query(worst(VERSIONS, of(f"plumbline_{metric}", OVERALL)), f"{LEGEND} {name}")
        for metric, name in metrics.items()
    ]
    return course(title, says, *queries, unit=unit)


def _traffic() -> list[Panel]:
    def quantile(q: float) -> str:
        return f"histogram_quantile({q}, {total(f'le, {VERSIONS}', rate(LATENCY, VERSION))})"

    return [
        course(
            "Predictions per second by version",
            "Predictions merged per second of wall-clock time, stacked: shows a roll-out and a model that "
            "fell silent.",
            Query(total(VERSIONS, rate(PREDICTIONS, VERSION)), LEGEND),
            unit="reqps",
            width=8,
            low=0,
            stacked=True,
        ),
        course(
            "Answers that are errors",
            "Share of requests that the model answered with an error.",
            Query(
                f"{total(VERSIONS, rate(ERRORS, VERSION))} / {total(VERSIONS, rate(PREDICTIONS, VERSION))}",
                LEGEND,
            ),
            unit="percentunit",
            width=8,
            low=0,
        ),
        course(
            "Latency of answers",
            "How long the model took, as its events report: half, 95 % and 99 % of the answers were faster.",
            Query(quantile(0.5), f"{LEGEND} half"),
            Query(quantile(0.95), f"{LEGEND} 95 %"),
            Query(quantile(0.99), f"{LEGEND} 99 %"),
            unit="s",
            width=8,
            low=0,
        ),
        course(
            "How often it says yes",
            "Share of the window's predictions that are positive. A shift without a shift of the world is a "
            "broken rule.",
            Query(worst(VERSIONS, of("plumbline_selection_rate", OVERALL)), LEGEND),
            unit="percentunit",
            width=12,
        ),
        course(
            "Worst features",
            "Population stability index of the five features furthest from the reference data, in the "
            "window. Rule of thumb: below 0.1 stable, above 0.25 another population. Click to look closer.",
            Query(
                "topk(5, "
                + worst(f"{VERSIONS}, feature", of("plumbline_feature_psi", (*VERSION, 'window="$window"')))
                + ")",
                "{{model_version}}: {{feature}}",
            ),
            unit="none",
            width=12,
            low=0,
            steps=((None, "green"), (0.25, "red")),
            link=link(
                "plumbline-feature",
                model_name="${__field.labels.model_name}",
                feature="${__field.labels.feature}",
            ),
        ),
    ]


def _retraining() -> list[Panel]:
    seen = "plumbline_version_{}_seen_timestamp_seconds"
    return [
        course(
            "Retraining requests",
            "Requests sent, and requests resolved because their cause went away or a new version came.",
            Query(
                total("model_name, type", increase("plumbline_retraining_events_total", MODEL)),
                "{{model_name}} {{type}}",
            ),
            unit="none",
            width=8,
            low=0,
        ),
        course(
            "Requests held back, by reason",
            "Requests that were not sent, and why: one is out already, the cool-down runs, labels are too "
            "few.",
            Query(
                total("model_name, reason", increase("plumbline_retraining_suppressed_total", MODEL)),
                "{{model_name}} {{reason}}",
            ),
            unit="none",
            width=8,
            low=0,
            none="none held back",
        ),
        rows(
            "Versions",
            "Versions that predict: when the first and the newest prediction happened, by the events' own "
            "clock, and whether the version is still learning what is normal for it. The newest is on top.",
            {
                "A": worst(VERSIONS, of(seen.format("first"), VERSION)) + " * 1000",
                "B": worst(VERSIONS, of(seen.format("last"), VERSION)) + " * 1000",
                "C": worst(VERSIONS, of("plumbline_version_learning", VERSION)),
            },
            [
                Column("model_name", "Model"),
                Column("model_version", "Version"),
                Column("Value #A", "First seen", "dateTimeAsIso"),
                Column("Value #B", "Last seen", "dateTimeAsIso"),
                Column("Value #C", "Baseline", texts={"0": ("known", "green"), "1": ("learning", "orange")}),
            ],
            worst_by=["First seen"],
            width=8,
        ),
    ]
