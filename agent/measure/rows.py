"""From a decoded frame to the numbers that are counted: class codes, score and feature bins, slices.

Everything is vectorised over the batch; names become small integer codes through per-model dictionaries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import polars_hash as plh
from numpy.typing import NDArray

from agent.config import ModelConfig
from agent.errors import StateError
from agent.events import Int64s
from agent.measure.bins import Floats
from agent.measure.layout import FeatureBins, Layout

OTHER = "other"
"""The group of segment values beyond the configured cap."""
NO_CLASS = -1
UNKNOWN_CLASS = -3


class Codes:
    """Names as small integers in order of first appearance, which means nothing and leaves no trace."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        found = self._codes.get(name)
        if found is None:
            found = self._codes[name] = len(self.names)
            self.names.append(name)
        return found

    def of(self, names: pl.Series) -> Int64s:
        """Codes of a column; null gives -1."""
        distinct = names.unique().drop_nulls().sort().to_list()
        mapping = {name: self.code(name) for name in distinct}
        if not mapping:
            return np.full(len(names), -1, dtype=np.int64)
        return replace(names, mapping, -1)


def replace(names: pl.Series, mapping: dict[str, int], default: int) -> Int64s:
    """Map a text column to integers; null and unknown give `default`."""
    if not mapping:
        return np.full(len(names), default, dtype=np.int64)
    return names.replace_strict(mapping, default=default, return_dtype=pl.Int64).fill_null(default).to_numpy()


def identity_hash(ids: pl.Series) -> NDArray[np.uint64]:
    """A 64-bit hash that stays the same over versions and machines (xxh3)."""
    frame = pl.DataFrame({"id": ids})
    return frame.select(plh.col("id").nchash.xxh3_64()).to_series().to_numpy()


class Slices:
    """The slices of one model: an event belongs to all of `combos[code]`, besides the slice of everything."""

    def __init__(self, model: ModelConfig) -> None:
        self.attributes = list(model.segments)
        self.intersections = [list(names) for names in model.intersections]
        self.cap = model.max_segment_values
        self.names = Codes()
        self.combos: list[tuple[int, ...]] = []
        self.overflowed = 0
        """Values of events that were beyond the cap."""
        self._combo_codes: dict[tuple[int, ...], int] = {}
        self._admitted: dict[str, set[str]] = {name: set() for name in self.attributes}

    def combo(self, names: tuple[str, ...]) -> int:
        """The code of a set of slice names."""
        codes = tuple(self.names.code(name) for name in names)
        found = self._combo_codes.get(codes)
        if found is None:
            found = self._combo_codes[codes] = len(self.combos)
            self.combos.append(codes)
            last = -1
            for name in names:  # attributes in their order, then intersections, which have no cap
                attribute, _, value = name.partition("=")
                if attribute not in self.attributes:
                    raise StateError(
                        f"segments: the state counts by {attribute}, which is no longer among them; "
                        f"put it back, or choose another state.dir"
                    )
                if self.attributes.index(attribute) <= last:
                    break
                last = self.attributes.index(attribute)
                self._admitted[attribute].add(value)
        return found

    def of(self, tags: pl.Series) -> Int64s:
        """The combo code of each event, from its `tags`."""
        if not self.attributes:
            return np.full(len(tags), self.combo(()), dtype=np.int64)
        frame = tags.struct.unnest().select(self.attributes)
        # Values are admitted in the order in which they are read, wherever batches are cut.
        distinct = frame.unique(maintain_order=True)
        before = self.overflowed
        codes, beyond = [], []
        for row in distinct.iter_rows(named=True):
            at = self.overflowed
            codes.append(self.combo(self._slice_names(row)))
            beyond.append(self.overflowed - at)
        distinct = distinct.with_columns(
            pl.Series("combo", codes, dtype=pl.Int64), pl.Series("beyond", beyond, dtype=pl.Int64)
        )
        joined = frame.join(distinct, on=self.attributes, how="left", nulls_equal=True, maintain_order="left")
        self.overflowed = before + int(joined["beyond"].sum())
        return joined["combo"].to_numpy()

    def _slice_names(self, row: dict[str, str | None]) -> tuple[str, ...]:
        values = {a: self._admit(a, v) for a, v in row.items() if v is not None}
        names = [f"{a}={v}" for a, v in values.items()]
        for attributes in self.intersections:
            if all(a in values for a in attributes):
                names.append(",".join(f"{a}={values[a]}" for a in attributes))
        return tuple(names)

    def _admit(self, attribute: str, value: str) -> str:
        admitted = self._admitted[attribute]
        if value in admitted or len(admitted) < self.cap:
            admitted.add(value)
            return value
        self.overflowed += 1
        return OTHER


