import pytest
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.access import issue_key, list_keys, revoke_key
from tests.service.conftest import Serve, Site


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Bearer expunge_abc_def",
        "Basic dXNlcjpwYXNz",
        "Bearer \xff\xfe",
        "Bearer expunge__",
    ],
)
def test_without_a_good_key_there_is_a_challenge_and_nothing_else(serve: Serve, site: Site, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = serve().get("/models", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("/unauthenticated")


def test_a_key_whose_secret_is_wrong_by_one_letter_is_refused(serve: Serve, site: Site) -> None:
    assert serve(key=site.reader[:-1] + ("a" if site.reader[-1] != "a" else "b")).get("/models").status_code == 401


def test_a_revoked_key_is_refused(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        for key in list_keys(session, tenant_id=site.tenant_id):
            revoke_key(session, tenant_id=site.tenant_id, key_id=key.id)

    assert serve(key=site.admin).get("/models").status_code == 401


def test_the_wrong_scope_is_refused_with_the_right_one(serve: Serve, site: Site) -> None:
    answer = serve(key=site.auditor).get("/models")

    assert answer.status_code == 403
    assert answer.json()["type"].endswith("/scope-missing")
    assert "requests:read" in answer.json()["detail"]
    assert "reports:read" in answer.json()["detail"]


def test_admin_is_good_for_everything(serve: Serve, site: Site) -> None:
    assert serve(key=site.admin).get("/models").status_code == 200


def test_no_error_shows_the_key(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        secret = issue_key(session, tenant_id=site.tenant_id, name="x", scopes=["reports:read"]).secret

    assert secret.split("_", 2)[2] not in serve(key=secret).get("/models").text
