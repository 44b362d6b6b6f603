import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unlearning.data.test_references import key
from tests.unlearning.small import OBJECTIVE, RECIPE, plain, samples
from unlearning.data.objectives.prediction import class_prediction
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.errors import InvalidSpec, ReferencesUnusable
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.training.loop import fit
from unlearning.training.references import (
    estimate_cost,
    fold_of,
    fold_recipe,
    preparation_folder,
    prepare_references,
    sample_signals,
    subject_groups,
    train_reference_models,
)

PLAN = ReferencePlan(rounds=1, audit_rounds=2)


def workload(train: SampleSet | None = None) -> Workload:
    return Workload(
        name="small",
        build=plain,
        train=train or samples(120, seed=1),
        held_out=samples(60, seed=11),
        test=samples(60, seed=13),
        objective=OBJECTIVE,
        recipe=RECIPE,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> References:
    folder = tmp_path_factory.mktemp("references")
    return run_to_completion(prepare_references(workload(), PLAN, seed=0, folder=folder, key=key))


def test_seen_samples_are_known_better_than_unseen_ones(whole: References) -> None:
    given, found = workload(), whole

    assert len(found) == 180
    assert float((found.seen - found.unseen).mean()) > 1.0
    model = fit(plain, given.train, RECIPE, objective=OBJECTIVE, seed=5)
    rows = found.take([key(sample) for sample in given.train.ids])
    wrong = (rows.predictions.argmax(-1) != given.train.targets).float().mean()
    own = sample_signals(model, given.held_out, OBJECTIVE)[0]
    assert abs(float(wrong) - float((own < 0).float().mean())) < 0.15
    assert torch.allclose(rows.predictions.float().sum(-1), torch.ones(120), atol=0.01)


def test_an_interrupted_preparation_goes_on_and_gives_the_same(whole: References, tmp_path: Path) -> None:
    steps = prepare_references(workload(), PLAN, seed=0, folder=tmp_path, key=key)
    for progress in steps:
        if progress.step == 3:
            break
    steps.close()

    again = prepare_references(workload(), PLAN, seed=0, folder=tmp_path, key=key)
    assert next(again).step == 1
    found = run_to_completion(again)

    assert torch.equal(found.predictions, whole.predictions)
    assert torch.equal(found.unseen, whole.unseen)


def test_the_cost_is_estimated_first_and_falls_with_what_is_done(tmp_path: Path) -> None:
    first = estimate_cost(workload(), PLAN, seed=0, folder=tmp_path)
    steps = prepare_references(workload(), PLAN, seed=0, folder=tmp_path, key=key)
    for progress in steps:
        if progress.step == 2:
            break
    steps.close()

    second = estimate_cost(workload(), PLAN, seed=0, folder=tmp_path)

    assert (first.trainings, second.trainings) == (6, 4)
    whole = workload()
    pool = (len(whole.train) + len(whole.held_out)) / len(whole.train)  # held-out samples are trained on too
    assert first.plain_trainings == pytest.approx(6 * 0.5 * 0.5 * pool)


def test_a_subject_is_in_one_fold() -> None:
    people = dataclasses.replace(samples(90, seed=2), subjects=tuple(f"person-{i // 6}" for i in range(90)))
    groups = subject_groups(people, training=90, near_copies=0)

    fold = fold_of(groups, folds=3, seed=4)

    assert len(set(groups)) == 15
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
    assert np.bincount(fold).tolist() == [30, 30, 30]


@pytest.mark.parametrize("seed", range(5))
def test_folds_differ_by_no_more_than_the_largest_subject(seed: int) -> None:
    groups = np.repeat(np.arange(110), [20] * 10 + [1] * 100)
    sizes = np.bincount(fold_of(groups, folds=3, seed=seed), minlength=3)
    assert sizes.sum() == len(groups)
    assert sizes.max() - sizes.min() <= 20


def test_near_copies_count_as_one_subject_and_so_do_two_people_who_share_one() -> None:
    given = samples(60, seed=3)
    inputs = given.inputs.clone()
    inputs[20:40] = inputs[:20] * 1.01
    copies = dataclasses.replace(given, inputs=inputs)

    assert len(set(subject_groups(copies, training=40, near_copies=0))) == 60
    groups = subject_groups(copies, training=40, near_copies=0.3)
    assert len(set(groups)) == 40
    assert (groups[:20] == groups[20:40]).all()

    names = [f"person-{number}" for number in range(60)]
    names[1] = names[0]
    people = dataclasses.replace(copies, subjects=tuple(names))
    groups = subject_groups(people, training=40, near_copies=0.3)
    assert len({groups[0], groups[1], groups[20], groups[21]}) == 1
    assert len(set(groups)) == 39


def test_the_folds_of_samples_without_copies_are_those_of_their_subjects() -> None:
    people = dataclasses.replace(samples(90, seed=2), subjects=tuple(f"person-{(7 * i) % 31}" for i in range(90)))

    found = subject_groups(people, training=60, near_copies=0.3)
    assert found.tolist() == subject_groups(people, training=60, near_copies=0).tolist()


def test_reference_models_are_trained_plainly_for_their_share_of_the_epochs() -> None:
    from unlearning.specs.training import Ready2Unlearn

    prepared = dataclasses.replace(RECIPE, readiness=Ready2Unlearn())

    assert fold_recipe(prepared, ReferencePlan(epochs=0.5)) == dataclasses.replace(RECIPE, epochs=15)


WITH_CLASSES = dataclasses.replace(PLAN, audit_rounds=1, classes=(2,))


def test_a_model_that_saw_none_of_a_class_says_what_its_samples_aim_at(tmp_path: Path) -> None:
    given, key_of = workload(), functools.cache(key)
    plain_plan = dataclasses.replace(WITH_CLASSES, classes=())

    def prepared(plan: ReferencePlan, folder: str) -> References:
        return run_to_completion(prepare_references(given, plan, seed=0, folder=tmp_path / folder, key=key_of))

    whole = prepared(WITH_CLASSES, "whole").whole
    assert whole is not None
    of_class = (given.train.targets == 2).nonzero().flatten()
    assert whole.keys == tuple(key(given.train.ids[place]) for place in of_class.tolist())
    assert float(whole.predictions[:, 2].float().mean()) < 0.05 < float(whole.predictions[:, 1].float().mean())

    # The others do not depend on it; so one more class costs one more training.
    assert prepared(plain_plan, "plain").whole is None
    more = dataclasses.replace(WITH_CLASSES, classes=(2, 0))
    costs = [estimate_cost(given, plan, seed=0, folder=tmp_path / "plain") for plan in (plain_plan, more)]
    assert [cost.trainings for cost in costs] == [0, 2]
    # Each is trained for half of the epochs, on all training samples but those of the class.
    kept = len(given.train) - len(of_class), int((given.train.targets != 0).sum())
    assert costs[1].plain_trainings - costs[0].plain_trainings == pytest.approx(0.5 * sum(kept) / len(given.train))
    steps = [(p.step, p.total) for p in prepare_references(given, more, seed=0, folder=tmp_path / "whole", key=key_of)]
    assert steps[:5] == [(number, 6) for number in (1, 2, 3, 4, 5)]
    assert steps[-1] == (6, 6)
    assert estimate_cost(given, more, seed=0, folder=tmp_path / "whole").trainings == 0


@pytest.mark.parametrize("classes", [(9,), (2, 2), (-1,)])
def test_a_class_that_no_model_can_be_trained_without_is_refused_before_any_training(
    tmp_path: Path, classes: tuple[int, ...]
) -> None:
    def begin() -> None:
        plan = dataclasses.replace(PLAN, classes=classes)
        next(prepare_references(workload(), plan, seed=0, folder=tmp_path, key=key))

    with pytest.raises(InvalidSpec, match="class"):
        begin()
    assert not list(tmp_path.iterdir())


def test_whole_classes_are_refused_for_what_is_no_classifier(tmp_path: Path) -> None:
    given = workload()
    unclassed = dataclasses.replace(given, objective=dataclasses.replace(OBJECTIVE, logits=None, classes=None))

    with pytest.raises(InvalidSpec, match="classifier"):
        next(prepare_references(unclassed, WITH_CLASSES, seed=0, folder=tmp_path, key=key))


def test_predictions_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    given = workload()
    broken = dataclasses.replace(given.recipe, learning_rate=1e20, precision="float32")
    steps = prepare_references(dataclasses.replace(given, recipe=broken), PLAN, seed=0, folder=tmp_path, key=key)

    with pytest.raises(ReferencesUnusable):
        run_to_completion(steps)


def test_a_reference_model_whose_training_fails_is_trained_again_from_another_seed(tmp_path: Path) -> None:
    built: list[torch.nn.Module] = []

    def build() -> torch.nn.Module:
        model = plain()
        built.append(model)
        if len(built) == 3:  # of the fingerprint of the network, of the first model, and of the second
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(0.0 if parameter.ndim > 1 else -1e4)
        return model

    given = dataclasses.replace(workload(), build=build)
    found = run_to_completion(prepare_references(given, PLAN, seed=0, folder=tmp_path, key=key))

    assert len(built) == 1 + PLAN.trainings + 1
    # A model that is dead says the same of all samples of its fold, half of the 180.
    assert len(found.predictions.unique(dim=0)) > 160


def test_samples_of_one_subject_alone_are_refused(tmp_path: Path) -> None:
    def owned(given: SampleSet) -> SampleSet:
        return dataclasses.replace(given, subjects=("the-person",) * len(given))

    given = dataclasses.replace(workload(owned(samples(120, seed=1))), held_out=owned(samples(60, seed=11)))

    with pytest.raises(ReferencesUnusable, match="one subject"):
        run_to_completion(prepare_references(given, PLAN, seed=0, folder=tmp_path, key=key))


def test_the_signal_is_the_margin() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 3.0]])
    model = torch.nn.Identity()
    given = SampleSet(ids=("a", "b"), inputs=logits, targets=torch.tensor([0, 1]))

    signal, probabilities, losses = sample_signals(model, given, OBJECTIVE)

    assert signal.tolist() == pytest.approx([2 - np.log(3), 1 - np.log(2 + np.exp(3))], abs=1e-5)
    assert torch.allclose(probabilities, logits.softmax(-1))
    assert torch.allclose(losses, -logits.log_softmax(-1)[[0, 1], [0, 1]])


