"""The demo: train a model, unlearn two forget sets through the service, the second with references, compare with retraining."""

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from expunge import client
from expunge.cli.console import ProgressDisplay, notes, out
from expunge.demo.requests import Erasure, erase
from expunge.demo.table import (
    Row,
    Section,
    comparison,
    legend,
    noise,
    original_figures,
    outcome,
    print_files,
    references,
    retrained_figures,
    unlearned_figures,
)
from expunge.demo.training import Model, TrainingQueue, measure_model
from expunge.errors import DemoFailed, ExpungeError, JobFailed, ServiceError
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_new_version, register_workload
from expunge.stack.broker import free_port
from expunge.stack.process import tail
from expunge.stack.stack import Options, Stack, alone, interruptible, run_stack
from unlearning.data.workload import Workload
from verifier.method_names import short_method
from worker.failures import WorkerError
from worker.inputs import load_workload
from worker.settings import allow_list

MODEL = "digits"
"""The name that the model is registered under."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """reference: the workload. workloads: its allow-list.

    first_share: of the training samples, forgotten by the first request with IEU, the first method of the default policy.
    person_samples: one person's, forgotten by the second request under the model's policy. rounds: of the reference predictions,
    half of the default's.
    seed: of the choice of these samples and of the original model. The retrained models have the next seeds.
    """

    reference: str = "examples.digits:workload"
    workloads: str = "examples"
    first_share: float = 0.1
    person_samples: int = 10
    rounds: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ForgetSets:
    """The sample IDs of the two requests. They share none."""

    first: tuple[str, ...]
    second: tuple[str, ...]

    @property
    def both(self) -> tuple[str, ...]:
        """What is forgotten after the second request."""
        return self.first + self.second


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainings:
    """The models that the demo trains, finished or not, each with a seed of its own.

    retrained: without the first forget set. retrained_both: without both sets.
    """

    original: Future[Model]
    retrained: Future[Model]
    retrained_both: Future[Model]


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """What the demo shows. preparation: seconds of the reference predictions. training: seconds of the original's."""

    sections: list[Section]
    erasures: tuple[Erasure, Erasure]
    preparation: float
    training: float


def main(*, folder: Path = Path("reports"), plan: Plan | None = None) -> None:
    """Run the demo and save both reports into `folder`; stop everything that it started. Raises ExpungeError."""
    started = time.monotonic()
    try:
        with interruptible(), alone(), scratch_folder() as scratch, ProgressDisplay() as display:
            found = run(plan or Plan(), scratch=scratch, folder=folder, display=display)
    except KeyboardInterrupt:
        notes.print("Stopped. Nothing is left running.")
        sys.exit(130)
    show(found)
    out.print(f"\nTook {time.monotonic() - started:.0f} s. Everything is stopped.", style="dim")


def run(plan: Plan, *, scratch: Path, folder: Path, display: ProgressDisplay) -> Demo:
    """Train the models, run both requests through the service, and compare the results."""
    # Two queues, two cores. The second one retrains in the background: the first one, and then the stack, are waited for.
    queue = partial(TrainingQueue, reference=plan.reference, workloads=plan.workloads, display=display)
    with (
        queue(folder=scratch / "original") as originals,
        queue(folder=scratch / "retrained", background=True) as retrainings,
    ):
        original = originals.submit("training the original model", seed=plan.seed)
        workload = load(plan)
        forget = choose_forget_sets(workload.train.ids, plan)
        trainings = Trainings(
            original=original,
            retrained=retrainings.submit("retraining for the first request", seed=plan.seed + 1, without=forget.first),
            retrained_both=retrainings.submit(
                "retraining for the second request", seed=plan.seed + 2, without=forget.both
            ),
        )
        erasures, preparation = run_requests(
            plan, forget, trainings, scratch=scratch, folder=folder, display=display, queues=(originals, retrainings)
        )
        sections = compare(plan, workload, forget, trainings, erasures, display=display)
        return Demo(
            sections=sections,
            erasures=erasures,
            preparation=preparation,
            training=trainings.original.result().seconds,
        )


def load(plan: Plan) -> Workload:
    """Load the workload. Raises DemoFailed."""
    try:
        return load_workload(plan.reference, allowed=allow_list(plan.workloads))
    except WorkerError as error:
        raise DemoFailed(str(error)) from error


def choose_forget_sets(training: Sequence[str], plan: Plan) -> ForgetSets:
    """Choose the samples of both requests at random, by the plan's seed."""
    first, second = max(1, round(plan.first_share * len(training))), plan.person_samples
    chosen = random.Random(plan.seed).sample(training, first + second)
    return ForgetSets(tuple(chosen[:first]), tuple(chosen[first:]))


