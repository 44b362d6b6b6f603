"""Panels on membership: how losses are spread, and how an attack by them fares."""

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from service.report.document import Report
from service.report.evidence import LossDensities, RocCurve
from service.report.figures.canvas import AFTER, BEFORE, CONTROL, MUTED, Panel, draw

LOWEST_RATE = 0.001


def losses(report: Report) -> list[Panel]:
    """Two histograms with the same axes: the losses before and after."""
    held = report.audit.membership.losses
    highest = max([0.0, *(max(side, default=0.0) for one in (held.original, held.unlearned) for side in _sides(one))])

    def panel(name: str, title: str, densities: LossDensities, colour: str) -> Panel:
        def paint(axes: Axes) -> None:
            axes.stairs(densities.forget, held.bins, color=colour, fill=True, alpha=0.38, label="forgotten")
            axes.stairs(densities.forget, held.bins, color=colour, linewidth=1.2)
            axes.stairs(densities.held_out, held.bins, color=CONTROL, linewidth=2.2, label="held-out, never seen")
            axes.stairs(
                densities.remain, held.bins, color=MUTED, linewidth=1.6, linestyle=(0, (2, 1.5)), label="remaining"
            )
            axes.set_yscale("function", functions=(_root, _square))
            axes.set_ylim(0, highest * 1.05 or 1.0)
            axes.set_xlim(held.bins[0], held.bins[-1])
            axes.set_xlabel("loss of a sample")
            axes.set_ylabel("density (square-root scale)")
            axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= highest * 1.05])
            axes.grid(axis="x", visible=False)
            axes.legend(loc="upper right")

        description = f"Histograms of the loss of forgotten, held-out and remaining samples, {title.lower()}."
        return draw(paint, name=name, title=title, description=description)

    return [
        panel("losses-before", "Before unlearning", held.original, BEFORE),
        panel("losses-after", "After unlearning", held.unlearned, AFTER),
    ]


def _sides(densities: LossDensities) -> tuple[list[float], ...]:
    return densities.forget, densities.held_out, densities.remain


def _root(values):  # type: ignore[no-untyped-def]  # matplotlib hands over whatever array it has
    return abs(values) ** 0.5


def _square(values):  # type: ignore[no-untyped-def]  # as above
    return values**2


def roc(report: Report) -> list[Panel]:
    """The ROC curves before and after: as a whole, and the end with few false alarms on logarithmic axes."""
    curves = report.audit.membership.roc
    return [
        draw(
            lambda axes: _whole(axes, curves.original, curves.unlearned),
            name="roc",
            title="All thresholds",
            description="ROC curves of the attack before and after, against the diagonal of a coin toss.",
        ),
        draw(
            lambda axes: _few_false_alarms(axes, curves.original, curves.unlearned),
            name="roc-low",
            title="Few false alarms (logarithmic)",
            description="The same ROC curves on logarithmic axes, from 0.1 % false alarms.",
        ),
    ]


def _whole(axes: Axes, before: RocCurve, after: RocCurve) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)), label="coin toss")
    axes.plot(before.fpr, before.tpr, color=BEFORE, linestyle=(0, (5, 2)), label="before")
    axes.plot(after.fpr, after.tpr, color=AFTER, label="after")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    _rates(axes)
    axes.legend(loc="lower right")


def _few_false_alarms(axes: Axes, before: RocCurve, after: RocCurve) -> None:
    axes.plot([LOWEST_RATE, 1], [LOWEST_RATE, 1], color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
    for label, curve, colour, line in (("before", before, BEFORE, (0, (5, 2))), ("after", after, AFTER, "-")):
        points = [(x, y) for x, y in zip(curve.fpr, curve.tpr, strict=False) if x > 0 and y > 0]
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linestyle=line, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(LOWEST_RATE, 1)
    axes.set_ylim(LOWEST_RATE, 1.15)
    axes.minorticks_off()
    axes.legend(loc="lower right")
    _rates(axes)
    # The corner has one label, or the two axes' would run into each other.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: "" if rate <= LOWEST_RATE else f"{100 * rate:g} %"))


def _rates(axes: Axes) -> None:
    percent = FuncFormatter(lambda rate, _: f"{100 * rate:g} %")
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    axes.set_xlabel("held-out samples wrongly called members")
    axes.set_ylabel("forgotten ones recognised")
