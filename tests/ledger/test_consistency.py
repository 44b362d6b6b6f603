"""Many callers and workers at once, doing what they please: whatever they do, what is left is consistent."""

import random
import threading
from datetime import timedelta
from functools import partial

from hypothesis import settings
from sqlalchemy import text

from ledger.errors import JobCancelled, Refused, StaleClaim
from ledger.jobs.approvals import approve, refuse, set_approvals
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.requests.cancellation import cancel_request
from ledger.states import Reason
from tests.ledger.conftest import IEU, LTU
from tests.ledger.promises import broken


def submit(world, chance):
    world.submit(
        *(chance.randrange(110) for _ in range(chance.randint(1, 5))),
        models=chance.choice([None, ["small"], ["large", "small"]]),
        method=chance.choice([None, None, LTU, IEU]),
        expedite=chance.random() < 0.1,
        window=timedelta(seconds=chance.choice([0, 0.2])),
    )


def interfere(world, chance):
    act, table, name = chance.choice(
        [
            (cancel_request, "unlearn_requests", "request_id"),
            (cancel_job, "jobs", "job_id"),
            (retry_job, "jobs", "job_id"),
            (partial(approve, by="key:dpo"), "jobs", "job_id"),
            (partial(refuse, by="key:dpo"), "jobs", "job_id"),
        ]
    )
    if chance.random() < 0.3:
        ask_for_approval(world, chance.choice(["small", "large"]), chance.random() < 0.5, chance.random() < 0.5)
        return
    with world.sessions.begin() as session:
        newest = list(session.scalars(text(f"SELECT id FROM {table} ORDER BY created_at DESC LIMIT 10")))
        if newest:
            act(session, tenant_id=world.tenant_id, **{name: chance.choice(newest)})


def ask_for_approval(world, model, jobs, versions):
    with world.sessions.begin() as session:
        set_approvals(session, tenant_id=world.tenant_id, model=model, jobs=jobs, versions=versions, by="key:admin")


def work(world, chance):
    for job_id in world.sweep().wake:
        claim = world.claim(job_id)
        if claim is None:
            continue
        fate = chance.random()
        if fate < 0.1:
            world.fail(claim, Reason.OUT_OF_MEMORY, retry=True)
            continue
        if fate < 0.2 and claim.policy_index + 1 < len(claim.policy):
            claim = world.escalate(claim)
        world.verify(claim)
        if fate > 0.8:
            world.expire_lease(job_id)
        try:
            world.publish(claim)
        except JobCancelled:
            world.fail(claim, Reason.CANCELLED_BY_CALLER)


def test_whatever_happens_at_once_every_request_ends_and_what_is_called_erased_is(world):
    """Ten turns of each actor in `make test`, 133 in `make test-all`."""
    faults, turns = [], settings().max_examples // 3

    def take_turns(act, seed):
        chance = random.Random(seed)
        for _ in range(turns):
            try:
                act(world, chance)
            except (Refused, StaleClaim):
                pass
            except Exception as fault:
                faults.append(fault)

    actors = [submit, submit, interfere, interfere, work, work, work]
    threads = [threading.Thread(target=take_turns, args=(act, seed)) for seed, act in enumerate(actors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []

    run_to_completion(world)
    assert world.count("unlearn_requests", "finished_at IS NULL") == world.count("jobs", "finished_at IS NULL") == 0
    with world.sessions() as session:
        assert broken(session) == []


def run_to_completion(world):
    """Time passes, everything is approved, and one worker that never fails does what is left."""
    for model in ("small", "large"):
        ask_for_approval(world, model, False, False)
    while True:
        with world.sessions.begin() as session:
            for job_id in session.scalars(text("SELECT id FROM jobs WHERE state = 'awaiting_approval'")).all():
                approve(session, tenant_id=world.tenant_id, job_id=job_id, by="key:dpo")
            session.execute(text("UPDATE jobs SET cut_off = now(), retry_at = NULL WHERE state = 'queued'"))
            session.execute(text("UPDATE jobs SET lease_until = now() WHERE lease_until IS NOT NULL"))
        wake = world.sweep().wake
        if not wake:
            return
        for job_id in wake:
            claim = world.claim(job_id)
            if claim is not None:
                world.finish(claim)
