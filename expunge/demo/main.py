"""The demo from its beginning to its end."""

import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge import client
from expunge.cli.console import notes, out, progress_bar
from expunge.demo.children import Running, Stage, check, launch, read, result, stage
from expunge.demo.plan import MODEL, ForgetSets, Plan, Training, Weights, forget_sets
from expunge.demo.requests import Unlearned, unlearn
from expunge.demo.table import ORIGINAL, Figures, Row, Section, comparison, legend, noise, outcome, say_reports
from expunge.errors import DemoFailed, ExpungeError, JobFailed, ServiceError
from expunge.stack.broker import free_port
from expunge.stack.folder import sample_key
from expunge.stack.process import tail
from expunge.stack.stack import Options, Stack, interruptible, stack

if TYPE_CHECKING:
    from expunge.operator.registration import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """Everything that the demo has made: the models on disk, and what the two requests came to."""

    original: Weights
    retrained: Weights
    again: Weights
    retrained_both: Weights
    first: Unlearned
    second: Unlearned
    storage: Path


def main(*, folder: Path = Path("reports"), plan: Plan | None = None) -> None:
    """Play the demo and save both reports into `folder`; nothing is left running. Raises ExpungeError."""
    begun = time.monotonic()
    try:
        with interruptible(), scratch() as temporary, progress_bar() as bars, stage(temporary, bars) as on:
            plan = plan or Plan()
            played = play(plan, on=on, folder=folder)
            sections = measure(plan, played, on=on)
    except KeyboardInterrupt:
        notes.print("Stopped; nothing is left running.")
        sys.exit(130)
    show(sections, played)
    out.print(f"\nTook {time.monotonic() - begun:.0f} s. Everything is stopped again.", style="dim")


def play(plan: Plan, *, on: Stage, folder: Path) -> Played:
    """Train, start the stack, send both requests, each with the retrained model that its audit holds the result against."""
    original = train("training the original", [Training(seed=plan.seed, without=0)], plan=plan, on=on)
    retrainings = [(1, 1), (1, 2), (2, 1)]
    controls = train(
        "retraining three for comparison",
        [Training(seed=plan.seed + seed, without=without) for seed, without in retrainings],
        plan=plan,
        on=on,
    )
    options = Options(
        data_dir=on.folder / "data",
        port=free_port(),
        workloads=plan.workloads,
        environment={"EXPUNGE_BATCH_WINDOW_SECONDS": "0", "OMP_NUM_THREADS": "1"},
    )
    starting = on.bars.add_task("starting the stack", total=None)
    with stack(options, say=lambda name: on.bars.update(starting, description=f"starting {name}")) as running:
        on.bars.update(starting, description="the stack is up", total=1, completed=1)
        (served,) = trained(original)
        dataset, chosen = register(running, served, plan=plan)
        first, second = send_requests(
            running, chosen, dataset=dataset, folder=folder, controls=controls, plan=plan, on=on
        )
        storage = running.folder.weights
    retrained, retrained_both, again = trained(controls)
    return Played(
        original=served,
        retrained=retrained,
        again=again,
        retrained_both=retrained_both,
        first=first,
        second=second,
        storage=storage,
    )


def train(name: str, trainings: Sequence[Training], *, plan: Plan, on: Stage) -> Running:
    """Start a child that trains these models one after the other."""
    arguments = {
        "plan": dataclasses.asdict(plan),
        "trainings": [dataclasses.asdict(training) for training in trainings],
        "folder": str(on.folder / "trained"),
    }
    return launch("expunge.demo.training", arguments, name=name, on=on)


def trained(child: Running) -> list[Weights]:
    """Wait for a training child's models, in the order they were asked for. Raises DemoFailed."""
    return [Weights(**model) for model in result(child)["models"]]


def wait_for(child: Running, place: int) -> Weights:
    """Wait for one of a training child's models, by its place; the child may go on with the next. Raises DemoFailed."""
    while not check(child):
        models = (read(child.state).get("result") or {"models": []})["models"]
        if len(models) > place:
            return Weights(**models[place])
        time.sleep(0.1)
    return trained(child)[place]


def register(running: Stack, served: Weights, *, plan: Plan) -> tuple[str, ForgetSets]:
    """Make the original known to the service; give its dataset's name and the samples to be forgotten."""
    from expunge.operator.registration import register_workload
    from worker.inputs import load_workload
    from worker.settings import allow_list

    view = register_workload(place(running, plan), name=MODEL, reference=plan.reference, weights=Path(served.path))
    training = load_workload(plan.reference, allowed=allow_list(plan.workloads)).train
    return view.dataset, forget_sets(training.ids, plan)


