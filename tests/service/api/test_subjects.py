"""Requests by person, over HTTP: what is answered and to whom, by the client and the command line too."""

import json
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import typer
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from expunge import client as api
from expunge.cli import caller
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.registry.subjects import assign_subjects
from ledger.resources import SampleCounts, SubjectCounts
from ledger.sample_ids import key_fingerprint, sample_digest, subject_digest
from ledger.sample_key import rotate_sample_key
from ledger.tables import Base, Model
from tests.service.conftest import SAMPLE_KEY, Serve, Site, masked, publish_job, set_up
from tests.verifier.conftest import make_signer
from verifier.checking import Outcome, verify_files
from verifier.commitment import read_subject_inclusion
from verifier.errors import Mismatch
from verifier.keys import pem
from worker.signing import sign_statement

KEY = bytes.fromhex(SAMPLE_KEY)
ANN = {"subjects": ["ann@example.org"]}
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture
def people(site: Site, sessions: sessionmaker[Session]) -> Site:
    """The site, with a second dataset and model. ann: scans 1, 2 and 70, and note 1. bob: scan 2. cat: the untrained note 9."""
    with sessions.begin() as session:
        notes = [sample_digest(KEY, "notes", f"note-{number}") for number in range(10)]
        register_dataset(session, tenant_id=site.tenant_id, name="notes", digests=notes)
        register_model(
            session,
            tenant_id=site.tenant_id,
            name="coding",
            dataset="notes",
            workload="examples.notes:workload",
            training=notes[:9],
            weights_sha256="1" * 64,
            weights_path="/nowhere/1.safetensors",
            policy=[{"kind": "retrain"}],
            details={},
        )
        for dataset, owned in {
            "scans": [("ann@example.org", f"sample-{number}") for number in (1, 2, 70)]
            + [("bob@example.org", "sample-2")],
            "notes": [("ann@example.org", "note-1"), ("cat@example.org", "note-9")],
        }.items():
            rows = [(subject_digest(KEY, who), sample_digest(KEY, dataset, what), 1) for who, what in owned]
            assign_subjects(session, tenant_id=site.tenant_id, dataset=dataset, rows=rows)
    return site


def test_a_persons_samples_go_from_two_models_of_two_datasets(
    serve: Serve, people: Site, sessions: sessionmaker[Session]
) -> None:
    http = serve(key=people.admin, batch_window_seconds=0)
    answer = http.post("/unlearn-requests", json=ANN)
    body = answer.json()
    assert answer.status_code == 202
    assert (body["datasets"], body["every_dataset"]) == (["notes", "scans"], True)
    assert body["samples"] == {"accepted": 3, "already_erased": 0, "not_in_training_set": 1}
    assert body["subjects"] == {"given": 1, "matched": 1}
    assert body["samples_by_subject"] == [4]
    assert [target["model"] for target in body["targets"]] == ["coding", "triage"]
    for target in body["targets"]:
        publish_job(sessions, target["job"]["id"])
    done = http.get(f"/unlearn-requests/{body['id']}").json()
    assert (done["state"], done["unserved"]) == ("completed", False)
    assert done["subjects"] == {"given": 1, "matched": 1}
    again = http.post("/unlearn-requests", json=ANN).json()
    assert (again["state"], again["samples"]["already_erased"]) == ("completed", 3)


def test_samples_are_counted_by_the_place_of_each_person_and_nobody_is_echoed(serve: Serve, people: Site) -> None:
    given = ["bob@example.org", "nobody@example.org", "ann@example.org", "bob@example.org"]
    answer = serve(key=people.admin).post("/unlearn-requests", json={"dataset": "scans", "subjects": given})
    body = answer.json()
    assert body["samples_by_subject"] == [1, 0, 3, 1]
    assert body["subjects"] == {"given": 3, "matched": 2}
    assert "example.org" not in answer.text


def test_people_and_sample_ids_go_together(serve: Serve, people: Site) -> None:
    asked = {"dataset": "scans", "sample_ids": ["sample-2", "sample-3", "no-such"], "subjects": ["bob@example.org"]}
    body = serve(key=people.admin).post("/unlearn-requests", json=asked).json()
    assert body["samples"] == {"accepted": 2, "already_erased": 0, "not_in_training_set": 1}
    assert (body["unmatched_sample_ids"], body["samples_by_subject"]) == (["no-such"], [1])


