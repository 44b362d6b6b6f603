"""Certified: the noise against laws that are known exactly, and heads that begin apart and end alike."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm
from torch import Tensor, nn

from tests.unlearning.methods.test_registry import as_a_stream
from tests.unlearning.small import CLASSES, OBJECTIVE, RECIPE, WIDTH, same, samples, state
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, causal_language_model, classification, multi_label, regression
from unlearning.data.objectives.objective import fitted
from unlearning.data.samples import SampleSet, partition
from unlearning.errors import InvalidSpec, MethodRefused
from unlearning.methods.certified import amplification, count_steps, noise_needed
from unlearning.methods.registry import unlearn
from unlearning.specs import Certified
from unlearning.state import State
from unlearning.steps import Progress, run_to_completion
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.task import Task

SHORT = Certified(steps=40, decay=0.3)


class Headed(nn.Module):
    """A frozen layer, and a head that is all that training moves."""

    def __init__(self, outputs: int = CLASSES, *, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU())
        self.body.requires_grad_(False)
        self.head = nn.Linear(24, outputs, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.head(self.body(inputs))
        return answers


class Open(Headed):
    """Its body is trained too."""

    def __init__(self) -> None:
        super().__init__()
        self.body.requires_grad_(True)


class Moving(Headed):
    """Batch norm whose statistics training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.body.append(nn.BatchNorm1d(24, affine=False))


class Scaled(Headed):
    """Something comes after the linear layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


class Twice(Headed):
    """The features depend on the head."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.body(inputs)
        answers: Tensor = self.head(features + self.head(features).sum(1, keepdim=True))
        return answers


class HalfFrozen(Headed):
    """The head's bias is not trained."""

    def __init__(self) -> None:
        super().__init__()
        assert self.head.bias is not None
        self.head.bias.requires_grad_(False)


def numbers(part: SampleSet) -> SampleSet:
    return dataclasses.replace(part, targets=300 + 80 * part.inputs[:, :1])


def labels(part: SampleSet) -> SampleSet:
    return dataclasses.replace(part, targets=(part.inputs[:, :3] > 0).float())


def task(
    build: Callable[[], nn.Module] = Headed,
    *,
    objective: Objective = OBJECTIVE,
    of: Callable[[SampleSet], SampleSet] = lambda part: part,
    shift: float = 0.0,
) -> Task:
    """A model that has learned nothing yet; `shift` is added to its head's weights."""
    forget, remain = partition(of(samples(90, seed=1)), (20, 70), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(shift)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(1.0)
    frozen = state(model)

    def again() -> nn.Module:
        made = build()
        own = {name: value for name, value in made.state_dict().items() if "body" not in name or "running" in name}
        made.load_state_dict({**frozen, **own})
        return made

    return Task(
        model=model,
        build=again,
        objective=fitted(objective, remain.targets),
        recipe=RECIPE,
        forget=forget,
        remain=remain,
        guide=of(samples(20, seed=3)),
        criterion=of(samples(20, seed=4)),
    )


@pytest.mark.parametrize("contraction", [0.5, 0.95, 1.0])
def test_the_amplification_is_the_least_sum_of_squares_that_makes_two_runs_one(contraction: float) -> None:
    """Found by a solver among all sequences of shifts; for one step, and for none that contracts, known by hand."""
    steps = 5
    weights = contraction ** np.arange(steps - 1, -1, -1)
    found = minimize(
        lambda a: (a**2).sum(),
        np.ones(steps),
        constraints={"type": "eq", "fun": lambda a: weights @ a - contraction**steps},
        options={"ftol": 1e-14},
    )

    assert amplification(contraction=contraction, steps=steps) == pytest.approx(found.fun, rel=1e-6)
    assert amplification(contraction=contraction, steps=1) == pytest.approx(contraction**2)
    assert amplification(contraction=1.0, steps=steps) == 1 / steps


def delta_of(epsilon: float, *, distance: float, deviation: float) -> float:
    """The exact δ of two normal laws that lie `distance` apart (Balle and Wang, ICML 2018, thm. 8)."""
    mu = distance / deviation
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-10])
@pytest.mark.parametrize(("contraction", "steps"), [(0.9, 1), (0.9, 30), (0.999, 30)])
def test_on_a_quadratic_loss_whose_law_is_known_the_noise_certifies_what_it_states_and_little_more(
    epsilon: float, delta: float, contraction: float, steps: int
) -> None:
    """There two runs that begin D apart end in normal laws c^T·D apart, of variance σ²(1 + c² + … + c^(2(T − 1)))."""
    spec = Certified(epsilon=epsilon, delta=delta, radius=3.0)
    noise = noise_needed(spec, contraction=contraction, steps=steps)
    deviation = noise * math.sqrt(sum(contraction ** (2 * t) for t in range(steps)))
    distance = 2 * 3.0 * contraction**steps

    assert delta_of(epsilon, distance=distance, deviation=deviation) <= delta
    # The way by Rényi divergences loses something, and for a small δ less than half of the noise.
    assert delta > 1e-3 or delta_of(epsilon, distance=distance, deviation=deviation / 2) > delta


