"""A model that is trained by its owner's loop, from scratch and on a frozen part: from its training to an erasure."""

from pathlib import Path

import pytest
import torch

from examples import reviews
from expunge.operator.references import prepare_model
from expunge.operator.registration import register_workload
from expunge.operator.training import train_workload
from ledger.jobs.jobs import list_attempts
from ledger.registry.models import list_versions
from tests.examples.conftest import Site, decided_or_explained
from unlearning.specs.references import ReferencePlan
from unlearning.storage import load_weights

PLAN = ReferencePlan(rounds=1, audit_rounds=1)


def test_padding_changes_no_prediction() -> None:
    model = reviews.Transformer().eval()
    inputs = reviews.encode(["word1 superb", "word1 superb word2 word3 word4"])
    padded = {name: tensor[:1] for name, tensor in inputs.items()}
    noise = torch.where(padded["mask"], padded["tokens"], 5)

    assert torch.allclose(model(**padded), model(tokens=noise, mask=padded["mask"]))


@pytest.mark.parametrize("name", ["workload", "frozen_workload"])
def test_ten_reviews_are_erased(name: str, tmp_path: Path, site: Site) -> None:
    reference = f"examples.reviews:{name}"
    made = getattr(reviews, name)()
    trained = train_workload(reference, allowed=("examples",), folder=tmp_path / "weights", references=PLAN)
    register_workload(site.where, name="model", reference=reference, weights=trained.path)
    prepared = prepare_model(site.where, name="model", plan=PLAN, prepared=tmp_path / "weights/references")
    assert prepared is not None

    job, document = site.erase(made.name, made.train.ids[:10])

    with site.sessions() as session:
        attempts = list_attempts(session, tenant_id=site.tenant_id, job_id=job.id)
        newest = list_versions(session, tenant_id=site.tenant_id, model="model")[0]
    assert attempts[0].method["kind"] == "matching"
    assert decided_or_explained(document)
    if name == "frozen_workload":
        unlearned = made.build()
        load_weights(unlearned, site.where.storage / f"{newest.weights_sha256}.safetensors", newest.weights_sha256)
        assert torch.equal(unlearned.words.weight, made.build().words.weight)
