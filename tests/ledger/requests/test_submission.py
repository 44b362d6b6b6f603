import json
import os
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from sqlalchemy import event, text

from ledger.db import now
from ledger.errors import (
    InvalidTime,
    NoSamplesMatch,
    TooLate,
    UnknownDataset,
    UnknownModel,
    UnknownRegulation,
    UnknownRequest,
    UnknownUpload,
)
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.registry.subjects import assign_subjects
from ledger.requests import do_not_train, submission, uploads
from ledger.requests.cancellation import cancel_request
from ledger.requests.deadlines import extend_deadline
from ledger.requests.requests import count_subject_samples, get_request, list_request_samples, list_requests
from ledger.requests.submission import submit
from ledger.resources import SampleCounts, SubjectCounts
from ledger.sample_ids import sample_digest, samples_sha256
from ledger.states import JobState, Reason, RequestState, SampleOutcome
from tests.fixtures.postgresql import stored_rows
from tests.ledger.conftest import (
    IEU,
    KEY,
    LTU,
    WEIGHTS,
    assign,
    committed,
    digests,
    listed_names,
    nothing_written,
    people,
    statements,
)


def cancel(world, request):
    with world.sessions.begin() as session:
        return cancel_request(session, tenant_id=world.tenant_id, request_id=request.id)


def listed(world, **filters):
    with world.sessions() as session:
        return list_requests(session, tenant_id=world.tenant_id, **filters)


def test_a_request_tells_what_it_means_for_each_sample(world):
    request = world.submit(1, 2, 2, 90, 500)
    assert request.state == RequestState.SCHEDULED
    assert request.samples == SampleCounts(accepted=2, already_erased=0, not_in_training_set=2)
    (target,) = request.targets
    assert (target.model, target.samples.accepted, target.samples.not_in_training_set) == ("small", 2, 2)
    with world.sessions() as session:
        missing = list_request_samples(session, request.id, SampleOutcome.NOT_IN_TRAINING_SET)
    assert set(missing) == set(digests(90, 500))


def test_by_default_every_model_trained_on_the_samples_is_touched(world):
    both = world.submit(1, models=None)
    assert [(t.model, t.samples.accepted) for t in both.targets] == [("large", 1), ("small", 1)]
    assert len({t.job.id for t in both.targets}) == 2
    one = world.submit(90, models=None)
    assert [t.model for t in one.targets] == ["large"]


def test_a_named_model_that_was_not_trained_on_them_rejects(world):
    request = world.submit(90, models=["small", "large"])
    assert {t.model: (t.state, t.reason) for t in request.targets} == {
        "large": (RequestState.SCHEDULED, None),
        "small": (RequestState.REJECTED, Reason.NOT_IN_TRAINING_SET),
    }
    world.finish(world.claim(request.targets[0].job.id))
    assert world.request(request.id).state == RequestState.COMPLETED


