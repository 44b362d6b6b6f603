"""The caller's commands: calls of the HTTP API with an API key, as any client makes them."""

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import httpx
import typer

from expunge import client
from expunge.cli.console import (
    Key,
    ProgressDisplay,
    SampleID,
    Url,
    ask_for_whom,
    has_terminal,
    notes,
    out,
    read_ids,
    write_result,
)
from expunge.stack.folder import chosen_folder, read_sample_key, read_stack_settings
from ledger.resources import Fallback, Job, UnlearnRequest
from ledger.sample_ids import KEY_HEADER, key_fingerprint, parse_sample_key, sample_digest, subject_digest
from ledger.states import Escalation, JobState, Phase
from report.formatting import duration, sentence
from verifier.method_names import short_method
from verifier.sample_ids import InvalidSampleID, check_sample_id

MAX_INLINE_IDS = 100_000
"""How many sample IDs, and how many people, a request's body may hold. More are uploaded first."""


def open_client(url: str | None, key: str | None) -> httpx.Client:
    """Connect to the API at `url`, or to the stack that runs on this machine; without a key, for the calls that need none."""
    running = None if url else read_stack_settings(chosen_folder())
    return client.connect(url or (running.api_url if running else "http://127.0.0.1:8000"), key)


def parse_moment(text: str) -> datetime:
    """Read a time with its offset. Raises BadParameter."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise typer.BadParameter(f"{text!r} is not a time with an offset, as 2026-01-31T09:00:00Z.")
    return found


def submit(
    key: Key,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="The samples' dataset. For people it may be repeated; left out, those of each --model, or else every "
            "dataset in which they have samples.",
            show_default=False,
        ),
    ] = None,
    sample_ids: Annotated[
        list[str] | None, typer.Argument(metavar="SAMPLE_ID", help="The samples to forget.", show_default=False)
    ] = None,
    file: Annotated[
        typer.FileText | None,
        typer.Option(encoding="utf-8", help="A file of sample IDs, one a line. - reads standard input."),
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            help="A person whose samples are to be forgotten. May be repeated. The shell's history keeps options: see --subjects.",
            show_default=False,
        ),
    ] = None,
    subjects: Annotated[
        typer.FileText | None,
        typer.Option(encoding="utf-8", help="A file of such people, one a line. - reads standard input."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to unlearn them. May be repeated. Default: every model trained on them."),
    ] = None,
    method: Annotated[
        str, typer.Option(help='The method: auto, a name, or JSON like \'{"kind": "ltu", "steps": 40}\'.')
    ] = "auto",
    reason: Annotated[str | None, typer.Option(help="The reason, for the record.")] = None,
    regulation: Annotated[str | None, typer.Option(help="The law that sets the deadline: gdpr, ccpa, …")] = None,
    received_at: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_moment,
            metavar="TIME",
            help="When the person asked, as 2026-01-31T09:00:00Z; the legal clock runs from here. Default: now.",
        ),
    ] = None,
    external_id: Annotated[str | None, typer.Option(help="Your own reference, such as a case number.")] = None,
    expedite: Annotated[
        bool, typer.Option("--expedite", help="Do not wait for other requests to join the job.")
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Sent twice with the same key, it is one request. Default: a fresh key.")
    ] = None,
    escalate: Annotated[
        Escalation | None,
        typer.Option(help="Whether an inconclusive verdict leads to the next method. Default: as the model is set."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the jobs to their end. Status 1 if one fails.")
    ] = False,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Submit nothing: print the duration and the chance of a verdict, as JSON."),
    ] = False,
    url: Url = None,
) -> None:
    """Request the unlearning of samples or people, and print the request as JSON."""
    ids = [*check_ids(sample_ids or []), *read_ids(file)]
    people = [*check_ids(subject or [], name="subject"), *read_ids(subjects, name="subject")]
    if not ids and not people:
        raise typer.BadParameter("Name the samples (SAMPLE_ID or --file) or the people (--subject or --subjects).")
    if ids and len(dataset or ()) != 1:
        raise typer.BadParameter("Name the one --dataset of the sample IDs.")
    named = dataset or []
    with open_client(url, key) as http:
        upload = upload_many(http, named, ids, people)
        send = client.preview if preview else partial(client.submit, idempotency_key=idempotency_key)
        answer = send(
            http,
            dataset=named[0] if len(named) == 1 else None,
            datasets=named if len(named) > 1 else None,
            sample_ids=ids if ids and upload is None else None,
            subjects=people if people and upload is None else None,
            upload=upload,
            models=model,
            method=parse_method(method),
            reason=reason,
            regulation=regulation,
            received_at=received_at,
            external_id=external_id,
            expedite=expedite or None,
            escalate=escalate,
        )
        if ids and answer.unmatched_lines is not None:  # the lines of the upload are the IDs in their order
            unmatched = [ids[line - 1] for line in answer.unmatched_lines]
            answer = answer.model_copy(update={"unmatched_sample_ids": unmatched, "unmatched_lines": None})
        out.print_json(answer.model_dump_json())
        if watch and isinstance(answer, UnlearnRequest):
            for line in format_without_jobs(answer):
                notes.print(line, markup=False, highlight=False)
            if not watch_jobs(http, client.job_ids(answer)):
                raise typer.Exit(1)


def upload_many(http: httpx.Client, datasets: list[str], ids: list[str], people: list[str]) -> UUID | None:
    """Upload sample IDs or people, if there are too many for a request's body. datasets: the one of the IDs.

    Raises BadParameter for too many of both.
    """
    if max(len(ids), len(people)) <= MAX_INLINE_IDS:
        return None
    if ids and people:
        raise typer.BadParameter(f"Send more than {MAX_INLINE_IDS} sample IDs or people in a request of their own.")
    if people:
        return client.upload_subjects(http, subjects=people).id
    return client.upload_samples(http, dataset=datasets[0], sample_ids=ids).id


def check_ids(given: Iterable[str], *, name: str = "sample ID") -> Iterator[str]:
    """Yield IDs, called `name`, from the command line. Raises BadParameter, which names the first faulty one by its place."""
    for place, sample_id in enumerate(given, start=1):
        try:
            yield check_sample_id(sample_id)
        except InvalidSampleID as fault:
            raise typer.BadParameter(f"{name[0].upper()}{name[1:]} {place} {fault}.") from None


def parse_method(text: str) -> str | dict[str, object]:
    """Read a method's name, or a JSON object of its kind and parameters. Raises BadParameter."""
    if not text.startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from error


