"""The attack on features: it sees what outputs hide, and nothing on a model that never saw the samples."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from tests.unlearning.audit.conftest import FAST, OBJECTIVE, World, changed
from unlearning.audit.feature_attack import LinearProbe, feature_attack, feature_readers
from unlearning.audit.intervals import Interval
from unlearning.audit.membership import Attack, evaluate_attacks, pair_sets
from unlearning.audit.signals import audit_copy, observe_all
from unlearning.audit.verdict import feature_findings
from unlearning.data.objectives import regression
from unlearning.features import FeatureReader, penultimate_features


def attacked(world: World, model: nn.Module) -> tuple[Attack, Attack]:
    """The attack by features and the one by loss."""
    model = audit_copy(model, world.sets["forget"])
    pairing = pair_sets(world.sets["forget"], world.sets["held_out"], objective=OBJECTIVE, spec=FAST, seed=0)
    readers = feature_readers(model, world.sets, pairing, objective=OBJECTIVE, spec=FAST, seed=0)
    signals = observe_all(model, world.sets, objective=OBJECTIVE, batch_size=256, readers=readers)
    found = feature_attack(readers, signals, pairing, classes=OBJECTIVE.classes, spec=FAST)
    assert found is not None
    return found, evaluate_attacks(signals, pairing, spec=FAST)["loss"]


def test_features_tell_what_a_changed_last_layer_hides(world: World) -> None:
    def hide(model: nn.Module) -> None:
        """Teach the last layer alone to answer as the retrained model does."""
        assert isinstance(model, nn.Sequential)
        forget, remain = world.sets["forget"], world.sets["remain"]
        with torch.no_grad():
            aim = world.models["retrained"](forget.inputs).softmax(1)
        optimiser = torch.optim.SGD(model[-1].parameters(), lr=0.05)
        for _ in range(100):
            loss = nn.functional.cross_entropy(model(forget.inputs), aim)
            loss = loss + nn.functional.cross_entropy(model(remain.inputs), remain.targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    (original, by_loss), (hidden, by_hidden_loss), (retrained, _) = (
        attacked(world, model)
        for model in (
            world.models["original"], changed(world.models["original"], hide), world.models["retrained"]
        )
    )  # fmt: skip
    assert by_hidden_loss.auc.value < by_loss.auc.value - 0.04
    assert hidden.auc == original.auc
    assert original.auc.low > 0.5
    assert retrained.auc.low < 0.5 < retrained.auc.high


def test_the_probe_is_ridge_regression_on_the_classes() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=60)
    features = rng.normal(size=(60, 5)) + targets[:, None]
    own = LinearProbe(features, targets, classes=3).margins(features, targets)

    centred = features - features.mean(axis=0)
    theirs = Ridge(alpha=1e-2 * float((centred**2).sum()) / 5).fit(features, np.eye(3)[targets]).predict(features)
    for place, target in enumerate(targets):
        others = np.delete(theirs[place], target)
        assert own[place] == pytest.approx(theirs[place, target] - others.max())


def test_features_are_read_in_the_pass_that_answers_the_samples(world: World) -> None:
    """A pass of their own took a third of a short audit. Their order is that of the chosen samples."""
    network = copy.deepcopy(world.models["original"])
    model, samples, calls = audit_copy(network, world.sets["test"]), world.sets["test"], 0
    layer = model[-1]  # type: ignore[index]
    places = np.random.default_rng(0).permutation(len(samples))[:300]

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    with model[0].register_forward_hook(count):  # type: ignore[index]
        reader = FeatureReader(layer, places)
        (found,) = observe_all(
            model, {"test": samples}, objective=OBJECTIVE, batch_size=64, readers={"test": reader}
        ).values()
    expected = penultimate_features(model, OBJECTIVE, layer, samples.take(torch.from_numpy(places)))
    assert calls == -(-len(samples) // 64)
    assert len(found) == len(samples)
    torch.testing.assert_close(reader.features, expected)

    alone = FeatureReader(layer, places)
    alone.read(model, OBJECTIVE, samples)
    torch.testing.assert_close(alone.features, expected)


def test_without_classes_or_a_linear_last_layer_there_is_none(world: World) -> None:
    pairing = pair_sets(world.sets["forget"], world.sets["held_out"], objective=OBJECTIVE, spec=FAST, seed=0)
    for model, objective in (
        (world.models["original"], regression(10)),
        (nn.Sequential(copy.deepcopy(world.models["original"]), nn.Softplus()).eval(), OBJECTIVE),
    ):
        readers = feature_readers(model, world.sets, pairing, objective=objective, spec=FAST, seed=0)
        assert readers == {}
        assert feature_attack(readers, {}, pairing, classes=objective.classes, spec=FAST) is None


def test_every_audit_of_a_classifier_has_it(world: World) -> None:
    found = world.audit("no-op").membership
    assert found.original["features"].auc == found.unlearned["features"].auc


def attack(low: float, high: float) -> Attack:
    interval = Interval((low + high) / 2, low, high)
    return Attack(
        name="features", auc=interval, deciding={"auc": interval}, balanced_accuracy=interval,
        tpr_at_1_fpr=None, tpr_at_01_fpr=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "passed", "says"),
    [
        ((0.7, 0.8), (0.48, 0.52), True, "do not tell"),
        ((0.7, 0.8), (0.62, 0.7), False, "still tell"),
        ((0.48, 0.52), (0.3, 0.4), False, "less known"),
    ],
)
def test_the_finding_says_what_the_features_tell(
    before: tuple[float, float], after: tuple[float, float], passed: bool, says: str
) -> None:
    (finding,) = feature_findings({"original": attack(*before), "unlearned": attack(*after)}, margin=0.05)
    assert (finding.passed, finding.deciding) == (passed, False)
    assert says in finding.text


def test_without_a_decision_or_an_attack_there_is_no_finding() -> None:
    assert feature_findings({}, margin=0.05) == []
    for before, after in (((0.7, 0.8), (0.5, 0.6)), ((0.48, 0.58), (0.48, 0.52))):
        assert feature_findings({"original": attack(*before), "unlearned": attack(*after)}, margin=0.05) == []
