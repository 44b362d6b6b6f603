"""The kinds of panels and of PromQL queries, so that a dashboard is a table of them; and panels that several dashboards have.

A panel's queries are pairs of PromQL and legend.
"""

from collections.abc import Mapping
from typing import Any

from grafana_foundation_sdk.builders import barchart, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="expunge")
"""The provisioned data source."""

Queries = tuple[tuple[str, str], ...]
Builder = Any
"""A builder of the SDK; its own types name one panel each."""
Rows = dict[str, list[Builder]]
"""Panels under the title of their row."""


def _targets(queries: Queries) -> list[Builder]:
    """Build range queries, each with its letter."""
    return [target.range().legend_format(legend) for target, (_, legend) in zip(_asked(queries), queries, strict=True)]


def _rows(queries: Queries) -> list[Builder]:
    """Build instant queries at the end of the range, for a table or a bar chart."""
    return [target.instant().format(PromQueryFormat.TABLE) for target in _asked(queries)]


def _asked(queries: Queries) -> list[Builder]:
    lettered = zip("ABCDEFGH", queries, strict=False)
    return [prometheus.Dataquery().ref_id(letter).expr(asked).datasource(SOURCE) for letter, (asked, _) in lettered]


def _common(panel: Builder, title: str, text: str, *, width: int, height: int, unit: str) -> Builder:
    return panel.title(title).description(text).datasource(SOURCE).span(width).height(height).unit(unit)


def graph(
    title: str,
    text: str,
    *queries: tuple[str, str],
    unit: str,
    width: int = 12,
    top: float | None = None,
    stacked: bool = False,
) -> Builder:
    """Draw lines over time, or areas on top of each other.

    The axis starts at 0, or lower for negative values; `top` fixes its upper end.
    """
    panel = _common(timeseries.Panel(), title, text, width=width, height=8, unit=unit).targets(_targets(queries))
    last = VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE).placement(common.LegendPlacement.BOTTOM)
    panel = panel.legend(last.show_legend(True).calcs(["lastNotNull"]))
    panel = panel.tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)).fill_opacity(8)
    panel = panel.axis_soft_min(0)
    if stacked:
        panel = panel.fill_opacity(60).stacking(StackingConfig().mode(common.StackingMode.NORMAL))
    return panel if top is None else panel.min(0).max(top)


def number(
    title: str,
    text: str,
    expression: str,
    *,
    unit: str = "none",
    bad_from: float | None = None,
    bad: str = "red",
    good: str = "green",
    width: int = 4,
) -> Builder:
    """Show one figure, at the end of the range, in the colour `good`, and in `bad` from `bad_from` on.

    For a count `bad_from` is 0.5: `increase` extrapolates, and gives 0.98 or 1.02 for one event.
    """
    panel = _common(stat.Panel(), title, text, width=width, height=4, unit=unit)
    (target,) = _asked(((expression, ""),))
    panel = panel.targets([target.instant()]).reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).no_value("–")
    if unit == "none":  # a count, of which `increase` returns fractions
        panel = panel.decimals(0)
    steps = [Threshold(value=None, color=good)]
    if bad_from is not None:
        steps.append(Threshold(value=bad_from, color=bad))
    return panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))


def bars(title: str, text: str, expression: str, *, rows: str, columns: str, unit: str) -> Builder:
    """Draw stacked horizontal bars: a bar for each value of the label `rows`, a segment for each value of `columns`."""
    panel = _common(barchart.Panel(), title, text, width=12, height=9, unit=unit)
    matrix = {"columnField": columns, "rowField": rows, "valueField": "Value"}
    panel = panel.targets(_rows(((expression, ""),))).orientation(common.VizOrientation.HORIZONTAL)
    panel = panel.with_transformation(DataTransformerConfig(id_val="groupingToMatrix", options=matrix))
    return panel.stacking(common.StackingMode.NORMAL)


def coloured(panel: Builder, colours: Mapping[str, str]) -> Builder:
    """Give the panel's series fixed colours, by name."""
    for name, colour in colours.items():
        fixed = DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
        panel = panel.override_by_name(name, [fixed])
    return panel


def listing(title: str, text: str, *queries: tuple[str, str], seconds: tuple[str, ...] = ()) -> Builder:
    """Show a table with a column for each query, named by its legend; columns in `seconds` are times."""
    panel = _common(table.Panel(), title, text, width=12, height=9, unit="none").targets(_rows(queries))
    names = {f"Value #{letter}": legend for letter, (_, legend) in zip("ABCDEFGH", queries, strict=False)}
    organised = {"excludeByName": {"Time": True}, "renameByName": names}
    panel = panel.show_header(True).with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=organised))
    for column in seconds:
        panel = panel.override_by_name(column, [DynamicConfigValue(id_val="unit", value="s")])
    return panel


CHOSEN = 'tenant=~"$tenant", model=~"$model", method=~"$method"'
"""The series of the tenants, models and methods chosen above the dashboard."""


def mean(metric: str, by: str = "", *, chosen: str = "", window: str = "$window") -> str:
    """Compute the mean of a histogram's values over a window; empty without values."""
    over = f"sum by ({by})" if by else "sum"
    total, count = (f"{over} (increase({metric}_{part}{{{chosen}}}[{window}]))" for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def all_time_mean(metric: str, by: str, *, chosen: str = "") -> str:
    """Compute the mean of all values of a histogram."""
    return f"sum by ({by}) ({metric}_sum{{{chosen}}}) / (sum by ({by}) ({metric}_count{{{chosen}}}) > 0)"


def quantile(
    share: float, metric: str, by: str = "", *, chosen: str = "", window: str = "$window", of: str = "increase"
) -> str:
    """Estimate a quantile from the histogram's buckets."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({of}({metric}_bucket{{{chosen}}}[{window}])))"


def spread(metric: str, by: str = "", *, chosen: str = "") -> tuple[tuple[str, str], tuple[str, str]]:
    """Build two queries with their legends: median and 95th percentile over the window."""
    of_which = "".join(f"{{{{{label}}}}} · " for label in by.split(", ") if label)
    middle, high = (quantile(share, metric, by, chosen=chosen) for share in (0.5, 0.95))
    return (middle, f"{of_which}median"), (high, f"{of_which}95 %")


def jobs_running() -> Builder:
    """Show how many jobs workers run."""
    return number("Jobs running", "Jobs that a worker runs.", "expunge:jobs_held:sum")


def failed_jobs() -> Builder:
    """Show how many jobs need a retry."""
    return number(
        "Failed jobs",
        "They ended and left requests unserved: retry them, or withdraw or dismiss the requests.",
        'sum(expunge_jobs_unserved{tenant=~"$tenant"})',
        bad_from=0.5,
    )


def next_deadline() -> Builder:
    """Show the time until the next legal deadline."""
    return number(
        "Next deadline in",
        "Until the first unserved request is due, of all tenants.",
        "expunge_earliest_deadline_timestamp_seconds - time()",
        unit="s",
    )
