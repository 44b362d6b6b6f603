import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from torch import Tensor, nn

from expunge.errors import CannotPrepare, CannotRegister, CannotTune, NobodyLeftOut, StackError
from expunge.operator.deployment import Deployment, find_deployment, open_database
from expunge.operator.references import prepare_model
from expunge.operator.registration import (
    change_policy,
    default_policies,
    fetch_from_mlflow,
    newest_weights,
    read_policy,
    register_new_version,
    register_workload,
)
from expunge.operator.retention import find_purgeable
from expunge.operator.studies import tune
from expunge.operator.training import Trained, train_workload
from expunge.operator.workloads import read_details
from ledger.events.timeline import list_model_events
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import get_dataset
from ledger.registry.models import list_models
from tests.worker import digits
from tests.worker.digits import workload
from unlearning.data.objectives import regression
from unlearning.data.workload import Workload
from unlearning.files import file_sha256
from unlearning.specs import IEU, Retrain
from unlearning.specs.references import ReferencePlan
from unlearning.storage import save_weights

REFERENCE = "tests.worker.digits:workload"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"), plain=True)


@pytest.fixture
def where(database_url: str, tmp_path: Path) -> Deployment:
    return Deployment(database_url=database_url, storage=tmp_path / "storage", sample_key=bytes(32), workloads="tests")


def models(sessions: sessionmaker[Session]) -> list[str]:
    with sessions.begin() as session:
        return [view.name for view in list_models(session, tenant_id=ensure_tenant(session, "default"))]


def test_a_sample_key_that_is_none_is_refused_before_anything_is_hashed_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("DATABASE_URL", "nowhere"), ("EXPUNGE_STORAGE", "nowhere"), ("EXPUNGE_SAMPLE_KEY", "ab")):
        monkeypatch.setenv(name, value)
    with pytest.raises(StackError, match="EXPUNGE_SAMPLE_KEY must be 64 hex digits"):
        find_deployment(tmp_path)


def test_a_trained_model_is_registered_with_its_samples_weights_and_training(
    where: Deployment, trained: Trained, sessions: sessionmaker[Session]
) -> None:
    view = register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, policy=["ieu", "retrain"])
    assert view.dataset == "tiny-digits"
    assert view.training_samples == 800
    assert [method["kind"] for method in view.policy] == ["ieu", "retrain"]
    assert view.details["training_seconds"] == pytest.approx(trained.seconds, abs=0.001)
    assert file_sha256(where.storage / f"{trained.sha256}.safetensors") == view.version.weights_sha256 == trained.sha256
    assert models(sessions) == ["digits"]
    assert view.lacks == ("adapters", "convolutions", "head")


def test_a_name_that_no_address_could_hold_is_refused_before_anything_is_loaded(where: Deployment) -> None:
    with pytest.raises(CannotRegister, match=r"'acme/digits' cannot be the name of a model.*acme-triage"):
        register_workload(where, name="acme/digits", reference="nowhere:at_all")


def test_by_default_ieu_is_tried_and_then_retraining(where: Deployment, trained: Trained) -> None:
    view = register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, dry_run=False)
    assert [method["kind"] for method in view.policy] == ["ieu", "retrain"]
    # Through the ledger, too, so that reference predictions can put their own default in its place.
    assert list(view.policy) == default_policies(workload()).without


def test_a_sharded_model_has_no_ltu_by_default_with_references_either() -> None:
    found = default_policies(replace(workload(), sharded=True))
    assert [method["kind"] for method in found.without] == ["ieu", "retrain"]
    assert [method["kind"] for method in found.with_references] == ["matching", "ieu", "retrain"]


@pytest.mark.parametrize("points", [-1.0, 100.5, float("nan")])
def test_a_utility_drop_that_no_model_can_have_is_refused(where: Deployment, trained: Trained, points: float) -> None:
    with pytest.raises(CannotRegister, match="0 to 100"):
        register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, approve_utility_drop=points)


