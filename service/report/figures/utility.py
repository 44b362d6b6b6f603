"""The panel of the accuracy of each class."""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from service.report.answers import most_changed
from service.report.document import Report
from service.report.figures.canvas import AFTER, BEFORE, MUTED, Panel, draw

MOST_CLASSES = 12


def utility(report: Report) -> Panel | None:
    """A line from before to after for each class, for the most changed ones where there are many; None without classes."""
    every = report.audit.utility.per_class
    shown = most_changed(every)[:MOST_CLASSES] if len(every) > MOST_CLASSES else every
    if not shown:
        return None

    def paint(axes: Axes) -> None:
        rows = range(len(shown))
        axes.hlines(rows, [one.original for one in shown], [one.unlearned for one in shown], color=MUTED, linewidth=1.5)
        axes.plot(
            [one.original for one in shown], rows, "o", color=BEFORE, fillstyle="none", markersize=8, label="before"
        )
        axes.plot([one.unlearned for one in shown], rows, "o", color=AFTER, markersize=6.5, label="after")
        axes.set_yticks(rows, [_short(one.label) for one in shown])
        axes.invert_yaxis()
        axes.margins(x=0.08, y=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel("accuracy on test data, percent")
        axes.set_ylabel("class")
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, columnspacing=1.2, handletextpad=0.2, borderpad=0.1
        )

    title = "Accuracy by class" if shown is every else f"The {MOST_CLASSES} most changed classes"
    names = "each class" if shown is every else f"the {MOST_CLASSES} of {len(every)} classes that changed most"
    return draw(paint, name="utility", title=title, description=f"Test accuracy of {names}, before and after.")


def _short(label: str) -> str:
    return label if len(label) <= 14 else f"{label[:13]}…"
