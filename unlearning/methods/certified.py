"""Certified: train the head of frozen features on with noise, until the weights that it began with no longer matter."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, undivided
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.features import calls_of, output_layer, penultimate_features
from unlearning.gradients import trainable
from unlearning.networks import frozen_tensors
from unlearning.specs import Certified
from unlearning.state import Loop
from unlearning.steps import Figures, Outcome, Progress, Steps
from unlearning.task import Task
from unlearning.training.loop import fresh

_WHITENING = 0.01
"""Share of a feature's mean variance that is added to every direction's before they are made alike [ours]."""
_ABSENT = -10.0
"""The logit of a guess at a target that does not occur."""


def certified(spec: Certified, task: Task) -> Steps:
    """Unlearn `task.forget` from the one linear layer that `task.model` trains, in place, with an (ε, δ) certificate.

    Koloskova et al. (ICML 2025, arXiv 2506.06985; by its abstract and the authors' code) project the weights to a ball and train
    them on with noise, on remaining data alone; the noise hides where they began (privacy amplification by iteration: Feldman et
    al., FOCS 2018). They clip gradients, because a network's steps may part two models. A head's loss is convex, so its steps bring
    any two heads nearer, by 1 − ηλ, and nothing needs to be clipped. The proof is in docs/methods.md §10:

        θ ← Π_radius(θ_o);  θ ← θ − η (∇L(D_r; θ) + λθ) + σξ,  ξ ~ N(0, I),  η = 1/(curvature · λ_max + λ)

    θ are the head's weights, less the guess that uses no input, on features that are made alike in all directions (λ_max ≤ 1).
    Guess and features are known from the remaining set alone. The outcome's metrics have epsilon, delta, noise (σ, in the outputs'
    units). Raises MethodRefused for other models and losses.
    """
    task.model.eval()
    objective = undivided(task.objective)
    curvature = objective.curvature
    if curvature is None:
        raise MethodRefused(
            "A certificate needs a loss that is convex in the outputs, and its `curvature`; this objective names none. "
            "Classification, multi-label and regression do."
        )
    first = task.forget.select(torch.arange(min(2, len(task.forget))))
    layer = trained_head(task.model, objective, first, build=task.build)
    given = _Features.of(task.model, objective, layer, task.remain)
    decay = spec.decay * curvature
    rate = 1 / (curvature * given.largest + decay)
    unit = 1 / math.sqrt(curvature)
    contraction = 1 - rate * decay
    total = count_steps(spec, contraction=contraction)
    needed = noise_needed(spec, contraction=contraction, steps=total)
    noise = unit * max(needed, spec.noise)
    theta = {"head": _projected(given.weights_of(layer), radius=unit * spec.radius)}
    generator, loop = torch.Generator().manual_seed(task.seed), Loop(total)
    task.state.register(model=task.model, theta=theta, generator=generator, loop=loop)
    for number in loop:
        gradient, loss = given.gradient(objective, theta["head"])
        drawn = torch.randn(theta["head"].shape, generator=generator, dtype=torch.float64).to(gradient)
        theta["head"] -= rate * (gradient + decay * theta["head"]) - noise * drawn
        given.put(theta["head"], layer)
        yield Progress(phase="unlearn", step=number, total=total, metrics=Figures(loss=loss))
    return Outcome(
        steps=total,
        stopped_because="completed",
        metrics={"epsilon": spec.epsilon, "delta": spec.delta, "noise": noise},
    )


def amplification(*, contraction: float, steps: int) -> float:
    """Compute Σ a² / D², the least sum of squares of the shifts a that make one of two runs which begin D apart.

    It bounds the divergence of their laws (Feldman et al., thm. 22; docs/methods.md §10 has a proof). Each step brings them nearer
    by the factor c, `contraction`, and by a_t more, until Σ c^(T − t) a_t = c^T D. The sum of squares is the least with a_t in
    proportion to c^(T − t) (Cauchy and Schwarz).
    """
    if contraction == 1.0:
        return 1 / steps
    square = contraction**2
    return square**steps * (1 - square) / (1 - square**steps)


def noise_needed(spec: Certified, *, contraction: float, steps: int) -> float:
    """Compute the noise σ, in the unit of `spec.radius`, that certifies (ε, δ) after so many steps.

    Two heads in the ball are at most D = 2 · radius apart, so the Rényi divergence of order α of the two laws is at most
    α Σ a² / (2σ²) = α ρ, and ε = ρ + 2 √(ρ log(1/δ)) (Bun and Steinke, TCC 2016, prop. 1.3).
    """
    log = math.log(1 / spec.delta)
    root = spec.epsilon / (math.sqrt(log + spec.epsilon) + math.sqrt(log))  # √ρ, without a difference of large numbers
    return 2 * spec.radius * math.sqrt(amplification(contraction=contraction, steps=steps) / 2) / root


def count_steps(spec: Certified, *, contraction: float) -> int:
    """Count the steps after which `spec.noise` is enough, at most `spec.steps`."""
    low, high = 1, spec.steps
    while low < high:
        middle = (low + high) // 2
        if noise_needed(spec, contraction=contraction, steps=middle) <= spec.noise:
            high = middle
        else:
            low = middle + 1
    return high


def trained_head(model: nn.Module, objective: Objective, batch: Batch, *, build: Callable[[], nn.Module]) -> nn.Linear:
    """Find the linear layer that gives the outputs of a batch, if it is all that training moves. Raises MethodRefused."""
    objective = undivided(objective)
    layer = output_layer(model, objective, batch)
    if layer is None:
        raise MethodRefused(
            "A certificate needs a model whose outputs are those of a linear layer, with nothing after it."
        )
    own = {id(parameter) for parameter in layer.parameters()}
    others = [name for name, parameter in trainable(model).items() if id(parameter) not in own]
    if others or not all(parameter.requires_grad for parameter in layer.parameters()):
        raise MethodRefused(
            f"A certificate covers the output layer alone, and {len(others)} other parameters are trained, such as "
            f"{others[0]}. Freeze in `build` what never learned from these samples, or use another method."
            if others
            else "A certificate covers the output layer, of which a part is frozen. Train all of it, or use another method."
        )
    with calls_of(layer) as calls:
        objective.losses(model, batch)
    if len(calls) != 1 or calls[0].given.requires_grad or calls[0].given.dim() != 2:
        raise MethodRefused(
            "A certificate needs features that do not depend on the output layer, and one row of them a sample. Here the layer is "
            "used twice, or shares its weights."
        )
    _check_buffers(model, build)
    return layer


def _check_buffers(model: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Raise MethodRefused if a buffer has learned, such as the statistics of batch norm that training moves."""
    fixed = {name.removeprefix(".") for name in frozen_tensors(model)}
    untrained = dict(fresh(build, seed=0, original=model).named_buffers())
    for name, buffer in model.named_buffers():
        if name not in fixed and not torch.equal(buffer.cpu(), untrained[name].cpu()):
            raise MethodRefused(
                f"{name} is not a parameter and has moved in training, so the features may know the samples. Keep batch norm in "
                "evaluation mode (`train`), or use another method."
            )


