"""Jobs of models of three kinds that are killed in every phase: `python -m benchmarks.soak`.

The embedded stack with one worker; the models retrain, or begin with LTU or IEU. A caller keeps requests open for each of them.
Each job is hit once in each phase, in any order, and is then left in peace: at a random moment in the phase the worker's child is
stopped, which makes the phase certain, and a process is killed (the child, the whole worker, PostgreSQL) or hangs (the child for
ever, PostgreSQL for some seconds), or the disk with the weights is full for some seconds, if the command may mount one.
In between, the beat, the API and the broker with its data are killed. A round ends when the time is over or every phase has been
hit often enough; then the stack runs undisturbed until every request has ended, and queries check what the service promises. The
command fails if a promise is broken.

Rounds follow, `--at-once` of them side by side, until every phase has had `--kills` kills. Finished rounds are kept in `.bench/`,
so that an interrupted run goes on. The worker imports torch before it forks its child, so that a new child can begin at once.
"""

import argparse
import dataclasses
import math
import multiprocessing
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.cases import stored
from benchmarks.serving import Served, served
from benchmarks.writing import Row, commit, row, write
from expunge.operator.deployment import find_deployment, open_database
from expunge.stack.process import await_ready, start
from tests.worker import digits

SMALL = "tests.worker.digits:of_few_samples"
"""The workload of the models."""

OUTAGE = 4.0
"""Seconds for which PostgreSQL hangs or the disk is full."""

STORAGE_BYTES = 256 << 20
"""Of the weights' disk: room for all versions."""

PHASES = ("load", "unlearn", "audit_membership", "audit_relearn", "report", "publish")
"""Of a running job."""

DELAYS = (0.0, 0.0, 0.01, 0.1)
"""Seconds in a phase before a fault, up to which one is drawn. A job that has left the phase by then is not hit."""

POLICIES = (("retrain",), ("ltu", "retrain"), ("ieu", "retrain"))
"""Of the models, in turn."""

ENVIRONMENT = {
    "EXPUNGE_BATCH_WINDOW_SECONDS": "1",
    "EXPUNGE_LEASE_SECONDS": "15",
    "EXPUNGE_CHECKPOINT_SECONDS": "1",
    "EXPUNGE_MAX_ATTEMPTS": "100",
    "EXPUNGE_RETRY_SECONDS": "0",
    "EXPUNGE_CANCEL_SECONDS": "5",
    **{f"EXPUNGE_STALL_{stage}_SECONDS": "30" for stage in ("LOAD", "UNLEARN", "AUDIT", "PUBLISH")},
}

PRELOADED = (
    "import sys, worker.run, tests.worker.digits; from celery.__main__ import main; sys.argv[0] = 'celery'; main()"
)
"""The worker's program: Celery's own, with what its children need."""

PROMISES = {
    "requests that have not ended": "SELECT count(*) FROM unlearn_requests WHERE finished_at IS NULL",
    "jobs that have not ended": "SELECT count(*) FROM jobs WHERE finished_at IS NULL",
    "jobs with more than one version": (
        "SELECT count(*) FROM (SELECT job_id FROM model_versions WHERE job_id IS NOT NULL GROUP BY job_id HAVING count(*) > 1) many"
    ),
    "versions without a report": (
        "SELECT count(*) FROM model_versions LEFT JOIN reports ON reports.version_id = model_versions.id "
        "WHERE kind = 'unlearned' AND reports.id IS NULL"
    ),
    "completed jobs with neither a version nor a reason": (
        "SELECT count(*) FROM jobs LEFT JOIN model_versions ON model_versions.job_id = jobs.id "
        "WHERE state = 'completed' AND reason IS NULL AND model_versions.id IS NULL"
    ),
    "jobs that failed or were cancelled without a reason": (
        "SELECT count(*) FROM jobs WHERE state IN ('failed', 'cancelled') AND reason IS NULL"
    ),
    "completed samples that are not erased": (
        "SELECT count(*) FROM targets JOIN request_samples USING (request_id) JOIN training_samples USING (model_id, digest) "
        "LEFT JOIN erased_samples USING (model_id, digest) "
        "WHERE targets.state = 'completed' AND erased_samples.job_id IS NULL"
    ),
    "gaps in the versions": (
        "SELECT count(*) FROM (SELECT 1 FROM model_versions GROUP BY model_id HAVING count(*) <> max(number)) gaps"
    ),
}
"""What must not be there at the end, and how to count it."""


