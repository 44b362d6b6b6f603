"""Denoising diffusion: a sample is an image with its class, and the model predicts the noise that was added to it.

Equations are those of Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv 2006.11239. Noise levels
count from 0, as in their code: level t has added noise t + 1 times.

The noise in a loss is drawn by the image that it is added to: the same numbers for the same image, on every device and in any
batch. torch's own generators give other numbers there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch, Inputs, sent
from unlearning.data.objectives.objective import Forward, Objective, at_least_float32, logits_of
from unlearning.data.objectives.prediction import Generation, Merit, Prediction
from unlearning.errors import UnsupportedWorkload

_LINEAR = (1e-4, 0.02)
"""The first and the last β of the paper's schedule of 1,000 levels (§4)."""
_SIGNAL_LEFT = 0.1
"""Most of ᾱ at the last level: images are generated from pure noise, which the last level must nearly be [ours]."""
_PIA_LEVEL, _PIA_NORM = 0.2, 4
"""Where on the schedule, and in which norm, the proximal initialisation attack compares (level 200 of 1,000)."""
_LEAST_LOSS = 1e-6
"""Below it a loss at a level counts as equal to it, so that its logarithm stays finite."""
_LEAST_VARIANCE = 1e-3
"""Below it the original's error of an image counts as equal to it, so that no image outweighs all others [ours]."""
_FIXED_POINT = 2**16
"""An image's numbers are distinguished down to 1/65,536."""
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
"""The constants of splitmix64 as signed integers."""

