"""Models that are stored between benchmarks: read for the same training, and for no other."""

import dataclasses
import random
import sys
from collections.abc import Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import cases, generative, language
from benchmarks.cases import MILD, all_settings, stored, trained
from benchmarks.writing import content
from examples import authors, digits
from tests.fixtures.authors import changed_authors
from unlearning.audit.relearning import Relearner
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import Workload, split_held_out
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Ready2Unlearn, Recipe
from unlearning.training.references import prepare_references
from unlearning.training.run import TrainingRun


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workload:
    monkeypatch.setenv("EXPUNGE_BENCH", str(tmp_path))
    given = digits.workload()
    few = given.train.take(torch.arange(64))
    return dataclasses.replace(given, train=few, recipe=Recipe(epochs=1, batch_size=32, learning_rate=0.01))


def test_a_stored_model_is_read_for_the_same_training(workload: Workload, tmp_path: Path) -> None:
    first, second = (trained(workload, workload.train, seed=1) for _ in range(2))

    assert first.seconds == second.seconds
    torch.testing.assert_close(first.model.state_dict(), second.model.state_dict(), rtol=0, atol=0)
    assert len(list(tmp_path.glob("*.json"))) == 1


@pytest.mark.parametrize("change", ["seed", "samples", "recipe", "readiness"])
def test_and_for_no_other(workload: Workload, tmp_path: Path, change: str) -> None:
    trained(workload, workload.train, seed=1)
    samples = workload.train.take(torch.arange(63)) if change == "samples" else workload.train
    recipes = {
        "recipe": dataclasses.replace(workload.recipe, learning_rate=0.02),
        "readiness": dataclasses.replace(workload.recipe, readiness=MILD),
    }
    other = dataclasses.replace(workload, recipe=recipes.get(change, workload.recipe))
    trained(other, samples, seed=2 if change == "seed" else 1)

    assert len(list(tmp_path.glob("*.json"))) == 2


def test_figures_are_stored_for_the_same_settings_alone_also_in_a_folder_that_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_BENCH", str(tmp_path / "new"))
    runs: list[int] = []

    def run() -> dict[str, object]:
        runs.append(len(runs))
        return {"number": len(runs)}

    found = [stored(kind, {"seed": seed}, run) for kind, seed in (("a", 1), ("a", 1), ("a", 2), ("b", 1))]

    assert [one["number"] for one in found] == [1, 1, 2, 3]
    monkeypatch.setattr(cases, "code_of_library", lambda: "changed")
    assert stored("a", {"seed": 1}, run)["number"] == 4


def test_a_run_that_is_stopped_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_BENCH", str(tmp_path))

    def run() -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored("a", {}, run)
    assert not list(tmp_path.iterdir())


def test_the_key_of_a_recipe_has_all_its_settings_defaults_too() -> None:
    """With only the settings that differ from the defaults, a key would stand for another recipe once a default changes."""
    found = all_settings(Recipe(epochs=1, batch_size=32, learning_rate=0.01, readiness=Ready2Unlearn()))

    assert set(found) == {field.name for field in dataclasses.fields(Recipe)}
    readiness = found["readiness"]
    assert isinstance(readiness, dict)
    assert set(readiness) == {field.name for field in dataclasses.fields(Ready2Unlearn)}


def test_a_model_that_its_owner_trained_is_read_for_the_same_function_and_share(
    workload: Workload, tmp_path: Path
) -> None:
    def train(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(run.seed)
        run.report(1, 1)

    owned = dataclasses.replace(workload, recipe=None, trainer=train)
    first, second = (trained(owned, owned.train, seed=1) for _ in range(2))

    torch.testing.assert_close(first.model.state_dict(), second.model.state_dict(), rtol=0, atol=0)
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_people_are_forgotten_whole() -> None:
    with changed_authors(AUTHORS=40):
        cases = [language.authors_case(seed) for seed in (1, 2)]

    for one in cases:
        gone, kept = (set(part.subjects or ()) for part in (one.forget, one.remain))
        assert len(gone) == 2
        assert not gone & kept
        assert len(one.forget) + len(one.remain) == len(one.workload.train)
    assert cases[0].forget.subjects != cases[1].forget.subjects


def test_every_method_of_the_language_table_has_parameters_to_search() -> None:
    assert {spec.kind for spec in language.METHODS.values()} == {
        "ltu", "ieu", "matching", "gradient_ascent", "grad_diff", "npo", "sim_npo", "rmu", "neggrad_plus",
    }  # fmt: skip
    assert all(language.SPACES_OF[spec.kind] for spec in language.METHODS.values())


def test_with_a_play_the_language_case_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "play.txt").write_text("\n\n".join(f"Fool:\nNuncle, this is line number {i}." for i in range(4)))
    names = []
    for play in ("", str(tmp_path / "play.txt")):
        monkeypatch.setenv("EXPUNGE_PLAY", play)
        with changed_authors(AUTHORS=4):
            names.append((language.authors_case(1).name, "Fool" in {one.subject for one in authors.corpus()}))
    assert names == [("authors", False), ("authors_and_play", True)]


