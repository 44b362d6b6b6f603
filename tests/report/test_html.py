import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser

import pytest
from syrupy.assertion import SnapshotAssertion

from report.document import InvalidReport, read
from report.formatting import day
from report.html import render_html
from tests.report.recorded import CERTIFICATE, NAMES, Json, recorded, stored

VOID = {"meta", "br", "img", "link", "input", "hr"}
BLOCKS = {"p", "li", "h1", "h2", "h3", "th", "td", "dt", "dd", "title", "desc"}
NASTY = "<script>alert('$x^2$ & \"y\"')</script>"


class Outline(HTMLParser):
    """The tags, ids, references and texts of a page, which must be balanced. Texts inside a drawing are left out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.lines: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.references += [
            value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action", "data"}
        ]
        if named.get("role") == "img":
            self.pictures.append(named)
        if tag in BLOCKS:
            self.lines.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if (
            self._open
            and "style" not in self._open
            and ("svg" not in self._open or self._open[-1] in {"title", "desc"})
        ):
            self.lines[-1:] = ["".join(self.lines[-1:]) + data]

    @property
    def text(self) -> str:
        """The page's text, a line for each block."""
        lines = (" ".join(line.split()) for line in self.lines)
        return "\n".join(line for line in lines if line)


@cache
def page_of(name: str) -> str:
    """The page of a recorded report, rendered once."""
    return render_html(recorded(name))


def test_the_page_reads_like_this(snapshot: SnapshotAssertion) -> None:
    assert Outline(page_of("retrained")).text == snapshot


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_its_sentence_and_every_limit_are_on_the_page(name: str) -> None:
    document = recorded(name)
    text = Outline(page_of(name)).text
    assert document.report.verdict.sentence in text
    assert [limit for limit in document.report.limits if limit not in text] == []


def test_figures_in_brackets_are_set_apart_and_the_sentence_reads_as_it_was_written() -> None:
    report = stored("verified")
    report["verdict"]["sentence"] = (
        "They are like others (AUC 0.45, interval 0.41 to 0.49); no trace (at 90 %) was found."
    )
    page = render_html(read(report))
    assert '<span class="aside">(AUC 0.45, interval 0.41 to 0.49)</span>' in page
    (sentence,) = re.findall(r'<p class="sentence">(.*?)</p>', page)
    assert re.sub(r"<[^>]*>", "", sentence) == report["verdict"]["sentence"]


def test_the_summary_shows_whether_it_was_in_time() -> None:
    document = recorded("verified")
    asked = document.report.asked
    assert asked.received_at is not None
    assert asked.due_at is not None
    assert f"received {day(asked.received_at)}, due {day(asked.due_at)}" in page_of("verified")
    report = stored("verified")
    del report["asked"]["due_at"]  # as in reports of the first versions
    assert day(asked.due_at) not in render_html(read(report))


def test_the_summary_counts_the_people_whom_requests_name() -> None:
    report = stored("verified")
    assert "naming" not in page_of("verified")
    for people, words in ((1, "naming 1 subject"), (7, "naming 7 subjects")):
        report["asked"]["subjects"] = people
        assert words in render_html(read(report))


def test_the_page_carries_the_digest_of_the_json_and_those_of_the_weights() -> None:
    document = recorded("retrained")
    page, model = page_of("retrained"), document.report.model
    assert page.count(document.sha256) == 2
    assert model.reference is not None
    for digest in (model.weights_before_sha256, model.weights_after_sha256, model.reference.weights_sha256):
        assert digest in page


