"""A topic that is nearly all poison stops the agent; any other does not, however it is read."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import DeadLetterConfig
from agent.errors import PoisonError
from agent.events import Reason
from agent.ingest.budget import STRETCH, DeadLetterBudget


def stops(budget: DeadLetterBudget, bad: list[bool], sizes: list[int], topic: str = "t") -> int | None:
    """After how many records the budget is broken, if it is; read in batches of these sizes, in turn."""
    at = turn = 0
    while at < len(bad):
        batch = np.array(bad[at : at + sizes[turn % len(sizes)]])
        at += len(batch)
        turn += 1
        try:
            budget.spend(topic, batch, [Reason.WRONG_TYPE] * int(batch.sum()))
        except PoisonError:
            return at
    return None


@given(
    bad=st.lists(st.booleans(), min_size=1, max_size=60),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    most=st.integers(1, 12),
    kill=st.integers(0, 60),
)
def test_the_longest_run_decides_whatever_the_batches_and_restarts(
    bad: list[bool], sizes: list[int], most: int, kill: int
) -> None:
    """It stops in just the batch in which the run reaches the limit, a restart in between or not."""
    config = DeadLetterConfig(max_consecutive=most, max_ratio=None)
    run = 0
    expected = None
    for i, one in enumerate(bad):
        run = run + 1 if one else 0
        if run == most:
            expected = i
            break
    first, second = DeadLetterBudget(config), DeadLetterBudget(config)
    early = stops(first, bad[:kill], sizes)
    if early is None:
        second.load(first.state())
        later = stops(second, bad[kill:], sizes)
        early = None if later is None else kill + later

    assert (early is None) == (expected is None)
    if early is not None and expected is not None:
        assert expected < early <= expected + max(sizes)


def test_the_share_is_of_the_whole_topic() -> None:
    """One poisoned partition of two does not stop it, nine records of ten in all partitions do."""
    rng = random.Random(1)
    half = [rng.random() < 0.5 for _ in range(5 * STRETCH)]
    assert stops(DeadLetterBudget(DeadLetterConfig()), half, [500]) is None
    most = [rng.random() < 0.95 for _ in range(5 * STRETCH)]
    assert stops(DeadLetterBudget(DeadLetterConfig()), most, [500]) == STRETCH


def test_topics_have_budgets_of_their_own_and_none_may_be_set() -> None:
    """Good records of one topic do not excuse another; null diverts everything."""
    config = DeadLetterConfig(max_consecutive=10)
    budget = DeadLetterBudget(config)
    assert stops(budget, [True] * 9, [9], "a") is None
    assert stops(budget, [False] * 9, [9], "b") is None
    assert stops(budget, [True], [1], "a") == 1
    assert (
        stops(
            DeadLetterBudget(DeadLetterConfig(max_consecutive=None, max_ratio=None)), [True] * 50_000, [999]
        )
        is None
    )


def test_the_message_names_topic_reason_and_remedy() -> None:
    """An engineer reads what is wrong, that nothing was passed over, and which key allows it."""
    with pytest.raises(
        PoisonError, match=r"^t: 10 records in a row .*wrong_type.*no offset.*max_consecutive\.$"
    ):
        DeadLetterBudget(DeadLetterConfig(max_consecutive=10)).spend(
            "t", np.ones(10, dtype=bool), [Reason.WRONG_TYPE] * 10
        )
