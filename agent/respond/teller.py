"""The demo in the terminal: a line for all that happens, and the script beside it, ticked off row by row.

Reads committed views and nothing else, as any other face does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.ingest.story import END, MINUTE_MS, MODEL, START_MS, STORY, Expected, Incident, clock
from agent.respond.view import AlarmView, ModelView, View

Mark = Literal["story", "page", "ticket", "trigger", "resolved"]
_STYLES: dict[Mark, str] = {
    "story": "bold cyan",
    "page": "bold red",
    "ticket": "yellow",
    "trigger": "bold magenta",
    "resolved": "green",
}
_WORDS = {
    "histogram_drift": ("{feature} drifted", "divergence"),
    "rate_drop": ("{metric} fell", "now"),
    "missing_surge": ("{feature} goes missing", "share missing"),
    "confidence_collapse": ("confidence collapsed", "share confident"),
    "constant_predictions": ("predictions hardly vary", "largest share"),
    "volume_drop": ("predictions stopped coming", "of the expected"),
    "volume_surge": ("far too many predictions come", "of the expected"),
    "dead_segment": ("{segment} has fallen silent", "of the expected"),
    "error_surge": ("the model answers with errors", "share of errors"),
    "invalid_surge": ("{feature} has values of the wrong type", "share invalid"),
    "unseen_surge": ("{feature} has new categories", "share unseen"),
    "overconfidence": ("the model is sure of everything", "share certain"),
    "labels_late": ("labels are late", "share labelled"),
    "version_drop": ("{metric} is below the last version's", "now"),
    "slow_answers": ("answers take longer", "share slow"),
    "group_ratio": ("{metric} of {segment} is out of proportion", "ratio"),
}
"""By detector: what happened, and what its number is."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened, and the number that proves it."""

    minute: float
    mark: Mark
    text: str
    proof: str = ""


@dataclass(slots=True)
class Row:
    """How far one incident of the script has come."""

    incident: Incident
    raised: dict[Expected, float] = field(default_factory=dict)
    resolved: dict[Expected, float] = field(default_factory=dict)
    requested: float | None = None
    begun: bool = False
    over: bool = False

    @property
    def happened(self) -> bool:
        """Everything that the script says of this row was seen."""
        row = self.incident
        everything = len(self.raised) == len(row.alarms) and (self.requested is not None) == bool(row.request)
        return self.begun and everything and (self.over or bool(row.alarms or row.request))


class Teller:
    """Compares each view with the last one and with the script."""

    def __init__(self) -> None:
        self.rows = [Row(incident) for incident in STORY]
        self.unexpected: list[Line] = []
        self.minute = 0.0
        self._alarms: dict[tuple[object, int], AlarmView] = {}
        self._requests: set[str] = set()

    def tell(self, view: View) -> Sequence[Line]:
        """What is new since the last view, in the order in which it happened."""
        model = view.models.get(MODEL)
        if model is None or model.watermark_ms is None:
            return []
        self.minute = max(self.minute, _minute(model.watermark_ms))
        lines = [*self._begun(), *self._raised(model), *self._resolved(model), *self._requested(model)]
        self._over(model)
        return sorted(lines, key=lambda line: line.minute)

    def _begun(self) -> list[Line]:
        new = [row for row in self.rows if not row.begun and row.incident.start <= self.minute]
        for row in new:
            row.begun = True
        told = [
            row.incident for row in new if row.incident.name != "request"
        ]  # its line is the request itself
        return [Line(i.start, "story", i.title, i.what) for i in told]

    def _raised(self, model: ModelView) -> list[Line]:
        lines = []
        for alarm in model.alarms:
            identity = (alarm.key, alarm.raised_ms)
            if identity in self._alarms:
                continue
            self._alarms[identity] = alarm
            line = Line(_minute(alarm.raised_ms), alarm.severity.value, _words(alarm), _proof(alarm))
            row, expected = self._expected(alarm)
            if row is None or expected is None or expected in row.raised:
                self.unexpected.append(line)
            else:
                row.raised[expected] = line.minute
            lines.append(line)
        return lines

    def _resolved(self, model: ModelView) -> list[Line]:
        lines = []
        for alarm in model.alarms:
            identity = (alarm.key, alarm.raised_ms)
            if alarm.resolved_ms is None or self._alarms[identity].resolved_ms is not None:
                continue
            self._alarms[identity] = alarm
            row, expected = self._expected(alarm)
            minute = _minute(alarm.resolved_ms)
            if row is not None and expected is not None:
                row.resolved[expected] = minute
            lines.append(Line(minute, "resolved", f"{_words(alarm)}: {alarm.reason.replace('_', ' ')}"))
        return lines

    def _requested(self, model: ModelView) -> list[Line]:
        lines = []
        for event in model.triggers:
            if str(event["id"]) in self._requests:
                continue
            self._requests.add(str(event["id"]))
            data: Mapping[str, Any] = dict(event["data"])  # type: ignore[call-overload] # a CloudEvent's data
            minute = _minute(round(datetime.fromisoformat(str(event["time"])).timestamp() * 1000))
            proof = f"{data['reason']}, {data['labels']} labels to learn from"
            line = Line(minute, "trigger", "retraining requested", proof)
            row = next((r for r in self.rows if _asks(r, str(data["reason"]), minute)), None)
            if row is None:
                self.unexpected.append(line)
            else:
                row.requested = minute
            lines.append(line)
        return lines

    def _over(self, model: ModelView) -> None:
        healed = set(model.versions) == {"2"} and all(a.resolved_ms is not None for a in model.alarms)
        for row in self.rows:
            last = row.incident.name == "healed"
            if self.minute >= row.incident.seen_by and (healed or not last):
                row.over = True

    def _expected(self, alarm: AlarmView) -> tuple[Row | None, Expected | None]:
        key, minute = alarm.key, _minute(alarm.raised_ms)
        this = Expected(alarm.severity.value, key.detector, key.feature, key.segment, key.metric)
        for row in self.rows:
            if row.incident.start <= minute <= row.incident.seen_by and this in row.incident.alarms:
                return row, this
        return None, None


