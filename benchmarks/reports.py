"""The cost of a report: CPU seconds and bytes of each form, for 1, 10, 100 and 1,000 forgotten samples of the digits.

python -m benchmarks.reports
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.cases import Case, case
from benchmarks.judging import task_of
from benchmarks.writing import Row, row, write
from ledger.jobs.claims import Claim, JobSamples
from ledger.sample_ids import sample_digest
from ledger.transparency.commitments import Commitment, commit_samples
from report.canonical import canonical_json
from report.document import Document, Report, read
from report.document import write as write_report
from report.html import render_html
from report.pdf import render_pdf
from unlearning.audit.audit import audit
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU
from unlearning.specs.audit import AuditSpec
from unlearning.steps import run_to_completion
from verifier.keys import key_id
from worker.attempt import AttemptResult
from worker.inputs import JobInputs
from worker.report import Background, build_report
from worker.signing import Signer, sign_statement
from worker.slices import SlicedTraining

FORGOTTEN = (1, 10, 100, 1000)
REPEATS = 5
KEY = bytes(32)


def main() -> None:
    """Make a real report for each number of samples, and time each of its forms."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    rows: list[Row] = []
    for forgotten in FORGOTTEN:
        one = case("digits", 0, share=forgotten / 3000)
        assert len(one.forget) == forgotten
        report = stored(f"report-{forgotten}", partial(report_of, one))
        print(f"{forgotten} samples: {report.report.verdict.value}", flush=True)
        rows += forms(report, one, name=f"{forgotten} forgotten")
    print(write("reports", rows))


def stored(name: str, make: Callable[[], Report]) -> Document:
    """Read the report that an earlier run stored, or make one: unlearning and auditing take minutes and are not measured."""
    place = Path(os.environ.get("EXPUNGE_BENCH", ".bench")) / f"{name}.json"
    if not place.exists():
        place.write_bytes(write_report(make()).content)
    return read(json.loads(place.read_text()))


def report_of(one: Case) -> Report:
    """Unlearn with IEU, audit, and build the report as the worker does."""
    task = task_of(one)
    outcome = run_to_completion(unlearn(IEU(), task))
    findings = run_to_completion(
        audit(
            original=one.original.model,
            unlearned=task.model,
            forget=one.forget,
            remain=one.remain,
            held_out=one.held_out.audit,
            test=one.workload.test,
            objective=one.workload.objective,
            spec=AuditSpec(),
        )
    )

    inputs = JobInputs(
        training=SlicedTraining(samples=one.remain, dataset="digits", key=KEY, fitted_to=None),
        workload=one.workload,
        original=one.original.model,
        retrained=None,
        forget=one.forget,
        remain=one.remain,
        held_out=one.held_out,
        test=one.workload.test,
        device=next(one.original.model.parameters()).device,
    )
    return build_report(
        claim_of(one),
        inputs,
        AttemptResult(model=task.model, outcome=outcome, findings=findings),
        report_id=uuid4(),
        background=Background(timeline=(), attempts=(), now=datetime.now(UTC)),
        commitment=commitment(one),
        weights_sha256="0" * 64,
        timings={},
    )


def commitment(one: Case) -> Commitment:
    """Compute the commitment to the forget set."""
    return commit_samples("digits", one.forget.ids, key=KEY)


def claim_of(one: Case) -> Claim:
    """Make a claim as the ledger does; fields that a report does not need are None."""
    given: dict[str, Any] = {field.name: None for field in dataclasses.fields(Claim)}
    forget = frozenset(sample_digest(KEY, "digits", sample) for sample in one.forget.ids)
    samples = JobSamples(forget=forget, erased=frozenset(), unknown=frozenset())
    names = {"model": "digits", "dataset": "digits", "workload": "examples.digits:workload", "details": {}}
    numbers = {"attempt": 1, "base_version": 1, "next_version": 2, "requests": 1, "job_id": UUID(int=1)}
    more = {"weights_sha256": "0" * 64, "samples": samples, "method": asdict(IEU())}
    return Claim(**given | names | numbers | more | {"origin": "request", "regulations": ("gdpr",)})


def forms(report: Document, one: Case, *, name: str) -> list[Row]:
    """Measure seconds and bytes of each form; each is made once before, because the first time loads imports and fonts."""
    private = Ed25519PrivateKey.generate()
    signer = Signer(key_id(private.public_key()), private, folder=Path("/nowhere"))

    def signed() -> bytes:
        return canonical_json(sign_statement(report, signer=signer))

    made: dict[str, Callable[[], bytes]] = {
        "json": lambda: write_report(report.report).content,
        "html": lambda: render_html(report).encode(),
        "pdf": lambda: render_pdf(report),
        "statement": signed,
    }
    rows = []
    for form, make in made.items():
        size = float(len(make()))
        rows += [
            row(timed(make), case=name, method=form, metric="processor_seconds", unit="s"),
            row([size], case=name, method=form, metric="bytes", unit="B"),
        ]
    rows.append(
        row(timed(lambda: commitment(one)), case=name, method="commitment", metric="processor_seconds", unit="s")
    )
    return rows


def timed(make: Callable[[], object]) -> list[float]:
    """Measure the CPU seconds of each repeat, which other programs hardly affect."""
    found = []
    for _ in range(REPEATS):
        begun = time.process_time()
        make()
        found.append(time.process_time() - begun)
    return found


if __name__ == "__main__":
    main()
