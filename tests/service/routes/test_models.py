from sqlalchemy.orm import Session, sessionmaker

from tests.service.conftest import Serve, Site, set_up


def test_a_model_is_told_with_its_newest_version_and_policy(serve: Serve, site: Site) -> None:
    (model,) = serve(key=site.reader).get("/models").json()["items"]

    assert (model["name"], model["dataset"], model["training_samples"], model["erased_samples"]) == (
        "triage",
        "scans",
        50,
        0,
    )
    assert [spec["kind"] for spec in model["policy"]] == ["ltu", "ieu", "retrain"]
    assert model["version"]["number"] == 1
    assert model["version"]["weights_sha256"] == "0" * 64


def test_where_the_weights_lie_is_not_told(serve: Serve, site: Site) -> None:
    client = serve(key=site.reader)

    assert "/nowhere" not in client.get("/models/triage").text + client.get("/models/triage/versions").text


def test_versions_come_newest_first(serve: Serve, site: Site) -> None:
    assert [version["number"] for version in serve(key=site.reader).get("/models/triage/versions").json()["items"]] == [
        1
    ]


def test_an_unknown_model_is_a_problem_with_its_name(serve: Serve, site: Site) -> None:
    for path in ("/models/triagee", "/models/triagee/versions"):
        answer = serve(key=site.reader).get(path)

        assert answer.status_code == 404
        assert answer.json()["type"].endswith("/unknown-model")
        assert "triagee" in answer.json()["detail"]


def test_a_name_with_a_control_character_is_the_callers_fault(serve: Serve, site: Site) -> None:
    answer = serve(key=site.reader).get("/models/%00")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["in"] == "path"


def test_another_tenant_sees_nothing_of_it(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        other = set_up(session, "bank")
    ours, theirs = (serve(key=key).get("/models").json()["items"] for key in (site.reader, other.reader))

    assert ours[0]["id"] != theirs[0]["id"]
    assert len(ours) == len(theirs) == 1