def watch(
    job_ids: Annotated[list[UUID], typer.Argument(metavar="JOB_ID", help="The jobs.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Follow jobs to their end. Status 1 if one of them is not completed."""
    with open_client(url, key) as http:
        if not watch_jobs(http, job_ids):
            raise typer.Exit(1)


def watch_jobs(http: httpx.Client, job_ids: list[UUID]) -> bool:
    """Show each job's progress to its end, one after the other; return whether all were completed."""
    completed = [watch_job(http, job_id) for job_id in job_ids]
    return all(completed)


def watch_job(http: httpx.Client, job_id: UUID) -> bool:
    """Show a job's progress to its end, and each method that follows another; return whether it was completed."""
    job: Job | None = None
    shown: Fallback | None = None
    waited: Phase | None = None
    with ProgressDisplay() as display:
        task = display.add_task("waiting", total=1.0)
        for job in client.watch_job(http, job_id):
            display.update(task, completed=job.progress, description=f"{job.state}: {job.phase}")
            if job.fallback is not None and job.fallback != shown:
                shown = job.fallback
                notes.print(format_fallback(job, shown), markup=False, highlight=False)
            if job.state == JobState.AWAITING_APPROVAL and job.phase != waited:
                waited = job.phase
                notes.print(format_approval(job), markup=False, highlight=False, soft_wrap=True)
    assert job is not None  # client.watch_job yields at least the job's end
    notes.print(format_end(job), markup=False, highlight=False)
    if job.report_id:
        notes.print(f"Its report: expunge report {job.report_id}", highlight=False)
    return job.state == JobState.COMPLETED


def format_without_jobs(request: UnlearnRequest) -> list[str]:
    """Say which models of a request need no job, and why: there is none to follow. Or that this key may follow none."""
    if request.state is None:
        return ["The request is recorded. Following its jobs needs a key with requests:read."]
    return [
        f"No job for {target.model}: {target.reason or target.state}."
        for target in request.targets
        if target.job is None
    ]


def format_fallback(job: Job, fallback: Fallback) -> str:
    """Say which method follows which, why, and how long it takes."""
    takes = "" if fallback.seconds is None else f" It takes about {duration(fallback.seconds)}."
    return f"{sentence(short_method(job.method['kind']))} follows {short_method(fallback.after)}.{takes} {fallback.why}"


def format_approval(job: Job) -> str:
    """Say what awaits approval, why, and how to decide; a job may wait for its run, and later for its version."""
    what = "Its version" if job.phase == Phase.PUBLISH else "Its run"
    why = "" if job.reason is None else f": {job.reason}. {job.detail or ''}".rstrip(". ")
    return f"{what} awaits approval{why}. Decide with:\n  expunge approve {job.id}\n  expunge reject {job.id}"


def format_end(job: Job) -> str:
    """Format a job's end in a line: the verdict and the method, or the reason why there is no result."""
    if job.reason is not None:
        return f"Job {job.id} {job.state}: {job.reason}. {job.detail or ''}".rstrip()
    by = f": {job.verdict}, by {job.method['kind']}" if job.verdict else ""
    return f"Job {job.id} {job.state}{by}."


def report(
    report_id: Annotated[UUID, typer.Argument(help="The report.", show_default=False)],
    key: Key,
    form: Annotated[
        Literal["html", "pdf", "json"], typer.Option("--format", help="A web page, a document, or the signed data.")
    ] = "html",
    output: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write. - writes standard output. Default: report-ID.FORMAT."),
    ] = None,
    url: Url = None,
) -> None:
    """Save an audit report to a file."""
    with open_client(url, key) as http:
        body = client.get_report_file(http, report_id, client.MEDIA_TYPES[form])
    write(body, output or Path(f"report-{report_id}.{form}"))


def card(
    model: Annotated[str, typer.Argument(help="The model's name.", show_default=False)],
    key: Key,
    form: Annotated[
        Literal["markdown", "cyclonedx"],
        typer.Option("--format", help="A model card, or an entry for a bill of materials (CycloneDX)."),
    ] = "markdown",
    output: Annotated[Path, typer.Option("--out", help="The file to write. Default: standard output.")] = Path("-"),
    url: Url = None,
) -> None:
    """Print what leaves with a model: a card with the history of its erasures. Counts, dates and verdicts, nothing of a person."""
    fetch = client.get_card if form == "markdown" else client.get_bom
    with open_client(url, key) as http:
        body = fetch(http, model)
    write(body, output)


def prove(
    report_id: Annotated[UUID, typer.Argument(help="The report.", show_default=False)],
    key: Key,
    sample_id: SampleID = None,
    subject: Annotated[
        bool,
        typer.Option(
            "--subject", help="Show a person instead, whose erasure was asked for by name. The command asks for whom."
        ),
    ] = False,
    output: Annotated[Path, typer.Option("--out", help="The file to write. - writes standard output.")] = Path(
        "inclusion.json"
    ),
    url: Url = None,
) -> None:
    """Save a proof that a sample, or a person, is among those that a report is about. It discloses nobody else."""
    sample_id, person = ask_for_whom(sample_id, subject=subject)
    with open_client(url, key) as http:
        body = client.get_inclusion(http, report_id, sample_id, subject=person)
    write(body, output)


def write(body: bytes, path: Path) -> None:
    """Write a file and print its path; `-` is standard output."""
    if path == Path("-"):
        sys.stdout.buffer.write(body)
        return
    write_result(path, body)
    out.print(str(path), soft_wrap=True)


def promote(
    model: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    version: Annotated[int, typer.Argument(help="The number of the version.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Make a version of a model the served one. Refused if it knows samples that the model has unlearned."""
    with open_client(url, key) as http:
        promoted = client.promote(http, model, version)
    out.print(f"{model!r} serves version {promoted.number}.", markup=False, highlight=False)


def approve(
    job_id: Annotated[UUID, typer.Argument(help="The job.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Approve a waiting job: let it run, or let its version be served. Needs an admin's key."""
    decide(job_id, "approve", url=url, key=key)


def reject(
    job_id: Annotated[UUID, typer.Argument(help="The job.", show_default=False)],
    key: Key,
    url: Url = None,
) -> None:
    """Reject a waiting job: do not run it, or do not serve its version. Needs an admin's key."""
    decide(job_id, "reject", url=url, key=key)


def decide(job_id: UUID, decision: Literal["approve", "reject"], *, url: str | None, key: str) -> None:
    """Send a decision and print the job's new state."""
    with open_client(url, key) as http:
        job = client.decide(http, job_id, decision)
    out.print(f"Job {job_id} is {job.state}, in the phase {job.phase}.", markup=False, highlight=False)


def do_not_train(
    dataset: Annotated[str, typer.Argument(help="The dataset.", show_default=False)],
    key: Key,
    ids: Annotated[
        typer.FileText | None,
        typer.Option(encoding="utf-8", help="A file of sample IDs, one a line. - reads standard input."),
    ] = None,
    subjects: Annotated[
        typer.FileText | None,
        typer.Option(
            encoding="utf-8",
            help="A file of people instead, one a line. Whoever asked to be erased is one, also with new samples.",
        ),
    ] = None,
    sample_key: Annotated[
        str | None,
        typer.Option(
            envvar="EXPUNGE_SAMPLE_KEY",
            help="The service's key for sample IDs, 64 hex digits. Default: the key of the stack that runs on this machine; "
            "without one the command asks.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Consider only what this model has unlearned. Default: all models of the dataset."),
    ] = None,
    left_out: Annotated[
        bool, typer.Option("--left-out", help="Print the samples or people that must not be used instead.")
    ] = False,
    url: Url = None,
) -> None:
    """Print those of the given sample IDs, or of the given people, that may still be used for training.

    Samples that were erased, or whose erasure was requested, may not, nor any sample of a person who asked for it. Give the output
    of --left-out, which is UTF-8, to `expunge train --without` or `--without-subjects`.
    """
    if (ids is None) == (subjects is None):
        raise typer.BadParameter("Name either --ids or --subjects.")
    kind, name = ("models", model) if model else ("datasets", dataset)
    hashed_under = find_sample_key(sample_key)
    with open_client(url, key) as http:
        path = f"/{kind}/{name}/do-not-train" + ("/subjects" if subjects else "")
        digests = fetch_digests(http, path, hashed_under=hashed_under)
    given = read_ids(ids) if subjects is None else read_ids(subjects, name="subject")
    for one in given:
        digest = sample_digest(hashed_under, dataset, one) if subjects is None else subject_digest(hashed_under, one)
        if (digest in digests) == left_out:
            sys.stdout.buffer.write(f"{one}\n".encode())


def fetch_digests(http: httpx.Client, path: str, *, hashed_under: bytes) -> frozenset[bytes]:
    """Fetch a do-not-train list: keyed hashes of sample IDs or of subjects.

    Raises ServiceError, and BadParameter for a list under another key: nobody would be found in it.
    """

    def check(headers: httpx.Headers) -> None:
        mine = key_fingerprint(hashed_under)
        if headers.get(KEY_HEADER, mine) != mine:
            raise typer.BadParameter(
                "the service's list is hashed under another sample key, so everybody on it would pass; give the key that the "
                "service has now (EXPUNGE_SAMPLE_KEY)"
            )

    return frozenset(client.stream_digests(http, path, check=check))


def find_sample_key(given: str | None) -> bytes:
    """Read the key for sample IDs: the given one, else the running stack's, else ask for it. Raises BadParameter."""
    if given is None and (running := read_stack_settings(chosen_folder())):
        given = read_sample_key(chosen_folder(), running)
    if given is None and not has_terminal():
        raise typer.BadParameter(
            "set EXPUNGE_SAMPLE_KEY to the key under which the service hashes sample IDs, or EXPUNGE_DATA to the data folder of "
            "a stack that runs on this machine"
        )
    try:
        return parse_sample_key(given or typer.prompt("Sample key", hide_input=True, err=True))
    except ValueError as error:
        raise typer.BadParameter(f"the sample key {error}") from None
