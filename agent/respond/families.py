"""Every metric's name, meaning and labels. Rules, dashboards and the page take them from here."""

from __future__ import annotations

from agent.measure.catalogue import definition
from agent.respond.series import Family

_MODEL = ("model_name",)
_VERSION = ("model_name", "model_version")
_SLICE = (*_VERSION, "window", "segment")
_MONITOR = (*_VERSION, "detector", "feature", "segment")

BUILD = Family("plumbline_build_info", "gauge", "The running agent; always 1.", ("version",))
CONNECTED = Family("plumbline_source_connected", "gauge", "1 if the last poll reached the source.")
LAG = Family(
    "plumbline_consumer_lag_records",
    "gauge",
    "Records between the committed position and the end, where the source tells it.",
    ("topic", "partition"),
)
PARTITIONS = Family("plumbline_assigned_partitions", "gauge", "Partitions that this agent reads.")
OUTBOX = Family("plumbline_outbox_messages", "gauge", "Committed messages that are not acknowledged yet.")
REFUSED = Family(
    "plumbline_outbox_refused_messages", "gauge", "Messages given up since the start: too large."
)
WRITABLE = Family(
    "plumbline_state_writable",
    "gauge",
    "0 while the state cannot be written: nothing new is read, and no offset moves.",
)
RELOADED = Family(
    "plumbline_config_last_reload_successful",
    "gauge",
    "0 if the last reload was refused: the old config stays.",
)
RELOADED_AT = Family(
    "plumbline_config_last_reload_success_timestamp_seconds",
    "gauge",
    "Wall-clock time at which the config in force was read.",
)
COMMITS = Family("plumbline_commits", "counter", "Commits of the state.")
LAST_COMMIT = Family(
    "plumbline_last_commit_timestamp_seconds", "gauge", "Wall-clock time of the last commit of the state."
)
POSITION = Family(
    "plumbline_next_offset", "gauge", "Offset that is read next, as committed.", ("topic", "partition")
)

WATERMARK = Family(
    "plumbline_watermark_timestamp_seconds",
    "gauge",
    "Event time up to which predictions are complete.",
    _MODEL,
)
JOINT_WATERMARK = Family(
    "plumbline_joint_watermark_timestamp_seconds",
    "gauge",
    "Event time up to which predictions and labels are complete.",
    _MODEL,
)
FIRST_SEEN = Family(
    "plumbline_version_first_seen_timestamp_seconds", "gauge", "Event time of the first prediction.", _VERSION
)
LAST_SEEN = Family(
    "plumbline_version_last_seen_timestamp_seconds", "gauge", "Event time of the newest prediction.", _VERSION
)
LEARNING = Family(
    "plumbline_version_learning", "gauge", "1 while the version's own baseline is being learned.", _VERSION
)
JOIN = Family(
    "plumbline_join_events", "gauge", "Predictions and labels by state of the join.", (*_MODEL, "state")
)
LAST_REQUEST = Family(
    "plumbline_retraining_last_request_timestamp_seconds",
    "gauge",
    "Event time of the last retraining request.",
    _MODEL,
)
SUPPRESSED = Family(
    "plumbline_retraining_suppressed",
    "counter",
    "Retraining requests that were not sent.",
    (*_MODEL, "reason"),
)
REVIEWS_DUE = Family(
    "plumbline_metric_reviews_due", "gauge", "Metrics whose owner was to review them by now.", _MODEL
)
SERIES = Family("plumbline_series", "gauge", "Capped series that are exposed.", _MODEL)
SERIES_DROPPED = Family(
    "plumbline_series_dropped", "gauge", "Series left out because of max_series; they are in /status.", _MODEL
)

ALARM = Family(
    "plumbline_alarm_active",
    "gauge",
    "1 while the alarm is latched, 0 while its monitor is well.",
    (*_MONITOR, "metric", "severity"),
)
RATIO = Family(
    "plumbline_detector_threshold_ratio",
    "gauge",
    "Statistic over its threshold; 1 and more alarms.",
    _MONITOR,
)
CONSTRAINT = Family(
    "plumbline_constraint_broken",
    "gauge",
    "1 while the red line is broken, whether it pages or waits behind another; in the order of the config.",
    (*_VERSION, "segment", "metric", "order"),
)
BAR = Family(
    "plumbline_constraint_bar",
    "gauge",
    "The bar in force of a red line.",
    (*_VERSION, "segment", "metric", "bound"),
)
HELD = Family(
    "plumbline_alarms_held",
    "gauge",
    "Alarms that call nobody now, by what holds them back.",
    (*_MODEL, "reason"),
)
MONITORS = Family(
    "plumbline_monitors",
    "gauge",
    "Monitors by what they can say; a blind one may judge, yet would see no change soon.",
    (*_MODEL, "detector", "verdict"),
)
DETECTOR_VALUE = Family(
    "plumbline_detector_value", "gauge", "What the detector watches, estimated.", (*_MONITOR, "metric")
)
DETECTOR_SMALLEST = Family(
    "plumbline_detector_smallest_change",
    "gauge",
    "Change of the value from its reference that would be seen within an hour's steps, nine times in ten.",
    (*_MONITOR, "metric"),
)
DETECTOR_LOW = Family(
    "plumbline_detector_value_low", "gauge", "Lower end of its interval.", (*_MONITOR, "metric")
)
DETECTOR_HIGH = Family(
    "plumbline_detector_value_high", "gauge", "Upper end of its interval.", (*_MONITOR, "metric")
)

