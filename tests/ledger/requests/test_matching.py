"""Requests by person: whose samples are meant, in which datasets, and what is recorded of it."""

import json
from datetime import timedelta
from hashlib import sha256

import pytest
from sqlalchemy import text

from ledger.errors import NoSamplesMatch, UnknownDataset, UnknownModel, UnknownUpload
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.registry.subjects import assign_subjects
from ledger.requests import do_not_train, submission, uploads
from ledger.requests.cancellation import cancel_request
from ledger.requests.do_not_train import of_dataset, read_digests
from ledger.requests.matching import count_subject_samples
from ledger.requests.submission import submit
from ledger.resources import SampleCounts, SubjectCounts
from ledger.sample_ids import sample_digest, samples_sha256, subject_digest
from ledger.states import RequestState
from tests.ledger.conftest import IEU, KEY, LTU, WEIGHTS, digests, nothing_written, statements

LETTERS = [sample_digest(KEY, "letters", f"person-{number}") for number in range(10)]


def people(*names):
    return [subject_digest(KEY, name) for name in names]


def assign(session, tenant_id, dataset, **owned):
    """Let each person own some samples of a dataset, given by their digests."""
    rows = [(subject_digest(KEY, who), digest, 1) for who, theirs in owned.items() for digest in theirs]
    assign_subjects(session, tenant_id=tenant_id, dataset=dataset, rows=rows)


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


def ask(world, *names, dataset=None, **more):
    given = {"batch_window": timedelta(0), "subjects": people(*names)} | more
    with world.sessions.begin() as session:
        return submit(session, tenant_id=world.tenant_id, caller="portal", dataset=dataset, **given)


def listed(world, find, name):
    """Read one of the do-not-train lists of a dataset or a model."""
    with world.sessions() as session:
        found = read_digests(session, find(session, tenant_id=world.tenant_id, name=name))
        return [digest for some in found for digest in some]


def models(request):
    return [(target.model, target.samples.accepted) for target in request.targets]


def test_a_person_is_unlearned_from_every_model_of_every_dataset(peopled):
    request = ask(peopled, "ann")
    assert models(request) == [("large", 3), ("small", 2), ("spam", 2)]
    assert request.samples == SampleCounts(accepted=5, already_erased=0, not_in_training_set=0)
    assert request.subjects == SubjectCounts(given=1, matched=1)
    assert (request.dataset, request.datasets, request.every_dataset) == ("digits", ("digits", "letters"), True)


def test_one_dataset_or_a_list_of_them_limits_whose_samples_are_meant(peopled):
    one = ask(peopled, "ann", dataset="letters")
    assert (models(one), one.datasets, one.every_dataset) == ([("spam", 2)], ("letters",), False)
    several = ask(peopled, "ann", dataset=["letters", "empty", "letters"])
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
    assert listed(peopled, do_not_train.people_of_model, "small") == people("ann")
    assert listed(peopled, do_not_train.of_model, "small") == sorted(digests(1, 2, 90))
    assert listed(peopled, do_not_train.people_of_dataset, "digits") == people("ann")
    for other in ("large", "spam"):
        assert listed(peopled, do_not_train.people_of_model, other) == []
        assert listed(peopled, do_not_train.of_model, other) == []
    assert listed(peopled, do_not_train.people_of_dataset, "letters") == []


def test_each_person_is_counted_once_and_a_shared_sample_once(peopled):
    request = ask(peopled, "ann", "bob", "stranger", "ann", dataset="digits")
    assert request.samples.accepted == 4
    assert request.subjects == SubjectCounts(given=3, matched=2)
    with peopled.sessions() as session:
        counts = count_subject_samples(session, request.id)
    assert [counts[person] for person in people("ann", "bob", "stranger")] == [3, 2, 0]


def test_people_and_samples_in_one_request_may_overlap(peopled):
    request = ask(peopled, "ann", dataset="digits", digests=digests(2, 7, 500))
    assert request.samples == SampleCounts(accepted=4, already_erased=0, not_in_training_set=1)
    assert request.subjects == SubjectCounts(given=1, matched=1)


def test_what_is_erased_already_counts_as_such_and_a_later_sample_is_erased_by_the_next_request(peopled):
    first = ask(peopled, "bob", dataset="digits", models=["small"])
    peopled.finish(peopled.claim(first.targets[0].job.id))
    again = ask(peopled, "bob", dataset="digits", models=["small"])
    assert again.state == RequestState.COMPLETED
    assert again.samples == SampleCounts(accepted=0, already_erased=2, not_in_training_set=0)
    with peopled.sessions.begin() as session:
        assign(session, peopled.tenant_id, "digits", bob=digests(4))
    later = ask(peopled, "bob", dataset="digits", models=["small"])
    assert later.samples == SampleCounts(accepted=1, already_erased=2, not_in_training_set=0)


@pytest.mark.parametrize("who", ["stranger", "cat"])
@pytest.mark.parametrize("dataset", [None, "digits", ["digits", "letters"]])
def test_nobody_known_and_nobody_trained_on_are_refused_in_the_same_words(peopled, who, dataset):
    with pytest.raises(NoSamplesMatch) as stranger:
        ask(peopled, "stranger", dataset=dataset)
    with nothing_written(peopled), pytest.raises(NoSamplesMatch) as refused:
        ask(peopled, who, dataset=dataset)
    assert str(refused.value) == str(stranger.value)


