"""Service levels of the models: how fast their error budgets burn, over two windows each.

A rate of 1 spends a budget of 30 days in 30 days. A page when 2 % went within an hour or 5 % within six; a
ticket when 10 % went within a day or three. The short window ends the alert soon after the burning has ended.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.measure.bins import LATENCY_BOUNDS
from agent.respond import families
from deploy.prometheus.alerts import BY_MODEL, Alert, Severity, counter
from deploy.prometheus.settings import Settings

BURNS: tuple[tuple[str, str, float, str, Severity], ...] = (
    ("1h", "5m", 14.4, "2m", "critical"),
    ("6h", "30m", 6, "15m", "critical"),
    ("1d", "2h", 3, "1h", "warning"),
    ("3d", "6h", 1, "3h", "warning"),
)
"""Long window, short window, factor, for, severity."""
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

AVAILABILITY = "model:plumbline_prediction_errors:ratio_rate{window}"
LATENCY = "model:plumbline_slow_predictions:ratio_rate{window}"


def slo_records(s: Settings) -> Iterator[tuple[str, str]]:
    """Names and expressions of the error ratios."""
    if float(s.latency_bound) not in LATENCY_BOUNDS:
        raise ValueError(f"latency_bound must be one of {LATENCY_BOUNDS}, not {s.latency_bound}")
    for window in WINDOWS:
        over = s.range(window)
        errors, all_ = counter("prediction_errors"), counter("predictions")
        yield (
            AVAILABILITY.format(window=window),
            f"{BY_MODEL} (rate({errors}[{over}]))\n/ {BY_MODEL} (rate({all_}[{over}]))",
        )
        every = f"{families.LATENCY.name}_count"
        fast = f'{families.LATENCY.name}_bucket{{le="{s.latency_bound}"}}'
        yield (
            LATENCY.format(window=window),
            f"1 -\n{BY_MODEL} (rate({fast}[{over}]))\n/ {BY_MODEL} (rate({every}[{over}]))",
        )


def slo_alerts(s: Settings) -> Iterator[Alert]:
    """Four rules for each service level."""
    for long, short, factor, hold, severity in BURNS:
        for name, ratio, objective, signal, what in (
            ("Availability", AVAILABILITY, s.availability_objective, "availability", "end in an error"),
            ("Latency", LATENCY, s.latency_objective, "latency", f"take over {s.latency_bound} s"),
        ):
            limit = f"{factor:g} * {1 - objective:g}"
            yield Alert(
                f"Plumbline{name}BudgetBurn",
                severity,
                signal,
                f"{ratio.format(window=long)} > {limit}\nand {ratio.format(window=short)} > {limit}",
                hold,
                f"A model spends its {name.lower()} budget too fast.",
                "{{ $labels.model_name }}: {{ $value | humanizePercentage }} of its predictions "
                f"{what} (over {long}), {factor:g} times what the budget allows.",
                window=long,
            )
