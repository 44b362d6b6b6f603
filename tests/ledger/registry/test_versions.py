import pytest
from sqlalchemy import select

from ledger.errors import ModelBusy, SamplesErased, SamplesNotInDataset, UnknownVersion
from ledger.events.hand_overs import plan_hand_overs, take_hand_over
from ledger.events.timeline import list_job_events, list_model_events
from ledger.jobs.approvals import approve, refuse, set_approvals
from ledger.jobs.jobs import get_report, list_reports
from ledger.registry.models import get_model, list_versions, register_model
from ledger.registry.versions import promote, read_history, register_version
from ledger.requests import do_not_train
from ledger.requests.cancellation import cancel_request, dismiss_request
from ledger.states import JobState, Reason
from ledger.tables import ModelVersion
from tests.ledger.conftest import LTU, WEIGHTS, digests


def serve(world, number, *, model="small"):
    with world.sessions.begin() as session:
        return promote(session, tenant_id=world.tenant_id, model=model, number=number, by="key:cafe")


def register(world, *numbers, model="small"):
    """Weights trained anew on the samples with these numbers, as the model's next version."""
    with world.sessions.begin() as session:
        return register_version(
            session,
            tenant_id=world.tenant_id,
            model=model,
            training=digests(*numbers),
            weights_sha256="12" * 32,
            weights_path="anew.safetensors",
            by="operator",
        )


def served(world, model="small"):
    with world.sessions() as session:
        return get_model(session, tenant_id=world.tenant_id, name=model).version.number


def knowing_erased(world):
    """The numbers of the versions that know erased people."""
    with world.sessions() as session:
        return sorted(session.scalars(select(ModelVersion.number).where(ModelVersion.knows_erased)))


def listed(world, find, name):
    with world.sessions() as session:
        chunks = do_not_train.read_digests(session, find(session, tenant_id=world.tenant_id, name=name))
        return [digest for chunk in chunks for digest in chunk]


def test_a_published_version_is_the_one_that_is_served(world):
    assert served(world) == 1
    world.finish(world.submit_and_claim(1))
    assert served(world) == 2
    with world.sessions() as session:
        versions = list_versions(session, tenant_id=world.tenant_id, model="small")
    assert [(version.number, version.served) for version in versions] == [(2, True), (1, False)]


def test_no_version_from_before_an_erasure_is_served_again(world):
    world.finish(world.submit_and_claim(1))
    world.finish(world.submit_and_claim(2))
    for number in (1, 2):
        with pytest.raises(SamplesErased):
            serve(world, number)
    assert served(world) == 3


def test_the_served_version_is_promoted_again_without_a_trace(world):
    world.finish(world.submit_and_claim(1))
    assert serve(world, 2).served
    with world.sessions() as session:
        assert list_model_events(session, tenant_id=world.tenant_id, model="small") == []


def test_a_version_trained_without_the_erased_is_served_once_promoted_and_rolled_back_from(world):
    world.finish(world.submit_and_claim(1))
    anew = register(world, *range(2, 80))
    assert (anew.number, anew.served, served(world)) == (3, False, 2)
    serve(world, 3)
    assert served(world) == 3
    serve(world, 2)
    assert served(world) == 2
    with world.sessions() as session:
        events = list_model_events(session, tenant_id=world.tenant_id, model="small")
    assert [(event.kind, event.data) for event in events] == [
        ("version.registered", {"version": 3, "by": "operator"}),
        ("version.promoted", {"version": 3, "before": 2, "by": "key:cafe"}),
        ("version.promoted", {"version": 2, "before": 3, "by": "key:cafe"}),
    ]


def test_a_version_whose_training_has_seen_the_erased_is_not_registered(world):
    world.finish(world.submit_and_claim(1, 2, 3))
    with pytest.raises(SamplesErased, match="2 samples"):
        register(world, 2, 3, 4)
    assert world.count("model_versions") == 3  # two models' first, and the one published
    assert world.count("version_samples") == 0


def test_a_version_is_only_trained_on_registered_samples(world):
    with pytest.raises(SamplesNotInDataset):
        register(world, 1, 1000)


def test_nothing_is_promoted_or_registered_under_a_running_job(world):
    claim = world.submit_and_claim(1)
    with pytest.raises(ModelBusy):
        serve(world, 1)
    with pytest.raises(ModelBusy):
        register(world, 2)
    world.fail(claim, Reason.UNEXPECTED)
    assert serve(world, 1).served
    with pytest.raises(UnknownVersion):
        serve(world, 9)


def test_the_next_job_starts_from_what_is_served_and_takes_the_next_number(world):
    world.finish(world.submit_and_claim(1))
    register(world, *range(2, 80))
    claim = world.submit_and_claim(5)
    assert (claim.base_version, claim.next_version) == (2, 4)
    world.finish(claim)
    assert served(world) == 4


def test_a_version_is_judged_by_its_own_way_back_not_by_its_number(world):
    register(world, *range(2, 80))  # version 2, without sample 1
    serve(world, 2)
    world.finish(world.submit_and_claim(5))  # version 3, from version 2
    register(world, *range(6, 80))  # version 4, without samples 1 and 5
    assert knowing_erased(world) == [1, 2]
    serve(world, 4)
    serve(world, 3)
    for number in (1, 2):
        with pytest.raises(SamplesErased):
            serve(world, number)


