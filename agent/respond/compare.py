"""Experiments as they are shown: each variant against its control, and whether the answer can be trusted.

not to be trusted    units were not shared out as planned
guardrail broken     a guardrail got worse by more than is tolerated, so nothing of the variant is better
better, worse, equivalent, not enough evidence
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.config import ExperimentConfig
from agent.measure.arms import arm
from agent.measure.catalogue import LOWER_IS_BETTER
from agent.measure.model import Model
from agent.measure.pane import LIFETIME
from agent.measure.window import Sums, stretch
from agent.respond.view import ExperimentView, LiftView
from detectors.experiment.lift import Arm, Said, rate_lift
from detectors.experiment.mismatch import mismatched

GUARDRAIL_BROKEN = "guardrail broken"
UNTRUSTED = "not to be trusted"


def experiments(model: Model) -> list[ExperimentView]:
    """Every experiment of the config, from all events of all versions."""
    if not model.config.experiments:
        return []
    sums = stretch(model, None, LIFETIME, [0], 0, 0)
    return [_experiment(model, sums, experiment) for experiment in model.config.experiments]


def _experiment(model: Model, sums: Sums, experiment: ExperimentConfig) -> ExperimentView:
    where = f"{experiment.attribute}="
    counts = {
        segment.removeprefix(where): int(vector[0])
        for segment, vector in sorted(sums.predictions.items())
        if segment.startswith(where) and "," not in segment
    }
    arms = experiment.variants or [name for name in counts if name != experiment.control]
    shared = None
    if experiment.shares:
        held = [counts.get(name, 0) / experiment.predictions_per_unit for name in experiment.shares]
        shared = mismatched(held, list(experiment.shares.values()))
    lifts = [lift for name in arms for lift in _variant(model, sums, experiment, name, shared is True)]
    return ExperimentView(
        experiment.name, experiment.attribute, experiment.control, counts, experiment.shares, shared, lifts
    )


def _variant(
    model: Model, sums: Sums, experiment: ExperimentConfig, name: str, untrusted: bool
) -> Iterator[LiftView]:
    """The lift in each guardrail and metric; a guardrail that broke takes "better" from the metrics."""
    where, units = f"{experiment.attribute}=", experiment.predictions_per_unit
    harmed = False
    for metric in [*experiment.guardrails, *experiment.metrics]:
        arms = [arm(model.layout, sums, where + one, metric) for one in (experiment.control, name)]
        lift = rate_lift(*(Arm(a.n / units, a.total / units, a.squares / units) for a in arms))
        if lift is None:
            continue
        up, tolerated = metric not in LOWER_IS_BETTER, experiment.guardrails.get(metric)
        if tolerated is None:
            said = lift.said(margin=experiment.margin, higher_is_better=up)
            verdict = GUARDRAIL_BROKEN if harmed and said is Said.BETTER else said.value
        else:
            said = lift.harm(tolerated=tolerated, higher_is_better=up)
            harmed |= said is Said.WORSE
            verdict = GUARDRAIL_BROKEN if said is Said.WORSE else said.value
        yield LiftView(
            metric=metric,
            variant=name,
            role="objective" if tolerated is None else "guardrail",
            verdict=UNTRUSTED if untrusted else verdict,
            control_value=lift.control,
            control_n=int(arms[0].n),
            variant_value=lift.variant,
            variant_n=int(arms[1].n),
            difference=lift.difference,
            low=lift.low,
            high=lift.high,
            method=lift.method,
        )
