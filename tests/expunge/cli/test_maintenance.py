from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from expunge.cli.maintenance import erase_links
from ledger.errors import NotInReport, UnknownEntry
from ledger.requests.submission import submit
from ledger.sample_ids import sample_digest
from ledger.transparency.commitments import prove_inclusion
from ledger.transparency.log import prove_entry, sign_checkpoint
from tests.service.conftest import SAMPLE_KEY, publish_job, set_up
from tests.verifier.conftest import make_signer


def test_a_person_is_unlinked_from_manifests_and_log_for_ever(
    database_url: str, sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("DATABASE_URL", database_url),
        ("EXPUNGE_STORAGE", str(tmp_path)),
        ("EXPUNGE_SAMPLE_KEY", SAMPLE_KEY),
    ):
        monkeypatch.setenv(name, value)
    digest = sample_digest(bytes.fromhex(SAMPLE_KEY), "scans", "sample-1")
    with sessions.begin() as session:
        tenant = set_up(session).tenant_id
        request = submit(
            session,
            tenant_id=tenant,
            caller="test",
            dataset="scans",
            digests=[digest],
            expedite=True,
            batch_window=timedelta(0),
        )
    report_id = publish_job(sessions, str(request.targets[0].job_id))
    with sessions.begin() as session:
        sign_checkpoint(session, make_signer().checkpoint)
    found = erase_links(tmp_path, "scans", "sample-1", tenant="clinic", requests=[request.id])
    assert found == (1, 1)
    given = {"tenant_id": tenant, "report_id": report_id, "dataset": "scans", "sample_id": "sample-1", "digest": digest}
    with sessions() as session, pytest.raises(NotInReport):
        prove_inclusion(session, **given)
    with sessions() as session, pytest.raises(UnknownEntry):
        prove_entry(session, tenant_id=tenant, subject_id=request.id)
    assert erase_links(tmp_path, "scans", "sample-1", tenant="clinic", requests=[request.id]) == (0, 0)
