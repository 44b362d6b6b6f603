"""The objectives that are given, against torch's and scikit-learn's own numbers."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, r2_score
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.kinds import OBJECTIVES, samples
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, answers, classification, multi_label, regression
from unlearning.data.objectives.objective import fitted
from unlearning.errors import InvalidWorkload, UnsupportedWorkload

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(60, 4, generator=GENERATOR)
LABELS = torch.randint(4, (60,), generator=GENERATOR)
MANY = (torch.rand(60, 4, generator=GENERATOR) < 0.3).float()
VALUES = 50 + 7 * torch.randn(60, 2, generator=GENERATOR)
NUMBERS = VALUES + torch.randn(60, 2, generator=GENERATOR) * torch.tensor([2.0, 5.0])


def found(objective: Objective, outputs: Tensor, targets: Tensor):  # type: ignore[no-untyped-def]  # a short form
    return answers(objective, lambda inputs: outputs, Batch(torch.zeros(len(outputs)), targets))


def test_class_weights_and_label_smoothing_are_torchs() -> None:
    weights = [1.0, 2.0, 0.5, 4.0]
    losses = found(classification(4, weights=weights, label_smoothing=0.1), LOGITS, LABELS).losses
    usual = nn.CrossEntropyLoss(weight=torch.tensor(weights), label_smoothing=0.1, reduction="none")(LOGITS, LABELS)
    torch.testing.assert_close(losses, usual / np.mean(weights))


def test_a_reference_prediction_has_the_loss_that_a_model_with_it_would_have() -> None:
    for objective, outputs, targets in (
        (classification(4), LOGITS, LABELS),
        (classification(4, weights=[1, 2, 3, 4], label_smoothing=0.2), LOGITS, LABELS),
        (multi_label(4), LOGITS, MANY),
        (fitted(regression(2), NUMBERS), VALUES, NUMBERS),
        (fitted(regression(2, huber=0.3), NUMBERS), VALUES, NUMBERS),
    ):
        predicts = objective.predicts
        assert predicts is not None
        under = predicts.losses(predicts.predictions(outputs.double()), targets)
        torch.testing.assert_close(under.float(), found(objective, outputs, targets).losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_guide_attacks_read_the_same_from_a_prediction_as_from_the_outputs_that_give_it(name: str) -> None:
    kind = OBJECTIVES[name]
    data = samples(kind, 6, name="some", seed=1)
    objective = fitted(kind.objective, data.targets)
    with torch.no_grad():
        outputs = answers(objective, kind.build().eval(), data.batch).outputs
    predicts = objective.predicts
    assert (predicts is None) is (outputs is None)
    if predicts is None or outputs is None:
        return
    assert predicts.answered is not None
    again = predicts.answered(predicts.predictions(outputs))

    for features in predicts.features:
        torch.testing.assert_close(features(again, data.targets), features(outputs, data.targets), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("objective", "outputs"),
    [(classification(4), LOGITS), (multi_label(4), LOGITS), (fitted(regression(2), NUMBERS), VALUES)],
    ids=["classification", "multi-label", "regression"],
)
def test_a_model_that_gives_the_reference_is_at_distance_zero_and_any_other_farther(
    objective: Objective, outputs: Tensor
) -> None:
    predicts = objective.predicts
    assert predicts is not None
    aim = predicts.predictions(outputs)
    for temperature in (1.0, 2.0):
        assert predicts.divergences(aim, outputs, temperature).abs().max() < 1e-5
        assert (predicts.divergences(aim, outputs.roll(1, 0), temperature) > 0).all()
    rows = predicts.distributions(outputs)
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[:, 0]))
    assert len(rows) % len(outputs) == 0


def test_multi_label_is_binary_cross_entropy_and_its_merit_the_mean_f1_of_the_samples() -> None:
    given = found(multi_label(4), LOGITS, MANY)
    usual = nn.BCEWithLogitsLoss(reduction="none")(LOGITS, MANY).mean(-1)
    wanted = 100 * f1_score(MANY.numpy(), (LOGITS > 0).numpy(), average="samples", zero_division=1.0)

    torch.testing.assert_close(given.losses, usual)
    assert float(multi_label(4).utility.of(given).mean()) == pytest.approx(wanted)


def test_the_chance_of_an_f1_score_is_that_of_the_best_labels_to_give_always() -> None:
    chance = multi_label(4).utility.chance
    assert chance is not None
    constant = [
        100 * f1_score(MANY.numpy(), np.tile(given, (60, 1)), average="samples", zero_division=1.0)
        for given in itertools.product((0, 1), repeat=4)
    ]
    assert chance(MANY) == pytest.approx(max(constant))


def test_with_one_label_what_is_known_is_the_margin_of_two_classes() -> None:
    one, label = LOGITS[:, :1], MANY[:, :1]
    many, two = found(multi_label(1), one, label), found(classification(2), one, label[:, 0].long())

    torch.testing.assert_close(many.losses, two.losses)
    torch.testing.assert_close(multi_label(1).known(many), classification(2).known(two), rtol=1e-4, atol=1e-5)


def test_regression_is_half_the_squared_error_in_deviations_and_its_merit_the_explained_variance() -> None:
    objective = fitted(regression(2), NUMBERS)
    given = found(objective, VALUES, NUMBERS)
    deviation = NUMBERS.std(0, correction=0)

    torch.testing.assert_close(given.losses, (((VALUES - NUMBERS) / deviation) ** 2).mean(-1) / 2)
    assert float(objective.utility.of(given).mean()) == pytest.approx(100 * r2_score(NUMBERS, VALUES), rel=1e-5)
    guessed = found(objective, NUMBERS.mean(0, keepdim=True).expand(60, 2), NUMBERS)
    assert float(objective.utility.of(guessed).mean()) == pytest.approx(0, abs=1e-4)


def test_a_scale_sets_the_unit_of_the_loss_and_not_of_the_merit() -> None:
    usual, own = (fitted(regression(2, scale=scale), NUMBERS) for scale in (None, 1.0))
    losses = found(own, VALUES, NUMBERS).losses
    torch.testing.assert_close(losses, nn.MSELoss(reduction="none")(VALUES, NUMBERS).mean(-1) / 2)
    torch.testing.assert_close(
        own.utility.of(found(own, VALUES, NUMBERS)), usual.utility.of(found(usual, VALUES, NUMBERS))
    )


def test_an_error_beyond_hubers_bound_counts_linearly() -> None:
    objective = fitted(regression(2, huber=0.5, scale=2.0), NUMBERS)
    usual = functional.huber_loss(VALUES / 2, NUMBERS / 2, delta=0.5, reduction="none").mean(-1)
    torch.testing.assert_close(found(objective, VALUES, NUMBERS).losses, usual)


def test_predictions_of_one_number_come_as_they_are_or_as_a_column() -> None:
    objective, column = fitted(regression(), NUMBERS[:, :1]), VALUES[:, :1]
    for outputs in (column, column[:, 0], {"logits": column}):
        torch.testing.assert_close(
            objective.losses(lambda inputs, outputs=outputs: outputs, Batch(column, NUMBERS[:, :1])),
            found(objective, column, NUMBERS[:, :1]).losses,
        )


@pytest.mark.parametrize(
    ("objective", "targets", "shape", "dtype"),
    [
        (regression(), torch.arange(5), (5, 1), torch.float32),
        (regression(), torch.arange(5.0, dtype=torch.float64)[:, None], (5, 1), torch.float64),
        (regression(2), torch.ones(5, 2, dtype=torch.bfloat16), (5, 2), torch.float32),
        (multi_label(3), torch.ones(5, 3, dtype=torch.bool), (5, 3), torch.float32),
        (multi_label(1), torch.zeros(5, dtype=torch.uint8), (5, 1), torch.float32),
    ],
)
def test_targets_are_converted_once(
    objective: Objective, targets: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    converted = objective.convert_targets(targets, name="train")
    assert (converted.shape, converted.dtype) == (shape, dtype)
    assert torch.equal(objective.convert_targets(converted, name="train"), converted)


@pytest.mark.parametrize(
    ("objective", "targets", "message"),
    [
        (regression(), torch.tensor([1.0, math.nan, math.inf]), "2 samples of the train set"),
        (regression(2), torch.ones(5), r"needs \(n, 2\)"),
        (regression(), torch.ones(5, 3), r"needs \(n, 1\), or \(n,\)"),
        (multi_label(3), torch.tensor([[0, 1, 2]]), "other than 0 and 1"),
        (multi_label(3), torch.tensor([[0, 1, math.nan]]), "other than 0 and 1"),
        (multi_label(3), torch.arange(3), r"needs \(n, 3\)"),
        (classification(3), torch.ones(5, 3), r"multi_label\(labels\), numbers regression\(outputs\)"),
        (Objective(losses=regression().losses), torch.tensor([[1.0], [math.nan]]), "1 samples of the train set"),
    ],
)
def test_targets_that_do_not_suit_are_refused_with_what_is_needed(
    objective: Objective, targets: Tensor, message: str
) -> None:
    with pytest.raises(InvalidWorkload, match=message):
        objective.convert_targets(targets, name="train")


@pytest.mark.parametrize(
    "make",
    [
        lambda: regression(0),
        lambda: regression(scale=0.0),
        lambda: regression(huber=-1.0),
        lambda: multi_label(0),
        lambda: classification(3, weights=[1, 2]),
        lambda: classification(3, weights=[1, 2, math.nan]),
        lambda: classification(3, label_smoothing=1.0),
        lambda: Objective(losses=regression().losses, outputs=regression().outputs),
    ],
)
def test_parameters_out_of_range_are_refused(make) -> None:  # type: ignore[no-untyped-def]  # a table of calls
    with pytest.raises(UnsupportedWorkload):
        make()


def test_held_out_targets_that_are_equal_tell_no_scale() -> None:
    with pytest.raises(InvalidWorkload, match="all equal"):
        fitted(regression(), torch.ones(5, 1))


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 2)])
def test_predictions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for objective, targets in ((regression(2), NUMBERS[:5]), (multi_label(2), MANY[:5, :2])):
        with pytest.raises(UnsupportedWorkload, match=r"needs \(n, 2\)"):
            objective.losses(lambda inputs: torch.zeros(shape), Batch(torch.zeros(5), targets))


def test_scrambled_targets_do_not_depend_on_the_true_ones() -> None:
    many = torch.arange(4000.0)[:, None]
    number = fitted(regression(), many)
    drawn = number.scrambled(Batch(many, many), torch.Generator().manual_seed(1)).targets
    assert abs(np.corrcoef(drawn[:, 0], many[:, 0])[0, 1]) < 0.05
    assert float(drawn.mean()) == pytest.approx(float(many.mean()), rel=0.05)
    assert float(drawn.std()) == pytest.approx(float(many.std()), rel=0.05)
    labels = multi_label(4).scrambled(Batch(many, MANY.repeat(60, 1)), torch.Generator().manual_seed(1)).targets
    assert set(labels.unique().tolist()) == {0.0, 1.0}
    assert labels.dtype == torch.float32
