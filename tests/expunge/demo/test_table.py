import dataclasses
from io import StringIO

import pytest
from rich.console import Console, RenderableType
from syrupy.assertion import SnapshotAssertion

from expunge.demo.requests import Erasure
from expunge.demo.table import Figures, Row, Section, average_gap, comparison, legend, noise, outcome
from report.document import Report, Verdict
from report.evidence import VerdictValue


def row(label: str, ua: float, *, seconds: float = 20.0, delay: int | None = 20) -> Row:
    figures = Figures(ua=ua, ra=99.0, ta=94.0, mi=ua, membership_auc=0.5, delay=delay, censored=delay == 60)
    return Row(label=label, figures=figures, seconds=seconds)


SECTION = Section(
    title="150 samples",
    original=row("original", 0.0, delay=0),
    unlearned=row("unlearned: LTU", 11.0, seconds=5.0, delay=60),
    retrained=row("retrained", 12.0),
    retrained_seconds=20.0,
    again=row("retrained again", 13.0, delay=None),
)


def printed(thing: RenderableType) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(thing)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    return text


def test_the_gap_is_the_mean_over_the_four_measures() -> None:
    assert average_gap(SECTION.original, SECTION.retrained) == pytest.approx((12 + 0 + 0 + 12) / 4)


def test_the_table_shows_every_model_within_eighty_columns() -> None:
    lines = {line[:16].strip(): line.split() for line in printed(comparison([SECTION])).splitlines()}
    assert lines["unlearned: LTU"][2:] == ["11.0", "99.0", "94.0", "11.0", "0.5", "0.50", "60+", "5.0", "25%"]
    assert lines["retrained"][5] == "–"
    assert lines["retrained again"][8] == "–"


def test_the_table_its_legend_and_the_noise_floor(snapshot: SnapshotAssertion) -> None:
    assert "\n".join((printed(comparison([SECTION])), printed(legend()), noise(SECTION))) == snapshot


def test_a_difference_within_the_noise_floor_is_not_called_clear() -> None:
    unclear = dataclasses.replace(SECTION, original=row("original", 11.5))
    assert "not clearly" in noise(unclear)
    assert "not clearly" not in noise(SECTION)


def test_the_outcome_names_each_method_and_its_finding() -> None:
    erasure = Erasure(
        samples=150,
        methods=("ltu", "ieu"),
        findings=("Relearned in 3 steps.",),
        seconds=5.0,
        report=Report.model_construct(
            verdict=Verdict.model_construct(value=VerdictValue.VERIFIED, sentence="All checks passed.")
        ),
        files={},
    )
    text = " ".join(printed(outcome(erasure, requested="with LTU")).split())
    for part in ("LTU was not enough", "Relearned in 3 steps.", "IEU is published: verified.", "All checks passed."):
        assert part in text
