"""What the demo prints at its end: a table of models, the noise floor, the verdicts, and where the reports are."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from expunge.demo.requests import Erasure
from expunge.errors import DemoFailed
from report.attacks import AttackName
from report.evidence import Attack, Audit, Delay, Measures, VerdictValue
from report.formatting import sentence
from verifier.method_names import short_method


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Measures of one model on one forget set. ua, ra, ta, mi: percent. membership_auc: of the loss, 0 to 1.

    delay: steps until the forget set is relearned, None if not measured. censored: relearning ended before that.
    """

    ua: float
    ra: float
    ta: float
    mi: float
    membership_auc: float
    delay: float | None = None
    censored: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model of the table. seconds: of its training, or of its unlearning; None if it is in an earlier section."""

    label: str
    figures: Figures
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One request's models.

    original: the served one before the request. again: a second retrained model, which differs from `retrained` by its seed.
    retrained_seconds: of the training of `retrained`.
    """

    title: str
    original: Row
    unlearned: Row
    retrained: Row
    again: Row | None = None
    retrained_seconds: float

    @property
    def rows(self) -> list[Row]:
        """The models in the order of the table."""
        return [self.original, self.unlearned, self.retrained, *([self.again] if self.again else [])]


def original_figures(audit: Audit) -> Figures:
    """Read the original's figures from a report's audit."""
    return _figures(audit.measures.original, audit.relearn.delay.original, _loss_attack(audit).original.auc.value)


def unlearned_figures(audit: Audit) -> Figures:
    """Read the unlearned model's figures from a report's audit."""
    return _figures(audit.measures.unlearned, audit.relearn.delay.unlearned, _loss_attack(audit).unlearned.auc.value)


def retrained_figures(audit: Audit, *, membership_auc: float) -> Figures:
    """Read the retrained model's figures from a report's audit, which has no AUC of it. Raises DemoFailed."""
    measures, delay = audit.measures.reference, audit.relearn.delay.reference
    if measures is None or delay is None:
        raise DemoFailed("The audit ran without the retrained model. The worker's log says why.")
    return _figures(measures, delay, membership_auc)


def _figures(measures: Measures, delay: Delay, membership_auc: float) -> Figures:
    return Figures(
        ua=measures.ua.value,
        ra=measures.ra.value,
        ta=measures.ta.value,
        mi=measures.mi_salun.value,
        membership_auc=membership_auc,
        delay=delay.steps,
        censored=delay.censored,
    )


def _loss_attack(audit: Audit) -> Attack:
    (loss,) = (attack for attack in audit.membership.attacks if attack.name == AttackName.LOSS)
    return loss


def average_gap(one: Row, other: Row) -> float:
    """Compute the mean absolute difference of UA, RA, TA and MI in points, as the papers print it."""
    a, b = one.figures, other.figures
    return (abs(a.ua - b.ua) + abs(a.ra - b.ra) + abs(a.ta - b.ta) + abs(a.mi - b.mi)) / 4


COLUMNS = {
    "UA": "errors on the forget set, %: as many as the retrained model makes",
    "RA": "accuracy on the remaining set, %: should stay",
    "TA": "accuracy on the test set, %: should stay",
    "MI": "forget set that an attack takes for never seen, % (as in the papers)",
    "gap": "mean distance of UA, RA, TA, MI from the retrained model, points",
    "AUC": "how well the loss tells forget set from held-out set: 0.5 not, 1 surely",
    "delay": "steps to relearn the forget set: few if it was only hidden",
    "time": "seconds of the training, or of the unlearning without its audit; one core",
    "share": "that time as a share of the retraining",
}

CLEAR_FACTOR = 2.0
"""A difference is clear if it is at least this many times the noise floor."""


def comparison(sections: Sequence[Section]) -> Table:
    """Make the table: a section for each request, a row for each model."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for section in sections:
        table.add_row(f"[bold]{section.title}[/bold]")
        for row in section.rows:
            table.add_row(*format_row(row, section), style="bold green" if row is section.unlearned else "")
        table.add_section()
    return table


def format_row(row: Row, section: Section) -> list[str]:
    """Format one row's cells."""
    figures = row.figures
    delay = "–" if figures.delay is None else f"{figures.delay:.0f}{'+' if figures.censored else ''}"
    gap = "–" if row is section.retrained else f"{average_gap(row, section.retrained):.1f}"
    percents = [f"{value:.1f}" for value in (figures.ua, figures.ra, figures.ta, figures.mi)]
    time = "–" if row.seconds is None else f"{row.seconds:.1f}"
    share = "–" if row.seconds is None else f"{row.seconds / section.retrained_seconds:.0%}"
    return [row.label, *percents, gap, f"{figures.membership_auc:.2f}", delay, time, share]


def legend() -> Table:
    """Make a line for each column of the table."""
    table = Table.grid(padding=(0, 2))
    for name, meaning in COLUMNS.items():
        table.add_row(f"[bold]{name}[/bold]", meaning, style="dim")
    return table


def noise(section: Section) -> str:
    """Compare the original's gap with the noise floor, the gap of two models that were retrained with different seeds."""
    if section.again is None:
        return ""
    floor, original = average_gap(section.again, section.retrained), average_gap(section.original, section.retrained)
    unlearned = average_gap(section.unlearned, section.retrained)
    clear = original >= CLEAR_FACTOR * floor
    meaning = (
        "far more: it knows the forget set"
        if clear
        else "not clearly more: the forget set may hardly have been learned"
    )
    return (
        f"Noise floor: two models retrained with different seeds differ by {floor:.1f} points on average. The original "
        f"differs by {original:.1f}, {meaning}. After unlearning the difference is {unlearned:.1f}."
    )


def references(*, preparation: float, training: float) -> str:
    """Say what the reference predictions cost, once, beside the original's training; both in seconds."""
    return (
        f"Reference predictions, prepared once before the second request, took {preparation:.0f} s, "
        f"{preparation / training:.1f} times the training of the original."
    )


def outcome(erasure: Erasure, *, requested: str) -> RenderableType:
    """Describe a request's end: methods that were not enough, with the finding, and the verdict on the published one.

    requested: how, e.g. "with LTU".
    """
    verdict = erasure.report.verdict
    lines = [Text(f"The request {requested}", style="bold")]
    lines += [
        Text(
            f"  * {sentence(short_method(method))} was not enough; the policy tried the next method. {finding}",
            style="yellow",
        )
        for method, finding in zip(erasure.methods, erasure.findings, strict=False)
    ]
    published = f"  {sentence(short_method(erasure.methods[-1]))} is published: "
    lines.append(Text.assemble(published, (verdict.value, VERDICT_STYLES[verdict.value]), f". {verdict.sentence}"))
    return Group(*lines)


VERDICT_STYLES = {
    VerdictValue.VERIFIED: "bold green",
    VerdictValue.INCONCLUSIVE: "bold yellow",
    VerdictValue.FAILED: "bold red",
}


def print_files(console: Console, erasures: Sequence[Erasure]) -> None:
    """Print where the reports are, how to open them and how to verify one."""

    def line(text: object) -> None:
        console.print(f"  {text}", soft_wrap=True, highlight=False, markup=False)

    console.print("\nThe audit reports, as a web page, a PDF and data:", style="bold")
    for erasure in erasures:
        for form in ("html", "pdf", "json"):
            line(erasure.files[form])
    console.print("Open one in a browser:", style="bold")
    for erasure in erasures:
        line(erasure.files["html"].as_uri())
    files = erasures[0].files
    console.print("Verify a signed report without the service:", style="bold")
    line(f"expunge verify {files['statement']} --key {files['key']} --report {files['json']}")
