"""Jobs of a model that has reference predictions: matching first, and none of the erased samples' rows left."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import UUID

import numpy as np
import pytest
import torch
from sqlalchemy import select, update

from connectors.storage import LocalFolder, StorageForbidden
from expunge.errors import CannotPrepare
from expunge.operator import references as preparing
from expunge.operator.deployment import Deployment
from expunge.operator.references import prepare_model
from expunge.operator.registration import register_workload
from expunge.operator.training import train_workload
from ledger.events.timeline import list_job_events
from ledger.jobs.approvals import approve, refuse, set_approvals
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import get_report, list_attempts
from ledger.registry.models import get_model
from ledger.registry.references import ReferenceFile, find_references
from ledger.registry.retention import needed_files
from ledger.registry.versions import promote, register_version
from ledger.sample_ids import sample_digest
from ledger.states import JobState, Reason
from ledger.tables import Model, ReferenceSet
from tests.worker import digits
from tests.worker.conftest import KEY, PLAN, REFERENCE, Bench, Killed
from unlearning.audit.reference_test import LEAST_HELD_OUT
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.references import References, from_bytes, to_bytes
from unlearning.errors import ReferencesUnusable
from unlearning.specs import AIMING, PRODUCTION
from unlearning.specs.audit import AuditSpec
from unlearning.specs.references import ReferencePlan
from unlearning.storage import load_weights
from unlearning.training.references import PreparationCost
from worker import attempt
from worker import publish as publishing
from worker.cleanup import delete_outdated_files
from worker.inputs import NO_REFERENCES, JobInputs, load_inputs, load_workload
from worker.lease import Run, hold_lease
from worker.run import execute


def place(bench: Bench) -> Deployment:
    return Deployment(
        database_url=bench.settings.database_url.get_secret_value(),
        storage=bench.settings.storage,
        sample_key=KEY,
        workloads="tests",
    )


def stored(bench: Bench) -> tuple[Path, References]:
    with bench.sessions.begin() as session:
        model_id = session.scalars(select(Model.id)).one()
        file = find_references(session, model_id)
        assert file is not None
        assert file.path in needed_files(session)
    path = bench.settings.storage / file.path
    return path, from_bytes(path.read_bytes())


def keys(samples: tuple[str, ...]) -> set[bytes]:
    return {sample_digest(KEY, "tiny-digits", sample) for sample in samples}


@pytest.fixture(scope="module")
def trained_beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of reference models that were trained beside the model."""
    folder = tmp_path_factory.mktemp("beside")
    train_workload(REFERENCE, allowed=("tests",), folder=folder, plain=True, references=PLAN)
    return folder / "references"


@pytest.fixture
def reference_models(trained_beside: Path, tmp_path: Path) -> Path:
    """A copy for one preparation, which deletes it."""
    return Path(shutil.copytree(trained_beside, tmp_path / "references"))


@pytest.fixture
def bench(make_bench: Callable[..., Bench], trained_beside: Path) -> Bench:
    made = make_bench(beside=trained_beside)
    assert len(stored(made)[1]) == 1300
    return made


@pytest.mark.usefixtures("whole_audits")
def test_a_job_begins_with_matching_and_its_rows_are_deleted(bench: Bench, training_ids: tuple[str, ...]) -> None:
    forgotten = training_ids[:20]
    before, references = stored(bench)
    assert keys(forgotten) <= set(references.keys)
    job_id = bench.submit(forgotten)

    assert bench.run(job_id)

    job = bench.job(job_id)
    assert job.state is JobState.COMPLETED
    with bench.sessions.begin() as session:
        attempts = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)
    # A model that never saw them fails once in twenty times too; then a fallback follows, and its result is published.
    assert attempts[0].method["kind"] == "matching"
    after, left = stored(bench)
    assert set(references.keys) - set(left.keys) == keys(forgotten)
    assert after != before
    assert not before.exists()
    with bench.sessions.begin() as session:
        body = get_report(session, tenant_id=bench.tenant_id, report_id=job.report_id).body
    codes = {f["code"] for f in body["verdict"]["findings"]}
    assert {"reference_matched", "negative_control_reference", "nearer_to_retrained"} <= codes
    near = body["audit"]["reference_test"]["nearness"]
    assert near["original"] < near["value"]
    # The reference test decides, so one way of relearning is enough.
    assert body["thresholds"]["settings"]["relearners"] == ["sgd"]


