import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import matplotlib
import pytest

from report.drawing import AFTER, ROLES, draw, in_colours

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
