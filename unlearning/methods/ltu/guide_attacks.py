"""Guide attacks: small, frozen, differentiable membership-inference models that guide LTU's forgetting.

The paper has K pre-trained, frozen and fully differentiable ones of different architecture and training [paper]. Their number,
inputs and training here are [ours]. The attacks that the audit evaluates with are never among them.

They learn from samples that the model saw and others that it did not. With reference predictions they may learn from pairs: what
the model says of a sample that it saw, and what models that did not see it say of the same one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning import ranks
from unlearning.data.objectives import Answers
from unlearning.data.samples import SampleSet
from unlearning.hardware import batched_answers, in_float32
from unlearning.random_state import seeded
from unlearning.task import Task

Features = Callable[[Tensor, Tensor], Tensor]
"""(what `Objective.attacked` gives of n samples, targets (n, …)) → features (n, d)."""

_EPOCHS = 200
_BEATS_CHANCE = 0.55

_ARCHITECTURES: tuple[tuple[tuple[int, ...], float], ...] = (((16,), 0.02), ((32, 16), 0.01), ((8,), 0.05))
"""Hidden widths and learning rate. A K above three repeats them with other seeds, and so with the objective's features."""


def losses_alone(losses: Tensor, targets: Tensor) -> Tensor:
    """Return the loss, (n, 1): all that an attack can read where an objective offers no outputs."""
    return losses


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GuideAttack:
    """A trained guide attack.

    features: what it reads. mean, scale: (d,), by which the features are standardised. head: standardised features → logit of
    "member", (n, 1). accuracy: balanced, of the model's answers to samples that it was not trained on.
    """

    features: Features
    mean: Tensor
    scale: Tensor
    head: nn.Module
    accuracy: float

    def member_logit(self, attacked: Tensor, targets: Tensor) -> Tensor:
        """Compute the logit of "member", (n,) float32: above 0 if the sample looks like a member."""
        logit: Tensor = self.head((self.features(attacked.float(), targets) - self.mean) / self.scale)
        return logit.squeeze(-1)


@in_float32
def train_guide_attacks(
    task: Task, members: SampleSet, *, count: int, guide: Literal["populations", "pairs"] = "populations"
) -> tuple[GuideAttack, ...]:
    """Train `count` attacks on the model's answers to `members` (D̂_r) against those to the guide part of D_v.

    guide: "pairs" trains against what models that never saw `members` say of them instead, where there are references of these, and
    tests on D_v. Attacks that are no better than chance are left out: the balanced accuracy on members that an attack was not
    trained on, and on held-out samples, must be at least 0.55.
    """
    predicts = task.objective.predicts
    features = (predicts and predicts.features) or (losses_alone,)
    members = members.take(torch.arange(min(len(members), 4 * len(task.guide))))
    inside, outside = (batched_answers(task.objective, task.model, part).float() for part in (members, task.guide))
    pairs = _pairs(task, members, inside) if guide == "pairs" else None
    attacks = (
        _train(
            features[k % len(features)],
            _ARCHITECTURES[k % len(_ARCHITECTURES)],
            inside,
            outside,
            pairs,
            seed=task.seed * 1000 + k,
        )
        for k in range(count)
    )
    return tuple(attack for attack in attacks if attack.accuracy >= _BEATS_CHANCE)


def _pairs(task: Task, members: SampleSet, inside: Answers) -> tuple[Answers, Answers] | None:
    """Pair the model's answers to `members` with those of models that never saw them; None without references that say so.

    Both are rounded as references are: an attack must not tell them by that.
    """
    predicts, references = task.objective.predicts, task.references
    if references is None or references.others is None:
        return None
    found = references.others(members)
    losses = found.losses.to(inside.losses)
    if predicts is None or inside.outputs is None:
        return inside, Answers(losses, None, inside.targets)
    if predicts.answered is None:
        return None
    seen, unseen = (
        predicts.answered(predictions.to(predicts.stored).to(inside.outputs))
        for predictions in (predicts.predictions(inside.outputs), found.predictions)
    )
    return inside._replace(outputs=seen), Answers(losses, unseen, inside.targets)


def non_member_signal(attack: GuideAttack) -> Callable[[Answers], Tensor]:
    """Return the attack's score, (n,), as a signal of the calibrated stop: higher for non-members."""

    return lambda found: -attack.member_logit(found.attacked, found.targets)


def _train(
    features: Features,
    architecture: tuple[tuple[int, ...], float],
    inside: Answers,
    outside: Answers,
    pairs: tuple[Answers, Answers] | None,
    *,
    seed: int,
) -> GuideAttack:
    """Train on two thirds of the pairs, or without them of `inside` and `outside`, and count the hits among the others of these."""
    widths, rate = architecture
    parts = [features(found.attacked, found.targets) for found in (inside, outside)]
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(part), generator=generator) for part in parts]
    held_back = [part[order[: max(1, len(order) // 3)]] for part, order in zip(parts, orders, strict=True)]
    learned = [order[max(1, len(order) // 3) :] if len(order) > 1 else order for order in orders]
    if pairs is not None:
        held_back[1], learned = parts[1], [learned[0], learned[0]]
        parts = [features(found.attacked, found.targets) for found in pairs]
    used = [part[order] for part, order in zip(parts, learned, strict=True)]
    x = torch.cat(used)
    mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-3)
    labels = torch.cat([torch.ones(len(used[0])), torch.zeros(len(used[1]))]).to(x.device)
    balance = torch.cat([torch.full((len(part),), 0.5 / len(part)) for part in used]).to(x.device)
    with seeded(seed):
        head = _perceptron(x.shape[-1], widths).to(x.device)
    optimiser = torch.optim.Adam(head.parameters(), lr=rate, weight_decay=1e-3, fused=True)
    x = (x - mean) / scale
    with torch.enable_grad():
        for _ in range(_EPOCHS):
            logit = head(x).squeeze(-1)
            loss = (functional.binary_cross_entropy_with_logits(logit, labels, reduction="none") * balance).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            optimiser.step()
    head.requires_grad_(False)
    with torch.no_grad():
        hits = [(head((part - mean) / scale) > 0).float().mean() for part in held_back]
    accuracy = ranks.agreed(float(hits[0] + 1 - hits[1]) / 2)
    return GuideAttack(features=features, mean=mean, scale=scale, head=head, accuracy=accuracy)


def _perceptron(width: int, hidden: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.Tanh()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 1))