def test_weights_that_do_not_fit_the_workload_are_refused(
    where: Deployment, trained: Trained, tmp_path: Path, sessions: sessionmaker[Session]
) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(trained.path.read_bytes()[:-100])
    with pytest.raises(CannotRegister, match="does not fit"):
        register_workload(where, name="digits", reference=REFERENCE, weights=torn)
    assert models(sessions) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "os:getcwd"}, "EXPUNGE_WORKLOADS"),
        ({"reference": "tests.worker.digits:broken"}, "no data here"),
        ({"policy": ["ltuu"]}, "must be one of"),
        ({"policy": ['{"kind": "ltu", "stepps": 3}']}, "did you mean 'steps'"),
        ({"policy": ["{"]}, "is not JSON"),
        ({"weights": Path("/nowhere.safetensors")}, "nowhere"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing_behind(
    where: Deployment, trained: Trained, sessions: sessionmaker[Session], change: dict[str, object], message: str
) -> None:
    arguments = {"name": "digits", "reference": REFERENCE, "weights": trained.path, **change}
    with pytest.raises(CannotRegister, match=message):
        register_workload(where, **arguments)  # type: ignore[arg-type]  # a table of keyword arguments
    assert models(sessions) == []
    assert not where.storage.exists()


@pytest.mark.parametrize("content", [b'{"workload": "tests.wor', b"[1]", b'{"workload": 3}', b"\xff\xfe", b""])
def test_a_file_beside_weights_that_training_did_not_write_is_passed_over(
    trained: Trained, tmp_path: Path, content: bytes
) -> None:
    ours = tmp_path / trained.path.name
    for source in (trained.path, trained.path.with_suffix(".json")):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"newer")
    foreign.with_suffix(".json").write_bytes(content)
    (tmp_path / "alone.json").write_text(json.dumps({"workload": REFERENCE}))

    assert newest_weights(REFERENCE, tmp_path) == ours
    assert read_details(foreign) == {}
    assert read_details(ours) == trained.details


def test_a_name_that_is_taken_is_refused(where: Deployment, trained: Trained) -> None:
    register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, dry_run=False)
    with pytest.raises(CannotRegister, match="registered already; `expunge register-version`"):
        register_workload(where, name="digits", reference=REFERENCE, weights=trained.path)


def test_a_policy_is_read_and_set_and_the_timeline_records_it(
    where: Deployment, trained: Trained, sessions: sessionmaker[Session]
) -> None:
    register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, policy=["ieu"], dry_run=False)
    assert read_policy(where, name="digits") == (IEU(),)
    changed = change_policy(where, name="digits", policy=['{"kind": "ieu", "steps": 30}', "retrain"])
    assert changed == read_policy(where, name="digits") == (IEU(steps=30), Retrain())
    with sessions.begin() as session:
        events = list_model_events(session, tenant_id=ensure_tenant(session, "default"), model="digits")
    assert [event.text for event in events] == ["operator set which methods are tried, in this order: IEU, retrain."]


@pytest.mark.parametrize(
    ("name", "policy", "message"),
    [
        ("digits", ["ieuu"], "must be one of"),
        ("digits", ["certified"], "method certified: "),
        ("letters", ["ieu"], "no model named 'letters'"),
    ],
)
def test_a_policy_that_no_job_could_run_changes_nothing(
    where: Deployment, trained: Trained, name: str, policy: list[str], message: str
) -> None:
    register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, dry_run=False)
    with pytest.raises(CannotRegister, match=message):
        change_policy(where, name=name, policy=policy)
    assert read_policy(where, name="digits") == (IEU(), Retrain())


def test_training_leaves_its_figures_beside_the_weights(trained: Trained) -> None:
    details = json.loads(trained.path.with_suffix(".json").read_text())
    assert details["workload"] == REFERENCE
    assert details["recipe"]["readiness"] is None


