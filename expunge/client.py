"""The HTTP API from the caller's side. The functions return the types that the service answers with (`ledger.resources`)."""

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, TypedDict, TypeVar, Unpack
from uuid import UUID, uuid4

import httpx
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from expunge.errors import Refused, ServiceError, ServiceUnreachable
from ledger.resources import (
    Attempt,
    Dataset,
    Event,
    Job,
    Listing,
    Model,
    Page,
    Preview,
    Resource,
    SigningKey,
    UnlearnRequest,
    Upload,
    Version,
)
from ledger.states import TERMINAL, Escalation
from report.document import Report, read

Json = dict[str, Any]
R = TypeVar("R", bound=Resource)

MEDIA_TYPES = {"html": "text/html", "pdf": "application/pdf", "json": "application/json"}
"""The forms in which a report can be fetched, by the endings of their files."""
KEY = re.compile("[!-~]+")
"""The characters that an API key may have, and more: those that a header takes as they are."""
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables by which httpx takes other certificates than its own."""
LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")
"""The addresses of this machine, as httpx takes them."""
PATIENCE = 60.0
"""Seconds for which a service that does not answer, or asks to wait, is tried again while a job is watched."""
DEFAULT_WAIT = 1.0
"""Seconds between two polls where the service names none."""


def connect(url: str, key: str | None) -> httpx.Client:
    """Open a client for the API at `url`; without a key, for the calls that need none. Close it, or use it in a `with`.

    A proxy is not asked for this machine. Raises ServiceUnreachable for what is no address, and ServiceError for what is no key,
    and for certificates that cannot be read. No message quotes an address as it was given: it may hold a password.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise ServiceUnreachable(
            "This is no address of the API (--url, EXPUNGE_URL); it begins with http:// or https://."
        )
    if key is not None and not KEY.fullmatch(key):
        raise ServiceError(
            "The API key has a character that no key has, such as a blank or a line's end. Copy it again."
        )
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    direct: dict[str, httpx.BaseTransport | None] = dict.fromkeys(LOOPBACK)
    try:
        return httpx.Client(base_url=url, headers=headers, timeout=30, mounts=direct)
    except ImportError as error:
        raise ServiceUnreachable(
            f"The proxy that the environment names cannot be used: {str(error).rstrip('.')}."
        ) from error
    except (httpx.InvalidURL, ValueError) as error:
        raise ServiceUnreachable(
            "The address of the API (--url, EXPUNGE_URL), or that of the proxy that the environment names, cannot be called. Mend "
            "it. In a user's name and a password write @ as %40, : as %3A and / as %2F."
        ) from error
    except OSError as error:
        named = [f"{name} ({value})" for name in CERTIFICATES if (value := os.environ.get(name))]
        raise ServiceError(
            f"The certificates that {' and '.join(named)} names cannot be read: {error.strerror or type(error).__name__}. Mend or "
            "unset it."
        ) from error


class NewRequest(TypedDict, total=False):
    """The fields of a new request. What is left out or None is left to the service.

    The samples are named by `sample_ids` of one dataset, by `subjects`, whose samples are all meant, or by the id of an `upload`.
    People may be meant in one `dataset`, in several `datasets`, or without either in those of the named `models`, or else in every
    dataset in which they have samples.
    """

    dataset: str | None
    datasets: Sequence[str] | None
    sample_ids: Sequence[str] | None
    subjects: Sequence[str] | None
    upload: UUID | None
    models: Sequence[str] | None
    method: str | Mapping[str, object] | None
    reason: str | None
    regulation: str | None
    received_at: datetime | None
    external_id: str | None
    expedite: bool | None
    escalate: Escalation | None


def submit(
    client: httpx.Client, *, idempotency_key: str | None = None, **request: Unpack[NewRequest]
) -> UnlearnRequest:
    """Ask for samples, or people's samples, to be unlearned. Raises Refused, ServiceUnreachable.

    A fresh idempotency key is made where none is given, so that the transport's retries are one request.
    """
    response = send(
        client,
        "POST",
        "/unlearn-requests",
        json=_body(request),
        headers={"Idempotency-Key": idempotency_key or str(uuid4())},
        # A million samples take most of a minute, and a few people may have as many.
        timeout=client.timeout if request.get("upload") is None and request.get("subjects") is None else 600,
    )
    return _read(UnlearnRequest, response)


