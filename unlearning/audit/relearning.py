"""The relearn delay: how long a model takes to learn a set again, compared with data that it never saw."""

import copy
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

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
"""Steps from one evaluation of the set's loss to the next, which costs more than a step does. Where the target was crossed is then
found step by step, so that delays stay exact but for a loss that dips below the target and returns between two evaluations [ours].
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
    delta: δ, nats. samples: how many distinct forgotten samples are relearned, in all parts. original: the original's curve on the
        first part of the forget set. unlearned, references: the unlearned and the retrained model's curves on all parts; the latter
        are empty without such a model. controls: the unlearned model's curves on the control sets.
    ratio: delay on the forget set over delay on the controls. ratio_to_fail: the same with an interval widened for the number of
        relearners (Bonferroni), because each of them can fail the model. original_ratio: the original's delay on the forget set
        over the controls', the negative control. normalised: see `normalised_delay`; None without a reference.
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RelearnCase:
    """What the relearners of an audit compare.

    models: by name: "original", "unlearned", and "reference" if there is a retrained one. forget, held_out: no two samples of one
    set are equal. known: the original's losses of all of these. collapsed: whether the unlearned model has collapsed. difficulty:
    with reference predictions the controls are held-out samples that are as hard for models that never saw them as the forget
    samples are, so that odd samples are compared with odd ones.
    """

    models: Mapping[str, nn.Module]
    forget: SampleSet
    held_out: SampleSet
    known: OriginalLosses
    objective: Objective
    spec: AuditSpec
    seed: int
    collapsed: bool = False
    difficulty: Difficulty | None = None

    @property
    def few(self) -> bool:
        """Whether so few samples are relearned that ranks among control sets decide (`AuditSpec.are_few`)."""
        return self.spec.are_few(len(self.forget))

    @property
    def together(self) -> bool:
        """Whether all ranks relearn together, as a sharded model needs; else they take turns, each on its own."""
        return is_sharded(self.models["original"])


class _Run(NamedTuple):
    """A run: which model learns which set, "forget" or "held_out", by the number of its part or control set."""

    model: str
    side: str
    number: int


def relearn_delay(case: RelearnCase, kind: str) -> Generator[None, None, Relearning]:
    """Relearn with one relearner, yielding after each of `run_count` runs.

    The learning rate, δ and T_max depend on the original and D_v alone and are fixed before the unlearned model is used. A
    collapsed model is not relearned: its delays would mean nothing and take longest. Nor is a forget set measured of whose classes
    D_v has none, unless `difficulty` tells which held-out samples are comparable. Few samples have many control sets more, which
    are relearned only until it is clear whether the forget set is learned unusually fast.
    """
    if not case.together:
        case = replace(case, objective=undivided(case.objective))
    spec, drawn = case.spec, _draw_sets(case, kind)
    relearner, delta = _calibrated(case, kind, drawn)
    yield
    parts, controls = range(len(drawn.forget)), range(len(drawn.controls))[: spec.controls(kind)]
    runs = [
        _Run("original", "forget", 0),
        *(_Run("unlearned", "forget", number) for number in parts),
        *(_Run("unlearned", "held_out", number) for number in controls),
        *(_Run("reference", "forget", number) for number in parts if "reference" in case.models),
    ]
    used = relearner or Relearner(kind=kind, learning_rate=0.0, target=math.inf, limit=0, batch_size=spec.relearn_batch)
    curves: list[Curve] = []
    for done in _curves(case, drawn, used, runs):
        curves += done
        yield from repeat(None, len(done))

    def of(model: str, side: str = "forget") -> list[Curve]:
        return [curve for run, curve in zip(runs, curves, strict=True) if (run.model, run.side) == (model, side)]

    original, forgotten, compared, retrained = (
        of("original")[0],
        of("unlearned"),
        of("unlearned", "held_out"),
        of("reference"),
    )
    # Controls that are censored at T_max agree with each other, and would make the interval too narrow.
    measured = (
        relearner is not None
        and not any(curve.diverged for curve in (original, *forgotten, *compared))
        and 3 * sum(curve.censored for curve in compared) <= len(compared)
    )
    quick = QuickControls(typical_delay(forgotten), least=spec.thresholds.relearn_ratio)
    ranked = False
    if case.few:
        usable = relearner is not None and not any(curve.diverged for curve in (*forgotten, *compared))
        ranked = yield from _count_quick(quick, case, drawn, used, compared, usable=usable)
    sets = drawn.forget, [drawn.controls[number] for number in controls]
    confidence = spec.thresholds.confidence

    def ratio(to_controls: Sequence[Curve], *, confidence: float = confidence) -> Interval | None:
        delays, others = ([curve.delay for curve in side] for side in (to_controls, compared))
        overlaps = overlap(sets[0]), overlap(sets[1])
        return delay_ratio(delays, others, overlaps=overlaps, confidence=confidence) if measured else None

    return Relearning(
        kind=kind,
        relearner=relearner,
        delta=delta,
        samples=len(np.unique(np.concatenate(drawn.forget))),
        original=original,
        unlearned=tuple(forgotten),
        controls=tuple(compared),
        references=tuple(retrained),
        ratio=ratio(forgotten),
        ratio_to_fail=ratio(forgotten, confidence=1 - (1 - confidence) / len(spec.relearners)),
        original_ratio=ratio([original]),
        normalised=normalised_delay(
            original=original.delay, unlearned=typical_delay(forgotten), reference=typical_delay(retrained)
        )
        if retrained
        else None,
        p_value=min(1.0, quick.p_value * len(spec.relearners)) if ranked else None,
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


def _draw_sets(case: RelearnCase, kind: str) -> _Sets:
    """Draw parts of the forget set and controls, of its classes or as hard.

    Of few samples no two controls are equal; otherwise controls have as few samples in common as they can.
    """
    forget, held_out, spec, difficulty = case.forget, case.held_out, case.spec, case.difficulty
    parts, wanted = spec.parts(kind, forgotten=len(forget)), MANY if case.few else spec.controls(kind)
    sizes: dict[int, int] = {}
    most = min(spec.relearn_samples, len(forget) // parts)
    if case.objective.classes is not None:
        labels = [samples.targets.cpu().numpy() for samples in (forget, held_out)]
        sizes = class_sizes(*labels, max_samples=most)
    count = sum(sizes.values()) or min(most, math.ceil(len(held_out) / 2))
    of_forget, of_controls = (np.random.default_rng([case.seed, side]) for side in (0, 1))

    def draw_control() -> Places:
        if difficulty is None:
            return draw_by_class(held_out, sizes, of_controls, count=count)[0]
        return draw_as_hard(difficulty, of_controls, count=count, nearest=MANY if case.few else NEAREST)

    if case.few:
        controls = draw_distinct(draw_control, wanted)
    elif difficulty is not None:
        controls = [draw_control() for _ in range(wanted)]
    else:
        controls = draw_by_class(held_out, sizes, of_controls, count=count, sets=wanted)
    return _Sets(
        forget=draw_by_class(forget, sizes, of_forget, count=count, sets=parts),
        controls=controls,
        comparable=case.objective.classes is None or bool(sizes) or difficulty is not None,
    )


def _calibrated(case: RelearnCase, kind: str, drawn: _Sets) -> tuple[Relearner | None, float]:
    """Calibrate the relearner on the original and the control set of median loss, and fix δ, nats; None if it cannot be."""
    spec, known = case.spec, case.known
    known_loss = ranks.agreed(float(np.mean([known.forget[places].mean() for places in drawn.forget])))
    losses = [float(known.held_out[places].mean()) for places in drawn.controls]
    delta = spec.relearn_delta * (ranks.agreed(float(np.mean(losses))) - known_loss)
    relearner = None
    if delta > 0 and drawn.comparable and not case.collapsed and len(drawn.controls) >= spec.controls(kind):
        median = drawn.controls[int(np.argsort(losses)[len(losses) // 2])]
        relearner = calibrate_relearner(
            case.models["original"], _select(case.held_out, median), objective=case.objective, kind=kind,
            target=known_loss + delta, steps=spec.relearn_steps, limit=spec.relearn_limit, batch_size=spec.relearn_batch,
            seed=case.seed,
        )  # fmt: skip
    return ranks.broadcast(relearner), delta


def _curves(
    case: RelearnCase, drawn: _Sets, relearner: Relearner, runs: Sequence[_Run], *, limit: int | None = None
) -> Iterator[list[Curve]]:
    """Yield the curves of as many runs at a time as there are ranks, or of one run if they relearn together.

    limit: of the steps, in place of T_max. The first relearner's curves of first parts are drawn in the report, and so have
    `relearn_steps` at least; the original's is flat, because it knows the samples already.
    """
    places = {"forget": drawn.forget, "held_out": drawn.controls}
    plotted = case.spec.relearn_steps if relearner.kind == case.spec.relearners[0] else 0

    def curve(run: _Run) -> Curve:
        at_least = plotted if run.side == "forget" and run.number == 0 else 0
        return relearn(
            case.models[run.model],
            _select(case.forget if run.side == "forget" else case.held_out, places[run.side][run.number]),
            objective=case.objective,
            relearner=relearner if limit is None else replace(relearner, limit=limit),
            seed=case.seed + run.number,
            at_least=min(at_least, _EVERY) if run.model == "original" else at_least,
            every=_EVERY,
        )

    turns = 1 if case.together else ranks.count()
    for start in range(0, len(runs), turns):
        acts = [partial(curve, run) for run in runs[start : start + turns]]
        yield [acts[0]()] if case.together else ranks.by_turns(acts)


def _count_quick(
    quick: QuickControls,
    case: RelearnCase,
    drawn: _Sets,
    relearner: Relearner,
    curves: Sequence[Curve],
    *,
    usable: bool,
) -> Generator[None, None, bool]:
    """Count how many control sets are quick, relearning further ones until that is settled.

    curves: of the control sets that are relearned already; yields once for each other one of `MANY`. Returns whether the count can
    be used: False if it was not `usable` to begin with, or if a further run diverged.
    """
    for curve in curves:
        quick.add(curve.delay)
    more = [_Run("unlearned", "held_out", number) for number in range(len(curves), len(drawn.controls))]
    limit = min(relearner.limit, math.floor(quick.longest + 1e-9) + 1)
    if usable and not quick.settled:
        for done in _curves(case, drawn, relearner, more, limit=limit):
            for curve in done:
                quick.add(curve.delay)
            yield from repeat(None, len(done))
            usable = not any(curve.diverged for curve in done)
            if quick.settled or not usable:
                break
    yield from repeat(None, MANY - quick.drawn)
    return usable


def _select(samples: SampleSet, places: Places) -> Batch:
    return samples.select(torch.from_numpy(places))


def run_count(case: RelearnCase, kind: str) -> int:
    """Compute how often `relearn_delay` yields."""
    parts = case.spec.parts(kind, forgotten=len(case.forget))
    return 2 + parts * (1 + ("reference" in case.models)) + (MANY if case.few else case.spec.controls(kind))


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
    reached sooner (for plots). every: steps from one evaluation of the loss to the next; once it is at the target, or not finite,
    the steps since the one before are taken again, with an evaluation after each. A set that is one batch needs none of its own: a
    step is taken from the set's losses. may_give_up: end, as censored, once the loss has come less than half as far as it would
    have on a straight line to the target at T_max. A loss that rose tells nothing yet: it may do so in the first steps at any
    useful rate, because what the first batches teach contradicts the others.
    """
    learner = _Learner(model, batch, objective, relearner)
    every = 1 if learner.whole else every
    losses = {0: learner.loss()}
    delay, travelled, finite = 0 if losses[0] <= relearner.target else None, 0.0, math.isfinite(losses[0])
    order = list(_order(batch.size, relearner.batch_size, relearner.limit, seed))
    evaluated, taken = 0, 0
    learner.save(every)
    while taken < len(order) and (delay is None or taken < at_least):
        learner.step(order[taken])
        taken += 1
        if taken < min(evaluated + every, len(order)):
            continue
        value = learner.loss()
        if taken > evaluated + 1 and delay is None and not value > relearner.target:
            learner.restore()
            every, taken = 1, evaluated
            continue
        if not math.isfinite(value):
            finite = False
            break
        losses[taken] = value
        if delay is None and value <= relearner.target:
            delay, travelled = taken, learner.travelled()
        evaluated = taken
        learner.save(every)
        if may_give_up and delay is None and taken >= _TRIAL and _hopeless(losses, relearner.target, len(order)):
            break
    if delay is None:
        travelled = learner.travelled()
    return Curve(
        losses=tuple(x for x in losses.values() if math.isfinite(x)),
        steps=tuple(number for number, x in losses.items() if math.isfinite(x)),
        delay=relearner.limit if delay is None else delay,
        censored=delay is None,
        travelled=travelled if math.isfinite(travelled) else 0.0,
        diverged=not math.isfinite(losses[0]) or (delay is None and not finite),
    )


