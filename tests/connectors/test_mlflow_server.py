"""MLflow's registry: a real server on PostgreSQL, and a proxy before it that fails."""

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL

from connectors.configuration import HandOverFailed
from connectors.mlflow import MlflowRegistry, identify
from expunge.operator.registration import fetch_from_mlflow
from ledger.events.hand_overs import HandedVersion
from tests.connectors.proxy import Proxy, proxy_of
from tests.connectors.test_model_server import VERSION
from tests.fixtures.mlflow import MLFLOW, QUIET, Registry, mlflow_server, needs_mlflow

pytestmark = needs_mlflow


@pytest.fixture(scope="module")
def registry(postgresql: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with mlflow_server(postgresql, tmp_path_factory.mktemp("mlflow")) as registry:
        yield registry


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with proxy_of(registry.url) as proxy:
        yield proxy


@pytest.fixture
def version(tmp_path: Path) -> HandedVersion:
    """The second version of a model of its own, which a job has made."""
    weights = os.urandom(4096)
    (tmp_path / "weights").write_bytes(weights)
    envelope = {"payload": base64.b64encode(b'{"statement": 1}').decode(), "payloadType": "x", "signatures": []}
    digest = hashlib.sha256(weights).hexdigest()
    return replace(VERSION, model=f"digits-{uuid4().hex}", weights_sha256=digest, statement=envelope)


@pytest.fixture
def weights(version: HandedVersion, tmp_path: Path) -> Callable[[], Path]:
    return lambda: tmp_path / "weights"


def connect(server: Registry | Proxy, **more: object) -> MlflowRegistry:
    return MlflowRegistry.model_validate({"url": server.url, **more})


def first_of(version: HandedVersion) -> HandedVersion:
    """The trained version before it, with the same weights for simplicity, which knows nobody who was erased yet."""
    return replace(version, version=1, predecessor=None, samples=0, verdict=None, report_id=None, knowing=frozenset())


def assert_found_and_set_again(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path], *, error: str, champion: str
) -> None:
    """See that the check fails with this error and that another hand-over sets the alias to this version of the registry."""
    with pytest.raises(HandOverFailed, match=error):
        connect(registry).check(version)
    connect(registry).hand_over(version, weights)
    assert registry.aliases(version.model) == {"champion": champion}


