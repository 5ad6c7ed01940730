"""Numbered events from a seed: what a model says, the truth that follows, and every mischief of producers.

Scores and latencies come from short lists, so that the oracle can count them without knowing any bin.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import NamedTuple

PREDICTIONS, LABELS = "predictions", "labels"
MODEL = "m"
T0_MS = 1_767_225_600_000  # 2026-01-01
HOUR_MS = 3_600_000

SCORES = tuple((k + 0.5) / 20 for k in range(20))
LATENCIES = (0.0042, 0.021, 0.13, 0.71)
GROUPS = ("a", "b", "c", None)
CITIES = ("Lyon", "Oslo", "Rome", None)


class Sent(NamedTuple):
    """One record on its way: which topic, which partition of it, key and value."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None


class Odds(NamedTuple):
    """How often, per prediction, something is not as it should be."""

    repeated: float = 0.01
    late: float = 0.005
    """A day behind."""
    disordered: float = 0.1
    """By up to nine minutes, which is allowed."""
    malformed: float = 0.003
    stranger: float = 0.003
    """Of a model that nobody configured."""
    failed: float = 0.01
    unlabelled: float = 0.02
    corrected: float = 0.01
    retracted: float = 0.005
    orphan: float = 0.005
    early: float = 0.1
    """The label is read before its prediction."""


USUAL = Odds()
CLEAN = Odds(*([0.0] * len(Odds._fields)))


@dataclass
class Stream:
    """Predictions and labels of one model, `per_hour` of event time; from `worse` on it is often wrong.

    Draw portions with `take`; equal seeds and equal portions give equal records.
    """

    seed: int
    partitions: int = 2
    per_hour: int = 2000
    worse: int = 10**9
    renew: int = 10**9
    """After so many predictions there is a new version."""
    odds: Odds = USUAL
    model: str = MODEL
    begin_ms: int = T0_MS
    number: int = 0
    """Of the next prediction."""
    _random: random.Random = field(init=False)
    _waiting: list[tuple[int, int, Sent]] = field(default_factory=list)
    """Records that follow later: (place in the order of predictions, tie-break, record)."""
    _ties: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def take(self, predictions: int) -> Iterator[Sent]:
        """The records of the next so many predictions, with what is due among them."""
        for _ in range(predictions):
            yield from self._next()
            self.number += 1

    def rest(self) -> Iterator[Sent]:
        """What is still due: the labels of the last predictions."""
        while self._waiting:
            yield heappop(self._waiting)[2]

    def event_ms(self, number: int) -> int:
        """When a prediction was made."""
        return self.begin_ms + number * HOUR_MS // self.per_hour

    def _next(self) -> Iterator[Sent]:
        i, odds, draw = self.number, self.odds, self._random.random
        while self._waiting and self._waiting[0][0] <= i:
            yield heappop(self._waiting)[2]
        at = self.event_ms(i)
        if draw() < odds.disordered:
            at -= self._random.randrange(9 * 60_000)
        if draw() < odds.late:
            at -= 24 * HOUR_MS
        id_ = f"{self.model}-{self.seed}-{i}"
        score = self._random.choice(SCORES)
        prediction = self._record(PREDICTIONS, id_, self._prediction(id_, at, score))
        if draw() < odds.early:
            self._later(3, prediction)
        else:
            yield prediction
        if draw() < odds.repeated:
            self._later(self._random.randrange(1, 200), prediction)
        if draw() < odds.malformed:
            yield self._record(PREDICTIONS, id_, self._malformed(id_, at))
        if draw() < odds.stranger:
            yield self._record(PREDICTIONS, id_, self._prediction(id_, at, score, model="stranger"))
        self._label(id_, at, score)

    def _label(self, id_: str, at: int, score: float) -> None:
        i, odds, draw = self.number, self.odds, self._random.random
        if draw() < odds.unlabelled:
            return
        wrong = 0.5 if i >= self.worse else 0.1
        truth = int(score >= 0.5) ^ int(draw() < wrong)
        delay = self._random.randrange(1, max(2, self.per_hour // 2))
        said = self._record(LABELS, id_, self._feedback(id_, self.event_ms(i + delay), truth))
        self._later(0 if draw() < odds.early else delay, said)
        if draw() < odds.repeated:
            self._later(delay + 5, said)
        if draw() < odds.corrected:
            again = self._feedback(id_, self.event_ms(i + 2 * delay), 1 - truth, revision=1)
            overtakes = draw() < 0.3  # then what it corrects is read after it
            self._later(delay // 2 if overtakes else 2 * delay, self._record(LABELS, id_, again))
        if draw() < odds.retracted:
            gone = self._feedback(id_, self.event_ms(i + 3 * delay), None, revision=2)
            self._later(3 * delay, self._record(LABELS, id_, gone))
        if draw() < odds.orphan:
            nobody = f"nobody-{id_}"
            lost = self._feedback(nobody, self.event_ms(i + delay), truth)
            self._later(delay, self._record(LABELS, nobody, lost))

    def _later(self, predictions: int, record: Sent) -> None:
        self._ties += 1
        heappush(self._waiting, (self.number + predictions, self._ties, record))

    def _record(self, topic: str, id_: str, value: bytes) -> Sent:
        return Sent(topic, zlib.crc32(id_.encode()) % self.partitions, id_.encode(), value)

    def _prediction(self, id_: str, at_ms: int, score: float, model: str | None = None) -> bytes:
        draw, choice = self._random.random, self._random.choice
        event: dict[str, object] = {
            "prediction_id": id_,
            "timestamp": rfc3339(at_ms),
            "model_name": model or self.model,
            "model_version": str(1 + self.number // self.renew),
            "prediction_score": score,
            "latency_seconds": choice(LATENCIES),
        }
        amount = choice((1.5, "wrong", None, 40, 7.25))
        city, group = choice(CITIES), choice(GROUPS)
        event["features"] = {"amount": amount} | ({"city": city} if city else {})
        if group:
            event["tags"] = {"group": group}
        if draw() < self.odds.failed:
            del event["prediction_score"]
            event["error"] = "timeout"
        return json.dumps(event).encode()

    def _feedback(self, id_: str, at_ms: int, label: int | None, *, revision: int = 0) -> bytes:
        event = {"prediction_id": id_, "timestamp": rfc3339(at_ms), "label": label}
        if revision:
            event["revision"] = revision
        return json.dumps(event).encode()

    def _malformed(self, id_: str, at_ms: int) -> bytes:
        whole = self._prediction(id_, at_ms, 0.5)
        return self._random.choice(
            (
                b"not json",
                b"\xff\xfe",
                b"[1, 2]",
                whole[:-7],
                whole.replace(b'"m', b'"\\ud83d\\ude00', 1)[:-1],
                json.dumps({"prediction_id": id_, "model_name": self.model, "prediction": "1"}).encode(),
                json.dumps(
                    {"timestamp": rfc3339(at_ms), "model_name": self.model, "prediction": "1"}
                ).encode(),
                json.dumps(
                    {"prediction_id": id_, "timestamp": "soon", "model_name": self.model, "prediction": "1"}
                ).encode(),
            )
        )


def rfc3339(ms: int) -> str:
    """Milliseconds since the epoch as producers write a time."""
    at = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"