class Screen:
    """Where the lines go: above a live table on a terminal, one after the other elsewhere."""

    def __init__(self, port: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._port = port
        self._live: Live | None = None
        self._ended = False

    def __enter__(self) -> Self:
        self._console.print(f"http://localhost:{self._port}/metrics")
        self._console.print(
            "A credit model, watched for 22 hours in fast motion. Ctrl-C ends it.", style="dim"
        )
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, lines: Sequence[Line], teller: Teller) -> None:
        """Print what is new, and the script as it stands."""
        for line in lines:
            self._console.print(_text(line))
        if self._live is not None:
            self._live.update(_table(teller), refresh=True)
        if not self._ended and all(row.happened for row in teller.rows):
            self._ended = True
            if self._live is None:
                self._console.print(_table(teller))
            self._console.print("The story is told; /metrics is still served. Ctrl-C ends it.", style="dim")


def _text(line: Line) -> Text:
    return Text.assemble(
        (f"{clock(line.minute)}  ", "dim"),
        (f"{line.mark.upper() if line.mark == 'page' else line.mark:<9}", _STYLES[line.mark]),
        (f"{line.text}", "bold" if line.mark == "story" else ""),
        (f"  {line.proof}" if line.proof else "", "dim"),
    )


def _table(teller: Teller) -> Table:
    title = f"the story at {clock(min(teller.minute, END))}"
    if teller.unexpected:
        title += f"; {len(teller.unexpected)} that it does not tell"
    table = Table(title=title, title_justify="left")
    for name in ("", "from", "incident", "page", "ticket", "trigger", "resolved"):
        table.add_column(name)
    for row in teller.rows:
        sign = "✓" if row.happened else "▸" if row.begun else ""
        seen = {s: [m for e, m in row.raised.items() if e.severity == s] for s in ("page", "ticket")}
        table.add_row(
            sign,
            clock(row.incident.start),
            row.incident.title,
            *(_count(seen[s], sum(e.severity == s for e in row.incident.alarms)) for s in ("page", "ticket")),
            _count([] if row.requested is None else [row.requested], int(bool(row.incident.request))),
            _count(list(row.resolved.values()), len(row.incident.alarms), last=True),
        )
    return table


def _count(minutes: list[float], expected: int, *, last: bool = False) -> str:
    if not expected:
        return ""
    when = clock(max(minutes) if last else min(minutes)) if minutes else "…"
    return when if expected == 1 else f"{when} {len(minutes)}/{expected}"


def _asks(row: Row, reason: str, minute: float) -> bool:
    in_time = row.incident.start <= minute <= row.incident.seen_by
    return row.incident.request == reason and row.requested is None and in_time


def _minute(ms: int) -> float:
    return (ms - START_MS) / MINUTE_MS


def _words(alarm: AlarmView) -> str:
    key = alarm.key
    words = _WORDS.get(key.detector, ("{detector}", ""))[0].format(**key._asdict())
    return words.replace("_", " ") if key.metric else words


def _proof(alarm: AlarmView) -> str:
    value, (low, high) = alarm.evidence.value, alarm.evidence.tolerance
    if value is None:
        return ""
    bounds = [
        f"{limit} {bound:.2f}" for limit, bound in (("at least", low), ("at most", high)) if bound is not None
    ]
    name = _WORDS.get(alarm.key.detector, ("", "value"))[1]
    return f"{name} {value:.2f}, tolerated {' and '.join(bounds)}"
