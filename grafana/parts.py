"""Queries, panels and thresholds, as the dashboards spell them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Panel: TypeAlias = Builder[dashboard.Panel]

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")

AGENT = ('job=~"$job"', 'instance=~"$instance"')
MODEL = (*AGENT, 'model_name=~"$model_name"')
VERSION = (*MODEL, 'model_version=~"$model_version"')
OVERALL = (*VERSION, 'segment=""', 'window="$window"')
GROUPS = (*VERSION, 'segment=~"$segment"', 'window="$group_window"')
FEATURE = (*VERSION, 'feature=~"$feature"')

MODELS = "model_name"
VERSIONS = "model_name, model_version"

Steps = Sequence[tuple[float | None, str]]
PLAIN: Steps = ((None, "blue"),)
NONE_IS_WELL: Steps = ((None, "green"), (1, "red"))
FEW_ARE_WELL: Steps = ((None, "green"), (1, "orange"))
RATIO: Steps = ((None, "green"), (0.7, "orange"), (1, "red"))
ALL_OR_RED: Steps = ((None, "red"), (1, "green"))
PSI: Steps = ((None, "green"), (0.1, "orange"), (0.25, "red"))
SHARE_MISSING: Steps = ((None, "green"), (0.05, "orange"), (0.2, "red"))
FOUR_FIFTHS: Steps = ((None, "red"), (0.8, "green"), (1.25, "red"))

WIDTH = 24


def of(metric: str, matchers: Iterable[str], *more: str) -> str:
    """The series of a metric that match."""
    return f"{metric}{{{', '.join((*matchers, *more))}}}"


def rate(metric: str, matchers: Iterable[str], *more: str) -> str:
    """A counter per second."""
    return f"rate({of(metric, matchers, *more)}[$__rate_interval])"


def increase(metric: str, matchers: Iterable[str], *more: str) -> str:
    """A counter's growth between two points of the graph."""
    return f"increase({of(metric, matchers, *more)}[$__rate_interval])"


def by(how: str, labels: str, expr: str) -> str:
    """Aggregate over all labels but these; over all if there are none."""
    return f"{how} by ({labels}) ({expr})" if labels else f"{how}({expr})"


def worst(labels: str, expr: str) -> str:
    """The highest: what several agents say about the same thing is believed at its worst."""
    return by("max", labels, expr)


def total(labels: str, expr: str) -> str:
    """The sum over the rest."""
    return by("sum", labels, expr)


@dataclass(frozen=True)
class Query:
    """One query: `legend` names its lines; `table` asks for the last values only, as rows."""

    expr: str
    legend: str = "__auto"
    table: bool = False

    def target(self, ref: str) -> prometheus.Dataquery:
        """As the panel's query of this letter."""
        query = (
            prometheus.Dataquery().datasource(SOURCE).expr(self.expr).ref_id(ref).legend_format(self.legend)
        )
        query = query.instant() if self.table else query.range()
        return query.format(PromQueryFormat.TABLE if self.table else PromQueryFormat.TIME_SERIES)


