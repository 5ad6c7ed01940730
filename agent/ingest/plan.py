"""All that is decided about a source before its first record: where its fields are, in which envelope."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from agent.config import SourceConfig
from agent.errors import ConfigError
from agent.events import Kind
from agent.ingest import columns
from agent.ingest.envelope import CE_TIME, CE_TYPE, into_envelope
from agent.ingest.mapping import CONTAINERS, FieldMap, Schema, Term, compile_fields
from agent.ingest.parse import JsonSchema, json_schema


@dataclass(frozen=True, slots=True)
class Reader:
    """How to read one source under one envelope."""

    fields: FieldMap
    json: JsonSchema
    texts: tuple[pl.Expr, ...]
    sees_envelopes: bool

    @classmethod
    def of(cls, fields: FieldMap, type_term: Term) -> Reader:
        paths = {t.path for t in (*fields.terms, type_term) if t.root == "value"}
        sees = type_term == CE_TYPE and not any(p[0] in {"specversion", "data"} for p in paths)
        try:
            schema = json_schema(paths | ({("specversion",), ("data",)} if sees else set()))
        except ValueError as error:
            raise ConfigError(f"sources: fields: {error}. Map one of the two elsewhere.") from error
        return cls(fields, schema, columns.texts(fields, type_term, columns.nested), sees)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the decoder knows of a source."""

    kind: Kind | None
    """None: told by each record."""
    labelled: bool
    """Each prediction carries its label, if that is known yet."""
    checks_type: bool
    fields: FieldMap
    containers: frozenset[tuple[str, ...]]
    """Where features may lie."""
    bare: Reader
    envelope: Reader
    header_names: frozenset[str]

    @classmethod
    def of(cls, source: SourceConfig, schema: Schema) -> Plan:
        fields = compile_fields(source, schema)
        timestamp = (*fields.scalars["timestamp"], CE_TIME)
        fields = replace(fields, scalars={**fields.scalars, "timestamp": timestamp})
        everything = compile_fields(source.model_copy(update={"kind": "auto"}), Schema(features=("",)))
        return cls(
            kind={"prediction": Kind.PREDICTION, "labelled": Kind.PREDICTION, "feedback": Kind.FEEDBACK}.get(
                source.kind
            ),
            labelled=source.kind == "labelled",
            # Other people's formats bring other people's types; with a fixed kind they are no contradiction.
            checks_type=source.kind == "auto" or source.preset == "native",
            fields=fields,
            containers=frozenset(t.path[:-1] for t in everything.features[""] if t.root == "value"),
            bare=Reader.of(fields, CE_TYPE),
            envelope=Reader.of(fields.moved(into_envelope), into_envelope(CE_TYPE)),
            header_names=frozenset({"content-type", "ce_type", "ce_time", *_names(fields, "header")}),
        )

    def unknown(self, record: object) -> set[str]:
        """Names beside the features that no place of the mapping reads."""
        if isinstance(record, dict) and "specversion" in record and "data" in record:
            record = record["data"]
        known = {t.path for t in self.fields.terms if t.root == "value"} | {(name,) for name in CONTAINERS}
        found: set[str] = set()
        for container in self.containers:
            inside = record
            for name in container:
                inside = inside.get(name) if isinstance(inside, dict) else None
            if isinstance(inside, dict):
                here = {
                    path[len(container)]
                    for path in known
                    if len(path) > len(container) and path[: len(container)] == container
                }
                found |= set(inside) - here
        return found


def _names(fields: FieldMap, root: str) -> set[str]:
    return {t.path[0] for t in fields.terms if t.root == root}
