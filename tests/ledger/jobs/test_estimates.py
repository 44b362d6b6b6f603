import json
from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger.jobs.estimates import SPREAD, EstimateSource, estimate, interpolate, plan, verdict_chance
from ledger.registry.models import get_model
from ledger.registry.references import DefaultPolicies, ReferenceFile, register_references


def estimate_of(world, request):
    with world.sessions() as session:
        return estimate(session, job_id=request.targets[0].job.id)


def test_before_the_first_job_it_comes_from_the_training(world):
    found = estimate_of(world, world.submit(1))
    assert (found.source, found.seconds) == (EstimateSource.TRAINING, 12.5)
    assert (found.low_seconds, found.high_seconds) == (SPREAD[0] * 12.5, SPREAD[1] * 12.5)


def test_later_it_is_the_median_and_the_range_of_the_last_jobs(world):
    for number, seconds in enumerate((10, 20, 60)):
        claim = world.submit_and_claim(number)
        world.finish(claim)
        with world.sessions.begin() as session:
            session.execute(
                text(
                    "UPDATE attempts SET finished_at = jobs.started_at + make_interval(secs => :s) FROM jobs "
                    "WHERE jobs.id = job_id AND job_id = :id"
                ),
                {"s": seconds, "id": claim.job_id},
            )
            waited = text("UPDATE jobs SET finished_at = finished_at + interval '10 days' WHERE id = :id")
            session.execute(waited, {"id": claim.job_id})  # for an approval, which is not the job's own time
    found = estimate_of(world, world.submit(9))
    assert found.source is EstimateSource.PAST_JOBS
    assert (found.seconds, found.low_seconds, found.high_seconds) == pytest.approx((20, 10, 60))


def test_the_job_that_runs_now_comes_first(world):
    alone = world.submit(1, window=timedelta(hours=1))
    closes_at = alone.targets[0].job.closes_at
    assert estimate_of(world, alone).finish_at == closes_at + timedelta(seconds=37.5)
    world.submit(2, expedite=True)
    world.claim(alone.targets[0].job.id)
    behind = world.submit(3, window=timedelta(hours=1))
    assert estimate_of(world, behind).finish_at == behind.targets[0].job.closes_at + timedelta(seconds=75)


def test_nothing_is_said_of_a_model_of_which_nothing_is_known(world):
    request = world.submit(1)
    for details in ("{}", '{"training_seconds": "long"}', '{"training_seconds": true}'):
        with world.sessions.begin() as session:
            session.execute(text("UPDATE models SET details = cast(:details AS jsonb)"), {"details": details})
        assert estimate_of(world, request) is None


def planned(world, request):
    with world.sessions() as session:
        return {one.kind: (one.seconds, one.share) for one in plan(session, job_id=request.targets[0].job.id)}


def test_a_preview_names_every_method_with_its_time_and_how_often_it_came_to_it(world):
    with world.sessions.begin() as session:
        session.execute(text("""UPDATE models SET policy = '[{"kind": "ltu"}, {"kind": "retrain"}]'"""))
    assert planned(world, world.submit(1)) == {"ltu": (None, None), "retrain": (12.5, None)}
    for number in (2, 3):
        claim = world.submit_and_claim(number)
        if number == 3:
            timings = {"load": 1.0, "unlearn": 3.0, "data_wait": 2.0, "audit_membership": 4.0}
            claim = world.escalate(claim, timings=timings)
        world.finish(claim)
    assert planned(world, world.submit(9)) == {"ltu": (8.0, 1.0), "retrain": (12.5, 0.5)}


POWER = {"1": 0.4, "3": 0.6, "10": 0.9, "30": 1.0}


def register(world, defaults=None, **details):
    with world.sessions.begin() as session:
        file = ReferenceFile(sha256="ab" * 32, path="abab.safetensors")
        register_references(
            session, tenant_id=world.tenant_id, model="small", file=file, details=details, defaults=defaults
        )


def chance_of(world, request):
    with world.sessions() as session:
        return verdict_chance(session, job_id=request.targets[0].job.id)


def test_a_model_with_references_tries_matching_after_what_is_cheap_and_exact(world):
    for policy, wanted in (
        (["rewind", "ltu", "rewind"], ["rewind", "matching", "ltu", "rewind"]),
        (["ltu", "retrain"], ["matching", "ltu", "retrain"]),
        (["drop_adapter"], ["drop_adapter", "matching"]),
    ):
        with world.sessions.begin() as session:
            kinds = json.dumps([{"kind": kind} for kind in policy])
            session.execute(text("UPDATE models SET policy = CAST(:kinds AS jsonb)"), {"kinds": kinds})
        for _ in range(2):  # again changes nothing
            register(world)
        with world.sessions() as session:
            found = get_model(session, tenant_id=world.tenant_id, name="small").policy
        assert [method["kind"] for method in found] == wanted


def test_a_default_policy_becomes_the_one_with_references_and_another_stays_but_for_matching(world):
    of = lambda *kinds: [{"kind": kind, "steps": 3.0} for kind in kinds]  # noqa: E731
    defaults = DefaultPolicies(without=of("ieu", "retrain"), with_references=of("matching", "ieu", "ltu", "retrain"))
    own = [{"kind": "ieu", "steps": 4}, {"kind": "retrain"}]
    for policy, wanted in (
        (of("ieu", "retrain"), defaults.with_references),
        ([*of("drop_adapter"), *of("ieu", "retrain")], [*of("drop_adapter"), *defaults.with_references]),
        (own, [{"kind": "matching"}, *own]),
        (of("ltu", "ieu", "retrain"), [{"kind": "matching"}, *of("ltu", "ieu", "retrain")]),  # an earlier default
    ):
        with world.sessions.begin() as session:
            session.execute(text("UPDATE models SET policy = CAST(:policy AS jsonb)"), {"policy": json.dumps(policy)})
        for _ in range(2):  # again changes nothing
            register(world, defaults)
        with world.sessions() as session:
            assert list(get_model(session, tenant_id=world.tenant_id, name="small").policy) == wanted


def test_the_chance_of_a_verdict_is_that_of_all_the_job_s_samples(world):
    world.submit(1, 2, window=timedelta(hours=1))
    request = world.submit(2, 3, 90, window=timedelta(hours=1))  # 2 twice; 90 is none of the model's
    register(world, power_by_size=POWER, samples_needed=10)
    found = chance_of(world, request)
    assert (found.samples, found.probability, found.samples_needed) == (3, pytest.approx(0.6), 10)
    with world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET cut_off = clock_timestamp()"))
    world.claim(request.targets[0].job.id)
    assert chance_of(world, request).samples == 3


def test_without_references_nothing_is_said_of_a_verdict(world):
    request = world.submit(1)
    assert chance_of(world, request) is None
    register(world, power_by_size={}, samples_needed=10)
    assert chance_of(world, request) is None


@pytest.mark.parametrize(
    ("samples", "probability"), [(1, 0.4), (3, 0.6), (5.477225575, 0.75), (10, 0.9), (30, 1.0), (5000, 1.0)]
)
def test_between_two_sizes_it_is_interpolated_in_the_logarithm(samples, probability):
    assert interpolate({int(size): power for size, power in POWER.items()}, samples) == pytest.approx(probability)