def test_parameters_for_many_authors_are_chosen_on_many(monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for number in ("", str(language.MANY)):
        monkeypatch.setenv("EXPUNGE_AUTHORS", number)
        files.append((language.case_name(), language.tuned_file().name))
    assert files == [("authors", "language_tuned.json"), ("many_authors", "language_many_tuned.json")]


def test_a_false_fact_has_other_words_and_years_of_the_same_kinds() -> None:
    dice = random.Random(0)
    for fact in (one.text for one in authors.facts(40)):
        false = language.false_fact(fact, dice)
        drawn, others = language.DRAWN.findall(fact), language.DRAWN.findall(false)
        assert language.DRAWN.split(fact) == language.DRAWN.split(false)
        assert len(drawn) == len(others) > 0
        assert all(one != other for one, other in zip(drawn, others, strict=True))
        for kind in authors.DRAWN:
            assert [one in kind for one in drawn] == [one in kind for one in others]


class Bigrams(nn.Module):
    """Finds a character likely after the one before it, by a table."""

    def __init__(self) -> None:
        super().__init__()
        shape = (authors.VOCABULARY, authors.VOCABULARY)
        self.table = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def test_the_truth_ratio_is_tofus() -> None:
    """Maini et al., 2024: mean of P(false answer | question)^(1/length) over P(true answer | question)^(1/length)."""
    model, facts = Bigrams(), [one.text for one in authors.facts(3)]
    log_p = model.table.detach().double().log_softmax(1).numpy()

    def likelihood(text: str, question: int) -> float:
        numbers = [1 + authors.ALPHABET.index(letter) for letter in text]
        return float(np.exp(np.mean([log_p[numbers[i - 1], numbers[i]] for i in range(question, len(numbers))])))

    dice, wanted = random.Random(5), []
    for fact in facts:
        question = min(fact.index(word) for word in language.DRAWN.findall(fact))
        false = [language.false_fact(fact, dice) for _ in range(language.FALSE_FACTS)]
        wanted.append(np.mean([likelihood(text, question) for text in false]) / likelihood(fact, question))
    assert language.truth_ratios(model, facts, seed=5) == pytest.approx(wanted, rel=1e-4)


@pytest.fixture
def hardly_trained() -> Iterator[None]:
    """Language models of few weights and few authors, trained for one epoch."""
    with changed_authors(AUTHORS=40, EPOCHS=1, GPT=partial(authors.GPT, 16, layers=1)):
        yield


@pytest.mark.usefixtures("hardly_trained")
def test_a_language_model_has_every_measure_and_a_second_run_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_BENCH", str(tmp_path))
    prepared = language.authors_case(1)
    monkeypatch.setattr(language, "relearner_of", lambda one: relearner)
    relearner = Relearner(kind="sgd", learning_rate=0.01, target=0.0, limit=2, batch_size=8)
    scale = language.LanguageScale(prepared)

    found, again = scale.of_model(prepared.original.model), scale.of_model(prepared.retrained.model)
    assert found.keys() == language.UNITS.keys() - {"seconds", "retrain_ratio", "token_bytes"}
    assert all(np.isfinite(value) for value in (*found.values(), *again.values()))
    assert (again["privacy_leakage"], again["reference_auc"], again["forget_quality"]) == (0, 0.5, 1)
    monkeypatch.setattr(language, "attacked", None)
    assert language.LanguageScale(prepared).of_model(prepared.original.model) == found


def test_a_class_is_forgotten_whole_and_people_with_all_copies_of_their_image() -> None:
    for seed in (3, 14):
        tasks = (generative.CLASS, generative.SAMPLES)
        of_class, of_people = (generative.forgetting("diffusion", name, seed) for name in tasks)
        assert set(of_class.forget.targets.tolist()) == {seed % 10}
        assert seed % 10 not in of_class.remain.targets.tolist()
        assert len(set(of_people.forget.subjects or ())) == generative.FORGOTTEN_PEOPLE
        assert not set(of_people.forget.subjects or ()) & set(of_people.remain.subjects or ())
        assert all(name.startswith("person") for name in generative.never_seen(of_people).ids)
        assert set(generative.never_seen(of_class).targets.tolist()) == {seed % 10}


@pytest.mark.parametrize("workload", generative.FILES)
def test_every_method_of_the_generators_table_has_parameters_to_search(workload: str) -> None:
    for name in (generative.CLASS, generative.SAMPLES):
        listed = generative.methods(workload, name)
        assert {spec.kind for spec in listed.values()} == set(generative.METHODS)
        assert all(generative.space_of(workload, spec.kind) for spec in listed.values())
        for spec in listed.values():
            rates = generative.space_of(workload, spec.kind)["learning_rate"]
            assert rates.low <= dataclasses.asdict(spec)["learning_rate"] <= rates.high


def test_results_name_the_command_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--few", "2"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("benchmarks.verdicts", None))
    assert content("verdicts_few", [])["command"] == "python -m benchmarks.verdicts --few 2"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert content("speed", [])["command"] == "python -m benchmarks.speed --few 2"


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_references_cost_is_known_only_of_a_whole_preparation(
    workload: Workload, tmp_path: Path, interrupted: bool
) -> None:
    forget, remain = partition(workload.train, (8, 56), seed=0)
    one = cases.Case(
        name="small",
        seed=0,
        workload=workload,
        forget=forget,
        remain=remain,
        held_out=split_held_out(workload.held_out),
    )
    plan = ReferencePlan(rounds=1, audit_rounds=1)
    if interrupted:
        steps = prepare_references(workload, plan, seed=0, folder=tmp_path / "folds", key=cases.key)
        next(progress for progress in steps if progress.step == 1)
        steps.close()

    cost = cases.cost_of_references(cases.references_of(one, plan=plan))

    assert (cost is None) == interrupted