def main() -> None:
    """Run the rounds, print the counts and write them after each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=100, help="in each phase")
    arguments.add_argument(
        "--models", type=int, default=6, help="of three kinds; one whose lease is to expire runs nothing"
    )
    arguments.add_argument("--rounds", type=int, default=20, help="at most")
    arguments.add_argument("--at-once", type=int, default=1, help="rounds, each with a stack of its own")
    arguments.add_argument("--minutes", type=float, default=10, help="of faults in a round")
    arguments.add_argument("--patience", type=float, default=15, help="minutes until everything must have ended")
    arguments.add_argument("--seed", type=int, default=0, help="of the first round")
    given = arguments.parse_args()
    total = Counter[str]()
    with ProcessPoolExecutor(given.at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        for first in range(0, given.rounds, given.at_once):
            missing = {phase: given.kills - total[f"kills in phase {phase}"] for phase in PHASES}
            if max(missing.values()) <= 0:
                break
            share = {phase: math.ceil(count / given.at_once) for phase, count in missing.items()}
            rounds = [pool.submit(keep_round, given, first + place, share) for place in range(given.at_once)]
            for found in rounds:
                total.update({"rounds": 1, **found.result()})
            written = [figure(what, total[what]) for what in sorted(total, key=place_in_table)]
            print(write("soak", written), flush=True)
            print({phase: total[f"kills in phase {phase}"] for phase in PHASES}, flush=True)
    for what in sorted(total, key=place_in_table):
        print(f"{total[what]:>8,} {what}")
    broken = {what: total[what] for what in (*PROMISES, LOST) if total[what]}
    if broken:
        raise SystemExit(f"Promises are broken: {broken}")


LOST = "requests lost"

GROUPS = ("rounds", "requests", "faults", "kills in", "hangs in", "full disks in", "killed", "hung", "full")


def place_in_table(what: str) -> tuple[int, str]:
    """Sort the counts: what was done, then what became of it, then what must be 0."""
    if what in PROMISES or what == LOST:
        return 100, what
    return next((place for place, group in enumerate(GROUPS) if what.startswith(group)), 50), what


def figure(what: str, count: float) -> Row:
    """A count of all rounds."""
    return row([count], case=what, method="several", metric="count", unit="")


def keep_round(given: argparse.Namespace, number: int, missing: dict[str, int]) -> dict[str, int]:
    """Run a round, or read what it counted if it has ended before.

    number: of the round. missing: kills by phase that the round is to bring.
    """
    what = {**vars(given), "number": number, "missing": missing, "commit": commit().removesuffix("-dirty")}
    return stored("soak", what, lambda: dict(run_round(given, given.seed + number, missing)))


def run_round(given: argparse.Namespace, seed: int, missing: dict[str, int]) -> Counter[str]:
    """Start a stack, ask and break things until the time is over or nothing is missing, wait for the end, and count.

    missing: kills by phase that are still to come.
    """
    counts, stopped = Counter[str](), threading.Event()
    with served(storage_bytes=STORAGE_BYTES, reference=SMALL, **ENVIRONMENT) as service, ledger(service) as sessions:
        preload(service)
        names = [
            service.register(
                f"model-{n}", reference=SMALL, policy=POLICIES[n % len(POLICIES)], approve_utility_drop=100
            )
            for n in range(given.models)
        ]
        asking = threading.Thread(target=ask, args=(service, sessions, names, seed, counts, stopped), daemon=True)
        asking.start()
        campaign = Campaign(service, sessions, random.Random(seed), counts, missing)
        until = time.monotonic() + given.minutes * 60
        while time.monotonic() < until and max(missing.values()) > 0:
            hit_next_job(campaign, until=until)
        stopped.set()
        asking.join()
        await_the_end(sessions, time.monotonic() + given.patience * 60)
        count_all(sessions, counts)
    counts[LOST] = counts["requests acknowledged"] - counts["requests"]
    return counts


@contextmanager
def ledger(service: Served) -> Iterator[sessionmaker[Session]]:
    """Open the stack's database, whose connections break with every crash of PostgreSQL."""
    with open_database(find_deployment(service.stack.folder.root).database_url) as sessions:
        yield sessions