def test_the_next_job_uses_what_is_left(bench: Bench, training_ids: tuple[str, ...]) -> None:
    for start in (0, 20):
        job_id = bench.submit(training_ids[start : start + 20])
        assert bench.run(job_id)
        with bench.sessions.begin() as session:
            events = {e.kind for e in list_job_events(session, tenant_id=bench.tenant_id, job_id=job_id)}
        assert "job.references_unused" not in events

    _, left = stored(bench)
    assert keys(training_ids[:40]).isdisjoint(left.keys)


def test_what_is_erased_while_references_are_prepared_has_no_row_in_them(
    make_bench: Callable[..., Bench],
    reference_models: Path,
    training_ids: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that ends while the models are trained, and one that still runs at their end. A third waits for the registration.

    Nothing is written before, so the purge finds no file that nothing names yet, however long the second runs.
    """
    monkeypatch.setattr(preparing, "IDLE_POLL_SECONDS", 0.0)
    bench = make_bench(policy=[{"kind": "retrain"}])
    first, second = training_ids[:20], training_ids[20:40]
    third = training_ids[40:60]
    waited: list[str] = []
    held: list[Claim] = []
    waiting: list[UUID] = []

    def erase_and_hold(cost: object) -> bool:
        assert bench.run(bench.submit(first))
        held.append(bench.claim(bench.submit(second), worker="another"))
        waiting.append(bench.submit(third))
        return True

    def end_the_job(why: str) -> None:
        waited.append(why)
        with bench.sessions.begin() as session:
            needed = needed_files(session)
        assert {file.name for file in bench.settings.files.list_files() if "/" not in file.name} <= needed
        run = Run(held[0], bench.sessions, bench.settings, bench.stop_signal)
        with hold_lease(run):
            execute(run)
        assert bench.job(held[0].job_id).state is JobState.COMPLETED
        assert not bench.run(waiting[0])

    made = prepare_model(
        place(bench), name="digits", plan=PLAN, prepared=reference_models, agree=erase_and_hold, tell=end_the_job
    )

    assert made is not None
    assert len(waited) == 1
    _, left = stored(bench)
    assert keys((*first, *second)).isdisjoint(left.keys)
    assert made.samples == len(left) == 1260

    assert bench.run(waiting[0])
    assert set(left.keys) - set(stored(bench)[1].keys) == keys(third)


def test_a_crash_right_after_a_publication_leaves_no_file_that_knows_the_erased(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = stored(bench)

    def crash(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(publishing, "delete_outdated_files", crash)
    job_id = bench.submit(training_ids[:20])
    with pytest.raises(Killed):
        bench.run(job_id)
    assert bench.job(job_id).state is JobState.COMPLETED
    assert before.exists()
    delete_outdated_files(bench.settings.files, bench.sessions)
    assert not before.exists()


def test_a_report_says_how_many_erased_samples_the_reference_models_were_trained_on(
    bench: Bench, training_ids: tuple[str, ...]
) -> None:
    def limits(*forgotten: str) -> tuple[list[str], str]:
        job_id = bench.submit(forgotten)
        assert bench.run(job_id)
        with bench.sessions.begin() as session:
            body = get_report(session, tenant_id=bench.tenant_id, report_id=bench.job(job_id).report_id).body
        found = [limit for limit in body["limits"] if limit.startswith("Reference models were trained on samples")]
        return found, body["method"]["kind"]

    assert limits(*training_ids[:20])[0] == []
    (second,), method = limits(*training_ids[20:30])
    assert "erased from this model later: 20." in second
    aimed = "the audit" if method == "retrain" else "the result and the audit"
    assert f"so may {aimed}." in second

    prepare_model(place(bench), name="digits", plan=ReferencePlan(rounds=1, audit_rounds=1), seed=1)
    assert limits(*training_ids[30:40])[0] == []


def test_a_refused_version_leaves_the_references_to_the_next_job(bench: Bench, training_ids: tuple[str, ...]) -> None:
    before, _ = stored(bench)
    with bench.sessions.begin() as session:
        set_approvals(session, tenant_id=bench.tenant_id, model="digits", versions=True, by="key:admin")
    refused = bench.submit(training_ids[:20])
    assert bench.run(refused)
    with bench.sessions.begin() as session:
        refuse(session, tenant_id=bench.tenant_id, job_id=refused, by="key:admin")
    delete_outdated_files(bench.settings.files, bench.sessions)
    assert stored(bench)[0] == before

    job_id = bench.submit(training_ids[20:40])
    assert bench.run(job_id)
    with bench.sessions.begin() as session:
        events = {e.kind for e in list_job_events(session, tenant_id=bench.tenant_id, job_id=job_id)}
        assert "job.references_unused" not in events
        approve(session, tenant_id=bench.tenant_id, job_id=job_id, by="key:admin")
    delete_outdated_files(bench.settings.files, bench.sessions)
    after, left = stored(bench)
    assert (after.exists(), before.exists()) == (True, False)
    assert keys(training_ids[20:40]).isdisjoint(left.keys)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_audits")
def test_a_class_erased_as_a_whole_aims_at_what_a_model_without_it_says_and_leaves_no_row(
    make_bench: Callable[..., Bench], reference_models: Path
) -> None:
    """The models of the folds, which were trained beside the model, are not trained again."""
    bench, plan = make_bench(), replace(PLAN, classes=(3,))
    costs: list[int] = []

    def agree(cost: PreparationCost) -> bool:
        costs.append(cost.trainings)
        return True

    assert prepare_model(place(bench), name="digits", plan=plan, prepared=reference_models, agree=agree) is not None
    given = digits.workload()
    of_class = tuple(given.train.ids[number] for number in (given.train.targets == 3).nonzero().flatten().tolist())
    _, before = stored(bench)
    assert costs == [1]
    assert before.whole is not None
    assert set(before.whole.keys) == keys(of_class)

    job_id = bench.submit(of_class)
    assert bench.run(job_id)

    with bench.sessions.begin() as session:
        attempts = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)
        body = get_report(session, tenant_id=bench.tenant_id, report_id=bench.job(job_id).report_id).body
    assert [attempt.method["kind"] for attempt in attempts] == ["matching"]
    assert body["verdict"]["value"] == "verified"
    _, left = stored(bench)
    assert left.whole is None
    assert keys(of_class).isdisjoint(left.keys)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_audits")
def test_samples_of_which_copies_remain_stay_as_known_as_these_and_the_report_says_so(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    """Retraining would know them too. Forgotten together with their copies they are forgotten like any others."""
    given = digits.copied()
    made = train_workload("tests.worker.digits:copied", allowed=("tests",), folder=tmp_path / "weights", plain=True)
    bench = make_bench(policy=None, reference="tests.worker.digits:copied", weights=made.path)
    assert prepare_model(place(bench), name="digits", plan=ReferencePlan()) is not None
    with bench.sessions.begin() as session:
        policy = get_model(session, tenant_id=bench.tenant_id, name="digits").policy
    assert [method["kind"] for method in policy] == ["matching", "ieu", "ltu", "retrain"]
    first, others = given.train.ids[:30], given.train.ids[100:130]

    def confidence() -> np.ndarray:
        with bench.sessions.begin() as session:
            version = get_model(session, tenant_id=bench.tenant_id, name="digits").version
        model = given.build()
        load_weights(model, bench.settings.storage / f"{version.weights_sha256}.safetensors", version.weights_sha256)
        asked = given.train.take(torch.arange(30))
        return observe(audit_copy(model, asked), asked, objective=given.objective).confidence

    def erased(names: tuple[str, ...]) -> tuple[Any, list[str], Any]:
        job_id = bench.submit(names)
        assert bench.run(job_id)
        with bench.sessions.begin() as session:
            attempts = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)
            body = get_report(session, tenant_id=bench.tenant_id, report_id=bench.job(job_id).report_id).body
        return bench.job(job_id), [attempt.method["kind"] for attempt in attempts], body

    before = confidence()
    job, methods, body = erased(first)
    assert (job.state, methods) == (JobState.COMPLETED, ["matching"])
    assert (body["verdict"]["value"], body["verdict"]["reason"]) == ("inconclusive", "no_power")
    assert any("30 of the 30 forgotten samples have a near-copy" in each for each in body["verdict"]["warnings"])
    assert np.abs(confidence() - before).mean() < 0.05

    copies = tuple(f"copy-{name}" for name in given.train.ids[30:40])
    _, _, body = erased((*others, *given.train.ids[30:50], *copies))
    assert body["asked"]["samples"] == 60
    assert body["audit"]["samples"]["forget"] == 50  # all but those ten whose copies remain
    assert any("10 of the 60 forgotten samples have a near-copy" in each for each in body["verdict"]["warnings"])


def test_two_samples_of_which_the_same_copy_remains_have_the_same_aim(make_bench: Callable[..., Bench]) -> None:
    given = digits.copied_twice()

    inputs = inputs_with(make_bench, given.train.ids[0], given.train.ids[1], "third")

    assert inputs.references is not None
    first, other, third = inputs.references.aims.predictions
    assert torch.equal(first, third)
    with torch.no_grad():
        assert torch.allclose(first, inputs.original(given.train.inputs[:1])[0].softmax(0), atol=1e-5)
    assert torch.equal(other, torch.full((10,), 0.1))
    assert inputs.references.audit.copied == 2
    others = inputs.references.aims.others
    assert others is not None
    assert len(others(inputs.remain)) == len(inputs.remain)
    with pytest.raises(ReferencesUnusable):
        others(inputs.forget)


def test_an_audit_is_shorter_only_where_it_has_the_reference_test(make_bench: Callable[..., Bench]) -> None:
    """Which leaves out the held-out samples of a class that is forgotten as a whole."""
    inputs = inputs_with(make_bench, digits.workload().train.ids[1])
    label, held_out = inputs.tested.targets[0], inputs.held_out.audit
    whole = replace(inputs, remain=inputs.remain.take((inputs.remain.targets != label).nonzero().flatten()))
    others, of_class = ((held_out.targets == label).eq(same).nonzero().flatten() for same in (False, True))
    for given, count, speaks in (
        (inputs, LEAST_HELD_OUT, True),
        (inputs, LEAST_HELD_OUT - 1, False),
        (whole, LEAST_HELD_OUT, True),
        (whole, LEAST_HELD_OUT - 1, False),
    ):
        chosen = torch.cat([others[:count], of_class if given is whole else others[:0]])
        part = replace(inputs.held_out, audit=held_out.take(chosen))
        assert (replace(given, held_out=part).audit_spec == AuditSpec.with_references()) is speaks


def test_an_audit_knows_whether_the_method_aimed_at_references(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_with(make_bench, digits.workload().train.ids[1])
    monkeypatch.setattr(attempt, "audit", lambda **given: given["aimed"])
    for given, aiming in ((inputs, AIMING), (replace(inputs, loaded_references=NO_REFERENCES), frozenset())):
        claims = {kind: SimpleNamespace(method={"kind": kind}, seed=0) for kind in PRODUCTION}
        found = {kind for kind, claim in claims.items() if attempt.audit_steps(claim, given, given.original)}
        assert found == aiming


def test_copies_are_searched_for_at_the_share_of_the_plan(make_bench: Callable[..., Bench]) -> None:
    inputs = inputs_with(make_bench, digits.copied_twice().train.ids[0], plan=ReferencePlan(near_copies=0))

    assert inputs.references is not None
    assert inputs.references.audit.copied == 0
    assert torch.equal(inputs.references.aims.predictions, torch.full((1, 10), 0.1))


def test_a_file_that_keeps_other_predictions_is_not_used_where_a_copy_remains(make_bench: Callable[..., Bench]) -> None:
    inputs = inputs_with(make_bench, digits.copied_twice().train.ids[0], width=3)

    assert inputs.references is None
    assert inputs.loaded_references.unused is not None
    assert "prepare them again" in inputs.loaded_references.unused


def inputs_with(
    make_bench: Callable[..., Bench], *forget: str, width: int = 10, plan: ReferencePlan | None = None
) -> JobInputs:
    """Load the inputs of a job whose model has references of equal probabilities, `width` of each sample."""
    given = digits.copied_twice()
    bench = make_bench(policy=["retrain"], reference="tests.worker.digits:copied_twice")
    pool = (*given.train.ids, *given.held_out.ids)
    references = References(
        keys=tuple(sample_digest(KEY, "tiny-digits", sample) for sample in pool),
        predictions=torch.full((len(pool), width), 1 / width),
        **{name: torch.zeros(len(pool)) for name in ("losses", "unseen", "seen")},
        details={"plan": asdict(plan or ReferencePlan())},
    )
    path, sha256 = bench.settings.files.put(to_bytes(references), "references")
    claimed = bench.claim(bench.submit(list(forget)))
    claimed = replace(claimed, references=ReferenceFile(path=path, sha256=sha256))
    return load_inputs(claimed, load_workload(claimed.workload, allowed=bench.settings.allowed), bench.settings)


def retrain(bench: Bench, used: Sequence[str]) -> None:
    """Register and promote weights that were trained anew on these samples."""
    with bench.sessions.begin() as session:
        weights = get_model(session, tenant_id=bench.tenant_id, name="digits").version.weights_sha256
        made = register_version(
            session,
            tenant_id=bench.tenant_id,
            model="digits",
            training=keys(tuple(used)),
            weights_sha256=weights,
            weights_path=f"{weights}.safetensors",
            by="test",
        )
        promote(session, tenant_id=bench.tenant_id, model="digits", number=made.number, by="test")


def registered(bench: Bench) -> ReferenceFile | None:
    with bench.sessions.begin() as session:
        return find_references(session, session.scalars(select(Model.id)).one())


@pytest.mark.parametrize("harm", [None, "damaged"])
def test_a_job_that_needs_no_run_leaves_no_row_of_its_samples(
    bench: Bench, training_ids: tuple[str, ...], harm: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The served version was trained without them; the reference models, before, with them. A damaged file is given up."""
    before, references = stored(bench)
    retrain(bench, training_ids[20:])
    job_id = bench.submit(training_ids[:20])
    if harm is not None:
        before.write_bytes(before.read_bytes()[:-1])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalFolder, "fetch", out_of_reach)
        assert not bench.run(job_id)
        assert bench.job(job_id).state is JobState.QUEUED
        assert "permission denied" in caplog.text

    assert not bench.run(job_id)
    assert bench.job(job_id).reason is Reason.SUPERSEDED
    delete_outdated_files(bench.settings.files, bench.sessions)
    assert not before.exists()
    if harm is None:
        assert set(references.keys) - set(stored(bench)[1].keys) == keys(training_ids[:20])
    else:
        assert registered(bench) is None


