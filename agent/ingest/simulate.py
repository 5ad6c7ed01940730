"""The demo's world: applicants for credit, the model that scores them, and what becomes of them.

Every simulated minute has its own random numbers, so that it can be told again, alone, and always the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s
from agent.ingest.story import BY_NAME, MINUTE_MS, MODEL, START_MS

Labels = NDArray[np.void]
"""Feedback on its way: `arrival`, `id`, `label`, `revision`."""
LABELS = np.dtype([("arrival", np.int64), ("id", "U16"), ("label", np.int64), ("revision", np.int64)])

PER_MINUTE = 60
"""Predictions in a simulated minute, on average."""
CHANNELS = ("branch", "mobile", "web")
EMPLOYMENT = ("salaried", "self_employed", "retired", "seeking")
_RISK = np.array([0.0, 0.3, -0.2, 1.2])
_USUAL_CHANNELS = [0.2, 0.3, 0.5]
_CAMPAIGN_CHANNELS = [0.1, 0.7, 0.2]


class World:
    """The same seed gives the same world; without the story it is only ever quiet (reference data)."""

    def __init__(self, seed: int, story: bool) -> None:
        self._seed = seed % 2**64
        self._story = story

    def minute(self, minute: int) -> tuple[Int64s, list[bytes], Labels]:
        """One minute: times of its predictions, in order, these as JSON, and the labels they will have."""
        rng = np.random.default_rng([self._seed, int(self._story), minute])
        n = int(rng.poisson(PER_MINUTE))
        times = START_MS + minute * MINUTE_MS + np.sort(rng.integers(0, MINUTE_MS, n))
        bureau, debt, other_debt, income = rng.standard_normal((4, n))
        employment = rng.choice(len(EMPLOYMENT), n, p=[0.6, 0.2, 0.12, 0.08])
        mix = _CAMPAIGN_CHANNELS if self._on("harmless", minute) else _USUAL_CHANNELS
        channel = rng.choice(len(CHANNELS), n, p=mix)
        female = rng.random(n) < 0.5
        outcome = rng.random(n)
        latency = np.exp(-4.0 + 0.4 * rng.standard_normal(n))

        rest = -1.0 + 2.3 * debt - 0.8 * income + _RISK[employment]
        truth = rest - 0.7 * bureau
        seen_debt = 0.6 * debt + 0.8 * other_debt + 0.8 if self._on("harmful", minute) else debt
        feed_down = self._on("silent", minute)
        seen = 0.2 * rest if feed_down else truth + 2.3 * (seen_debt - debt)
        bar = np.where(female & self._on("unfair", minute), 0.25, 0.5)
        score = _sigmoid(seen)

        ids = np.char.add(f"{'p' if self._story else 'r'}{minute}-", np.arange(n).astype(np.str_))
        version = 2 if self._on("healed", minute) else 1
        bureau_score = ["null"] * n if feed_down else [f"{value:.0f}" for value in 650 + 80 * bureau]
        income = np.exp(10.4 + 0.5 * income)
        sex = np.where(female, "female", "male")
        debt_ratio = 0.35 + 0.1 * seen_debt
        values = [
            f'{{"prediction_id":"{ids[i]}","timestamp":"{written}Z","model_name":"{MODEL}",'
            f'"model_version":"{version}","prediction":{int(score[i] >= bar[i])},'
            f'"prediction_score":{score[i]:.6f},"features":{{"bureau_score":{bureau_score[i]},'
            f'"income":{income[i]:.0f},"debt_ratio":{debt_ratio[i]:.4f},'
            f'"employment":"{EMPLOYMENT[employment[i]]}","channel":"{CHANNELS[channel[i]]}"}},'
            f'"tags":{{"sex":"{sex[i]}"}},"latency_seconds":{latency[i]:.4f}}}'.encode()
            for i, written in enumerate(_written(times))
        ]
        return times, values, _labels(rng, times, ids, outcome < _sigmoid(truth))

    def _on(self, incident: str, minute: int) -> bool:
        return self._story and BY_NAME[incident].start <= minute < BY_NAME[incident].end


def feedback(labels: Labels) -> list[bytes]:
    """Labels as JSON."""
    return [
        f'{{"prediction_id":"{label["id"]}","timestamp":"{written}Z","model_name":"{MODEL}",'
        f'"label":{label["label"]},"revision":{label["revision"]}}}'.encode()
        for label, written in zip(labels, _written(labels["arrival"]), strict=True)
    ]


def _labels(
    rng: np.random.Generator, times: Int64s, ids: NDArray[np.str_], label: NDArray[np.bool_]
) -> Labels:
    """10 to 35 minutes late; 2 % never, 1 % twice, 0.5 % wrong at first and corrected."""
    n = len(times)
    fate = rng.random(n)
    never, twice, wrong = fate < 0.02, (fate >= 0.02) & (fate < 0.03), (fate >= 0.03) & (fate < 0.035)
    first = np.zeros(n, dtype=LABELS)
    first["arrival"] = times + rng.integers(10 * MINUTE_MS, 35 * MINUTE_MS, n)
    first["id"] = ids
    first["label"] = label ^ wrong
    second = first.copy()
    second["arrival"] += rng.integers(MINUTE_MS, 5 * MINUTE_MS, n)
    second["label"] = label
    second["revision"] = wrong
    return np.concatenate([first[~never], second[twice | wrong]])


def _written(times: Int64s) -> NDArray[np.str_]:
    return np.datetime_as_string(times.astype("datetime64[ms]"))


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-z)))