def preload(service: Served) -> None:
    """Start the worker again as a program that imports torch before it forks."""
    where = place_of(service, "the worker")
    child = service.stack.children[where]
    arguments = child.program.command[child.program.command.index("-A") :]
    program = dataclasses.replace(child.program, command=(sys.executable, "-c", PRELOADED, *arguments))
    child.process.kill()
    child.process.wait()
    service.stack.children[where] = start(program)
    await_ready(service.stack.children[where])


def ask(
    service: Served,
    sessions: sessionmaker[Session],
    names: list[str],
    seed: int,
    counts: Counter[str],
    stopped: threading.Event,
) -> None:
    """Keep requests open until stopped, two a model, and send each until it is acknowledged."""
    chance, ids = random.Random(seed), list(digits.of_few_samples().train.ids)
    number = 0
    while not stopped.wait(0.2):
        with suppress(DBAPIError), sessions() as session:
            waiting = session.scalar(text(PROMISES["requests that have not ended"])) or 0
            if waiting >= 2 * len(names):
                continue
            body: dict[str, object] = {"dataset": names[number % len(names)], "sample_ids": chance.sample(ids, 2)}
            submit(service, body, key=f"soak-{number}", counts=counts)
            number += 1


def submit(service: Served, body: dict[str, object], *, key: str, counts: Counter[str]) -> None:
    """Send a request until it is acknowledged."""
    while True:
        try:
            answer = service.http.post("/unlearn-requests", json=body, headers={"Idempotency-Key": key})
            if answer.status_code == httpx.codes.ACCEPTED:
                break
            assert answer.status_code >= 500, answer.text
        except httpx.HTTPError:
            pass
        counts["calls that had to be repeated"] += 1
        time.sleep(0.5)
    counts["requests acknowledged"] += 1


@dataclass(slots=True)
class Campaign:
    """What a round has done so far.

    missing: kills by phase that are still to come. left: the phases in which a job is still to be hit. hanging: the processes that
    were left stopped.
    """

    service: Served
    sessions: sessionmaker[Session]
    chance: random.Random
    counts: Counter[str]
    missing: dict[str, int]
    left: dict[UUID, set[str]] = field(default_factory=lambda: defaultdict(lambda: set(PHASES)))
    hanging: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Running:
    """A job that a live child of the worker runs."""

    child: psutil.Process
    job: UUID
    attempt: int
    phase: str


def hit_next_job(campaign: Campaign, *, until: float) -> None:
    """Wait for an attempt at a job, choose a phase in which the job was not hit yet, and break something there.

    A job that was hit in every phase is left to end.
    """
    seen = find_running(campaign)
    if seen is None or not (ahead := phases_ahead(campaign, seen)):
        time.sleep(0.01)
        return
    most = max(campaign.missing[phase] for phase in ahead)
    phase = campaign.chance.choice([each for each in ahead if campaign.missing[each] == most])
    what, bring = campaign.chance.choice(
        [fault for fault in FAULTS if fault[1] is not fill_disk or campaign.service.small_disk]
    )
    if not await_phase(campaign, seen, phase, until=until):
        return
    with suppress(psutil.NoSuchProcess):
        bring(campaign.service)
    campaign.counts[what] += 1
    campaign.counts["faults"] += 1
    if bring is leave_child_hanging:
        campaign.hanging.add(seen.child.pid)
    if what in HIT_JOBS:
        campaign.left[seen.job].discard(phase)
        kind = {"killed": "kills", "hung": "hangs", "full": "full disks"}[what.partition(":")[0]]
        campaign.counts[f"{kind} in phase {phase}"] += 1
        campaign.missing[phase] -= kind == "kills"


