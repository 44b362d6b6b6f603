"""What methods train towards (docs/methods.md §5, §8) [ours].

A forget sample's aim is its reference prediction: what models answer that never saw it. Remaining samples keep their low loss. In
an image generator, and in a classifier that has such aims, they keep what the original predicts of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch, joined_batch, sent
from unlearning.data.objectives import Answers, Forward, Objective, answers
from unlearning.data.references import ReferencePredictions
from unlearning.gradients import Loss, forward_with, trainable
from unlearning.hardware import batched_answers, in_float32
from unlearning.networks import frozen_copy
from unlearning.stopping.criterion import fully_forgotten_classes, in_classes, other_class_answers, other_classes
from unlearning.stopping.forget_weights import weights_of_gaps
from unlearning.task import Task
from unlearning.training.optimisation import batch_statistics

_CALIBRATING = 512
"""Most held-out samples by which references are calibrated."""
_SHARPENED = 1.1
"""The power of class probabilities that are the mean of several models, each trained for half of the epochs: less sure than one
fully trained model. At higher powers forgotten samples pass for known ones."""
_ANSWER_TEMPERATURE, _ANSWER_SHARE = 3.0, 0.5
"""T, at which a classifier's answers to remaining samples are compared with the original's, and the share of this in their loss.
Plain KL hardly sees how sure an answer is, and few steps on true labels leave a model less sure of everything than a retrained
one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferenceAims:
    """Aims of n forget samples.

    objective: what the model is trained for. predictions: (n, k), or None without them. losses: (n,), nats, of the true target.
    other_classes: (n,) int64, for samples of a forgotten class the class as of which they are to be predicted, else −1; None
        without any.
    """

    objective: Objective
    predictions: Tensor | None
    losses: Tensor
    other_classes: Tensor | None = None

    @property
    def of_classes(self) -> bool:
        """Whether they are the class probabilities of a classifier, which what a model answers can be compared with."""
        return self.objective.logits is not None and self.objective.compared is None

    def sharpened(self) -> "ReferenceAims":
        """Return class probabilities q as q^1.1, scaled to sum 1: about as sure as one model's; others as they are [ours]."""
        if self.predictions is None or not self.of_classes:
            return self
        return replace(self, predictions=_positive(self.predictions.float() ** _SHARPENED, least=1e-6))

    def divergences(self, found: Answers, index: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Compute how far k answers are from their aims, (k,): `Prediction.divergences`, or the squared difference of losses.

        found: its outputs are those of a pass with the aims that are `asked`. index: the positions of the samples in the forget
            set, (k,) int64.
        """
        places, predicts = sent(index, self.losses.device), self.objective.predicts
        if self.predictions is None or predicts is None or found.outputs is None:
            return (found.losses - self.losses[places]) ** 2
        return predicts.divergences(self.predictions[places], found.outputs, temperature)

    def batch_divergences(self, forward: Forward, batch: Batch, index: Tensor) -> Tensor:
        """Compute `divergences` of a batch of forget samples in one forward pass."""
        objective = self.objective.for_step()
        found = self.divergences(answers(objective, forward, batch, self.asked(index)), index)
        return found if self.other_classes is None else found + self.as_other_classes(objective, forward, batch, index)

    def as_other_classes(self, objective: Objective, forward: Forward, batch: Batch, index: Tensor) -> Tensor:
        """Compute ½ (ε_θ(x | c) − stop[ε_θ(x | c′)])² / q, (k,), the mean over a sample, for those of a forgotten class; else 0.

        It is KL of normal laws with the variance q, the loss of the aim. A loss as of c′ alone says nothing of what is generated:
        a quarter of the images asked of a forgotten class were still of it (docs/benchmarks/generative.md).
        """
        generation, places = objective.generation, sent(index, self.losses.device)
        assert generation is not None
        assert self.other_classes is not None
        others = self.other_classes[places]
        with torch.no_grad():
            aim = generation.predicted(forward, generation.relabelled(batch, others.clamp(min=0)))
        squares = ((generation.predicted(forward, batch) - aim) ** 2).flatten(1).mean(1)
        return torch.where(others >= 0, squares / (2 * self.losses[places].clamp(min=1e-6)), 0.0)

    def asked(self, index: Tensor, *, others: int = 0) -> Tensor | None:
        """Return what a model is compared with in a pass of k samples and `others` without an aim, (k + others, j).

        None where outputs are compared. index: as of `divergences`.
        """
        if self.predictions is None or self.objective.compared is None:
            return None
        return functional.pad(self.predictions[sent(index, self.losses.device)], (0, 0, 0, others))

    @in_float32
    @torch.no_grad()
    def forget_weights(self, forward: Forward, batch: Batch, index: Tensor) -> Tensor:
        """Compute clip((ℓ_ref − ℓ) / `Objective.gap`, 0, 1), (k,), 0 to 1, from each sample's own reference loss ℓ_ref."""
        aims = self.losses[sent(index, self.losses.device)]
        return weights_of_gaps(aims - self.objective.losses(forward, batch).float(), full=self.objective.gap)


def reference_aims(task: Task) -> ReferenceAims | None:
    """Read the forget set's aims from the task's references; None if the task has none and they are needed.

    A model that saw other samples of a class knows the class. Where a class is fully forgotten, its samples therefore aim at what
    models without the class say of them, if the references hold that. In any case the class's probability is taken out of the aims
    and the rest is scaled up to 1: a retrained model never gives the class. A model that is asked for
    classes should know such samples no better than it knows them now as ones of another class (`other_class_answers`); where all
    samples are such, no references are needed.
    """
    references, objective = task.references, task.objective
    gone = fully_forgotten_classes(task.forget, task.remain, classes=objective.classes)
    of_gone = in_classes(task.forget.targets, gone)
    if objective.generation is not None and bool(of_gone.any()) and (references is not None or bool(of_gone.all())):
        return _as_other_classes(task, of_gone)
    if references is None:
        return None
    references = _calibrated(task, references)
    losses = references.losses.to(task.forget.device)
    if references.predictions.shape[1] == 0:
        return ReferenceAims(objective=objective, predictions=None, losses=losses)
    predictions = references.predictions.to(losses.device, copy=True)
    if objective.logits is None or gone is None:
        return ReferenceAims(objective=objective, predictions=predictions, losses=losses)
    if bool(gone.any()):
        if references.whole is not None:
            places, whole = (tensor.to(losses.device) for tensor in references.whole)
            chosen = of_gone[places]
            predictions[places[chosen]] = whole[chosen].to(predictions)
        predictions[of_gone] = predictions[of_gone].masked_fill(gone, 0.0)
        losses = torch.where(of_gone, losses.new_full((), 10.0), losses)
    return ReferenceAims(objective=objective, predictions=_positive(predictions, least=1e-6), losses=losses)


def _calibrated(task: Task, references: ReferencePredictions) -> ReferencePredictions:
    """Bring the references to the scale of the model, by what both say of held-out samples (`Prediction.calibrated`) [ours].

    The model is still the original. Raises ReferencesUnusable if the references lack one of these samples.
    """
    predicts = task.objective.predicts
    if predicts is None or predicts.calibrated is None or references.others is None:
        return references
    chosen = torch.randperm(len(task.criterion), generator=torch.Generator().manual_seed(task.seed))[:_CALIBRATING]
    samples = task.criterion.take(chosen)
    found = batched_answers(task.objective, task.model, samples, device=task.forget.device)
    assert found.outputs is not None
    own, unseen = predicts.predictions(found.outputs), references.others(samples).predictions.to(found.outputs)
    predictions = predicts.calibrated(references.predictions.to(own), unseen, own)
    return replace(
        references,
        predictions=predictions.to(references.predictions),
        losses=predicts.losses(predictions, task.forget.targets).to(references.losses),
    )


def _as_other_classes(task: Task, of_gone: Tensor) -> ReferenceAims:
    """Aim the samples of fully forgotten classes, (n,) bool, at the present answers to them as of another class."""
    predicts, found = task.objective.predicts, other_class_answers(task, of_gone)
    others = torch.where(of_gone, other_classes(task).to(of_gone.device), -1)
    assert predicts is not None
    assert found.outputs is not None
    answered = predicts.predictions(found.outputs)
    if task.references is None:
        return ReferenceAims(objective=task.objective, predictions=answered, losses=found.losses, other_classes=others)
    predictions, losses = (
        tensor.to(answered, copy=True) for tensor in (task.references.predictions, task.references.losses)
    )
    predictions[of_gone], losses[of_gone] = answered, found.losses
    return ReferenceAims(objective=task.objective, predictions=predictions, losses=losses, other_classes=others)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RemainingLosses:
    """The losses of a task's remaining samples; see `remaining_losses`.

    original: the model that predictions are compared with; None where the objective's own loss serves.
    gone: the classes that are fully forgotten, (classes,) bool, where class probabilities are compared.
    """

    task: Task
    original: nn.Module | None = None
    gone: Tensor | None = None

    def __call__(self, forward: Forward, batch: Batch) -> Tensor:
        """Compute the loss of each sample, (n,), nats, with noise drawn anew where the objective has any."""
        objective = self.task.objective.for_step()
        if self.original is None:
            return objective.losses(forward, batch)
        if objective.generation is not None:
            return objective.generation.moved(forward, self.original, batch)
        return self.of_answers(answers(objective, forward, batch), batch)

    def of_answers(self, found: Answers, batch: Batch) -> Tensor:
        """Compute the loss of each sample, (n,), nats, from a model's answers to a batch. Not for image generators."""
        if self.original is None:
            return found.losses
        logits, predicts = self.task.objective.logits, self.task.objective.predicts
        assert logits is not None
        assert predicts is not None
        assert found.outputs is not None
        with torch.no_grad():
            kept = predicts.predictions(logits(self.original, batch.inputs).float())
            if self.gone is not None:  # what remains of such a class stays of it
                gone = self.gone.to(kept.device) & ~in_classes(batch.targets, self.gone)[:, None]
                kept = kept.masked_fill(gone, 0.0)
            kept = _positive(kept, least=torch.finfo(kept.dtype).tiny)
        moved = predicts.divergences(kept, found.outputs.float(), _ANSWER_TEMPERATURE)
        return (1 - _ANSWER_SHARE) * found.losses + _ANSWER_SHARE * moved

    def mean(self, batch: Batch) -> Loss:
        """Return the mean loss of a batch, a scalar, as a function of the forward pass."""
        return lambda forward: self(forward, batch).mean()

    def mean_of_model(self, batch: Batch) -> Tensor:
        """Compute the mean loss of a batch, a scalar, by the task's model; batch norm's running statistics are updated."""
        with batch_statistics(self.task.model, samples=batch.size):
            return self.mean(batch)(self.task.model)


def remaining_losses(task: Task, aims: ReferenceAims | None) -> RemainingLosses:
    """Return the losses of remaining samples. Call it before the first step: the model is still the original.

    Image generators: the distance from what the original predicts (`Generation.moved`). A generator's own loss stays far from 0,
    as most of the noise cannot be known, so the gradient of a batch is mostly chance; that of the distance is 0 until the model
    moves, but for rounding and batch norm.

    aims: of the forget samples; None where a method has none, or does not train towards them alone.

    Classifiers whose forget samples have aims: ½ of the objective's own loss and ½ T² KL(q^(1/T) ‖ p_θ^(1/T)) with T = 3 and q what
    the original answers, without the classes that are fully forgotten; samples of such a class keep it. The second term keeps the
    model as sure as it was. Without aims it would teach the forget set again, as the answers to similar samples tell of it.

    All others: the objective's own loss. A comparison costs a copy of the model and a forward pass.
    """
    objective = task.objective
    if objective.generation is not None:
        return RemainingLosses(task=task, original=frozen_copy(task.model))
    if aims is None or not aims.of_classes:
        return RemainingLosses(task=task)
    gone = fully_forgotten_classes(task.forget, task.remain, classes=objective.classes)
    return RemainingLosses(task=task, original=frozen_copy(task.model), gone=gone)


def _positive(probabilities: Tensor, *, least: float) -> Tensor:
    """Scale probabilities, (n, classes), to sum 1, with none far below `least`: they are compared by their logarithms."""
    probabilities = probabilities.clamp(min=least)
    return probabilities / probabilities.sum(-1, keepdim=True)


def matching_loss(
    task: Task,
    aims: ReferenceAims,
    index: Tensor,
    remain: Batch,
    *,
    remaining: RemainingLosses,
    weight: float = 1.0,
    temperatures: Sequence[float] = (1.0,),
) -> Tensor:
    """Compute L(B_r; θ) + w · mean d(q, p_θ(B_f)), a scalar, in one forward pass; d is KL(q ‖ p) for classes (`Prediction`).

    remaining: L (`remaining_losses`).

    index: the positions of B_f in the forget set, (k,). temperatures: the mean over them is taken of the divergence. To d comes
    `as_other_classes`. The pass goes through a copy of the buffers, because forget samples must leave no trace in batch norm's
    running statistics.
    """
    forget, objective, predicts = task.forget.select(index), task.objective.for_step(), task.objective.predicts
    k = len(index)
    with batch_statistics(task.model, samples=k + remain.size):
        forward = forward_with(task.model, trainable(task.model))
        apart = objective is not task.objective or objective.generation is not None
        if apart and objective.read is not None and predicts is not None:
            # Outputs at all noise levels cost several passes, which remaining samples do not need.
            kept = remaining(forward, remain)
            outputs = objective.read(forward, forget.inputs)
            of_forget = Answers(predicts.losses(predicts.predictions(outputs), forget.targets), outputs, forget.targets)
        else:
            asked = aims.asked(index, others=remain.size)
            found = answers(objective, forward, joined_batch(forget, remain), asked)
            of_forget, of_remain = found.take(slice(k)), found.take(slice(k, None))
            kept = remaining.of_answers(of_remain, remain)
        as_others = (
            0.0 if aims.other_classes is None else aims.as_other_classes(objective, forward, forget, index).mean()
        )
    divergences = [aims.divergences(of_forget, index, temperature=value).mean() for value in temperatures]
    return kept.mean() + weight * (torch.stack(divergences).mean() + as_others)