def test_what_is_erased_already_is_completed_at_once(world):
    world.finish(world.submit_and_claim(1, 2))
    mixed = world.submit(1, 3)
    assert (mixed.samples.accepted, mixed.samples.already_erased) == (1, 1)
    again = world.submit(1, 2, 500)
    assert again.state == "completed"
    assert again.samples == SampleCounts(accepted=0, already_erased=2, not_in_training_set=1)
    assert again.targets[0].reason == Reason.ALREADY_ERASED
    assert again.finished_at is not None


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"models": ["tiny"]}, UnknownModel, "'tiny'"),
        ({"regulation": "gpdr"}, UnknownRegulation, "'gpdr'"),
        ({"received_at": datetime(2026, 1, 1)}, InvalidTime, "time zone"),
        ({"received_at": datetime(2996, 1, 1, tzinfo=UTC)}, InvalidTime, "future"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(world, changes, error, words):
    with nothing_written(world), pytest.raises(error, match=words):
        world.submit(1, **changes)


def test_a_request_in_which_nothing_matches_is_refused_and_nothing_is_written(world):
    with nothing_written(world), pytest.raises(NoSamplesMatch, match="2 samples"):
        world.submit(90, 500)
    with nothing_written(world), pytest.raises(NoSamplesMatch):
        world.submit()


def test_another_tenant_sees_nothing(world):
    request = world.submit(1)
    with world.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
        for call in (get_request, cancel_request):
            with pytest.raises(UnknownRequest):
                call(session, tenant_id=other, request_id=request.id)
        with pytest.raises(UnknownDataset):
            submit(
                session,
                world.submission(1, tenant_id=other, models=None),
                window=timedelta(0),
            )
        assert list_requests(session, tenant_id=other).items == []


def test_the_legal_clock_starts_when_the_person_asked(world):
    with world.sessions() as session:
        yesterday = now(session) - timedelta(days=1)
    request = world.submit(1, received_at=yesterday, regulation="ccpa")
    assert request.due_at == yesterday + timedelta(days=45)
    assert world.submit(2).received_at > yesterday


def test_a_deadline_is_extended_once_with_a_reason(world):
    received = datetime.now(UTC) - timedelta(days=3)
    request = world.submit(1, received_at=received)
    with world.sessions.begin() as session:
        extended = extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="many requests")
    assert extended.due_at - request.due_at > timedelta(days=58)
    assert extended.extension_reason == "many requests"
    with world.sessions.begin() as session:
        with pytest.raises(TooLate):
            extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="more")
        with pytest.raises(ValueError, match="reason"):
            extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason=" ")


def test_what_is_overdue_cannot_be_extended(world):
    request = world.submit(1, received_at=datetime.now(UTC) - timedelta(days=40))
    with world.sessions.begin() as session, pytest.raises(TooLate):
        extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="late")


def test_a_list_is_read_page_by_page_while_requests_come_in(world):
    old = [world.submit(n).id for n in range(5)]
    first = listed(world, limit=2)
    newer = world.submit(10).id
    second = listed(world, limit=2, cursor=first.next_cursor)
    third = listed(world, limit=2, cursor=second.next_cursor)
    assert [r.id for page in (first, second, third) for r in page.items] == old[::-1]
    assert third.next_cursor is None
    assert newer not in old


def test_a_list_can_be_filtered(world):
    done = world.submit(1)
    world.finish(world.claim(done.targets[0].job.id))
    waits = world.submit(2, models=["large"], received_at=datetime.now(UTC) - timedelta(days=20))
    assert [r.id for r in listed(world, state=RequestState.COMPLETED).items] == [done.id]
    assert [r.id for r in listed(world, model="large").items] == [waits.id]
    assert [r.id for r in listed(world, due_before=datetime.now(UTC) + timedelta(days=15)).items] == [waits.id]
    with pytest.raises(UnknownModel, match="nobody"):
        listed(world, model="nobody")


def test_a_request_leaves_a_job_that_has_not_closed(world):
    stays = world.submit(1, window=timedelta(hours=1))
    goes = world.submit(2, window=timedelta(hours=1))
    job_id = stays.targets[0].job.id
    assert world.job(job_id).requests == 2
    assert cancel(world, goes).state == RequestState.CANCELLED
    assert cancel(world, goes).state == RequestState.CANCELLED
    assert world.job(job_id).requests == 1
    with world.sessions.begin() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET cut_off = now()")
    assert world.claim(job_id).samples.forget == frozenset(digests(1))


def test_a_job_that_everybody_leaves_ends(world):
    request = world.submit(1, window=timedelta(hours=1))
    cancel(world, request)
    assert world.job(request.targets[0].job.id).state == JobState.CANCELLED
    assert world.submit(1, window=timedelta(hours=1)).targets[0].job.id != request.targets[0].job.id


def test_a_request_alone_on_its_running_job_is_cancelled_by_the_worker(world):
    alone = world.submit(1)
    claim = world.claim(alone.targets[0].job.id)
    assert cancel(world, alone).state == RequestState.RUNNING
    assert world.job(claim.job_id).cancel_requested
    world.fail(claim, Reason.CANCELLED_BY_CALLER)
    assert world.request(alone.id).state == RequestState.CANCELLED


