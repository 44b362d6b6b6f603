"""Callers, workers and clocks in any order: what Hypothesis tries, the ledger on real PostgreSQL must survive."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from ledger.errors import Conflict, JobCancelled, NoSamplesMatch, StaleClaim
from ledger.events.outbox import delete_sent_wakeups, take_wakeups
from ledger.jobs import claims, results
from ledger.jobs.approvals import approve, refuse
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.jobs.checkpoints import record_checkpoint
from ledger.jobs.claims import Claim
from ledger.requests.cancellation import cancel_request, dismiss_request
from ledger.states import MOVES, Reason
from tests.ledger.conftest import IEU, LEASE, LTU, RETRY_RULE, World, make_world, nothing_written, progress, publish
from tests.ledger.promises import broken
from tests.ledger.test_consistency import ask_for_approval, run_to_completion

EXAMPLES = settings(
    max_examples=settings().max_examples * 3 // 10,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    # Without shrinking, which takes minutes here; what fails is printed as it was found.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


DONE = """
SELECT 'version', id::text, job_id::text, number::text FROM model_versions
UNION ALL SELECT 'erased', model_id::text, digest::text, '' FROM erased_samples
UNION ALL SELECT 'job sample', job_id::text, digest::text, '' FROM job_samples
UNION ALL SELECT 'frozen', id::text, sample_count::text, '' FROM jobs WHERE frozen_at IS NOT NULL
UNION ALL SELECT 'dismissed', id::text, dismissed_at::text, '' FROM unlearn_requests WHERE dismissed_at IS NOT NULL
UNION ALL SELECT 'job', id::text, state, '' FROM jobs WHERE state IN ('completed', 'cancelled')
UNION ALL SELECT 'target', id::text, state, '' FROM targets WHERE state IN ('completed', 'cancelled', 'rejected')
UNION ALL SELECT 'request', id::text, state, '' FROM unlearn_requests WHERE state IN ('completed', 'cancelled', 'rejected')
"""
"""What stays for ever once it is there. Requests may leave a job that waits, with their samples."""

LEFT = """
SELECT id FROM jobs WHERE state IN ('queued', 'awaiting_approval') AND phase = 'waiting'
AND EXISTS (SELECT 1 FROM events WHERE job_id = jobs.id AND kind = 'job.left')
"""
"""The waiting jobs that requests have left."""


@dataclass
class Held:
    """A worker with a claim, as the model of the ledger sees it: `left` seconds of its lease, and whether it still works on it."""

    claim: Claim
    left: float = LEASE.total_seconds()
    working: bool = True
    verifying: bool = False

    @property
    def valid(self) -> bool:
        return self.working and self.left > 0


@dataclass
class Seen:
    """What was true at the last check, and must remain so."""

    requests: set[UUID] = field(default_factory=set)
    done: set[tuple[object, ...]] = field(default_factory=set)
    event: int = 0


class Ledger(RuleBasedStateMachine):
    """Rules are what callers, workers and time do; the invariants are what the ledger promises."""

    held = Bundle("held")
    jobs = Bundle("jobs")
    requests = Bundle("requests")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.workers, self.seen = world, [], Seen()
        # One connection for all checks, in no transaction: each step checks much.
        self.eye = world.sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT")

    # Callers.

    @initialize(targets=(jobs, requests))
    def ask_for_something(self):
        return self.submit({1, 2}, ["small"], None, True, 0)

    @rule(
        targets=(jobs, requests),
        samples=st.sets(st.integers(0, 109), min_size=1, max_size=4),
        models=st.sampled_from([None, ["small"], ["small", "large"]]),
        method=st.sampled_from([None, None, LTU, IEU]),
        expedite=st.booleans(),
        window=st.sampled_from([0, 90]),
    )
    def submit(self, samples, models, method, expedite, window):
        try:
            request = self.world.submit(
                *samples, models=models, method=method, expedite=expedite, window=timedelta(seconds=window)
            )
        except NoSamplesMatch:
            return multiple()
        self.seen.requests.add(request.id)
        return request

    @rule(request=requests)
    def cancel(self, request):
        self.act(cancel_request, request_id=request.id)

    @rule(request=requests)
    def cancel_its_jobs(self, request):
        for job_id in job_ids(request):
            self.act(cancel_job, job_id=job_id)

    @rule(request=requests)
    def dismiss(self, request):
        self.act(dismiss_request, request_id=request.id, reason="Kept by law.", by="key:dpo")

    @rule(request=requests)
    def retry(self, request):
        for job_id in job_ids(request):
            self.act(retry_job, job_id=job_id)

    @rule(model=st.sampled_from(["small", "large"]), jobs=st.booleans(), versions=st.booleans())
    def ask_for_approval(self, model, jobs, versions):
        ask_for_approval(self.world, model, jobs, versions)

    @rule(request=requests, decide=st.sampled_from([approve, approve, refuse]))
    def decide(self, request, decide):
        for job_id in job_ids(request):
            self.act(decide, job_id=job_id, by="key:dpo")

    def act(self, do, **which):
        try:
            with self.world.sessions.begin() as session:
                do(session, tenant_id=self.world.tenant_id, **which)
        except Conflict:
            pass

    # Time, and messages that come any number of times.

    @rule(seconds=st.sampled_from([20, 50, 100]))
    def time_passes(self, seconds):
        past = (
            "UPDATE jobs SET cut_off = cut_off - :time, lease_until = lease_until - :time, retry_at = retry_at - :time",
            "UPDATE outbox SET available_at = available_at - :time",
        )
        with self.world.sessions.begin() as session:
            for each in past:
                session.execute(text(each), {"time": timedelta(seconds=seconds)})
        for worker in self.workers:
            worker.left -= seconds

    @rule()
    def sweep(self):
        self.world.sweep()

    @rule(target=held, request=jobs)
    def wake(self, request):
        found = [held for job_id in job_ids(request) if (held := self.take(job_id)) is not None]
        return multiple(*found)

    @rule(target=held)
    def wake_all(self):
        found = [held for job_id in self.world.sweep().wake if (held := self.take(job_id)) is not None]
        return multiple(*found)

    @rule(target=held)
    def send_what_is_announced(self):
        with self.world.sessions.begin() as session:
            taken = take_wakeups(session)
        with self.world.sessions.begin() as session:
            delete_sent_wakeups(session, taken)
        found = [held for wakeup in taken if (held := self.take(wakeup.job_id)) is not None]
        return multiple(*found)

    def take(self, job_id):
        ready = (
            "SELECT 1 FROM jobs WHERE id = '{}' AND (frozen_at IS NOT NULL OR cut_off <= clock_timestamp()) "
            "AND coalesce(retry_at <= clock_timestamp(), true)"
        )
        was_ready = self.ask(ready.format(job_id)) != []
        claim = self.world.claim(job_id)
        if claim is None:
            return None
        assert was_ready, "a job began before it closed, or before its wait was over"
        samples = {bytes(row.digest) for row in self.ask(f"SELECT digest FROM job_samples WHERE job_id = '{job_id}'")}
        assert claim.samples.forget == samples - claim.samples.erased, "a job does not forget its samples"
        rivals = [held for held in self.workers if held.valid and held.claim.model_id == claim.model_id]
        assert rivals == [], "two workers with one model"
        assert self.world.claim(job_id) is None, "a second message was a second claim"
        self.workers.append(Held(claim))
        return self.workers[-1]

    # Workers, some of which have lost their lease and do not know.

    @rule(worker=held, swept=st.booleans())
    def oversleep(self, worker, swept):
        """Frozen past its lease and woken, before or after the sweep has seen it."""
        self.time_passes(100)
        if swept:
            self.sweep()
        self.go_on(worker)

    @rule(worker=held)
    def renew(self, worker):
        if self.write(worker, lambda session: claims.renew_lease(session, lock(session, worker), lease=LEASE)):
            worker.left = LEASE.total_seconds()

    @rule(worker=held)
    def go_on(self, worker):
        self.write(worker, lambda session: progress(session, worker.claim))

    @rule(worker=held)
    def save(self, worker):
        saved = {"sha256": "ab" * 32, "step": 3, "total": 9}
        self.write(worker, lambda session: record_checkpoint(session, lock(session, worker), **saved))

    @rule(worker=held)
    def verify(self, worker):
        if worker.verifying:
            return
        if self.write(worker, lambda session: claims.enter_verifying(session, lock(session, worker))):
            worker.verifying = True

    @rule(worker=held)
    def escalate(self, worker):
        if worker.claim.policy_index + 1 == len(worker.claim.policy):
            return

        def write(session):
            return results.escalate(session, lock(session, worker), worker.claim, finding={}, why="Not verified.")

        following = self.write(worker, write)
        if following:
            worker.claim, worker.verifying = following, False

    @rule(worker=held)
    def publish(self, worker):
        if worker.valid and not worker.verifying:
            return
        try:
            done = self.write(worker, lambda session: publish(session, worker.claim))
        except JobCancelled:
            done = self.write(worker, lambda session: fail(session, lock(session, worker), Reason.CANCELLED_BY_CALLER))
        if done:
            worker.working = False

    @rule(worker=held, reason=st.sampled_from([Reason.OUT_OF_MEMORY, Reason.AUDIT_FAILED, Reason.UNEXPECTED]))
    def fail(self, worker, reason):
        if self.write(worker, lambda session: fail(session, lock(session, worker), reason)):
            worker.working = False

    @rule(worker=held)
    def release(self, worker):
        if self.write(worker, lambda session: claims.release_job(session, lock(session, worker))):
            worker.working = False

    def write(self, worker, write):
        """What a worker writes is written whole where its claim is valid, and not at all where it is not."""
        if worker.valid:
            with self.world.sessions.begin() as session:
                return write(session) or True
        with nothing_written(self.world), pytest.raises(StaleClaim), self.world.sessions.begin() as session:
            write(session)
        return None

    # Promises.

    @invariant()
    def nothing_is_there_that_must_never_be(self):
        assert broken(self.eye) == []

    @invariant()
    def whoever_works_with_a_valid_claim_holds_the_job(self):
        running = dict(self.ask("SELECT id, attempt FROM jobs WHERE lease_until > clock_timestamp()"))
        assert running == {held.claim.job_id: held.claim.attempt for held in self.workers if held.valid}

    @invariant()
    def states_change_only_by_the_moves(self):
        events = self.ask(f"SELECT id, kind, data->>'from' FROM events WHERE id > {self.seen.event} ORDER BY id")
        for number, kind, came_from in events:
            noun, to = kind.split(".", 1)
            assert came_from is None or to in MOVES[noun][came_from], (kind, came_from)
            self.seen.event = number

    @invariant()
    def what_was_done_stays_done(self):
        """Versions, erased samples, the samples of jobs that run, and whatever has ended, except failures, which may be retried."""
        done = {tuple(row) for row in self.ask(DONE)}
        left = {str(id) for (id,) in self.ask(LEFT)}
        lost = {row for row in self.seen.done - done if not (row[0] in ("job sample", "frozen") and row[1] in left)}
        assert lost == set()
        self.seen.done = done

    @invariant()
    def nothing_that_was_acknowledged_is_lost(self):
        assert self.seen.requests <= {id for (id,) in self.ask("SELECT id FROM unlearn_requests")}

    def ask(self, query):
        return self.eye.execute(text(query)).all()

    def teardown(self):
        run_to_completion(self.world)
        assert self.ask("SELECT 1 FROM unlearn_requests WHERE finished_at IS NULL") == []
        self.eye.close()


def job_ids(request):
    """In an order that is the same in every run: ids are random."""
    targets = sorted(request.targets, key=lambda target: target.model)
    return list(dict.fromkeys(target.job.id for target in targets if target.job is not None))


def lock(session, worker):
    return claims.lock_claimed_job(session, worker.claim)


def fail(session, job, reason):
    rule = None if reason == Reason.AUDIT_FAILED else replace(RETRY_RULE, first_wait=timedelta(seconds=30))
    results.fail(session, job, reason=reason, detail="as Hypothesis wants", rule=rule)


@pytest.mark.timeout(900)
def test_no_order_of_events_breaks_a_promise(cleaner, filled):
    def start():
        cleaner.empty()
        return Ledger(filled(make_world))

    run_state_machine_as_test(start, settings=EXAMPLES)