def preview(client: httpx.Client, **request: Unpack[NewRequest]) -> Preview:
    """Preview a request: which jobs it would join, how long they take, and whether they can be verified. Nothing is written."""
    return _post(client, Preview, "/unlearn-requests:preview", json=_body(request))


def _body(request: NewRequest) -> Json:
    """Give the fields that are set, as JSON."""
    return {name: to_jsonable_python(value) for name, value in request.items() if value is not None}


def upload_samples(client: httpx.Client, *, dataset: str, sample_ids: Iterable[str]) -> Upload:
    """Upload sample IDs, as many as there are, a thousand at a time. Raises Refused, ServiceUnreachable."""
    return _upload(client, "/uploads", sample_ids, params={"dataset": dataset})


def upload_subjects(client: httpx.Client, *, subjects: Iterable[str]) -> Upload:
    """Upload people, as many as there are, a thousand at a time. Raises Refused, ServiceUnreachable."""
    return _upload(client, "/uploads/subjects", subjects)


def _upload(client: httpx.Client, path: str, given: Iterable[str], **options: Any) -> Upload:
    def lines() -> Iterator[bytes]:
        rest = iter(given)
        while some := list(islice(rest, 1000)):
            yield "".join(f"{json.dumps(one)}\n" for one in some).encode()

    headers = {"Content-Type": "application/x-ndjson"}
    response = send(client, "POST", path, content=lines(), headers=headers, timeout=600, **options)
    return _read(Upload, response)


def get_request(client: httpx.Client, request_id: UUID) -> UnlearnRequest:
    """Fetch one request."""
    return _fetch(client, UnlearnRequest, f"/unlearn-requests/{request_id}")


def job_ids(request: UnlearnRequest) -> list[UUID]:
    """List the jobs that a request has joined, one a model that has something to forget."""
    return [target.job.id for target in request.targets if target.job is not None and target.job.id is not None]


def get_job(client: httpx.Client, job_id: UUID) -> Job:
    """Fetch one job."""
    return _fetch(client, Job, f"/jobs/{job_id}")


def watch_job(client: httpx.Client, job_id: UUID, *, before_poll: Callable[[], None] = lambda: None) -> Iterator[Job]:
    """Give the job each time it has changed, until it has ended.

    Asks as often as `Retry-After` allows, and with `If-None-Match`, so that an unchanged job costs next to nothing. A
    service that is away or busy is tried again for a minute; then ServiceUnreachable or Refused.
    before_poll: called before each poll; what it raises ends the watch.
    """
    tag: str | None = None
    patience_ends = time.monotonic() + PATIENCE
    while True:
        before_poll()
        try:
            response = send(client, "GET", f"/jobs/{job_id}", headers={"If-None-Match": tag} if tag else {})
        except (ServiceUnreachable, Refused) as error:
            transient = isinstance(error, ServiceUnreachable) or error.status in (429, 503)
            if not transient or time.monotonic() > patience_ends:
                raise
            time.sleep(DEFAULT_WAIT)
            continue
        patience_ends = time.monotonic() + PATIENCE
        if response.status_code == httpx.codes.OK:
            tag = response.headers.get("ETag")
            job = _read(Job, response)
            yield job
            if job.state in TERMINAL:
                return
        time.sleep(wait_seconds(response))


def get_report(client: httpx.Client, report_id: UUID) -> Report:
    """Fetch a report. Raises InvalidReport too."""
    return read(fetch_json(client, "GET", f"/reports/{report_id}", headers={"Accept": "application/json"})).report


def get_report_file(client: httpx.Client, report_id: UUID, media: str) -> bytes:
    """Fetch a report as a file: `text/html` (one page that needs nothing else), `application/pdf` or `application/json`.

    The bytes of the JSON are those whose SHA-256 the service recorded.
    """
    return send(client, "GET", f"/reports/{report_id}", headers={"Accept": media}).content


def get_statement(client: httpx.Client, report_id: UUID) -> bytes:
    """Fetch a report's signed statement as a file."""
    return send(client, "GET", f"/reports/{report_id}/statement").content


