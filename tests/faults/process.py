"""Faults of the process: killed, stopped, frozen, started twice."""

from __future__ import annotations

from tests.faults.bench import Bench, World
from tests.faults.registry import Result, case


@case(
    "F1",
    "kill -9 of the agent at random moments, in starts and at work, while events keep coming",
    short=True,
)
def kill(world: World, result: Result) -> None:
    kills, per_life = world.many(200, 4), world.many(4000, 1000)
    bench = Bench(world, result)
    stream = bench.stream((kills + 1) * per_life)
    bench.kills(stream, kills, per_life)
    bench.send(stream.take(per_life))
    bench.send(stream.rest())
    bench.finish()
    bench.judge()