@pytest.mark.parametrize("epsilon", [0.3, 3.0])
@pytest.mark.parametrize(("start", "slope"), [(10.0, 0.5), (-10.0, 1.0), (0.5, -3.0)])
def test_on_a_logistic_loss_whose_laws_are_integrated_the_noise_certifies_what_it_states(
    epsilon: float, start: float, slope: float
) -> None:
    """One weight, whose loss log(1 + exp(−start − slope · θ)) has a second derivative between 0 and slope² / 4.

    The law of each step is integrated over a fine grid, from both ends of the ball; δ is the mass by which one exceeds e^ε times
    the other.
    """
    delta, radius, decay, steps = 1e-3, 2.0, 0.2, 4
    rate = 1 / (slope**2 / 4 + decay)
    spec = Certified(epsilon=epsilon, delta=delta, radius=radius)
    noise = noise_needed(spec, contraction=1 - rate * decay, steps=steps)
    grid, width = np.linspace(-radius - 12 * noise, radius + 12 * noise, 1201, retstep=True)

    def moved(theta: np.ndarray | float) -> np.ndarray | float:
        return theta - rate * (-slope * expit(-start - slope * theta) + decay * theta)

    step = norm.pdf(grid[:, None], moved(grid)[None], noise) * width
    laws = []
    for begun in (-radius, radius):
        law = norm.pdf(grid, moved(begun), noise) * width
        for _ in range(steps - 1):
            law = step @ law
        assert law.sum() == pytest.approx(1, abs=1e-6)
        laws.append(law)
    for one, other in (laws, laws[::-1]):
        assert np.clip(one - math.exp(epsilon) * other, 0, None).sum() <= delta


def clipped(spec: Certified, *, threshold: float, rate: float, decay: float, steps: int) -> float:
    """The noise of the authors' code (docs/methods.md §10), where gradients are clipped to a threshold C₁, at our ρ."""
    log = math.log(1 / spec.delta)
    rho = (math.sqrt(log + spec.epsilon) - math.sqrt(log)) ** 2
    kept = (1 - rate * decay) ** steps
    drift = 2 * spec.radius * kept + 2 * threshold / decay * (1 - kept)
    return drift * math.sqrt(rate * decay * (2 - rate * decay) / (2 * rho * (1 - kept**2)))


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_noise_is_that_of_the_authors_code_without_clipped_gradients(steps: int) -> None:
    spec, rate, decay = Certified(radius=3.0), 0.5, 0.02
    noise = noise_needed(spec, contraction=1 - rate * decay, steps=steps)

    assert noise == pytest.approx(clipped(spec, threshold=0.0, rate=rate, decay=decay, steps=steps))
    assert noise < clipped(spec, threshold=0.1, rate=rate, decay=decay, steps=steps)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 2.8])
def test_the_papers_theorem_without_decay_follows_from_the_same_bound(epsilon: float) -> None:
    """Koloskova et al., thm. 4.1, by summaries: σ² = 9 log(1/δ) (C₀ + C₁γT)² / (ε²T), here without any gradient (C₁ = 0)."""
    spec = Certified(radius=3.0, epsilon=epsilon)
    log = math.log(1 / spec.delta)
    assert epsilon <= log / 4
    for steps in (1, 10, 100):
        stated = math.sqrt(9 * log * 3.0**2 / (epsilon**2 * steps))
        assert noise_needed(spec, contraction=1.0, steps=steps) <= stated


def test_no_more_steps_are_taken_than_the_noise_needs() -> None:
    spec = Certified()
    steps = count_steps(spec, contraction=0.99)

    assert noise_needed(spec, contraction=0.99, steps=steps) <= spec.noise
    assert noise_needed(spec, contraction=0.99, steps=steps - 1) > spec.noise
    assert count_steps(Certified(steps=7), contraction=0.99) == 7


CASES: dict[str, Callable[..., Task]] = {
    "classification": task,
    "class weights and smoothing": lambda **given: task(
        objective=classification(CLASSES, weights=[1, 2, 3, 4], label_smoothing=0.1), **given
    ),
    "one output": lambda **given: task(
        lambda: Headed(1),
        objective=classification(2),
        of=lambda part: dataclasses.replace(part, targets=part.targets % 2),
        **given,
    ),
    "no bias": lambda **given: task(lambda: Headed(bias=False), **given),
    "multi-label": lambda **given: task(lambda: Headed(3), objective=multi_label(3), of=labels, **given),
    "regression": lambda **given: task(lambda: Headed(1), objective=regression(), of=numbers, **given),
    "Huber": lambda **given: task(lambda: Headed(1), objective=regression(huber=1.0), of=numbers, **given),
}


