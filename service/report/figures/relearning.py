"""The panel of the relearning curves."""

from matplotlib.axes import Axes
from matplotlib.typing import LineStyleType

from service.report.document import Report
from service.report.evidence import Curve, Delay
from service.report.figures.canvas import AFTER, BEFORE, CONTROL, MUTED, REFERENCE, Panel, draw


def relearning(report: Report) -> Panel:
    """Loss against steps for each model, with the level that counts as back and the step at which it was reached."""
    relearn = report.audit.relearn
    rows: list[tuple[str, Curve | None, Delay | None, str, LineStyleType]] = [
        ("before", relearn.curves.original, relearn.delay.original, BEFORE, (0, (5, 2))),
        ("control", relearn.curves.control, relearn.delay.control, CONTROL, (0, (3, 1.5, 1, 1.5))),
        ("retrained", relearn.curves.reference, relearn.delay.reference, REFERENCE, (0, (1, 1.2))),
        ("after", relearn.curves.unlearned, relearn.delay.unlearned, AFTER, "-"),
    ]

    def paint(axes: Axes) -> None:
        level = relearn.curves.original.loss[0] + relearn.delta
        axes.axhline(level, color=MUTED, linewidth=1.2)
        for label, curve, delay, colour, line in rows:
            if curve is None:
                continue
            axes.plot(curve.steps, curve.loss, color=colour, linestyle=line, label=label)
            if delay is not None and not delay.censored:
                axes.plot([delay.steps], [level], marker="o", markersize=7, color=colour, clip_on=False, zorder=5)
        # Room at the right, where no curve runs through the words.
        longest = max(curve.steps[-1] for _, curve, *_ in rows if curve is not None)
        axes.set_xlim(0, longest * 1.3 or 1.0)
        axes.set_ylim(bottom=0)
        axes.annotate(
            "known again", (0.995, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=MUTED
        )
        axes.set_xlabel("steps of training on the forgotten samples")
        axes.set_ylabel("loss")
        axes.legend(loc="upper right")

    return draw(
        paint,
        name="relearning",
        title="Learning them again",
        description="Loss while the forgotten samples are learned again, by the original model, the new model and the controls; "
        "a dot marks the step at which each is back at the original's loss.",
    )