def test_a_preview_counts_by_person_and_writes_nothing(
    serve: Serve, people: Site, sessions: sessionmaker[Session]
) -> None:
    body = serve(key=people.reader).post("/unlearn-requests:preview", json=ANN).json()
    assert (body["datasets"], body["samples_by_subject"]) == (["notes", "scans"], [4])
    assert body["subjects"] == {"given": 1, "matched": 1}
    assert body["unmatched_sample_ids"] is None
    with sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM request_subjects")) == 0


def test_a_key_that_may_not_read_learns_neither_counts_nor_datasets(serve: Serve, people: Site) -> None:
    body = serve(key=people.writer).post("/unlearn-requests", json=ANN).json()
    hidden = ("samples", "subjects", "samples_by_subject", "unmatched_sample_ids")
    assert [body[field] for field in hidden] == [None] * 4
    assert (body["dataset"], body["datasets"], body["targets"]) == (None, [], [])


SCANS = {"dataset": "scans"}


@pytest.mark.parametrize(
    "limits",
    [
        {},
        SCANS,
        {"datasets": ["scans", "notes"]},
        {"models": ["triage"]},
        {"models": ["triage", "coding"]},
        {"method": "ltu"},
    ],
)
def test_a_key_that_may_not_read_gets_the_same_answers_whoever_is_in_a_training_set(
    serve: Serve, people: Site, sessions: sessionmaker[Session], limits: dict[str, Any]
) -> None:
    """Of somebody who is in it, who was erased, whose samples no model has seen, and of a stranger; and of samples likewise."""
    admin, writer = (serve(key=key, batch_window_seconds=0) for key in (people.admin, people.writer))
    erased = admin.post("/unlearn-requests", json=SCANS | {"subjects": ["bob@example.org"]}).json()
    publish_job(sessions, erased["targets"][0]["job"]["id"])
    given: list[dict[str, Any]] = [{"subjects": [f"{name}@example.org"]} for name in ("ann", "bob", "cat", "stranger")]
    if "dataset" in limits:
        given += [{"sample_ids": [name]} for name in ("sample-9", "sample-2", "sample-70", "sample-100")]

    def answers(body: dict[str, Any]) -> list[tuple[int, str]]:
        made = writer.post("/unlearn-requests", json=body | limits)
        path = f"/unlearn-requests/{made.json()['id']}"
        reason = {"reason": "It takes long."}
        more = [writer.post(f"{path}{call}", json=reason) for call in (":extend", ":extend")]
        more += [writer.post(f"{path}:cancel") for _ in range(2)]
        return [(answer.status_code, masked(answer.json())) for answer in (made, *more)]

    first, *others = map(answers, given)
    assert [status for status, _ in first] == [202, 200, 409, 200, 200]
    assert all(other == first for other in others)


def test_a_request_of_a_key_that_may_not_read_in_which_nothing_matches_is_rejected(serve: Serve, people: Site) -> None:
    made = serve(key=people.writer).post("/unlearn-requests", json={"subjects": ["stranger@example.org"]}).json()
    found = serve(key=people.reader).get(f"/unlearn-requests/{made['id']}").json()
    assert (found["state"], found["unserved"]) == ("rejected", False)
    assert [(target["model"], target["reason"]) for target in found["targets"]] == [
        ("coding", "not_in_training_set"),
        ("triage", "not_in_training_set"),
    ]


