"""The relearn delay: how long a model takes to learn a set again, compared with data that it never saw."""

import copy
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

import numpy as np
import torch
from torch import Tensor, nn

from unlearning import ranks
from unlearning.audit.controls import (
    MANY,
    NEAREST,
    Difficulty,
    Places,
    QuickControls,
    class_sizes,
    draw_as_hard,
    draw_by_class,
    draw_distinct,
    overlap,
)
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
_TRIAL = 8
"""Steps of a calibration after which a rate may be given up as too low."""
_RISE = 0.1
"""A loss has risen if it stands so much above its start, as a share of the way that it is to fall [ours]."""


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
    delta: δ, nats. samples: how many forgotten samples are relearned, in all parts. original: the original's curve on the first
        part of the forget set. unlearned, references: the unlearned and the retrained model's curves on all parts; the latter are
        empty without such a model. controls: the unlearned model's curves on the control sets.
    ratio: delay on the forget set over delay on the controls. ratio_to_fail: the same with an interval widened for the number of
        relearners (Bonferroni), because each of them can fail the model. original_ratio: the original's delay on the forget set
        over the controls', the negative control. normalised: see `normalised_delay`; None without a reference.
    area: mean loss of the unlearned model's curve above the original's, nats.
    p_value: of few samples, which then decides in place of the interval: the probability that a set never seen is learned so much
        faster than its controls (`QuickControls`), times the number of relearners (Bonferroni). None of more samples, and if
        nothing was measured. compared: control sets that it counts.
    """

    kind: str
    relearner: Relearner | None
    delta: float
    samples: int
    original: Curve
    unlearned: tuple[Curve, ...]
    controls: tuple[Curve, ...]
    references: tuple[Curve, ...]
    ratio: Interval | None
    ratio_to_fail: Interval | None
    original_ratio: Interval | None
    normalised: float | None
    area: float
    p_value: float | None = None
    compared: int = 0

    @property
    def reference(self) -> Curve | None:
        """The retrained model's curve on the first part; None without such a model."""
        return self.references[0] if self.references else None

    @property
    def reference_ratio(self) -> float | None:
        """T / T(θ_r): 1 for the retrained model; None without one, or if its delay is 0."""
        return self.unlearned_delay / self.reference_delay if self.reference_delay else None

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
    def reference_delay(self) -> float | None:
        """The typical delay of the retrained model's curves, steps; None without such a model."""
        return typical_delay(self.references) if self.references else None

    @property
    def control(self) -> Curve:
        """The control's curve with the median delay."""
        return sorted(self.controls, key=lambda curve: curve.delay)[len(self.controls) // 2]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OriginalLosses:
    """The original's losses, nats: forget, (n,), and held_out, (m,)."""

    forget: Floats
    held_out: Floats


def relearn_delay(
    *,
    original: nn.Module,
    unlearned: nn.Module,
    reference: nn.Module | None,
    forget: SampleSet,
    held_out: SampleSet,
    known: OriginalLosses,
    objective: Objective,
    spec: AuditSpec,
    kind: str,
    seed: int,
    collapsed: bool = False,
    difficulty: Difficulty | None = None,
) -> Generator[None, None, Relearning]:
    """Relearn with one relearner, yielding after each of `run_count` runs.

    known: the original's losses of all samples. difficulty: with reference predictions the controls are held-out samples that are
    as hard for models that never saw them as the forget samples are, so that odd samples are compared with odd ones.

    The learning rate, δ and T_max depend on the original and D_v alone and are fixed before the unlearned model is used. A
    collapsed model is not relearned: its delays would mean nothing and take longest. Nor is a forget set measured of whose classes
    D_v has none, unless `difficulty` tells which held-out samples are comparable. Few samples (`AuditSpec.are_few`) have many
    control sets more, which are relearned only until it is clear whether the forget set is learned unusually fast. Ranks
    relearn by turns, each on its own, but a sharded model together.
    """
    together = is_sharded(original)
    objective = objective if together else undivided(objective)
    small, controls = spec.are_few(len(forget)), spec.controls(kind)
    drawn = _draw_sets(
        forget, held_out, classes=objective.classes, parts=spec.parts(kind, forgotten=len(forget)),
        most=spec.relearn_samples, controls=MANY if small else controls, distinct=small, seed=seed, difficulty=difficulty,
    )  # fmt: skip
    forget_places, control_places = drawn.forget, drawn.controls
    parts = len(forget_places)
    known_loss = ranks.agreed(float(np.mean([known.forget[places].mean() for places in forget_places])))
    control_losses = [float(known.held_out[places].mean()) for places in control_places]
    median_control = control_places[int(np.argsort(control_losses)[len(control_losses) // 2])]
    delta = spec.relearn_delta * (ranks.agreed(float(np.mean(control_losses))) - known_loss)
    relearner = None
    if delta > 0 and drawn.comparable and not collapsed and len(control_places) >= controls:
        relearner = calibrate_relearner(
            original, _select(held_out, median_control), objective=objective, kind=kind, target=known_loss + delta,
            steps=spec.relearn_steps, limit=spec.relearn_limit, batch_size=spec.relearn_batch, seed=seed,
        )  # fmt: skip
    relearner = ranks.broadcast(relearner)
    yield
    used = relearner or Relearner(kind=kind, learning_rate=0.0, target=math.inf, limit=0, batch_size=spec.relearn_batch)

    def run(
        model: nn.Module, samples: SampleSet, places: Places, order: int, *, at_least: int = 0, limit: int = used.limit
    ) -> Curve:
        batch = _select(samples, places)
        relearner = replace(used, limit=limit)
        return relearn(
            model, batch, objective=objective, relearner=relearner, seed=seed + order, at_least=at_least, every=_EVERY
        )

    turns = 1 if together else ranks.count()

    def by_turns(runs: Sequence[Callable[[], Curve]]) -> list[Curve]:
        return [runs[0]()] if together else ranks.by_turns(runs)

    # The first relearner's curves are drawn in the report. The original's is flat: it knows the samples already.
    at_least = spec.relearn_steps if kind == spec.relearners[0] else 0
    plotted = partial(run, samples=forget, places=forget_places[0], order=0, at_least=at_least)
    runs = [
        partial(plotted, original, at_least=min(at_least, _EVERY)),
        partial(plotted, unlearned),
        *(partial(run, unlearned, forget, places, order) for order, places in enumerate(forget_places) if order),
        *(partial(run, unlearned, held_out, places, order) for order, places in enumerate(control_places[:controls])),
    ]
    if reference is not None:
        runs.append(partial(plotted, reference))
        runs += [partial(run, reference, forget, places, order) for order, places in enumerate(forget_places) if order]
    curves: list[Curve] = []
    for start in range(0, len(runs), turns):
        done = by_turns(runs[start : start + turns])
        curves += done
        yield from repeat(None, len(done))
    original_curve, forget_curves = curves[0], curves[1 : 1 + parts]
    control_curves = curves[1 + parts :][: len(control_places[:controls])]
    reference_curves = curves[1 + parts + len(control_curves) :]
    delays, control_delays = ([curve.delay for curve in curves] for curves in (forget_curves, control_curves))
    # Controls that are censored at T_max agree with each other, and would make the interval too narrow.
    measured = (
        relearner is not None
        and not any(curve.diverged for curve in (original_curve, *forget_curves, *control_curves))
        and 3 * sum(curve.censored for curve in control_curves) <= len(control_curves)
    )
    quick = QuickControls(typical_delay(forget_curves), least=spec.thresholds.relearn_ratio)
    tested = small and relearner is not None
    tested = tested and not any(curve.diverged for curve in (*forget_curves, *control_curves))
    if small:
        limit = min(used.limit, math.floor(quick.longest + 1e-9) + 1)
        more = [
            partial(run, unlearned, held_out, places, order, limit=limit)
            for order, places in enumerate(control_places)
            if order >= controls
        ]
        for delay in control_delays:
            quick.add(delay)
        tested = (yield from _count_quick(quick, more if tested else [], by_turns, turns=turns)) and tested
        yield from repeat(None, MANY - quick.drawn)
    overlaps = overlap(forget_places), overlap(control_places[:controls])
    confidence = spec.thresholds.confidence

    def ratio(to_controls: list[int], *, confidence: float) -> Interval | None:
        return delay_ratio(to_controls, control_delays, overlaps=overlaps, confidence=confidence) if measured else None

    return Relearning(
        kind=kind,
        relearner=relearner,
        delta=delta,
        samples=len(np.unique(np.concatenate(forget_places))),
        original=original_curve,
        unlearned=tuple(forget_curves),
        controls=tuple(control_curves),
        references=tuple(reference_curves),
        ratio=ratio(delays, confidence=confidence),
        ratio_to_fail=ratio(delays, confidence=1 - (1 - confidence) / len(spec.relearners)),
        original_ratio=ratio([original_curve.delay], confidence=confidence),
        normalised=normalised_delay(
            original=original_curve.delay,
            unlearned=typical_delay(forget_curves),
            reference=typical_delay(reference_curves),
        )
        if reference_curves
        else None,
        area=curve_area(original_curve, forget_curves[0]),
        p_value=min(1.0, quick.p_value * len(spec.relearners)) if tested else None,
        compared=quick.drawn,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sets:
    """What is relearned: the places of parts of the forget set and of control sets, of as many samples each.

    comparable: whether the controls are like the forget set at all.
    """

    forget: list[Places]
    controls: list[Places]
    comparable: bool


def _draw_sets(
    forget: SampleSet,
    held_out: SampleSet,
    *,
    classes: int | None,
    parts: int,
    most: int,
    controls: int,
    distinct: bool,
    seed: int,
    difficulty: Difficulty | None,
) -> _Sets:
    """Draw parts of the forget set and controls, of its classes or as hard.

    most: samples of a set. distinct: no two controls are equal; otherwise they have as few samples in common as they can.
    """
    sizes: dict[int, int] = {}
    most = min(most, len(forget) // parts)
    if classes is not None:
        labels = [samples.targets.cpu().numpy() for samples in (forget, held_out)]
        sizes = class_sizes(*labels, max_samples=most)
    count = sum(sizes.values()) or min(most, math.ceil(len(held_out) / 2))
    of_forget, of_controls = (np.random.default_rng([seed, side]) for side in (0, 1))

    def draw_control() -> Places:
        if difficulty is None:
            return draw_by_class(held_out, sizes, of_controls, count=count)[0]
        return draw_as_hard(difficulty, of_controls, count=count, nearest=MANY if distinct else NEAREST)

    if distinct:
        drawn = draw_distinct(draw_control, controls)
    elif difficulty is not None:
        drawn = [draw_control() for _ in range(controls)]
    else:
        drawn = draw_by_class(held_out, sizes, of_controls, count=count, sets=controls)
    return _Sets(
        forget=draw_by_class(forget, sizes, of_forget, count=count, sets=parts),
        controls=drawn,
        comparable=classes is None or bool(sizes) or difficulty is not None,
    )


def _count_quick(
    quick: QuickControls,
    runs: Sequence[Callable[[], Curve]],
    by_turns: Callable[[Sequence[Callable[[], Curve]]], list[Curve]],
    *,
    turns: int,
) -> Generator[None, None, bool]:
    """Relearn further control sets, `turns` at a time, until it is settled how many are quick; yields after each of them.

    Returns False if one diverged.
    """
    left = list(runs)
    while left and not quick.settled:
        done, left = by_turns(left[:turns]), left[turns:]
        for curve in done:
            quick.add(curve.delay)
        yield from repeat(None, len(done))
        if any(curve.diverged for curve in done):
            return False
    return True


def _select(samples: SampleSet, places: Places) -> Batch:
    return samples.select(torch.from_numpy(places))


def run_count(spec: AuditSpec, kind: str, *, forgotten: int, reference: bool = False) -> int:
    """Compute how often `relearn_delay` yields. reference: whether it relearns a retrained model too."""
    parts = spec.parts(kind, forgotten=forgotten)
    return 2 + parts * (1 + reference) + (MANY if spec.are_few(forgotten) else spec.controls(kind))


def relearn(
    model: nn.Module,
    batch: Batch,
    *,
    objective: Objective,
    relearner: Relearner,
    seed: int,
    at_least: int = 0,
    every: int = 1,
    may_give_up: bool = False,
) -> Curve:
    """Fine-tune a copy of `model` on `batch` until its mean loss is at the target, or T_max is reached.

    seed: of the order of the samples. The copy stays in evaluation mode: batch norm and dropout would make a step depend on
    which samples share a batch. Its frozen parameters stay, as in training. at_least: continue for so many steps if the target is
    reached sooner (for plots). every: steps from one look at the loss to the next; once it is at the target, or not finite, the
    steps since the look before are taken again, with a look after each. A set that is one batch needs no look of its own: a step is
    taken from the set's losses. may_give_up: end, as censored, once the loss has come less than half as far as it would have on a
    straight line to the target at T_max. A loss that rose tells nothing yet: it may do so in the first steps at any useful rate,
    because what the first batches teach contradicts the others.
    """
    copied = copy_network(model).eval()
    batch = batch.map_inputs(input_layout(copied))
    parameters = list(trainable(copied).values())
    start = [p.detach().clone() for p in parameters]
    optimiser = _optimiser(relearner, parameters)
    whole = batch.size <= relearner.batch_size
    every = 1 if whole else every
    seen_losses: list[Tensor] = []

    def losses_of(part: Batch) -> Tensor:
        with torch.enable_grad(), differentiable_kernels(copied):
            return objective.losses(copied, part)

    def measure() -> float:
        if not whole:
            return mean_loss(copied, batch, objective)
        seen_losses[:] = [losses_of(batch)]
        return float(seen_losses[0].detach().double().mean())

    def step(index: Tensor) -> None:
        found = seen_losses.pop() if whole else losses_of(batch.take(index))
        optimiser.zero_grad(set_to_none=True)
        with differentiable_kernels(copied):
            found.mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()

    losses = {0: measure()}
    delay = 0 if losses[0] <= relearner.target else None
    travelled, finite = 0.0, math.isfinite(losses[0])
    order = list(_order(batch.size, relearner.batch_size, relearner.limit, seed))
    seen, taken, saved = 0, 0, _saved(parameters, optimiser, every)
    while taken < len(order) and (delay is None or taken < at_least):
        step(order[taken])
        taken += 1
        if taken < min(seen + every, len(order)):
            continue
        value = measure()
        if taken > seen + 1 and delay is None and not value > relearner.target:
            _restore(saved, parameters, optimiser)
            every, taken = 1, seen
            continue
        if not math.isfinite(value):
            finite = False
            break
        losses[taken] = value
        if delay is None and value <= relearner.target:
            delay = taken
            travelled = _distance(start, parameters)
        seen, saved = taken, _saved(parameters, optimiser, every)
        if may_give_up and delay is None and taken >= _TRIAL:
            whole_way = losses[0] - relearner.target
            way, rise = (losses[0] - value) / whole_way, (max(losses.values()) - losses[0]) / whole_way
            if rise < _RISE and 2 * way * len(order) < taken:
                break
    if delay is None:
        travelled = _distance(start, parameters)
    return Curve(
        losses=tuple(x for x in losses.values() if math.isfinite(x)),
        steps=tuple(number for number, x in losses.items() if math.isfinite(x)),
        delay=relearner.limit if delay is None else delay,
        censored=delay is None,
        travelled=travelled if math.isfinite(travelled) else 0.0,
        diverged=not math.isfinite(losses[0]) or (delay is None and not finite),
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
    `limit` times the steps taken. The rate starts low and rises by at most half where it is near: near the edge of stability plain
    SGD's delay is mostly noise. A rate that is far too low is given up early and rises by up to three, but by no more than half of
    what a straight line from its first steps asks for. Between a rate that is too low and one that is too high or unstable it takes
    their geometric mean.
    """
    rate = 0.01 if kind == "sgd" else 0.0005
    slow, fast = 0.0, math.inf
    best: tuple[float, Relearner] | None = None
    for number in range(2 * tries):
        if number >= tries and (best is not None or fast < 1.1 * slow):
            break
        trial = Relearner(kind=kind, learning_rate=rate, target=target, limit=3 * steps, batch_size=batch_size)
        curve = relearn(model, control, objective=objective, relearner=trial, seed=seed, every=_EVERY, may_give_up=True)
        if curve.delay == 0:
            return None
        if not curve.censored:
            miss = abs(math.log(curve.delay / steps))
            if best is None or miss < best[0]:
                best = (miss, replace(trial, limit=math.ceil(limit * max(curve.delay, steps))))
            if steps / 1.5 <= curve.delay <= 2 * steps:
                break
        if curve.censored and _unstable(curve, target):
            fast, rate = min(fast, rate), 0.25 * rate
        elif curve.censored:
            slow = max(slow, rate)
            way = (curve.losses[0] - min(curve.losses)) / (curve.losses[0] - target)
            rate *= max(1.5, min(3.0, curve.steps[-1] / way / steps / 2)) if way > 0 else 3.0
        elif curve.delay > steps:
            slow, rate = max(slow, rate), min(1.5, curve.delay / steps) * rate
        else:
            fast, rate = min(fast, rate), curve.delay / steps * rate
        if slow and not slow < rate < fast:
            rate = math.sqrt(slow * fast)
    return best[1] if best else None


def _unstable(curve: Curve, target: float) -> bool:
    """Return whether the loss left the finite numbers, or stood well above its start late, and never came half-way [ours]."""
    whole_way, later = curve.losses[0] - target, curve.losses[len(curve.losses) // 2 :]
    if curve.diverged:
        return True
    return max(later) > curve.losses[0] + _RISE * whole_way and min(later) > curve.losses[0] - whole_way / 2


def mean_loss(model: nn.Module, batch: Batch, objective: Objective) -> float:
    """Compute the mean loss of the batch, nats."""
    return float(batched_answers(objective, model, batch).losses.double().mean())


def delay_ratio(
    delays: Sequence[int], controls: Sequence[int], *, overlaps: tuple[float, float], confidence: float
) -> Interval:
    """Compute the delay on m parts of the forget set over that on c control sets, with an interval [ours].

    On the log scale; half a step is added, because a delay may be 0. Sets of never seen samples differ by which samples they have,
    with a variance σ² that both sides' spread tells, in m + c − 2 degrees of freedom. overlaps: the share ρ of a set that another
    one of the same side has too (`overlap`). It makes them alike: their spread is σ²(1 − ρ), and the variance of their mean
    σ²(ρ + (1 − ρ)/m).
    """
    sides = [np.log(np.array(each) + 0.5) for each in (delays, controls)]
    apart = [max(1e-6, 1 - share) for share in overlaps]
    squares = sum(float(((side - side.mean()) ** 2).sum()) / left for side, left in zip(sides, apart, strict=True))
    degrees = sum(len(side) - 1 for side in sides)
    # A delay is known to a whole step only, which gives the least possible uncertainty.
    grain = 1 / (12 * float(np.mean(np.array(controls) + 0.5)) ** 2)
    of_means = sum(1 - left + left / len(side) for side, left in zip(sides, apart, strict=True))
    half = student(confidence, degrees) * math.sqrt((squares / degrees + grain) * of_means)
    value = float(sides[0].mean() - sides[1].mean())
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
