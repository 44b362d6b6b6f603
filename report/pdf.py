"""Render a report as a PDF: the texts and pictures of the page, with the canonical JSON attached."""

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import typst

from report.document import Document
from report.figures import in_colours
from report.view import View, view

# The page's light colours, which differ in grey too.
_INKS = {
    "ink": "#16191d",
    "muted": "#59616b",
    "grid": "#dfe2e6",
    "before": "#b34d00",
    "after": "#0062b0",
    "control": "#22795a",
    "reference": "#8a4594",
}


def render_pdf(document: Document) -> bytes:
    """Render a report as a tagged PDF (PDF/UA-1): the same bytes for the same report."""
    shown = view(document)
    with TemporaryDirectory(prefix="report-") as folder:
        root = Path(folder)
        (root / "report.typ").write_text(_template(), encoding="utf-8")
        (root / "report.json").write_bytes(document.content)
        (root / "view.json").write_text(json.dumps(_content(shown)), encoding="utf-8")
        pdf = typst.compile(
            root / "report.typ",
            root=root,
            format="pdf",
            font_paths=[Path(matplotlib.get_data_path()) / "fonts" / "ttf"],
            ignore_system_fonts=True,
            pdf_standards=["ua-1"],
            timestamp=int(shown.report.created_at.timestamp()),
        )
    assert isinstance(pdf, bytes)  # with no output path the compiler gives the file's bytes
    return pdf


def _template() -> str:
    return files("report").joinpath("templates", "report.typ").read_text(encoding="utf-8")


def _content(shown: View) -> dict[str, object]:
    content = {name: value for name, value in asdict(shown).items() if name != "report"}
    for item in content["evidence"]:
        for panel in item["panels"]:
            panel["svg"] = in_colours(panel["svg"], _INKS)
    report = shown.report
    return content | {
        "warnings": report.verdict.warnings,
        "limits": report.limits,
        "report_id": report.report_id,
    }