def out_of_reach(*_: object) -> NoReturn:
    raise StorageForbidden("s3://b: permission denied (AccessDenied).")


def test_samples_of_a_job_that_the_served_version_never_knew_are_no_training_data_and_have_no_row_left(
    bench: Bench, training_ids: tuple[str, ...]
) -> None:
    """The workload's training set still has them."""
    retrain(bench, training_ids[1:])
    claimed = bench.claim(bench.submit(training_ids[:2]))
    assert (claimed.samples.forget, claimed.samples.unknown) == (keys(training_ids[1:2]), keys(training_ids[:1]))

    inputs = load_inputs(claimed, load_workload(claimed.workload, allowed=bench.settings.allowed), bench.settings)

    assert inputs.forget.ids == training_ids[1:2]
    assert inputs.remain.ids == training_ids[2:]
    remaining = inputs.loaded_references.remaining
    assert remaining is not None
    assert set(stored(bench)[1].keys) - set(remaining.keys) == keys(training_ids[:2])


@pytest.mark.parametrize("harm", ["missing", "damaged", "incomplete"])
def test_without_a_usable_file_the_job_goes_on_and_says_so_and_no_row_of_its_samples_is_left(
    bench: Bench, training_ids: tuple[str, ...], harm: str
) -> None:
    """A file that lacks a row of another sample can be read. One that cannot is given up."""
    path, references = stored(bench)
    if harm == "missing":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        name, sha256 = bench.settings.files.put(to_bytes(references.without(keys(training_ids[-1:]))))
        with bench.sessions.begin() as session:
            session.execute(update(ReferenceSet).values(path=name, sha256=sha256))
        path = bench.settings.storage / name
    job_id = bench.submit(training_ids[:100])

    assert bench.run(job_id)

    job = bench.job(job_id)
    assert job.state is JobState.COMPLETED
    assert job.method["kind"] != "matching"
    with bench.sessions.begin() as session:
        events = [event.kind for event in list_job_events(session, tenant_id=bench.tenant_id, job_id=job_id)]
    assert "job.references_unused" in events
    assert not path.exists()
    if harm == "incomplete":
        assert set(stored(bench)[1].keys) == set(references.keys) - keys((*training_ids[:100], training_ids[-1]))
    else:
        assert registered(bench) is None


