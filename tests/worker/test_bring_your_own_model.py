"""The Python of docs/bring-your-own-model.md and docs/models-and-data.md, run as it stands there, to an erasure."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import torch
from pydantic import SecretStr
from safetensors.torch import load_file
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.deployment import Deployment
from expunge.operator.references import prepare_model
from expunge.operator.registration import register_workload
from expunge.operator.training import train_workload
from ledger.jobs.jobs import get_job
from ledger.registry.access import ensure_tenant
from ledger.registry.models import list_versions
from ledger.states import JobState
from tests.fixtures.registration import RETRAINED
from tests.fixtures.submission import submit_samples
from tests.ops.files import ROOT
from unlearning.specs.references import ReferencePlan
from unlearning.storage import load_weights
from unlearning.training.run import TrainingRun
from worker.child import StopSignal
from worker.run import run_job
from worker.settings import Settings

KEY = bytes(32)
DOCUMENTS = "".join((ROOT / "docs" / name).read_text() for name in ("bring-your-own-model.md", "models-and-data.md"))


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The documents' modules as a package that can be imported, in a folder of their own."""
    blocks = re.findall(r"^```python\n(# (acme/\w+\.py)\n.*?)^```", DOCUMENTS, flags=re.MULTILINE | re.DOTALL)
    for code, name in blocks:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in [name for name in sys.modules if name.split(".")[0] == "acme"]:
        del sys.modules[module]


def test_what_the_document_says_leads_to_an_erasure(
    acme: Path, database_url: str, sessions: sessionmaker[Session]
) -> None:
    from acme.forms import workload  # type: ignore[import-not-found]
    from acme.training import train  # type: ignore[import-not-found]

    where = Deployment(database_url=database_url, storage=acme / "storage", sample_key=KEY, workloads="acme")
    register_workload(
        where,
        name="forms",
        reference="acme.forms:workload",
        weights=train(),
        **RETRAINED,
    )
    work(ask(sessions, list(workload().train.ids[:100])), where, sessions)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_documents_lora_is_unlearned_as_an_adapter_that_peft_loads(
    acme: Path, database_url: str, sessions: sessionmaker[Session]
) -> None:
    from acme import letters
    from peft import PeftModel

    model = letters.network()
    letters.train(model, letters.workload().train, TrainingRun(seed=0))
    model.save_pretrained(acme / "adapter")
    theirs = acme / "adapter/adapter_model.safetensors"
    names = set(load_file(theirs))
    where = Deployment(database_url=database_url, storage=acme / "storage", sample_key=KEY, workloads="acme")
    register_workload(
        where,
        name="letters",
        reference="acme.letters:workload",
        weights=theirs,
        policy=["ieu", "retrain"],
        approve_utility_drop=100.0,
    )
    work(ask(sessions, list(letters.workload().train.ids[:60]), dataset="letters"), where, sessions)

    with sessions() as session:
        tenant_id = ensure_tenant(session, "default")
        newest = list_versions(session, tenant_id=tenant_id, model="letters")[0]
    published = where.storage / f"{newest.weights_sha256}.safetensors"
    assert set(load_file(published)) == names
    theirs.write_bytes(published.read_bytes())
    loaded, served = PeftModel.from_pretrained(letters.base(), acme / "adapter"), letters.network()
    load_weights(served, published, newest.weights_sha256)
    inputs = letters.workload().test.inputs
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).logits, served.eval()(**inputs).logits)
        assert not torch.equal(loaded(**inputs).logits, model.eval()(**inputs).logits)


def test_the_documents_own_training_loop_trains_a_model_that_can_be_registered(
    acme: Path, database_url: str, sessions: sessionmaker[Session]
) -> None:
    """By its function alone; the dry run tries it too."""
    from acme.by_adamw import workload

    reference, plan = "acme.by_adamw:workload", ReferencePlan(rounds=1, audit_rounds=1)
    trained = train_workload(reference, allowed=("acme",), folder=acme / "weights", references=plan)
    where = Deployment(database_url=database_url, storage=acme / "storage", sample_key=KEY, workloads="acme")
    register_workload(where, name="forms", reference=reference, weights=trained.path)

    made = prepare_model(where, name="forms", plan=plan, prepared=acme / "weights/references")

    assert workload().recipe is None
    assert made is not None
    assert made.samples == 1300


def work(job_id: UUID, where: Deployment, sessions: sessionmaker[Session]) -> None:
    """Be the worker until a job is completed."""
    settings = Settings(
        database_url=SecretStr(where.database_url),
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        sample_key=SecretStr(KEY.hex()),
        storage=where.storage,
        workloads="acme",
    )
    while run_job(job_id, sessions=sessions, settings=settings, worker="test", stop_signal=StopSignal()):
        pass  # an attempt each: a fallback is another one
    with sessions() as session:
        job = get_job(session, tenant_id=ensure_tenant(session, "default"), job_id=job_id)
    assert job.state == JobState.COMPLETED, job.detail


def ask(sessions: sessionmaker[Session], sample_ids: list[str], *, dataset: str = "forms") -> UUID:
    """Ask for samples to be erased; gives the job."""
    with sessions.begin() as session:
        return submit_samples(session, dataset, sample_ids, key=KEY)
