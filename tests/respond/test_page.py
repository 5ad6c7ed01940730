import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPMessage

import numpy as np
import pytest

from agent.respond import page
from agent.respond.expose import Runtime
from agent.respond.page.history import SPAN_MS, STEP_MS, Point
from agent.respond.page.vital import vitals
from agent.respond.server import Server
from agent.respond.view import (
    AlarmView,
    ConstraintView,
    CounterKey,
    MetricLife,
    MetricValue,
    ModelView,
    MonitorKey,
    Related,
    Severity,
    View,
    WindowView,
)
from detectors import Evidence, GroupRatio, MissingSurge
from tests.respond.examples import (
    ACCURACY,
    DRIFT,
    FAIRNESS,
    HOUR,
    evidence,
    model,
    monitor,
    version,
    view,
    window,
)

VOID = {"meta", "link", "br", "hr", "img", "input"}
ALLOWED = {
    "class",
    "id",
    "href",
    "role",
    "scope",
    "datetime",
    "aria-label",
    "data-label",
    "lang",
    "content",
    "name",
}
ALLOWED |= {
    "charset",
    "http-equiv",
    "rel",
    "viewbox",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "cx",
    "cy",
    "r",
    "rx",
}
ALLOWED |= {"width", "height", "points"}
HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\u202e\x00\ud800"


