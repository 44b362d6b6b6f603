"""The relearn delay: how long a model takes to learn a set again, compared with data that it never saw."""

import copy
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearning import ranks
from unlearning.audit.intervals import Floats, Interval, student
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, undivided
from unlearning.data.samples import SampleSet
from unlearning.gradients import trainable
from unlearning.hardware import batched_answers, input_layout
from unlearning.networks import copy_network, differentiable_kernels
from unlearning.sharding import gathered, is_sharded
from unlearning.specs.audit import AuditSpec

_EVERY = 4
"""Steps from one look at the set's loss to the next, which costs more than a step does. Where the target was crossed is then found
step by step, so that delays stay exact but for a loss that dips below the target and returns between two looks [ours].
"""

_NEAREST = 5
"""Held-out samples nearest in difficulty, of which a control is one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Difficulty:
    """The mean signal of reference models that did not see each sample: forget, (n,), and held_out, (m,). Low is hard."""

    forget: Floats
    held_out: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Relearner:
    """How to relearn: the same for every model and set of an audit.

    kind: "sgd" (plain) or "adam". target: the loss, nats, at which a set counts as relearned. limit: T_max, steps. batch_size:
    samples a step.
    """

    kind: str
    learning_rate: float
    target: float
    limit: int
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The curve of one relearning.

    losses: the set's mean loss, nats, after each of `steps`, which begin with 0. delay: T, the first step after which the loss is
        at the target.
    censored: T_max came first; then the delay is T_max. travelled: ‖θ_T − θ_0‖, at the last step if censored. diverged: the loss
    became infinite or NaN, and the curve ends there.
    """

    losses: tuple[float, ...]
    steps: tuple[int, ...]
    delay: int
    censored: bool
    travelled: float
    diverged: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Relearning:
    """The results of one relearner.

    relearner: None if it could not be calibrated, because the original's loss on D_v is not above its loss on D_f, the unlearned
        model has collapsed, or D_v has none of the forget set's classes.
    delta: δ, nats. samples: how many are relearned. unlearned: the unlearned model's curves on the forget set, one for each order.
    controls: its curves on the control sets. reference: the retrained model's curve, if there is one.
    ratio: delay on the forget set over delay on the controls. ratio_to_fail: the same with an interval widened for the number of
        relearners (Bonferroni), because each of them can fail the model. original_ratio: the original's delay on the forget set
        over the controls', the negative control. normalised: see `normalised_delay`; None without a reference.
    area: mean loss of the unlearned model's curve above the original's, nats.
    """

    kind: str
    relearner: Relearner | None
    delta: float
    samples: int
    original: Curve
    unlearned: tuple[Curve, ...]
    controls: tuple[Curve, ...]
    reference: Curve | None
    ratio: Interval | None
    ratio_to_fail: Interval | None
    original_ratio: Interval | None
    normalised: float | None
    area: float

    @property
    def reference_ratio(self) -> float | None:
        """T / T(θ_r): 1 for the retrained model; None without one, or if its delay is 0."""
        if self.reference is None or self.reference.delay == 0:
            return None
        return float(np.mean([curve.delay for curve in self.unlearned])) / self.reference.delay

    @property
    def reference_area(self) -> float | None:
        """The mean loss of the unlearned model's curve above the retrained model's, nats; None without a retrained model."""
        return None if self.reference is None else curve_area(self.reference, self.unlearned[0])

    @property
    def control_delay(self) -> float:
        """The typical delay of the controls' curves, steps."""
        return typical_delay(self.controls)

    @property
    def unlearned_delay(self) -> float:
        """The typical delay of the forget set's curves, steps."""
        return typical_delay(self.unlearned)

    @property
    def control(self) -> Curve:
        """The control's curve with the median delay."""
        return sorted(self.controls, key=lambda curve: curve.delay)[len(self.controls) // 2]


def relearn_delay(
    *,
    original: nn.Module,
    unlearned: nn.Module,
    reference: nn.Module | None,
    forget: SampleSet,
    held_out: SampleSet,
    objective: Objective,
    spec: AuditSpec,
    kind: str,
    seed: int,
    collapsed: bool = False,
    difficulty: Difficulty | None = None,
) -> Generator[None, None, Relearning]:
    """Relearn with one relearner, yielding after each of `run_count` runs.

    difficulty: with reference predictions the controls are held-out samples that are as hard for models that never saw them as the
    forget samples are, so that odd samples are compared with odd ones.

    The learning rate, δ and T_max depend on the original and D_v alone and are fixed before the unlearned model is used. A
    collapsed model is not relearned: its delays would mean nothing and take longest. Nor is a forget set measured of whose classes
    D_v has none, unless `difficulty` tells which held-out samples are comparable. Ranks relearn by turns, each on its own, but
    a sharded model together.
    """
    together = is_sharded(original)
    objective = objective if together else undivided(objective)
    sizes: dict[int, int] = {}
    if objective.classes is not None:
        labels = (samples.targets.cpu().numpy() for samples in (forget, held_out))
        sizes = class_sizes(*labels, max_samples=spec.relearn_samples)
    count = sum(sizes.values()) or min(len(forget), spec.relearn_samples, math.ceil(len(held_out) / 2))
    comparable = objective.classes is None or bool(sizes) or difficulty is not None
    rngs = [np.random.default_rng([seed, 0, i]) for i in range(spec.relearn_orders)]
    forget_batches = [draw_by_class(forget, sizes, rng, count=count) for rng in rngs]
    rngs = [np.random.default_rng([seed, 1, i]) for i in range(spec.controls(kind))]
    control_batches = [
        draw_by_class(held_out, sizes, rng, count=count)
        if difficulty is None
        else draw_as_hard(held_out, count, difficulty, rng)
        for rng in rngs
    ]
    known_loss = ranks.agreed(float(np.mean([mean_loss(original, batch, objective) for batch in forget_batches])))
    control_losses = [mean_loss(original, batch, objective) for batch in control_batches]
    median_control = control_batches[int(np.argsort(control_losses)[len(control_losses) // 2])]
    delta = spec.relearn_delta * (ranks.agreed(float(np.mean(control_losses))) - known_loss)
    relearner = None
    if delta > 0 and comparable and not collapsed:
        relearner = calibrate_relearner(
            original, median_control, objective=objective, kind=kind, target=known_loss + delta, steps=spec.relearn_steps,
            limit=spec.relearn_limit, batch_size=spec.relearn_batch, seed=seed,
        )  # fmt: skip
    relearner = ranks.broadcast(relearner)
    yield
    used = relearner or Relearner(kind=kind, learning_rate=0.0, target=math.inf, limit=0, batch_size=spec.relearn_batch)

    def run(model: nn.Module, batch: Batch, order: int, *, at_least: int = 0) -> Curve:
        return relearn(
            model, batch, objective=objective, relearner=used, seed=seed + order, at_least=at_least, every=_EVERY
        )

    plotted = partial(run, batch=forget_batches[0], order=0, at_least=spec.relearn_steps)
    runs = [
        partial(plotted, original),
        partial(plotted, unlearned),
        *(partial(run, unlearned, batch, order) for order, batch in enumerate(forget_batches) if order),
        *(partial(run, unlearned, batch, order) for order, batch in enumerate(control_batches)),
        *([] if reference is None else [partial(plotted, reference)]),
    ]
    curves: list[Curve] = []
    turns = 1 if together else ranks.count()
    for start in range(0, len(runs), turns):
        done = [runs[start]()] if together else ranks.by_turns(runs[start : start + turns])
        curves += done
        yield from repeat(None, len(done))
    original_curve, forget_curves = curves[0], curves[1 : 1 + len(forget_batches)]
    control_curves = curves[1 + len(forget_batches) :][: len(control_batches)]
    reference_curve = None if reference is None else curves[-1]
    delays, control_delays = ([curve.delay for curve in curves] for curves in (forget_curves, control_curves))
    # Controls that are censored at T_max agree with each other, and would make the interval too narrow.
    measured = (
        relearner is not None
        and not any(curve.diverged for curve in (original_curve, *forget_curves, *control_curves))
        and 3 * sum(curve.censored for curve in control_curves) <= len(control_curves)
    )
    pool = len(held_out) if not sizes else int(np.isin(held_out.targets.cpu().numpy(), list(sizes)).sum())
    share = count / max(count, pool)
    confidence = spec.thresholds.confidence

    def ratio(to_controls: list[int], *, confidence: float) -> Interval | None:
        return delay_ratio(to_controls, control_delays, share=share, confidence=confidence) if measured else None

    return Relearning(
        kind=kind,
        relearner=relearner,
        delta=delta,
        samples=count,
        original=original_curve,
        unlearned=tuple(forget_curves),
        controls=tuple(control_curves),
        reference=reference_curve,
        ratio=ratio(delays, confidence=confidence),
        ratio_to_fail=ratio(delays, confidence=1 - (1 - confidence) / len(spec.relearners)),
        original_ratio=ratio([original_curve.delay], confidence=confidence),
        normalised=normalised_delay(
            original=original_curve.delay, unlearned=float(np.mean(delays)), reference=reference_curve.delay
        )
        if reference_curve
        else None,
        area=curve_area(original_curve, forget_curves[0]),
    )


def run_count(spec: AuditSpec, kind: str, *, reference: bool = False) -> int:
    """Compute how often `relearn_delay` yields. reference: whether it relearns a retrained model too."""
    return 2 + spec.relearn_orders + spec.controls(kind) + reference


def relearn(
    model: nn.Module,
    batch: Batch,
    *,
    objective: Objective,
    relearner: Relearner,
    seed: int,
    at_least: int = 0,
    every: int = 1,
) -> Curve:
    """Fine-tune a copy of `model` on `batch` until its mean loss is at the target, or T_max is reached.

    seed: of the order of the samples. The copy stays in evaluation mode: batch norm and dropout would make a step depend on
    which samples share a batch. Its frozen parameters stay, as in training. at_least: continue for so many steps if the target is
    reached sooner (for plots). every: steps from one look at the loss to the next; once it is at the target, or not finite, the
    steps since the look before are taken again, with a look after each.
    """
    copied = copy_network(model).eval()
    batch = batch.map_inputs(input_layout(copied))
    parameters = list(trainable(copied).values())
    start = [p.detach().clone() for p in parameters]
    optimiser = _optimiser(relearner, parameters)

    def step(index: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad(), differentiable_kernels(copied):
            loss = objective.losses(copied, batch.take(index)).mean()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()

    losses = {0: mean_loss(copied, batch, objective)}
    delay = 0 if losses[0] <= relearner.target else None
    travelled = 0.0
    order = list(_order(batch.size, relearner.batch_size, relearner.limit, seed))
    seen, taken, saved = 0, 0, _saved(parameters, optimiser, every)
    while taken < len(order) and (delay is None or taken < at_least):
        step(order[taken])
        taken += 1
        if taken < min(seen + every, len(order)):
            continue
        value = mean_loss(copied, batch, objective)
        if taken > seen + 1 and delay is None and not value > relearner.target:
            _restore(saved, parameters, optimiser)
            every, taken = 1, seen
            continue
        if not math.isfinite(value):
            break
        losses[taken] = value
        if delay is None and value <= relearner.target:
            delay = taken
            travelled = _distance(start, parameters)
        seen, saved = taken, _saved(parameters, optimiser, every)
    if delay is None:
        travelled = _distance(start, parameters)
    return Curve(
        losses=tuple(x for x in losses.values() if math.isfinite(x)),
        steps=tuple(number for number, x in losses.items() if math.isfinite(x)),
        delay=relearner.limit if delay is None else delay,
        censored=delay is None,
        travelled=travelled if math.isfinite(travelled) else 0.0,
        diverged=not math.isfinite(losses[0]) or (delay is None and seen < relearner.limit),
    )


_Saved = tuple[list[Tensor], dict[str, object]] | None


def _saved(parameters: list[Tensor], optimiser: torch.optim.Optimizer, every: int) -> _Saved:
    """Copy what a step changes; None if no step will be taken again."""
    return None if every == 1 else ([p.detach().clone() for p in parameters], copy.deepcopy(optimiser.state_dict()))


@torch.no_grad()
def _restore(saved: _Saved, parameters: list[Tensor], optimiser: torch.optim.Optimizer) -> None:
    if saved is not None:
        for parameter, value in zip(parameters, saved[0], strict=True):
            parameter.copy_(value)
        optimiser.load_state_dict(saved[1])


def calibrate_relearner(
    model: nn.Module, control: Batch, *, objective: Objective, kind: str, target: float, steps: int, limit: float,
    batch_size: int, seed: int, tries: int = 5,
) -> Relearner | None:  # fmt: skip
    """Search the learning rate at which the original learns a control set in about `steps` steps; return None if none is found.

    The search uses the original and held-out data only, so everything is fixed before the unlearned model is used. It stops at
    the first rate that takes between two thirds and twice as many steps, else it returns the nearest rate tried. T_max is
    `limit` times the steps taken. The rate starts low and rises by at most half: near the edge of stability plain SGD's delay is
    mostly noise. While no rate has taught anything it goes on from there in steps of three, because the losses of other objectives
    than classification can be of another size.
    """
    rate = 0.01 if kind == "sgd" else 0.0005
    best: tuple[float, Relearner] | None = None
    for number in range(2 * tries):
        if number >= tries and best is not None:
            break
        trial = Relearner(kind=kind, learning_rate=rate, target=target, limit=2 * steps, batch_size=batch_size)
        curve = relearn(model, control, objective=objective, relearner=trial, seed=seed, every=_EVERY)
        if curve.delay == 0:
            return None
        if not curve.censored:
            miss = abs(math.log(curve.delay / steps))
            if best is None or miss < best[0]:
                best = (miss, replace(trial, limit=math.ceil(limit * max(curve.delay, steps))))
            if steps / 1.5 <= curve.delay <= 2 * steps:
                break
        fastest = 1.5 if number < tries else 3.0
        rate *= 0.25 if curve.diverged else min(fastest, curve.delay / steps)
    return best[1] if best else None


def mean_loss(model: nn.Module, batch: Batch, objective: Objective) -> float:
    """Compute the mean loss of the batch, nats."""
    return float(batched_answers(objective, model, batch).losses.double().mean())


def class_sizes(forget: NDArray[np.int64], held_out: NDArray[np.int64], *, max_samples: int) -> dict[int, int]:
    """Compute how many samples of each class to relearn: in D_f's mix, at most `max_samples`, and half of D_v's of each class.

    Half, so that the control sets differ and show how much the delay varies by chance.
    """
    share = min(1.0, max_samples / len(forget))
    labels, counts = np.unique(forget, return_counts=True)
    available = {int(label): math.ceil(int((held_out == label).sum()) / 2) for label in labels}
    wanted = {int(label): round(float(count) * share) for label, count in zip(labels, counts, strict=True)}
    sizes = {label: min(max(1, wanted[label]), available[label]) for label in available}
    return {label: size for label, size in sizes.items() if size > 0}


def draw_by_class(samples: SampleSet, sizes: dict[int, int], rng: np.random.Generator, *, count: int = 0) -> Batch:
    """Draw `sizes[label]` samples of each class at random without replacement; without sizes `count` samples of any class."""
    if not sizes:
        return samples.select(torch.from_numpy(rng.permutation(len(samples))[:count]))
    targets = samples.targets.cpu().numpy()
    parts = [rng.permutation(np.flatnonzero(targets == label))[:size] for label, size in sizes.items()]
    return samples.select(torch.from_numpy(np.concatenate(parts)))


def draw_as_hard(held_out: SampleSet, count: int, difficulty: Difficulty, rng: np.random.Generator) -> Batch:
    """Draw `count` forget samples and, for each, one of the held-out samples nearest to it in difficulty, none of them twice."""
    wanted = rng.choice(difficulty.forget, size=count, replace=count > len(difficulty.forget))
    free = np.ones(len(held_out), dtype=np.bool_)
    chosen = []
    for value in wanted:
        nearest = np.argsort(np.where(free, np.abs(difficulty.held_out - value), np.inf))[:_NEAREST]
        place = int(rng.choice(nearest[free[nearest]]))
        free[place] = False
        chosen.append(place)
    return held_out.select(torch.tensor(chosen))


def delay_ratio(delays: list[int], controls: list[int], *, share: float, confidence: float) -> Interval:
    """Compute the delay over the controls' delay, with an interval for another forget set of this size.

    On the log scale; half a step is added, because a delay may be 0. The spread between the control sets counts once for D_f and
    once, divided by their number, for the controls. share: of D_v that one control set takes. Control sets from one pool
    overlap, and the finite-population correction accounts for it.
    """
    logs = np.log(np.array(controls) + 0.5)
    between = float(logs.var(ddof=1)) / max(1e-6, 1 - share)
    # A delay is known to a whole step only, which gives the least possible uncertainty.
    grain = 1 / (12 * float(np.mean(np.array(controls) + 0.5)) ** 2)
    error = math.sqrt((between + grain) * (1 + 1 / len(controls)))
    half = student(confidence, len(controls) - 1) * error
    value = float(np.log(np.array(delays) + 0.5).mean() - logs.mean())
    return Interval(math.exp(value), math.exp(value - half), math.exp(value + half))


def normalised_delay(*, original: float, unlearned: float, reference: float) -> float | None:
    """Compute (T − T(θ_o)) / (T(θ_r) − T(θ_o)): 0 for the original, 1 for the retrained model; None if the two are equal."""
    return (unlearned - original) / (reference - original) if reference != original else None


def typical_delay(curves: Sequence[Curve]) -> float:
    """Compute the geometric mean of the curves' delays, steps. Half a step is added before, because a delay may be 0."""
    delays = [curve.delay for curve in curves]
    return delays[0] if len(delays) == 1 else math.exp(float(np.log(np.array(delays) + 0.5).mean())) - 0.5


def curve_area(first: Curve, second: Curve) -> float:
    """Compute the mean difference of two curves over the steps that both have, nats; positive if the second is above the first."""
    if not first.losses or not second.losses:
        return 0.0
    steps = np.arange(min(first.steps[-1], second.steps[-1]) + 1)
    of_first, of_second = (np.interp(steps, curve.steps, curve.losses) for curve in (first, second))
    return float((of_second - of_first).mean())


def _optimiser(relearner: Relearner, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if relearner.kind == "adam":
        return torch.optim.Adam(parameters, lr=relearner.learning_rate)
    return torch.optim.SGD(parameters, lr=relearner.learning_rate)


def _order(n: int, size: int, limit: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for index in torch.split(torch.randperm(n, generator=generator), size):
            if done == limit:
                return
            done += 1
            yield index


def _distance(start: list[Tensor], parameters: list[Tensor]) -> float:
    pairs = zip(start, parameters, strict=True)
    return math.sqrt(sum(float(gathered(p.detach() - s).double().pow(2).sum()) for s, p in pairs))