EXPLAINED_NOISE = Merit(
    name="explained noise",
    complement="unexplained noise",
    of=lambda found: 100 - 100 * found.losses,
    bounds=(-100.0, 100.0),
)
"""The share of the added noise's variance, which is 1, that the model predicts, in percent: whoever says "no noise" gets 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Diffusion:
    """A diffusion process. signal: ᾱ by level, (T,) float64. levels: at which losses are measured.

    shape: of an image. bounds: the least and the largest number of an image. sampling: the levels by which images are generated,
    rising.
    """

    signal: Tensor
    levels: tuple[int, ...]
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    sampling: tuple[int, ...]


def denoising_diffusion(
    classes: int,
    shape: Sequence[int],
    *,
    steps: int = 1000,
    betas: Sequence[float] | Tensor | None = None,
    levels: int | Sequence[int] = 5,
    bounds: tuple[float, float] = (-1.0, 1.0),
    sampling_steps: int = 100,
    classifier: Callable[[], nn.Module] | None = None,
) -> Objective:
    """Make the objective of a class-conditional diffusion model that predicts noise: L_simple (eq. 14), the mean over an image.

    The model is called with noisy images (n, *shape), their levels (n,) int64 from 0, and their classes (n,) int64. It returns the
    noise, (n, *shape), or an object with it as `sample`, as Hugging Face's diffusers do. Inputs are a mapping with `images`, of
    floats, and `classes`; targets are the classes again.

    steps: T, the number of levels, with β rising evenly as in the paper, scaled by 1,000 / T. betas: others, (T,), in its place.
    levels: at which losses are measured, or their number. bounds: of an image's numbers. sampling_steps: most levels by which an
    image is generated. classifier: returns a trained classifier of these images, images → logits, whose last linear layer gives
    them; without it an audit trains a small one.

    `losses` is the mean over fixed levels, with fixed noise that is drawn by the image: one model's loss can be compared with
    another's. A training step draws level and noise anew (`Objective.for_step`). Outputs, predictions and references are the losses
    at these levels. Raises UnsupportedWorkload for fewer than one class, an empty shape, bounds that do not rise, and levels or
    betas that make no schedule.
    """
    if classes < 1:
        raise UnsupportedWorkload(
            f"denoising_diffusion needs one class or more, not {classes}. A model that knows no classes has one, of the number 0."
        )
    if not shape or any(side < 1 for side in shape):
        raise UnsupportedWorkload(f"denoising_diffusion's shape is that of an image, such as (1, 28, 28), not {shape}.")
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise UnsupportedWorkload(f"denoising_diffusion's bounds must be two rising numbers, not {bounds}.")
    signal = (1 - _checked_betas(steps, betas)).cumprod(0)
    if float(signal[-1]) > _SIGNAL_LEFT:
        raise UnsupportedWorkload(
            f"denoising_diffusion's schedule leaves {float(signal[-1]):.0%} of the image's variance at its last level, and at most "
            f"{_SIGNAL_LEFT:.0%} will do, because images are generated from pure noise. Give the betas of the model's training."
        )
    return _objective(
        Diffusion(
            signal=signal,
            levels=_checked_levels(levels, len(signal)),
            shape=tuple(shape),
            bounds=bounds,
            sampling=_even(len(signal), min(max(2, sampling_steps), len(signal))),
        ),
        classes=classes,
        classifier=classifier,
        salt=None,
    )


def _objective(
    process: Diffusion, *, classes: int, classifier: Callable[[], nn.Module] | None, salt: int | None
) -> Objective:
    """Make the objective with the noise of a salt. Without one, losses are measured at fixed levels; with one, at any level."""

    def losses(forward: Forward, batch: Batch) -> Tensor:
        images, _ = _parts(batch.inputs, process)
        if salt is None:
            return _losses_at_levels(process, forward, images, batch.targets, salt=0).mean(1)
        noisy, noise, levels = _disturbed(process, images, salt=salt)
        return _mean_square(_noise_of(forward, noisy, levels, batch.targets) - noise)

    def outputs(forward: Forward, inputs: Inputs) -> Tensor:
        """Return the loss at each level, and what the proximal initialisation attack reads, (n, levels + 1)."""
        images, given = _parts(inputs, process)
        found = _losses_at_levels(process, forward, images, given, salt=salt or 0)
        return torch.cat([found, _proximal_distance(process, forward, images, given)[:, None]], 1)

    def predicted(forward: Forward, batch: Batch) -> Tensor:
        noisy, _, levels = _disturbed(process, _parts(batch.inputs, process)[0], salt=salt or 0)
        return _noise_of(forward, noisy, levels, batch.targets)

    def moved(forward: Forward, original: Forward, batch: Batch) -> Tensor:
        noisy, noise, levels = _disturbed(process, _parts(batch.inputs, process)[0], salt=salt or 0)
        with torch.no_grad():
            before = _noise_of(original, noisy, levels, batch.targets)
            variance = _mean_square(before - noise).clamp(min=_LEAST_VARIANCE)
        return _mean_square(_noise_of(forward, noisy, levels, batch.targets) - before) / (2 * variance)

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        drawn = torch.randint(classes, batch.targets.shape, generator=generator)
        return _relabelled(batch, sent(drawn, batch.targets.device))

    return Objective(
        losses=losses,
        scramble=scramble,
        merit=EXPLAINED_NOISE,
        classes=classes,
        outputs=outputs,
        prediction=_prediction(process),
        ceiling=1.0,
        optimiser="adam",
        gap=0.05,
        renewed=lambda number: _objective(process, classes=classes, classifier=classifier, salt=number),
        generation=Generation(
            generate=partial(_generate, process),
            images=lambda inputs: _parts(inputs, process)[0],
            relabelled=_relabelled,
            predicted=predicted,
            moved=moved,
            bounds=process.bounds,
            classifier=classifier,
        ),
    )


def _checked_betas(steps: int, betas: Sequence[float] | Tensor | None) -> Tensor:
    if betas is None:
        if steps < 2:
            raise UnsupportedWorkload(f"denoising_diffusion needs two noise levels or more, not {steps}.")
        first, last = (1000 / steps * end for end in _LINEAR)
        return torch.linspace(first, min(last, 0.999), steps, dtype=torch.float64)
    given = torch.as_tensor(betas, dtype=torch.float64)
    if given.dim() != 1 or len(given) < 2 or not bool(((given > 0) & (given < 1)).all()):
        raise UnsupportedWorkload(
            "denoising_diffusion's betas are the variance that each level adds: two or more numbers between 0 and 1."
        )
    return given


def _checked_levels(levels: int | Sequence[int], count: int) -> tuple[int, ...]:
    if isinstance(levels, int):
        levels = [int((place + 0.5) * count / levels) for place in range(levels)] if levels > 0 else []
    if not levels or len(set(levels)) < len(levels) or any(not 0 <= level < count for level in levels):
        raise UnsupportedWorkload(f"denoising_diffusion's levels must be different ones from 0 to {count - 1}.")
    return tuple(levels)


def _even(count: int, number: int) -> tuple[int, ...]:
    return tuple(round(place * (count - 1) / (number - 1)) for place in range(number))


def _parts(inputs: Inputs, process: Diffusion) -> tuple[Tensor, Tensor]:
    """Find images (n, *shape) and classes (n,) in the inputs.

    Raises UnsupportedWorkload where there are none, and for images of another size.
    """
    images, classes = (inputs.get(name) if isinstance(inputs, Mapping) else None for name in ("images", "classes"))
    if not isinstance(images, Tensor) or not isinstance(classes, Tensor) or not images.is_floating_point():
        raise UnsupportedWorkload(
            "denoising_diffusion needs inputs that are a mapping with `images`, floats, and `classes`, the same as the targets."
        )
    if tuple(images.shape[1:]) != process.shape:
        raise UnsupportedWorkload(
            f"The images have the shape {tuple(images.shape[1:])}; the objective's are {process.shape}. Bring all images "
            "to the size with which the model was trained."
        )
    return images, classes


def _relabelled(batch: Batch, classes: Tensor) -> Batch:
    """Return the images of a batch as ones of other classes, (n,) int64."""
    return Batch({**batch.inputs, "classes": classes}, classes)


def _noise_of(forward: Forward, noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
    """Return the noise that the model predicts, (n, *shape), at least float32. Raises UnsupportedWorkload for another shape."""
    output: Any = forward(noisy, levels, classes)
    sample = getattr(output, "sample", None)
    found = sample if isinstance(sample, Tensor) and not isinstance(output, Tensor) else logits_of(output)
    if found.shape != noisy.shape:
        raise UnsupportedWorkload(
            f"The model returns a tensor of shape {tuple(found.shape)} for noisy images {tuple(noisy.shape)}; denoising_diffusion "
            "needs the predicted noise, of the same shape. Learned variances are not supported."
        )
    return at_least_float32(found)


def _mixed(images: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """Compute x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (eq. 4). signal: ᾱ_t, that broadcasts with the images."""
    return (signal.sqrt() * images + (1 - signal).sqrt() * noise).to(images.dtype)


def _signal_at(process: Diffusion, levels: Tensor) -> Tensor:
    """Return ᾱ at each level, (n, 1, …), to be multiplied with images."""
    signal = sent(process.signal.float(), levels.device)[levels]
    return signal.view(-1, *[1] * len(process.shape))


def _losses_at_levels(process: Diffusion, forward: Forward, images: Tensor, classes: Tensor, *, salt: int) -> Tensor:
    """Compute ‖ε − ε_θ(x_t, t)‖² a number of the image (eq. 14) at each of the process's levels, (n, levels)."""
    count = len(process.levels)
    levels = sent(torch.tensor(process.levels), images.device).repeat(len(images))
    noise = normal_noise(keys_of(images, salt=salt), count * math.prod(process.shape)).view(-1, *process.shape)
    noisy = _mixed(images.repeat_interleave(count, 0), noise, _signal_at(process, levels))
    predicted = _noise_of(forward, noisy, levels, classes.repeat_interleave(count))
    return _mean_square(predicted - noise).view(-1, count)


