import re
from html.parser import HTMLParser

import pytest

from report.canonical import report_sha256
from report.document import InvalidReport
from report.html import render_html
from tests.report.sample_audit import Json
from tests.report.samples import VERDICTS, Verdict, sample_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
NASTY = "<script>alert('$x^2$ & \"y\"')</script>"


class Outline(HTMLParser):
    """The tags, ids and references of a page, which must be balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
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

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("forgotten", [1, 10, 100, 1000])
def test_the_verdict_its_sentence_and_every_limit_are_on_the_page(verdict: Verdict, forgotten: int) -> None:
    report = sample_report(verdict=verdict, forgotten=forgotten, reference=forgotten == 100)
    page = render_html(report)
    assert f'<h1 id="verdict">{verdict.capitalize()}</h1>' in page
    assert report["verdict"]["sentence"] in page
    assert all(limit in page for limit in report["limits"])


def test_figures_in_brackets_are_set_apart_and_the_sentence_reads_as_it_was_written() -> None:
    report = sample_report()
    report["verdict"]["sentence"] = (
        "They are like others (AUC 0.45, interval 0.41 to 0.49); no trace (at 90 %) was found."
    )
    page = render_html(report)
    assert '<span class="aside">(AUC 0.45, interval 0.41 to 0.49)</span>' in page
    (sentence,) = re.findall(r'<p class="sentence">(.*?)</p>', page)
    assert re.sub(r"<[^>]*>", "", sentence) == report["verdict"]["sentence"]


def test_the_summary_says_whether_it_was_in_time() -> None:
    report = sample_report()
    said = "the first of them received 2\N{NO-BREAK SPACE}March\N{NO-BREAK SPACE}2026, due 2\N{NO-BREAK SPACE}April"
    assert said in render_html(report)
    report["asked"]["requests"] = 1
    assert "the first of them" not in render_html(report)
    del report["asked"]["due_at"]  # a report from before this was told
    assert "received 2" not in render_html(report)


def test_rates_at_few_false_alarms_have_a_table_only_where_there_are_enough_samples() -> None:
    report = sample_report()
    assert "0.1\N{NO-BREAK SPACE}% false alarms" in render_html(report)
    for attack in report["audit"]["membership"]["attacks"]:
        for side in ("original", "unlearned"):
            attack[side]["tpr_at_1_fpr"] = None
    assert "0.1\N{NO-BREAK SPACE}% false alarms" not in render_html(report)


def test_a_retrained_model_is_named_with_its_weights() -> None:
    report = sample_report(reference=True)
    page = render_html(report)
    assert "Retrained without them, version 3" in page
    assert report["model"]["reference"]["weights_sha256"] in page


def test_the_page_carries_the_digest_of_the_json_and_those_of_the_weights() -> None:
    report = sample_report()
    page = render_html(report)
    assert page.count(report_sha256(report)) == 2
    assert report["model"]["weights_before_sha256"] in page
    assert report["model"]["weights_after_sha256"] in page


def test_the_page_asks_nothing_of_the_network_and_runs_no_script() -> None:
    page = render_html(sample_report())
    outline = Outline(page)
    assert all(reference.startswith("#") for reference in outline.references)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(outline.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_every_picture_has_a_title_and_a_description_and_ids_are_unique() -> None:
    outline = Outline(render_html(sample_report()))
    assert len(outline.pictures) == 6
    assert len(outline.ids) == len(set(outline.ids))
    for picture in outline.pictures:
        assert set(str(picture["aria-labelledby"]).split()) <= set(outline.ids)


def test_what_others_wrote_stays_text() -> None:
    report = sample_report()
    report["verdict"] |= {"sentence": NASTY, "warnings": [NASTY]}
    report["verdict"]["findings"][0]["text"] = NASTY
    report["model"] |= {"name": NASTY, "dataset": NASTY, "workload": NASTY}
    report["method"] |= {"kind": NASTY, "parameters": {NASTY: NASTY}}
    report["thresholds"] = {NASTY: [NASTY, {NASTY: NASTY}]}
    report["timeline"][0]["text"] = NASTY
    report["limits"] = [NASTY]
    for row in report["audit"]["utility"]["per_class"]:
        row["class"] = NASTY
    page = render_html(report)
    assert "script" not in Outline(page).tags
    assert "alert(" in page


def test_no_colour_of_a_role_is_left_unfilled() -> None:
    assert "#f0000" not in render_html(sample_report(reference=True))


def test_the_same_report_gives_the_same_page() -> None:
    assert render_html(sample_report()) == render_html(sample_report())


def _bare(report: Json) -> None:
    del report["timings"]["report"], report["timings"]["publish"]
    report["timings"] |= {"retrain_estimate": None, "setup": {}}
    report["asked"]["regulation"] = []
    report["method"] |= {"parameters": {}, "attempts": []}
    report |= {"timeline": [], "thresholds": {}}
    report["verdict"]["findings"] = []
    report["audit"]["utility"]["per_class"] = []


def _diverged(report: Json) -> None:
    relearn = report["audit"]["relearn"]
    relearn["curves"]["unlearned"] = {"steps": [0, 1], "loss": [1e16, 1e300]}
    relearn["delay"]["unlearned"] = {"steps": 60, "censored": True}
    relearn["ratio_to_control"] = None


def _flat(report: Json) -> None:
    membership = report["audit"]["membership"]
    for side in ("original", "unlearned"):
        membership["losses"][side] = dict.fromkeys(("forget", "held_out", "remain"), [0.0] * 30)
        membership["roc"][side] = {"fpr": [0, 1], "tpr": [0, 0]}
    for attack in membership["attacks"]:
        attack["unlearned"]["tpr_at_1_fpr"] = None
    report["timings"] |= dict.fromkeys(("load", "unlearn", "audit_membership", "audit_relearn", "report", "publish"), 0)
    report["timings"]["retrain_estimate"]["seconds"] = 0


@pytest.mark.parametrize("spoil", [_bare, _diverged, _flat])
def test_a_report_with_little_in_it_or_with_wild_numbers_is_still_shown(spoil: object) -> None:
    report = sample_report()
    spoil(report)  # type: ignore[operator]  # one of the three functions above
    Outline(render_html(report))


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(InvalidReport):
        render_html({"schema": "another"})
