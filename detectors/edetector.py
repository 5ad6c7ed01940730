"""What all detectors share: weigh bets, accumulate evidence, alarm, restart, remember where it began.

A detector mixes several bets (fixed sizes of change, and the recent past at several memories), each with
its own Shiryaev-Roberts statistic; their weighted mean is compared with c. A subclass says what a step's
counts are, what its bets say of them, and how they are estimated and shown.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.base import Evidence, State
from detectors.sequential import NOTHING, Floats, level, log_mixture, reach, shiryaev_roberts

ALPHA = 0.05
"""Error of the intervals shown and of the judgement that all is well again."""
HORIZON = 12
"""Steps in which the smallest change is to be seen: an hour of the default five minutes."""
STIRRING = 3.0
"""Nats by which the evidence has risen when a change seems to be under way: 1 in 20 excursions gets there."""
HALF = math.log(2.0)

Estimate = tuple[float | None, float | None, float | None]
"""Value, low, high; None where undefined or unbounded."""


class EDetector(ABC):
    """Mean of Shiryaev-Roberts e-detectors over the bets of a subclass."""

    name: ClassVar[str]
    family: ClassVar[str]
    severity: ClassVar[str]
    _remembered: tuple[str, ...] = (
        "_log_m", "_log_now", "_rise", "_fired", "_steps", "_total", "_mean_size",
        "_run", "_run_start", "_calm", "_calm_start", "_since",
    )  # fmt: skip

    def __init__(self, *, weights: Sequence[float], width: int, log_threshold: float) -> None:
        """Mix bets of these weights (they sum to one); a step's sufficient counts have `width` entries."""
        if not log_threshold > 0.0:
            raise ValueError(f"log_threshold must be positive, not {log_threshold}")
        self._threshold = log_threshold
        self._log_w = np.log(np.asarray(weights, dtype=np.float64))
        self._cap = log_threshold - self._log_w
        self._log_m = np.full(len(weights), NOTHING)
        self._log_now = NOTHING
        self._rise = 0.0
        self._fired = False
        self._steps = 0
        self._total = 0.0
        self._mean_size = 0.0
        self._since = 0  # steps since the last alarm; counts the starts of the segments below
        self._run = np.zeros(width)  # since the change seems to have begun
        self._run_start = 1
        self._calm = np.zeros(width)  # since the evidence last stirred
        self._calm_start = 1

    # --- the contract -----------------------------------------------------------------------------------

    def update(self, counts: NDArray[np.int64]) -> None:
        """Take in one closed step."""
        self._check(counts)
        if self._fired:
            self._restart()
        sample = self._sample(counts)
        size = self._size(sample)
        self._steps += 1
        self._since += 1
        self._count(sample)
        self._mean_size += (size - self._mean_size) * max(1.0 / HORIZON, 1.0 / self._steps)
        if self._bets_open(sample):
            self._accumulate(self._bets(sample))
            self._follow(sample)
            self._fired = self._log_now >= self._threshold and not self.warming_up
        self._learn(sample)

    @property
    def warming_up(self) -> bool:
        """Is it too early to judge?"""
        return self._total < 30.0

    @property
    def fired(self) -> bool:
        """Did the last step cross the threshold?"""
        return self._fired

    @property
    def recovered(self) -> bool:
        """Does the confidence sequence since the evidence last stirred lie inside the tolerance?"""
        if self.warming_up or self._fired or self._size(self._calm) == 0.0:
            return False
        _, low, high = self._estimate(self._calm, level(ALPHA, self._calm_start))
        floor, ceiling = self._tolerance()
        below = floor is not None and (low is None or low < floor)
        above = ceiling is not None and (high is None or high > ceiling)
        return not (below or above)

    @property
    def evidence(self) -> Evidence:
        """What is known after the last step."""
        stirring = self._rise >= STIRRING
        sample, start = (self._run, self._run_start) if stirring else (self._calm, self._calm_start)
        size = self._size(sample)
        value = low = high = None
        if size > 0.0:
            value, low, high = self._estimate(sample, level(ALPHA, start))
        known = self._mean_size > 0.0 and not self.warming_up
        return Evidence(
            statistic=max(0.0, self._log_now),
            threshold=self._threshold,
            samples=int(size),
            warming_up=self.warming_up,
            value=value,
            low=low,
            high=high,
            reference=self._reference(),
            tolerance=self._tolerance(),
            smallest_change=self._smallest_change(self._reach()) if known else None,
            details={**self._power(), **self._details()},
        )

    def state(self) -> State:
        """Everything needed to go on, safe and exact in JSON."""
        return {name[1:]: _plain(getattr(self, name)) for name in self._remembered}

    def load(self, state: State) -> None:
        """Go on from a state saved by a detector made with the same arguments."""
        for name in self._remembered:
            old, new = getattr(self, name), state[name[1:]]
            if isinstance(old, np.ndarray | list):
                if not isinstance(new, list) or len(new) != np.size(old):
                    raise ValueError(f"state of another detector: {name[1:]} does not fit {self.name}")
                array = np.array(new, dtype=np.float64)
                setattr(self, name, array.reshape(old.shape) if isinstance(old, np.ndarray) else list(new))
            else:
                setattr(self, name, new)

    # --- what a method brings ---------------------------------------------------------------------------

    @abstractmethod
    def _check(self, counts: NDArray[np.int64]) -> None:
        """Raise ValueError unless the counts have the method's shape."""

    def _sample(self, counts: NDArray[np.int64]) -> Floats:
        """Additive sufficient counts of the step."""
        return counts.astype(np.float64)

    def _size(self, sample: Floats) -> float:
        """Events behind a sample."""
        return float(sample.sum())

    def _count(self, sample: Floats) -> None:
        """Keep what warming up is judged by."""
        self._total += self._size(sample)

    def _bets_open(self, sample: Floats) -> bool:
        """Is there anything to bet on? An empty step says nothing."""
        return self._size(sample) > 0.0

    @abstractmethod
    def _bets(self, sample: Floats) -> Sequence[float] | Floats:
        """Log e-value of the step under each bet, chosen from the past only; NaN where it is withheld."""

    @abstractmethod
    def _learn(self, sample: Floats) -> None:
        """Prepare the bets of the next step."""

    @abstractmethod
    def _estimate(self, sample: Floats, alpha: float) -> Estimate:
        """Estimate of the monitored quantity, with its confidence sequence; the sample is not empty."""

    @abstractmethod
    def _reference(self) -> float | None:
        """The monitored quantity in the reference."""

    @abstractmethod
    def _tolerance(self) -> tuple[float | None, float | None]:
        """The tolerated band of the monitored quantity."""

    @abstractmethod
    def _smallest_change(self, nats: float) -> float | None:
        """Change of the quantity worth nats^2 of evidence in HORIZON steps."""

    def _details(self) -> dict[str, float]:
        """More numbers to show."""
        return {}

    # --- the loop ---------------------------------------------------------------------------------------

    def _restart(self) -> None:
        self._log_m = np.full_like(self._log_m, NOTHING)
        self._log_now = NOTHING
        self._rise = 0.0
        self._fired = False
        self._since = 0
        self._run = np.zeros_like(self._run)
        self._calm = np.zeros_like(self._calm)
        self._run_start = self._calm_start = 1

    def _accumulate(self, bets: Sequence[float] | Floats) -> None:
        before = float(np.logaddexp(0.0, self._log_now))
        log_s = np.asarray(bets)
        # The cap keeps one step from buying more than an alarm; lowering an e-value is always valid.
        grown = shiryaev_roberts(self._log_m, np.minimum(log_s, self._cap))
        # Where no bet is made no evidence may grow: there is no new start, and the old fades.
        self._log_m = np.where(np.isnan(log_s), np.maximum(NOTHING, self._log_m - HALF), grown)
        self._log_now = log_mixture(self._log_m, self._log_w)
        self._rise = max(0.0, self._rise) + self._log_now - before

    def _follow(self, sample: Floats) -> None:
        """Keep the two segments: since the evidence began to rise, and since it last stirred."""
        if self._rise <= 0.0:
            self._run = np.zeros_like(self._run)
            self._run_start = self._since + 1
        else:
            self._run = self._run + sample
        if self._rise >= STIRRING:
            self._calm = np.zeros_like(self._calm)
            self._calm_start = self._since + 1
        else:
            self._calm = self._calm + sample

    def _power(self) -> dict[str, float]:
        """Steps in which the smallest change is seen, and since when something seems to have changed."""
        found = {
            "smallest_change_steps": float(HORIZON),
            "smallest_change_delay": HORIZON * float(self._cap[-1]) / self._reach() ** 2,
        }
        if self._rise >= STIRRING:
            found["changed_steps_ago"] = float(self._since - self._run_start + 1)
        return found

    def _reach(self) -> float:
        return reach(float(self._cap[-1]))


def _plain(value: Floats | list[float] | float) -> list[float] | float:
    """A copy of a remembered value as plain numbers."""
    if isinstance(value, np.ndarray):
        return [float(number) for number in value.ravel().tolist()]
    return list(value) if isinstance(value, list) else value