def test_a_finished_request_cannot_be_cancelled(world):
    request = world.submit(1)
    world.finish(world.claim(request.targets[0].job.id))
    with nothing_written(world), pytest.raises(TooLate, match="completed"):
        cancel(world, request)


def test_cancelling_leaves_what_is_done_as_it_is(world):
    request = world.submit(1, models=None)
    world.finish(world.claim(request.targets[0].job.id))
    after = cancel(world, request)
    assert {t.model: t.state for t in after.targets} == {"large": "completed", "small": "cancelled"}
    assert after.state == RequestState.CANCELLED
    assert after.targets[0].version == 2


def test_many_samples_take_as_many_statements_as_few_from_the_request_to_the_new_version(world):
    def count(name, samples):
        with world.sessions.begin() as session:
            register_dataset(session, tenant_id=world.tenant_id, name=name, digests=samples)
            register_model(
                session,
                tenant_id=world.tenant_id,
                name=name,
                dataset=name,
                workload="w:w",
                training=samples,
                weights_sha256=WEIGHTS,
                weights_path=name,
                policy=[LTU],
                details={},
            )
        with statements(world) as executed:
            request = world.submit(datasets=[name], digests=samples, models=None)
            claim = world.claim(request.targets[0].job.id)
            world.finish(claim)
        assert request.samples.accepted == len(claim.samples.forget) == len(samples)
        return len(executed)

    assert count("many", [os.urandom(32) for _ in range(5000)]) == count("few", [os.urandom(32)])


LETTERS = [sample_digest(KEY, "letters", f"person-{number}") for number in range(10)]


@pytest.fixture
def peopled(world):
    """The usual world, and the dataset `letters` with the model `spam`; `empty` has neither samples nor models.

    ann: the digits 1, 2, 90 and the letters 0, 1. bob: the digits 2, 3. cat: the letter 9, which no model was trained on. dan: the
    digit 95, in `large` alone.
    """
    with world.sessions.begin() as session:
        register_dataset(session, tenant_id=world.tenant_id, name="letters", digests=LETTERS)
        register_dataset(session, tenant_id=world.tenant_id, name="empty", digests=[])
        register_model(
            session,
            tenant_id=world.tenant_id,
            name="spam",
            dataset="letters",
            workload="examples.letters:workload",
            training=LETTERS[:9],
            weights_sha256=WEIGHTS,
            weights_path="first.safetensors",
            policy=[LTU, IEU],
            details={},
        )
        assign(session, world.tenant_id, "digits", ann=digests(1, 2, 90), bob=digests(2, 3), dan=digests(95))
        assign(session, world.tenant_id, "letters", ann=LETTERS[:2], cat=LETTERS[9:])
    return world


def ask(world, *names, datasets=None, models=None, **more):
    return world.submit(datasets=datasets, models=models, subjects=committed(*names), **more)


def models(request):
    return [(target.model, target.samples.accepted) for target in request.targets]


def test_a_person_is_unlearned_from_every_model_of_every_dataset(peopled):
    request = ask(peopled, "ann")
    assert models(request) == [("large", 3), ("small", 2), ("spam", 2)]
    assert request.samples == SampleCounts(accepted=5, already_erased=0, not_in_training_set=0)
    assert request.subjects == SubjectCounts(given=1, matched=1)
    assert (request.dataset, request.datasets, request.every_dataset) == ("digits", ("digits", "letters"), True)


def test_one_dataset_or_a_list_of_them_limits_whose_samples_are_meant(peopled):
    one = ask(peopled, "ann", datasets=["letters"])
    assert (models(one), one.datasets, one.every_dataset) == ([("spam", 2)], ("letters",), False)
    several = ask(peopled, "ann", datasets=["letters", "empty", "letters"])
    assert (models(several), several.dataset, several.datasets) == ([("spam", 2)], "letters", ("empty", "letters"))


def test_named_models_are_found_in_all_datasets(peopled):
    request = ask(peopled, "ann", models=["small", "spam"])
    assert models(request) == [("small", 2), ("spam", 2)]
    elsewhere = ask(peopled, "bob", models=["small", "spam"])
    assert [(target.model, target.state) for target in elsewhere.targets] == [
        ("small", RequestState.SCHEDULED),
        ("spam", RequestState.REJECTED),
    ]
    assert elsewhere.datasets == ("digits", "letters")
    with pytest.raises(UnknownModel, match="'nothing'"):
        ask(peopled, "ann", models=["nothing"])