def test_samples_that_the_served_version_never_knew_are_erased_without_a_run_and_never_come_back(world):
    register(world, *range(2, 80))
    serve(world, 2)
    request = world.submit(1)
    job_id = request.targets[0].job.id
    assert world.claim(job_id) is None
    assert (world.job(job_id).state, world.job(job_id).reason) == (JobState.COMPLETED, Reason.SUPERSEDED)
    assert knowing_erased(world) == [1]
    with pytest.raises(SamplesErased):
        serve(world, 1)


def test_samples_that_only_a_later_version_was_trained_on_are_found(world):
    register(world, *range(90))
    serve(world, 2)
    request = world.submit(85)
    assert request.targets[0].samples.accepted == 1
    claim = world.claim(request.targets[0].job.id)
    assert claim.samples.forget == frozenset(digests(85))
    world.finish(claim)
    assert knowing_erased(world) == [2]
    serve(world, 1)  # the first was never trained on it


def test_a_new_model_trained_on_what_another_has_erased_says_so(world):
    world.finish(world.submit_and_claim(1, 2))
    with world.sessions.begin() as session:
        view = register_model(
            session,
            tenant_id=world.tenant_id,
            name="again",
            dataset="digits",
            workload="examples.digits:workload",
            training=digests(1, 2, 3),
            weights_sha256=WEIGHTS,
            weights_path="first.safetensors",
            policy=[LTU],
            details={},
        )
    assert view.trained_on_erased == 2


def test_the_do_not_train_list_has_what_is_erased_and_what_is_asked_and_not_what_was_cancelled(world):
    world.finish(world.submit_and_claim(1, 2))
    world.submit(2, 3)
    world.submit(50, models=["large"])
    cancelled = world.submit(4)
    with world.sessions.begin() as session:
        cancel_request(session, tenant_id=world.tenant_id, request_id=cancelled.id)
    assert listed(world, do_not_train.of_model, "small") == sorted(digests(1, 2, 3))
    assert listed(world, do_not_train.of_dataset, "digits") == sorted(digests(1, 2, 3, 50))


def test_the_do_not_train_list_keeps_what_is_still_owed_until_it_is_dismissed(world):
    failed = world.submit(1)
    world.fail(world.claim(failed.targets[0].job.id), Reason.UNEXPECTED)
    with world.sessions.begin() as session:
        set_approvals(session, tenant_id=world.tenant_id, model="small", jobs=True, by="key:admin")
    refused = world.submit(2)
    world.claim(refused.targets[0].job.id)
    with world.sessions.begin() as session:
        refuse(session, tenant_id=world.tenant_id, job_id=refused.targets[0].job.id, by="key:dpo")
    lists = ((do_not_train.of_model, "small"), (do_not_train.of_dataset, "digits"))
    assert [listed(world, find, name) for find, name in lists] == [sorted(digests(1, 2))] * 2
    for request in (failed, refused):
        with world.sessions.begin() as session:
            dismiss_request(session, tenant_id=world.tenant_id, request_id=request.id, reason="Kept.", by="key:dpo")
    assert [listed(world, find, name) for find, name in lists] == [[], []]


def test_a_version_was_made_to_forget_as_many_samples_as_its_report_says(world):
    """Neither those that its job's requests name and it never knew count, nor those of jobs without a run."""
    register(world, *range(3, 80))
    serve(world, 2)
    claim = world.submit_and_claim(1, 5)
    assert claim.samples.forget == frozenset(digests(5))
    report_id = world.finish(claim)
    assert world.claim(world.submit(2).targets[0].job.id) is None
    given = {"tenant_id": world.tenant_id}
    with world.sessions.begin() as session:
        signed = get_report(session, **given, report_id=report_id).body["asked"]["samples"]
        assert [report.samples for report in list_reports(session, **given, limit=9)] == [signed] == [1]
        assert [made.samples for made in read_history(session, **given, model="small").versions] == [0, 0, 1]
        plan_hand_overs(session, connector="x", tenant="hospital", concerns=lambda name: True, withdraws=False)
        taken = [take_hand_over(session, "x") for _ in range(2)]
    assert {(each.model, each.samples) for each in taken} == {("small", 1), ("large", 0)}


def test_an_approved_version_is_announced_with_the_samples_of_its_report(world):
    register(world, *range(3, 80))
    serve(world, 2)
    with world.sessions.begin() as session:
        set_approvals(session, tenant_id=world.tenant_id, model="small", versions=True, by="key:admin")
    claim = world.submit_and_claim(1, 5)
    world.finish(claim)
    with world.sessions.begin() as session:
        approve(session, tenant_id=world.tenant_id, job_id=claim.job_id, by="key:dpo")
        events = list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)
    assert {event.kind: event.data["samples"] for event in events if "samples" in event.data} == {
        "job.joined": 2,
        "job.frozen": 2,
        "job.published": 1,
        "job.completed": 1,
    }
