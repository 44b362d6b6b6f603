"""The panels of the report, as pictures: SVG, drawn without pyplot's global state.

Colours are roles, which page and print fill in with their own (`in_colours`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from threading import Lock
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import FillStyleType, LineStyleType

from report.captions import GENERATION, enough_power, extraction_name, most_changed
from report.document import Report
from report.evidence import Curve, Delay, Estimate, LossDensities, ReferenceTests, RocCurve
from report.formatting import sentence

# Placeholders for roles; `in_colours` replaces them.
INK, MUTED, GRID = "#f00001", "#f00002", "#f00003"
BEFORE, AFTER, CONTROL, REFERENCE = "#f00004", "#f00005", "#f00006", "#f00007"
ROLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BEFORE: "before",
    AFTER: "after",
    CONTROL: "control",
    REFERENCE: "reference",
}

LOWEST_RATE = 0.001
"""Where the logarithmic axes begin."""

MAX_CLASSES = 12
"""Of more classes, only the most changed ones are drawn."""

_WIDTH, _HEIGHT = 370, 275  # in CSS pixels: what a phone shows at about its own size
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same ids each time
    "font.size": 11.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.handlelength": 2.4,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 2.2,
}
# rc_context changes the settings of the whole process while it is open, so only one thread may draw.
_drawing = Lock()

Marks = tuple[str, str, FillStyleType, Sequence[Estimate | None]]
"""A model's label, its colour, whether its dots are filled, and its values, one a row; None where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One picture. svg: with colours by role. title, description: for screen readers."""

    name: str
    title: str
    description: str
    svg: str


def draw(
    paint: Callable[[Axes], object],
    *,
    name: str,
    title: str,
    description: str,
    height: int = _HEIGHT,
    width: int = _WIDTH,
) -> Panel:
    """Draw a panel of this size in CSS pixels: `paint` fills its axes. The same content gives the same bytes."""
    with _drawing, matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        paint(axes)
        axes.set_title(title)
        axes.tick_params(length=0, pad=5)
        text = StringIO()
        # `Figure.savefig` would draw the figure once more before, with nothing to show for it.
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(text, metadata=metadata)  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    return Panel(name=name, title=title, description=description, svg=_clean(text.getvalue(), name))


def in_colours(svg: str, colours: Mapping[str, str]) -> str:
    """Fill in each role's colour: a CSS variable on the page, a hexadecimal number in print."""
    for placeholder, role in ROLES.items():
        svg = svg.replace(placeholder, colours[role])
    return svg