@dataclass(frozen=True)
class Column:
    """A column: a label, or a value: "Value #B" is that of query B, "Value" that of the only query."""

    key: str
    title: str
    unit: str = "none"
    decimals: int | None = None
    steps: Steps = ()
    link: str = ""
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def properties(self) -> list[dashboard.DynamicConfigValue]:
        """As the overrides of its field."""
        found: dict[str, Any] = {"displayName": self.title, "unit": self.unit}
        if self.decimals is not None:
            found["decimals"] = self.decimals
        if self.steps:
            found["thresholds"] = thresholds(self.steps).build()
            found["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
        if self.texts:
            found["mappings"] = [words(self.texts)]
        if self.link:
            found["links"] = [{"title": "Look closer", "url": self.link, "targetBlank": False}]
        return [dashboard.DynamicConfigValue(name, value) for name, value in found.items()]


def thresholds(steps: Steps) -> build.ThresholdsConfig:
    """From which value on which colour; the first step has no lower end."""
    found = [dashboard.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(found)


def words(texts: Mapping[str, tuple[str, str]]) -> dashboard.ValueMap:
    """Values as a word in a colour."""
    return dashboard.ValueMap(
        {
            value: dashboard.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(texts.items())
        }
    )


def number(
    title: str,
    says: str,
    expr: str,
    *,
    unit: str = "none",
    steps: Steps = PLAIN,
    decimals: int | None = None,
    width: int = 4,
    height: int = 4,
    trend: bool = True,
    none: str = "no data",
    texts: Mapping[str, tuple[str, str]] | None = None,
) -> stat.Panel:
    """One vital number, its colour saying whether it is well, with its course behind it."""
    panel = (
        stat.Panel()
        .title(title)
        .description(says)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .no_value(none)
        .thresholds(thresholds(steps))
        .color_mode(
            common.BigValueColorMode.BACKGROUND if steps is not PLAIN else common.BigValueColorMode.NONE
        )
        .graph_mode(common.BigValueGraphMode.AREA if trend else common.BigValueGraphMode.NONE)
        .reduce_options(build_common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .targets([Query(expr).target("A")])
    )
    if texts:
        panel = panel.mappings([words(texts)])
    return panel if decimals is None else panel.decimals(decimals)


def course(
    title: str,
    says: str,
    *queries: Query,
    unit: str,
    width: int = 12,
    height: int = 8,
    steps: Steps = (),
    low: float | None = None,
    high: float | None = None,
    stacked: bool = False,
    bounds: Sequence[str] = (),
    none: str = "no data",
    link: str = "",
) -> timeseries.Panel:
    """A quantity over time; `steps` are drawn as lines, `bounds` names the queries drawn dashed."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(says)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .no_value(none)
        .line_width(1)
        .fill_opacity(25 if stacked else 0)
        .show_points(common.VisibilityMode.AUTO)
        .tooltip(
            build_common.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .legend(
            build_common.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .targets([query.target(chr(ord("A") + n)) for n, query in enumerate(queries)])
    )
    if stacked:
        panel = panel.stacking(build_common.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if steps:
        style = build_common.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(thresholds(steps)).thresholds_style(style)
    if low is not None:
        panel = panel.axis_soft_min(low)
    if high is not None:
        panel = panel.axis_soft_max(high)
    for ref in bounds:
        dashed = {"custom.lineStyle": {"fill": "dash", "dash": [6, 6]}, "custom.lineWidth": 1}
        panel = panel.override_by_query(ref, [dashboard.DynamicConfigValue(k, v) for k, v in dashed.items()])
    return panel.data_links([build.DashboardLink("Look closer").url(link)]) if link else panel


def states(
    title: str, says: str, *queries: Query, texts: Mapping[str, tuple[str, str]], none: str, height: int = 8
) -> statetimeline.Panel:
    """Bars that change their colour with the state."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(says)
        .datasource(SOURCE)
        .unit("none")
        .span(WIDTH)
        .height(height)
        .no_value(none)
        .mappings([words(texts)])
        .thresholds(thresholds(PLAIN))
        .show_value(common.VisibilityMode.NEVER)
        .row_height(0.8)
        .merge_values(True)
        .legend(
            build_common.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .targets([query.target(chr(ord("A") + n)) for n, query in enumerate(queries)])
    )


def rows(
    title: str,
    says: str,
    exprs: Mapping[str, str],
    columns: Sequence[Column],
    *,
    worst_by: Sequence[str],
    hidden: Sequence[str] = (),
    height: int = 8,
    width: int = WIDTH,
    none: str = "no data",
) -> table.Panel:
    """One row per set of labels, one query per value column; sorted by columns, the worst first."""
    order = {column.key: n for n, column in enumerate(columns)}
    panel = (
        table.Panel()
        .title(title)
        .description(says)
        .datasource(SOURCE)
        .unit("none")
        .span(width)
        .height(height)
        .no_value(none)
        .targets([Query(expr, table=True).target(ref) for ref, expr in exprs.items()])
        .with_transformation(dashboard.DataTransformerConfig("merge", options={}))
        .with_transformation(
            dashboard.DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": dict.fromkeys(["Time", *hidden], True),
                    "indexByName": order,
                    "renameByName": {},
                },
            )
        )
        .sort_by([build_common.TableSortByFieldState().display_name(name).desc(True) for name in worst_by])
    )
    for column in columns:
        panel = panel.override_by_name(column.key, column.properties())
    return panel
