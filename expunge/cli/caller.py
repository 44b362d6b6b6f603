"""The caller's commands: over HTTP, with an API key, as any client would."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer

from expunge import client
from expunge.answers import Job
from expunge.cli.console import notes, out, progress_bar, read_ids
from expunge.do_not_train import fetch_digests, may_not_train, may_train
from expunge.stack.folder import Folder, default_folder, recall
from ledger.sample_ids import parse_sample_key

Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="EXPUNGE_URL", help="The API's address. Default: the stack that runs on this machine."
    ),
]
Key = Annotated[
    str, typer.Option("--key", envvar="EXPUNGE_API_KEY", prompt="API key", hide_input=True, help="The API key.")
]

MOST_INLINE = 100_000
"""More sample IDs than a request's body takes are uploaded ahead of it."""

MEDIA = {"html": "text/html", "pdf": "application/pdf", "json": "application/json"}


def open_client(url: str | None, key: str) -> httpx.Client:
    """Connect to the given API, or to the stack that runs here."""
    running = None if url else recall(default_folder())
    return client.connect(url or (running.api_url if running else "http://127.0.0.1:8000"), key)


def submit(
    key: Key,
    dataset: Annotated[str, typer.Option(help="The dataset the samples belong to.", show_default=False)],
    sample_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[SAMPLE_ID]...", help="What to forget.", show_default=False)
    ] = None,
    file: Annotated[
        typer.FileText | None, typer.Option(help="A file with one sample ID a line; - for the standard input.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model; may be repeated. Default: every model trained on them.")
    ] = None,
    method: Annotated[str, typer.Option(help='A method or JSON like \'{"kind": "ltu", "steps": 40}\'.')] = "auto",
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    regulation: Annotated[str | None, typer.Option(help="The law that sets the deadline: gdpr, ccpa, …")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the jobs have ended.")] = False,
    url: Url = None,
) -> None:
    """Ask for samples to be unlearned."""
    ids = [*(sample_ids or []), *read_ids(file)]
    with open_client(url, key) as http:
        manifest = None
        if len(ids) > MOST_INLINE:
            manifest = client.upload_manifest(http, dataset=dataset, sample_ids=ids)["id"]
        request = client.submit(
            http,
            dataset=dataset,
            sample_ids=ids if manifest is None else None,
            manifest=manifest,
            models=model,
            method=parse_method(method),
            reason=reason,
            regulation=regulation,
        )
        out.print_json(data=request)
        if follow and not follow_jobs(http, client.job_ids(request)):
            raise typer.Exit(1)


def parse_method(text: str) -> str | dict[str, object]:
    """Read a method's name, or a JSON object with its kind and parameters."""
    if not text.startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from error


def watch(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID...", help="The jobs.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Follow jobs until they have ended; the status is 1 where one has failed."""
    with open_client(url, key) as http:
        if not follow_jobs(http, job_ids):
            raise typer.Exit(1)


def follow_jobs(http: httpx.Client, job_ids: list[str]) -> bool:
    """Show each job's progress until it has ended; tell whether all were completed."""
    ended = [follow_job(http, job_id) for job_id in job_ids]
    return all(ended)


def follow_job(http: httpx.Client, job_id: str) -> bool:
    """Show one job's progress until it has ended; tell whether it was completed."""
    job: Job | None = None
    with progress_bar() as bar:
        task = bar.add_task("waiting", total=1.0)
        for job in client.watch_job(http, job_id):
            bar.update(task, completed=job["progress"], description=f"{job['state']}: {job['phase']}")
    assert job is not None  # a watch gives at least how the job ended
    notes.print(how_it_ended(job), markup=False, highlight=False)
    if job["report_id"]:
        notes.print(f"Its report: expunge report {job['report_id']}", highlight=False)
    return job["state"] == "completed"


def how_it_ended(job: Job) -> str:
    """A job's end in a line: the audit's verdict and the method that it is about, or why there is no result."""
    if job["reason"] is not None:
        return f"Job {job['id']} {job['state']}: {job['reason']}. {job['detail'] or ''}".rstrip()
    by = f": {job['verdict']}, by {job['method']['kind']}" if job["verdict"] else ""
    return f"Job {job['id']} {job['state']}{by}."


def report(
    report_id: Annotated[str, typer.Argument(help="The report.", show_default=False)],
    key: Key,
    form: Annotated[
        Literal["html", "pdf", "json"], typer.Option("--format", help="A page to read, a file to keep, or the data.")
    ] = "html",
    output: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write; - for the standard output. Default: by the report's ID."),
    ] = None,
    url: Url = None,
) -> None:
    """Fetch an audit report into a file."""
    with open_client(url, key) as http:
        body = client.get_report_file(http, report_id, MEDIA[form])
    write(body, output or Path(f"report-{report_id}.{form}"))


