"""Red lines against the definition of their intervals, and against chance."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.config import ConstraintConfig
from agent.measure.pane import DAY_MS, HOUR_MS
from agent.measure.redlines import ALPHA, Bar, bar_at, compared, ms
from agent.measure.trail import Trail
from detectors.sequential import level, rate_interval

BAR = 0.05


def trail(counts: list[tuple[int, int]], window_ms: int = DAY_MS) -> Trail:
    """Hours from time zero on."""
    made = Trail(HOUR_MS, window_ms)
    for hour, (good, bad) in enumerate(counts):
        made.add((hour + 1) * HOUR_MS, hour * HOUR_MS, good, bad)
    return made


hours = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 400)), min_size=1, max_size=60)


@given(hours, st.floats(0.01, 0.99))
def test_the_statistic_crosses_its_threshold_where_the_interval_leaves_the_bar(
    counts: list[tuple[int, int]], bar: float
) -> None:
    """Ratio >= 1 says the same as "the whole interval lies beyond the bar", above and below."""
    held = trail(counts)
    good, bad, begin = held.window(None)
    low, high = rate_interval(good, bad, level(ALPHA, begin))
    for line, beyond in ((Bar(None, bar), low - bar), (Bar(bar, None), bar - high)):
        if abs(beyond) > 1e-9:
            assert (compared(held, line, None, 1).ratio >= 1.0) is (good + bad > 0 and beyond > 0)


@given(hours, st.integers(1, 30))
def test_a_window_is_the_sum_of_its_hours(counts: list[tuple[int, int]], length: int) -> None:
    """The trail holds just the last hours, begun at the right one, also after a restart."""
    held = Trail.of(trail(counts, length * HOUR_MS).state())
    last = counts[-length:]
    assert held.window(None) == (
        sum(g for g, _ in last),
        sum(b for _, b in last),
        len(counts) - len(last) + 1,
    )
    since = len(counts) - 1
    assert held.window(since * HOUR_MS)[:2] == counts[-1]


def test_hours_that_mature_out_of_order_make_the_same_window() -> None:
    """Labels of an earlier hour may be complete later; one that has left the window comes too late."""
    ordered, mixed = trail([(i, 2 * i) for i in range(30)]), Trail(HOUR_MS, DAY_MS)
    for hour in [0, 2, 1, *range(4, 30), 3, 29]:
        mixed.add(30 * HOUR_MS, hour * HOUR_MS, hour, 2 * hour)
    assert mixed.window(None) == ordered.window(None)


def test_a_rate_at_its_bar_hardly_ever_breaks_it() -> None:
    """At the very bar, looked at every hour of three weeks, at most ALPHA of lines page (and some noise)."""
    rng = np.random.default_rng(11)
    line, runs, broken = Bar(None, BAR), 150, 0
    for _ in range(runs):
        bad = rng.binomial(200, BAR, 500).tolist()
        held, hit = Trail(HOUR_MS, DAY_MS), False
        for hour, n in enumerate(bad):
            held.add(0, hour * HOUR_MS, n, 200 - n)
            good, rest, _ = held.window(None)
            if good / (good + rest) > BAR:  # only then can it be beyond
                hit = hit or compared(held, line, None, 30).ratio >= 1.0
        broken += hit
    assert broken <= 5  # 1.5 expected at most; more than 5 has a chance of 0.4 %


def test_a_doubled_rate_breaks_its_line_within_a_day() -> None:
    """The price of looking always is no blindness: 10 % against a bar of 5 % pages inside the window."""
    rng = np.random.default_rng(3)
    counts = [(int(n), 200 - int(n)) for n in rng.binomial(200, [0.03] * 200 + [0.1] * 24)]
    assert compared(trail(counts[:200]), Bar(None, BAR), None, 30).ratio < 1.0
    assert compared(trail(counts), Bar(None, BAR), None, 30).ratio >= 1.0


def test_too_few_events_are_not_enough_evidence() -> None:
    """Below min_samples nothing is shown, so nothing pages, however bad it looks."""
    assert compared(trail([(29, 0)]), Bar(None, BAR), None, 30).warming_up
    assert not compared(trail([(30, 0)]), Bar(None, BAR), None, 30).warming_up


def test_the_bar_in_force_is_the_last_that_has_begun() -> None:
    """Before the first day there is none; each day brings its own."""
    line = ConstraintConfig.model_validate(
        {"metric": "recall", "bars": [{"from": "2026-01-01", "min": 0.5}, {"from": "2026-02-01", "min": 0.6}]}
    )
    first, second = (ms(bar.begin) for bar in line.bars)
    assert bar_at(line, first) == (Bar(None, None), None)
    assert bar_at(line, first + 1) == (Bar(0.5, None), first)
    assert bar_at(line, second + 1) == (Bar(0.6, None), second)
