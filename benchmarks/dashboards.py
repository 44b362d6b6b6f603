"""Pictures of the dashboards: run jobs, scrape them with Prometheus, run each panel's query and draw the result.

`python -m benchmarks.dashboards` trains the digits, runs requests by LTU, IEU and Retrain on a stack of its own, and draws
docs/images/dashboard-*.png. It takes three minutes on an idle core, and ten on a busy machine. It needs Debian's prometheus, and
its exporters for their panels. Grafana does not run: the queries are its panels' own, the drawing is ours.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MultipleLocator

from expunge import client
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import train_workload
from expunge.stack.broker import free_port
from expunge.stack.stack import Options, run_stack
from ops.prometheus.local import Prometheus, prometheus

DASHBOARDS = sorted(Path("ops/grafana/dashboards").glob("*.json"))
IMAGES = Path("docs/images")
WORKLOAD = "examples.digits:workload"
REQUESTS = (("ltu", range(0, 150)), ("ieu", range(150, 250)), ("retrain", range(250, 350)), ("ltu", range(350, 450)))
"""Each request's method, and the numbers of the digits to forget."""
STEP = 2.0
"""Seconds between scrapes, and between points of a line."""
PATIENCE = 1200.0
"""Seconds that the training may take, and each request."""
TICKS = {"s": (2, 5, 10, 20, 30, 60, 120, 300, 600, 1200), "bytes": tuple(1 << power for power in range(10, 40))}
"""Allowed distances between two marks of an axis, by its unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The run that Prometheus scraped, and when (seconds since the epoch)."""

    seen: Prometheus
    start: float
    end: float

    @property
    def window(self) -> str:
        """The whole duration in PromQL."""
        return f"{int(self.end - self.start)}s"


def main() -> None:
    """Run the jobs and draw each dashboard."""
    if shutil.which("prometheus") is None:
        raise SystemExit("prometheus is not installed (Debian: apt-get install prometheus).")
    with scraped_run() as span:
        for path in DASHBOARDS:
            draw(json.loads(path.read_text()), span, IMAGES / f"dashboard-{path.stem}.png")
            print(f"drew docs/images/dashboard-{path.stem}.png")


@contextmanager
def scraped_run() -> Iterator[Span]:
    """Run every request on a stack while Prometheus scrapes it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print("training the digits", flush=True)
        show = within(PATIENCE, "the training")
        trained = train_workload(
            WORKLOAD, allowed=("examples",), folder=folder / "weights", show=lambda progress: show()
        )
        options = Options(data_dir=folder / "data", port=free_port(), environment={"EXPUNGE_SWEEP_SECONDS": "2"})
        with (
            run_stack(options) as running,
            prometheus(running.settings, folder / "prometheus", interval=f"{STEP:g}s") as seen,
        ):
            start = time.time()
            register_workload(
                find_deployment(running.folder.root), name="digits", reference=WORKLOAD, weights=trained.path
            )
            time.sleep(3 * STEP)  # Prometheus must scrape the counters at zero first.
            assert running.api_key is not None
            with client.connect(running.url, running.api_key) as http:
                for method, numbers in REQUESTS:
                    serve(http, method, numbers)
            time.sleep(3 * STEP)
            yield Span(seen=seen, start=start, end=time.time())


def serve(http: httpx.Client, method: str, numbers: range) -> None:
    """Request the erasure of digits and wait until the jobs have ended."""
    ids = [f"digit-{number:04d}" for number in numbers]
    for job_id in client.job_ids(client.submit(http, dataset="digits", sample_ids=ids, method=method)):
        *_, job = client.watch_job(http, job_id, before_poll=within(PATIENCE, f"the request by {method}"))
        print(f"{method}: {job.state} {job.reason or ''}", flush=True)


def within(seconds: float, what: str) -> Callable[[], None]:
    """Return a function that raises TimeoutError once `what` has taken longer than `seconds`."""
    ends = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > ends:
            raise TimeoutError(f"{what} has not ended within {seconds:g} s; the machine may be too busy")

    return check


def draw(dashboard: dict[str, Any], span: Span, target: Path) -> None:
    """Draw every panel at its position in the dashboard."""
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(14, height * 0.34), layout=None)
    figure.suptitle(dashboard["title"], x=0.01, y=1 - 0.12 / height, ha="left", va="top", weight="bold")
    for row in dashboard["panels"]:
        if row["type"] == "row":
            figure.text(
                0.01, 1 - (row["gridPos"]["y"] + 1.2) / height, row["title"], weight="bold", color="grey", fontsize=9
            )
    for panel in panels:
        at = panel["gridPos"]
        left, width = (at["x"] + 1.4) / 24, (at["w"] - 1.9) / 24
        below = 0.9 if panel["type"] == "stat" else 2.2  # Room for a legend.
        bottom, top = 1 - (at["y"] + at["h"] - below) / height, 1 - (at["y"] + 1.5) / height
        axes = figure.add_axes((left, bottom, width, top - bottom))
        axes.set_title(panel["title"], loc="left", fontsize=9)
        KINDS[panel["type"]](axes, panel, span)
    figure.savefig(target, dpi=80)
    plt.close(figure)


def filled(query: str, span: Span) -> str:
    """Fill in a query's variables so that it covers the whole run."""
    for name in ("$window", "$__range"):
        query = query.replace(name, span.window)
    for name in ("$tenant", "$model", "$method"):
        query = query.replace(name, ".*")
    return query


