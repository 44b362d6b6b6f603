import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import matplotlib
import pytest

from report import captions
from report.captions import extraction as caption
from report.document import read
from report.figures import (
    AFTER,
    ROLES,
    draw,
    extraction,
    generation,
    in_colours,
    losses,
    references,
    relearning,
    roc,
    utility,
)
from report.html import render_html
from report.tables import key_figures
from report.view import view
from tests.report.recorded import Json, recorded, stored


def legend(name: str) -> list[str]:
    """The names of the curves in a recorded report's picture."""
    (panel,) = relearning(recorded(name).report)
    svg = panel.svg
    return [label for label in ("before", "control", "retrained", "after") if f">{label}</text>" in svg]


def test_every_model_has_its_curve_and_a_retrained_one_if_there_is_one() -> None:
    assert legend("verified") == ["before", "control", "after"]
    assert legend("retrained") == ["before", "control", "retrained", "after"]


def test_a_dot_marks_each_model_that_was_back_and_none_that_was_not() -> None:
    report = stored("verified")
    report["audit"]["relearn"]["delay"]["unlearned"]["censored"] = False
    dots = relearning(read(report).report)[0].svg.count("<use")
    report["audit"]["relearn"]["delay"]["unlearned"]["censored"] = True
    assert relearning(read(report).report)[0].svg.count("<use") == dots - 1


def test_of_many_classes_the_most_changed_are_drawn() -> None:
    report = stored("verified")
    report["audit"]["utility"]["per_class"] = [
        {"class": f"class-{number:02d}", "original": 90.0, "unlearned": 90.0 - number} for number in range(40)
    ]
    (panel,) = utility(read(report).report)
    assert [number for number in range(40) if f"class-{number:02d}" in panel.svg] == list(range(28, 40))


def test_drawn_again_they_are_the_same_to_the_byte() -> None:
    document = recorded("retrained")
    first = {panel.name: panel for part in view(document).evidence for panel in part.panels}
    again = [panel for draw in (losses, roc, utility, references, relearning) for panel in draw(document.report)]
    assert first == {panel.name: panel for panel in again}


def test_panels_are_drawn_once_for_a_page_a_pdf_and_other_words_and_anew_for_other_numbers() -> None:
    report = stored("retrained")
    first = view(read(report)).evidence
    report["verdict"]["sentence"] = "Another sentence."
    assert all(one.panels is other.panels for one, other in zip(first, view(read(report)).evidence, strict=True))
    report["audit"]["utility"]["per_class"][0]["unlearned"] = 1.0
    assert view(read(report)).evidence[-1].panels != first[-1].panels


def test_without_classes_there_is_no_picture_of_them() -> None:
    report = stored("verified")
    report["audit"]["utility"]["per_class"] = []
    assert utility(read(report).report) == []


def test_the_reference_test_is_drawn_for_each_model_and_only_where_there_was_one() -> None:
    distances, power = references(recorded("retrained").report)
    assert [label for label in ("before", "after", "retrained") if f">{label}</text>" in distances.svg] == [
        "before",
        "after",
        "retrained",
    ]
    assert "retrained" not in references(recorded("verified").report)[0].svg
    assert ">these samples</text>" in power.svg
    assert references(recorded("inconclusive").report) == []


@pytest.mark.parametrize(("known_from", "anchor"), [(-0.9, "end"), (0.9, "start")])
def test_the_line_of_what_is_known_does_not_strike_through_the_name_of_the_band(known_from: float, anchor: str) -> None:
    report = stored("verified")
    report["audit"]["reference_test"]["unlearned"] |= {"low": -1.0, "high": 1.0, "if_seen": known_from}
    (name,) = re.findall(r'<text style="([^"]*)"[^>]*>never seen</text>', references(read(report).report)[0].svg)
    assert f"text-anchor: {anchor}" in name or (anchor == "start" and "text-anchor" not in name)


def with_extraction(report: Json) -> Json:
    def shares(forget: float) -> dict[str, object]:
        part = {"value": forget, "low": forget - 0.1, "high": forget + 0.1}
        return {"forget": part, "held_out": {"value": 0.25, "low": 0.2, "high": 0.3}}

    report["audit"]["extraction"] = [
        {"name": name, "original": shares(0.85), "unlearned": shares(0.35), "reference": None}
        for name in ("extraction_strength", "greedy_extraction")
    ]
    questions = [{**shares(value), "remain": shares(0.65)["forget"]} for value in (0.75, 0.45)]
    report["audit"]["extraction"] += [
        {"name": "knowledge", "original": questions[0], "unlearned": questions[1], "reference": None}
    ]
    return report


