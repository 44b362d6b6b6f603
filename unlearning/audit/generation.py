"""What a model generates, measured: of a forgotten class, of the others, and of forgotten samples that it reproduces.

Only shares and distances leave this module for the report. Pictures and texts are for the operator alone (`Sheet`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from unlearning.audit.intervals import Floats, Interval, wilson
from unlearning.data.batches import Inputs, sent
from unlearning.data.objectives import Objective
from unlearning.data.objectives.prediction import Generation
from unlearning.data.samples import SampleSet
from unlearning.errors import UnsupportedWorkload
from unlearning.networks import device_of
from unlearning.random_state import seeded
from unlearning.specs.audit import AuditSpec
from unlearning.stopping.criterion import fully_forgotten_classes

Generated = Mapping[str, Interval]
"""By measure: `forgotten_class`, `other_classes`, `regeneration` and `regeneration_unseen` (shares), `frechet_distance`."""

_COMPARED = ("forget", "remain", "held_out")
"""The sets with which generated images are compared, and from which the classifier learns."""
_COPY = 1 / 3
"""An image is reproduced if the generated one is at most this share as far from it as from any other (Yoon et al., 2023)."""
_EQUAL = 1 + 1e-4
"""Two distances are equal within this factor: the training images are then copies of one another."""
_AT_ONCE = 256
"""Images that are generated or compared together."""
_EPOCHS, _STEPS, _BATCH, _RATE = 20, (60, 2000), 64, 2e-3
"""Of the small classifier's training: epochs, the least and the most steps, images a step, Adam's learning rate [ours]."""
_READ_LIMIT = 5000
"""Most samples of a set that are read to train the classifier, or to compare features with."""
_LARGE = 16
"""From so many pixels of the shorter side on, the classifier's first layers make images smaller."""
_FEATURES = 32
"""Numbers that enter the small classifier's last layer."""
_SHOWN = 10
"""Pictures or texts of each kind on an operator's sheet."""
_WRITERS = {"original": "before", "unlearned": "after", "reference": "by the retrained model"}
"""What a sheet calls the models."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classifier:
    """A classifier of images, trained apart. model: images → logits, in evaluation mode. head: the linear layer that gives them."""

    model: nn.Module
    head: nn.Linear

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the class of each image, (n,), and its features, which enter the last layer, (n, d) float64; on the CPU."""
        entered: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
        try:
            device = self.head.weight.device
            logits = torch.cat([self.model(part.to(device)) for part in torch.split(images, _AT_ONCE)])
        finally:
            hook.remove()
        return logits.argmax(1).cpu(), torch.cat(entered).flatten(1).double().cpu()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sheet:
    """Samples for the operator alone: what is generated may show, or name, a person who asked to be erased.

    bounds: of the images' numbers. rows: by title, images (n, …), of the forgotten samples and of the models, these from the same
    noise. texts: by title, the beginnings of forgotten texts, their ends, and the ends that the models write.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    rows: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GenerationSets:
    """What a model is asked for, and what it is compared with, the same for every model of an audit.

    asked: classes of forgotten samples, (n,). others: classes that are not forgotten, (n,). whole_classes: whether all samples of
    the `asked` classes are forgotten. sets: "forget", "remain", "held_out". real: features of remaining samples of the other
    classes, (m, d).
    """

    generation: Generation
    classifier: Classifier
    asked: Tensor
    others: Tensor
    whole_classes: bool
    sets: Mapping[str, SampleSet]
    real: Tensor
    seed: int
    confidence: float


def prepare_generation(
    sets: Mapping[str, SampleSet], *, objective: Objective, spec: AuditSpec, seed: int
) -> GenerationSets | None:
    """Fix what is generated and compared, and train the classifier; None for an objective without `Generation`."""
    generation, classes = objective.generation, objective.classes
    if generation is None or classes is None:
        return None
    compared = {name: sets[name] for name in _COMPARED}
    classifier = train_classifier(generation, [*compared.values()], classes=classes, seed=seed)
    gone = fully_forgotten_classes(sets["forget"], sets["remain"], classes=classes)
    assert gone is not None
    forgotten, kept = sets["forget"].targets, sets["remain"].targets
    others = (~gone[kept]).nonzero().flatten()
    if not len(others):
        others = torch.arange(len(kept))
    generator = torch.Generator().manual_seed(seed)

    def drawn(pool: Tensor) -> Tensor:
        return pool[sent(torch.randint(len(pool), (spec.generated_samples,), generator=generator), pool.device)]

    real = _read(generation, sets["remain"].take(others.cpu()), generator)[0]
    return GenerationSets(
        generation=generation,
        classifier=classifier,
        asked=drawn(forgotten),
        others=drawn(kept[others]),
        whole_classes=bool(gone[forgotten].all()),
        sets=compared,
        real=classifier.read(real)[1],
        seed=seed,
        confidence=spec.confidence,
    )


def measure_generation(model: nn.Module, given: GenerationSets) -> tuple[Generated, Tensor]:
    """Measure what a model generates; return the figures, and images of the asked classes, (n, …) on the CPU, for a sheet.

    forgotten_class: of the images generated of a fully forgotten class, the share that the classifier takes for that class; left
        out where no class is fully forgotten. other_classes: the same of the images generated of the other classes.
    frechet_distance: of these to remaining images, in the classifier's features (`frechet_distance`). It has no interval.
    regeneration: of the images generated of the forgotten samples' classes, the share that reproduces a forgotten sample.
        regeneration_unseen: the share that "reproduces" a sample which the model never saw. That is what chance gives.
    """
    asked, others = (
        generate(given.generation, model, classes, seed=[given.seed, number])
        for number, classes in enumerate((given.asked, given.others))
    )
    found, (taken_for, features) = {}, given.classifier.read(others)
    if given.whole_classes:
        found["forgotten_class"] = _share(given.classifier.read(asked)[0] == given.asked.cpu(), given.confidence)
    found["other_classes"] = _share(taken_for == given.others.cpu(), given.confidence)
    distance = frechet_distance(features.numpy(), given.real.numpy())
    found["frechet_distance"] = Interval(distance, distance, distance)
    hits = reproduced(asked, given.sets, images=given.generation.images)
    found["regeneration"] = _share(hits["forget"], given.confidence)
    found["regeneration_unseen"] = _share(hits["held_out"], given.confidence)
    return found, asked.float().cpu()


def sheet(given: GenerationSets, shown: Mapping[str, Tensor]) -> Sheet:
    """Make the operator's sheet of some forgotten samples, no two alike, and of what each model generated in their place.

    shown: images of the asked classes by model, (n, …), the original's first. In a sample's place is the one of them that is the
    nearest to it, and what the other models generated from the same noise.
    """
    forgotten = _distinct(given.sets["forget"], given.generation.images)
    before = next(iter(shown.values()))
    places = torch.cdist(forgotten.flatten(1), before.flatten(1)).argmin(1)
    return Sheet(
        bounds=given.generation.bounds,
        rows={"forgotten": forgotten.numpy()}
        | {f"generated {_WRITERS[name]}": images[places].numpy() for name, images in shown.items()},
    )


def _distinct(samples: SampleSet, images: Callable[[Inputs], Tensor]) -> Tensor:
    """Read the first `_SHOWN` images that differ from one another, (n, …) float32, onto the CPU; copies of one may be many."""
    found: dict[bytes, Tensor] = {}
    for batch in samples.batches(_AT_ONCE):
        for image in images(batch.inputs).float().cpu():
            found.setdefault(image.numpy().tobytes(), image)
            if len(found) == _SHOWN:
                return torch.stack([*found.values()])
    return torch.stack([*found.values()])


@torch.no_grad()
def sheet_of_texts(models: Mapping[str, nn.Module], forget: SampleSet, *, objective: Objective) -> Sheet | None:
    """Make the operator's sheet of some forgotten texts, and of how each model completes them; None without `completions`."""
    if objective.completions is None:
        return None
    shown = forget.select(torch.arange(min(_SHOWN, len(forget))))
    found = {
        name: objective.completions(model, shown.to(device_of(model, forget.device))) for name, model in models.items()
    }
    return Sheet(
        texts={
            "beginning": [one.beginning for one in found["original"]],
            "forgotten": [one.true for one in found["original"]],
            **{f"completed {_WRITERS[name]}": [one.written for one in every] for name, every in found.items()},
        }
    )