class Page(HTMLParser):
    """The page as a browser would see it; fails on markup that does not nest."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(body.decode())
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.parts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts))


def shown(
    one: View, history: page.History | None = None, runtime: Runtime | None = None, **how: object
) -> Page:
    return Page(page.render(one, history, runtime, **how))  # type: ignore[arg-type]


def alarm(
    key: MonitorKey = FAIRNESS,
    severity: Severity = Severity.PAGE,
    resolved_ms: int | None = None,
    found: Evidence | None = None,
) -> AlarmView:
    reason = "fired" if resolved_ms is None else "recovered"
    return AlarmView(key, severity, 2 * HOUR, resolved_ms, found or evidence(1.2), reason)


def ratio(**changes: object) -> Evidence:
    found = Evidence(11.0, 10.0, 2128, False, 2.4, 1.27, 4.72, 1.0, (0.8, 1.25))
    return replace(found, **changes)  # type: ignore[arg-type]


def broken(name: str = "credit") -> ModelView:
    key = FAIRNESS._replace(model_name=name)
    watched = [
        monitor(ACCURACY._replace(model_name=name)),
        monitor(key, "fairness", Severity.PAGE, ratio(value=2.5, samples=900), active=True),
    ]
    return model(name, monitors=watched, alarms=[alarm(key, found=ratio())])


def windows(
    metrics: Mapping[str, Mapping[str, MetricValue]], counts: Mapping[str, int]
) -> Mapping[str, WindowView]:
    return {"1h": WindowView(0, HOUR, metrics, counts), "lifetime": WindowView(0, HOUR, metrics, counts)}


def test_a_red_line_says_what_is_tolerated_what_is_seen_since_when_and_how_sure() -> None:
    """The why of an active page is on the page, in words, before anything else of its model."""
    text = shown(view(broken())).text
    for said in (
        "credit: 1 red line is broken",
        "False positive rate of sex=f is out of proportion",
        "sex=f is wrongly predicted positive 2.40 times as often as those it is compared with.",
        "Tolerated 0.80 × to 1.25 ×",
        "Seen at the alarm 2.40 × (95 % interval 1.27 × to 4.72 ×), from 2,128 events",
        "Seen now 2.50 ×",
        "1 Jan 1970, 02:00 UTC (3 h 0 min ago, in event time)",
        "The evidence is 1.10 × the bar that keeps false alarms within their budget.",
    ):
        assert said in text
    assert text.index("Red lines broken") < text.index("Vital numbers") < text.index("Drift suspects")


def test_a_vital_number_stands_with_its_bar_its_baseline_its_n_and_its_meaning() -> None:
    """Accuracy is shown as measured, with what is tolerated and what it means."""
    text = shown(view()).text
    assert "Accuracy outside, not proven 81.2 %" in text
    assert (
        "baseline 90.0 % · tolerated at least 85.5 % · n = 160 Share of predictions that are right." in text
    )


@pytest.mark.parametrize(
    ("low", "active", "said"),
    [(0.8, False, "ok"), (0.85, False, "outside, not proven"), (0.85, True, "broken")],
)
def test_a_number_outside_its_bar_is_neither_ok_nor_broken_without_proof(
    low: float, active: bool, said: str
) -> None:
    """What chance may do is not called well, and nobody is alarmed by it."""
    found = replace(evidence(), tolerance=(low, None))
    assert (
        f"Accuracy {said} 81.2 %" in shown(view(model(monitors=[monitor(found=found, active=active)]))).text
    )


@pytest.mark.parametrize("name", ["credit", "other"])
def test_three_to_five_vital_numbers(name: str) -> None:
    """The first screen of a model with every kind of monitor has at least three numbers and at most five."""
    keys = [ACCURACY, DRIFT, FAIRNESS, ACCURACY._replace(detector="missing_surge", metric="", feature="age")]
    keys.append(MonitorKey("credit", "", "volume_drop"))
    found = vitals(model(name, monitors=[monitor(key) for key in keys]))
    assert 3 <= len(found) <= 5
    assert len({vital.id for vital in found}) == len(found)


def test_unknown_is_never_zero() -> None:
    """Values that are not there, NaN and infinities are said to be unknown or not enough evidence."""
    silent = version(
        windows=windows({"": {}, "sex=f": {"recall": MetricValue(float("nan"), 4)}}, {"": 12, "sex=f": 4})
    )
    keys = [monitor(ACCURACY, found=evidence(warming_up=True, value=None))]
    keys.append(
        monitor(FAIRNESS, "fairness", found=ratio(statistic=float("inf"), value=float("inf"), low=None))
    )
    text = shown(view(model(versions=[silent], monitors=keys))).text
    assert (
        "Accuracy not enough evidence not enough evidence: too few labels for 12 predictions, last hour"
        in text
    )
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert " 0.0 %" not in text


def test_a_group_that_is_too_small_is_said_to_be_so_by_its_count() -> None:
    """12 of 30: what the real detector still lacks is what the page says it lacks."""
    detector = GroupRatio(log_threshold=10.0)
    detector.update(np.array([6, 6, 100, 100]))
    key = FAIRNESS._replace(metric="selection_rate")
    few = version(windows=windows({}, {"": 212, "sex=f": 12}))
    small = model(versions=[few], monitors=[monitor(key, "fairness", found=detector.evidence)])
    text = shown(view(small)).text
    assert "not enough evidence: 12 of 30 in the group" in text
    detector.update(np.array([9, 9, 100, 100]))
    known = replace(small, monitors=[monitor(key, "fairness", found=detector.evidence)])
    assert "of 30 in the group" not in shown(view(known)).text


@pytest.mark.parametrize(("events", "said"), [(12, True), (29, True), (30, False)])
def test_a_rate_lacks_what_its_detector_lacks(events: int, said: bool) -> None:
    """The 30 of the page is the 30 of the real detector."""
    detector = MissingSurge(0.0, log_threshold=10.0)
    detector.update(np.array([0, events]))
    key = MonitorKey("credit", "v1", "missing_surge", feature="age")
    text = shown(view(model(monitors=[monitor(key, "silence", found=detector.evidence)]))).text
    assert (f"not enough evidence: {events} of 30 events" in text) is said


@pytest.mark.parametrize(
    ("found", "active", "said"),
    [
        (ratio(), True, "broken"),
        (ratio(statistic=0.0), False, "ok"),
        (ratio(warming_up=True), False, "not enough"),
    ],
)
def test_the_verdict_on_a_group_has_three_values(found: Evidence, active: bool, said: str) -> None:
    """A latched alarm is broken, a settled monitor is ok, one that is warming up is neither."""
    text = shown(view(model(monitors=[monitor(FAIRNESS, "fairness", found=found, active=active)]))).text
    table = text[text.index("Fairness Each group") : text.index("Drift suspects")]
    assert said in table
    assert ("2.40 × (1.27 × to 4.72 ×), n = 2,128" in table) is not found.warming_up


def test_without_models_the_page_says_so() -> None:
    """Before the first event there is a page, and it claims nothing."""
    text = shown(View({}, {}, {}, 0, 0.0)).text
    assert "No model has been seen yet" in text
    assert "Last commit never" in text
    assert "No record has been read yet" in text
    assert "no red line" not in text


def test_before_any_monitor_knows_enough_all_is_not_well() -> None:
    """A model without a settled monitor is not said to be without a broken red line."""
    text = shown(view(model(monitors=[monitor(found=evidence(warming_up=True))]))).text
    assert "credit: not enough evidence yet" in text
    assert "no red line" not in text


def everywhere(name: str) -> View:
    """A view with one name in every place that a stranger can write to."""
    key = MonitorKey(name, name, "group_ratio", segment=name, metric=name)
    unheard = MonitorKey(name, name, name, name, name, name)
    keys = [
        key,
        unheard,
        *(unheard._replace(detector=d) for d in ("rate_drop", "histogram_drift", "missing_surge")),
    ]
    values = {name: MetricValue(0.5, 40), f"recall:{name}": MetricValue(0.5, 40)}
    own = version(
        name,
        windows={"1h": replace(window([name], [name]), metrics={"": values, name: values}), name: window()},
    )
    severities = (Severity.PAGE, Severity.TICKET)
    data = {"reason": name, "model_version": name, "labels": name, "cooldown_until": name, "evidence": []}
    one = model(
        name,
        versions=[own],
        monitors=[monitor(k, name, active=True) for k in keys],
        alarms=[alarm(k, s, r) for k in keys for s in severities for r in (None, 3 * HOUR)],
    )
    one = replace(
        one,
        task=name,
        triggers=[
            {
                "time": "2026-08-01T12:00:00Z",
                "data": data,
                "verdict": {"metric": name, "verdict": name, "previous": name},
            }
        ],
        suppressed={name: 1},
        join={name: 1},
        held=[replace(alarm(unheard), reason=name)],
        constraints=[ConstraintView(unheard, 1, 0.5, None, name, evidence(), True)],
        objectives=[name],
        life={name: MetricLife(name, name, None, None, True, False)},
    )
    topic = (("outcome", name), ("topic", name))
    counters = {CounterKey("records", topic): 3, CounterKey("records_read", (("topic", name),)): 3}
    counters[CounterKey("dead_letters", (("reason", name), ("topic", name)))] = 1
    return replace(view(one, model("other"), counters=counters), agent_version=name)


@pytest.mark.parametrize("chosen", [None, HOSTILE])
def test_hostile_names_stay_text(chosen: str | None) -> None:
    """Markup in names of models, features, groups, reasons and topics is shown, not obeyed."""
    one = everywhere(HOSTILE)
    found = shown(one, page.noted({}, one), model_name=chosen)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "img", "iframe", "object", "form", "input", "base"}
    assert {name for _, attributes in found.tags for name in attributes} <= ALLOWED
    links = [a["href"] or "" for tag, a in found.tags if tag in ("a", "link")]
    assert all(link.startswith(("/", "data:image/svg+xml,")) for link in links)
    assert "<script>alert(1)</script>" in found.text
    assert not re.search(r"[\u202e\x00\ud800]", found.text)


def test_every_model_is_reachable_and_the_worst_comes_first() -> None:
    """The list of models starts with broken red lines; each has a link that gives its own page."""
    one = view(*(model(f"m{i} &?=/#") for i in range(9)), broken("zz"))
    found = shown(one)
    links = [a["href"] or "" for tag, a in found.tags if tag == "a" and "model=" in (a["href"] or "")]
    assert len(links) == 10
    assert links[0] == "/?model=zz"
    assert "10 models: 1 red line is broken" in found.text
    alone = shown(one, model_name="m3 &?=/#")
    assert "m3 &?=/#: no red line broken" in alone.text
    assert "zz" not in alone.text


@pytest.mark.parametrize(("merged", "said"), [(197, "no: 1 missing"), (198, "yes"), (199, "no: 1 too many")])
def test_records_that_do_not_add_up_are_said_not_to(merged: int, said: str) -> None:
    """Read = merged + late + duplicate + dead-lettered + ignored is worked out, not claimed."""
    topic = ("topic", "predictions")
    became = {"merged": merged, "dead_lettered": 2}
    counters = {CounterKey("records", (("outcome", o), topic)): n for o, n in became.items()}
    counters[CounterKey("records_read", (topic,))] = 200
    counters[CounterKey("dead_letters", (("reason", "malformed_json"), topic))] = 2
    text = shown(view(counters=counters)).text
    assert f"{merged:,} 0 0 2 0 {said}" in text
    assert "malformed json: 2" in text


def test_retraining_is_told_with_its_reason_and_what_came_of_it() -> None:
    """Requests, the ones that were held back, and the verdict of the version that followed."""
    asked = {"time": "2026-08-01T12:00:00.000Z", "data": {"reason": "constraint_broken", "labels": 4872}}
    verdict = {
        "verdict": "better",
        "metric": "accuracy",
        "previous": {"value": 0.8},
        "current": {"value": 0.85},
    }
    told = shown(
        view(replace(model(), triggers=[{**asked, "verdict": verdict}], suppressed={"cooldown": 2}))
    ).text
    assert "1 Aug 2026, 12:00 UTC A red line is broken 4,872 – Better accuracy 80.0 % → 85.0 %" in told
    assert "too soon after the last request: 2" in told
    assert "not known yet" in shown(view(replace(model(), triggers=[asked]))).text


def line(broken_: bool, found: Evidence) -> ConstraintView:
    key = MonitorKey("credit", "v1", "red_line", segment="sex=f", metric="recall")
    return ConstraintView(key, 1, 0.7, None, "24h", found, broken_)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (
            line(True, ratio(value=0.6, low=0.55, high=0.65)),
            "60.0 % (interval 55.0 % to 65.0 %), from 2,128 events broken",
        ),
        (line(False, ratio(value=0.8, low=None, high=None)), "80.0 %, from 2,128 events ok"),
        (
            line(False, ratio(warming_up=True, value=None, low=None, high=None)),
            "unknown, from 2,128 events not enough",
        ),
    ],
)
def test_configured_red_lines_stand_with_their_bar_and_verdict(one: ConstraintView, said: str) -> None:
    """A constraint is shown in its order, with its bar, its window and one of three verdicts."""
    text = shown(view(replace(model(), constraints=[one]))).text
    assert f"Recall sex=f at least 70.0 % last 24 h {said}" in text


def test_what_is_held_back_and_what_belongs_together_is_told() -> None:
    """A pending alarm says what holds it; a page names its suspects and what else is broken."""
    related = (Related(DRIFT, "suspect", 1.4), Related(FAIRNESS, "also_broken", 1.2))
    held = [replace(alarm(ACCURACY), reason="maintenance")]
    one = replace(model(alarms=[replace(alarm(FAIRNESS), related=related)]), held=held)
    text = shown(view(one)).text
    assert "Suspects age no longer looks as in the baseline" in text
    assert "Also broken False positive rate of sex=f is out of proportion" in text
    assert "nobody is called: Accuracy is worse than tolerated (maintenance)" in text


def test_objectives_are_the_vital_numbers_and_name_their_owner() -> None:
    """What the configuration calls an objective is on the first screen, with who answers for it."""
    life = {"true_negatives": MetricLife("objective", "risk team", None, None, True, False)}
    one = replace(model(), objectives=["true_negatives", "accuracy"], life=life, reviews_due=1)
    assert [vital.id for vital in vitals(one)][:2] == ["quality:true_negatives", "quality:accuracy"]
    text = shown(view(one)).text
    assert "True negatives no bar 70" in text
    assert "owner: risk team, review is due" in text


def test_resolved_alarms_say_how_they_ended() -> None:
    """An alarm that is over is history, not a red line."""
    text = shown(view(model(alarms=[alarm(ACCURACY, resolved_ms=4 * HOUR)]))).text
    assert "no red line broken" in text
    assert "for 2 h 0 min recovered" in text


def test_old_and_blind_pages_say_so() -> None:
    """A loop that stands still and a source that is away are said at the top; otherwise nothing is."""
    assert "old" not in shown(view(), runtime=Runtime(connected=True)).text
    assert "stood still for 75 s: everything below is old" in shown(view(), stalled_s=75.2).text
    assert "cannot be reached" in shown(view(), runtime=Runtime(connected=False)).text


def test_it_refreshes_itself_unless_paused() -> None:
    """The refresh needs no script, and can be stopped by whoever reads slowly."""
    assert ("meta", {"http-equiv": "refresh", "content": "15"}) in shown(view()).tags
    assert all("http-equiv" not in attributes for _, attributes in shown(view(), paused=True).tags)


def points(spans: Sequence[int]) -> page.History:
    """The history after views at these event times."""
    history: page.History = {}
    for at in spans:
        history = page.noted(history, view(replace(model(), watermark_ms=at)))
    return history


def test_history_is_bounded_and_ordered() -> None:
    """Two days of commits leave one point in five minutes of the last 24 hours, the newest of each."""
    kept = points(range(0, 2 * SPAN_MS, STEP_MS // 2))["credit", "quality:accuracy"]
    assert len(kept) <= SPAN_MS // STEP_MS + 1
    times = [point.at_ms for point in kept]
    assert times == sorted(set(times))
    assert times[-1] == 2 * SPAN_MS - STEP_MS // 2
    assert times[0] > times[-1] - SPAN_MS - STEP_MS


def test_history_forgets_models_that_are_gone_and_keeps_gaps() -> None:
    """What is no longer in the view has no line; what was unknown is a gap, not a zero."""
    history = points([0])
    gap = view(
        replace(model(versions=[version(windows={"1h": WindowView(0, 1, {}, {"": 3})})]), watermark_ms=HOUR)
    )
    history = page.noted(history, gap)
    assert history["credit", "quality:accuracy"] == (Point(0, 0.8125), Point(HOUR, None))
    assert page.noted(history, view(model("other"))).keys() >= {("other", "drift")}
    assert all(name == "other" for name, _ in page.noted(history, view(model("other"))))


def test_the_line_is_broken_where_nothing_was_known() -> None:
    """A gap in the history splits the line in two."""
    line = tuple(Point(i * STEP_MS, None if i == 5 else 0.8) for i in range(12))
    found = shown(view(), {("credit", "quality:accuracy"): line})
    assert sum(tag == "polyline" for tag, _ in found.tags) == 2


@pytest.fixture
def server() -> Iterator[Server]:
    """The agent's real server on a free port, its loop beating."""
    running = Server("127.0.0.1", 0, time.monotonic, live_s=30)
    running.start()
    running.beat()
    yield running
    running.close()


