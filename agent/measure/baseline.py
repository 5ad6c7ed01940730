"""The baseline: the pane of the reference data, made by the code that makes live panes, and frozen bins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from agent.config import Config, ModelConfig
from agent.errors import ConfigError
from agent.events import Decoded, Int64s, RawBatch
from agent.measure.bins import quantile_edges
from agent.measure.layout import FeatureBins, Layout
from agent.measure.pane import LIFETIME, PREDICTIONS, PaneKey

if TYPE_CHECKING:
    from agent.measure.model import Model

FORMAT = 1
NUMERIC_BINS = 10
MAX_CATEGORIES = 30
_SAMPLE = 200_000


@dataclass(frozen=True)
class Baseline:
    """What the model's data and performance looked like when all was well."""

    model_name: str
    layout_version: str
    features: tuple[FeatureBins, ...]
    prediction: Int64s
    """The prediction part over all events."""
    performance: Int64s
    """The performance part over all labelled events."""

    def save(self, path: Path) -> None:
        """Write as JSON, readable by people and by later versions."""
        document = {
            "format": FORMAT,
            "model_name": self.model_name,
            "layout_version": self.layout_version,
            "features": [
                {"name": f.name, "kind": f.kind, "edges": list(f.edges), "categories": list(f.categories)}
                for f in self.features
            ],
            "prediction": _sparse(self.prediction),
            "performance": _sparse(self.performance),
        }
        path.write_text(json.dumps(document, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, model_name: str, model: ModelConfig) -> Baseline:
        """Read a baseline and check that its cells mean what the model's cells mean."""
        try:
            document = json.loads(path.read_text())
            features = tuple(
                FeatureBins(f["name"], f["kind"], tuple(f["edges"]), tuple(f["categories"]))
                for f in document["features"]
            )
            found = cls(
                document["model_name"],
                document["layout_version"],
                features,
                _dense(document["prediction"]),
                _dense(document["performance"]),
            )
        except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"models.{model_name}.baseline: {path} cannot be read as a baseline "
                f"({type(error).__name__}: {error}); write it again with `plumbline profile`"
            ) from error
        layout = Layout.of(model, features)
        widths = (len(found.prediction), len(found.performance))
        if layout.version != found.layout_version or widths != (
            layout.prediction.width,
            layout.performance.width,
        ):
            raise ConfigError(
                f"models.{model_name}.baseline: {path} was made for another task, other classes or other "
                f"features; write it again with `plumbline profile` and this configuration"
            )
        return found

    @classmethod
    def learn(cls, model_name: str, model: ModelConfig, batches: Sequence[Decoded]) -> Baseline:
        """The baseline of decoded reference events (predictions, and their labels where there are any)."""
        from agent.measure.models import Models  # the fold itself; it needs this module's class

        frames = [b.predictions.filter(pl.col("model_name") == model_name) for b in batches]
        rows = [frame for frame in frames if len(frame)]
        if not rows:
            raise ConfigError(
                f"no prediction of model {model_name!r} in the reference data; "
                f"name the model as the events name it, or pass other files with --input"
            )
        names = model.features or _guess_kinds(rows)
        features = tuple(_freeze(name, kind, rows) for name, kind in names.items())
        plain = model.model_copy(update={"baseline": None, "segments": [], "intersections": []})
        learner = cls(model_name, "", features, np.empty(0, np.int64), np.empty(0, np.int64))
        models = Models({model_name: plain}, {model_name: learner}, unordered=True)
        for batch in batches:
            models.apply(batch)
        learned = models.models[model_name]
        layout = learned.layout
        return cls(
            model_name,
            layout.version,
            layout.features,
            _total(learned, PREDICTIONS, layout.empty_prediction()),
            _total(learned, 0, layout.empty_performance()),
        )


def profile(
    config: Config, model_name: str, paths: Sequence[Path], progress: Callable[[float], None]
) -> Baseline:
    """Read reference files and learn the baseline of one model."""
    from agent.ingest.decode import Decoder
    from agent.ingest.files import FileSource
    from agent.ingest.mapping import Schema

    if model_name not in config.models:
        known = ", ".join(config.models)
        raise ConfigError(f"--model {model_name}: the configuration has no such model; it has {known}")
    model = config.models[model_name]
    source = FileSource(paths)
    source.start({})
    raw: list[RawBatch] = []
    while not source.finished:
        raw += source.poll(0.0, 0.0)
        progress(source.fraction / 2)
    source.close()
    schema = Schema.of(config.models)
    if not model.features:
        first = Decoder.of(config, schema)
        unknown = {name for batch in raw for name in first.unknown_fields(batch)}
        schema = replace(schema, features=tuple(sorted({*schema.features, *unknown})))
    decoder = Decoder.of(config, schema)
    batches = []
    for i, batch in enumerate(raw):
        batches.append(decoder.decode(batch))
        progress(0.5 + (i + 1) / len(raw) / 2)
    return Baseline.learn(model_name, model, batches)


def _total(model: Model, age: int, total: Int64s) -> Int64s:
    for version in model.versions.names:
        vector = model.panes.get(PaneKey(version, LIFETIME, 0, age, ""))
        if vector is not None:
            total[: len(vector)] += vector
    return total


def _guess_kinds(frames: Iterable[pl.DataFrame]) -> Mapping[str, str]:
    """Features the events carry: numeric when at least 95 % are numbers, more than 20 of them distinct."""
    values = pl.concat([f["features"].struct.unnest() for f in frames]).head(_SAMPLE)
    kinds = {}
    for name in values.columns:
        held = values[name].drop_nulls()
        if len(held) == 0:
            continue
        numbers = held.cast(pl.Float64, strict=False).drop_nulls()
        numeric = len(numbers) >= 0.95 * len(held) and numbers.n_unique() > 20
        kinds[name] = "numeric" if numeric else "categorical"
    return kinds


def _freeze(name: str, kind: str, frames: Iterable[pl.DataFrame]) -> FeatureBins:
    values = pl.concat(
        [f["features"].struct.field(name) for f in frames if name in f["features"].struct.fields]
    )
    held = values.head(_SAMPLE).drop_nulls()
    if kind == "numeric":
        numbers = held.cast(pl.Float64, strict=False).drop_nulls().to_numpy()
        edges = quantile_edges(numbers[np.isfinite(numbers)], NUMERIC_BINS)
        return FeatureBins(name, kind, edges=tuple(float(e) for e in edges))
    counts = (
        held.value_counts(sort=True).sort(["count", name], descending=[True, False]) if len(held) else None
    )
    categories = () if counts is None else tuple(sorted(counts[name].head(MAX_CATEGORIES).to_list()))
    return FeatureBins(name, kind, categories=categories)


def _sparse(vector: Int64s) -> dict[str, Any]:
    cells = np.flatnonzero(vector)
    return {"width": len(vector), "cells": cells.tolist(), "counts": vector[cells].tolist()}


def _dense(document: Mapping[str, Any]) -> Int64s:
    vector = np.zeros(int(document["width"]), dtype=np.int64)
    vector[np.asarray(document["cells"], dtype=np.int64)] = document["counts"]
    return vector