def _clean(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)([^")]+)', rf"\1{name}-\2", svg)
    return re.sub(r"\s*\n\s*", " ", svg)


def references(report: Report) -> list[Panel]:
    """Draw the reference test, and its power by the number of samples. Empty without reference predictions."""
    tests = report.audit.reference_test
    if tests is None:
        return []
    return [
        draw(
            lambda axes: _distances(axes, tests),
            name="references",
            title="Distance from unseen",
            description="Distance of each model from models that never saw the forgotten samples, with the range of such models, "
            "and the value that models which know them exceed.",
        ),
        draw(
            lambda axes: _power(axes, tests, samples=report.audit.samples.forget, enough=enough_power(report)),
            name="power",
            title="Samples that a verdict takes",
            description="The probability that a model which never saw the samples passes the test, by their number.",
        ),
    ]


def _distances(axes: Axes, tests: ReferenceTests) -> None:
    rows = [("before", tests.original, BEFORE), ("after", tests.unlearned, AFTER)]
    if tests.reference is not None:
        rows.append(("retrained", tests.reference, REFERENCE))
    test = tests.unlearned
    axes.axvspan(test.low, test.high, color=CONTROL, alpha=0.25, linewidth=0)
    axes.axvline(test.if_seen, color=MUTED, linestyle=(0, (2, 1.5)))
    # In the band, at the end that is further from the line, which would strike the text through.
    at_left = abs(test.if_seen - test.low) > abs(test.if_seen - test.high)
    axes.annotate(
        "never seen",
        (test.low if at_left else test.high, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4 if at_left else -4, -14),
        textcoords="offset points",
        ha="left" if at_left else "right",
    )
    axes.annotate(
        "known", (test.if_seen, 1), xycoords=("data", "axes fraction"), xytext=(4, -28), textcoords="offset points"
    )
    for place, (_, one, colour) in enumerate(rows):
        axes.plot([one.known], [place], "o", color=colour, markersize=8, clip_on=False, zorder=5)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.margins(x=0.18)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{tests.unit}; 0 is the mean of models that never saw them")


def _power(axes: Axes, tests: ReferenceTests, *, samples: int, enough: float | None) -> None:
    points = sorted((int(size), power) for size, power in tests.power_by_size.items())
    if enough is not None:
        axes.axhline(enough, color=MUTED, linewidth=1.2)
    axes.plot([size for size, _ in points], [power for _, power in points], color=CONTROL, marker="o", label="typical")
    axes.plot([samples], [tests.unlearned.power], "o", color=AFTER, markersize=8, clip_on=False, label="these samples")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("forgotten samples")
    axes.set_ylabel("chance of a verdict")
    axes.legend(loc="lower right")


def losses(report: Report) -> list[Panel]:
    """Draw the histograms of the losses before and after, on the same axes."""
    losses_ = report.audit.membership.losses
    highest = max(
        [0.0, *(max(side, default=0.0) for one in (losses_.original, losses_.unlearned) for side in _sides(one))]
    )

    def panel(name: str, title: str, densities: LossDensities, colour: str) -> Panel:
        def paint(axes: Axes) -> None:
            axes.stairs(densities.forget, losses_.bins, color=colour, fill=True, alpha=0.38, label="forgotten")
            axes.stairs(densities.forget, losses_.bins, color=colour, linewidth=1.2)
            axes.stairs(densities.held_out, losses_.bins, color=CONTROL, linewidth=2.2, label="held-out, never seen")
            axes.stairs(
                densities.remain, losses_.bins, color=MUTED, linewidth=1.6, linestyle=(0, (2, 1.5)), label="remaining"
            )
            axes.set_yscale("function", functions=(_root, _square))
            axes.set_ylim(0, highest * 1.05 or 1.0)
            axes.set_xlim(losses_.bins[0], losses_.bins[-1])
            axes.set_xlabel("loss of a sample")
            axes.set_ylabel("density (square-root scale)")
            axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= highest * 1.05])
            axes.grid(axis="x", visible=False)
            axes.legend(loc="upper right")

        description = f"Histograms of the loss of forgotten, held-out and remaining samples, {title.lower()}."
        return draw(paint, name=name, title=title, description=description)

    return [
        panel("losses-before", "Before unlearning", losses_.original, BEFORE),
        panel("losses-after", "After unlearning", losses_.unlearned, AFTER),
    ]


def _sides(densities: LossDensities) -> tuple[tuple[float, ...], ...]:
    return densities.forget, densities.held_out, densities.remain


def _root(values):  # type: ignore[no-untyped-def]  # matplotlib hands over whatever array it has
    return abs(values) ** 0.5


def _square(values):  # type: ignore[no-untyped-def]  # as above
    return values**2


def roc(report: Report) -> list[Panel]:
    """Draw the ROC curves before and after: whole, and on logarithmic axes for few false alarms."""
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
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: "" if rate <= LOWEST_RATE else _percent(rate, _)))


def _percent(share: float, _: object) -> str:
    return f"{100 * share:g} %"


