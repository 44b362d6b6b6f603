"""Models and workloads that would fail late are found by a few samples; those that work pass, and nothing of them changes."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate

from tests.unlearning.kinds import CudnnLSTM, recurrent
from tests.worker import digits
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, classification, regression
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.data.workload import Trainer, Workload
from unlearning.dry_run import dry_run
from unlearning.specs import CT, DEFAULT_POLICY, IEU, LTU, DropAdapter, GradientAscent, Matching, Retrain, Rewind
from unlearning.specs.training import Ready2Unlearn
from unlearning.training.run import TrainingRun


@pytest.fixture(scope="module")
def workload() -> Workload:
    return digits.workload()


def faults_of(workload: Workload, policy: tuple[object, ...] = (IEU(), Retrain())) -> dict[str, str]:
    """What will not work, by step, with its advice."""
    found = dry_run(workload, workload.build().eval(), policy=policy)  # type: ignore[arg-type]  # methods
    return {fault.step: f"{fault.error} {fault.advice}" for fault in found}


def test_a_model_that_works_passes_every_method_and_nothing_changes(workload: Workload) -> None:
    model = workload.build()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    assert dry_run(workload, model, policy=(Matching(), GradientAscent(), *DEFAULT_POLICY)) == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_needs_more_than_the_workload_offers_is_named(workload: Workload) -> None:
    """Methods of slices and of adapters where there are none, and random access to a stream."""
    found = faults_of(workload, (Rewind(), DropAdapter(), Retrain()))
    assert list(found) == ["method rewind", "method drop_adapter"]
    assert faults_of(digits.in_slices(), (Rewind(max_share=0.01), Retrain())) == {}
    found = faults_of(digits.as_a_stream(), (LTU(), IEU(), Retrain()))
    assert list(found) == ["method ltu", "method ieu"]
    assert "is a stream" in found["method ltu"]


def test_kernels_are_transposed_where_there_are_square_ones(workload: Workload) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))

    policy = (CT(), Retrain())
    assert "square kernels" in faults_of(workload, policy)["method ct"]
    assert faults_of(replace(workload, build=build), policy) == {}


def test_blocks_that_the_network_does_not_have_are_found_once_and_not_by_each_method(workload: Workload) -> None:
    found = faults_of(replace(workload, sharded=(nn.LSTM,)), (IEU(), Retrain()))
    assert list(found) == ["sharding"]
    assert "`sharded` names LSTM" in found["sharding"]


def test_an_adapter_is_dropped_with_all_of_its_samples(workload: Workload) -> None:
    def build() -> nn.Module:
        return nn.Sequential(OrderedDict(flat=nn.Flatten(), anna=nn.Linear(64, 10), bert=nn.Linear(10, 10)))

    names = {name: ("anna", "bert")[place % 2] for place, name in enumerate(workload.train.ids)}
    assert faults_of(replace(workload, build=build, adapters=names), (DropAdapter(),)) == {}


def test_preparation_for_unlearning_is_tried_with_retraining(workload: Workload) -> None:
    prepared = replace(workload, recipe=replace(workload.recipe, readiness=Ready2Unlearn()))
    assert faults_of(prepared, (Retrain(),)) == {}


def distances(forward: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return (forward(batch.inputs)[:, 0] - batch.targets).abs()


def test_an_own_objective_of_losses_alone_passes_and_a_method_that_needs_more_is_named(workload: Workload) -> None:
    own = replace(workload, objective=Objective(losses=distances))
    assert faults_of(own, (Matching(), GradientAscent(), IEU(), Retrain())) == {}
    found = faults_of(own, (LTU(), Retrain()))
    assert list(found) == ["method ltu"]
    assert "scramble" in found["method ltu"]


def test_outputs_of_another_width_are_found(workload: Workload) -> None:
    found = faults_of(replace(workload, objective=regression()))
    assert list(found) == ["forward pass"]
    assert "regression(1) needs (n, 1)" in found["forward pass"]
    assert "classes" not in found["forward pass"]  # what regression does not have


def objective(**changes: object) -> Objective:
    return replace(classification(10), **changes)  # type: ignore[arg-type]  # a table of fields


@pytest.mark.parametrize(
    ("wrong", "step"),
    [
        (objective(classes=12), "forward pass"),
        (objective(logits=lambda forward, inputs: forward(inputs).mean(dim=0)), "forward pass"),
        (
            objective(losses=lambda forward, batch: functional.cross_entropy(forward(batch.inputs), batch.targets)),
            "losses by sample",
        ),
        (
            objective(losses=lambda forward, batch: forward(batch.inputs).logsumexp(dim=1) / 0),
            "losses by sample",
        ),
        (
            objective(
                losses=lambda forward, batch: forward(batch.inputs).logsumexp(dim=1) - forward(batch.inputs).mean()
            ),
            "samples by themselves",
        ),
        (
            objective(losses=lambda forward, batch: forward(batch.inputs).detach().logsumexp(dim=1)),
            "gradient",
        ),
    ],
)
def test_an_objective_that_is_not_what_it_should_be_is_found(workload: Workload, wrong: Objective, step: str) -> None:
    assert list(faults_of(replace(workload, objective=wrong))) == [step]


def test_a_model_whose_forward_pass_depends_on_the_batch_is_found(workload: Workload) -> None:
    """Batch norm without running statistics normalises by the batch in evaluation mode too."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 10)
        )

    class Centred(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = super().forward(inputs)
            return outputs - outputs.mean(0)

    for made in (build, lambda: Centred(nn.Flatten(), nn.Linear(64, 10))):
        found = faults_of(replace(workload, build=made))
        assert list(found) == ["samples by themselves"]
    assert "other samples of its batch" in found["samples by themselves"]


class NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(context: object, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        if gradient.requires_grad:
            raise NotImplementedError("the derivative of this gradient is not implemented")
        return gradient.clone()


class Once(nn.Module):
    """As a fused attention: it has a gradient, and its gradient has none."""

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = NoSecondDerivative.apply(inputs)  # type: ignore[no-untyped-call]  # torch's own
        return out


def test_a_model_without_second_derivatives_is_advised_to_use_first_order(workload: Workload) -> None:
    once = replace(workload, build=lambda: digits.network().append(Once()))
    found = faults_of(once, (LTU(), IEU(), Retrain()))
    assert "second-order gradient" in found
    assert '"order": "first"' in found["second-order gradient"]
    prepared = replace(once, recipe=replace(once.recipe, readiness=Ready2Unlearn()))
    assert "method retrain" in faults_of(prepared, (IEU(), Retrain()))
    assert faults_of(once, (LTU(order="first"), IEU())) == {}


def test_a_recurrent_model_passes_every_method_by_the_rules_of_cudnn(workload: Workload) -> None:
    build = recurrent(CudnnLSTM, 8, 10)
    recipe = replace(workload.recipe, readiness=Ready2Unlearn())
    by_rows = replace(workload, build=lambda: nn.Sequential(nn.Unflatten(1, (8, 8)), build()), recipe=recipe)
    policy = (LTU(), LTU(order="first"), Matching(), IEU(), Retrain())
    assert faults_of(by_rows, policy) == {}


@pytest.mark.parametrize("training", [True, False])
def test_the_rules_of_cudnn_refuse_what_they_must(training: bool) -> None:
    """Else the test above would show nothing: the gradient in evaluation mode, and the second one in either mode."""
    model = CudnnLSTM(3, 2).train(training)
    weights = tuple(model.parameters())
    loss = model(torch.ones(4, 5, 3))[0].pow(2).sum()
    if not training:
        with pytest.raises(RuntimeError, match="only be called in training mode"):
            torch.autograd.grad(loss, weights)
        return
    gradient = torch.autograd.grad(loss, weights, create_graph=True)
    with pytest.raises(NotImplementedError, match="_cudnn_rnn_backward"):
        torch.autograd.grad(gradient[0].sum(), weights)


class Forgetful(nn.Module):
    """Something that the file of weights does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.rand(1)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class Wild(nn.Module):
    """A model whose training does not stay finite."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * float("nan") if self.training else inputs


def test_what_the_file_of_weights_does_not_hold_is_found(workload: Workload) -> None:
    found = faults_of(replace(workload, build=lambda: digits.network().append(Forgetful())), (IEU(),))
    assert list(found) == ["save and load"]


def test_a_training_that_is_not_finite_is_found(workload: Workload) -> None:
    found = faults_of(replace(workload, build=lambda: digits.network().append(Wild())), (Retrain(),))
    assert list(found) == ["method retrain"]


def test_an_audit_that_cannot_be_made_is_found(workload: Workload) -> None:
    """The test set, which only the audit uses, is of smaller images."""
    smaller = replace(workload.test, inputs=workload.test.inputs[:, :32])
    assert list(faults_of(replace(workload, test=smaller), (Retrain(),))) == ["audit"]


def test_data_that_change_between_two_readings_are_found_with_their_position(workload: Workload) -> None:
    given = workload.train
    items = [(inputs, target) for inputs, target in zip(given.inputs, given.targets, strict=True)]
    assert faults_of(replace(workload, train=StoredSet.of(items, ids=given.ids)), (Retrain(),)) == {}

    varied = StoredSet.of(
        items, ids=given.ids, collate_fn=lambda batch: default_collate([(x + torch.rand(1), y) for x, y in batch])
    )
    found = faults_of(replace(workload, train=varied), (Retrain(),))
    assert list(found) == ["data"]
    assert "each time it is read" in found["data"]


def trained_by(workload: Workload, trainer: Trainer) -> Workload:
    return replace(workload, recipe=None, trainer=trainer)


def notes_of(workload: Workload) -> list[str]:
    """What works, but less well than it could."""
    found = dry_run(workload, workload.build().eval(), policy=(Retrain(),))
    assert all(fault.only_note for fault in found)
    return [str(fault.error) for fault in found]


def test_a_trainer_is_tried_by_a_few_steps_and_then_stopped(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never trained to its end: twice anew, and once from its checkpoint; then as Retrain."""
    taken: list[int] = []
    monkeypatch.setattr(digits, "hook", lambda step, run: taken.append(step))

    assert notes_of(trained_by(workload, digits.train)) == []
    assert taken[:9] == [1, 2, 3, 1, 2, 3, 2, 3, 4]


def test_a_trainer_that_fails_is_found_also_where_no_method_retrains(workload: Workload) -> None:
    def wrong(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        model.append(nn.Linear(10, 10))  # type: ignore[operator]  # a Sequential

    def refusing(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        raise ValueError("fewer than a thousand samples")

    def forgetful(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        if run.resume() is not None:
            raise KeyError("scheduler")
        with torch.no_grad():
            next(model.parameters()).add_(0.01)
        run.report(1, 3)
        run.checkpoint(model=model.state_dict())
        run.report(2, 3)

    for trainer, message in ((wrong, "architecture"), (refusing, "a thousand"), (forgetful, "scheduler")):
        found = faults_of(trained_by(workload, trainer), (IEU(), Retrain()))
        assert list(found) == ["trainer"]
        assert message in found["trainer"]


def test_a_trainer_that_does_not_heed_its_seed_or_reports_nothing_is_noted_and_not_refused(workload: Workload) -> None:
    generator = torch.Generator().manual_seed(1)

    def by_chance(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) / 100)

    silent, different = notes_of(trained_by(workload, by_chance))
    assert "reports nothing" in silent
    assert "same seed" in different
