"""Where a test may end the process, so that a crash at that very instruction is repeatable.

PLUMBLINE_FAILPOINT=NAME:N ends it with SIGKILL when it passes NAME for the N-th time; NAME:N:SECONDS makes it
stand still there instead, once. The places, in the order of a commit:

before_apply, after_apply    a batch is not yet, or is, part of the state in memory (runner)
in_transaction               everything is written, COMMIT is not (store)
after_commit                 durable, and nothing published (runner)
mid_outbox                   messages are with the broker, or in the file, and not known as delivered (sinks)
after_outbox                 delivered, and still in the outbox (runner)
before_group_commit          the group's offsets are not told yet (runner)

Without the variable a place costs one comparison.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

_NAME, _, _WHEN = os.environ.get("PLUMBLINE_FAILPOINT", "").partition(":")
_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Pass a place."""
    if name != _NAME:
        return
    _passed[name] += 1
    nth, _, seconds = _WHEN.partition(":")
    if _passed[name] != int(nth or 1):
        return
    if seconds:
        time.sleep(float(seconds))
    else:
        os.kill(os.getpid(), signal.SIGKILL)
