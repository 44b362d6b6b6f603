"""Back up and restore as docs/operations.md says: the database by pg_dump, the folder of weights, the sample key."""

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from expunge.database import opened
from expunge.doctor import Installation, examine
from expunge.embedded.postgres import binaries
from expunge.registration import Place, register_workload
from expunge.training import train_workload
from ledger.access import ensure_tenant
from ledger.requests import submit
from ledger.samples import sample_digest
from ledger.tables import Base
from tests.ops.files import ROOT
from tests.worker import digits

KEY = bytes(32)
REFERENCE = "tests.worker.digits:workload"


def run(program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    found = subprocess.run([str(binaries() / program), *arguments], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def counts(session: Session) -> dict[str, int]:
    """The number of rows of every table."""
    return {
        name: session.scalars(select(func.count()).select_from(t)).one() for name, t in Base.metadata.tables.items()
    }


def ask(session: Session, sample: str) -> bool:
    """Ask for a sample to be erased; tell whether the model was trained on it."""
    digest = sample_digest(KEY, "tiny-digits", sample)
    tenant = ensure_tenant(session, "default")
    view = submit(
        session, tenant_id=tenant, caller="test", dataset="tiny-digits", digests=[digest], batch_window=timedelta(0)
    )
    return view.targets[0].job_id is not None


def test_a_restored_installation_is_whole_and_still_knows_its_samples(
    database_url: str, blank_database_url: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    where = Place(database_url=database_url, storage=storage, sample_key=KEY, workloads="tests")
    trained = train_workload(REFERENCE, allowed=("tests",), folder=tmp_path / "weights", plain=True)
    register_workload(where, name="digits", reference=REFERENCE, weights=trained.path)
    known = trained_on(2)
    with sessions.begin() as session:
        assert ask(session, known[0])
        before = counts(session)

    source, target = (url.replace("+psycopg", "") for url in (database_url, blank_database_url))
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'expunge.dump'}", source)
    shutil.copytree(storage, tmp_path / "copy")
    shutil.rmtree(storage)
    run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={target}", str(tmp_path / "expunge.dump"))

    with opened(blank_database_url) as restored, restored.begin() as session:
        assert counts(session) == before
        assert ask(session, known[1])
    found = Installation(
        database_url=blank_database_url,
        redis_url=None,
        storage=tmp_path / "copy",
        sample_key=KEY.hex(),
        workloads="tests",
    )
    assert {finding.check for finding in examine(found) if not finding.fine} == {"broker", "worker"}


def trained_on(count: int) -> list[str]:
    """Some of the samples that the model was trained on."""
    return list(digits.workload().train.ids[:count])


def test_the_document_says_what_is_tested() -> None:
    (text_,) = re.findall(
        r"^## Back up\n(.*?)(?=^## |\Z)", (ROOT / "docs/operations.md").read_text(), flags=re.M | re.S
    )

    assert "pg_dump --format=custom" in text_
    assert "pg_restore --no-owner --exit-on-error" in text_
