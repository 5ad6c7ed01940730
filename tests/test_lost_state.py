"""An agent without its volume begins at `safe`, and counts every hour that was open as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.events import NO_TIME, Mark, Partition
from agent.ingest.placement import mark_of, metadata
from agent.measure.pane import HOUR, PaneKey
from agent.pipeline import Pipeline
from agent.store import Store
from tests.measure.events import FEEDBACK, PREDICTIONS, config_of, raw
from tests.measure.running import running
from tests.test_pipeline import model, traffic

# Which segment values are under the cap is told by the first that were seen, thus lost with the state.
CONFIG = config_of(a=model(max_segment_values=9), b=model(positive="1", max_segment_values=9))

SLOW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


def hours(pipeline: Pipeline, from_ms: int) -> dict[tuple[str, PaneKey], list[int]]:
    """All hour panes from a time on."""
    found = {}
    for name, held in pipeline.models.models.items():
        for key in [*held.panes.keys()]:
            vector = held.panes.get(key)
            if key.tier == HOUR and key.start_ms >= from_ms and vector is not None and vector.any():
                found[name, key] = vector.tolist()
    return found


@SLOW
@given(seed=st.integers(0, 10**6), reads=st.lists(st.tuples(st.booleans(), st.integers(1, 120)), max_size=12))
def test_hours_that_were_open_are_counted_whole(seed: int, reads: list[tuple[bool, int]]) -> None:
    """From the mark of any commit, a new state gets the very panes of every hour that was open then."""
    logs = traffic(seed)
    with running(logs, CONFIG) as old, running(logs, CONFIG) as new:
        for predictions, n in reads:
            old.read(PREDICTIONS if predictions else FEEDBACK, n)
        old.pipeline.commit(0.0)
        marks = {p: mark_of(m.next, metadata(m)) for p, m in old.pipeline.marks().items()}
        assert all(mark.safe <= mark.next for mark in marks.values())
        for partition, mark in marks.items():
            new.pipeline.apply(replace(raw(partition, [], mark.safe), floor_ms=mark.open_ms))
        old.finish()
        new.finish()
        from_ms = max((mark.open_ms for mark in marks.values()), default=NO_TIME)
        assert hours(old.pipeline, from_ms) == hours(new.pipeline, from_ms)


@pytest.mark.parametrize(
    "text", ["", "note", "safe=9;open=5;config=x", "safe=-1;open=5;config=", "safe=;open=;"]
)
def test_foreign_metadata_means_nothing(text: str) -> None:
    """What another client wrote, or what cannot be, leaves just the offset."""
    assert mark_of(7, text) == Mark(7, 7)


def test_metadata_is_read_as_it_was_written() -> None:
    """A mark survives the way through the group's offsets, within the broker's 4096 bytes."""
    for mark in (Mark(7, 3, 1_767_225_600_000), Mark(2**60, 0, NO_TIME), Mark(0, 0)):
        assert mark_of(mark.next, metadata(mark)) == mark
        assert len(metadata(mark)) < 200


def test_unread_models_ask_for_everything(tmp_path: Path) -> None:
    """Before any prediction no hour is closed, and all that was read must be read again."""
    store = Store(tmp_path)
    pipeline = Pipeline(CONFIG, store)
    pipeline.assign([PREDICTIONS, FEEDBACK])
    pipeline.apply(raw(Partition("feedback", 0), [b"{broken"] * 5))
    pipeline.commit(0.0)
    assert pipeline.marks() == {FEEDBACK: Mark(5, 0, NO_TIME, CONFIG.digest()[:12])}
    store.close()