def test_a_method_that_a_model_does_not_allow_is_refused_whoever_is_in_its_training_set(
    serve: Serve, people: Site, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.execute(update(Model).values(lacks=[]))
    writer = serve(key=people.writer)
    known, unknown = (
        writer.post("/unlearn-requests", json=SCANS | {"method": "matching", "subjects": [f"{name}@example.org"]})
        for name in ("ann", "stranger")
    )
    assert (known.status_code, known.json()["type"]) == (422, "https://expunge.dev/problems/method-unsuitable")
    assert known.json()["detail"] == unknown.json()["detail"]


@pytest.mark.parametrize("dataset", [{}, {"dataset": "notes"}, {"datasets": ["notes", "scans"]}])
def test_a_stranger_and_somebody_whom_no_model_knows_get_the_same_answer(
    serve: Serve, people: Site, sessions: sessionmaker[Session], dataset: dict[str, Any]
) -> None:
    http = serve(key=people.admin)
    known, unknown = (
        http.post("/unlearn-requests", json={"subjects": [f"{name}@example.org"], **dataset})
        for name in ("cat", "stranger")
    )
    assert (known.status_code, known.json()["type"]) == (422, "https://expunge.dev/problems/no-samples-match")
    assert known.json()["detail"] == unknown.json()["detail"]
    assert "@" not in known.text
    with sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM request_subjects")) == 0


def test_another_tenant_finds_nobody(serve: Serve, people: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        other = set_up(session, "other")
    assert serve(key=other.admin).post("/unlearn-requests", json=ANN).status_code == 422


def test_the_same_key_gives_the_first_answer_again_in_the_order_of_the_list(serve: Serve, people: Site) -> None:
    http = serve(key=people.admin)

    def post(*names: str, **more: object) -> httpx.Response:
        asked = {"dataset": "scans", "subjects": [f"{name}@example.org" for name in names], **more}
        return http.post("/unlearn-requests", json=asked, headers={"Idempotency-Key": "k"})

    first = post("ann", "bob").json()
    again = post("bob", "ann").json()
    assert (again["id"], again["samples_by_subject"]) == (first["id"], [1, 3])
    for other in (post("ann"), post("ann", "bob", dataset=None), post("ann", "bob", dataset=None, datasets=["scans"])):
        assert other.json()["type"] == "https://expunge.dev/problems/idempotency-key-reused"


def test_a_list_of_people_is_uploaded_once_for_all_datasets(serve: Serve, people: Site) -> None:
    http = serve(key=people.admin)
    lines = b"nobody@example.org\n\nann@example.org\r\nann@example.org\nbob@example.org\n"
    answer = http.post("/uploads/subjects", content=lines, headers=TEXT)
    sent = answer.json()
    assert answer.status_code == 201, answer.text
    assert (sent["dataset"], sent["samples"], sent["subjects"]) == (None, None, 3)
    assert http.get(f"/uploads/{sent['id']}").json() == sent
    body = http.post("/unlearn-requests", json={"upload": sent["id"]}).json()
    assert (body["datasets"], body["subjects"]) == (["notes", "scans"], {"given": 3, "matched": 2})
    assert (body["unmatched_lines"], body["samples_by_subject"]) == ([1], None)
    assert "example.org" not in json.dumps(body)


@pytest.mark.parametrize(
    ("body", "media", "status", "words"),
    [
        (b"ann\n" + b"x" * 201, "text/plain", 422, "The subject on line 2 has 201 characters"),
        (b'"ann"\n{"sample_id": "bob"}', "application/x-ndjson", 422, "Line 2 holds no subject"),
        (b" \n", "text/plain", 422, "holds no subject"),
        (b"ann", "application/json", 415, "Send the subjects one a line"),
    ],
)
def test_a_list_that_cannot_be_read_keeps_nothing(
    serve: Serve, people: Site, sessions: sessionmaker[Session], body: bytes, media: str, status: int, words: str
) -> None:
    answer = serve(key=people.writer).post("/uploads/subjects", content=body, headers={"Content-Type": media})
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert "ann" not in answer.json()["detail"]
    with sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM uploaded_samples")) == 0


def test_a_list_of_people_may_be_an_object_a_line(serve: Serve, people: Site) -> None:
    lines = b'{"subject": "ann@example.org"}\n"bob@example.org"\n'
    answer = serve(key=people.writer).post(
        "/uploads/subjects", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.json()["subjects"] == 2


def test_no_subject_is_stored_or_logged(
    serve: Serve, people: Site, sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    http = serve(key=people.admin)
    http.post("/unlearn-requests", json=ANN | {"subjects": ["ann@example.org", "nobody@example.org"]})
    http.post("/unlearn-requests", json={"subjects": ["nobody@example.org"]})
    http.post("/unlearn-requests", json={"subjects": ["ann@example.org", 5], "method": "ann@example.org"})
    http.post("/uploads/subjects", content=b"ann@example.org\n\x00", headers=TEXT)
    with sessions() as session:
        for table in Base.metadata.sorted_tables:
            assert "example.org" not in str(session.execute(select(table)).all()), table.name
        assert session.scalar(select(func.count()).select_from(Base.metadata.tables["request_subjects"])) == 2
    assert "example.org" not in caplog.text
    assert "example.org" not in http.get("/metrics").text


def test_the_client_asks_for_people(serve: Serve, people: Site) -> None:
    http = serve(key=people.admin)
    assert api.preview(http, subjects=["ann@example.org"]).samples_by_subject == [4]
    request = api.submit(http, subjects=["ann@example.org"], datasets=["scans"])
    assert request.samples == SampleCounts(accepted=2, already_erased=0, not_in_training_set=1)
    sent = api.upload_subjects(http, subjects=(f"person-{number}" for number in range(2500)))
    assert sent.subjects == 2500
    sent = api.upload_subjects(http, subjects=["bob@example.org", "nobody"])
    assert api.submit(http, upload=sent.id).subjects == SubjectCounts(given=2, matched=1)


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_the_command_line_asks_for_people(
    serve: Serve, people: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(serve().base_url)
    caller.submit(people.admin, subject=["ann@example.org"], url=url)
    assert shown(capsys)["samples_by_subject"] == [4]
    listed = StringIO("bob@example.org\nnobody@example.org\n")
    caller.submit(people.admin, ["scans"], ["sample-3"], subjects=listed, url=url)  # type: ignore[arg-type]  # lines, as a file gives them
    assert shown(capsys)["samples"]["accepted"] == 2
    monkeypatch.setattr(caller, "MAX_INLINE_IDS", 1)
    caller.submit(people.admin, ["scans", "notes"], subject=["nobody@example.org", "ann@example.org"], url=url)
    found = shown(capsys)
    assert (found["unmatched_lines"], found["subjects"]["matched"]) == ([1], 1)
    with pytest.raises(typer.BadParameter, match="Subject 2 begins or ends with a blank"):
        caller.submit(people.admin, subject=["ann", " "], url=url)
    with pytest.raises(typer.BadParameter, match="one --dataset"):
        caller.submit(people.admin, ["scans", "notes"], ["sample-1"], url=url)
    with pytest.raises(typer.BadParameter, match="request of their own"):
        caller.submit(people.admin, ["scans"], ["sample-1"], subject=["ann", "bob"], url=url)


def test_whoever_asked_to_be_erased_is_left_out_of_trainings_also_with_new_samples(
    serve: Serve, people: Site, sessions: sessionmaker[Session], capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(serve().base_url)

    def listed(dataset: str, *, given: str = "subjects", **more: Any) -> list[str]:
        names = {
            "subjects": ["ann@example.org", "bob@example.org", "eve@example.org"],
            "ids": [f"sample-{n}" for n in range(99)],
        }
        file = StringIO("\n".join(names[given]))
        caller.do_not_train(
            dataset, people.admin, sample_key=SAMPLE_KEY, url=url, left_out=True, **{given: file}, **more
        )  # type: ignore[arg-type]  # lines
        return capsys.readouterr().out.split()

    http = serve(key=people.admin)
    everywhere = http.post("/unlearn-requests", json={"subjects": ["ann@example.org", "eve@example.org"]}).json()
    http.post("/unlearn-requests", json={"dataset": "scans", "subjects": ["bob@example.org"]})
    assert listed("scans") == ["ann@example.org", "bob@example.org", "eve@example.org"]
    assert listed("scans", model="triage") == ["ann@example.org", "bob@example.org", "eve@example.org"]
    assert listed("notes") == ["ann@example.org", "eve@example.org"]
    with sessions.begin() as session:
        rows = [(subject_digest(KEY, "eve@example.org"), sample_digest(KEY, "scans", "sample-33"), 1)]
        assign_subjects(session, tenant_id=people.tenant_id, dataset="scans", rows=rows)
    for more in ({}, {"model": "triage"}):
        assert listed("scans", given="ids", **more) == ["sample-1", "sample-2", "sample-33", "sample-70"]
    http.post(f"/unlearn-requests/{everywhere['id']}:cancel")
    assert listed("scans") == listed("scans", model="triage") == ["bob@example.org"]
    assert listed("notes") == []
    with pytest.raises(typer.BadParameter, match="either --ids or --subjects"):
        caller.do_not_train("scans", people.admin, url=url)


def test_after_a_rotation_of_the_key_people_are_found_and_a_process_with_the_old_key_does_nothing(
    serve: Serve, people: Site, sessions: sessionmaker[Session]
) -> None:
    def ask(http: httpx.Client, *names: str, **more: str) -> httpx.Response:
        body = {"subjects": [f"{name}@example.org" for name in names]}
        return http.post("/unlearn-requests", json=body, headers=more)

    before = serve(key=people.admin)
    first = ask(before, "ann", **{"Idempotency-Key": "k"})
    new = KEY + b"\x01" * 32
    with sessions.begin() as session:
        assert rotate_sample_key(session, old=KEY, new=new, rewrite=lambda file, _: file) is not None
    writes = [
        ask(before, "bob"),
        before.post("/unlearn-requests:preview", json=ANN),
        before.post("/uploads/subjects", content=b"ann", headers=TEXT),
    ]
    for answer in writes:
        assert (answer.status_code, answer.json()["type"]) == (503, "https://expunge.dev/problems/wrong-sample-key")
        assert answer.headers["Retry-After"]
    http = serve(key=people.admin, sample_key=new.hex())
    again = ask(http, "ann", **{"Idempotency-Key": "k"})
    assert (again.json()["id"], again.json()["samples_by_subject"]) == (first.json()["id"], [4])
    assert ask(http, "bob", **{"Idempotency-Key": "k"}).status_code == 422
    assert ask(http, "bob").json()["samples_by_subject"] == [1]
    listed = http.get("/models/triage/do-not-train/subjects")
    assert subject_digest(new, "bob@example.org").hex() in listed.text.split()
    assert listed.headers["Expunge-Sample-Key"] == key_fingerprint(new)
    for key in (SAMPLE_KEY, "cd" * 32):
        with pytest.raises(typer.BadParameter, match="another sample key"):
            caller.do_not_train(
                "scans",
                people.admin,
                sample_key=key,
                url=str(http.base_url),
                subjects=StringIO("ann"),  # type: ignore[arg-type]  # lines
            )


@pytest.mark.parametrize("uploaded", [False, True])
def test_a_person_is_shown_to_be_among_those_of_a_report_and_nobody_else_is(
    serve: Serve,
    people: Site,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uploaded: bool,
) -> None:
    http = serve(key=people.admin, batch_window_seconds=0)
    names = ["ann@example.org", "cat@example.org"]
    asked = {"upload": api.upload_subjects(http, subjects=names).id} if uploaded else {"subjects": names}
    request = api.submit(http, **asked)
    signer = make_signer()
    reports = {
        target.model: publish_job(sessions, target.job.id, sign=lambda report: sign_statement(report, signer=signer))
        for target in request.targets
        if target.job is not None and target.job.id is not None
    }
    (tmp_path / "key.pem").write_text(pem(signer.private.public_key()))
    (tmp_path / "statement.json").write_bytes(http.get(f"/reports/{reports['coding']}/statement").content)

    def shown(name: str, model: str) -> Outcome:
        (tmp_path / "proof.json").write_bytes(api.get_inclusion(http, reports[model], subject=name))
        return verify_files(tmp_path / "statement.json", keys=[tmp_path / "key.pem"], subject=tmp_path / "proof.json")

    outcome = shown("ann@example.org", "coding")
    assert outcome.refused is None
    assert "The person 'ann@example.org' is one of the 1 that the statement commits to." in outcome.proven
    assert isinstance(shown("ann@example.org", "triage").refused, Mismatch)
    answers = []
    for name in ("cat@example.org", "bob@example.org", "stranger@example.org"):  # no sample in it, not asked, unknown
        answers.append(http.post(f"/reports/{reports['coding']}/inclusion", json={"subject": name}))
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert "@" not in "".join(answer.text for answer in answers)
    for key in (people.auditor, people.reader):
        answer = serve(key=key).post(f"/reports/{reports['coding']}/inclusion", json={"subject": "ann@example.org"})
        assert answer.status_code == 403
    monkeypatch.setattr(typer, "prompt", lambda text, **_: "ann@example.org")
    caller.prove(reports["coding"], people.admin, subject=True, output=tmp_path / "person.json", url=str(http.base_url))
    assert read_subject_inclusion((tmp_path / "person.json").read_bytes()).subject == "ann@example.org"
    with pytest.raises(typer.BadParameter, match="either"):
        caller.prove(reports["coding"], people.admin, "sample-1", subject=True, url=str(http.base_url))


@pytest.mark.parametrize("body", [{}, {"subject": "ann", "sample_id": "sample-1"}, {"subject": " "}, {"subject": None}])
def test_a_proof_is_of_one_sample_or_of_one_person(serve: Serve, people: Site, body: dict[str, Any]) -> None:
    answer = serve(key=people.admin).post(f"/reports/{uuid4()}/inclusion", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "https://expunge.dev/problems/invalid-request")


def test_another_tenants_people_are_not_listed(serve: Serve, people: Site, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        other = set_up(session, "other")
    serve(key=people.admin).post("/unlearn-requests", json=ANN)
    for path in ("/datasets/scans/do-not-train/subjects", "/models/triage/do-not-train/subjects"):
        assert serve(key=other.admin).get(path).text == ""
        assert serve(key=people.reader).get(path).text == subject_digest(KEY, "ann@example.org").hex() + "\n"
        assert serve(key=people.writer).get(path).status_code == 403