def test_what_a_model_was_trained_with_is_recorded_and_another_is_refused(
    where: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the registration, a new version, the preparation of references, a change of the policy and the tuning."""
    given = workload()
    assert given.recipe is not None

    def comes_with(digest: str) -> None:
        made = replace(given, recipe=replace(given.recipe, epochs=1), fingerprints={"vocabulary": digest})
        monkeypatch.setattr(digits, "workload", lambda: made)

    comes_with("ab")
    trained = train_workload(REFERENCE, allowed=("tests",), folder=tmp_path, plain=True)
    register = partial(
        register_workload,
        where,
        name="digits",
        reference=REFERENCE,
        weights=trained.path,
        dry_run=False,
        accept_untrained=True,
    )
    comes_with("cd")
    with pytest.raises(CannotRegister, match="vocabulary"):
        register()
    comes_with("ab")
    assert register().details["fingerprints"] == {"vocabulary": "ab"}
    comes_with("cd")
    with pytest.raises(CannotRegister, match="vocabulary"):
        register_new_version(where, name="digits", weights=trained.path)
    with pytest.raises(CannotPrepare, match="vocabulary"):
        prepare_model(where, name="digits", plan=ReferencePlan())
    with pytest.raises(CannotRegister, match="vocabulary"):
        change_policy(where, name="digits", policy=["retrain"])
    with pytest.raises(CannotTune, match="vocabulary"):
        tune(REFERENCE, allowed=("tests",), weights=trained.path, method="ieu", budget=1, share=0.1, retrained=False)
    again = train_workload(REFERENCE, allowed=("tests",), folder=tmp_path, plain=True)
    comes_with("ab")
    with pytest.raises(CannotRegister, match="vocabulary"):
        register_new_version(where, name="digits", weights=again.path)


def test_weights_trained_anew_become_the_next_version_with_what_their_training_left_out(
    where: Deployment, trained: Trained, sessions: sessionmaker[Session]
) -> None:
    register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, dry_run=False)
    view = register_new_version(where, name="digits", weights=trained.path, without=workload().train.ids[:1])
    assert (view.number, view.served) == (2, False)
    with pytest.raises(NobodyLeftOut):
        register_new_version(where, name="digits", weights=trained.path, without=["nobody"])
    with pytest.raises(CannotRegister, match="no model named 'letters'"):
        register_new_version(where, name="letters", weights=trained.path)


def test_the_subjects_that_a_workload_names_are_registered_with_its_samples(
    where: Deployment, trained: Trained, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = digits.workload()
    owners = tuple(f"user-{place // 10}" for place in range(len(given.train)))

    def subjects() -> int:
        with sessions.begin() as session:
            return get_dataset(session, tenant_id=ensure_tenant(session, "default"), name="tiny-digits").subjects

    register_workload(where, name="anonymous", reference=REFERENCE, weights=trained.path, dry_run=False)
    assert subjects() == 0
    owned = replace(given, train=replace(given.train, subjects=owners))
    monkeypatch.setattr(digits, "workload", lambda: owned)
    register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, dry_run=False)
    assert subjects() == 80
    more = replace(given, train=replace(given.train, subjects=("late", *owners[1:])))
    monkeypatch.setattr(digits, "workload", lambda: more)
    register_new_version(where, name="digits", weights=trained.path)
    assert subjects() == 81


def test_people_are_left_out_with_all_of_their_samples(
    where: Deployment, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = digits.workload()
    with pytest.raises(NobodyLeftOut, match="does not name the subjects"):
        train_workload(REFERENCE, allowed=("tests",), folder=tmp_path, plain=True, without_subjects=["user-3"])
    owners = tuple(f"user-{place // 10}" for place in range(len(given.train)))
    owned = replace(given, train=replace(given.train, subjects=owners))
    monkeypatch.setattr(digits, "workload", lambda: owned)
    left_out = {"without": given.train.ids[30:32], "without_subjects": ["user-3", "user-5", "gone"]}
    again = train_workload(REFERENCE, allowed=("tests",), folder=tmp_path, plain=True, **left_out)
    assert again.left_out == 20
    register_workload(where, name="digits", reference=REFERENCE, weights=trained.path, dry_run=False)
    with pytest.raises(NobodyLeftOut, match="no sample of the person to leave out"):
        register_new_version(where, name="digits", weights=again.path, without_subjects=["gone"])
    assert register_new_version(where, name="digits", weights=again.path, **left_out).number == 2
    with open_database(where.database_url) as sessions, sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM version_samples")) == 780


def test_weights_that_are_no_better_than_guessing_are_refused_unless_they_are_meant(
    where: Deployment, tmp_path: Path, sessions: sessionmaker[Session], trained: Trained
) -> None:
    untrained = save_weights(workload().build(), tmp_path)[0]
    with pytest.raises(CannotRegister, match="--accept-untrained"):
        register_workload(where, name="digits", reference=REFERENCE, weights=untrained)
    assert models(sessions) == []
    register_workload(
        where, name="digits", reference=REFERENCE, weights=untrained, accept_untrained=True, dry_run=False
    )
    with pytest.raises(CannotRegister, match="--accept-untrained"):
        register_new_version(where, name="digits", weights=untrained)
    register_new_version(where, name="digits", weights=trained.path)


@pytest.mark.parametrize("kind", ["regression", "crashing"])
def test_a_model_that_no_job_could_serve_is_refused_by_a_dry_run(
    where: Deployment, tmp_path: Path, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Not hours into the first request. The owner's own message is shown, without sample IDs."""
    given = digits.workload()
    monkeypatch.setattr(digits, "workload", lambda: WRONG[kind](given))
    path = save_weights(given.build(), tmp_path)[0]
    with pytest.raises(CannotRegister) as refused:
        register_workload(where, name="digits", reference=REFERENCE, weights=path, accept_untrained=True)
    message = str(refused.value)
    assert {"regression": "regression(1) needs (n, 1)", "crashing": "it wants another input than (an ID)"}[
        kind
    ] in message
    assert "--no-dry-run" in message
    assert models(sessions) == []
    register_workload(where, name="digits", reference=REFERENCE, weights=path, accept_untrained=True, dry_run=False)
    assert models(sessions) == ["digits"]


class Crashing(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            raise ValueError("it wants another input than image-7")
        return inputs


WRONG: dict[str, Callable[[Workload], Workload]] = {
    "regression": lambda given: replace(given, objective=regression()),
    "crashing": lambda given: replace(given, build=lambda: digits.network().append(Crashing())),
}


def test_a_file_of_weights_that_is_none_is_named(
    where: Deployment, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    for path, message in (
        (tmp_path / "lost.safetensors", "lost.safetensors does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(CannotRegister, match=message):
            register_workload(where, name="digits", reference=REFERENCE, weights=path)
    assert models(sessions) == []


def test_weights_after_slices_are_kept_with_the_model_or_missed(
    where: Deployment, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    """A model that has them begins its policy with a rewind, where that is cheap; the dry run tries it."""
    made = train_workload("tests.worker.digits:in_slices", allowed=("tests",), folder=tmp_path, plain=True)
    lost = tmp_path / f"{made.details['checkpoints'][1]['sha256']}.safetensors"  # type: ignore[index]  # JSON
    content = lost.read_bytes()
    lost.write_bytes(content[:-1])
    with pytest.raises(CannotRegister, match="slice 1"):
        register_workload(where, name="digits", reference="tests.worker.digits:in_slices", weights=made.path)
    assert models(sessions) == []

    lost.write_bytes(content)
    view = register_workload(where, name="digits", reference="tests.worker.digits:in_slices", weights=made.path)
    assert [method["kind"] for method in view.policy] == ["rewind", "ieu", "rewind", "retrain"]
    assert [entry["slice"] for entry in view.details["checkpoints"]] == [0, 1]
    assert {path.name for path in where.storage.glob("*.safetensors")} == {
        path.name for path in tmp_path.glob("*.safetensors")
    }
    for path in where.storage.glob("*.safetensors"):
        os.utime(path, (0, 0))  # old enough to be unused
    purgeable = find_purgeable(where, older_than=timedelta(0))
    assert (purgeable.versions, purgeable.unused_files) == ([], [])


REGISTRY = '[registry]\nkind = "mlflow"\nurl = "http://127.0.0.1:1"\nmodels = ["digits"]\n'


@pytest.mark.parametrize(
    ("place", "file", "said"),
    [
        ("digits", REGISTRY, "models:/NAME/NUMBER"),
        ("models:/digits/latest", REGISTRY, "models:/NAME/NUMBER"),
        ("models:/digits/1", None, "has 0 connectors"),
        ("models:/digits/1", REGISTRY.replace("digits", "reviews"), "has 0 connectors"),
        ("models:/digits/1", REGISTRY + REGISTRY.replace("registry", "other"), "has 2 connectors"),
        ("models:/digits/1", REGISTRY.replace("mlflow", "mlfow"), "kind must be one of"),
        ("models:/digits/1", REGISTRY + 'username = "ann"\n', "username needs token_file"),
        ("models:/digits/1", REGISTRY + 'name = "a/b"\n', "name"),
        ("models:/digits/1", REGISTRY, "does not answer"),
    ],
)
def test_what_leads_to_no_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, file: str | None, said: str
) -> None:
    monkeypatch.delenv("EXPUNGE_CONNECTORS", raising=False)
    if file is not None:
        (tmp_path / "connectors.toml").write_text(file)
        monkeypatch.setenv("EXPUNGE_CONNECTORS", str(tmp_path / "connectors.toml"))
    with (
        pytest.raises(CannotRegister, match=said),
        fetch_from_mlflow(place, model="digits", tenant="default"),
    ):
        pass
