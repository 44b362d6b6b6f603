"""Write the dashboards' JSON: `python -m ops.grafana.build`. A test compares it with the committed files."""

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from ops.grafana.boards import BOARDS
from ops.grafana.panels import SOURCE, Builder

FOLDER = Path(__file__).parent / "dashboards"
WINDOWS = ("5m", "15m", "1h", "6h", "1d", "7d")


def choice(name: str) -> Builder:
    """Build a variable of a dashboard: a time window, or the values of a label."""
    if name == "window":
        window = dashboard.IntervalVariable("window").label("Window").values(",".join(WINDOWS))
        return window.current(VariableOption(selected=True, text="1d", value="1d"))
    of_label = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE)
    metric = "expunge_requests_unserved" if name == "tenant" else "expunge_unlearning_seconds_count"
    asked = {"query": f"label_values({metric}, {name})", "refId": name}
    of_label = of_label.query(asked).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    every = VariableOption(selected=True, text=["All"], value=["$__all"])
    return of_label.multi(True).include_all(True).all_value(".*").current(every)


def promotions() -> Builder:
    """Mark when a model got another served version, by a job or by promotion."""
    changed = "changes(expunge_served_version[1m]) > 0"
    marked = dashboard.AnnotationQuery().name("Promotions").datasource(SOURCE).expr(changed)
    return marked.enable(True).icon_color("blue")


def board(name: str) -> str:
    """Build a dashboard's JSON."""
    title, rows, choices = BOARDS[name]
    made = dashboard.Dashboard(title).uid(f"expunge-{name}").description(rows.__doc__ or "").tags(["expunge"])
    made = (
        made.time("now-7d", "now").refresh("30s").timezone("browser").editable().tooltip(DashboardCursorSync.CROSSHAIR)
    )
    others = dashboard.DashboardLink("Expunge").type(DashboardLinkType.DASHBOARDS).tags(["expunge"]).as_dropdown(True)
    made = made.annotation(promotions()).link(others.keep_time(True).include_vars(True))
    for each in choices:
        made = made.with_variable(choice(each))
    number = 0
    for row, panels in rows().items():
        number += 1
        made = made.with_row(dashboard.Row(row).id(number))
        for panel in panels:
            number += 1
            made = made.with_panel(panel.id(number))
    return JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False).encode(made.build()) + "\n"


def main() -> None:
    """Write every dashboard."""
    for name in BOARDS:
        (FOLDER / f"{name}.json").write_text(board(name))


if __name__ == "__main__":
    main()
