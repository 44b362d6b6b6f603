"""The demo as a caller of the API: submits a request, follows its job, keeps its report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.progress import Progress

from expunge import client
from expunge.answers import Job
from expunge.demo.plan import MODEL
from expunge.errors import JobFailed

FORMS = {"html": "text/html", "pdf": "application/pdf", "json": "application/json"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Unlearned:
    """What a request came to. methods: those tried, in order; the last one's result is published.

    findings: why each method but the last was not enough. seconds: of the unlearning, over all methods tried.
    reports: the saved copies of the report by form, its signed statement, and the key to check that with.
    """

    samples: int
    methods: tuple[str, ...]
    findings: tuple[str, ...]
    seconds: float
    sha256: str
    verdict: str
    sentence: str
    reports: dict[str, Path]


def unlearn(
    http: httpx.Client,
    *,
    sample_ids: Sequence[str],
    dataset: str,
    method: str,
    folder: Path,
    bars: Progress,
    before_look: Callable[[], None],
) -> Unlearned:
    """Ask for samples to be unlearned, follow the job to its end, and save its report. Raises JobFailed, ServiceError.

    before_look: called before each look at the job; what it raises ends the watch.
    """
    request = client.submit(
        http,
        dataset=dataset,
        sample_ids=sample_ids,
        models=[MODEL],
        method=method,
        regulation="gdpr",
        reason="Withdrawal of consent (demonstration).",
    )
    (job_id,) = client.job_ids(request)
    job = follow(http, job_id, method=method, bars=bars, before_look=before_look)
    if job["state"] != "completed":
        raise JobFailed(f"The job of {method.upper()} {job['state']}: {job['reason']}. {job['detail'] or ''}")
    attempts = client.content(client.send(http, "GET", f"/jobs/{job_id}/attempts"))["items"]
    report = client.get_report(http, str(job["report_id"]))
    return Unlearned(
        samples=len(sample_ids),
        methods=tuple(attempt["method"]["kind"] for attempt in attempts),
        findings=tuple(why(attempt) for attempt in attempts[:-1]),
        seconds=sum(attempt["timings"].get("unlearn", 0.0) for attempt in attempts),
        sha256=report["model"]["weights_after_sha256"],
        verdict=report["verdict"]["value"],
        sentence=report["verdict"]["sentence"],
        reports=save_report(http, str(job["report_id"]), folder=folder, name=f"{MODEL}-version-{job['version']}"),
    )


def follow(http: httpx.Client, job_id: str, *, method: str, bars: Progress, before_look: Callable[[], None]) -> Job:
    """Show a job's progress until it has ended; the methods it goes on to are shown as such."""
    tried = [method]
    bar = bars.add_task(f"request with {method.upper()}", total=1.0)
    job: Job | None = None
    for job in client.watch_job(http, job_id, before_look=before_look):
        if job["method"]["kind"] != tried[-1]:
            tried.append(job["method"]["kind"])
        path = ", then ".join(map(str.upper, tried))
        bars.update(
            bar, completed=job["progress"], description=f"request with {path}: {job['phase'].replace('_', ' ')}"
        )
    assert job is not None  # a watch gives at least how the job ended
    return job


def why(attempt: client.Json) -> str:
    """Say why an attempt was not the last: what its audit found, or what went wrong."""
    finding = attempt["finding"] or {}
    return str(finding.get("sentence") or finding.get("refused") or attempt["detail"] or attempt["reason"])


def save_report(http: httpx.Client, report_id: str, *, folder: Path, name: str) -> dict[str, Path]:
    """Save a report in each of its forms, with its signed statement and the key to check that with."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = {}
    for form, media in FORMS.items():
        saved[form] = (folder / f"{name}.{form}").absolute()
        saved[form].write_bytes(client.get_report_file(http, report_id, media))
    saved["statement"], saved["key"] = (folder / f"{name}.dsse").absolute(), (folder / "signing-key.pem").absolute()
    saved["statement"].write_bytes(client.get_statement(http, report_id))
    saved["key"].write_text(client.get_signing_keys(http)[0]["public_key"])
    return saved
