"""Detectors that never cry wolf: merged counts in, evidence out.

Pure: numbers only, no clock, no file, nothing of the agent. Every detector eats the closed, merged integer
counts of one step (or of one matured cohort of labels), once, and answers with `Evidence`. All of them are
e-detectors, so their false alarms keep to a budget that is split over all monitors.

How to find your way, in reading order:

    base            the vocabulary: Evidence, Verdict, the Detector protocol
    budget          from "at most X false pages per model per period" to each monitor's threshold
    sequential      the mathematics: e-values, Shiryaev-Roberts, confidence sequences
    edetector       the loop all detectors share: bet, accumulate, alarm, restart
    rate            the loop for a share that leaves its band on one side
    drift/          histogram (features, scores, predictions, labels), divergence (PSI, KL, JS, KS,
                    Wasserstein, chi-square for gauges)
    silence/        volume (drop, surge, segment), missing, invalid, unseen, errors, confidence,
                    overconfidence, constant, slow
    fairness/       ratio of two groups' rates
    experiment/     variant against control, sharing of units, synthetic control: functions of sums
    performance/    drop of a labelled rate; estimates without labels (cbpe), their fall, their refuting
    suspects        which of many monitors stand out together

To add a method: copy the file nearest to it, say in its docstring what question it answers, and register it
here; the contract tests pick it up from the registry.
"""

from detectors.base import Detector, Evidence, State, Verdict
from detectors.budget import log_threshold, split
from detectors.drift.divergence import chi_square, js, js_distance, kl, ks, psi, wasserstein
from detectors.drift.histogram import HistogramDrift
from detectors.fairness.ratio import GroupRatio
from detectors.performance.calibration import CalibrationBreak
from detectors.performance.drop import RateDrop
from detectors.performance.estimated import EstimatedDrop
from detectors.performance.version import VersionDrop
from detectors.silence.confidence import ConfidenceCollapse
from detectors.silence.constant import ConstantPredictions
from detectors.silence.drop import VolumeDrop
from detectors.silence.errors import ErrorSurge
from detectors.silence.invalid import InvalidSurge
from detectors.silence.labels import LabelsLate
from detectors.silence.missing import MissingSurge
from detectors.silence.overconfidence import OverconfidentPredictions
from detectors.silence.segment import DeadSegment
from detectors.silence.slow import SlowAnswers
from detectors.silence.surge import VolumeSurge
from detectors.silence.unseen import UnseenSurge
from detectors.suspects import suspects

REGISTRY: dict[str, type] = {
    detector.name: detector
    for detector in (
        HistogramDrift,
        VolumeDrop,
        VolumeSurge,
        DeadSegment,
        ErrorSurge,
        MissingSurge,
        InvalidSurge,
        UnseenSurge,
        ConfidenceCollapse,
        OverconfidentPredictions,
        SlowAnswers,
        LabelsLate,
        ConstantPredictions,
        GroupRatio,
        RateDrop,
        VersionDrop,
        EstimatedDrop,
        CalibrationBreak,
    )
}
"""Every detector by its id."""

__all__ = [
    "REGISTRY",
    "CalibrationBreak",
    "ConfidenceCollapse",
    "ConstantPredictions",
    "DeadSegment",
    "Detector",
    "ErrorSurge",
    "EstimatedDrop",
    "Evidence",
    "GroupRatio",
    "HistogramDrift",
    "InvalidSurge",
    "LabelsLate",
    "MissingSurge",
    "OverconfidentPredictions",
    "RateDrop",
    "SlowAnswers",
    "State",
    "UnseenSurge",
    "Verdict",
    "VersionDrop",
    "VolumeDrop",
    "VolumeSurge",
    "chi_square",
    "js",
    "js_distance",
    "kl",
    "ks",
    "log_threshold",
    "psi",
    "split",
    "suspects",
    "wasserstein",
]