def _projected(theta: Tensor, *, radius: float) -> Tensor:
    """Scale weights down to the radius if they lie beyond it."""
    return theta * min(1.0, radius / max(float(theta.norm()), 1e-300))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Features:
    """Features of the remaining set, float64, made alike in all directions: z = (φ − mean) · whitening, and a 1 for the bias.

    rows: (n, d + 1), or (n, d) without a bias. mean: (d,), 0 without a bias. whitening: (d, d), symmetric. guess: (k,), the outputs
    that are learned without any input. largest: the largest eigenvalue of rowsᵀ·rows / n, or a little more. targets: (n, …).
    """

    rows: Tensor
    mean: Tensor
    whitening: Tensor
    guess: Tensor
    largest: float
    targets: Tensor

    @classmethod
    def of(cls, model: nn.Module, objective: Objective, layer: nn.Linear, remain: SampleSet) -> "_Features":
        features = penultimate_features(model, objective, layer, remain).double()
        bias = layer.bias is not None
        mean = features.mean(0) if bias else torch.zeros_like(features[0])
        centred = features - mean
        values, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
        spread = values.clamp(min=0) + _WHITENING * values.mean().clamp(min=1e-12)
        whitening = directions @ (spread**-0.5 * directions).T
        rows = centred @ whitening
        if bias:
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        largest = float(torch.linalg.eigvalsh(rows.T @ rows / len(rows))[-1])
        targets = remain.targets.to(rows.device)
        guess = _guess(objective, targets, width=layer.out_features) if bias else None
        return cls(
            rows=rows,
            mean=mean,
            whitening=whitening,
            guess=rows.new_zeros(layer.out_features) if guess is None else guess.to(rows),
            largest=largest * (1 + 1e-9),
            targets=targets,
        )

    def weights_of(self, layer: nn.Linear) -> Tensor:
        """Express a layer in these features, (k, d + 1) or (k, d)."""
        weight = layer.weight.detach().double()
        theta = weight @ torch.linalg.inv(self.whitening)
        if layer.bias is None:
            return theta
        bias = layer.bias.detach().double() + weight @ self.mean - self.guess
        return torch.cat([theta, bias[:, None]], 1)

    @torch.no_grad()
    def put(self, theta: Tensor, layer: nn.Linear) -> None:
        """Write weights (k, d + 1) or (k, d) of these features into the layer, as weights of its own."""
        weight = theta[:, : len(self.mean)] @ self.whitening
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(theta[:, -1] + self.guess - weight @ self.mean)

    @torch.enable_grad()
    def gradient(self, objective: Objective, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient of the mean loss, (k, d + 1) or (k, d), and the loss."""
        moving = theta.detach().requires_grad_(True)
        outputs = self.rows @ moving.T + self.guess
        loss = objective.losses(lambda *_, **__: outputs, Batch(self.rows, self.targets)).mean()
        (found,) = torch.autograd.grad(loss, moving)
        return found, loss.detach()


def _guess(objective: Objective, targets: Tensor, *, width: int) -> Tensor | None:
    """Return the outputs of whoever knows the remaining targets and no input, (k,); None if the objective does not say."""
    if objective.predicts is None:
        return None
    found = torch.nan_to_num(objective.predicts.guess(targets).double()[0], neginf=_ABSENT, posinf=-_ABSENT)
    return found[1:] - found[:1] if len(found) == 2 and width == 1 and objective.classes == 2 else found