def test_a_request_that_names_models_concerns_no_other_model_and_no_other_dataset(peopled):
    request = ask(peopled, "ann", models=["small"])
    assert (models(request), request.datasets, request.every_dataset) == ([("small", 2)], ("digits",), False)
    assert request.samples == SampleCounts(accepted=2, already_erased=0, not_in_training_set=1)
    assert listed_names(peopled, do_not_train.people_of_model, "small") == people("ann")
    assert listed_names(peopled, do_not_train.of_model, "small") == sorted(digests(1, 2, 90))
    assert listed_names(peopled, do_not_train.people_of_dataset, "digits") == people("ann")
    for other in ("large", "spam"):
        assert listed_names(peopled, do_not_train.people_of_model, other) == []
        assert listed_names(peopled, do_not_train.of_model, other) == []
    assert listed_names(peopled, do_not_train.people_of_dataset, "letters") == []


def test_each_person_is_counted_once_and_a_shared_sample_once(peopled):
    request = ask(peopled, "ann", "bob", "stranger", "ann", datasets=["digits"])
    assert request.samples.accepted == 4
    assert request.subjects == SubjectCounts(given=3, matched=2)
    with peopled.sessions() as session:
        counts = count_subject_samples(session, request.id)
    assert [counts[person] for person in people("ann", "bob", "stranger")] == [3, 2, 0]


@pytest.mark.parametrize("before", [f"INSERT INTO {table}" for table in ("request_subjects", "request_samples")])
def test_an_import_in_the_midst_of_a_request_counts_for_the_person_and_the_samples_or_for_neither(peopled, before):
    engine, done = peopled.sessions.kw["bind"], []

    def commit_an_import(connection, cursor, statement, *more):
        if before in statement and not done:
            done.append(before)
            with peopled.sessions.begin() as session:
                assign(session, peopled.tenant_id, "digits", stranger=digests(4))

    event.listen(engine, "before_cursor_execute", commit_an_import)
    try:
        request = ask(peopled, "ann", "stranger", datasets=["digits"])
    finally:
        event.remove(engine, "before_cursor_execute", commit_an_import)
    with peopled.sessions() as session:
        counts = count_subject_samples(session, request.id)
    assert done
    assert request.samples.accepted == 3 + counts[people("stranger")[0]]
    assert request.subjects.matched == 1 + bool(counts[people("stranger")[0]])


def test_people_and_samples_in_one_request_may_overlap(peopled):
    request = ask(peopled, "ann", datasets=["digits"], digests=digests(2, 7, 500))
    assert request.samples == SampleCounts(accepted=4, already_erased=0, not_in_training_set=1)
    assert request.subjects == SubjectCounts(given=1, matched=1)


def test_what_is_erased_already_counts_as_such_and_a_later_sample_is_erased_by_the_next_request(peopled):
    first = ask(peopled, "bob", datasets=["digits"], models=["small"])
    peopled.finish(peopled.claim(first.targets[0].job.id))
    again = ask(peopled, "bob", datasets=["digits"], models=["small"])
    assert again.state == RequestState.COMPLETED
    assert again.samples == SampleCounts(accepted=0, already_erased=2, not_in_training_set=0)
    with peopled.sessions.begin() as session:
        assign(session, peopled.tenant_id, "digits", bob=digests(4))
    later = ask(peopled, "bob", datasets=["digits"], models=["small"])
    assert later.samples == SampleCounts(accepted=1, already_erased=2, not_in_training_set=0)


@pytest.mark.parametrize("who", ["stranger", "cat"])
@pytest.mark.parametrize("datasets", [None, ["digits"], ["digits", "letters"]])
def test_nobody_known_and_nobody_trained_on_are_refused_in_the_same_words(peopled, who, datasets):
    with pytest.raises(NoSamplesMatch) as stranger:
        ask(peopled, "stranger", datasets=datasets)
    with nothing_written(peopled), pytest.raises(NoSamplesMatch) as refused:
        ask(peopled, who, datasets=datasets)
    assert str(refused.value) == str(stranger.value)


