"""Decoding by columns against decoding record by record with the standard library."""

import json
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import SourceConfig
from agent.events import NO_TIME, Partition, RawBatch
from agent.ingest.decode import Decoder
from agent.ingest.mapping import Schema

DECODER = Decoder(
    [SourceConfig(topics=["t"])],
    Schema(("age", "city"), ("sex",), ()),
    max_message_bytes=10_000,
    future_skew_ms=0,
)

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
values = st.none() | texts | st.integers(-(10**9), 10**9) | st.booleans()
predictions = st.fixed_dictionaries(
    {"prediction_id": texts, "timestamp": st.integers(10**12, 2 * 10**12), "model_name": texts},
    optional={
        "prediction_score": st.none() | st.floats(0, 1) | st.text("abc", min_size=1),
        "error": st.none() | texts,
        "features": st.none() | st.dictionaries(st.sampled_from(["age", "city", "zip"]), values),
        "tags": st.none() | st.dictionaries(st.just("sex"), values),
    },
)
feedback = st.fixed_dictionaries(
    {
        "prediction_id": texts,
        "timestamp": st.integers(10**12, 2 * 10**12),
        "label": st.sampled_from(["0", "yes", 1]),
    }
)
broken = st.sampled_from(
    [
        None,
        b"",
        b"{",
        b"nonsense",
        b"[1]",
        b"null",
        b'{"x": NaN}',
        b"\xff",
        b'{"a" 1}',
        b'{"features": 3}',
        b"{}\n{}",
    ]
)
records = st.one_of(predictions, feedback).map(lambda r: json.dumps(r).encode()) | broken


def text_of(value: object) -> str | None:
    """A JSON scalar as the columns spell it."""
    if value is None or value == "":
        return None
    return json.dumps(value) if isinstance(value, bool) else str(value)


def expected(value: bytes | None) -> dict[str, Any] | None:
    """What a careful reader makes of one record; None if it is not usable."""
    try:
        record = json.loads(value or b"", parse_constant=int)
    except ValueError:
        return None
    if not isinstance(record, dict) or not record.get("prediction_id"):
        return None
    if "label" in record:
        return {"id": record["prediction_id"], "label": str(record["label"])}
    score = record.get("prediction_score")
    usable = isinstance(score, float) and math.isfinite(score)
    if (score is None and record.get("error") is None) or (score is not None and not usable):
        return None
    features, tags = record.get("features") or {}, record.get("tags") or {}
    return {
        "id": record["prediction_id"],
        "score": score,
        "features": {name: text_of(features.get(name)) for name in ("age", "city")},
        "tags": {"sex": text_of(tags.get("sex"))},
    }


@settings(max_examples=150, deadline=None)
@given(st.lists(records, max_size=40))
def test_any_mix_is_split_without_loss_and_read_like_one_by_one(mix: list[bytes | None]) -> None:
    """Offsets of the three parts are the batch's, and each good row equals the standard library's reading."""
    n = len(mix)
    offsets = np.arange(n, dtype=np.int64) * 3
    got = DECODER.decode(
        RawBatch(Partition("t", 0), offsets, np.full(n, NO_TIME, dtype=np.int64), 3 * n, mix)
    )
    rows: dict[int, Any] = {
        r["offset"]: {
            "id": r["prediction_id"],
            "score": r["prediction_score"],
            "features": r["features"],
            "tags": r["tags"],
        }
        for r in got.predictions.to_dicts()
    }
    rows |= {r["offset"]: {"id": r["prediction_id"], "label": r["label"]} for r in got.feedback.to_dicts()}
    bad = [r.offset for r in got.rejected]
    assert sorted([*rows, *bad]) == offsets.tolist()
    assert {o: rows.get(o) for o in offsets.tolist()} == {
        o: expected(value) for o, value in zip(offsets.tolist(), mix, strict=True)
    }