def run_requests(
    plan: Plan,
    forget: ForgetSets,
    trainings: Trainings,
    *,
    scratch: Path,
    folder: Path,
    display: ProgressDisplay,
    queues: tuple[TrainingQueue, TrainingQueue],
) -> tuple[tuple[Erasure, Erasure], float]:
    """Start the stack during the trainings, register the original, and send both requests; prepare references before the second.

    Each retrained model is registered before its request, so that the audit compares with it. Returns the erasures and the seconds
    of the preparation. Raises DemoFailed.
    """
    options = Options(
        data_dir=scratch / "data",
        port=free_port(),
        workloads=plan.workloads,
        environment={"EXPUNGE_BATCH_WINDOW_SECONDS": "0", "OMP_NUM_THREADS": "1"},
    )
    task = display.add_task("starting the service")
    with run_stack(options, on_step=lambda part: display.update(task, description=f"starting {part}")) as running:
        display.update(task, description="the service is up", total=1, completed=1)
        deployment = find_deployment(running.folder.root)
        view = register_workload(
            deployment,
            name=MODEL,
            reference=plan.reference,
            weights=trainings.original.result().path,
            approve_utility_drop=100.0,  # nobody is there to approve; the table shows what was lost
        )

        assert running.api_key is not None  # The data folder is new.
        with client.connect(running.url, running.api_key) as http, log_tails(running):

            def request(
                sample_ids: Sequence[str], method: str, *, retrained: Future[Model], without: Sequence[str]
            ) -> Erasure:
                register_new_version(
                    deployment, name=MODEL, weights=retrained.result().path, without=frozenset(without)
                )
                return erase(
                    http,
                    model=MODEL,
                    dataset=view.dataset,
                    sample_ids=sample_ids,
                    method=method,
                    folder=folder,
                    display=display,
                    check=partial(check_processes, queues, running),
                )

            first = request(forget.first, "ieu", retrained=trainings.retrained, without=forget.first)
            preparing = queues[0].submit_references(
                "preparing reference predictions", model=MODEL, data_dir=options.data_dir, rounds=plan.rounds
            )
            preparation = preparing.result()
            second = request(forget.second, "auto", retrained=trainings.retrained_both, without=forget.both)
    return (first, second), preparation


def check_processes(queues: Sequence[TrainingQueue], running: Stack) -> None:
    """Raise DemoFailed if a training has failed or a part of the service has ended."""
    for queue in queues:
        queue.check()
    for child in running.children:
        if child.process.poll() is not None:
            raise DemoFailed(f"{child.program.name} has ended.{tail(child.program.log)}")


@contextmanager
def log_tails(running: Stack) -> Iterator[None]:
    """Add the API's or the worker's last log lines to an error of the service or of a job."""
    try:
        yield
    except ServiceError as error:
        raise DemoFailed(f"{error}{tail(running.folder.logs / 'api.log')}") from error
    except JobFailed as error:
        raise DemoFailed(f"{error}{tail(running.folder.logs / 'worker.log')}") from error


def compare(
    plan: Plan,
    workload: Workload,
    forget: ForgetSets,
    trainings: Trainings,
    erasures: tuple[Erasure, Erasure],
    *,
    display: ProgressDisplay,
) -> list[Section]:
    """Make the table's sections from the reports, and measure what they do not hold: AUC of retrained models, the noise floor.

    The model that was retrained for the second request has not seen the first forget set either, so it is the first request's
    second retrained model.
    """
    retrained, retrained_both = trainings.retrained.result(), trainings.retrained_both.result()
    task = display.add_task("measuring the retrained models", total=3)
    measured = []
    for model, ids, forgotten in (
        (retrained, forget.first, forget.first),
        (retrained_both, forget.second, forget.both),
        (retrained_both, forget.first, forget.both),
    ):
        measured.append(measure_model(workload, model, forget=ids, forgotten=forgotten, seed=plan.seed))
        display.update(task, completed=len(measured))
    first, second = erasures
    original = Row(
        label="original",
        figures=original_figures(first.report.audit),
        seconds=trainings.original.result().seconds,
    )
    before = Row(
        label="before: " + short_method(first.methods[-1]), figures=original_figures(second.report.audit), seconds=None
    )
    return [
        make_section(
            f"{first.samples} samples",
            first,
            original=original,
            retrained=retrained,
            retrained_auc=measured[0].membership_auc,
            again=Row(label="retrained again", figures=measured[2], seconds=retrained_both.seconds),
        ),
        make_section(
            f"one person's {second.samples}",
            second,
            original=before,
            retrained=retrained_both,
            retrained_auc=measured[1].membership_auc,
        ),
    ]


def make_section(
    title: str, erasure: Erasure, *, original: Row, retrained: Model, retrained_auc: float, again: Row | None = None
) -> Section:
    """Make one request's section. A star marks a method that another one preceded."""
    star, audit = "*" if erasure.findings else "", erasure.report.audit
    return Section(
        title=title,
        original=original,
        unlearned=Row(
            label=f"unlearned: {short_method(erasure.methods[-1])}{star}",
            figures=unlearned_figures(audit),
            seconds=erasure.seconds,
        ),
        retrained=Row(
            label="retrained",
            figures=retrained_figures(audit, membership_auc=retrained_auc),
            seconds=retrained.seconds,
        ),
        retrained_seconds=retrained.seconds,
        again=again,
    )


def show(found: Demo) -> None:
    """Print the table with its legend, the noise floor, the verdicts, and where the reports are."""
    out.print(comparison(found.sections))
    out.print(legend())
    out.print()
    out.print(noise(found.sections[0]))
    out.print(references(preparation=found.preparation, training=found.training))
    out.print()
    for erasure, requested in zip(found.erasures, ("with IEU", "under the model's policy"), strict=True):
        out.print(outcome(erasure, requested=requested))
    print_files(out, found.erasures)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder and remove it at the end. After an error it is kept, because it holds the logs."""
    folder = Path(tempfile.mkdtemp(prefix="expunge-demo-"))
    try:
        yield folder
    except ExpungeError:
        notes.print(f"Nothing is left running. The logs are in {folder}.", highlight=False, soft_wrap=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