def register_retrained(running: Stack, retrained: Weights, *, without: Sequence[str], plan: Plan) -> None:
    """Make a retrained model known too: no version to be served, but what the next audit holds its result against."""
    from expunge.operator.registration import register_trained

    register_trained(place(running, plan), name=MODEL, weights=Path(retrained.path), without=frozenset(without))


def place(running: Stack, plan: Plan) -> "Place":
    """Where registrations go."""
    from expunge.operator.registration import Place

    return Place(
        database_url=running.settings.database_url,
        storage=running.folder.weights,
        sample_key=bytes.fromhex(sample_key(running.folder)),
        workloads=plan.workloads,
    )


def send_requests(
    running: Stack, chosen: ForgetSets, *, dataset: str, folder: Path, controls: Running, plan: Plan, on: Stage
) -> tuple[Unlearned, Unlearned]:
    """Send both requests as a client would, the second once the first is done, each once its retrained model is there.

    Raises DemoFailed with a log's tail.
    """

    def all_is_well() -> None:
        check(controls)
        for child in running.children:
            if child.process.poll() is not None:
                raise DemoFailed(f"{child.program.name} has ended.{tail(child.program.log)}")

    assert running.api_key is not None  # The folder is new.
    done = []
    with client.connect(running.url, running.api_key) as http, explained(running):
        for number, (ids, gone, method) in enumerate(
            ((chosen.first, chosen.first, "ltu"), (chosen.second, chosen.both, "ieu"))
        ):
            register_retrained(running, wait_for(controls, number), without=gone, plan=plan)
            request = unlearn(
                http,
                sample_ids=ids,
                dataset=dataset,
                method=method,
                folder=folder,
                bars=on.bars,
                before_look=all_is_well,
            )
            done.append(request)
    first, second = done
    return first, second


@contextmanager
def explained(running: Stack) -> Iterator[None]:
    """Add the logs' tails to what the service refuses and to a job that fails."""
    try:
        yield
    except ServiceError as error:
        raise DemoFailed(f"{error}{tail(running.folder.logs / 'api.log')}") from error
    except JobFailed as error:
        raise DemoFailed(f"{error}{tail(running.folder.logs / 'worker.log')}") from error


def measure(plan: Plan, played: Played, *, on: Stage) -> list[Section]:
    """Measure every model on the samples of its request: a child a request, side by side."""
    first = {
        ORIGINAL: played.original,
        "unlearned": published(played.first, played.storage),
        "retrained": played.retrained,
        "again": played.again,
    }
    second = {
        ORIGINAL: played.original,
        "unlearned": published(played.second, played.storage),
        "retrained": played.retrained_both,
    }
    children = [
        launch(
            "expunge.demo.measuring",
            {
                "plan": dataclasses.asdict(plan),
                "models": {name: dataclasses.asdict(weights) for name, weights in models.items()},
                "forget": forget,
                "without": without,
            },
            name=f"measuring the {forget} request's models",
            on=on,
        )
        for models, forget, without in ((first, "first", 1), (second, "second", 2))
    ]
    figures = [{name: Figures(**found) for name, found in result(child).items()} for child in children]
    return [
        section(f"{played.first.samples} samples", played.first, first, figures[0]),
        section(f"{played.second.samples} further", played.second, second, figures[1]),
    ]


def published(done: Unlearned, storage: Path) -> Weights:
    """Find the weights that the service has published, by the digest in the report."""
    return Weights(path=str(storage / f"{done.sha256}.safetensors"), sha256=done.sha256, seconds=done.seconds)


def section(title: str, done: Unlearned, models: Mapping[str, Weights], figures: Mapping[str, Figures]) -> Section:
    """Put one request's part of the table together."""
    star = "*" if done.findings else ""
    labels = {
        ORIGINAL: "original",
        "unlearned": f"unlearned: {done.methods[-1].upper()}{star}",
        "retrained": "retrained",
        "again": "retrained again",
    }
    rows = {name: Row(label=labels[name], figures=figures[name], seconds=models[name].seconds) for name in models}
    return Section(
        title=title,
        original=rows[ORIGINAL],
        unlearned=rows["unlearned"],
        retrained=rows["retrained"],
        again=rows.get("again"),
    )


def show(sections: Sequence[Section], played: Played) -> None:
    """Print the table with its explanation, the verdicts, and where the reports are."""
    out.print(comparison(sections))
    out.print(legend())
    out.print()
    out.print(noise(sections[0]))
    out.print()
    for done, asked in ((played.first, "LTU"), (played.second, "IEU")):
        out.print(outcome(done, asked=asked))
    say_reports(out, [played.first, played.second])


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a temporary folder, removed at the end; after an error it is kept, because the logs are in it."""
    folder = Path(tempfile.mkdtemp(prefix="expunge-demo-"))
    try:
        yield folder
    except ExpungeError:
        notes.print(f"Nothing is left running. The logs are kept in {folder}", highlight=False, soft_wrap=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
