"""Make the pictures of the console that the documents show: a real run, with requests done, at work, waiting and late.

.venv/bin/python docs/console_pictures.py    (needs Chromium; trains the digits and serves requests for some minutes)
"""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
from pictures import browser
from pictures import save as keep
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from expunge import client
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import train_workload
from expunge.stack.broker import free_port
from expunge.stack.stack import Options, Stack, run_stack

WORKLOAD = "examples.digits:workload"
DESK, PHONE = {"width": 1200, "height": 480}, {"width": 375, "height": 640}


def main() -> None:
    """Run a stack, let it have something to show, and take pictures of it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trained = train_workload(WORKLOAD, allowed=("examples",), folder=folder / "weights")
        options = Options(data_dir=folder / "data", port=free_port(), environment={"EXPUNGE_SWEEP_SECONDS": "1"})
        with run_stack(options) as running, browser() as opened:
            register_workload(
                find_deployment(running.folder.root), name="digits", reference=WORKLOAD, weights=trained.path
            )
            assert running.api_key is not None
            with client.connect(running.url, running.api_key) as http:
                ask(http, range(0, 100), method="ieu", external_id="DSR-2041", ended=True)
                ask(http, range(100, 200), method="retrain", external_id="DSR-2042", ended=True)
                at_work = ask(http, range(200, 350), method="ltu", external_id="DSR-2043")
                ask(http, range(350, 360), method="auto", external_id="DSR-2044", received=40)
                ask(http, range(360, 362), method="ieu", external_id="DSR-2045", received=12, expedite=False)
                visit(opened, running, job=at_work)


def ask(
    http: httpx.Client,
    numbers: range,
    *,
    method: str,
    external_id: str,
    received: int = 0,
    expedite: bool = True,
    ended: bool = False,
) -> UUID:
    """Ask for digits to be forgotten, received so many days ago, and where `ended` wait until they are; gives the job."""
    request = client.submit(
        http,
        dataset="digits",
        sample_ids=[f"digit-{number:04d}" for number in numbers],
        method=method,
        regulation="gdpr",
        external_id=external_id,
        received_at=datetime.now(UTC) - timedelta(days=received),
        expedite=expedite,
    )
    (job_id,) = client.job_ids(request)
    if ended:
        *_, job = client.watch_job(http, job_id)
        print(f"{method}: {job.state} {job.reason or ''}")
    return job_id


def visit(opened: Browser, running: Stack, *, job: UUID) -> None:
    """Picture the pages while that job runs: all of them at a desk, the first two on a phone, in the dark."""
    with opened.new_context(viewport=DESK, color_scheme="light") as context:
        page = sign_in(context, running)
        picture_job(page, running, job=job, device="desktop")
        for path, name in (("/", "requests"), ("/console/models/digits", "model"), ("/console/reports", "reports")):
            page.goto(running.url + path)
            save(page, f"console-{name}-desktop")
        page.goto(running.url)
        page.get_by_role("rowheader").filter(has_text="DSR-2041").get_by_role("link").click()
        page.get_by_role("heading", level=1).filter(has_text="Request ").wait_for()
        save(page, "console-request-desktop")
    with opened.new_context(viewport=PHONE, color_scheme="dark") as context:
        page = sign_in(context, running)
        save(page, "console-requests-phone")
        picture_job(page, running, job=job, device="phone")


def picture_job(page: Page, running: Stack, *, job: UUID, device: str) -> None:
    """Picture a job once its method is at work."""
    page.goto(f"{running.url}/console/jobs/{job}")
    page.get_by_role("status").filter(has_text="step").wait_for(timeout=60_000)
    save(page, f"console-job-{device}")


def sign_in(context: BrowserContext, running: Stack) -> Page:
    """Open the console and sign in with the stack's key."""
    page = context.new_page()
    page.goto(running.url)
    page.get_by_label("API key").fill(running.api_key or "")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", level=1).filter(has_text="Requests").wait_for()
    return page


def save(page: Page, name: str) -> None:
    """Picture the whole page."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(path=file.name, full_page=True)
        keep(Image.open(file.name), name)


if __name__ == "__main__":
    main()
