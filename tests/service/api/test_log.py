"""The log over HTTP: what everybody may see of it, and what only its tenant may."""

import base64

import pytest
from sqlalchemy.orm import Session, sessionmaker

from ledger.transparency.log import sign_checkpoint
from tests.service.conftest import Serve, Site, publish_job, set_up
from tests.verifier.conftest import make_signer
from verifier.keys import TrustedKey
from verifier.log import check_consistency, check_entry, check_leaves, read_log_checkpoint, read_log_proof
from verifier.merkle import included, leaf_hash

SIGNER = make_signer()
KEYS = [TrustedKey(key_id=SIGNER.key_id, public=SIGNER.private.public_key())]
ASKED = {"dataset": "scans", "sample_ids": ["sample-1"], "expedite": True}


@pytest.fixture
def asked(serve: Serve, site: Site) -> dict[str, str]:
    """A request and its job, by their ids."""
    body = serve(key=site.admin).post("/unlearn-requests", json=ASKED).json()
    return {"request": body["id"], "job": body["targets"][0]["job"]["id"]}


def sign(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        sign_checkpoint(session, SIGNER.checkpoint)


def test_before_the_first_checkpoint_there_is_none(serve: Serve, site: Site) -> None:
    assert serve().get("/log/checkpoint").status_code == 404


def test_everybody_can_see_that_the_log_only_grows(
    serve: Serve, site: Site, sessions: sessionmaker[Session], asked: dict[str, str]
) -> None:
    client = serve()
    sign(sessions)
    older = read_log_checkpoint(client.get("/log/checkpoint").content, keys=KEYS)
    publish_job(sessions, asked["job"])
    sign(sessions)
    newer = read_log_checkpoint(client.get("/log/checkpoint").content, keys=KEYS)
    assert newer.size > older.size
    proof = client.get("/log/proof/consistency", params={"first": older.size, "second": newer.size}).json()
    check_consistency(older, newer, [bytes.fromhex(step) for step in proof["path"]])


def test_the_leaves_give_the_root_and_each_has_its_proof(
    serve: Serve, site: Site, sessions: sessionmaker[Session], asked: dict[str, str]
) -> None:
    sign(sessions)
    client = serve(key=site.auditor)
    checkpoint = read_log_checkpoint(client.get("/log/checkpoint").content, keys=KEYS)
    leaves = [base64.b64decode(leaf) for leaf in client.get("/log/leaves").json()["leaves"]]
    check_leaves(checkpoint, leaves)
    for index, leaf in enumerate(leaves):
        given = {"leaf_hash": leaf_hash(leaf).hex(), "size": checkpoint.size}
        proof = serve().get("/log/proof/inclusion", params=given).json()
        path = [bytes.fromhex(step) for step in proof["path"]]
        assert proof["leaf_index"] == index
        assert included(leaf_hash(leaf), index=index, size=checkpoint.size, path=path, root=checkpoint.root)
    assert client.get("/log/leaves", params={"start": 1, "limit": 1}).json()["leaves"] == [
        base64.b64encode(leaves[1]).decode()
    ]


def test_the_leaves_tell_nobody_whom_they_are_about(
    serve: Serve, site: Site, sessions: sessionmaker[Session], asked: dict[str, str]
) -> None:
    sign(sessions)
    leaves = serve(key=site.auditor).get("/log/leaves").json()["leaves"]
    assert leaves
    text = b"".join(map(base64.b64decode, leaves)).decode()
    assert all(word not in text for word in (*asked.values(), "triage", "scans"))
    assert serve().get("/log/leaves").status_code == 401
    assert serve(key=site.reader).get("/log/leaves").status_code == 403


def test_a_tenant_can_show_that_its_request_and_its_result_were_recorded(
    serve: Serve, site: Site, sessions: sessionmaker[Session], asked: dict[str, str]
) -> None:
    report_id = publish_job(sessions, asked["job"])
    client = serve(key=site.admin)
    assert client.get(f"/jobs/{asked['job']}/log-entry").status_code == 404  # no checkpoint covers it yet
    sign(sessions)
    request = check_entry(
        read_log_proof(client.get(f"/unlearn-requests/{asked['request']}/log-entry").content), keys=KEYS
    )
    result = check_entry(read_log_proof(client.get(f"/jobs/{asked['job']}/log-entry").content), keys=KEYS)
    assert (request.kind, request.content["request"]) == ("request", asked["request"])
    report = client.get(f"/reports/{report_id}")
    assert result.content["report"]["sha256"] == report.headers["etag"].strip('"')
    with sessions.begin() as session:
        other = set_up(session, "bank")
    assert serve(key=other.admin).get(f"/jobs/{asked['job']}/log-entry").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/log/proof/consistency?first=0&second=99", 404),
        ("/log/proof/consistency?first=2&second=1", 404),
        ("/log/proof/consistency?first=-1&second=1", 422),
        (f"/log/proof/inclusion?leaf_hash={'0' * 64}&size=1", 404),
        ("/log/proof/inclusion?leaf_hash=nothing&size=1", 422),
        ("/log/proof/inclusion?size=1", 422),
    ],
)
def test_what_cannot_be_proven_is_a_problem(serve: Serve, site: Site, path: str, status: int) -> None:
    answer = serve().get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