def test_a_tenant_without_datasets_and_one_with_the_same_names_learn_nothing(peopled):
    with peopled.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
    with pytest.raises(NoSamplesMatch):
        ask(peopled, "ann", tenant_id=other)
    with peopled.sessions.begin() as session:
        register_dataset(session, tenant_id=other, name="digits", digests=digests(1, 2))
    with pytest.raises(NoSamplesMatch):
        ask(peopled, "ann", tenant_id=other)


def test_an_unknown_dataset_in_a_list_is_named(peopled):
    with nothing_written(peopled), pytest.raises(UnknownDataset, match="'sounds'"):
        ask(peopled, "ann", datasets=["digits", "sounds"])


def send(world, given, dataset=None):
    """Upload digests, each on a line."""
    with world.sessions.begin() as session:
        with uploads.receive_digests(session) as copy:
            uploads.send_digests(copy, [(digest, line) for line, digest in enumerate(given, start=1)])
        return uploads.store_upload(session, tenant_id=world.tenant_id, dataset=dataset)


def test_an_uploaded_list_of_people_serves_all_datasets_and_its_unmatched_lines_are_known(peopled):
    sent = send(peopled, people("stranger", "ann", "bob", "ann", "nobody"))
    assert (sent.dataset, sent.samples, sent.subjects) == (None, None, 4)
    request = ask(peopled, upload_id=sent.id)
    assert models(request) == [("large", 4), ("small", 3), ("spam", 2)]
    assert request.subjects == SubjectCounts(given=4, matched=2)
    with peopled.sessions() as session:
        assert uploads.unmatched_lines(session, upload_id=sent.id, request_id=request.id) == [1, 5]
    assert ask(peopled, upload_id=sent.id, datasets=["letters"]).datasets == ("letters",)


def test_an_uploaded_list_of_samples_is_of_its_own_dataset(peopled):
    sent = send(peopled, digests(1, 2), dataset="digits")
    assert ask(peopled, upload_id=sent.id).datasets == ("digits",)
    for other in (["letters"], ["digits", "letters"]):
        with pytest.raises(UnknownUpload, match="of another dataset"):
            ask(peopled, upload_id=sent.id, datasets=other)


def test_the_log_commits_to_the_samples_and_to_the_people(peopled):
    ask(peopled, "ann", "stranger", datasets=["letters"])
    with peopled.sessions() as session:
        found = map(json.loads, session.scalars(text("SELECT content FROM log_openings")))
        (content,) = (one for one in found if "samples_sha256" in str(one))
    content = content.get("content", content)
    assert content["samples_sha256"] == samples_sha256(LETTERS[:2])
    assert content["subjects_sha256"] == samples_sha256(people("ann", "stranger"))
    assert content["subjects"] == 2


def test_the_do_not_train_list_of_each_dataset_has_what_one_request_names_in_several(peopled):
    ask(peopled, "ann")
    for dataset, theirs in (("digits", digests(1, 2, 90)), ("letters", LETTERS[:2])):
        assert set(theirs) <= set(listed_names(peopled, do_not_train.of_dataset, dataset))


def test_a_process_that_dies_before_the_commit_leaves_nothing(peopled, monkeypatch):
    def dies(*_, **__):
        raise SystemExit("killed")

    monkeypatch.setattr(submission, "log_request", dies)
    with nothing_written(peopled), pytest.raises(SystemExit):
        ask(peopled, "ann")
    monkeypatch.undo()
    assert models(ask(peopled, "ann")) == [("large", 3), ("small", 2), ("spam", 2)]


def test_many_people_take_as_many_statements_as_few(peopled):
    def count(*names):
        with statements(peopled) as executed:
            ask(peopled, *names, datasets=["digits"], models=["small"])
        return len(executed)

    count("ann")
    assert count("ann", *map("stranger-{}".format, range(3000))) == count("ann")