def generate(generation: Generation, model: nn.Module, classes: Tensor, *, seed: Sequence[int]) -> Tensor:
    """Generate a sample of each class, (n, …), within the bounds. The same seed starts every model from the same noise.

    A number that is NaN, of a model that has collapsed, counts as the lower bound.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    device = device_of(model, classes.device)
    parts = [generation.generate(model, part.to(device), generator) for part in torch.split(classes, _AT_ONCE)]
    low, high = generation.bounds
    return torch.cat(parts).nan_to_num(nan=low).clamp(low, high)


def frechet_distance(first: Floats, second: Floats) -> float:
    """Compute ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of features (n, d) and (m, d) (Heusel et al., NeurIPS 2017, eq. 6).

    A single row has the covariance 0.
    """
    means = first.mean(0) - second.mean(0)
    one, other = (np.atleast_2d(np.cov(part, rowvar=False, ddof=min(1, len(part) - 1))) for part in (first, second))
    # Σ₁Σ₂ is similar to a positive semidefinite matrix, so its eigenvalues are real and not negative but for rounding.
    root = np.sqrt(np.linalg.eigvals(one @ other).real.clip(min=0.0)).sum()
    return max(0.0, float(means @ means + np.trace(one) + np.trace(other) - 2 * root))


def reproduced(
    generated: Tensor, sets: Mapping[str, SampleSet], *, images: Callable[[Inputs], Tensor]
) -> dict[str, Tensor]:
    """Mark the generated images that reproduce an image of each set, (n,) bool by set. images: finds them in a batch's inputs.

    One does if that image is the nearest of all sets, and at most a third as far away as the next nearest (Yoon et al., ICML 2023
    workshop on structured probabilistic inference). Copies of the nearest image are not the next one. Carlini et al. (USENIX
    Security 2023, arXiv 2301.13188, §5.1) compare with the mean distance to the 50 nearest, which a small set does not have.

    An image that is in several sets counts for none of them.
    """
    points = generated.flatten(1).double().cpu()
    nearest = {name: _least(points, samples, images) for name, samples in sets.items()}
    first = _smallest(nearest.values())
    second = _smallest(_least(points, samples, images, above=first * _EQUAL) for samples in sets.values())
    return {
        name: (first <= _COPY * second)
        & (own * _EQUAL < _smallest(other for key, other in nearest.items() if key != name))
        for name, own in nearest.items()
    }


def _smallest(distances: Iterable[Tensor]) -> Tensor:
    return torch.stack([*distances]).amin(0)


def _least(
    points: Tensor, samples: SampleSet, images: Callable[[Inputs], Tensor], *, above: Tensor | None = None
) -> Tensor:
    """Compute the least Euclidean distance of each point, (n, d), to a set's images; above: greater than that, (n,)."""
    least = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for batch in samples.batches(_AT_ONCE):
        others = images(batch.inputs).flatten(1).double().cpu()
        distances = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")
        if above is not None:
            distances = distances.masked_fill(distances <= above[:, None] + 1e-9, torch.inf)
        least = torch.minimum(least, distances.amin(1))
    return least