AGE = Family(
    "plumbline_model_age_seconds", "gauge", "Event time since the newest version's first prediction.", _MODEL
)
NEW_VERSIONS = Family(
    "plumbline_new_versions_30d", "gauge", "Versions first seen within 30 days of event time.", _MODEL
)
CHANGE = Family(
    "plumbline_version_change",
    "gauge",
    "A metric of the newest version minus that of the version before, over their lifetimes.",
    (*_VERSION, "previous_version", "metric"),
)
GAP = Family(
    "plumbline_offline_online_gap",
    "gauge",
    "A metric over the version's lifetime minus its value at launch (baseline, or first labels).",
    (*_VERSION, "metric"),
)

_LIFT = (*_MODEL, "experiment", "variant", "metric")
LIFT = Family("plumbline_experiment_lift", "gauge", "Variant minus control, over all their events.", _LIFT)
LIFT_LOW = Family(
    "plumbline_experiment_lift_low", "gauge", "Lower end of its interval, valid at all looks at once.", _LIFT
)
LIFT_HIGH = Family(
    "plumbline_experiment_lift_high", "gauge", "Upper end of its interval, valid at all looks at once.", _LIFT
)
LIFT_VERDICT = Family(
    "plumbline_experiment_verdict", "gauge", "1 under the verdict on the variant.", (*_LIFT, "verdict")
)
MISMATCH = Family(
    "plumbline_experiment_sample_ratio_mismatch",
    "gauge",
    "1 if units are surely not shared out as planned: no verdict is to be trusted.",
    (*_MODEL, "experiment"),
)

WINDOW_PREDICTIONS = Family("plumbline_window_predictions", "gauge", "Predictions in the window.", _SLICE)
SAMPLES = Family(
    "plumbline_metric_samples", "gauge", "A metric's own denominator in the window.", (*_SLICE, "metric")
)
LOW = Family("plumbline_metric_low", "gauge", "Lower end of a metric's interval.", (*_SLICE, "metric"))
HIGH = Family("plumbline_metric_high", "gauge", "Upper end of a metric's interval.", (*_SLICE, "metric"))

_FEATURE = (*_VERSION, "window", "feature")
PSI = Family(
    "plumbline_feature_psi",
    "gauge",
    "Population stability index against the baseline, bias-corrected.",
    _FEATURE,
)
KL = Family(
    "plumbline_feature_kl",
    "gauge",
    "Kullback-Leibler divergence from the baseline in nats, bias-corrected.",
    _FEATURE,
)
JS = Family(
    "plumbline_feature_js",
    "gauge",
    "Jensen-Shannon divergence from the baseline in nats, bias-corrected.",
    _FEATURE,
)
KS = Family(
    "plumbline_feature_ks",
    "gauge",
    "Kolmogorov-Smirnov distance from the baseline, bias-corrected.",
    _FEATURE,
)
WASSERSTEIN = Family(
    "plumbline_feature_wasserstein",
    "gauge",
    "Wasserstein distance from the baseline in its quantiles, bias-corrected.",
    _FEATURE,
)
CHI_SQUARE = Family(
    "plumbline_feature_chi_square",
    "gauge",
    "Chi-square distance from the baseline, bias-corrected.",
    _FEATURE,
)
PSI_BEFORE = Family(
    "plumbline_feature_psi_before",
    "gauge",
    "Population stability index against the window before, bias-corrected.",
    _FEATURE,
)
PSI_LAST_WEEK = Family(
    "plumbline_feature_psi_last_week",
    "gauge",
    "Population stability index against the same window a week ago, bias-corrected.",
    _FEATURE,
)
DRIFT_SAMPLES = Family("plumbline_feature_drift_samples", "gauge", "Values behind the divergences.", _FEATURE)

VALUES = Family("plumbline_feature_values", "counter", "Values seen.", (*_VERSION, "feature"))
MISSING = Family("plumbline_feature_missing_values", "counter", "Values missing.", (*_VERSION, "feature"))
INVALID = Family(
    "plumbline_feature_invalid_values", "counter", "Values of the wrong type.", (*_VERSION, "feature")
)
LATENCY = Family("plumbline_latency_seconds", "histogram", "Latency of the model's answers.", _VERSION)

COUNTERS = {
    "records": "Records read, by what became of them.",
    "dead_letters": "Records that could not be used.",
    "predictions": "Predictions merged.",
    "alarm_decisions": "Answers of detectors, by what was decided and why, 'no' included.",
    "prediction_errors": "Predictions that the model answered with an error.",
    "records_read": "Records read, whatever became of them.",
    "unrecoverable_offsets": "Offsets that are not in this state: no longer retained, in a batch that cannot "
    "be read, or counted by a state that was lost.",
}
"""What the counters of the view mean."""

OUTCOMES = ("merged", "late", "duplicate", "ignored", "dead_lettered")
"""What can become of a record: each is a series of its topic from the first record on. A counter that is born
with its first bad record would hide just that one from `rate()`."""


def metric(name: str) -> Family:
    """The series of a metric of the model."""
    return Family(f"plumbline_{name}", "gauge", definition(name), _SLICE)


def class_metric(name: str) -> Family:
    """The series of a metric of one class: `precision:deny` is `plumbline_class_precision{class="deny"}`.

    A name of its own, since its sum with the average would mean nothing.
    """
    return Family(f"plumbline_class_{name}", "gauge", f"{definition(name)} One class.", (*_SLICE, "class"))


def counter(name: str, labels: tuple[str, ...]) -> Family:
    """The series of a counter of the view."""
    meaning = COUNTERS.get(name, f"Total of {name.replace('_', ' ')}.")
    return Family(f"plumbline_{name}", "counter", meaning, labels)
