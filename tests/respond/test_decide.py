import json
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.respond.decide import MAX_RESOLVED, MIN_HOLD_MS, Alarms, Change, Reason, Transition
from agent.respond.view import MonitorKey, Severity
from detectors import Evidence
from tests.respond.examples import ACCURACY, DRIFT, MINUTE, evidence

PAGE, TICKET = Severity.PAGE, Severity.TICKET
STEP = 5 * MINUTE


def tell(
    alarms: Alarms,
    at_ms: int,
    *,
    fired: bool = False,
    recovered: bool = False,
    key: MonitorKey = ACCURACY,
    severity: Severity = PAGE,
    found: Evidence | None = None,
) -> Transition | None:
    """One step of one monitor."""
    return alarms.apply(key, severity, "performance", fired, recovered, found or evidence(), at_ms)


def test_an_alarm_latches_and_keeps_the_evidence_it_was_raised_with() -> None:
    """Firing once is enough: the alarm stays, with its first evidence, though the detector starts again."""
    alarms = Alarms()
    raised = tell(alarms, 0, fired=True, found=evidence(1.2))
    assert raised is not None
    assert (raised.change, raised.reason, raised.alarm.severity) == (Change.RAISED, Reason.FIRED, PAGE)
    assert tell(alarms, STEP, found=evidence(0.0, warming_up=True)) is None
    assert ACCURACY in [alarm.view.key for alarm in alarms.active]
    assert [a.view.evidence for a in alarms.active] == [evidence(1.2)]
    assert alarms.counts == {Reason.FIRED: 1, Reason.NOT_RECOVERED: 1}


def test_recovery_is_believed_only_after_the_hold() -> None:
    """An alarm that has recovered resolves at MIN_HOLD_MS after it last fired, not a millisecond earlier."""
    alarms = Alarms()
    tell(alarms, 0, fired=True)
    tell(alarms, STEP, fired=True)
    assert tell(alarms, STEP + MIN_HOLD_MS - 1, recovered=True) is None
    resolved = tell(alarms, STEP + MIN_HOLD_MS, recovered=True)
    assert resolved is not None
    assert (resolved.change, resolved.reason) == (Change.RESOLVED, Reason.RECOVERED)
    assert (resolved.alarm.raised_ms, resolved.alarm.resolved_ms) == (0, STEP + MIN_HOLD_MS)
    assert alarms.counts == {
        Reason.ALREADY_ACTIVE: 1,
        Reason.FIRED: 1,
        Reason.HELD: 1,
        Reason.RECOVERED: 1,
    }
    assert not alarms.active


def test_firing_beats_recovering() -> None:
    """A detector that says both stays alarmed."""
    alarms = Alarms()
    tell(alarms, 0, fired=True)
    assert tell(alarms, 10 * MIN_HOLD_MS, fired=True, recovered=True) is None
    assert ACCURACY in [alarm.view.key for alarm in alarms.active]


def test_a_ticket_that_fires_as_a_page_becomes_one_and_never_falls_back() -> None:
    """Harm that shows up later raises the severity of the alarm; it is not lowered while it lasts."""
    alarms = Alarms()
    tell(alarms, 0, fired=True, severity=TICKET)
    escalated = tell(alarms, STEP, fired=True, severity=PAGE)
    assert escalated is not None
    assert (escalated.change, escalated.alarm.severity, escalated.alarm.raised_ms) == (
        Change.ESCALATED,
        PAGE,
        0,
    )
    assert tell(alarms, 2 * STEP, fired=True, severity=TICKET) is None
    assert [a.view.severity for a in alarms.active] == [PAGE]


@pytest.mark.parametrize(
    ("found", "reason"),
    [(evidence(), Reason.QUIET), (evidence(warming_up=True), Reason.NOT_ENOUGH_EVIDENCE)],
)
def test_every_no_has_a_counted_reason(found: Evidence, reason: Reason) -> None:
    """Silence is told from not knowing."""
    alarms = Alarms()
    assert tell(alarms, 0, found=found) is None
    assert alarms.counts == {reason: 1}