def with_generation(report: Json) -> Json:
    def measure(name: str, before: float, after: float) -> dict[str, object]:
        ends = ({"value": value, "low": value - 0.02, "high": value + 0.02} for value in (before, after))
        return {"name": name, "original": next(ends), "unlearned": next(ends), "reference": None}

    report["audit"]["generation"] = [
        measure("forgotten_class", 0.9, 0.1),
        measure("regeneration", 0.5, 0.05),
        measure("frechet_distance", 2.5, 2.75),
    ]
    return report


def test_what_a_model_gives_away_and_generates_has_parts_of_the_page() -> None:
    page = render_html(read(with_generation(with_extraction(stored("verified")))))
    assert "How much of them can be drawn out of it?" in page
    assert "What does it still generate?" in page


def test_what_a_language_model_gives_away_is_drawn_and_stated_and_no_other_report_has_it() -> None:
    document = read(with_extraction(stored("verified")))
    (panel,) = extraction(document.report)
    (row,) = [row for row in key_figures(document.report) if row.name == "Questions answered"]
    shown = (row.before, row.after, row.aim, row.aim_note)
    assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in shown] == [
        "75.0 %",
        "45.0 %",
        "25.0 %",
        "data never seen",
    ]
    text = caption(document.report).replace("\N{NO-BREAK SPACE}", " ")
    assert "75.0 % before, 45.0 % after, 25.0 % of data never seen, 65.0 % of remaining data" in text
    assert "ROUGE-L" in text

    assert all(f">{label}</text>" in panel.svg for label in ("Completed greedily", "before", "after", "never seen"))
    assert "85.0\N{NO-BREAK SPACE}% before, 35.0\N{NO-BREAK SPACE}% after, 25.0\N{NO-BREAK SPACE}% of data" in caption(
        document.report
    )
    assert extraction(recorded("verified").report) == []
    assert caption(recorded("verified").report) == ""
    assert "Questions answered" not in {row.name for row in key_figures(recorded("verified").report)}


def test_what_an_image_generator_generates_is_drawn_and_stated_and_no_other_report_has_it() -> None:
    document = read(with_generation(stored("verified")))
    (panel,) = generation(document.report)
    text = captions.generation(document.report)

    assert all(f">{label}</text>" in panel.svg for label in ("Forgotten class", "Forgotten samples", "before", "after"))
    assert "50.0\N{NO-BREAK SPACE}% before and 5.0\N{NO-BREAK SPACE}% after reproduce a forgotten sample" in text
    assert "takes 90.0\N{NO-BREAK SPACE}% before and 10.0\N{NO-BREAK SPACE}% after for the forgotten class" in text
    assert "2.50 before and 2.75 after" in text
    assert generation(recorded("verified").report) == []
    assert captions.generation(recorded("verified").report) == ""


CSS = files("report").joinpath("templates", "palette.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_colour_has_the_contrast_that_wcag_aa_asks(theme: dict[str, str]) -> None:
    # WCAG 2.2, 1.4.3: 4.5 to 1.
    on_paper = ("ink", "muted", "before", "after", "control", "reference", "good", "unsure", "bad")
    assert {role for role in on_paper if _contrast(theme[role], theme["paper"]) < 4.5} == set()
    washes = (("good", "good-wash"), ("unsure", "unsure-wash"), ("bad", "bad-wash"), ("muted", "wash"), ("ink", "wash"))
    assert {pair for pair in washes if _contrast(theme[pair[0]], theme[pair[1]]) < 4.5} == set()


def test_both_themes_name_every_role() -> None:
    assert set(ROLES.values()) <= set(LIGHT) == set(DARK)


def test_the_settings_of_the_process_are_left_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    draw(lambda axes: None, name="empty", title="Empty", description="Nothing.")
    assert dict(matplotlib.rcParams) == before


def test_text_is_kept_as_text_and_escaped() -> None:
    panel = draw(lambda axes: axes.set_xlabel("$a_b$ <c> & d"), name="x", title="t", description="d")
    assert "$a_b$ &lt;c&gt; &amp; d" in panel.svg
    assert "font-family" not in panel.svg


def test_panels_drawn_at_the_same_time_do_not_disturb_each_other() -> None:
    def one(number: int) -> str:
        panel = draw(
            lambda axes: axes.plot([0, number], [0, 1], color=AFTER),
            name=f"panel-{number}",
            title=str(number),
            description="A line.",
        )
        return in_colours(panel.svg, dict.fromkeys(ROLES.values(), "#000000"))

    alone = [one(number) for number in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(1, 5))) == alone