def prove(
    report_id: Annotated[str, typer.Argument(help="The report.", show_default=False)],
    key: Key,
    sample_id: Annotated[
        str,
        typer.Option(
            prompt="Sample ID", help="The person's sample. Asked for, so that it stays out of the shell's history."
        ),
    ],
    output: Annotated[Path, typer.Option("--out", help="The file to write; - for the standard output.")] = Path(
        "inclusion.json"
    ),
    url: Url = None,
) -> None:
    """Fetch a proof, for the person, that their sample is among those that a report is about; it shows no other."""
    with open_client(url, key) as http:
        body = client.get_inclusion(http, report_id, sample_id)
    write(body, output)


def write(body: bytes, path: Path) -> None:
    """Write a file and say where it is; `-` is the standard output."""
    if path == Path("-"):
        sys.stdout.buffer.write(body)
        return
    path.write_bytes(body)
    out.print(str(path), soft_wrap=True)


def promote(
    model: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    version: Annotated[int, typer.Argument(help="The number of the version to serve.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Have a model serve another of its versions. Refused where it still knows what was erased since."""
    with open_client(url, key) as http:
        promoted = client.promote(http, model, version)
    out.print(f"{model!r} serves version {promoted['number']}.", markup=False, highlight=False)


def approve(
    job_id: Annotated[str, typer.Argument(help="The job.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Let a job run, or have its version served: whichever it waits for. Needs an admin's key."""
    decide(job_id, "approve", url=url, key=key)


def reject(
    job_id: Annotated[str, typer.Argument(help="The job.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Do not let a job run, or not have its version served. Needs an admin's key."""
    decide(job_id, "reject", url=url, key=key)


def decide(job_id: str, decision: Literal["approve", "reject"], *, url: str | None, key: str) -> None:
    """Send a decision and tell where the job is then."""
    with open_client(url, key) as http:
        job = client.decide(http, job_id, decision)
    out.print(f"Job {job_id} is {job['state']} now, in the phase {job['phase']}.", markup=False, highlight=False)


def do_not_train(
    dataset: Annotated[str, typer.Argument(help="The dataset.", show_default=False)],
    ids: Annotated[typer.FileText, typer.Option(help="A file with one sample ID a line; - for the standard input.")],
    key: Key,
    sample_key: Annotated[
        str | None,
        typer.Option(
            envvar="EXPUNGE_SAMPLE_KEY",
            help="The service's, 64 hex digits. Default: that of the stack that runs on this machine; else asked for.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only what this model has forgotten. Default: any model of the dataset.")
    ] = None,
    left_out: Annotated[bool, typer.Option("--left-out", help="Print those that may not be used, instead.")] = False,
    url: Url = None,
) -> None:
    """Print those of the sample IDs that a training may still use: without what was erased, or asked to be."""
    with open_client(url, key) as http:
        listed = fetch_digests(http, "models", model) if model else fetch_digests(http, "datasets", dataset)
    given, hashed_under = read_ids(ids), find_sample_key(sample_key)
    choose = may_not_train if left_out else may_train
    for sample_id in choose(given, dataset=dataset, key=hashed_under, left_out=listed):
        sys.stdout.write(f"{sample_id}\n")


def find_sample_key(given: str | None) -> bytes:
    """The key under which the service hashes sample IDs: the given one, the running stack's, or what is typed in.

    Raises BadParameter.
    """
    kept = Folder(default_folder()).sample_key
    if given is None and recall(default_folder()) and kept.exists():
        given = kept.read_text().strip()
    try:
        return parse_sample_key(given or typer.prompt("Sample key", hide_input=True, err=True))
    except ValueError as error:
        raise typer.BadParameter(f"the sample key {error}") from None
