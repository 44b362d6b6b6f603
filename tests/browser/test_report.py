"""The report page as people see it: at a phone's and a desk's width, in light and dark, and by axe."""

from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.conftest import DESK, PHONE, Check
from tests.report.recorded import NAMES, recorded
from tests.report.test_html import page_of


@pytest.mark.parametrize(
    ("context", "name"),
    [
        *((PHONE, name) for name in NAMES),
        *(pytest.param(DESK, name, marks=[] if name == "verified" else pytest.mark.slow) for name in NAMES),
    ],
    indirect=["context"],
)
def test_axe_finds_nothing_and_nothing_is_too_wide(
    context: BrowserContext, accessible: Check, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_of(name))
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    accessible(page)
    assert asked == [path.as_uri()]
    assert page.get_by_role("heading", level=1).inner_text() == recorded(name).report.verdict.value.capitalize()