def lines(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    """Draw a line for each series."""
    drawn = 0
    for target in panel["targets"]:
        for series in span.seen.query_range(filled(target["expr"], span), start=span.start, end=span.end, step=STEP):
            points = unbroken([(float(at) - span.start, float(value)) for at, value in series["values"]])
            if all(isnan(value) for _, value in points):  # A quantile without values.
                continue
            name = legend(target["legendFormat"], series["metric"])
            colour = colours(panel).get(name)
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, clip_on=False, color=colour)
            drawn += 1
    if not drawn:
        nothing(axes)
        return
    defaults = panel["fieldConfig"]["defaults"]
    if axes.dataLim.y0 >= 0:  # From zero, as the panel does.
        axes.set_ylim(0, 1.05 * axes.dataLim.y1 or 1)
    axes.set_ylim(defaults.get("min"), defaults.get("max"))
    axes.set_xlim(0, span.end - span.start)
    scale(axes.yaxis, defaults["unit"])
    scale(axes.xaxis, "s")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if drawn <= 12:
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=5, frameon=False)


def overrides(panel: dict[str, Any], what: str) -> dict[str, Any]:
    """Return what the panel sets for single series or columns, by name."""
    found = {each["matcher"]["options"]: each["properties"] for each in panel["fieldConfig"]["overrides"]}
    return {name: one["value"] for name, properties in found.items() for one in properties if one["id"] == what}


def colours(panel: dict[str, Any]) -> dict[str, str]:
    """Return the colours that the panel sets for series, by name."""
    return {name: set_to["fixedColor"] for name, set_to in overrides(panel, "color").items()}


def scale(axis: Axis, unit: str) -> None:
    """Format an axis's values in their unit, with round distances."""
    low, high = axis.get_view_interval()
    fitting = [step for step in TICKS.get(unit, ()) if 2 <= (high - low) / step <= 7]
    if fitting:
        axis.set_major_locator(MultipleLocator(fitting[0]))
    axis.set_major_formatter(lambda value, place: format_value(value, unit))


def unbroken(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Insert a NaN where the series has a gap, so that no line is drawn across it."""
    drawn: list[tuple[float, float]] = []
    for at, value in points:
        if drawn and at - drawn[-1][0] > 1.5 * STEP:
            drawn.append((at, float("nan")))
        drawn.append((at, value))
    return drawn


def legend(template: str, labels: dict[str, str]) -> str:
    """Fill in the labels of a legend."""
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def format_value(value: float, unit: str) -> str:
    """Format a value in its unit, as Grafana does."""
    scales = {"s": ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")), "bytes": ((1 << 20, "MiB"), (1 << 10, "KiB"))}
    for size, name in scales.get(unit, ()):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{100 * value:.3g} %" if unit == "percentunit" else f"{value:.3g}"


def figure_alone(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    """Draw the last value in large type."""
    found = span.seen.query(filled(panel["targets"][0]["expr"], span))
    defaults = panel["fieldConfig"]["defaults"]
    text, colour = defaults["noValue"], "grey"
    if found:
        value = float(found[0]["value"][1])
        text = f"{value:,.0f}" if defaults.get("decimals") == 0 else format_value(value, defaults["unit"])
        reached = [step for step in defaults["thresholds"]["steps"] if value >= (step["value"] or 0)]
        colour = reached[-1]["color"] if reached else colour
    axes.axis("off")
    colour = "black" if colour == "text" else colour  # Grafana's name for the colour of text
    axes.text(0, 0.5, text, ha="left", va="center", fontsize=18, color=colour)


def table(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    """Draw a table with the series of each query side by side."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    names = panel["transformations"][-1]["options"]["renameByName"]
    units = overrides(panel, "unit")
    for target in panel["targets"]:
        column = names[f"Value #{target['refId']}"]
        for series in span.seen.query(filled(target["expr"], span)):
            key = tuple(series["metric"].get(label, "") for label in ("model", "method"))
            rows.setdefault(key, {})[column] = format_value(float(series["value"][1]), units.get(column, "none"))
    axes.axis("off")
    if not rows:
        nothing(axes)
        return
    cells = [[*key, *(row.get(column, "–") for column in names.values())] for key, row in sorted(rows.items())]
    drawn = axes.table(cells, colLabels=["model", "method", *names.values()], loc="upper center")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)


def bars(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    """Draw stacked bars, grouped as in the panel."""
    grouped = panel["transformations"][0]["options"]
    found = span.seen.query(filled(panel["targets"][0]["expr"], span))
    values = {
        (s["metric"][grouped["rowField"]], s["metric"][grouped["columnField"]]): float(s["value"][1]) for s in found
    }
    rows, columns = (sorted({key[place] for key in values}) for place in (0, 1))
    left = dict.fromkeys(rows, 0.0)
    for column in columns:
        lengths = [values.get((row, column), 0.0) for row in rows]
        axes.barh(rows, lengths, left=list(left.values()), label=column, height=0.5, color=colours(panel).get(column))
        left = {row: start + length for (row, start), length in zip(left.items(), lengths, strict=True)}
    axes.set_ylim(-1, len(rows))
    scale(axes.xaxis, panel["fieldConfig"]["defaults"]["unit"])
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=6, frameon=False)


def nothing(axes: Axes) -> None:
    """Draw a note that the source was not running."""
    axes.axis("off")
    axes.text(0.5, 0.5, "no data: this source was not running", ha="center", va="center", color="grey", fontsize=9)


KINDS = {"timeseries": lines, "stat": figure_alone, "table": table, "barchart": bars}


if __name__ == "__main__":
    main()
