import pytest
from sqlalchemy.exc import IntegrityError

from ledger.errors import AlreadyRegistered, InvalidName, SamplesNotInDataset, UnknownDataset, UnknownModel
from ledger.registry.access import ensure_tenant
from ledger.registry.models import get_model, list_models, list_versions, register_model
from ledger.states import VersionKind
from tests.ledger.conftest import LTU, WEIGHTS, digests


def register(world, **changes):
    given = {
        "tenant_id": world.tenant_id,
        "name": "tiny",
        "dataset": "digits",
        "workload": "examples.digits:workload",
        "training": digests(1, 2, 3),
        "weights_sha256": WEIGHTS,
        "weights_path": "/weights/tiny.safetensors",
        "policy": [LTU],
        "details": {},
    }
    with world.sessions.begin() as session:
        return register_model(session, **given | changes)


def test_a_registered_model_starts_with_version_one(world):
    model = register(world)
    assert (model.name, model.dataset, model.training_samples, model.erased_samples) == ("tiny", "digits", 3, 0)
    assert (model.version.number, model.version.kind, model.version.weights_sha256) == (1, VersionKind.TRAINED, WEIGHTS)
    assert model.policy == (LTU,)


def test_a_name_is_taken_once(world):
    with pytest.raises(AlreadyRegistered, match="small"):
        register(world, name="small")


@pytest.mark.parametrize(
    "name", ["acme/triage", "/", "tri\nage", "\x00", "\x7f", ".", "..", "", "n" * 201, "\udc80", "triage\n"]
)
def test_a_name_that_no_address_could_hold_is_refused_with_a_good_one(world, name):
    with pytest.raises(InvalidName, match="acme-triage"):
        register(world, name=name)
    with world.sessions() as session:
        assert {model.name for model in list_models(session, tenant_id=world.tenant_id)} == {"large", "small"}


@pytest.mark.parametrize("name", ["acme-triage", "acme:triage?#%", "Röntgen 2", "...", "n" * 200, ".triage"])
def test_every_other_name_is_good(world, name):
    assert register(world, name=name).name == name


def test_training_samples_must_be_in_the_dataset(world):
    with pytest.raises(SamplesNotInDataset, match="2 of the training samples"):
        register(world, training=digests(1, 200, 201))
    with world.sessions() as session, pytest.raises(UnknownModel):
        get_model(session, tenant_id=world.tenant_id, name="tiny")


def test_the_dataset_must_be_there(world):
    with pytest.raises(UnknownDataset, match="faces"):
        register(world, dataset="faces")


def test_weights_are_named_by_a_sha256(world):
    with pytest.raises(IntegrityError, match="weights_sha256"):
        register(world, weights_sha256="not a digest")


def test_a_policy_names_a_method(world):
    with pytest.raises(ValueError, match="at least one method"):
        register(world, policy=[])


def test_another_tenant_sees_no_model(world):
    with world.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
        assert list_models(session, tenant_id=other) == []
        with pytest.raises(UnknownModel):
            list_versions(session, tenant_id=other, model="small")
        assert [model.name for model in list_models(session, tenant_id=world.tenant_id)] == ["large", "small"]
