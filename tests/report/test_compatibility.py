"""A report of the version before, with the statement that its own code signed, recorded at commit f24413e."""

import json
from pathlib import Path

from report.document import read, write
from report.html import render_html
from report.pdf import render_pdf
from verifier.checking import verify_files

SIGNED = Path(__file__).parent / "signed_before"


def test_a_report_that_was_signed_before_still_verifies() -> None:
    found = verify_files(SIGNED / "statement.json", keys=[SIGNED / "key.pem"], report=SIGNED / "report.json")
    assert found.refused is None


def test_its_content_and_digest_stay_as_they_were_signed() -> None:
    content = (SIGNED / "report.json").read_bytes()
    document = read(json.loads(content))
    assert document.content == content
    assert write(document.report) == document


def test_it_can_still_be_rendered() -> None:
    document = read(json.loads((SIGNED / "report.json").read_bytes()))
    assert document.sha256 in render_html(document)
    assert render_pdf(document).startswith(b"%PDF-")
