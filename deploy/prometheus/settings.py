"""What an installation may change about the rules, and how durations are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Settings:
    """The defaults are what the committed rules are made with."""

    scale: float = 1.0
    """All durations times this: 1/720 lets rules follow a story that is told 720 times as fast as life."""
    shortest_hold_s: float = 0.0
    """No `for` is scaled below this: the restart of a process takes as long in any story."""
    shortest_range_s: float = 0.0
    """No range is scaled below this: a rate needs two scrapes."""
    latency_bound: str = "0.25"
    """Seconds; one of the histogram's bounds (LATENCY_BOUNDS)."""
    latency_objective: float = 0.99
    """This share of predictions is answered within the bound."""
    availability_objective: float = 0.9995
    """This share of predictions is answered without an error."""
    no_predictions: str = "1h"
    """No prediction for so long is a page. Longer where a model rests at night."""
    no_labels: str = "26h"
    """No label for so long is a ticket; 26 h forgives a nightly batch two hours."""
    dead_letters_an_hour: int = 100
    dead_letter_ratio: float = 0.1
    runbook_url: str = "https://plumbline.example.com/runbooks/{alert}.md"
    dashboard_url: str = "https://grafana.example.com"

    def hold(self, text: str) -> str:
        """A duration for `for`."""
        return self._scaled(text, self.shortest_hold_s)

    def range(self, text: str) -> str:
        """A duration for a range or an offset."""
        return self._scaled(text, self.shortest_range_s)

    def seconds(self, text: str) -> str:
        """A duration to compare seconds with."""
        return f"{max(_seconds(text) * self.scale, self.shortest_hold_s):g}"

    def _scaled(self, text: str, shortest_s: float) -> str:
        if self.scale == 1.0:
            return text
        return f"{max(_seconds(text) * self.scale, shortest_s) * 1000:.0f}ms"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        raise ValueError(f"no duration: {text}")
    return int(found[1]) * _UNITS[found[2]]