def train_classifier(generation: Generation, sets: Sequence[SampleSet], *, classes: int, seed: int) -> Classifier:
    """Make the classifier of generated images: the owner's, or a small one that is trained on these sets for the audit alone.

    Raises UnsupportedWorkload for a classifier of the owner without a linear layer.
    """
    device = sets[0].device
    if generation.classifier is not None:
        with seeded(seed):  # which building draws from
            model = generation.classifier().to(device).eval()
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise UnsupportedWorkload(
                "The classifier of generated images has no linear layer; its features enter the last one."
            )
        return Classifier(model=model, head=layers[-1])
    generator = torch.Generator().manual_seed(seed)
    parts = [_read(generation, samples, generator) for samples in sets]
    images, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    steps = int(np.clip(_EPOCHS * len(images) / _BATCH, *_STEPS))
    with seeded(seed), torch.enable_grad():
        model = _small_classifier(tuple(images.shape[1:]), classes).to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
        for _ in range(steps):
            index = torch.randint(len(images), (_BATCH,), generator=generator)
            logits = model(images[index].to(device))
            loss = functional.cross_entropy(logits, targets[index].to(device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            optimiser.step()
    head = model[-1]
    assert isinstance(head, nn.Linear)
    return Classifier(model=model.eval().requires_grad_(False), head=head)


def _small_classifier(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    side = min(shape[1:]) if len(shape) == 3 else 0
    if side >= _LARGE:
        body = [*_halving(shape[0], side), nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(1024, _FEATURES)]
    elif side >= 4:
        body = [
            nn.Conv2d(shape[0], 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, _FEATURES),
        ]
    else:
        body = [nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, _FEATURES)]
    return nn.Sequential(*body, nn.ReLU(), nn.Linear(_FEATURES, classes))


def _halving(channels: int, side: int) -> Iterator[nn.Module]:
    """Build convolutions, each of which halves the sides, until the shorter is 8 or less; they end with 64 channels.

    At full size, and with averages over quarters, 28 × 28 digits took three times as long and had twice as many errors.
    """
    while side > _LARGE // 2:
        side = -(-side // 2)
        outside = 32 if side > _LARGE // 2 else 64
        yield from (nn.Conv2d(channels, outside, 3, stride=2, padding=1), nn.ReLU())
        channels = outside


def _read(generation: Generation, samples: SampleSet, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Read images, (n, …) float32, and classes, (n,), of at most `_READ_LIMIT` random samples, in their order, onto the CPU.

    Read in another order, too many samples of a stream would have to wait in memory.
    """
    chosen = samples.take(torch.randperm(len(samples), generator=generator)[:_READ_LIMIT].sort().values)
    batches = [
        (generation.images(batch.inputs).float().cpu(), batch.targets.cpu()) for batch in chosen.batches(_AT_ONCE)
    ]
    images, targets = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    return images, targets


def _share(hits: Tensor, confidence: float) -> Interval:
    return wilson(int(hits.sum()), len(hits), confidence=confidence)
