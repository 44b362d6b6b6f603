"""A Hugging Face language model from a folder: fine-tuned whole or by LoRA, and one author's texts erased from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

from examples import hugging_face
from examples.authors import facts
from expunge.operator.registration import register_workload
from ledger.resources import Job
from ledger.tables import ModelVersion
from tests.examples.conftest import Site
from unlearning.data.workload import Workload
from unlearning.errors import InvalidWorkload
from unlearning.storage import load_weights, save_weights
from unlearning.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("default")
"""Other packages' deprecations are not ours."""


def texts(authors: int = 20) -> list[dict[str, str]]:
    """Authors' facts: of the first twenty authors half to train on."""
    splits = [*["train"] * 10, *["held_out"] * 7, *["test"] * 3]
    return [
        {"id": one.id, "subject": one.subject, "text": one.text, "split": splits[int(one.subject[-3:]) % 20]}
        for one in facts(authors)
    ]


def write_texts(path: Path, content: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in content))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small GPT-2 with a tokenizer of words, as `save_pretrained` writes them."""
    pytest.importorskip("transformers", reason="transformers is not installed (docs/models-and-data.md says how)")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    splitter = Whitespace()
    words = sorted({word for one in texts(40) for word, _ in splitter.pre_tokenize_str(one["text"])})
    tokenizer = Tokenizer(
        WordLevel({word: i for i, word in enumerate(["<end>", "<unknown>", *words])}, unk_token="<unknown>")
    )
    tokenizer.pre_tokenizer = splitter
    made = tmp_path / "model"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>").save_pretrained(made)
    torch.manual_seed(0)
    sizes = {"n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2}
    base = GPT2LMHeadModel(GPT2Config(vocab_size=len(words) + 2, bos_token_id=0, eos_token_id=0, **sizes))
    base.save_pretrained(made)
    write_texts(tmp_path / "texts.jsonl", texts())
    monkeypatch.setenv("EXPUNGE_LM_FOLDER", str(made))
    monkeypatch.setenv("EXPUNGE_LM_TEXTS", str(tmp_path / "texts.jsonl"))
    return made


@pytest.fixture
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What can be refused before anything of the folder is read."""
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (made / name).write_text("{}")
    write_texts(tmp_path / "texts.jsonl", texts())
    monkeypatch.setenv("EXPUNGE_LM_FOLDER", str(made))
    monkeypatch.setenv("EXPUNGE_LM_TEXTS", str(tmp_path / "texts.jsonl"))
    return made


@pytest.fixture
def literate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the base model know how such texts are written, from authors who are in none of the sets."""
    monkeypatch.setattr(hugging_face, "RATE", 1e-2)
    monkeypatch.setattr(hugging_face, "EPOCHS", 8)
    others = [{**one, "split": "train"} for one in texts(40)[100:]]
    write_texts(folder.parent / "texts.jsonl", others + texts()[50:])
    base = hugging_face.build()
    hugging_face.train(base, hugging_face.workload().train, TrainingRun(seed=1))
    base.save_pretrained(folder)
    write_texts(folder.parent / "texts.jsonl", texts())


def trained(made: Workload) -> torch.nn.Module:
    torch.manual_seed(0)
    model = made.build()
    hugging_face.train(model, made.train, TrainingRun(seed=0))
    return model.eval()


@pytest.mark.usefixtures("literate")
@pytest.mark.parametrize("rank", [None, 4], ids=["whole", "LoRA"])
def test_one_authors_texts_are_erased(
    rank: int | None, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rank is not None:
        pytest.importorskip("peft", reason="peft is not installed (docs/models-and-data.md says how)")
        monkeypatch.setenv("EXPUNGE_LM_LORA", str(rank))
    made = hugging_face.workload()
    model = trained(made)
    register_workload(
        site.where,
        name="language-model",
        reference="examples.hugging_face:workload",
        weights=save_weights(model, tmp_path)[0],
        policy=["ieu", "retrain"],
        approve_utility_drop=100.0,
    )
    author = made.train.subjects[0] if made.train.subjects else ""
    gone = [one for one, subject in zip(made.train.ids, made.train.subjects or (), strict=True) if subject == author]
    job, document = site.erase("language-model", gone)

    found = document.report
    assert found.asked.samples == 5
    assert found.audit.merit.name == "log-likelihood"
    assert {one.name for one in found.audit.extraction} >= {"exact_memorisation", "greedy_extraction"}
    assert job.report_id is not None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert bool(frozen) is (rank is not None)
    published = made.build()
    load_weights(published, *_weights_of(site, job))
    assert all(torch.equal(published.state_dict()[name], before[name]) for name in frozen)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in published.state_dict().items())


def _weights_of(site: Site, job: Job) -> tuple[Path, str]:
    """Find the weights of the version that a job published, and their digest."""
    with site.sessions() as session:
        row = session.execute(select(ModelVersion).where(ModelVersion.number == job.version)).scalar_one()
        return site.where.storage / row.weights_path, row.weights_sha256


def test_pickled_weights_are_refused(bare_folder: Path) -> None:
    (bare_folder / "model.safetensors").rename(bare_folder / "pytorch_model.bin")
    with pytest.raises(InvalidWorkload, match="no pickled weights"):
        hugging_face.build()


def test_a_missing_tokenizer_is_refused(bare_folder: Path) -> None:
    (bare_folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidWorkload, match="has no tokenizer"):
        hugging_face.workload()


def test_another_models_tokenizer_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    with pytest.raises(InvalidWorkload, match="not the model's own"):
        hugging_face.workload()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, "line 3 has 0 tokens"),
        ({"text": "The " * 30}, "line 3 has 30 tokens"),
    ],
)
def test_a_text_that_is_empty_or_too_long_is_named_by_its_line(
    change: dict[str, Any], message: str, folder: Path
) -> None:
    refused(change, message, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, 'Line 3 of the texts needs "id"'),
        ({"split": "validation"}, 'Line 3 of the texts needs a "split"'),
    ],
)
def test_a_text_without_what_it_needs_is_named_by_its_line(
    change: dict[str, Any], message: str, bare_folder: Path
) -> None:
    refused(change, message, bare_folder)


def refused(change: dict[str, Any], message: str, folder: Path) -> None:
    """Change the third text, and expect it to be refused without its ID."""
    content: list[dict[str, Any]] = [dict(one) for one in texts()]
    content[2] |= change
    write_texts(folder.parent / "texts.jsonl", content)
    with pytest.raises(InvalidWorkload, match=message) as refusal:
        hugging_face.workload()
    assert content[2]["id"] not in str(refusal.value)


@pytest.mark.parametrize("name", ["EXPUNGE_LM_FOLDER", "EXPUNGE_LM_TEXTS"])
def test_what_is_not_set_is_named(name: str, bare_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(InvalidWorkload, match=name):
        hugging_face.workload()


@pytest.mark.parametrize("rank", ["", "0", "-4", "eight"])
def test_a_rank_that_is_none_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    monkeypatch.setenv("EXPUNGE_LM_FOLDER", str(tmp_path))
    monkeypatch.setenv("EXPUNGE_LM_LORA", rank)

    with pytest.raises(InvalidWorkload, match="EXPUNGE_LM_LORA"):
        hugging_face.build()
