"""One attempt of a job: the method on a copy of the served model, then the audit of what came out."""

import copy
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from ledger.jobs.claims import enter_verifying
from ledger.states import Phase
from telemetry.tracing import span
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings
from unlearning.methods.registry import unlearn
from unlearning.specs import parse
from unlearning.specs.audit import AuditSpec
from unlearning.state import State
from unlearning.task import Outcome, Progress, Task, each_step_in, run_to_completion
from worker.checkpoints import Saving, find, save_unlearned, saver
from worker.inputs import Material
from worker.lease import fenced
from worker.progress import Journal, add_time, note

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trial:
    """What an attempt came to: the changed model, how the method ended, what the audit found, seconds of both."""

    model: nn.Module
    outcome: Outcome
    findings: Findings
    seconds: float


def try_method(journal: Journal, material: Material, *, spec: AuditSpec, saving: Saving) -> Trial:
    """Run the claim's method on a copy of the original, from its last checkpoint where it has one, and audit it.

    Raises MethodRefused, InvalidSpec, and what `Watch.check` raises; the original is as it was in any case.
    """
    claim, workload, begun = journal.watch.claim, material.workload, time.monotonic()
    model, outcome = forget(journal, material, saving=saving)
    with fenced(journal.sessions, claim) as session:
        enter_verifying(session, claim)
    with span("audit"):
        findings = drive(
            journal,
            audit(
                original=material.original,
                unlearned=model,
                forget=material.forget,
                remain=material.remain,
                held_out=material.held_out.audit,
                test=material.test,
                objective=workload.objective,
                spec=spec,
                seed=claim.seed,
                reference=material.reference,
            ),
            phase=Phase.AUDIT_MEMBERSHIP,
        )
    return Trial(model=model, outcome=outcome, findings=findings, seconds=time.monotonic() - begun)


def forget(journal: Journal, material: Material, *, saving: Saving) -> tuple[nn.Module, Outcome]:
    """Run the claim's method on a copy of the original, saving it as it goes; a run that was saved goes on from there."""
    claim, workload = journal.watch.claim, material.workload
    model = copy.deepcopy(material.original)
    saved = find(journal, saving) or {}
    if "outcome" in saved:
        model.load_state_dict(saved["model"])
        return model.eval(), Outcome(**saved["outcome"])
    task = Task(
        model=model,
        build=workload.build,
        objective=workload.objective,
        recipe=workload.recipe,
        forget=material.forget,
        remain=material.remain,
        guide=material.held_out.guide,
        criterion=material.held_out.criterion,
        seed=claim.seed,
        state=State(saved.get("state", {})),
    )
    steps = unlearn(parse(claim.method), task)
    with span("unlearn"):
        outcome = drive(journal, steps, phase=Phase.UNLEARN, between=saver(journal, task.state, saving))
    save_unlearned(journal, saving, model=model.eval(), outcome=outcome)
    return model, outcome


def drive(
    journal: Journal,
    steps: Generator[Progress, None, T],
    *,
    phase: Phase,
    between: Callable[[Progress], None] = lambda progress: None,
) -> T:
    """Run steps to their end, noting each, and give what they return; `between` is called after each, before it is noted.

    The time up to a step counts for that step's phase, the time after the last for the last's; `phase` is where they begin.
    """
    note(journal, Progress(phase=phase.value, step=0, total=0))
    before = time.monotonic()

    def on_progress(progress: Progress) -> None:
        nonlocal phase, before
        phase, now = Phase(progress.phase), time.monotonic()
        add_time(journal, phase, now - before)
        between(progress)
        before = time.monotonic()
        note(journal, progress)

    result = run_to_completion(each_step_in(steps, lambda: span("step", phase=phase.value)), on_progress)
    add_time(journal, phase, time.monotonic() - before)
    return result
