"""`plumbline demo`: the simulated model through the very pipeline, its story told as it happens.

No broker and no files to prepare: the reference data are simulated, the state lives in a temporary directory.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from agent.config import (
    Config,
    FairnessConfig,
    HttpConfig,
    ModelConfig,
    PerformanceConfig,
    RetrainingConfig,
    StateConfig,
)
from agent.ingest.decode import Decoder
from agent.ingest.demo import DemoSource
from agent.ingest.mapping import Schema
from agent.ingest.story import MODEL
from agent.measure.baseline import Baseline
from agent.respond.teller import Screen, Teller
from agent.respond.view import View

SPEED = 1700.0
"""The story, 22 hours, in 47 seconds."""
REFERENCE_MINUTES = 8 * 60


def demo_config(
    state_dir: Path, port: int, baseline: Path | None = None, *, commit_seconds: float = 0.5
) -> Config:
    """What a user would write for this model, but for the haste of the commits."""
    model = ModelConfig(
        segments=["sex"],
        features={
            "bureau_score": "numeric",
            "income": "numeric",
            "debt_ratio": "numeric",
            "employment": "categorical",
            "channel": "categorical",
        },
        baseline=baseline,
        fairness=FairnessConfig(reference={"sex": "male"}),
        performance=PerformanceConfig(min_baseline_labels=3000),
        retraining=RetrainingConfig(cooldown=timedelta(hours=6)),
    )
    return Config(
        models={MODEL: model},
        state=StateConfig(dir=state_dir, commit_interval=timedelta(seconds=commit_seconds)),
        http=HttpConfig(port=port),
        retraining_topic=None,
    )


def learn_baseline(config: Config, seed: int) -> Baseline:
    """The baseline of eight quiet hours, as `plumbline profile` would learn it."""
    source = DemoSource(seed, math.inf, REFERENCE_MINUTES, story=False)
    decoder = Decoder(
        config.sources,
        Schema.of(config.models),
        max_message_bytes=config.max_message_bytes,
        future_skew_ms=round(config.future_skew.total_seconds() * 1000),
    )
    batches = []
    while not source.finished:
        batches += [decoder.decode(raw) for raw in source.poll(0.0, 0.0)]
    return Baseline.learn(MODEL, config.models[MODEL], batches)


def run_demo(
    seed: int, speed: float, duration: float | None, port: int, stop: threading.Event | None = None
) -> None:
    """Tell the story at `speed` (0: unpaced) and serve it, for `duration` seconds or until stopped."""
    from agent import logs, runner

    logs.configure("warning")
    stop = stop or threading.Event()
    with tempfile.TemporaryDirectory(prefix="plumbline-demo-") as folder:
        baseline = Path(folder) / "baseline.json"
        learn_baseline(demo_config(Path(folder), port), seed).save(baseline)
        config = demo_config(Path(folder) / "state", port, baseline)
        with Screen(port) as screen, _stopped_after(duration, stop):
            teller = Teller()

            def tell(view: View) -> None:
                screen.show(teller.tell(view), teller)

            runner.run(config, DemoSource(seed, speed or math.inf), stop=stop, on_commit=tell)


@contextmanager
def _stopped_after(seconds: float | None, stop: threading.Event) -> Iterator[None]:
    timer = threading.Timer(seconds or 0.0, stop.set)
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    except KeyboardInterrupt:
        stop.set()
    finally:
        timer.cancel()