def _hopeless(losses: dict[int, float], target: float, steps: int) -> bool:
    """Return whether the loss has not risen, and come less than half as far as on a line to the target after so many steps."""
    first, (taken, latest) = losses[0], max(losses.items())
    rise, way = ((max(losses.values()) - first) / (first - target), (first - latest) / (first - target))
    return rise < _RISE and 2 * way * steps < taken


class _Learner:
    """A copy of a model that learns a batch. whole: whether the batch is one step's."""

    def __init__(self, model: nn.Module, batch: Batch, objective: Objective, relearner: Relearner) -> None:
        self._model, self._objective = copy_network(model).eval(), objective
        self._batch, self.whole = batch.map_inputs(input_layout(self._model)), batch.size <= relearner.batch_size
        self._parameters = list(trainable(self._model).values())
        self._start = [p.detach().clone() for p in self._parameters]
        optimiser = torch.optim.Adam if relearner.kind == "adam" else torch.optim.SGD
        self._optimiser = optimiser(self._parameters, lr=relearner.learning_rate)
        self._batch_losses: Tensor | None = None  # the losses of a whole batch, of which the next step is taken
        self._saved: tuple[list[Tensor], dict[str, Any]] | None = None

    def loss(self) -> float:
        """Compute the mean loss, nats."""
        if not self.whole:
            return mean_loss(self._model, self._batch, self._objective)
        self._batch_losses = self._losses(self._batch)
        return float(self._batch_losses.detach().double().mean())

    def step(self, index: Tensor) -> None:
        """Take a step on the samples at `index`, (k,)."""
        found = self._losses(self._batch.take(index)) if self._batch_losses is None else self._batch_losses
        self._batch_losses = None
        self._optimiser.zero_grad(set_to_none=True)
        with differentiable_kernels(self._model):
            found.mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimiser.step()

    def save(self, every: int) -> None:
        """Copy what a step changes, unless no step will be taken again, because the loss is evaluated after each."""
        weights = [p.detach().clone() for p in self._parameters] if every > 1 else []
        self._saved = (weights, copy.deepcopy(self._optimiser.state_dict())) if every > 1 else None

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to what was saved."""
        assert self._saved is not None
        for parameter, value in zip(self._parameters, self._saved[0], strict=True):
            parameter.copy_(value)
        self._optimiser.load_state_dict(self._saved[1])

    def travelled(self) -> float:
        """Compute ‖θ − θ_0‖."""
        pairs = zip(self._start, self._parameters, strict=True)
        return math.sqrt(sum(float(gathered(p.detach() - s).double().pow(2).sum()) for s, p in pairs))

    def _losses(self, part: Batch) -> Tensor:
        with torch.enable_grad(), differentiable_kernels(self._model):
            return self._objective.losses(self._model, part)


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
        factor = _factor(curve, steps=steps, target=target)
        slow, fast = (max(slow, rate), fast) if factor > 1 else (slow, min(fast, rate))
        rate *= factor
        if slow and not slow < rate < fast:
            rate = math.sqrt(slow * fast)
    return best[1] if best else None


def _factor(curve: Curve, *, steps: int, target: float) -> float:
    """Return by what to multiply a rate that gave this curve, to learn in `steps` steps: above 1 if it is too low."""
    if not curve.censored:
        return min(1.5, curve.delay / steps)
    if _unstable(curve, target):
        return 0.25
    way = (curve.losses[0] - min(curve.losses)) / (curve.losses[0] - target)
    return max(1.5, min(3.0, curve.steps[-1] / way / steps / 2)) if way > 0 else 3.0


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


def _order(n: int, size: int, limit: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for index in torch.split(torch.randperm(n, generator=generator), size):
            if done == limit:
                return
            done += 1
            yield index
