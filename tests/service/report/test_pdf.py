import pytest

from service.report.pdf import render_pdf
from tests.service.report.samples import VERDICTS, Verdict, sample_report


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_report_of_every_verdict_is_a_pdf_that_carries_the_json(verdict: Verdict) -> None:
    pdf = render_pdf(sample_report(verdict=verdict, reference=True))
    assert pdf.startswith(b"%PDF-")
    assert b"/EmbeddedFile" in pdf
    assert b"pdfuaid" in pdf


def test_the_same_report_gives_the_same_pdf() -> None:
    assert render_pdf(sample_report()) == render_pdf(sample_report())


def test_words_that_look_like_markup_are_printed_as_they_are() -> None:
    report = sample_report()
    report["verdict"]["sentence"] = '#import "secret" *bold* $x$ <tag> \\ `raw` @label'
    report["model"]["name"] = "#panic()"
    assert render_pdf(report).startswith(b"%PDF-")