def test_no_subject_is_anywhere_in_the_database(peopled):
    """As it is, or hashed without the key."""
    ask(peopled, "ann", "some-stranger")
    plain = sha256(b"some-stranger").hexdigest()
    with peopled.sessions() as session:
        for table, rows in stored_rows(session).items():
            for trace in ("some-stranger", b"some-stranger".hex(), plain):
                assert trace not in str(rows), table


def test_a_claim_counts_the_people_whose_samples_its_job_forgets(peopled):
    """Not those without a sample in its model, and those named by two requests once."""
    ask(peopled, "ann", "dan", "stranger", models=["small"], window=timedelta(hours=1))
    request = ask(peopled, "ann", "bob", datasets=["digits"], models=["small"], expedite=True)
    assert peopled.claim(request.targets[0].job.id).subjects == 2
    assert peopled.submit_and_claim(50, models=["large"]).subjects is None


def test_do_not_train_lists_name_people_until_their_requests_are_withdrawn(peopled):
    everywhere, here = ask(peopled, "ann", "stranger"), ask(peopled, "bob", datasets=["digits"], models=["small"])
    all_three = sorted(people("ann", "bob", "stranger"))
    assert listed_names(peopled, do_not_train.people_of_dataset, "digits") == all_three
    assert listed_names(peopled, do_not_train.people_of_model, "small") == all_three
    assert listed_names(peopled, do_not_train.people_of_model, "large") == sorted(people("ann", "stranger"))
    assert listed_names(peopled, do_not_train.people_of_dataset, "empty") == sorted(people("ann", "stranger"))
    with peopled.sessions.begin() as session:
        assign(session, peopled.tenant_id, "digits", stranger=digests(60), dan=digests(61))
    assert listed_names(peopled, do_not_train.of_dataset, "digits") == sorted(digests(1, 2, 3, 60, 90) + LETTERS[:2])
    assert listed_names(peopled, do_not_train.of_model, "small") == sorted(digests(1, 2, 3, 60, 90) + LETTERS[:2])
    with peopled.sessions.begin() as session:
        cancel_request(session, tenant_id=peopled.tenant_id, request_id=everywhere.id)
    peopled.finish(peopled.claim(here.targets[0].job.id))
    assert listed_names(peopled, do_not_train.people_of_dataset, "digits") == people("bob")
    assert (
        listed_names(peopled, do_not_train.people_of_model, "large")
        == listed_names(peopled, do_not_train.people_of_dataset, "empty")
        == []
    )
    assert listed_names(peopled, do_not_train.of_dataset, "digits") == sorted(digests(2, 3))


def test_a_request_that_names_no_model_keeps_people_out_of_every_training_of_its_dataset(peopled):
    """Also of a model that knew none of their samples, until it is withdrawn; one that names models does not."""
    ask(peopled, "bob", datasets=["digits"], models=["large"])
    request = ask(peopled, "dan", datasets=["digits"])
    peopled.submit(96, models=None)
    assert models(request) == [("large", 1)]
    with peopled.sessions.begin() as session:
        assign(session, peopled.tenant_id, "digits", dan=digests(61))
    assert listed_names(peopled, do_not_train.people_of_model, "small") == people("dan")
    assert listed_names(peopled, do_not_train.of_model, "small") == sorted(digests(61, 95, 96))
    assert listed_names(peopled, do_not_train.people_of_model, "spam") == []
    with peopled.sessions.begin() as session:
        cancel_request(session, tenant_id=peopled.tenant_id, request_id=request.id)
    assert listed_names(peopled, do_not_train.people_of_model, "small") == []
    assert listed_names(peopled, do_not_train.of_model, "small") == digests(96)


def test_what_a_request_erased_of_a_person_is_known_after_the_table_was_replaced(peopled):
    request = ask(peopled, "ann", models=["small"])
    with peopled.sessions.begin() as session:
        rows = [(*people("bob"), *digests(3), 1)]
        assign_subjects(session, tenant_id=peopled.tenant_id, dataset="digits", rows=rows, replace=True)
    assert peopled.claim(request.targets[0].job.id).subjects == 1
