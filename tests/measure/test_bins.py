"""Bins, panes and slices."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import ModelConfig
from agent.measure.bins import (
    LATENCY_BINS,
    LATENCY_BOUNDS,
    LATENCY_EDGES,
    SCORE_BINS,
    SCORE_EDGES,
    group_bins,
    latency_bin,
    middles,
    quantile_edges,
    score_bin,
)
from agent.measure.pane import (
    AGE_EDGES_MS,
    HOUR,
    MINUTE,
    PaneKey,
    Panes,
    age_index,
    decode,
    encode,
)
from agent.measure.rows import Slices

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(FINITE)
def test_a_score_lies_between_the_edges_of_its_bin(score: float) -> None:
    """edges[i-1] <= score < edges[i] for every finite score, inside [0, 1] and outside."""
    found = int(score_bin(np.array([score]))[0])
    assert 0 <= found < SCORE_BINS
    assert found == 0 or SCORE_EDGES[found - 1] <= score
    assert found == SCORE_BINS - 1 or score < SCORE_EDGES[found]


def test_score_bins_are_fine_where_scores_of_rare_events_are() -> None:
    """No bin of [0, 1] is wider than .005; between 1e-8 and .01 none is wider than 1/8 of its values."""
    assert np.all(np.diff(SCORE_EDGES) > 0)
    inside = SCORE_EDGES[(SCORE_EDGES >= 0) & (SCORE_EDGES <= 1)]
    assert np.diff(inside).max() <= 0.005 + 1e-12
    tail = inside[(inside >= 1e-8) & (inside <= 0.01)]
    assert (np.diff(tail) / tail[:-1]).max() < 0.125
    assert score_bin(np.array([np.nan]))[0] == -1
    zero, one, more = score_bin(np.array([0.0, 1.0, np.nextafter(1.0, 2.0)]))
    assert zero < one < more
    assert score_bin(np.array([np.nextafter(1.0, 0.0)]))[0] == one


@given(st.floats(min_value=1e-5, max_value=60.0))
def test_a_latency_is_told_within_two_percent(seconds: float) -> None:
    """The middle of a latency's bin is within 2 % of it."""
    middle = middles(LATENCY_EDGES)[latency_bin(np.array([seconds]))[0]]
    assert abs(middle - seconds) <= 0.02 * seconds + 1e-12


def test_latency_bounds_are_edges_and_nonsense_has_no_bin() -> None:
    """Every bound of the cumulative histogram is an exact edge; NaN and negative values are not counted."""
    assert set(LATENCY_BOUNDS) <= set(LATENCY_EDGES.tolist())
    assert latency_bin(np.array([np.nan, -1.0])).tolist() == [-1, -1]
    assert latency_bin(np.array([0.0, 1e9])).min() >= 0
    assert latency_bin(np.array([1e9]))[0] == LATENCY_BINS - 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(2, 12))
def test_every_reference_value_is_in_range_and_all_else_is_not(values: list[float], bins: int) -> None:
    """Quantile edges put no reference value into the first or last bin, and everything outside into them."""
    data = np.array(values)
    edges = quantile_edges(data, bins)
    found = np.searchsorted(edges, data, side="right")
    assert np.all(np.diff(edges) > 0)
    assert found.min() >= 1
    assert found.max() <= len(edges) - 1
    assert np.searchsorted(edges, np.nextafter(data.min(), -np.inf), side="right") == 0
    above = np.nextafter(np.nextafter(data.max(), np.inf), np.inf)
    assert np.searchsorted(edges, above, side="right") == len(edges)


def test_quantile_bins_of_smooth_data_have_equal_mass() -> None:
    """Without repeated values ten bins hold a tenth each, to one event per edge."""
    data = np.random.default_rng(0).normal(size=5000)
    counts = np.bincount(np.searchsorted(quantile_edges(data, 10), data, side="right"), minlength=12)
    assert len(counts) == 12
    assert counts[0] == counts[-1] == 0
    assert np.abs(counts[1:-1] - 500).max() <= 2


def test_an_atom_gets_a_bin_of_its_own() -> None:
    """A value that half of the data repeat shares its bin with no other value."""
    data = np.concatenate([np.zeros(500), np.random.default_rng(0).uniform(0.1, 1, 500)])
    found = np.searchsorted(quantile_edges(data, 10), data, side="right")
    assert len(set(found[:500])) == 1
    assert found[0] not in set(found[500:])
    assert quantile_edges(np.empty(0), 10).tolist() == []


@given(st.lists(st.integers(0, 100), min_size=1, max_size=60), st.integers(1, 20))
def test_groups_are_neighbours_in_order(counts: list[int], groups: int) -> None:
    """Groups of fine bins never decrease, start at 0 and are fewer than asked for at most."""
    found = group_bins(np.array(counts, dtype=np.int64), groups)
    assert np.all(np.diff(found) >= 0)
    assert found.min() >= 0
    assert found.max() < max(groups, 1)


VECTORS = st.lists(st.integers(-(2**62), 2**62), max_size=80)