def _disturbed(process: Diffusion, images: Tensor, *, salt: int) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise to each image at a level that is drawn by image and salt; return noisy images, noise and levels, (n,)."""
    keys = keys_of(images, salt=salt)
    levels = (uniform_numbers(keys) * len(process.signal)).long().clamp(max=len(process.signal) - 1)
    noise = normal_noise(keys, math.prod(process.shape)).view(-1, *process.shape)
    return _mixed(images, noise, _signal_at(process, levels)), noise, levels


def _mean_square(values: Tensor) -> Tensor:
    return (values**2).flatten(1).mean(1)


@torch.no_grad()
def _proximal_distance(process: Diffusion, forward: Forward, images: Tensor, classes: Tensor) -> Tensor:
    """Compute ‖ε_θ(x_0, 0) − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε_θ(x_0, 0), t)‖₄, (n,), the mean over an image.

    This is the proximal initialisation attack (Kong et al., ICLR 2024, arXiv 2305.18355): smaller for data that the model knows. It
    draws no noise, so no method can fit the noise at which it is evaluated.
    """
    zero = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    start = _noise_of(forward, images, zero, classes)
    levels = zero + int(_PIA_LEVEL * len(process.signal))
    moved = _noise_of(forward, _mixed(images, start, _signal_at(process, levels)), levels, classes)
    distance: Tensor = ((start - moved).abs() ** _PIA_NORM).flatten(1).mean(1) ** (1 / _PIA_NORM)
    return distance


@torch.no_grad()
def _generate(process: Diffusion, forward: Forward, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Generate an image of each class, (n, *shape), by algorithm 2 on the sampling levels, with the posterior's variance β̃ (eq. 7).

    Each predicted image is brought within the bounds, as in the paper's code. generator: on the CPU, so that models which are
    compared start from the same noise.
    """
    n, device = len(classes), classes.device

    def drawn() -> Tensor:
        return sent(torch.randn(n, *process.shape, generator=generator), device)

    noisy = drawn()
    for place in reversed(range(len(process.sampling))):
        level = process.sampling[place]
        signal = float(process.signal[level])
        before = float(process.signal[process.sampling[place - 1]]) if place else 1.0
        noise = _noise_of(forward, noisy, torch.full((n,), level, device=device), classes)
        image = ((noisy - math.sqrt(1 - signal) * noise) / math.sqrt(signal)).clamp(*process.bounds)
        beta = 1 - signal / before
        mean = math.sqrt(before) * beta / (1 - signal) * image
        mean = mean + math.sqrt(signal / before) * (1 - before) / (1 - signal) * noisy
        noisy = mean + math.sqrt((1 - before) / (1 - signal) * beta) * drawn() if place else image
    return noisy


