"""One attempt at a job: the method on a copy of the served model, then the audit of the result."""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import TypeVar

from torch import nn

from connectors.storage import Storage
from ledger.jobs.claims import Claim, enter_verifying
from ledger.states import DATA_WAIT, Phase
from telemetry.tracing import span
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings
from unlearning.errors import NotFinite
from unlearning.methods.registry import unlearn
from unlearning.networks import copy_network
from unlearning.specs import AIMING, EXACT, parse
from unlearning.state import State
from unlearning.steps import Outcome, Progress, Steps, each_step_in, run_to_completion
from unlearning.task import Task
from worker.checkpoints import checkpointing, find_checkpoint, save_unlearned
from worker.inputs import JobInputs
from worker.launch import Ranks, launched
from worker.lease import Run, add_time, fenced, report_progress, stage
from worker.slices import keep_slice, latest_checkpoint

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttemptResult:
    """The changed model, how the method ended, and what the audit found."""

    model: nn.Module
    outcome: Outcome
    findings: Findings


def run_attempt(run: Run, inputs: JobInputs) -> AttemptResult:
    """Run the claim's method on a copy of the original model, and audit it. The original is never changed.

    Raises MethodRefused, InvalidSpec, NotFinite, RankFailed, and what `Run.check` raises.
    """
    claim = run.claim
    with ExitStack() as stack:
        ranks = None
        if run.launch is not None:
            with stage(run, Phase.LOAD):
                ranks = stack.enter_context(launched(run.launch, check=run.check))
                ranks.load(claim, run.settings)
        model, outcome = run_method(run, inputs, ranks=ranks)
        with fenced(run) as (session, job):
            enter_verifying(session, job)
        with span("audit"):
            if ranks is None:
                steps = audit_steps(claim, inputs, model)
            else:
                steps = ranks.audit(model, merit=inputs.workload.objective.utility)
            findings = run_reporting(run, steps, phase=Phase.AUDIT_MEMBERSHIP)
    if not findings.change.finite:
        raise NotFinite("The outputs of the new model are not finite numbers.")
    return AttemptResult(model=model, outcome=outcome, findings=findings)


def method_steps(claim: Claim, inputs: JobInputs, model: nn.Module, state: State, *, storage: Storage) -> Steps:
    """Begin the claim's method on `model`."""
    workload = inputs.workload
    task = Task(
        model=model,
        build=workload.build,
        objective=workload.objective,
        recipe=workload.training,
        forget=inputs.forget,
        remain=inputs.remain,
        guide=inputs.held_out.guide,
        criterion=inputs.held_out.criterion,
        seed=claim.seed,
        references=None if inputs.references is None else inputs.references.aims,
        checkpoint=latest_checkpoint(inputs.checkpoints, storage),
        keep_slice=partial(keep_slice, inputs.training, storage),
        adapters=workload.adapters,
        state=state,
    )
    return unlearn(parse(claim.method), task)


def audit_steps(claim: Claim, inputs: JobInputs, model: nn.Module) -> Generator[Progress, None, Findings]:
    """Begin the audit of `model`. Of what is not exact a failed one is never published, so it may end early."""
    return audit(
        original=inputs.original,
        unlearned=model,
        forget=inputs.tested,
        remain=inputs.remain,
        held_out=inputs.held_out.audit,
        test=inputs.test,
        objective=inputs.workload.objective,
        spec=inputs.audit_spec,
        seed=claim.seed,
        reference=inputs.retrained,
        references=None if inputs.references is None else inputs.references.audit,
        erased_since=0 if inputs.references is None else inputs.references.erased_since,
        aimed=inputs.references is not None and claim.method["kind"] in AIMING,
        until_failed=claim.method["kind"] not in EXACT,
    )


def run_method(run: Run, inputs: JobInputs, *, ranks: Ranks | None = None) -> tuple[nn.Module, Outcome]:
    """Run the claim's method on a copy of the original, from the last training checkpoint if there is one."""
    claim = run.claim
    model = copy_network(inputs.original)
    saved = find_checkpoint(run, inputs) or {}
    if "outcome" in saved:
        model.load_state_dict(saved["model"])
        return model.eval(), Outcome(**saved["outcome"])
    resumed = saved.get("state", {})
    if ranks is None:
        state = State(resumed, should_stop=run.must_stop)
        steps = method_steps(claim, inputs, model, state, storage=run.settings.files)
    else:
        state, steps = ranks.state, ranks.unlearn(model, resumed=resumed)
    with span("unlearn"):
        save = checkpointing(run, inputs, state)

        def after_step(progress: Progress) -> None:
            if claim.method["kind"] in EXACT:
                check_loss(progress)
            save(progress)

        outcome = run_reporting(run, steps, phase=Phase.UNLEARN, after_step=after_step)
    check_finite(model, inputs.original)
    save_unlearned(run, inputs, model=model.eval(), outcome=outcome)
    return model, outcome


def check_loss(progress: Progress) -> None:
    """Raise NotFinite for a step whose loss is not finite: a training does not recover from it."""
    loss = progress.metrics.get("loss", 0.0)
    if not isfinite(loss):
        raise NotFinite(
            f"The training loss is {loss} at step {progress.step} of {progress.total}: the training does not suit the model. "
            "Lower its learning rate."
        )


def check_finite(model: nn.Module, original: nn.Module) -> None:
    """Raise NotFinite for a weight or buffer that is not finite any more. Masks may have held −∞ in the original too."""
    before = original.state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all() and before[name].isfinite().all():
            raise NotFinite(f"The new model's {name} holds numbers that are not finite.")


def run_reporting(
    run: Run,
    steps: Generator[Progress, None, T],
    *,
    phase: Phase,
    after_step: Callable[[Progress], None] = lambda progress: None,
) -> T:
    """Run steps to completion and return their result; report the progress of each and its time by phase.

    phase: where the steps start. after_step: called before the progress of a step is reported.
    Raises what `Run.check` raises, at a step boundary.
    """
    report_progress(run, Progress(phase=phase.value, step=0, total=0))
    started = time.monotonic()

    def on_progress(progress: Progress) -> None:
        nonlocal phase, started
        phase = Phase(progress.phase)
        add_time(run, phase, time.monotonic() - started)
        if progress.waited:
            add_time(run, DATA_WAIT, progress.waited)
        after_step(progress)
        started = time.monotonic()
        report_progress(run, progress)

    result = run_to_completion(each_step_in(steps, lambda: span("step", phase=phase.value)), on_progress)
    add_time(run, phase, time.monotonic() - started)
    return result
