"""The console in a real browser: signing in, what each page shows, the keyboard alone, and axe."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import UUID

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from sqlalchemy.orm import Session, sessionmaker

from ledger.jobs.claims import enter_verifying, lock_claimed_job
from service.app import create_app
from service.settings import Settings
from tests.browser.conftest import Check
from tests.fixtures.postgresql import Filled
from tests.service.conftest import NOWHERE, SAMPLE_KEY, Site, begin_job, make_site, publish_job, served

ASKED = {"dataset": "scans", "expedite": True, "external_id": "DSR-2041"}


@pytest.fixture
def site(filled: Filled) -> Site:
    return filled(make_site)


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    with ExitStack() as stack:
        settings = Settings(database_url=database_url, redis_url=NOWHERE, sample_key=SAMPLE_KEY)
        yield stack.enter_context(served(create_app(settings)))


def ask(context: BrowserContext, address: str, site: Site, *samples: str) -> dict[str, str]:
    """Submit a request over the API; gives its id and its job's."""
    answer = context.request.post(
        f"{address}/unlearn-requests",
        data=json.dumps(ASKED | {"sample_ids": samples}),
        headers={"Authorization": f"Bearer {site.admin}", "Content-Type": "application/json"},
    )
    body = answer.json()
    return {"request": body["id"], "job": body["targets"][0]["job"]["id"]}


def sign_in(context: BrowserContext, address: str, key: str) -> Page:
    page = context.new_page()
    page.goto(address)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    return page


def test_every_page_is_accessible_and_tells_what_it_should(
    context: BrowserContext, accessible: Check, address: str, site: Site, sessions: sessionmaker[Session]
) -> None:
    done = ask(context, address, site, "sample-1", "sample-2")
    sign = {"payload": "", "payloadType": "", "signatures": []}
    report = publish_job(sessions, done["job"], sign=lambda report: sign)
    ask(context, address, site, "sample-3")
    page = context.new_page()
    page.goto(address)
    accessible(page)
    page = sign_in(context, address, site.admin)
    expect(page.get_by_role("heading", level=1)).to_have_text("Requests")
    expect(page.get_by_role("row")).to_have_count(3)
    expect(page.get_by_text("days left").first).to_be_visible()
    accessible(page)
    page.get_by_role("link", name="completed").click()
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("rowheader").get_by_role("link").click()
    expect(page.get_by_text("DSR-2041")).to_be_visible()
    accessible(page)
    page.get_by_role("table").get_by_role("link").nth(1).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Job")
    accessible(page)
    for link, heading in (("Jobs", "Jobs"), ("Models", "Models"), ("Reports", "Reports")):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=link).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        accessible(page)
    page.goto(f"{address}/console/models/triage")
    expect(page.get_by_role("cell", name="2 samples")).to_be_visible()
    accessible(page)
    page.get_by_role("link", name="Report of version 2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Verified")
    page.goto(f"{address}/reports/{report}.html")  # the API's address, as somebody sends it to a colleague
    expect(page).to_have_url(f"{address}/console/reports/{report}.html")
    expect(page.get_by_role("heading", level=1)).to_have_text("Verified")
    page.goto(f"{address}/console/nothing-like-that/x")
    page.goto(f"{address}/console/models/nothing")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such model")
    accessible(page)


def test_a_job_is_seen_to_go_on_without_a_reload(
    desk: BrowserContext, address: str, site: Site, sessions: sessionmaker[Session]
) -> None:
    ids = ask(desk, address, site, "sample-1")
    page = sign_in(desk, address, site.reader)
    expect(page.get_by_role("heading", level=1)).to_have_text("Requests")
    page.goto(f"{address}/console/jobs/{ids['job']}")
    expect(page.get_by_role("status")).to_contain_text("queued")
    page.evaluate("window.stayed = true")
    claimed = begin_job(sessions, ids["job"])
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.5")
    expect(page.get_by_role("status")).to_contain_text("step 12 of 24")
    with sessions.begin() as session:
        enter_verifying(session, lock_claimed_job(session, claimed))
    expect(page.get_by_role("status")).to_contain_text("verifying")
    assert page.evaluate("window.stayed")
    assert UUID(ids["job"]) == claimed.job_id


def test_the_keyboard_is_enough(desk: BrowserContext, address: str, site: Site) -> None:
    ask(desk, address, site, "sample-1")
    page = desk.new_page()
    page.goto(address)
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(site.reader)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Requests")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    request = page.get_by_role("rowheader").get_by_role("link")
    for _ in range(30):
        page.keyboard.press("Tab")
        if request.evaluate("link => link === document.activeElement"):
            break
    assert request.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Request ")


def test_signing_out_and_a_wrong_key_end_at_the_form(
    desk: BrowserContext, accessible: Check, address: str, site: Site
) -> None:
    page = sign_in(desk, address, "expunge_nothing_nothing")
    expect(page.get_by_role("alert")).to_have_text("That key is unknown, expired or revoked.")
    accessible(page)
    page.get_by_label("API key").fill(site.reader)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto(f"{address}/console/jobs")
    expect(page.get_by_label("API key")).to_be_visible()
