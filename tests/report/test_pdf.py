import re
import zlib

import pytest

from report.canonical import report_bytes
from report.pdf import render_pdf
from tests.report.samples import VERDICTS, Verdict, sample_report


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_report_of_every_verdict_is_a_pdf_that_carries_the_json(verdict: Verdict) -> None:
    pdf = render_pdf(sample_report(verdict=verdict, reference=True))
    assert pdf.startswith(b"%PDF-")
    assert b"pdfuaid" in pdf
    assert report_bytes(sample_report(verdict=verdict, reference=True)) in embedded_files(pdf)


def embedded_files(pdf: bytes) -> list[bytes]:
    """What is attached to a PDF, byte by byte."""
    found = []
    for head, content in re.findall(rb"obj\s*<<(.*?)>>\s*stream\r?\n(.*?)\r?\nendstream", pdf, flags=re.DOTALL):
        if b"/EmbeddedFile" in head:
            found.append(zlib.decompress(content) if b"/FlateDecode" in head else content)
    return found


def test_the_same_report_gives_the_same_pdf() -> None:
    assert render_pdf(sample_report()) == render_pdf(sample_report())


def test_words_that_look_like_markup_are_printed_as_they_are() -> None:
    report = sample_report()
    report["verdict"]["sentence"] = '#import "secret" *bold* $x$ <tag> \\ `raw` @label'
    report["model"]["name"] = "#panic()"
    assert render_pdf(report).startswith(b"%PDF-")
