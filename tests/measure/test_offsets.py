"""Offsets by hour, and what a restart makes of the documents they left."""

import numpy as np

from agent.events import Partition
from agent.measure.offsets import Offsets
from agent.measure.pane import DAY_MS

HERE = Partition("predictions", 0)


def test_a_restart_does_not_bring_back_a_day_that_was_dropped() -> None:
    """The store keeps a dropped day's document until its place is taken; loading it changes nothing."""
    offsets, stored = Offsets(), dict[str, str]()
    for day in range(90):
        offsets.note(HERE, np.array([day * DAY_MS]), np.array([day]))
        offsets.forget((day - 35) * DAY_MS)
        stored.update(offsets.documents())

    again = Offsets()
    again.load(stored.items())

    assert dict(again.documents()) == dict(offsets.documents())
    assert again.spans(0, 90 * DAY_MS) == offsets.spans(0, 90 * DAY_MS)
    assert offsets.spans(0, 90 * DAY_MS) == [{"topic": "predictions", "offsets": {"0": [54, 90]}}]