CENTRES = {"regression": 300.0, "Huber": 300.0}
"""Of the targets."""


@pytest.mark.parametrize("name", CASES)
def test_two_heads_that_begin_apart_end_alike_with_the_same_noise(name: str) -> None:
    """What the noise is computed from: the steps of a convex loss bring any two heads nearer."""
    ends = []
    for shift in (0.0, 5.0):
        given = CASES[name](shift=shift)
        before = state(given.model)
        outcome = run_to_completion(unlearn(Certified(decay=0.3), given))
        after = state(given.model)
        assert given.objective.curvature is not None
        assert outcome.metrics["noise"] == pytest.approx(1e-3 / math.sqrt(given.objective.curvature))
        assert [name for name in before if not torch.equal(before[name], after[name])] == [
            name for name in before if name.startswith("head")
        ]
        ends.append(torch.cat([p.detach().flatten() for p in given.model.head.parameters()]))

    assert float((ends[0] - ends[1]).norm()) < 1e-5 * 5 * math.sqrt(len(ends[0]))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    ends = []
    for seed in (1, 1, 2):
        given = task()
        given.seed = seed
        run_to_completion(unlearn(SHORT, given))
        ends.append(state(given.model))

    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_forgotten_samples_have_no_say_at_all() -> None:
    ends = []
    for moved in (0.0, 100.0):
        given = task()
        given.forget = dataclasses.replace(given.forget, inputs=given.forget.inputs + moved)
        run_to_completion(unlearn(SHORT, given))
        ends.append(state(given.model))

    assert same(*ends)


def test_a_head_on_a_stream_ends_in_the_same_weights() -> None:
    ends = []
    for streamed in (False, True):
        given = task()
        if streamed:
            given.remain = as_a_stream(given.remain)
        run_to_completion(unlearn(SHORT, given))
        ends.append(state(given.model))

    assert same(*ends)


def test_a_run_interrupted_at_any_step_ends_in_the_same_weights(tmp_path) -> None:
    spec = dataclasses.replace(SHORT, steps=4)
    whole, seen = task(), list[Progress]()
    run_to_completion(unlearn(spec, whole), seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4]
    for taken in (1, 3):
        first, second = task(), task()
        steps = unlearn(spec, first)
        for _ in range(taken):
            next(steps)
        second.state = State(load_training_checkpoint(*save_training_checkpoint(first.state.snapshot(), tmp_path)))
        steps.close()
        run_to_completion(unlearn(spec, second))
        assert same(state(second.model), state(whole.model))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Open, "2 other parameters"),
        (Moving, "running_mean"),
        (Scaled, "linear layer"),
        (Twice, "used twice"),
        (HalfFrozen, "part is frozen"),
    ],
)
def test_a_model_that_is_more_than_a_head_on_frozen_features_is_refused(
    build: Callable[[], nn.Module], reason: str
) -> None:
    given = task(build)
    before = state(given.model)

    with pytest.raises(MethodRefused, match=reason):
        next(unlearn(SHORT, given))
    assert same(state(given.model), before)


def test_a_loss_that_is_not_known_to_be_convex_is_refused() -> None:
    assert causal_language_model(10).curvature is None
    with pytest.raises(MethodRefused, match="convex"):
        next(unlearn(SHORT, task(objective=dataclasses.replace(OBJECTIVE, curvature=None))))


@pytest.mark.parametrize("name", CASES)
def test_no_second_derivative_is_below_zero_or_above_the_named_curvature(name: str) -> None:
    """At random outputs, around a guess; the steps contract only if this holds."""
    given = CASES[name]()
    curvature, generator, found = given.objective.curvature, torch.Generator().manual_seed(0), list[Tensor]()
    assert curvature is not None
    for number in range(60):
        target = given.forget.targets[number % 20][None]
        drawn = torch.randn(given.model.head.out_features, generator=generator, dtype=torch.float64)
        outputs = drawn * [0.1, 1.0, 10.0][number % 3] / math.sqrt(curvature) + CENTRES.get(name, 0.0)

        def loss(values: Tensor, target: Tensor = target) -> Tensor:
            return given.objective.losses(lambda *_: values[None], Batch(values[None], target))[0]

        found.append(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, outputs)))
    eigenvalues = torch.cat(found)

    assert float(eigenvalues.min()) > -1e-9
    assert curvature / 3 < float(eigenvalues.max()) <= curvature * (1 + 1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epsilon", 0.0), ("delta", 0.0), ("delta", 0.5), ("radius", -1.0), ("decay", 0.0), ("noise", 0.0)],
)
def test_what_certifies_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidSpec, match=field):
        Certified(**{field: value})