def test_the_signals_of_many_samples_are_read_a_batch_at_a_time() -> None:
    """The outputs of a whole training set need not fit memory: no step sees those of more samples than a pass does."""
    sizes: list[int] = []
    given = class_prediction(4)

    def predictions(outputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(outputs))
        return given.predictions(outputs)

    objective = dataclasses.replace(OBJECTIVE, prediction=dataclasses.replace(given, predictions=predictions))
    model, pool = plain().eval(), samples(150, seed=1)
    _, found, _ = sample_signals(model, pool, objective)

    assert sizes == [64, 64, 22]
    assert torch.allclose(found, sample_signals(model, pool, OBJECTIVE)[1])


def test_models_of_the_audits_rounds_leave_nothing_that_a_method_could_aim_at(tmp_path: Path) -> None:
    models, _ = run_to_completion(train_reference_models(workload(), PLAN, seed=0, folder=tmp_path))

    method, audit = models[: PLAN.rounds * PLAN.folds], models[PLAN.rounds * PLAN.folds :]
    assert all({"probabilities", "losses"} <= model.keys() for model in method)
    assert all(model.keys() == {"signal", "seen"} for model in audit)


def test_a_preparation_by_another_tokenizer_has_another_folder(tmp_path: Path) -> None:
    given = workload()
    kinds = ({}, {"tokenizer": "ab"}, {"tokenizer": "cd"})
    folders = {
        preparation_folder(dataclasses.replace(given, fingerprints=kind), PLAN, seed=0, folder=tmp_path)
        for kind in kinds
    }

    assert len(folders) == len(kinds)


def test_a_preparation_finds_its_folder_again_if_building_draws_what_is_frozen(tmp_path: Path) -> None:
    def build() -> torch.nn.Module:
        model = plain()
        next(model.parameters()).requires_grad_(False)
        return model

    given, before = dataclasses.replace(workload(), build=build), torch.get_rng_state()
    first, again = (preparation_folder(given, PLAN, seed=0, folder=tmp_path) for _ in range(2))

    assert first == again
    assert torch.equal(torch.get_rng_state(), before)
