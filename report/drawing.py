"""Draw a panel as SVG, without pyplot's global state. Colours are roles, which page and print fill in with their own."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO
from threading import Lock
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

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