def phases_ahead(campaign: Campaign, seen: Running) -> list[str]:
    """List the phases from a job's own on in which it is still to be hit and that still need kills."""
    own = PHASES.index(seen.phase)
    return [phase for phase in PHASES[own:] if phase in campaign.left[seen.job] and campaign.missing[phase] > 0]


def await_phase(campaign: Campaign, seen: Running, phase: str, *, until: float) -> bool:
    """Let an attempt run until it is in a phase, and for a random while in it. Return whether it is stopped there.

    The child is stopped for each check, so that the phase is certain and a short one is not missed.
    """
    delay, entered = campaign.chance.uniform(0, campaign.chance.choice(DELAYS)), 0.0
    mine = text("SELECT phase FROM jobs WHERE id = :id AND attempt = :attempt AND state IN ('running', 'verifying')")
    engine = campaign.sessions.kw["bind"].execution_options(isolation_level="AUTOCOMMIT")
    with suppress(DBAPIError, psutil.NoSuchProcess), engine.connect() as connection:

        def read_phase() -> str | None:
            found: str | None = connection.scalar(mine, {"id": seen.job, "attempt": seen.attempt})
            return found

        while (asked := time.monotonic()) < until:
            seen.child.suspend()
            now = read_phase()
            if now == phase:
                entered = entered or time.monotonic()
                if time.monotonic() - entered >= delay:
                    return True
            seen.child.resume()
            if now not in PHASES or PHASES.index(now) > PHASES.index(phase):
                return False
            time.sleep(max(0.002, 2 * (time.monotonic() - asked)))  # so that the child runs most of the time
    return False


def find_running(campaign: Campaign) -> Running | None:
    """Find the job of the worker's live child; None if there is none now."""
    found = text("SELECT id, attempt, phase, worker FROM jobs WHERE state IN ('running', 'verifying')")
    with suppress(DBAPIError, psutil.NoSuchProcess):
        children = {process.pid: process for process in children_of_worker(campaign.service)}
        with campaign.sessions() as session:
            for job, attempt, phase, worker in session.execute(found):
                child = children.get(int(worker.rpartition(":")[2]))
                if child is not None and child.pid not in campaign.hanging and phase in PHASES:
                    return Running(child, job, attempt, phase)
    return None


def children_of_worker(service: Served) -> list[psutil.Process]:
    """List the processes that run jobs."""
    worker = service.stack.children[place_of(service, "the worker")].process.pid
    return list(psutil.Process(worker).children())


def kill_child(service: Served) -> None:
    """Kill the process that runs a job."""
    for child in children_of_worker(service):
        child.kill()


def leave_child_hanging(service: Served) -> None:
    """Leave the process that runs a job as it is: stopped. Only the worker's parent can end it."""


def freeze_database(service: Served) -> None:
    """Let PostgreSQL hang, with its connections open, and go on."""
    resume_children(service)
    first = psutil.Process(service.stack.children[place_of(service, "PostgreSQL")].process.pid)
    stopped = [first, *first.children(recursive=True)]
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    time.sleep(OUTAGE)
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def fill_disk(service: Served) -> None:
    """Leave no room on the disk with the weights for some seconds."""
    path = service.stack.folder.weights / "nothing-left"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    resume_children(service)
    time.sleep(OUTAGE)
    path.unlink()


