"""What holds alarms back, and what becomes of those that were held."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.respond.decide import MAX_AUDIT, MIN_HOLD_MS, Alarms, Change, Reason, Transition
from agent.respond.view import AlarmState, MonitorKey, Related, Severity
from tests.respond.examples import ACCURACY, DRIFT, FAIRNESS, MINUTE, evidence

STEP = 5 * MINUTE
PENDING, FIRING, RESOLVED = AlarmState.PENDING, AlarmState.FIRING, AlarmState.RESOLVED
WAITS = [Reason.CONSTRAINT_BROKEN, Reason.CONSTRAINT_ORDER]
SILENT = [Reason.MAINTENANCE, Reason.BACKFILL]


def tell(
    alarms: Alarms,
    at_ms: int,
    hold: Reason | None = None,
    *,
    fired: bool = False,
    recovered: bool = False,
    key: MonitorKey = ACCURACY,
) -> Transition | None:
    """One step of one monitor, a page of the performance family."""
    return alarms.apply(key, Severity.PAGE, "performance", fired, recovered, evidence(1.5), at_ms, hold=hold)


def told(alarms: Alarms) -> list[tuple[int, AlarmState, str]]:
    return [(entry.at_ms, entry.state, entry.reason) for entry in alarms.audit]


@pytest.mark.parametrize("hold", [*WAITS, *SILENT])
def test_what_is_held_calls_nobody_and_is_recorded(hold: Reason) -> None:
    """A held alarm is no transition, not active and not in the history: it is pending, counted and logged."""
    alarms = Alarms()
    assert tell(alarms, STEP, hold, fired=True) is None
    assert not alarms.active
    assert not alarms.history
    assert [(a.view.key, a.view.reason) for a in alarms.pending] == [(ACCURACY, hold)]
    assert alarms.counts == {hold: 1}
    assert told(alarms) == [(STEP, PENDING, hold)]


@pytest.mark.parametrize("hold", WAITS)
def test_what_lasts_is_released_with_its_first_evidence(hold: Reason) -> None:
    """When the red line is well again, what still lasts fires, from then on."""
    alarms = Alarms()
    tell(alarms, 0, hold, fired=True)
    assert tell(alarms, STEP, hold) is None
    released = tell(alarms, 2 * STEP)
    assert released is not None
    assert (released.change, released.reason) == (Change.RAISED, Reason.RELEASED)
    assert (released.alarm.raised_ms, released.alarm.evidence) == (2 * STEP, evidence(1.5))
    assert not alarms.pending
    assert alarms.counts == {hold: 2, Reason.RELEASED: 1}
    assert told(alarms) == [(0, PENDING, hold), (2 * STEP, FIRING, "released")]


@pytest.mark.parametrize("hold", [*WAITS, None])
def test_what_recovered_while_it_waited_never_calls(hold: Reason | None) -> None:
    """Recovered and quiet for the hold, a waiting alarm is forgotten, whether the line still pages or not."""
    alarms = Alarms()
    tell(alarms, 0, WAITS[0], fired=True)
    assert tell(alarms, MIN_HOLD_MS - 1, hold, recovered=True) is None
    assert alarms.pending
    assert tell(alarms, MIN_HOLD_MS, hold, recovered=True) is None
    assert not alarms.pending
    assert not alarms.history
    assert told(alarms)[-1] == (MIN_HOLD_MS, RESOLVED, "recovered")


def test_what_fires_again_while_it_waits_waits_anew() -> None:
    """The hold of a waiting alarm counts from its last firing, as that of an active one does."""
    alarms = Alarms()
    tell(alarms, 0, WAITS[0], fired=True)
    tell(alarms, STEP, WAITS[0], fired=True)
    tell(alarms, STEP + MIN_HOLD_MS - 1, WAITS[0], recovered=True)
    assert alarms.pending
    assert alarms.counts == {WAITS[0]: 2, Reason.HELD: 1}


@pytest.mark.parametrize("hold", SILENT)
def test_a_silence_takes_its_alarms_with_it(hold: Reason) -> None:
    """After the silence the alarm is gone, and the monitor is judged anew: quiet, or raised if it fires."""
    for fired in (False, True):
        alarms = Alarms()
        tell(alarms, 0, hold, fired=True)
        assert tell(alarms, STEP, hold, fired=True) is None
        raised = tell(alarms, 2 * STEP, fired=fired)
        assert (raised is not None) is fired
        assert not alarms.pending
        assert told(alarms)[:2] == [(0, PENDING, hold), (2 * STEP, RESOLVED, hold)]


@pytest.mark.parametrize("hold", SILENT)
def test_nothing_happens_to_an_active_alarm_in_a_silence(hold: Reason) -> None:
    """What the data of a maintenance window say neither resolves an alarm nor prolongs it."""
    alarms = Alarms()
    tell(alarms, 0, fired=True)
    before = alarms.active
    for at, fired in ((STEP, True), (MIN_HOLD_MS * 2, False)):
        assert tell(alarms, at, hold, fired=fired, recovered=not fired) is None
    assert alarms.active == before
    assert alarms.counts[hold] == 2


@pytest.mark.parametrize("hold", WAITS)
def test_a_page_that_was_sent_is_not_taken_back(hold: Reason) -> None:
    """A red line that breaks later does not hide an alarm that already fires: it resolves by itself."""
    alarms = Alarms()
    tell(alarms, 0, fired=True)
    tell(alarms, STEP, hold)
    assert ACCURACY in [alarm.view.key for alarm in alarms.active]
    resolved = tell(alarms, MIN_HOLD_MS, hold, recovered=True)
    assert resolved is not None
    assert resolved.reason is Reason.RECOVERED


def test_retirement_ends_alarms_and_pending_ones_and_raises_none() -> None:
    """Whatever a retired metric's detector says, its alarm ends once and no other begins."""
    alarms = Alarms()
    tell(alarms, 0, fired=True)
    tell(alarms, 0, WAITS[0], fired=True, key=FAIRNESS)
    resolved = tell(alarms, STEP, Reason.RETIRED, fired=True)
    assert resolved is not None
    assert (resolved.change, resolved.reason) == (Change.RESOLVED, Reason.RETIRED)
    assert tell(alarms, STEP, Reason.RETIRED, fired=True, key=FAIRNESS) is None
    assert tell(alarms, 2 * STEP, Reason.RETIRED, fired=True) is None
    assert not alarms.active
    assert not alarms.pending
    assert alarms.counts[Reason.RETIRED] == 3