def get_card(client: httpx.Client, model: str) -> bytes:
    """Fetch a model's card with the history of its erasures, in Markdown."""
    return send(client, "GET", f"/models/{model}/card").content


def get_bom(client: httpx.Client, model: str) -> bytes:
    """Fetch a model as an entry of a bill of materials (CycloneDX)."""
    return send(client, "GET", f"/models/{model}/bom").content


def get_signing_keys(client: httpx.Client) -> Sequence[SigningKey]:
    """Fetch the public signing keys, newest first."""
    return _fetch(client, Listing[SigningKey], "/keys").items


def get_inclusion(
    client: httpx.Client, report_id: UUID, sample_id: str | None = None, *, subject: str | None = None
) -> bytes:
    """Fetch the proof that a sample, or else a person, is among those that a report's job has erased, as a file for the person."""
    asked = {"sample_id": sample_id} if subject is None else {"subject": subject}
    return send(client, "POST", f"/reports/{report_id}/inclusion", json=asked).content


def stream_digests(client: httpx.Client, path: str, *, check: Callable[[httpx.Headers], None]) -> Iterator[bytes]:
    """Read a list of digests, one at a time. check: of the response's headers; it may raise.

    Raises what `send` does, ServiceUnreachable where the list breaks off, and ServiceError for what is no such list.
    """
    try:
        with client.stream("GET", path) as response:
            if not response.is_success:
                response.read()
                raise _failure(client, response)
            check(response.headers)
            for line in response.iter_lines():
                try:
                    yield bytes.fromhex(line)
                except ValueError as error:
                    raise _no_answer(response) from error
    except httpx.RequestError as error:
        raise ServiceUnreachable(f"The answer of {shown(client)} broke off ({type(error).__name__}).") from error
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _unsendable(error) from error


def promote(client: httpx.Client, model: str, number: int) -> Version:
    """Have a model serve another of its versions."""
    return _post(client, Version, f"/models/{model}/versions/{number}:promote")


def decide(client: httpx.Client, job_id: UUID, decision: Literal["approve", "reject"]) -> Job:
    """Approve or reject a job that waits for it: to run, or to have its version served."""
    return _post(client, Job, f"/jobs/{job_id}:{decision}")


def wait_seconds(response: httpx.Response) -> float:
    """Read `Retry-After` in seconds."""
    try:
        return max(0.0, float(response.headers.get("Retry-After", DEFAULT_WAIT)))
    except ValueError:
        return DEFAULT_WAIT


def send(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one call.

    Raises ServiceUnreachable where nothing answers, or what answers sends on to elsewhere; Refused for every problem; ServiceError
    for what cannot be sent.
    """
    try:
        response = client.request(method, path, **options)
    except httpx.RequestError as error:
        raise ServiceUnreachable(f"Nothing answers at {shown(client)} ({type(error).__name__}).") from error
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _unsendable(error) from error
    if response.has_redirect_location or response.is_error:
        raise _failure(client, response)
    return response


def _failure(client: httpx.Client, response: httpx.Response) -> ServiceError:
    """Return the error that an answer means which has nothing of what was asked for."""
    if response.has_redirect_location:
        return ServiceUnreachable(
            f"{shown(client)} sends on to {response.headers['Location']}. Name the API's own address."
        )
    return Refused(response.status_code, problem(response))


def _unsendable(error: Exception) -> ServiceError:
    return ServiceError(
        f"The call cannot be sent ({type(error).__name__}): the address, or a name or a text in it, has a character that is not "
        "allowed there."
    )


def shown(client: httpx.Client) -> str:
    """Return the address that a client calls, without a user's name and a password."""
    return str(client.base_url.copy_with(userinfo=b""))


def problem(response: httpx.Response) -> Json:
    """Read the problem document; what is not one (a proxy's page) becomes one."""
    try:
        document = response.json()
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"title": response.reason_phrase}


def cancel_request(client: httpx.Client, request_id: UUID) -> UnlearnRequest:
    """Withdraw a request, as long as none of its results is published."""
    return _post(client, UnlearnRequest, f"/unlearn-requests/{request_id}:cancel")