def test_a_replaced_version_takes_its_alarms_with_it_and_no_others() -> None:
    """The old version's alarms resolve at once, hold or not; those of the new one and of the model stay."""
    alarms = Alarms()
    keys = [DRIFT, ACCURACY, ACCURACY._replace(model_version="v2"), ACCURACY._replace(model_version="")]
    for key in keys:
        tell(alarms, 0, fired=True, key=key)
    gone = alarms.resolve_version("v1", MINUTE)
    assert [t.alarm.key for t in gone] == sorted([DRIFT, ACCURACY])
    assert {t.reason for t in gone} == {Reason.VERSION_REPLACED}
    assert {a.view.key.model_version for a in alarms.active} == {"", "v2"}


def test_history_is_bounded_and_never_loses_an_active_alarm() -> None:
    """The oldest resolved alarms are forgotten; the active one, though oldest of all, is kept."""
    alarms = Alarms()
    tell(alarms, 0, fired=True, key=DRIFT)
    for round_ in range(MAX_RESOLVED + 10):
        at_ms = 2 * round_ * MIN_HOLD_MS
        tell(alarms, at_ms, fired=True)
        tell(alarms, at_ms + MIN_HOLD_MS, recovered=True)
    assert len(alarms.history) == MAX_RESOLVED + 1
    assert alarms.history[0].key == DRIFT
    assert alarms.history[1].raised_ms == 20 * MIN_HOLD_MS
    assert alarms.history == sorted(alarms.history, key=lambda a: a.raised_ms)


class Told(NamedTuple):
    key: MonitorKey
    severity: Severity
    fired: bool
    recovered: bool
    found: Evidence


numbers = st.floats(allow_nan=False)
evidences = st.builds(
    Evidence,
    statistic=numbers,
    threshold=st.floats(min_value=0.1, max_value=100),
    samples=st.integers(0, 2**60),
    warming_up=st.booleans(),
    value=st.none() | numbers,
    low=st.none() | numbers,
    high=st.none() | numbers,
    reference=st.none() | numbers,
    tolerance=st.tuples(st.none() | numbers, st.none() | numbers),
    smallest_change=st.none() | numbers,
    details=st.dictionaries(st.text(max_size=5), numbers, max_size=2),
)
stories = st.lists(
    st.builds(
        Told,
        st.sampled_from([ACCURACY, DRIFT]),
        st.sampled_from(Severity),
        st.booleans(),
        st.booleans(),
        evidences,
    ),
    max_size=30,
)


def play(alarms: Alarms, story: list[Told], begin: int) -> list[Transition | None]:
    """What the alarms answer to each step, four minutes apart."""
    return [
        alarms.apply(t.key, t.severity, "drift", t.fired, t.recovered, t.found, (begin + i) * 4 * MINUTE)
        for i, t in enumerate(story)
    ]


@settings(deadline=None)
@given(stories, stories)
def test_a_restart_changes_nothing(before: list[Told], after: list[Told]) -> None:
    """Saved to JSON and loaded, the alarms answer the rest of any story as if they had never stopped."""
    straight, restarted = Alarms(), Alarms()
    play(straight, before, 0)
    saved = json.dumps(straight.state(), allow_nan=False)
    restarted.load(json.loads(saved))
    assert json.dumps(restarted.state()) == saved
    assert restarted.history == straight.history
    assert play(restarted, after, len(before)) == play(straight, after, len(before))
    assert restarted.state() == straight.state()


@settings(deadline=None)
@given(stories)
def test_raised_and_resolved_take_turns(story: list[Told]) -> None:
    """A monitor is raised, perhaps escalated once, then resolved; and every step is counted."""
    alarms = Alarms()
    found = [t for t in play(alarms, story, 0) if t is not None]
    for key in (ACCURACY, DRIFT):
        changes = "".join(t.change.value[:3] for t in found if t.alarm.key == key)
        assert changes.replace("raiesc", "rai").replace("raires", "") in ("", "rai")
    assert sum(alarms.counts.values()) == len(story)
