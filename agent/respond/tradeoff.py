"""How the model got here: its age, what its newest version changed, how far production is from the launch.

All of it follows from panes and event times; nothing is remembered for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.config import ModelConfig
from agent.events import Int64s
from agent.measure.arms import arm, comparable
from agent.measure.catalogue import LOWER_IS_BETTER
from agent.measure.layout import Layout
from agent.measure.metrics import performance_metrics, prediction_metrics
from agent.measure.model import Model
from agent.measure.pane import DAY_MS
from agent.measure.redlines import bar_at
from agent.measure.window import Sums, window
from agent.respond.view import OVERALL, ChangeView, MetricValue, StalenessView
from detectors.experiment.lift import rate_lift

MONTH_MS = 30 * DAY_MS
PRICE = ("error_rate", "mean_latency_seconds", "mean_cost")
"""What a better version may cost: shown beside the quality, where it is measured."""


def staleness(model: Model) -> StalenessView:
    """The age of the newest version and how often there was a new one, in event time."""
    order = _by_age(model)
    now = max(last for _, last in model.seen.values())
    first = [model.seen[version][0] for version in order]
    recent = [at for at in first[1:] if now - at < MONTH_MS]
    return StalenessView(order[-1], now - first[-1], len(recent))


def changes(model: Model) -> list[ChangeView]:
    """The newest version against the one before: quality, errors, latency, cost, in one row."""
    order = _by_age(model)
    if len(order) < 2:
        return []
    return list(_changes(model, order[-1], order[-2]))


def _changes(model: Model, version: str, previous: str) -> Iterator[ChangeView]:
    sums = {one: window(model, one, "lifetime", 0) for one in (version, previous)}
    found = {one: _metrics(model, held) for one, held in sums.items()}
    quality = [m for m in model.config.roles.objectives if m not in PRICE] or ["accuracy"]
    for metric in [*quality, *PRICE]:
        new, old = found[version].get(metric), found[previous].get(metric)
        if new is None or old is None:
            continue
        low = high = None
        if metric in comparable(model.config):
            arms = [arm(model.layout, sums[one], OVERALL, metric) for one in (previous, version)]
            lift = rate_lift(*arms)
            low, high = (lift.low, lift.high) if lift else (None, None)
        yield ChangeView(
            metric=metric,
            version=version,
            previous=previous,
            value=new,
            previous_value=old,
            difference=new.value - old.value,
            low=low,
            high=high,
            better=None if low is None or high is None else _better(metric, low, high),
            allowed=_allowed(model.config, metric, new.value, model.seen[version][1]),
        )


def _metrics(model: Model, sums: Sums) -> dict[str, MetricValue]:
    enough = model.config.min_samples
    found = prediction_metrics(model.layout, sums.predictions[OVERALL])
    if OVERALL in sums.performance:
        found |= performance_metrics(model.layout, sums.performance[OVERALL], enough)
    return {name: MetricValue(value.value, value.n) for name, value in found.items() if value.n >= enough}


def _better(metric: str, low: float, high: float) -> bool | None:
    """Surely better or surely worse; None where nobody can tell yet."""
    if low <= 0.0 <= high:
        return None
    return (low > 0.0) != (metric in LOWER_IS_BETTER)


def _allowed(config: ModelConfig, metric: str, value: float, at_ms: int) -> bool | None:
    """Do the red lines of everybody allow the value? None where none is drawn."""
    lines = [line for line in config.roles.constraints if line.metric == metric and not line.segment]
    return all(bar_at(line, at_ms)[0].holds(value) for line in lines) if lines else None


def _by_age(model: Model) -> list[str]:
    return sorted(model.seen, key=lambda version: (model.seen[version][0], version))


def launch(layout: Layout, performance: Int64s, enough: int) -> dict[str, MetricValue]:
    """What the evaluation said before, or what the first labels said: the numbers of the reference."""
    found = performance_metrics(layout, performance, enough)
    return {name: MetricValue(value.value, value.n) for name, value in found.items() if ":" not in name}
