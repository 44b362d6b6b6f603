"""The demo as a caller of the API: submit a request, follow its job, save its report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx

from expunge import client
from expunge.cli.console import ProgressDisplay
from expunge.errors import JobFailed
from ledger.resources import Attempt, Job
from ledger.states import JobState
from report.document import Report
from verifier.method_names import short_method


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasure:
    """A completed request.

    methods: those that were tried, in order; the last one's result was published. findings: why each earlier one was not.
    seconds: of the unlearning, all methods together. report: the audit report. files: the saved report by form, its signed
    statement, and the public key.
    """

    samples: int
    methods: tuple[str, ...]
    findings: tuple[str, ...]
    seconds: float
    report: Report
    files: dict[str, Path]


def erase(
    http: httpx.Client,
    *,
    model: str,
    dataset: str,
    sample_ids: Sequence[str],
    method: str,
    folder: Path,
    display: ProgressDisplay,
    check: Callable[[], None],
) -> Erasure:
    """Submit a request, follow its job to the end, and save its report in `folder`. Raises JobFailed or ServiceError.

    check: called before each poll of the job; what it raises ends the wait.
    """
    request = client.submit(
        http,
        dataset=dataset,
        sample_ids=sample_ids,
        models=[model],
        method=method,
        regulation="gdpr",
        reason="Withdrawal of consent (demonstration).",
    )
    (job_id,) = client.job_ids(request)
    job = follow(http, job_id, method=method, display=display, check=check)
    if job.state != JobState.COMPLETED or job.report_id is None:
        raise JobFailed(f"The job {job.state}: {job.reason}. {job.detail or ''}")
    attempts = client.list_attempts(http, job_id)
    return Erasure(
        samples=len(sample_ids),
        methods=tuple(attempt.method["kind"] for attempt in attempts),
        findings=tuple(explain(attempt) for attempt in attempts[:-1]),
        seconds=sum(attempt.timings.get("unlearn", 0.0) for attempt in attempts),
        report=client.get_report(http, job.report_id),
        files=save_report(http, job.report_id, folder=folder, name=f"{model}-version-{job.version}"),
    )


def follow(
    http: httpx.Client, job_id: UUID, *, method: str, display: ProgressDisplay, check: Callable[[], None]
) -> Job:
    """Show a job's progress to its end, with the methods that it tries. method: that of the request, or "auto"."""
    tried = [] if method == "auto" else [method]
    task = display.add_task("request", total=1.0)
    job: Job | None = None
    for job in client.watch_job(http, job_id, before_poll=check):
        if job.method["kind"] not in tried[-1:]:
            tried.append(job.method["kind"])
        methods = ", then ".join(map(short_method, tried))
        description = f"request with {methods}: {job.phase.replace('_', ' ')}"
        display.update(task, completed=job.progress, description=description)
    assert job is not None  # client.watch_job yields at least the job's end
    return job


def explain(attempt: Attempt) -> str:
    """Explain why an attempt's result was not published: what its audit found, or what failed."""
    finding = attempt.finding or {}
    return str(finding.get("sentence") or finding.get("refused") or attempt.detail or attempt.reason)


def save_report(http: httpx.Client, report_id: UUID, *, folder: Path, name: str) -> dict[str, Path]:
    """Save a report in each of its forms, its signed statement, and the public key to check it with."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = {}
    for form, media in client.MEDIA_TYPES.items():
        saved[form] = (folder / f"{name}.{form}").absolute()
        saved[form].write_bytes(client.get_report_file(http, report_id, media))
    saved["statement"], saved["key"] = (folder / f"{name}.dsse").absolute(), (folder / "signing-key.pem").absolute()
    saved["statement"].write_bytes(client.get_statement(http, report_id))
    saved["key"].write_text(client.get_signing_keys(http)[0].public_key)
    return saved