def get(server: Server, path: str, method: str = "GET") -> tuple[int, HTTPMessage, bytes]:
    """One request over a real connection."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_it_is_served_at_the_root_under_a_strict_policy(server: Server) -> None:
    """The style sheet is allowed by the hash of the very bytes that are sent, and nothing else is."""
    server.publish(view(broken()), Runtime(connected=True))
    code, headers, body = get(server, "/")
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    style = re.findall(rb"<style>(.*?)</style>", body, re.DOTALL)
    assert len(style) == 1
    digest = b64encode(sha256(style[0]).digest()).decode()
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == f"'sha256-{digest}'"
    assert "script-src" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "1 red line is broken" in Page(body).text
    head = get(server, "/", "HEAD")
    assert (head[0], head[2]) == (200, b"")
    assert head[1]["Content-Length"] == str(len(body))


@pytest.mark.parametrize("query", ["?model=a%20b%2F%3C", "?paused&model=a+b/%3C"])
def test_one_model_has_its_own_page(server: Server, query: str) -> None:
    """A model is asked for by its name, however it is spelled."""
    server.publish(view(model("a b/<"), broken("other")))
    text = Page(get(server, f"/{query}")[2]).text
    assert "a b/<: no red line broken" in text
    assert "other" not in text.split("Every record")[0].replace("the others", "")


@pytest.mark.parametrize("query", ["?model=%3Cscript%3E", "?model=", "?model=%ff%00", "?model=CREDIT"])
def test_an_unknown_model_is_not_found_and_not_repeated(server: Server, query: str) -> None:
    """What a stranger puts into the address does not come back."""
    server.publish(view())
    code, headers, body = get(server, f"/{query}")
    assert (code, body) == (404, b"not found: no such model\n")
    assert headers["Content-Type"].startswith("text/plain")


def test_a_loop_that_stands_still_is_said_as_soon_as_it_does(server: Server) -> None:
    """The page of a commit that was fresh when first shown says that it is old once it is, and not after."""
    server.publish(view())
    assert "stood still" not in Page(get(server, "/")[2]).text
    server.now = lambda: time.monotonic() + 40
    assert "stood still for 40 s" in Page(get(server, "/")[2]).text
    server.beat()
    assert "stood still" not in Page(get(server, "/")[2]).text


def test_lines_grow_with_the_commits(server: Server) -> None:
    """Each published view adds to the sparklines; one that is looked at late has the history of all."""
    for hour in range(4):
        server.publish(view(replace(model(), watermark_ms=hour * HOUR)))
    found = Page(get(server, "/")[2])
    line = next(attributes["points"] or "" for tag, attributes in found.tags if tag == "polyline")
    assert len(line.split()) == 4


def test_a_page_costs_nothing_until_somebody_looks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits do not render the page; the first look does, and the next ones at the same commit reuse it."""
    made: list[bytes] = []
    real = page.render

    def counted(*args: object, **how: object) -> bytes:
        made.append(real(*args, **how))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(page, "render", counted)
    for _ in range(5):
        server.publish(view())
    assert made == []
    assert get(server, "/")[2] == get(server, "/")[2]
    assert len(made) == 1
