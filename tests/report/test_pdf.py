import re
import zlib
from functools import cache

import pytest

from report.document import read
from report.pdf import render_pdf
from tests.report.recorded import CERTIFICATE, NAMES, recorded, stored


@cache
def pdf_of(name: str) -> bytes:
    """The file of a recorded report, rendered once."""
    return render_pdf(recorded(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_report_is_an_accessible_pdf_that_carries_the_json(name: str) -> None:
    pdf = pdf_of(name)
    assert pdf.startswith(b"%PDF-")
    assert b"pdfuaid" in pdf
    assert recorded(name).content in embedded_files(pdf)


def embedded_files(pdf: bytes) -> list[bytes]:
    """The files that are attached to a PDF."""
    found = []
    for stream in re.finditer(rb"obj\s*<<(.*?)>>\s*stream\r?\n", pdf, flags=re.DOTALL):
        length = re.search(rb"/Length (\d+)", stream[1])
        if b"/EmbeddedFile" in stream[1] and length:
            content = pdf[stream.end() :][: int(length[1])]  # which may end like a line
            found.append(zlib.decompress(content) if b"/FlateDecode" in stream[1] else content)
    return found


def test_the_same_report_gives_the_same_pdf() -> None:
    assert render_pdf(recorded("verified")) == pdf_of("verified")


def test_text_that_looks_like_markup_is_printed_as_it_is() -> None:
    report = stored("verified")
    report["verdict"]["sentence"] = '#import "secret" *bold* $x$ <tag> \\ `raw` @label'
    report["model"]["name"] = "#panic()"
    assert render_pdf(read(report)).startswith(b"%PDF-")


def test_what_is_exact_or_certified_can_be_printed() -> None:
    exactness = {"statement": "It was trained anew.", "causes": ["Three have a near-copy."]}
    report = stored("failed") | {"exactness": exactness, "certificate": CERTIFICATE}
    assert render_pdf(read(report)).startswith(b"%PDF-")
