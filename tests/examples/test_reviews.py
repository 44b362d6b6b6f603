"""A model that is trained by its owner's loop, from scratch and on a frozen part: from its training to an erasure."""

import os
import zipfile
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
from unlearning.errors import InvalidWorkload
from unlearning.specs.references import ReferencePlan
from unlearning.storage import load_weights

PLAN = ReferencePlan(rounds=1, audit_rounds=1)


def test_padding_changes_no_prediction() -> None:
    model = reviews.Transformer().eval()
    inputs = reviews.encode(["word1 superb", "word1 superb word2 word3 word4"])
    padded = {name: tensor[:1] for name, tensor in inputs.items()}
    noise = torch.where(padded["mask"], padded["tokens"], 5)

    assert torch.allclose(model(**padded), model(tokens=noise, mask=padded["mask"]))


def archive(folder: Path, **lines: list[str]) -> Path:
    """An archive of the form of the sentence polarity data."""
    path = folder / "polarity.zip"
    with zipfile.ZipFile(path, "w") as made:
        for label, texts in lines.items():
            made.writestr(f"sentence_polarity/rt-polarity.{label}", "\n".join(texts).encode("latin-1"))
    return path


def test_an_archive_of_sentences_becomes_padded_tokens_with_ids_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"neg": ["a dull film ?"] * 6, "pos": ["a film , très fresh and long " + "word " * 50] * 6}
    monkeypatch.setenv("EXPUNGE_REVIEWS", str(archive(tmp_path, **texts)))
    made = reviews.workload()
    whole = reviews.encode(["a dull film ?", "a film of nobody"])

    assert [len(part) for part in (made.train, made.held_out, made.test)] == [6, 4, 2]
    assert {"neg-0001", "pos-0006"} <= set(made.private_ids)
    assert whole["tokens"].shape == (2, reviews.MAX_LENGTH)
    assert whole["mask"].sum(1).tolist() == [4, 4]
    assert whole["tokens"][1, 2:4].tolist() == [1, 1]  # unknown words
    assert sorted(reviews.corpus().vocabulary.values()) == list(range(len(reviews.corpus().vocabulary)))
    assert reviews.Transformer()(**whole).shape == (2, 2)
    for part in (made.train, made.held_out, made.test):
        assert [sample.startswith("pos") for sample in part.ids] == part.targets.bool().tolist()


@pytest.mark.parametrize("name", ["nowhere.zip", "README", "polarity.zip"])
def test_what_is_no_archive_of_sentences_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README").write_text("no archive")
    archive(tmp_path, neg=["dull"], pos=[])
    monkeypatch.setenv("EXPUNGE_REVIEWS", str(tmp_path / name))
    with pytest.raises(InvalidWorkload, match="EXPUNGE_REVIEWS must name a zip archive"):
        reviews.workload()


@pytest.mark.slow
@pytest.mark.skipif("EXPUNGE_REVIEWS" not in os.environ, reason="EXPUNGE_REVIEWS names no archive of real reviews")
def test_ten_real_reviews_are_erased(tmp_path: Path, site: Site) -> None:
    made = reviews.workload()
    trained = train_workload("examples.reviews:workload", allowed=("examples",), folder=tmp_path / "weights")
    register_workload(
        site.where,
        name="model",
        reference="examples.reviews:workload",
        weights=trained.path,
        approve_utility_drop=100.0,
    )

    _, document = site.erase(made.name, made.train.ids[:10])

    assert decided_or_explained(document)


@pytest.mark.parametrize("name", [pytest.param("workload", marks=pytest.mark.slow), "frozen_workload"])
def test_ten_reviews_are_erased(name: str, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "EPOCHS", 4)  # a sixth: the way is what is tested, not how well it is known
    reference = f"examples.reviews:{name}"
    made = getattr(reviews, name)()
    trained = train_workload(reference, allowed=("examples",), folder=tmp_path / "weights", references=PLAN)
    register_workload(
        site.where,
        name="model",
        reference=reference,
        weights=trained.path,
        approve_utility_drop=100.0,
        dry_run=name == "frozen_workload",  # whose network is the other one, with a part that is not trained
    )
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