def test_a_tenant_without_datasets_and_one_with_the_same_names_learn_nothing(peopled):
    with peopled.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
    with peopled.sessions() as session, pytest.raises(NoSamplesMatch):
        submit(session, tenant_id=other, caller="x", dataset=None, subjects=people("ann"), batch_window=timedelta(0))
    with peopled.sessions.begin() as session:
        register_dataset(session, tenant_id=other, name="digits", digests=digests(1, 2))
    with peopled.sessions() as session, pytest.raises(NoSamplesMatch):
        submit(session, tenant_id=other, caller="x", dataset=None, subjects=people("ann"), batch_window=timedelta(0))


def test_an_unknown_dataset_in_a_list_is_named(peopled):
    with nothing_written(peopled), pytest.raises(UnknownDataset, match="'sounds'"):
        ask(peopled, "ann", dataset=["digits", "sounds"])


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
    assert ask(peopled, upload_id=sent.id, dataset="letters").datasets == ("letters",)


def test_an_uploaded_list_of_samples_is_of_its_own_dataset(peopled):
    sent = send(peopled, digests(1, 2), dataset="digits")
    assert ask(peopled, upload_id=sent.id).datasets == ("digits",)
    for other in ("letters", ["digits", "letters"]):
        with pytest.raises(UnknownUpload, match="of another dataset"):
            ask(peopled, upload_id=sent.id, dataset=other)


def test_the_log_commits_to_the_samples_and_to_the_people(peopled):
    ask(peopled, "ann", "stranger", dataset="letters")
    with peopled.sessions() as session:
        found = map(json.loads, session.scalars(text("SELECT content FROM log_openings")))
        (content,) = (one for one in found if "samples_sha256" in str(one))
    content = content.get("content", content)
    assert content["samples_sha256"] == samples_sha256(LETTERS[:2])
    assert content["subjects_sha256"] == samples_sha256(people("ann", "stranger"))
    assert content["subjects"] == 2


def test_the_do_not_train_list_of_each_dataset_has_what_one_request_names_in_several(peopled):
    ask(peopled, "ann")
    with peopled.sessions() as session:
        for dataset, theirs in (("digits", digests(1, 2, 90)), ("letters", LETTERS[:2])):
            listed = of_dataset(session, tenant_id=peopled.tenant_id, name=dataset)
            found = {digest for some in read_digests(session, listed) for digest in some}
            assert set(theirs) <= found


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
            ask(peopled, *names, dataset="digits", models=["small"])
        return len(executed)

    count("ann")
    assert count("ann", *map("stranger-{}".format, range(3000))) == count("ann")


def test_no_subject_is_anywhere_in_the_database(peopled):
    """As it is, or hashed without the key."""
    ask(peopled, "ann", "some-stranger")
    plain = sha256(b"some-stranger").hexdigest()
    with peopled.sessions() as session:
        for table in session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all():
            rows = "\n".join(session.scalars(text(f'SELECT t::text FROM "{table}" t')))
            assert not [one for one in ("some-stranger", b"some-stranger".hex(), plain) if one in rows], table


def test_a_claim_counts_the_people_whose_samples_its_job_forgets(peopled):
    """Not those without a sample in its model, and those named by two requests once."""
    ask(peopled, "ann", "dan", "stranger", models=["small"], batch_window=timedelta(hours=1))
    request = ask(peopled, "ann", "bob", dataset="digits", models=["small"], expedite=True)
    assert peopled.claim(request.targets[0].job.id).subjects == 2
    assert peopled.submit_and_claim(50, models=["large"]).subjects is None


def test_do_not_train_lists_name_people_until_their_requests_are_withdrawn(peopled):
    everywhere, here = ask(peopled, "ann", "stranger"), ask(peopled, "bob", dataset="digits", models=["small"])
    all_three = sorted(people("ann", "bob", "stranger"))
    assert listed(peopled, do_not_train.people_of_dataset, "digits") == all_three
    assert listed(peopled, do_not_train.people_of_model, "small") == all_three
    assert listed(peopled, do_not_train.people_of_model, "large") == sorted(people("ann", "stranger"))
    assert listed(peopled, do_not_train.people_of_dataset, "empty") == sorted(people("ann", "stranger"))
    with peopled.sessions.begin() as session:
        assign(session, peopled.tenant_id, "digits", stranger=digests(60), dan=digests(61))
    assert listed(peopled, do_not_train.of_dataset, "digits") == sorted(digests(1, 2, 3, 60, 90) + LETTERS[:2])
    assert listed(peopled, do_not_train.of_model, "small") == sorted(digests(1, 2, 3, 60, 90) + LETTERS[:2])
    with peopled.sessions.begin() as session:
        cancel_request(session, tenant_id=peopled.tenant_id, request_id=everywhere.id)
    peopled.finish(peopled.claim(here.targets[0].job.id))
    assert listed(peopled, do_not_train.people_of_dataset, "digits") == people("bob")
    assert (
        listed(peopled, do_not_train.people_of_model, "large")
        == listed(peopled, do_not_train.people_of_dataset, "empty")
        == []
    )
    assert listed(peopled, do_not_train.of_dataset, "digits") == sorted(digests(2, 3))
