"""The demo's figures: what was measured of each model, and what follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from expunge.demo.requests import Unlearned

ORIGINAL = "original"
"""The name of the model that is measured as the one from which the relearner is fixed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One model on one request's forget set. ua, ra, ta, mi: percent. membership_auc: 0 to 1, of the loss.

    delay: relearning steps; None where there was nothing to relearn. censored: the steps ran out before.
    """

    ua: float
    ra: float
    ta: float
    mi: float
    membership_auc: float
    delay: int | None
    censored: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model of the table. seconds: of its training, or of its unlearning."""

    label: str
    figures: Figures
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One request's part of the table. again: a second retrained model, which differs from `retrained` by its seed only."""

    title: str
    original: Row
    unlearned: Row
    retrained: Row
    again: Row | None = None

    @property
    def rows(self) -> list[Row]:
        """The models, in the order they are shown in."""
        return [self.original, self.unlearned, self.retrained, *([self.again] if self.again else [])]


def average_gap(one: Row, other: Row) -> float:
    """The mean absolute difference of UA, RA, TA and MI in points, as the papers print it."""
    a, b = one.figures, other.figures
    return (abs(a.ua - b.ua) + abs(a.ra - b.ra) + abs(a.ta - b.ta) + abs(a.mi - b.mi)) / 4


COLUMNS = {
    "UA": "errors on the forgotten samples, %: as many as the retrained model makes",
    "RA": "right on the remaining training samples, %: should stay",
    "TA": "right on test samples, %: should stay",
    "MI": "forgotten samples that an attack takes for never seen, % (papers' way)",
    "gap": "UA, RA, TA, MI: mean distance from the retrained model, points; 0 is best",
    "AUC": "does the loss tell forgotten from held-out samples? 0.5 no, 1 surely",
    "delay": "steps to relearn the forgotten: what was only hidden is back at once",
    "time": "seconds of the training, or of the unlearning without its audit; one core",
    "share": "that time as a share of the retraining",
}

CLEAR = 2.0
"""How many times the noise floor a difference must be to be called clear."""


def comparison(sections: Sequence[Section]) -> Table:
    """The table: a section a request, a row a model."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for section in sections:
        table.add_row(f"[bold]{section.title}[/bold]")
        for row in section.rows:
            table.add_row(*cells(row, section), style="bold green" if row is section.unlearned else "")
        table.add_section()
    return table


def cells(row: Row, section: Section) -> list[str]:
    """The texts of one row."""
    figures = row.figures
    delay = "–" if figures.delay is None else f"{figures.delay}{'+' if figures.censored else ''}"
    gap = "–" if row is section.retrained else f"{average_gap(row, section.retrained):.1f}"
    percents = [f"{value:.1f}" for value in (figures.ua, figures.ra, figures.ta, figures.mi)]
    share = f"{row.seconds / section.retrained.seconds:.0%}"
    return [row.label, *percents, gap, f"{figures.membership_auc:.2f}", delay, f"{row.seconds:.1f}", share]


def legend() -> Table:
    """A line for each column."""
    table = Table.grid(padding=(0, 2))
    for name, meaning in COLUMNS.items():
        table.add_row(f"[bold]{name}[/bold]", meaning, style="dim")
    return table


def noise(section: Section) -> str:
    """State the noise floor, and how far the original is beyond it."""
    if section.again is None:
        return ""
    floor, original = average_gap(section.again, section.retrained), average_gap(section.original, section.retrained)
    unlearned = average_gap(section.unlearned, section.retrained)
    clear = original >= CLEAR * floor
    beyond = "far beyond it: there is something to forget" if clear else "not clearly beyond it: read this with care"
    return (
        f"Noise floor: two models retrained with different seeds differ by {floor:.1f} points on average. The original "
        f"differs by {original:.1f}, {beyond}. After unlearning it is {unlearned:.1f}."
    )


def outcome(done: Unlearned, *, asked: str) -> RenderableType:
    """One request's end: the methods that were not enough, with the reason, and the verdict on the one that is published."""
    lines = [Text(f"The request with {asked}", style="bold")]
    lines += [
        Text(f"  * {method.upper()} was not enough, and the policy went on. {finding}", style="yellow")
        for method, finding in zip(done.methods, done.findings, strict=False)
    ]
    published = f"  {done.methods[-1].upper()} is published: "
    lines.append(Text.assemble(published, (done.verdict, STYLE.get(done.verdict, "bold")), f". {done.sentence}"))
    return Group(*lines)


STYLE = {"verified": "bold green", "inconclusive": "bold yellow", "failed": "bold red"}


def say_reports(console: Console, done: Sequence[Unlearned]) -> None:
    """Say where the reports are and how to open them."""
    console.print("\nThe audit reports, saved as a page, a PDF and the data:", style="bold")
    for one in done:
        for form in ("html", "pdf", "json"):
            console.print(f"  {one.reports[form]}", soft_wrap=True, highlight=False, markup=False)
    console.print("Open one in a browser:", style="bold")
    for one in done:
        console.print(f"  {one.reports['html'].as_uri()}", soft_wrap=True, highlight=False, markup=False)
    first = done[0].reports
    console.print("Check a signed one without the service:", style="bold")
    command = f"  expunge verify {first['statement']} --key {first['key']} --report {first['json']}"
    console.print(command, soft_wrap=True, highlight=False, markup=False)