def _at_levels(outputs: Tensor) -> Tensor:
    return outputs[:, :-1].clamp(min=_LEAST_LOSS)


def _divergences(aim: Tensor, outputs: Tensor, temperature: float) -> Tensor:
    """Compute ½ (q/p − 1 − log(q/p)), the mean over the levels, (n,), nats: of normal laws with the variances q and p.

    q is the reference's loss, p the model's. It is 0 where they are equal, whatever the size of the loss at a level.
    """
    ratio = aim.to(outputs).clamp(min=_LEAST_LOSS) / _at_levels(outputs)
    return (ratio - 1 - ratio.log()).mean(1) / 2


def _features(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the logarithm of the loss at each level, (n, levels)."""
    return _at_levels(outputs).log()


def _mean_and_least(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of those logarithms and the least of them, (n, 2)."""
    logs = _features(outputs, targets)
    return torch.stack([logs.mean(1), logs.amin(1)], 1)


def _distributions(outputs: Tensor) -> Tensor:
    """Return the share of the noise that is explained at each level, and the rest, (n·levels, 2)."""
    missed = outputs[:, :-1].clamp(0, 1).flatten()
    return torch.stack([1 - missed, missed], 1)


def _prediction(process: Diffusion) -> Prediction:
    """Make what the losses at the process's levels offer.

    A guess takes a share of the noisy image for the noise, which depends on the level alone. For images whose mean square is m² the
    best share is √(1 − ᾱ) / (ᾱm² + 1 − ᾱ), and its loss ᾱm² / (ᾱm² + 1 − ᾱ); with the largest m within the bounds it is no more.
    """
    signal = process.signal[list(process.levels)] * max(map(abs, process.bounds)) ** 2
    guess = torch.cat([signal / (signal + 1 - process.signal[list(process.levels)]), torch.ones(1)])[None]
    return Prediction(
        predictions=lambda outputs: outputs[:, :-1],
        divergences=_divergences,
        losses=lambda predictions, targets: predictions.mean(1),
        known=lambda outputs, targets: -_features(outputs, targets).mean(1),
        guess=lambda targets: guess.to(targets.device),
        distributions=_distributions,
        likeness=lambda targets, others: (targets[:, None] == others[None]).float(),
        signals={"proximal": lambda outputs, targets: outputs[:, -1]},
        features=(_features, _mean_and_least),
        answered=lambda losses: torch.cat([losses, torch.ones_like(losses[:, :1])], 1),
        unit="logarithms of the loss",
    )


def keys_of(images: Tensor, *, salt: int) -> Tensor:
    """Compute a key of each image, (n,) int64, from which its numbers are drawn. salt: with another one all keys are others.

    The generator is based on a counter (splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014), in int64, which wraps around alike on every device.
    """
    numbers = (images.float() * _FIXED_POINT).round().long().flatten(1)
    weights = _mix(torch.arange(1, numbers.shape[1] + 1, device=images.device) * _GOLDEN) | 1
    return _mix((numbers * weights).sum(1) + _mix(torch.full((), salt, device=images.device) + _GOLDEN))


def normal_noise(keys: Tensor, count: int) -> Tensor:
    """Draw `count` standard normal numbers by each key, (n, count) float32 (Box, Muller, 1958)."""
    drawn = _drawn(keys, count)
    first, second = (_fraction(part) for part in (_shift(drawn, 32), drawn & 0xFFFFFFFF))
    return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()


def uniform_numbers(keys: Tensor) -> Tensor:
    """Draw a number between 0 and 1 by each key, (n,) float32, independent of its noise."""
    return _fraction(_shift(_mix(keys ^ _SECOND), 32))


def _drawn(keys: Tensor, count: int) -> Tensor:
    return _mix(keys[:, None] + torch.arange(1, count + 1, device=keys.device) * _GOLDEN)


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """Shift right and fill in zeros; `>>` fills in the sign."""
    shifted: Tensor = (state >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _fraction(bits: Tensor) -> Tensor:
    """Turn 32 bits into a number between 0 and 1, neither included, float32."""
    fraction: Tensor = (_shift(bits, 9).float() + 0.5) / 2**23
    return fraction