def test_a_version_is_there_with_its_tags_its_files_and_the_alias(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    place = connect(registry).hand_over(version, weights)
    assert place == f"models:/{version.model}/1"
    assert registry.aliases(version.model) == {"champion": "1"}
    assert registry.versions(version.model) == {
        "1": {
            "expunge.id": identify(version),
            "expunge.model": version.model,
            "expunge.predecessor": "1",
            "expunge.report": str(version.report_id),
            "expunge.report_sha256": "cd" * 32,
            "expunge.samples_forgotten": "10",
            "expunge.statement_sha256": hashlib.sha256(b'{"statement": 1}').hexdigest(),
            "expunge.tenant": "default",
            "expunge.verdict": "verified",
            "expunge.version": "2",
            "expunge.weights_sha256": version.weights_sha256,
        }
    }
    (run,) = registry.runs(version)
    assert run["info"]["status"] == "FINISHED"
    uri = registry.get("model-versions/get-download-uri", name=version.model, version="1")["artifact_uri"]
    folder = registry.artifacts / uri.removeprefix("mlflow-artifacts:/")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == version.weights_sha256
    assert json.loads((folder / "statement.dsse.json").read_text()) == version.statement


def test_what_is_there_is_not_made_again(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    places = {connect(registry).hand_over(version, weights) for _ in range(2)}
    assert places == {f"models:/{version.model}/1"}
    assert (len(registry.versions(version.model)), len(registry.runs(version))) == (1, 1)
    connect(registry).check(version)


def test_the_alias_leaves_the_version_that_knows_erased_people(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    connector = connect(registry, aliases=["champion", "canary"])
    connector.hand_over(first_of(version), weights)
    connector.hand_over(version, weights)
    assert registry.aliases(version.model) == {"champion": "2", "canary": "2"}
    tagged = registry.versions(version.model)
    assert [tagged[number].get("expunge.knows_erased") for number in ("1", "2")] == ["true", None]


def test_an_alias_that_somebody_moves_back_is_found_and_moved_again(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    for one in (first_of(version), version):
        connect(registry).hand_over(one, weights)
    registry.post("registered-models/alias", name=version.model, alias="champion", version="1")
    error = "points to version 1, which knows people who were erased"
    assert_found_and_set_again(registry, version, weights, error=error, champion="2")


def test_an_alias_that_is_deleted_or_put_on_a_strangers_version_is_found_and_set_again(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    connect(registry).hand_over(version, weights)
    registry.http.request("DELETE", "registered-models/alias", json={"name": version.model, "alias": "champion"})
    assert_found_and_set_again(registry, version, weights, error="points to no version", champion="1")
    (run,) = registry.runs(version)
    other = {"source": f"{run['info']['artifact_uri']}/model", "run_id": run["info"]["run_id"]}
    registry.post("model-versions/create", name=version.model, **other)
    registry.post("registered-models/alias", name=version.model, alias="champion", version="2")
    assert_found_and_set_again(registry, version, weights, error=r"points to version 2\.$", champion="1")


def test_an_alias_that_is_not_ours_on_a_version_that_knows_erased_people_is_an_error_until_it_is_gone(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    connector = connect(registry)
    connector.hand_over(first_of(version), weights)
    registry.post("registered-models/alias", name=version.model, alias="shadow", version="1")
    with pytest.raises(HandOverFailed, match=r"alias shadow .* knows people who were erased"):
        connector.hand_over(version, weights)
    assert registry.aliases(version.model) == {"champion": "2", "shadow": "1"}


def test_a_copy_that_somebody_makes_of_a_version_that_knows_erased_people_is_known_too(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    connector, name = connect(registry), version.model
    for one in (first_of(version), version):
        connector.hand_over(one, weights)
    first = registry.get("model-versions/get", name=name, version="1")["model_version"]
    same_files = {"source": first["source"], "run_id": first["run_id"]}
    copies = (same_files, {"source": f"models:/{name}/1"}, {"source": f"models:/{name}/4"})
    for number, copied in zip(("3", "4", "5"), copies, strict=True):
        made = registry.post("model-versions/create", name=name, **copied)["model_version"]
        assert made["version"] == number
        registry.post("registered-models/alias", name=name, alias="champion", version=number)
        error = f"points to version {number}, which knows people who were erased"
        assert_found_and_set_again(registry, version, weights, error=error, champion="2")
        assert registry.versions(name)[number] == {"expunge.knows_erased": "true"}
    registry.post("registered-models/alias", name=name, alias="shadow", version="3")
    with pytest.raises(HandOverFailed, match=r"alias shadow .* knows people who were erased"):
        connector.check(version)


def test_a_call_that_is_answered_with_500_after_the_work_is_done_is_not_done_twice(
    registry: Registry, proxy: Proxy, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    connect(proxy).hand_over(version, weights)
    calls = len(proxy.calls)
    assert calls > 10
    for number in range(calls):
        another = replace(version, model=f"digits-{uuid4().hex}")
        proxy.fail_call(number)
        with pytest.raises(HandOverFailed, match="500"):
            connect(proxy).hand_over(another, weights)
        assert connect(proxy).hand_over(another, weights) == f"models:/{another.model}/1"
        assert registry.aliases(another.model) == {"champion": "1"}
        assert (len(registry.versions(another.model)), len(registry.runs(another))) == (1, 1)


def test_a_registry_that_is_down_or_slow_or_lies_is_an_error(
    registry: Registry, proxy: Proxy, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    with pytest.raises(HandOverFailed, match="does not answer"):
        MlflowRegistry.model_validate({"url": "http://127.0.0.1:1"}).hand_over(version, weights)
    proxy.fault, proxy.does_work = lambda method, target: 200 if method == "PUT" else None, False
    with pytest.raises(HandOverFailed, match="does not give back the weights"):
        connect(proxy).hand_over(version, weights)
    proxy.fault = lambda method, target: 502
    with pytest.raises(HandOverFailed, match="502"):
        connect(proxy).check(version)
    proxy.fault = lambda method, target: None
    assert connect(proxy).hand_over(version, weights) == f"models:/{version.model}/1"


def test_an_expired_token_is_said_and_its_successor_is_read(
    proxy: Proxy, version: HandedVersion, weights: Callable[[], Path], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    proxy.fault = lambda method, target: 401 if proxy.credentials[-1] == "Bearer old" else None
    connector = connect(proxy, token_file=token)
    with pytest.raises(HandOverFailed, match=r"401 .*Has the token expired\?"):
        connector.hand_over(version, weights)
    token.write_text("new\n")
    connector.hand_over(version, weights)
    connect(proxy, token_file=token, username="ann").check(version)
    assert proxy.credentials[-1] == f"Basic {base64.b64encode(b'ann:new').decode()}"


def test_a_token_that_expires_in_the_middle_leaves_nothing_twice_once_it_is_renewed(
    registry: Registry, proxy: Proxy, version: HandedVersion, weights: Callable[[], Path], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    connector = connect(proxy, token_file=token)
    token.write_text("first")
    for name in (f"digits-{uuid4().hex}", version.model):  # the first one may make the experiment
        proxy.calls.clear()
        connector.hand_over(replace(version, model=name), weights)
    proxy.does_work = False
    for number in range(1, len(proxy.calls)):
        another = replace(version, model=f"digits-{uuid4().hex}")
        token.write_text("old")
        proxy.calls.clear()
        proxy.fault = lambda method, target, number=number: (
            401 if proxy.credentials[-1] == "Bearer old" and len(proxy.calls) > number else None
        )
        with pytest.raises(HandOverFailed, match="401"):
            connector.hand_over(another, weights)
        token.write_text("new")
        assert connector.hand_over(another, weights) == f"models:/{another.model}/1"
        assert (len(registry.versions(another.model)), len(registry.runs(another))) == (1, 1)


def test_an_alias_that_somebody_moves_in_the_same_moment_is_not_taken_for_ours(
    registry: Registry, proxy: Proxy, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    first = first_of(version)
    for one in (first, version):
        connect(registry).hand_over(one, weights)
    connect(registry).hand_over(first, weights)

    def move_back(method: str, target: str) -> int | None:
        """Somebody sets the alias between our setting of it and our look at it."""
        if proxy.calls[-2:-1] == [("POST", "/api/2.0/mlflow/registered-models/alias")]:
            registry.post("registered-models/alias", name=version.model, alias="champion", version="1")
        return None

    proxy.fault = move_back
    with pytest.raises(HandOverFailed, match="points to version 1, which knows people who were erased"):
        connect(proxy).hand_over(version, weights)
    proxy.fault = lambda method, target: None
    connect(proxy).hand_over(version, weights)
    assert registry.aliases(version.model) == {"champion": "2"}


def test_a_purged_version_is_deleted_with_its_files_and_its_run(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    connector, first = connect(registry), first_of(version)
    for one in (first, version):
        connector.hand_over(one, weights)
    (run,) = registry.runs(first)
    folder = registry.artifacts / run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert list(folder.rglob("*.safetensors"))
    for _ in range(2):
        connector.withdraw(first)
    assert not list(folder.rglob("*.safetensors"))
    assert set(registry.versions(version.model)) == {"2"}
    assert [one["info"]["lifecycle_stage"] for one in registry.runs(first)] == ["deleted"]
    connector.check(version)


def test_a_deletion_that_breaks_off_is_brought_to_its_end(
    registry: Registry, proxy: Proxy, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    connect(proxy).hand_over(version, weights)
    proxy.calls.clear()
    connect(proxy).withdraw(version)
    for number in range(len(proxy.calls)):
        proxy.fault = lambda method, target: None
        another = replace(version, model=f"digits-{uuid4().hex}")
        connect(proxy).hand_over(another, weights)
        proxy.fail_call(number)
        with pytest.raises(HandOverFailed, match="500"):
            connect(proxy).withdraw(another)
        connect(proxy).withdraw(another)
        assert registry.versions(another.model) == {}
        (run,) = registry.runs(another)
        folder = registry.artifacts / run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        assert not list(folder.rglob("*.safetensors"))


def test_what_somebody_has_deleted_with_mlflow_gc_is_gone(
    registry: Registry, version: HandedVersion, weights: Callable[[], Path]
) -> None:
    assert MLFLOW is not None
    connect(registry).hand_over(version, weights)
    (run,) = registry.runs(version)
    run_id = run["info"]["run_id"]
    registry.post("runs/delete", run_id=run_id)
    command = [MLFLOW, "gc", "--backend-store-uri", registry.store, "--run-ids", run_id]
    environment = {**os.environ, **QUIET, "PYTHONPATH": "", "MLFLOW_TRACKING_URI": registry.url}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    with pytest.raises(HandOverFailed, match="lacks version 2"):
        connect(registry).check(version)
    connect(registry).withdraw(version)
    assert registry.versions(version.model) == {}


def test_a_model_that_was_made_in_mlflow_is_fetched_and_adopted(
    registry: Registry,
    version: HandedVersion,
    weights: Callable[[], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = version.model
    experiment = registry.post("experiments/create", name=name)["experiment_id"]
    info = registry.post("runs/create", experiment_id=experiment)["run"]["info"]
    path = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
    for file, content in {"net.safetensors": weights().read_bytes(), "MLmodel": b"x"}.items():
        registry.http.put(f"{registry.url}/api/2.0/mlflow-artifacts/artifacts/{path}/m/{file}", content=content)
    registry.post("registered-models/create", name=name)
    registry.post("model-versions/create", name=name, source=f"{info['artifact_uri']}/m", run_id=info["run_id"])
    connector = connect(registry)
    digest = connector.fetch_weights(name, "1", tmp_path / "fetched")
    assert digest == version.weights_sha256
    assert (tmp_path / "fetched").read_bytes() == weights().read_bytes()
    file = tmp_path / "connectors.toml"
    file.write_text(f'[mlflow]\nkind = "mlflow"\nurl = "{registry.url}"\n')
    monkeypatch.setenv("EXPUNGE_CONNECTORS", str(file))
    with fetch_from_mlflow(f"models:/{name}/1", model=name, tenant="default") as fetched:
        assert (fetched.sha256, fetched.path.read_bytes()) == (digest, weights().read_bytes())
        fetched.claim()
    first = first_of(version)
    assert connector.hand_over(first, weights) == f"models:/{name}/1"
    assert registry.runs(first) == []
    connector.withdraw(first)
    assert registry.versions(name) == {}
    assert not list((registry.artifacts / path).rglob("*.safetensors"))
    assert registry.get("runs/get", run_id=info["run_id"])["run"]["info"]["lifecycle_stage"] == "active"


def test_pickles_are_not_fetched(registry: Registry, version: HandedVersion, tmp_path: Path) -> None:
    name = version.model
    experiment = registry.post("experiments/create", name=name)["experiment_id"]
    info = registry.post("runs/create", experiment_id=experiment)["run"]["info"]
    path = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
    registry.http.put(f"{registry.url}/api/2.0/mlflow-artifacts/artifacts/{path}/m/model.pth", content=b"x")
    registry.post("registered-models/create", name=name)
    registry.post("model-versions/create", name=name, source=f"{info['artifact_uri']}/m", run_id=info["run_id"])
    with pytest.raises(HandOverFailed, match="loads no pickles"):
        connect(registry).fetch_weights(name, "1", tmp_path / "fetched")
    with pytest.raises(HandOverFailed, match="RESOURCE_DOES_NOT_EXIST"):
        connect(registry).fetch_weights(name, "7", tmp_path / "fetched")