@given(VECTORS)
def test_a_vector_survives_its_encoding(values: list[int]) -> None:
    """decode(encode(v)) == v with the same width, and equal vectors have equal bytes."""
    vector = np.array(values, dtype=np.int64)
    assert decode(encode(vector)).tolist() == values
    assert encode(vector) == encode(vector.copy())


def test_panes_keep_their_counts_however_often_they_are_flushed() -> None:
    """A pane that is touched rarely is worth the same after many flushes, from memory and from its blob."""
    panes, key, other = Panes(), PaneKey("1", HOUR, 0, -1, ""), PaneKey("1", HOUR, 3_600_000, -1, "")
    disk: dict[PaneKey, bytes] = {}
    for i in range(1, 8):
        panes.create(other, 4)[0] += 1
        if i in (1, 5):
            panes.create(key, 4)[2] += 1
        flushed = dict(panes.flush())
        disk |= flushed
        assert (key in flushed) == (i in (1, 5))
        found = panes.get(key)
        assert found is not None
        assert found.tolist() == [0, 0, 1 if i < 5 else 2, 0]
        assert sorted(panes.keys()) == [key, other]
        again = Panes()
        for stored, blob in disk.items():
            again.load(stored, blob)
        total, reloaded = panes.total([key, other]), again.total([key, other])
        assert total is not None
        assert reloaded is not None
        assert reloaded.tolist() == total.tolist() == [i, 0, 1 if i < 5 else 2, 0]
        assert again.starts(HOUR) == [0, 3_600_000]


def test_dropped_panes_are_gone_and_told_once() -> None:
    """Dropping up to a time forgets earlier panes of that tier only; one that returns is not dropped."""
    panes = Panes()
    keys = [PaneKey("1", tier, start, -1, "") for tier in (MINUTE, HOUR) for start in (0, 3_600_000)]
    for key in keys:
        panes.create(key, 1)[0] += 1
    list(panes.flush())
    panes.drop(MINUTE, 3_600_000)
    assert panes.dropped == {keys[0]}
    assert sorted(panes.keys()) == sorted(keys[1:])
    assert panes.get(keys[0]) is None
    panes.create(keys[0], 1)[0] += 5
    assert panes.dropped == set()
    assert dict(panes.flush())[keys[0]] == encode(np.array([5]))


@pytest.mark.parametrize("i", range(len(AGE_EDGES_MS)))
def test_a_label_age_belongs_to_the_edge_it_does_not_exceed(i: int) -> None:
    """Age index i holds edges[i-1] < age <= edges[i]."""
    edge = int(AGE_EDGES_MS[i])
    assert age_index(np.array([edge, edge + 1])).tolist() == [i, i + 1]


def slices(cap: int, *, intersections: bool = False) -> Slices:
    crossed = [["color", "size"]] if intersections else []
    config = {"segments": ["color", "size"], "intersections": crossed, "max_segment_values": cap}
    return Slices(ModelConfig.model_validate(config))


def tags(rows: list[tuple[str | None, str | None]]) -> pl.Series:
    frame = pl.DataFrame(
        {"color": [c for c, _ in rows], "size": [s for _, s in rows]}, schema=["color", "size"]
    )
    return frame.cast(pl.String).to_struct("tags")


def named(found: Slices, rows: list[tuple[str | None, str | None]]) -> list[tuple[str, ...]]:
    return [tuple(found.names.names[c] for c in found.combos[code]) for code in found.of(tags(rows))]


ROWS: list[tuple[str | None, str | None]] = [
    ("red", "s"),
    ("blue", None),
    ("green", "m"),
    ("amber", "s"),
    (None, None),
    ("red", "l"),
    ("green", "xl"),
]


def test_values_beyond_the_cap_become_other() -> None:
    """The first values read are admitted up to the cap; later ones count as `other`, and are counted."""
    found = slices(2)
    assert named(found, ROWS) == [
        ("color=red", "size=s"),
        ("color=blue",),
        ("color=other", "size=m"),
        ("color=other", "size=s"),
        (),
        ("color=red", "size=other"),
        ("color=other", "size=other"),
    ]
    assert found.overflowed == 5


def test_intersections_take_no_room_from_the_cap() -> None:
    """With intersections configured as many values of an attribute are admitted as without them."""
    rows: list[tuple[str | None, str | None]] = [(f"c{i}", f"s{i}") for i in range(4)]
    found = slices(4, intersections=True)
    assert named(found, rows) == [(f"color=c{i}", f"size=s{i}", f"color=c{i},size=s{i}") for i in range(4)]
    assert found.overflowed == 0


@pytest.mark.parametrize("cut", range(1, len(ROWS)))
@pytest.mark.parametrize("restart", [False, True])
def test_slices_do_not_depend_on_batches_or_restarts(cut: int, restart: bool) -> None:
    """Rows read in two batches, also with a restart between, get the slices they get in one."""
    whole, parts = slices(2, intersections=True), slices(2, intersections=True)
    expected = named(whole, ROWS)
    first = named(parts, ROWS[:cut])
    if restart:
        again = slices(2, intersections=True)
        for combo in parts.combos:
            again.combo(tuple(parts.names.names[code] for code in combo))
        again.overflowed, parts = parts.overflowed, again
    assert first + named(parts, ROWS[cut:]) == expected
    assert parts.overflowed == whole.overflowed
