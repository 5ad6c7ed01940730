"""One suite over every registered detector; a new one needs a line in CASES and nothing else."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import REGISTRY, Detector, Verdict
from detectors.performance.calibration import FIXED

Counts = NDArray[np.int64]
LOG_C = math.log(1e4)
SHARES = np.array([0.1, 0.2, 0.4, 0.2, 0.1])


@dataclass(frozen=True)
class Case:
    make: Callable[[], Any]
    expected: Counts
    """A step that equals the baseline exactly."""
    quiet: Callable[[np.random.Generator], Counts]
    changed: Callable[[np.random.Generator], Counts]


def rate(n: int, p: float) -> Callable[[np.random.Generator], Counts]:
    def draw(rng: np.random.Generator) -> Counts:
        hits = rng.binomial(n, p)
        return np.array([hits, n - hits])

    return draw


def groups(p_a: float, p_b: float) -> Callable[[np.random.Generator], Counts]:
    return lambda rng: np.concatenate([rate(60, p_a)(rng), rate(90, p_b)(rng)])


RIGHT = np.array([0.6, 0.7, 0.8, 0.9, 1.0])


def calibrated(low: float, high: float) -> Callable[[np.random.Generator], Counts]:
    """Two groups that promise .2 and .8 and keep other rates."""

    def draw(rng: np.random.Generator) -> Counts:
        hits = rng.binomial(100, [low, high])
        return np.ravel(np.column_stack([hits, 100 - hits, [20 * FIXED, 80 * FIXED]]))

    return draw


CASES = {
    "histogram_drift": Case(
        lambda: REGISTRY["histogram_drift"](SHARES * 1e5, log_threshold=LOG_C),
        np.array([20, 40, 80, 40, 20]),
        lambda rng: rng.multinomial(200, SHARES),
        lambda rng: rng.multinomial(200, SHARES[[2, 1, 0, 3, 4]]),
    ),
    "volume_drop": Case(
        lambda: REGISTRY["volume_drop"](None, log_threshold=LOG_C),
        np.array([40]),
        lambda rng: rng.poisson(40, 1),
        lambda rng: rng.poisson(5, 1),
    ),
    "volume_surge": Case(
        lambda: REGISTRY["volume_surge"](None, log_threshold=LOG_C),
        np.array([40]),
        lambda rng: rng.poisson(40, 1),
        lambda rng: rng.poisson(200, 1),
    ),
    "dead_segment": Case(
        lambda: REGISTRY["dead_segment"](None, log_threshold=LOG_C),
        np.array([40]),
        lambda rng: rng.poisson(40, 1),
        lambda rng: np.zeros(1, dtype=np.int64),
    ),
    **{
        name: Case(
            partial(REGISTRY[name], 0.05, log_threshold=LOG_C),
            np.array([10, 190]),
            rate(200, 0.05),
            rate(200, 0.6),
        )
        for name in ("error_surge", "invalid_surge", "unseen_surge", "overconfidence", "slow_answers")
    },
    "missing_surge": Case(
        lambda: REGISTRY["missing_surge"](0.1, log_threshold=LOG_C),
        np.array([20, 180]),
        rate(200, 0.1),
        rate(200, 0.3),
    ),
    "confidence_collapse": Case(
        lambda: REGISTRY["confidence_collapse"](0.5, log_threshold=LOG_C),
        np.array([100, 100]),
        rate(200, 0.5),
        rate(200, 0.05),
    ),
    "constant_predictions": Case(
        lambda: REGISTRY["constant_predictions"](SHARES * 1e5, log_threshold=LOG_C),
        np.array([20, 40, 80, 40, 20]),
        lambda rng: rng.multinomial(200, SHARES),
        lambda rng: rng.multinomial(200, [0.0, 0.05, 0.0, 0.95, 0.0]),
    ),
    "group_ratio": Case(
        lambda: REGISTRY["group_ratio"](log_threshold=LOG_C),
        np.array([12, 48, 18, 72]),
        groups(0.2, 0.2),
        groups(0.5, 0.2),
    ),
    "labels_late": Case(
        lambda: REGISTRY["labels_late"](0.9, log_threshold=LOG_C),
        np.array([180, 20]),
        rate(200, 0.9),
        rate(200, 0.2),
    ),
    "version_drop": Case(
        lambda: REGISTRY["version_drop"](0.9, log_threshold=LOG_C),
        np.array([180, 20]),
        rate(200, 0.9),
        rate(200, 0.7),
    ),
    "rate_drop": Case(
        lambda: REGISTRY["rate_drop"](0.9, log_threshold=LOG_C),
        np.array([180, 20]),
        rate(200, 0.9),
        rate(200, 0.7),
    ),
    "estimated_drop": Case(
        lambda: REGISTRY["estimated_drop"](RIGHT, SHARES * 1e5, log_threshold=LOG_C),
        np.array([20, 40, 80, 40, 20]),
        lambda rng: rng.multinomial(200, SHARES),
        lambda rng: rng.multinomial(200, [0.5, 0.3, 0.1, 0.1, 0.0]),
    ),
    "calibration_break": Case(
        lambda: REGISTRY["calibration_break"](2, log_threshold=LOG_C),
        np.array([20, 80, 20 * FIXED, 80, 20, 80 * FIXED]),
        calibrated(0.2, 0.8),
        calibrated(0.4, 0.6),
    ),
}


@pytest.fixture(params=sorted(REGISTRY))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def story(case: Case, seed: int = 7, quiet: int = 40, changed: int = 20, after: int = 60) -> list[Counts]:
    rng = np.random.default_rng(seed)
    lengths = [(case.quiet, quiet), (case.changed, changed), (case.quiet, after)]
    return [np.asarray(draw(rng), dtype=np.int64) for draw, times in lengths for _ in range(times)]


def future(detector: Detector, steps: list[Counts]) -> list[object]:
    seen: list[object] = []
    for counts in steps:
        detector.update(counts)
        seen.append((detector.fired, detector.recovered, asdict(detector.evidence), detector.state()))
    return seen


def test_every_registered_detector_has_a_case_and_a_face() -> None:
    """The registry names each detector by its own id, family and severity, and none escapes this suite."""
    assert set(CASES) == set(REGISTRY)
    for name, case in CASES.items():
        detector = case.make()
        assert detector.name == name
        assert detector.family in {"drift", "silence", "fairness", "performance"}
        assert detector.severity in {"page", "ticket"}


@pytest.mark.parametrize("cut", [0, 1, 13, 41, 43, 70])
def test_a_state_round_trip_through_json_gives_the_identical_future(case: Case, cut: int) -> None:
    """A detector rebuilt from its JSON state at any moment goes on bit for bit like the uninterrupted one."""
    steps = story(case)
    straight, saved, resumed = case.make(), case.make(), case.make()
    future(saved, steps[:cut])
    resumed.load(json.loads(json.dumps(saved.state(), allow_nan=False)))
    assert resumed.evidence == saved.evidence
    assert future(straight, steps)[cut:] == future(resumed, steps[cut:])


def test_a_saved_state_does_not_move_with_the_detector(case: Case) -> None:
    """State is a copy: going on changes neither a state saved before nor one loaded from."""
    steps = story(case)
    detector, other = case.make(), case.make()
    future(detector, steps[:20])
    state = detector.state()
    before = json.dumps(state)
    other.load(state)
    future(detector, steps[20:50])
    future(other, steps[20:50])
    assert json.dumps(state) == before


def test_a_state_of_another_shape_is_refused() -> None:
    """A state saved with other bins is refused, not half loaded."""
    other = REGISTRY["histogram_drift"]([10, 20, 30], log_threshold=LOG_C)
    with pytest.raises(ValueError, match="state of another detector"):
        other.load(CASES["histogram_drift"].make().state())


def test_input_is_not_changed(case: Case) -> None:
    """The counts belong to the caller: update leaves them as they were."""
    detector = case.make()
    for counts in story(case):
        copy = counts.copy()
        counts.flags.writeable = False
        detector.update(counts)
        assert (counts == copy).all()


def test_input_equal_to_the_baseline_never_alarms(case: Case) -> None:
    """Two thousand steps that equal the baseline exactly gather no evidence at all."""
    detector = case.make()
    for _ in range(2000):
        detector.update(case.expected)
        assert not detector.fired
    assert detector.evidence.ratio < 0.2
    assert detector.evidence.verdict is Verdict.OK
    assert detector.recovered


def test_empty_steps_never_alarm(case: Case) -> None:
    """A stream on which nothing was ever seen is not enough evidence, however long it lasts."""
    detector = case.make()
    for _ in range(300):
        detector.update(np.zeros_like(case.expected))
        assert not detector.fired
    assert detector.evidence.verdict is Verdict.NOT_ENOUGH
    assert not detector.recovered


def test_warming_up_is_respected(case: Case) -> None:
    """Before the first events there is no verdict, no alarm and no claim to recovery or to power."""
    detector = case.make()
    assert detector.evidence.warming_up
    assert detector.evidence.verdict is Verdict.NOT_ENOUGH
    assert detector.evidence.smallest_change is None
    rng = np.random.default_rng(3)
    for _ in range(30):
        detector.update(np.asarray(case.changed(rng), dtype=np.int64))
        assert not (detector.evidence.warming_up and detector.fired)
        if detector.evidence.warming_up:
            assert detector.evidence.verdict is Verdict.NOT_ENOUGH


def test_a_change_alarms_once_evident_and_recovery_follows(case: Case) -> None:
    """Quiet, change, quiet: fires only in the change, is not recovered within it, and is recovered later."""
    detector = case.make()
    fired = []
    for step, counts in enumerate(story(case, after=150)):
        detector.update(counts)
        if detector.fired:
            fired.append(step)
            assert detector.evidence.verdict is Verdict.ALARM
            assert detector.evidence.ratio >= 1.0
        if 45 <= step < 60:
            assert not detector.recovered
    assert fired
    assert 40 <= fired[0] <= 45
    assert fired[-1] <= 60
    assert detector.recovered


def test_after_an_alarm_the_evidence_starts_again(case: Case) -> None:
    """The step after an alarm carries its own evidence only, and a lasting change fires again and again."""
    detector = case.make()
    rng = np.random.default_rng(5)
    for _ in range(40):
        detector.update(np.asarray(case.quiet(rng), dtype=np.int64))
    alarms = 0
    for _ in range(60):
        before = detector.fired
        detector.update(np.asarray(case.changed(rng), dtype=np.int64))
        alarms += detector.fired
        if before:
            assert detector.evidence.samples <= 200
    assert alarms >= 3


def test_evidence_is_complete_and_finite(case: Case) -> None:
    """At every step all numbers are finite, the interval holds the value, and the ratio is what it says."""
    detector = case.make()
    for counts in story(case):
        detector.update(counts)
        evidence = detector.evidence
        numbers = [v for v in asdict(evidence).values() if isinstance(v, float)]
        numbers += [*evidence.details.values(), *(edge for edge in evidence.tolerance if edge is not None)]
        assert all(math.isfinite(number) for number in numbers)
        assert evidence.ratio == evidence.statistic / evidence.threshold >= 0.0
        assert evidence.samples >= 0
        if evidence.value is not None and evidence.low is not None and evidence.high is not None:
            assert evidence.low <= evidence.value <= evidence.high
    assert evidence.value is not None
    assert evidence.reference is not None
    assert evidence.tolerance != (None, None)
    assert evidence.smallest_change is not None
    assert evidence.smallest_change > 0.0


@pytest.mark.parametrize("spoil", ["shape", "negative"])
def test_impossible_counts_are_refused(case: Case, spoil: str) -> None:
    """Counts of another shape or below zero raise before they touch the state."""
    detector = case.make()
    detector.update(case.expected)
    before = detector.state()
    bad = np.append(case.expected, 1) if spoil == "shape" else -case.expected
    with pytest.raises(ValueError, match="zero or more"):
        detector.update(bad)
    assert detector.state() == before


def test_a_threshold_must_be_positive(case: Case) -> None:
    """A log threshold of zero would alarm on nothing, so no detector accepts it."""
    arguments: dict[str, tuple[object, ...]] = {
        "histogram_drift": ([5, 5],),
        "constant_predictions": ([5, 5],),
        "group_ratio": (),
        "estimated_drop": ([0.5, 1.0], [5, 5]),
        "calibration_break": (2,),
    }
    for name, detector in REGISTRY.items():
        with pytest.raises(ValueError, match="log_threshold"):
            detector(*arguments.get(name, (0.5,)), log_threshold=0.0)