def test_a_preparation_that_is_declined_changes_nothing(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    costs = []

    prepared = prepare_model(
        place(bench), name="digits", plan=ReferencePlan(), agree=lambda cost: bool(costs.append(cost))
    )

    assert prepared is None
    assert costs[0].trainings == 8
    with bench.sessions.begin() as session:
        assert session.scalars(select(Model.policy)).one()[0]["kind"] == "retrain"


def test_a_storage_that_cannot_be_written_to_is_found_before_anything_is_trained_and_at_the_end_costs_no_model(
    make_bench: Callable[..., Bench], reference_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, asked = place(make_bench()), []

    def prepare() -> object:
        return prepare_model(
            where,
            name="digits",
            plan=PLAN,
            prepared=reference_models,
            agree=lambda cost: not asked.append(cost.trainings),
        )

    for method, expected in (("check", []), ("put", [0])):
        with monkeypatch.context() as patched:
            patched.setattr(LocalFolder, method, out_of_reach)
            with pytest.raises(CannotPrepare, match=r"AccessDenied.*same command trains the others"):
                prepare()
        assert asked == expected
    assert prepare() is not None
    assert asked == [0, 0]


def test_what_the_model_has_unlearned_is_in_no_later_preparation(bench: Bench, training_ids: tuple[str, ...]) -> None:
    assert bench.run(bench.submit(training_ids[:20]))

    prepare_model(place(bench), name="digits", plan=ReferencePlan(rounds=1, audit_rounds=1), seed=1)

    assert not list((bench.settings.storage / "references").iterdir())
    _, references = stored(bench)
    assert len(references) == 1280
    assert keys(training_ids[:20]).isdisjoint(references.keys)
    assert bool(torch.isfinite(references.seen).all())


def test_references_that_were_trained_beside_the_model_are_not_trained_again(
    make_bench: Callable[..., Bench], reference_models: Path
) -> None:
    (kept := reference_models / "notes.txt").write_text("The operator's own.")
    costs = []

    made = prepare_model(
        place(make_bench()),
        name="digits",
        plan=PLAN,
        prepared=reference_models,
        agree=lambda cost: costs.append(cost) is None,
    )

    assert made is not None
    assert costs[0].trainings == 0
    assert list(reference_models.iterdir()) == [kept]


def test_reference_models_that_were_trained_on_another_frozen_base_are_not_used(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    """`build` draws its frozen layer anew each time. Beside a model, reference models are trained on the base of that model."""
    reference, plan = "tests.worker.digits:on_a_random_base", ReferencePlan(rounds=1, audit_rounds=1)
    models = {
        seed: train_workload(
            reference,
            allowed=("tests",),
            folder=tmp_path / str(seed),
            seed=seed,
            plain=True,
            references=plan if seed == 0 else None,
        )
        for seed in (0, 1)
    }
    where, costs = place(make_bench()), {}
    for seed, trained in models.items():
        register_workload(
            where, name=f"model-{seed}", reference=reference, weights=trained.path, accept_untrained=True, dry_run=False
        )
        prepare_model(
            where,
            name=f"model-{seed}",
            plan=plan,
            prepared=tmp_path / "0" / "references",
            agree=lambda cost, seed=seed: bool(costs.update({seed: cost})),  # type: ignore[misc]
        )

    assert {seed: cost.trainings for seed, cost in costs.items()} == {0: 0, 1: 4}