def _rates(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_xlabel("held-out samples wrongly called members")
    axes.set_ylabel("forgotten ones recognised")


def extraction(report: Report) -> list[Panel]:
    """Draw how much of forgotten samples the models give away, and of unseen ones. Empty for a model that writes no text."""
    rows = report.audit.extraction
    if not rows:
        return []

    models: list[Marks] = [
        ("before", BEFORE, "none", [one.original.forget for one in rows]),
        ("after", AFTER, "full", [one.unlearned.forget for one in rows]),
        ("never seen", CONTROL, "full", [one.unlearned.held_out for one in rows]),
    ]
    return [
        draw(
            lambda axes: _shares(
                axes, models, [extraction_name(one.name) for one in rows], of="a text that the model gives away"
            ),
            name="extraction",
            title="Extraction",
            description="Share of forgotten texts that the model gives away before and after, and of texts that it never saw.",
        )
    ]


def generation(report: Report) -> list[Panel]:
    """Draw the shares of what the models generate. Empty for a model that is no image generator."""
    rows = [one for one in report.audit.generation if one.name in GENERATION]
    if not rows:
        return []
    models: list[Marks] = [
        ("before", BEFORE, "none", [one.original for one in rows]),
        ("after", AFTER, "full", [one.unlearned for one in rows]),
        ("retrained", REFERENCE, "full", [one.reference for one in rows]),
    ]
    return [
        draw(
            lambda axes: _shares(
                axes, models, [sentence(GENERATION[one.name]) for one in rows], of="what is generated"
            ),
            name="generation",
            title="Generated samples",
            description="Share of generated samples that reproduce forgotten ones, or that a classifier takes for what was asked, "
            "before and after.",
        )
    ]


def _shares(axes: Axes, models: Sequence[Marks], names: Sequence[str], *, of: str) -> None:
    """Draw the share of 0 to 1 that each model has of each name, with its interval."""
    for number, (label, colour, fill, values) in enumerate(models):
        known = [(place + 0.2 * (number - 1), one) for place, one in enumerate(values) if one is not None]
        if not known:
            continue
        places = [place for place, _ in known]
        axes.hlines(places, [one.low for _, one in known], [one.high for _, one in known], color=colour, linewidth=1.5)
        axes.plot([one.value for _, one in known], places, "o", color=colour, fillstyle=fill, markersize=7, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) + 0.3, -0.6)  # room for the legend below the last row
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"share of {of}")
    axes.legend(loc="lower right", ncols=3, columnspacing=0.9, handletextpad=0.1)


def relearning(report: Report) -> list[Panel]:
    """Draw loss against steps for each model, the level that counts as back, and the step at which it was reached."""
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
        # Room at the right, where no curve runs through the label.
        longest = max(curve.steps[-1] for _, curve, *_ in rows if curve is not None)
        axes.set_xlim(0, longest * 1.3 or 1.0)
        axes.set_ylim(bottom=0)
        axes.annotate(
            "known again", (0.995, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=MUTED
        )
        axes.set_xlabel("steps of training on the forgotten samples")
        axes.set_ylabel("loss")
        axes.legend(loc="upper right")

    return [
        draw(
            paint,
            name="relearning",
            title="Learning them again",
            description="Loss while the forgotten samples are learned again, by the original model, the new model and the "
            "controls; a dot marks the step at which each is back at the original's loss.",
        )
    ]


def utility(report: Report) -> list[Panel]:
    """Draw the accuracy of each class before and after, of the most changed ones if there are many. Empty without classes."""
    every, merit = report.audit.utility.per_class, report.audit.merit
    shown = most_changed(every)[:MAX_CLASSES] if len(every) > MAX_CLASSES else every
    if not shown:
        return []

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
        axes.set_xlabel(f"{merit.name} on test data, {'percent' if merit.unit == '%' else merit.unit}")
        axes.set_ylabel("class")
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, columnspacing=1.2, handletextpad=0.2, borderpad=0.1
        )

    title = f"{sentence(merit.name)} by class" if shown is every else f"The {MAX_CLASSES} most changed classes"
    names = "each class" if shown is every else f"the {MAX_CLASSES} of {len(every)} classes that changed most"
    return [draw(paint, name="utility", title=title, description=f"Test {merit.name} of {names}, before and after.")]


def _short(label: str) -> str:
    return label if len(label) <= 14 else f"{label[:13]}…"