def resume_children(service: Served) -> None:
    """Let the stopped process that runs a job go on."""
    with suppress(psutil.NoSuchProcess):
        for child in children_of_worker(service):
            child.resume()


def killer(name: str, number: signal.Signals = signal.SIGKILL) -> Callable[[Served], None]:
    """Return a function that kills a part of the stack and starts it again. A stopped child goes on afterwards, or dies with it."""

    def kill(service: Served) -> None:
        where = place_of(service, name)
        child = service.stack.children[where]
        child.process.send_signal(number)
        child.process.wait()
        if name != "the worker":
            resume_children(service)
        if name == "the broker":
            shutil.rmtree(service.stack.folder.broker)
            service.stack.folder.broker.mkdir()
        service.stack.children[where] = start(child.program)
        if name in ("PostgreSQL", "the broker"):
            await_ready(service.stack.children[where])

    return kill


FAULTS: list[tuple[str, Callable[[Served], None]]] = [
    *[("killed: a worker's child", kill_child)] * 32,
    *[("killed: the worker", killer("the worker"))] * 3,
    *[("killed: PostgreSQL", killer("PostgreSQL", signal.SIGQUIT))] * 2,
    ("killed: the beat", killer("the beat")),
    ("killed: the broker, emptied", killer("the broker")),
    ("killed: the API", killer("the API")),
    *[("hung: a worker's child", leave_child_hanging)] * 2,
    ("hung: PostgreSQL", freeze_database),
    ("full: the disk with the weights", fill_disk),
]
"""What breaks, by name; what is there twice breaks twice as often."""


HIT_JOBS = frozenset(name for name, _ in FAULTS) - {
    "killed: the beat",
    "killed: the broker, emptied",
    "killed: the API",
}
"""The faults that a running job notices."""


def place_of(service: Served, name: str) -> int:
    """Return the index of a part of the stack among its children."""
    return next(i for i, child in enumerate(service.stack.children) if child.program.name == name)


def await_the_end(sessions: sessionmaker[Session], limit: float) -> None:
    """Wait until every request has ended, or until the limit (monotonic seconds)."""
    while time.monotonic() < limit:
        with suppress(DBAPIError), sessions() as session:
            if not session.scalar(text(PROMISES["requests that have not ended"])):
                return
        time.sleep(1)


def count_all(sessions: sessionmaker[Session], counts: Counter[str]) -> None:
    """Count what the database has, and what it must not have."""
    lost = "SELECT count(*) FROM attempts WHERE outcome = 'lapsed'"
    queries = {
        "requests": "SELECT count(*) FROM unlearn_requests",
        "jobs": "SELECT count(*) FROM jobs",
        "attempts": "SELECT count(*) FROM attempts",
        "attempts whose lease expired": lost,
        **{
            f"attempts whose lease expired in phase {phase}": f"{lost} AND detail LIKE '%phase {phase}'"
            for phase in PHASES
        },
        "attempts that ended as stalled": "SELECT count(*) FROM attempts WHERE reason = 'stalled'",
        "attempts that ended for a full disk": "SELECT count(*) FROM attempts WHERE reason = 'disk_full'",
        "attempts that went on from a checkpoint": "SELECT count(*) FROM events WHERE kind = 'job.resumed'",
        "writes refused to workers without their lease": "SELECT coalesce(sum(refused_writes), 0) FROM attempts",
        "versions published": "SELECT count(*) FROM model_versions WHERE kind = 'unlearned'",
        "requests completed": "SELECT count(*) FROM unlearn_requests WHERE state = 'completed'",
        "requests failed, with a reason": "SELECT count(*) FROM unlearn_requests WHERE state = 'failed'",
        **PROMISES,
    }
    with sessions.begin() as session:
        for what, query in queries.items():
            counts[what] = int(session.scalar(text(query)) or 0)


if __name__ == "__main__":
    main()