@dataclass(frozen=True, slots=True)
class Scored:
    """What an event says of its class: predicted class code (-1: none, -3: unknown) and the scores kept."""

    predicted: Int64s
    scores: Floats
    """(n, score columns); NaN where there is none."""


def classify(frame: pl.DataFrame, model: ModelConfig, layout: Layout) -> Scored:
    """Predicted class and scores: a named class wins, else the threshold (binary) or largest probability."""
    probabilities = frame["prediction_probabilities"]
    columns = []
    held = probabilities.struct.fields if isinstance(probabilities.dtype, pl.Struct) else []
    wanted = layout.classes[-1:] if layout.task == "binary" else layout.classes
    for name in wanted:
        column = (
            probabilities.struct.field(name)
            if name in held
            else pl.Series([None] * len(frame), dtype=pl.Float64)
        )
        if layout.task == "binary":
            column = frame["prediction_score"].fill_null(column)
        columns.append(column.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    scores = np.stack(columns, axis=1) if len(frame) else np.empty((0, len(wanted)))
    named = class_codes(frame["prediction"], model, layout)
    complete = ~np.isnan(scores).any(axis=1)
    if layout.task == "binary":
        derived = np.where(complete, (scores[:, 0] >= model.threshold).astype(np.int64), NO_CLASS)
    else:
        derived = np.where(complete, np.argmax(np.nan_to_num(scores), axis=1), NO_CLASS)
    return Scored(np.where(frame["prediction"].is_null().to_numpy(), derived, named), scores)


def class_codes(names: pl.Series, model: ModelConfig, layout: Layout) -> Int64s:
    """Class code of each name; null gives NO_CLASS, an unknown one UNKNOWN_CLASS."""
    codes = replace(names, {name: i for i, name in enumerate(layout.classes)}, _default_class(model))
    return np.where(names.is_null().to_numpy(), NO_CLASS, codes)


def class_codes_of_hashes(hashes: NDArray[np.uint64], model: ModelConfig, layout: Layout) -> Int64s:
    """The same for names known by their hash only."""
    codes = np.full(len(hashes), _default_class(model), dtype=np.int64)
    known = identity_hash(pl.Series(list(layout.classes), dtype=pl.String))
    for i, value in enumerate(known):
        codes[hashes == value] = i
    return codes


def _default_class(model: ModelConfig) -> int:
    """With only `positive` configured every other name is the negative class; otherwise it is a mistake."""
    return 0 if model.task == "binary" and model.positive and not model.classes else UNKNOWN_CLASS


def feature_bins(values: pl.Series, feature: FeatureBins) -> Int64s:
    """The bin of each value of a feature (text; null is missing)."""
    missing = values.is_null().to_numpy()
    if feature.kind == "categorical":
        known = {name: i for i, name in enumerate(feature.categories)}
        found = replace(values, known, feature.unseen)
    else:
        numbers = values.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
        found = np.searchsorted(np.asarray(feature.edges, dtype=np.float64), numbers, side="right")
        found = np.where(np.isfinite(numbers), found, feature.invalid)
    return np.where(missing, feature.missing, found)