def test_the_page_asks_nothing_of_the_network_and_runs_no_script() -> None:
    page = page_of("verified")
    outline = Outline(page)
    assert all(reference.startswith("#") for reference in outline.references)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(outline.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_every_picture_has_a_title_and_a_description_and_ids_are_unique() -> None:
    outline = Outline(page_of("verified"))
    assert len(outline.pictures) == 8
    assert len(outline.ids) == len(set(outline.ids))
    for picture in outline.pictures:
        assert set(str(picture["aria-labelledby"]).split()) <= set(outline.ids)


def test_what_others_wrote_stays_text() -> None:
    report = stored("verified")
    report["verdict"] |= {"sentence": NASTY, "warnings": [NASTY]}
    report["verdict"]["findings"][0]["text"] = NASTY
    report["model"] |= {"name": NASTY, "dataset": NASTY, "workload": NASTY}
    report["method"] |= {"kind": NASTY, "parameters": {NASTY: NASTY}}
    report["thresholds"] = {NASTY: [NASTY, {NASTY: NASTY}]}
    report["timeline"][0]["text"] = NASTY
    report["limits"] = [NASTY]
    for row in report["audit"]["utility"]["per_class"]:
        row["class"] = NASTY
    page = render_html(read(report))
    assert "script" not in Outline(page).tags
    assert "alert(" in page


def test_no_colour_of_a_role_is_left_unfilled() -> None:
    assert "#f0000" not in page_of("retrained")


def test_the_same_report_gives_the_same_page() -> None:
    assert render_html(recorded("verified")) == page_of("verified")


def _bare(report: Json) -> None:
    report["timings"] |= {"retrain_estimate": None, "setup": {}}
    report["asked"]["regulation"] = []
    report["method"] |= {"parameters": {}, "attempts": []}
    report |= {"timeline": [], "thresholds": {}}
    report["verdict"]["findings"] = []
    report["audit"]["utility"]["per_class"] = []


def _wild(report: Json) -> None:
    """Relearning that diverged, and nothing but zeros elsewhere."""
    relearn = report["audit"]["relearn"]
    relearn["curves"]["unlearned"] = {"steps": [0, 1], "loss": [1e16, 1e300]}
    relearn["delay"]["unlearned"] = {"steps": 60, "censored": True}
    relearn["ratio_to_control"] = None
    membership = report["audit"]["membership"]
    for side in ("original", "unlearned"):
        membership["losses"][side] = dict.fromkeys(("forget", "held_out", "remain"), [0.0] * 40)
        membership["roc"][side] = {"fpr": [0, 1], "tpr": [0, 0]}
    for attack in membership["attacks"]:
        attack["unlearned"]["tpr_at_1_fpr"] = None
    report["timings"] |= dict.fromkeys(("load", "unlearn", "audit_membership", "audit_relearn"), 0)
    report["timings"]["retrain_estimate"]["seconds"] = 0


@pytest.mark.parametrize("spoil", [_bare, _wild])
def test_a_report_with_little_in_it_or_with_wild_numbers_is_still_shown(spoil: Callable[[Json], None]) -> None:
    report = stored("verified")
    spoil(report)
    Outline(render_html(read(report)))


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(InvalidReport):
        render_html(read({"schema": "another"}))


def test_an_exact_result_that_its_audit_did_not_verify_is_no_failure() -> None:
    """Its page says that it is exact, and what may have kept the audit from verifying it."""
    exactness = {"statement": "It was trained anew.", "causes": ["Three have a near-copy."]}
    page = render_html(read(stored("failed") | {"exactness": exactness}))
    text = Outline(page).text
    assert "Exact by construction, audit failed" in text
    assert exactness["statement"] in text
    assert exactness["causes"][0] in text
    assert 'class="verdict inconclusive"' in page
    assert "Exact by construction" not in Outline(page_of("failed")).text


def test_a_certificate_is_stated_with_what_it_assumes_and_that_it_is_not_exact() -> None:
    page = Outline(render_html(read(stored("verified") | {"certificate": CERTIFICATE})))
    assert f"Certified, not exact. {CERTIFICATE['statement']}" in page.text
    assert "Assumed: The seed is secret." in page.text
    assert "Certified" not in Outline(page_of("verified")).text


def test_a_report_in_another_merit_never_speaks_of_accuracy() -> None:
    report = stored("verified")
    report["audit"]["merit"] = {
        "name": "explained variance",
        "complement": "unexplained variance",
        "unit": "%",
        "best": 100.0,
    }
    report["audit"]["utility"] |= {"per_class": [], "agreement": None}
    report["verdict"]["findings"] = [one for one in report["verdict"]["findings"] if "utility" not in one["code"]]
    report["verdict"]["warnings"] = []
    report["method"]["stopped_because"] = "utility"
    page = " ".join(Outline(render_html(read(report))).lines).replace("Balanced accuracy", "")
    assert "accuracy" not in page.lower()
    for text in (
        "Explained variance on test data",
        "Unexplained variance on the forgotten samples",
        "Loss of explained variance that raises a warning",
        "the explained variance was about to fall below what is allowed",
    ):
        assert text in page
    assert "agree on" not in page