def extend_request(client: httpx.Client, request_id: UUID, *, reason: str) -> UnlearnRequest:
    """Extend a request's deadline, once, by what its regulation allows. Tell the person the reason."""
    return _post(client, UnlearnRequest, f"/unlearn-requests/{request_id}:extend", json={"reason": reason})


def dismiss_request(client: httpx.Client, request_id: UUID, *, reason: str) -> UnlearnRequest:
    """Record that a request that failed is no longer owed, and why. Needs an admin's key."""
    return _post(client, UnlearnRequest, f"/unlearn-requests/{request_id}:dismiss", json={"reason": reason})


def list_requests(
    client: httpx.Client,
    *,
    state: str | None = None,
    model: str | None = None,
    due_before: datetime | None = None,
    unserved: bool | None = None,
) -> Iterator[UnlearnRequest]:
    """List all requests, newest first, page by page. unserved: only those that the law still asks for, or only the others."""
    chosen = {
        "state": state,
        "model": model,
        "due_before": None if due_before is None else due_before.isoformat(),
        "unserved": None if unserved is None else str(unserved).lower(),
    }
    return _pages(client, Page[UnlearnRequest], "/unlearn-requests", chosen)


def list_jobs(client: httpx.Client, *, state: str | None = None, model: str | None = None) -> Iterator[Job]:
    """List all jobs, newest first, page by page."""
    return _pages(client, Page[Job], "/jobs", {"state": state, "model": model})


def cancel_job(client: httpx.Client, job_id: UUID) -> Job:
    """Stop a job at its next step; the served model is untouched."""
    return _post(client, Job, f"/jobs/{job_id}:cancel")


def retry_job(client: httpx.Client, job_id: UUID) -> Job:
    """Try a failed job again, from the first method of its model's policy as it is now."""
    return _post(client, Job, f"/jobs/{job_id}:retry")


def list_events(client: httpx.Client, job_id: UUID, *, after: int = 0) -> Sequence[Event]:
    """List a job's timeline, oldest first, from beyond the event `after`."""
    return _fetch(client, Listing[Event], f"/jobs/{job_id}/events", params={"after": after}).items


def list_attempts(client: httpx.Client, job_id: UUID) -> Sequence[Attempt]:
    """List the attempts at a job, in their order."""
    return _fetch(client, Listing[Attempt], f"/jobs/{job_id}/attempts").items


def list_models(client: httpx.Client) -> Sequence[Model]:
    """List all models, with the version that is served."""
    return _fetch(client, Listing[Model], "/models").items


def list_versions(client: httpx.Client, model: str) -> Sequence[Version]:
    """List a model's versions, newest first."""
    return _fetch(client, Listing[Version], f"/models/{model}/versions").items


def list_datasets(client: httpx.Client) -> Sequence[Dataset]:
    """List all datasets."""
    return _fetch(client, Listing[Dataset], "/datasets").items


def _fetch(client: httpx.Client, kind: type[R], path: str, **options: Any) -> R:
    return _read(kind, send(client, "GET", path, **options))


def _post(client: httpx.Client, kind: type[R], path: str, **options: Any) -> R:
    return _read(kind, send(client, "POST", path, **options))


def _read(kind: type[R], response: httpx.Response) -> R:
    """Read an answer. Raises ServiceError for what is none of the API's."""
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise _no_answer(response) from error


def fetch_json(client: httpx.Client, method: str, path: str, *, fields: Collection[str] = (), **options: Any) -> Json:
    """Send one call, and read its answer: a JSON object with these fields. Raises ServiceError for another, and as `send` does."""
    response = send(client, method, path, **options)
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or not document.keys() >= set(fields):
        raise _no_answer(response)
    return document


def _no_answer(response: httpx.Response) -> ServiceError:
    return ServiceError(
        f"What answers at {response.request.url.host} is not Expunge's API, or that of another release. Check the address."
    )


def _pages(client: httpx.Client, kind: type[Page[R]], path: str, chosen: dict[str, str | None]) -> Iterator[R]:
    """Give the items of a list, from its first page to its last."""
    asked = {name: value for name, value in chosen.items() if value is not None}
    cursor: str | None = None
    while True:
        page = _fetch(client, kind, path, params=asked | ({} if cursor is None else {"cursor": cursor}))
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return