def test_a_replaced_version_takes_its_pending_alarms_along() -> None:
    """They are forgotten, since nobody was called; those of other versions wait on."""
    alarms = Alarms()
    other = ACCURACY._replace(model_version="v2")
    for key in (ACCURACY, other):
        tell(alarms, 0, WAITS[0], fired=True, key=key)
    assert alarms.resolve_version("v1", STEP) == []
    assert [a.view.key for a in alarms.pending] == [other]
    assert told(alarms)[-1] == (STEP, RESOLVED, "version_replaced")


def test_the_log_tells_a_whole_life_and_is_bounded() -> None:
    """Raised, resolved, raised …: every change in order; only the last MAX_AUDIT are kept."""
    alarms = Alarms()
    for round_ in range(MAX_AUDIT):
        at = 2 * round_ * MIN_HOLD_MS
        tell(alarms, at, fired=True)
        tell(alarms, at + MIN_HOLD_MS, recovered=True)
    log = told(alarms)
    assert len(log) == MAX_AUDIT
    assert [entry[1:] for entry in log[-2:]] == [(FIRING, "fired"), (RESOLVED, "recovered")]
    assert log == sorted(log)


def test_related_alarms_are_kept_through_a_restart() -> None:
    """Suspects belong to the alarm: saved, loaded and resolved with it."""
    alarms, again = Alarms(), Alarms()
    tell(alarms, 0, fired=True)
    suspects = [Related(DRIFT, "suspect", float("inf")), Related(FAIRNESS, "suspect", 1.25)]
    assert list(alarms.relate(ACCURACY, suspects).related) == suspects
    again.load(json.loads(json.dumps(alarms.state(), allow_nan=False)))
    resolved = tell(again, MIN_HOLD_MS, recovered=True)
    assert resolved is not None
    assert list(resolved.alarm.related) == suspects


Step = tuple[int, Reason | None, bool, bool]
steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([None, None, *WAITS, *SILENT, Reason.RETIRED]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=40,
)


def play(alarms: Alarms, story: list[Step], begin: int) -> list[Transition | None]:
    keys = (ACCURACY, DRIFT)
    return [
        tell(alarms, (begin + i) * 4 * MINUTE, hold, fired=fired, recovered=recovered, key=keys[which])
        for i, (which, hold, fired, recovered) in enumerate(story)
    ]


@settings(deadline=None)
@given(steps, steps)
def test_a_restart_changes_nothing_of_what_waits(before: list[Step], after: list[Step]) -> None:
    """Saved and loaded at any point, with alarms pending or not, the rest of any story is the same."""
    straight, restarted = Alarms(), Alarms()
    play(straight, before, 0)
    saved = json.dumps(straight.state(), allow_nan=False)
    restarted.load(json.loads(saved))
    assert json.dumps(restarted.state()) == saved
    assert play(restarted, after, len(before)) == play(straight, after, len(before))
    assert restarted.state() == straight.state()


@settings(deadline=None)
@given(steps)
def test_the_log_and_the_states_agree(story: list[Step]) -> None:
    """Every change has its line, none is out of turn, and the last line of a key is its state."""
    alarms = Alarms()
    play(alarms, story, 0)
    last: dict[MonitorKey, AlarmState] = {}
    for entry in alarms.audit:
        allowed = {None: {PENDING, FIRING}, PENDING: {FIRING, RESOLVED}, FIRING: {RESOLVED}}
        previous = last.get(entry.key)
        assert entry.state in allowed[None if previous is RESOLVED else previous]
        last[entry.key] = entry.state
    assert {key for key, state in last.items() if state is PENDING} == {a.view.key for a in alarms.pending}
    assert {key for key, state in last.items() if state is FIRING} == {a.view.key for a in alarms.active}
    assert sum(alarms.counts.values()) >= len(story)
