"""The API's further calls, typed; `expunge.client` has those that every integration begins with: submit, follow, fetch the report.

Each raises Refused with the problem that the API answered, and ServiceUnreachable where nothing answers.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import httpx

from expunge.answers import Attempt, Dataset, Event, Job, Model, Preview, Request, Version
from expunge.client import content, send


def preview(
    client: httpx.Client, *, dataset: str, sample_ids: Sequence[str], models: Sequence[str] | None = None
) -> Preview:
    """What a request would do now: which job it would join, how long that takes, whether it is in time. Nothing is written."""
    body = {"dataset": dataset, "sample_ids": list(sample_ids)} | ({} if models is None else {"models": list(models)})
    return cast(Preview, content(send(client, "POST", "/unlearn-requests:preview", json=body)))


def cancel_request(client: httpx.Client, request_id: str) -> Request:
    """Withdraw a request, as long as none of its results is published."""
    return cast(Request, content(send(client, "POST", f"/unlearn-requests/{request_id}:cancel")))


def extend_request(client: httpx.Client, request_id: str, *, reason: str) -> Request:
    """Extend a request's deadline, once, by what its regulation allows; the person must be told the reason."""
    return cast(
        Request, content(send(client, "POST", f"/unlearn-requests/{request_id}:extend", json={"reason": reason}))
    )


def list_requests(
    client: httpx.Client, *, state: str | None = None, model: str | None = None, due_before: datetime | None = None
) -> Iterator[Request]:
    """Every request that there is, newest first, page by page."""
    chosen = {"state": state, "model": model, "due_before": None if due_before is None else due_before.isoformat()}
    for item in _pages(client, "/unlearn-requests", chosen):
        yield cast(Request, item)


def list_jobs(client: httpx.Client, *, state: str | None = None, model: str | None = None) -> Iterator[Job]:
    """Every job that there is, newest first, page by page."""
    for item in _pages(client, "/jobs", {"state": state, "model": model}):
        yield cast(Job, item)


def cancel_job(client: httpx.Client, job_id: str) -> Job:
    """Stop a job at its next step; the served model is untouched."""
    return cast(Job, content(send(client, "POST", f"/jobs/{job_id}:cancel")))


def retry_job(client: httpx.Client, job_id: str) -> Job:
    """Try a failed job again, from its policy's first method."""
    return cast(Job, content(send(client, "POST", f"/jobs/{job_id}:retry")))


def job_events(client: httpx.Client, job_id: str, *, after: int = 0) -> list[Event]:
    """A job's timeline, oldest first, from beyond the event `after`."""
    return cast(list[Event], content(send(client, "GET", f"/jobs/{job_id}/events", params={"after": after}))["items"])


def job_attempts(client: httpx.Client, job_id: str) -> list[Attempt]:
    """Each worker's and each method's go at a job."""
    return cast(list[Attempt], content(send(client, "GET", f"/jobs/{job_id}/attempts"))["items"])


def list_models(client: httpx.Client) -> list[Model]:
    """Every model, with the version that is served."""
    return cast(list[Model], content(send(client, "GET", "/models"))["items"])


def list_versions(client: httpx.Client, model: str) -> list[Version]:
    """A model's versions, newest first."""
    return cast(list[Version], content(send(client, "GET", f"/models/{model}/versions"))["items"])


def list_datasets(client: httpx.Client) -> list[Dataset]:
    """Every dataset."""
    return cast(list[Dataset], content(send(client, "GET", "/datasets"))["items"])


def _pages(client: httpx.Client, path: str, chosen: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """The items of a list, from its first page to its last."""
    asked = {name: value for name, value in chosen.items() if value is not None}
    cursor: str | None = None
    while True:
        page = content(send(client, "GET", path, params=asked | ({} if cursor is None else {"cursor": cursor})))
        yield from page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return
