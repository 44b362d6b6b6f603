"""A Hugging Face language model from a folder: fine-tuned whole or by LoRA, and one author's texts erased from it."""

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy import select

from examples import authors, hugging_face
from examples.authors import facts
from expunge.errors import CannotRegister
from expunge.operator.registration import register_new_version, register_workload
from ledger.resources import Job
from ledger.states import JobState, Reason
from ledger.tables import ModelVersion
from tests.examples.conftest import Site
from tests.fixtures.registration import RETRAINED
from tests.unlearning.data.test_references import key
from unlearning.audit.relearning import mean_loss
from unlearning.data.objectives.targets import IGNORED
from unlearning.data.workload import Workload, split_held_out
from unlearning.errors import InvalidWorkload
from unlearning.methods.registry import unlearn
from unlearning.networks import copy_network
from unlearning.specs import LTU, NPO, Matching
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.storage import load_weights, save_weights
from unlearning.task import Task
from unlearning.training.references import prepare_references
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


@pytest.mark.usefixtures("literate")
@pytest.mark.parametrize("rank", [None, 16], ids=["whole", "LoRA"])
def test_matching_ltu_and_npo_forget_one_authors_texts_and_leave_what_is_frozen(
    rank: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rank is not None:
        pytest.importorskip("peft", reason="peft is not installed (docs/models-and-data.md says how)")
        monkeypatch.setenv("EXPUNGE_LM_LORA", str(rank))
        # So small an adapter learns little by heart.
        for name, value in {"RATE": 5e-3, "EPOCHS": 60, "BATCH": 4}.items():
            monkeypatch.setattr(hugging_face, name, value)
    made = hugging_face.workload()
    model, held_out = trained(made), split_held_out(made.held_out)
    chosen = torch.tensor([name == (made.train.subjects or ())[0] for name in made.train.subjects or ()])
    forget, remain = (made.train.take(mask.nonzero().flatten()) for mask in (chosen, ~chosen))
    plan = ReferencePlan(rounds=1, audit_rounds=1)
    references = run_to_completion(prepare_references(made, plan, seed=0, folder=tmp_path / "references", key=key))
    known = mean_loss(model, forget.batch, made.objective)
    frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
    assert bool(frozen) is (rank is not None)

    for spec in (
        Matching(steps=20, learning_rate=0.2, batch_size=8, passes=0.0),
        LTU(order="first", steps=4, repair_steps=4, query_size=8, batch_size=8, passes=0.0),
        NPO(epochs=4, learning_rate=1e-3, batch_size=8),
    ):
        task = Task(
            model=copy_network(model),
            build=made.build,
            objective=made.objective,
            recipe=made.training,
            forget=forget,
            remain=remain,
            guide=held_out.guide,
            criterion=held_out.criterion,
            references=references.for_method([key(name) for name in forget.ids], key=key),
        )
        run_to_completion(unlearn(spec, task))
        weights = dict(task.model.named_parameters())

        # LTU's stop keeps a state near the original's loss where so little is known by heart.
        if rank is None or spec.kind != "ltu":
            assert mean_loss(task.model.eval(), forget.batch, made.objective) > known + 0.05, spec.kind
        assert any(not torch.equal(weights[name], weight) for name, weight in model.named_parameters())
        assert all(torch.equal(weights[name], weight) for name, weight in frozen.items())
        assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


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


@pytest.fixture(params=["transformers", "a library like it"])
def readable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose tokenizer and configuration are read by transformers, or by what stands for it where it is not installed."""
    if request.param == "transformers":
        return request.getfixturevalue("folder")
    folder: Path = request.getfixturevalue("bare_folder")
    words = sorted({word for one in texts(40) for word in one["text"].split()})
    (folder / "config.json").write_text(json.dumps({"vocab_size": len(words) + 1, "n_positions": 24}))
    (folder / "tokenizer.json").write_text(json.dumps(["<end>", *words]))
    library = ModuleType("transformers")
    vars(library).update(AutoConfig=WordConfig, AutoTokenizer=WordTokenizer)
    monkeypatch.setitem(sys.modules, "transformers", library)
    return folder


class WordConfig:
    @staticmethod
    def from_pretrained(folder: Path, *, local_files_only: bool) -> SimpleNamespace:
        assert local_files_only
        return SimpleNamespace(**json.loads((folder / "config.json").read_text()))


class WordTokenizer:
    """Gives each word a token, and unknown words the first one's."""

    eos_token_id = 0

    def __init__(self, words: list[str]) -> None:
        self.words = words

    @classmethod
    def from_pretrained(cls, folder: Path, *, local_files_only: bool) -> "WordTokenizer":
        assert local_files_only
        return cls(json.loads((folder / "tokenizer.json").read_text()))

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        known = {word: number for number, word in enumerate(self.words)}
        return {"input_ids": [known.get(word, 1) for word in text.split()]}

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        return " ".join(self.words[number] for number in tokens if number or not skip_special_tokens)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(readable: Path) -> None:
    config = json.loads((readable / "config.json").read_text())
    (readable / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    with pytest.raises(InvalidWorkload, match="not the model's own"):
        hugging_face.workload()


def other_tokenizer(folder: Path, *, tokens: int | None = None) -> None:
    """Give the folder another model's tokenizer: of the same words in another order, or of fewer."""
    found = json.loads((folder / "tokenizer.json").read_text())
    words = found if isinstance(found, list) else list(found["model"]["vocab"])
    first, *others = words[: tokens or len(words)]
    if isinstance(found, list):
        other: Any = [first, *reversed(others)]
    else:
        special, *others = others
        numbers = {word: number for number, word in enumerate([first, special, *reversed(others)])}
        other = {**found, "model": {**found["model"], "vocab": numbers}}
    (folder / "tokenizer.json").write_text(json.dumps(other))


@pytest.mark.parametrize("tokens", [None, 50], ids=["as many tokens", "fewer tokens"])
def test_another_tokenizer_than_the_model_was_registered_with_fails_the_job_also_if_its_tokens_fit(
    tokens: int | None, readable: Path, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugging_face, "build", partial(authors.GPT, 16, layers=1))  # nothing is trained here
    made = hugging_face.workload()
    register_workload(
        site.where,
        name="language-model",
        reference="examples.hugging_face:workload",
        weights=save_weights(made.build(), tmp_path)[0],
        **RETRAINED,
        dry_run=False,
        accept_untrained=True,
    )
    recorded = made.fingerprints["tokenizer"]
    other_tokenizer(readable, tokens=tokens)
    hugging_face.workload()  # by itself it is as good as the first
    with pytest.raises(CannotRegister, match=recorded):
        register_new_version(site.where, name="language-model", weights=save_weights(made.build(), tmp_path)[0])
    with site.serve() as http:
        answer = http.post("/unlearn-requests", json={"subjects": [(made.train.subjects or ())[0]]})
        job = site.end(answer.json()["targets"][0]["job"]["id"])

    assert (job.state, job.reason) == (JobState.FAILED, Reason.WORKLOAD_FAILED)
    assert recorded in (job.detail or "")


def test_the_script_records_its_tokenizer_and_another_cannot_be_registered_with_its_weights(
    folder: Path, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hugging_face, "EPOCHS", 1)
    monkeypatch.chdir(tmp_path)
    hugging_face.main()
    weights = tmp_path / capsys.readouterr().out.strip()
    register = partial(
        register_workload,
        site.where,
        name="language-model",
        reference="examples.hugging_face:workload",
        weights=weights,
        **RETRAINED,
        dry_run=False,
        accept_untrained=True,
    )
    as_it_was, recorded = (folder / "tokenizer.json").read_text(), hugging_face.workload().fingerprints["tokenizer"]
    other_tokenizer(folder)
    with pytest.raises(CannotRegister, match=recorded):
        register()
    (folder / "tokenizer.json").write_text(as_it_was)
    assert register().details["fingerprints"] == dict(hugging_face.workload().fingerprints)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, "line 3 has 0 tokens"),
        ({"text": " \n"}, "line 3 has 0 tokens"),
        ({"text": "The " * 30}, "line 3 has 30 tokens"),
        ({"text": "The " * 24}, "line 3 has 24 tokens"),
    ],
)
def test_a_text_that_is_empty_or_too_long_is_named_by_its_line(
    change: dict[str, Any], message: str, readable: Path
) -> None:
    refused(change, message, readable)


def test_the_longest_text_that_fits_is_taken(readable: Path) -> None:
    content = texts()
    content[2]["text"] = "The " * 23
    write_texts(readable.parent / "texts.jsonl", content)
    made = hugging_face.workload()
    batch = made.train.batch
    assert batch.inputs["input_ids"].shape[1] == 24
    assert int(batch.inputs["attention_mask"][2].sum()) == 24
    assert int((batch.targets == IGNORED).sum()) == int((batch.inputs["attention_mask"] == 0).sum()) > 0


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
