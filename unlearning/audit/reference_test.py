"""The reference test: is each forgotten sample answered as by models that never saw it, or as by models that did? [ours]

It asks the question of LiRA (Carlini et al., S&P 2022) and RMIA sample by sample, and sums over the forget set, so that it speaks
on a few samples too. Its null and its alternative are empirical: held-out data (never seen by the model) and remaining data (seen).

For a sample i, z is the audited model's signal (margin, or minus the loss), u the mean signal of reference models that did not see
the sample, s that of reference models that did. Held-out data give the law of an unseen sample, z ≈ a + b·u + c·(s − u) with its
residuals e; remaining data give the law of a seen one, z ≈ a′ + b′·s + c′·(s − u) with e′ (s − u is limited to its 5th to 95th
percentile there). With r what z exceeds the law of an unseen sample by, and weights w = max(s − u, 0) + a tenth of their mean:

    known  T = Σ w·r / Σ w        above 0: still known; below 0: unusually unknown
    spread Q = var(r / σ(u))      above 1: some samples are too well known, others too little

σ(u), the root mean square of held-out residuals, is fitted: how far residuals reach may rise or fall with u (`_Widths`).

The null draws e, for each sample from held-out samples with a similar u, and keeps the forget set's own weights; the alternative
draws e′ around the law of a seen sample. So a forget set of odd samples (wrong labels, copies that stay) is compared with its own
references.

A law is fitted to few samples, so that it errs itself, and by the same for all forgotten samples: more of them do not help. Each
draw therefore has a plane, a scale and a slope of σ of its own (`Law.draw`). What is particular to a person moves all samples of
that person together; where held-out data have people with several samples each, one person's residuals are drawn as much alike as
theirs.

Signals count as no lower than the lowest twentieth of held-out ones, and where u is in their lowest tenth no sample
counts as unusually unknown: how sure a model is of being wrong grows with training alone, where no law of held-out data reaches.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats
from unlearning.data.references import References
from unlearning.specs.audit import Thresholds

_WINDOW, _LEAST_WINDOW = 5, 50
"""A residual is drawn from the fifth of held-out (remaining) samples with the most similar reference signal, at least 50. [ours]"""
_NEIGHBOURS = 100
"""Held-out samples with the most similar margins, at most a fifth of all, whose average of another signal is subtracted from it."""
_FLOOR = 0.05
"""Signals below this quantile of held-out ones count as equal to it."""
_SURELY_WRONG = 0.1
"""Samples whose references are below this quantile of held-out ones cannot be unusually unknown."""
LEAST_HELD_OUT = 100
"""With fewer held-out samples the test says nothing: they tell too little of how far residuals reach. [ours]"""
LEAST_PEOPLE = 20
"""People with several samples from which it is found how alike one person's residuals are. [ours]"""
LEAST_PAIRS = 100
"""With fewer pairs of one person's samples that is known only roughly: its standard error is above 0.1. [ours]"""
_CORRELATIONS = np.linspace(0, 0.995, 200)
"""Those that are tried for one person's residuals."""
_DRAWS = 4000
"""Draws of each law."""
_NEWTON = 20
"""Most steps of Newton's method, of at most one deviation each, by which the widths of residuals are fitted."""
_AT_ONCE = 2**15
"""Drawn numbers, of as many samples in as many draws, that are in memory at once: arrays of 256 KiB, which stay in the cache."""
_DRAWS_FOR_POWER = 400
"""The same for each of the `_SETS` sets over which the power by size is averaged."""

SIZES = (1, 3, 10, 30, 100, 300)
"""Numbers of forgotten samples for which `power_by_size` states the power."""
_SETS = 10
"""Random sets of each size over which it is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferenceSignals:
    """Signals of one set of n samples. model: of the audited model. unseen, seen: means over the reference models, (n,) each.

    people: whom each sample belongs to, (n,), any numbers; None if that is not known.
    """

    model: Floats
    unseen: Floats
    seen: Floats
    people: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.model)

    @property
    def gap(self) -> Floats:
        """How much higher the signals of models that saw the samples are, (n,)."""
        return self.seen - self.unseen

    def take(self, index: NDArray[np.int64]) -> "ReferenceSignals":
        """Return the samples at `index`, (k,)."""
        people = None if self.people is None else self.people[index]
        return ReferenceSignals(
            model=self.model[index], unseen=self.unseen[index], seen=self.seen[index], people=people
        )

    def above(self, floors: tuple[float, float]) -> "ReferenceSignals":
        """Raise what is lower to the floors: of the audited model's signals, and of the reference models'."""
        model, reference = floors
        return replace(
            self,
            model=np.maximum(self.model, model),
            unseen=np.maximum(self.unseen, reference),
            seen=np.maximum(self.seen, reference),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceTest:
    """The test on one model.

    known, spread: the statistics T and Q. null: (low, high) of T between which a model that never saw the samples lies.
    alternative: what a model that knows them all falls below in 5 % of cases. max_spread: the bound of Q. samples: how many were
    compared. passed: None where the test cannot decide. power: the probability that a model which never saw the samples passes.
    alike: the correlation of one person's residuals that it reckons with, 0 to 1, the mean of what is probable; None if held-out
    data do not tell, so that it takes the samples of a person for independent. pairs: of one person's held-out samples, which tell.
    unit: of T and of what it is compared with.
    """

    known: float
    spread: float
    null: tuple[float, float]
    alternative: float
    max_spread: float
    samples: int
    power: float
    passed: bool | None
    alike: float | None = None
    pairs: int = 0
    unit: str = "nats"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AuditReferences:
    """Reference predictions of an audit's sets, row by row in the order of their samples.

    The reference test and nearness read `unseen` and `seen` alone: they come from rounds that no method aims at. `predictions`, at
    which methods do aim, are read for the signals of class probabilities, such as entropy, of which the file holds nothing else.
    They explain another attack's signal away (`signal_beside_margin`) by a slope that is fitted on held-out samples, and never make
    a model pass the reference test. copied: forgotten samples of which a near-copy remains, which no model that is trained on it is
    without; they are left out of the forget set. testable: False if all are such, and the forget set is all of them: nothing tells
    a model that never saw them then.
    """

    forget: References
    remain: References
    held_out: References
    copied: int = 0
    testable: bool = True

    def with_gone_classes(self, of_gone: NDArray[np.bool_]) -> "AuditReferences":
        """Return the references if the marked forget samples, (n,), are of classes that are forgotten as a whole.

        The reference models saw other samples of these. What a model says that never saw any is known without one: it never gives
        the class. So these samples count as less known to it than every held-out sample.
        """
        least = self.held_out.unseen.min() - 1
        marked = torch.from_numpy(of_gone).to(self.forget.unseen.device)
        return replace(
            self, forget=replace(self.forget, unseen=torch.where(marked, least.to(marked.device), self.forget.unseen))
        )

    @property
    def by_set(self) -> dict[str, References]:
        """The predictions by the name of their set, as signals are."""
        return {"forget": self.forget, "held_out": self.held_out, "remain": self.remain}


def signals_by_reference(model: Floats, rows: References, *, subjects: Sequence[str] | None = None) -> ReferenceSignals:
    """Put an audited model's signals, (n,), beside those of the reference models. subjects: as of SampleSet."""
    return ReferenceSignals(
        model=model,
        unseen=rows.unseen.double().cpu().numpy(),
        seen=rows.seen.double().cpu().numpy(),
        people=None if subjects is None else np.unique(np.asarray(subjects), return_inverse=True)[1],
    )


def signal_beside_margin(
    signals: Mapping[str, Floats],
    judged: Mapping[str, ReferenceSignals],
    *,
    unseen: Mapping[str, Floats] | None = None,
    thresholds: Thresholds,
    margin: float,
    seed: int = 0,
) -> ReferenceTest | None:
    """Test another signal of an audited model, such as its entropy, for what the model's margins do not explain of it [ours].

    signals: the other signal, (n,) by set: "forget", "held_out" and "remain". judged: the margins by set, beside those of the
    reference models; the reference test itself judges them. unseen: the other signal of the reference predictions, (n,) by set, if
    they have it. margin: how far from 0.5 an attack's AUC may be.

    From each sample's signal the mean signal of the held-out samples with the most similar margins is subtracted. With `unseen` so
    is what is unusual in the reference predictions' signal, times a slope that is fitted on held-out data: samples may be of a kind
    that is unusual in every model. What is left is tested as margins are. The model's own margin of a sample stands for that of
    reference models which did not see it, and of a remaining sample for that of models which did; the other of the two is as far
    away as it is among the references. Tolerated is what would keep the AUC within `margin` if signals were normally distributed.

    A signal may follow the margin on a curve, so only forgotten samples count that have held-out neighbours on both sides. Returns
    None if there are none. The result is in the signal's unit.
    """
    neighbours = max(1, min(_NEIGHBOURS, len(judged["held_out"]) // 5))
    rank = np.searchsorted(np.sort(judged["held_out"].model), judged["forget"].model)
    inside = np.flatnonzero((rank >= neighbours // 2) & (rank <= len(judged["held_out"]) - neighbours // 2))
    if not len(inside):
        return None

    order = np.argsort(judged["held_out"].model, kind="stable")

    def unusual(values: Mapping[str, Floats], name: str) -> Floats:
        """Subtract the average signal of the held-out samples with the most similar margins."""
        sums = np.concatenate([[0.0], np.cumsum(values["held_out"][order])])
        start = np.searchsorted(judged["held_out"].model[order], judged[name].model) - neighbours // 2
        start = start.clip(0, len(order) - neighbours)
        found: Floats = values[name] - (sums[start + neighbours] - sums[start]) / neighbours
        return found

    slope = 0.0
    if unseen is not None:
        own, theirs = unusual(signals, "held_out"), unusual(unseen, "held_out")
        slope = float(own @ theirs) / max(float(theirs @ theirs), 1e-12)

    def beside(name: str) -> ReferenceSignals:
        known, gap = judged[name].model, judged[name].gap
        explained = 0.0 if unseen is None else slope * unusual(unseen, name)
        margins = known - gap if name == "remain" else known
        return replace(judged[name], model=unusual(signals, name) - explained, unseen=margins, seen=margins + gap)

    found = _compared(
        forget=beside("forget").take(inside),
        held_out=beside("held_out"),
        remain=beside("remain"),
        thresholds=thresholds,
        seed=seed,
    )
    least = math.sqrt(2) * NormalDist().inv_cdf(0.5 + margin) * float(signals["held_out"].std())
    return replace(found, null=(min(found.null[0], -least), max(found.null[1], least)))


def reference_test(
    *,
    forget: ReferenceSignals,
    held_out: ReferenceSignals,
    remain: ReferenceSignals,
    thresholds: Thresholds,
    seed: int = 0,
) -> ReferenceTest:
    """Test whether the audited model answers the forget set as a model does that never saw it.

    Fails if T or Q lies outside its null (`reference_level` in all: two fifths each for still known and for the spread, one fifth
    for unusually unknown); passes if, moreover, T is below the `reference_level` quantile of the alternative. It decides nothing
    with fewer than `LEAST_HELD_OUT` held-out samples.
    """
    floors = floors_of(held_out)
    return _compared(
        forget=forget.above(floors),
        held_out=held_out.above(floors),
        remain=remain.above(floors),
        thresholds=thresholds,
        seed=seed,
        surely_wrong=forget.unseen < np.quantile(held_out.unseen, _SURELY_WRONG),
    )


def _compared(
    *,
    forget: ReferenceSignals,
    held_out: ReferenceSignals,
    remain: ReferenceSignals,
    thresholds: Thresholds,
    seed: int,
    surely_wrong: NDArray[np.bool_] | None = None,
) -> ReferenceTest:
    """Run the test on signals as they are. surely_wrong: marks the samples that cannot be unusually unknown, (n,)."""
    laws = _Laws.fit(held_out, remain)
    rng = np.random.default_rng([seed, 7])
    bounds = laws.bounds(forget, thresholds, rng, draws=_DRAWS, surely_wrong=surely_wrong)
    residuals = forget.model - laws.unseen.expected(forget.unseen, forget.gap)
    if surely_wrong is not None:
        residuals = np.where(surely_wrong, np.maximum(residuals, 0.0), residuals)
    known, spread = float(residuals @ bounds.weights), float((residuals / laws.unseen.widths.at(forget.unseen)).var())
    fails = not bounds.low <= known <= bounds.high or spread > bounds.max_spread
    speaks, alike = len(held_out) >= LEAST_HELD_OUT, laws.unseen.alike
    return ReferenceTest(
        known=known,
        spread=spread,
        null=(bounds.low, bounds.high),
        alternative=bounds.alternative,
        max_spread=bounds.max_spread,
        samples=len(forget),
        power=bounds.power if speaks else 0.0,
        passed=None if not speaks else False if fails else True if known < bounds.alternative else None,
        alike=None if alike is None else alike.value,
        pairs=0 if alike is None else alike.pairs,
    )


def power_by_size(
    *, held_out: ReferenceSignals, remain: ReferenceSignals, thresholds: Thresholds, seed: int = 0
) -> dict[int, float]:
    """Compute the mean power of the test, 0 to 1, on random sets of each of `SIZES` remaining samples, before any is forgotten.

    The power of a size is the probability that a model which never saw so many typical samples, of as many people, is verified on
    them. Empty with fewer than `LEAST_HELD_OUT` held-out samples, on which the test decides nothing.
    """
    if len(held_out) < LEAST_HELD_OUT:
        return {}
    floors = floors_of(held_out)
    held_out, remain = held_out.above(floors), remain.above(floors)
    laws, rng = _Laws.fit(held_out, remain), np.random.default_rng([seed, 11])
    remain = replace(remain, people=None)
    sets = {size: [rng.choice(len(remain), size) for _ in range(_SETS)] for size in SIZES}
    return {
        size: float(
            np.mean([laws.bounds(remain.take(index), thresholds, rng, draws=_DRAWS_FOR_POWER).power for index in drawn])
        )
        for size, drawn in sets.items()
    }


def samples_needed(power: Mapping[int, float], thresholds: Thresholds) -> int | None:
    """Return the least size of `power_by_size` at which the power is at least `reference_power`; None if no size reaches it."""
    return next((size for size in sorted(power) if power[size] >= thresholds.reference_power), None)


def floors_of(held_out: ReferenceSignals) -> tuple[float, float]:
    """Return the lowest values that signals count as: of the audited model, and of the reference models."""
    return float(np.quantile(held_out.model, _FLOOR)), float(np.quantile(held_out.unseen, _FLOOR))


def unseen_law(held_out: ReferenceSignals) -> "Law":
    """Fit the law of samples that the audited model never saw."""
    return Law.fit(held_out.unseen, held_out.gap, held_out.model, people=held_out.people)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Bounds:
    """What the test compares T and Q of one forget set with. weights: w / Σ w, (n,). alternative, power: as in ReferenceTest."""

    weights: Floats
    low: float
    high: float
    max_spread: float
    alternative: float
    power: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Laws:
    """The laws of unseen and of seen samples. least_weight: a tenth of the mean weight of held-out samples."""

    unseen: "Law"
    seen: "Law"
    least_weight: float

    @classmethod
    def fit(cls, held_out: ReferenceSignals, remain: ReferenceSignals) -> "_Laws":
        return cls(
            unseen=unseen_law(held_out),
            seen=Law.fit(remain.seen, remain.gap, remain.model, people=remain.people),
            least_weight=0.1 * max(float(np.maximum(held_out.gap, 0.0).mean()), 1e-6),
        )

    def bounds(
        self,
        forget: ReferenceSignals,
        thresholds: Thresholds,
        rng: np.random.Generator,
        *,
        draws: int,
        surely_wrong: NDArray[np.bool_] | None = None,
    ) -> _Bounds:
        """Compute the bounds of a forget set from its reference signals alone: the audited model's answers on it are not used.

        draws: of each law. surely_wrong: as of `_compared`.
        """
        weights = np.maximum(forget.gap, 0.0) + self.least_weight
        weights /= weights.sum()
        if_seen = self.seen.expected(forget.seen, forget.gap) - self.unseen.expected(forget.unseen, forget.gap)
        of_unseen, of_seen = rng.spawn(2)
        widths = self.unseen.widths.at(forget.unseen)
        means, knowns, spreads, errors = [], [], [], []
        for residuals, error in self.unseen.draw(forget.unseen, forget.gap, of_unseen, draws, people=forget.people):
            errors.append(error @ weights)
            residuals += error
            means.append(residuals @ weights)
            if surely_wrong is not None:
                residuals[:, surely_wrong] = np.maximum(residuals[:, surely_wrong], 0.0)
            knowns.append(residuals @ weights)
            spreads.append((residuals / widths).var(axis=1))
        mean, known, spread, moved = (np.concatenate(each) for each in (means, knowns, spreads, errors))
        level, margin = thresholds.reference_level, thresholds.reference_margin * max(float(if_seen @ weights), 0.0)
        low = min(float(np.quantile(mean, 0.2 * level)), -margin)
        high = max(float(np.quantile(known, 1 - 0.4 * level)), margin)
        max_spread = max(float(np.quantile(spread, 1 - 0.4 * level)), thresholds.reference_spread)
        drawn = self.seen.draw(forget.seen, forget.gap, of_seen, draws, people=forget.people)
        seen = if_seen @ weights + np.concatenate([residuals @ weights + error @ weights for residuals, error in drawn])
        alternative = float(np.quantile(seen, level))
        # An error of the plane of unseen samples moves the alternative as far as T.
        passes = (low <= known) & (known <= high) & (spread <= max_spread) & (known - moved < alternative)
        return _Bounds(
            weights=weights,
            low=low,
            high=high,
            max_spread=max_spread,
            alternative=alternative,
            power=float(passes.mean()),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Law:
    """How the model's signal follows a reference signal and the gap s − u: a plane, and the residuals by rising reference.

    coefficients: of the plane, (3,). covariance: of their errors, (3, 3). residuals: (n,), divided by the root of 1 − leverage, so
    that their mean square is that of samples to which the plane is not fitted, and by `widths`. degrees: degrees of freedom of
    their mean square. alike: how alike one person's residuals are; None if the samples do not tell.
    """

    coefficients: Floats
    covariance: Floats
    gap_range: tuple[float, float]
    reference: Floats
    residuals: Floats
    widths: "_Widths"
    degrees: float
    alike: "Alike | None"

    @classmethod
    def fit(cls, reference: Floats, gap: Floats, model: Floats, *, people: NDArray[np.int64] | None = None) -> "Law":
        """Fit the plane by least squares to n samples, (n,) each.

        Its covariance is the sandwich HC2 (MacKinnon and White, J. Econometrics 29, 1985), by people where they are known (Liang
        and Zeger, Biometrika 73, 1986): residuals may be wider here than there. How wide they are follows the reference
        (`_Widths`). The mean square has the degrees of freedom of a χ² with its variance (Satterthwaite, Biometrics Bulletin 2,
        1946): fewer with heavy tails.
        """
        low, high = (float(q) for q in np.quantile(gap, [0.05, 0.95]))
        terms = _terms(reference, gap.clip(low, high))
        inverse = np.linalg.pinv(terms)
        coefficients = inverse @ model
        rest = 1 - np.einsum("ij,ji->i", terms, inverse)
        residuals = (model - terms @ coefficients) / np.sqrt(rest.clip(1e-6))
        moved, alike, order = inverse * residuals, None, np.argsort(reference, kind="stable")
        counts, person = of_several(people)
        together = (counts > 1).sum() >= LEAST_PEOPLE
        widths = _Widths.fit(reference, residuals, person=person if together else np.arange(len(model)))
        residuals = residuals / widths.at(reference)
        if together:
            alike = Alike.fit(residuals, counts, person)
            moved = np.stack([np.bincount(person, weights=row) for row in moved])
        units, squares = moved.shape[1], residuals**2
        degrees = 2 * (units - 3) * float(squares.mean()) ** 2 / max(float(squares.var()), 1e-12)
        return cls(
            coefficients=coefficients,
            covariance=moved @ moved.T * units / max(units - 1, 1),
            gap_range=(low, high),
            reference=reference[order],
            residuals=residuals[order],
            widths=widths,
            degrees=max(degrees, 1.0),
            alike=alike,
        )

    def expected(self, reference: Floats, gap: Floats) -> Floats:
        """Compute the signals on the plane, (n,)."""
        value: Floats = _terms(reference, gap.clip(*self.gap_range)) @ self.coefficients
        return value

    def draw(
        self,
        reference: Floats,
        gap: Floats,
        rng: np.random.Generator,
        draws: int,
        *,
        people: NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[Floats, Floats]]:
        """Draw residuals of n new samples, and the errors of the plane there; the samples lie at the sum of both.

        Yields some of the draws at a time, (k, n) each, because all of a large set would not fit into memory. Results do not
        depend on that. For each sample a residual is drawn from those whose reference is the most similar; those of one person
        are correlated. Each draw has a plane, a scale, a slope of the widths, and a correlation of its own.
        """
        n, count = len(reference), min(max(len(self.residuals) // _WINDOW, _LEAST_WINDOW), len(self.residuals))
        start = np.clip(np.searchsorted(self.reference, reference) - count // 2, 0, len(self.residuals) - count)
        terms = _terms(reference, gap.clip(*self.gap_range)).T
        counts, person = of_several(people)
        several = np.flatnonzero(counts[person] > 1)
        of_sample, of_person = rng.spawn(2)
        alike = np.zeros((draws, 1)) if self.alike is None else self.alike.draw(draws, of_person)
        scales = np.sqrt(self.degrees / rng.chisquare(self.degrees, (draws, 1)))
        planes = scales * rng.multivariate_normal(
            np.zeros(3), self.covariance, draws, check_valid="ignore", method="svd"
        )
        width, place = self.widths.at(reference), self.widths.place(reference)
        turns = self.widths.error * rng.standard_normal((draws, 1))
        ends = np.cumsum(in_parts(draws, n))[:-1]
        of_draws = (np.split(each, ends) for each in (scales, planes, turns, alike))
        for scale, plane, turn, shared in zip(*of_draws, strict=True):
            drawn: Floats = self.residuals[start + of_sample.integers(count, size=(len(scale), n))]
            if self.alike is not None and len(several):
                common = self.residuals[of_person.integers(len(self.residuals), size=(len(scale), len(counts)))]
                own, theirs = np.sqrt(1 - shared) * drawn[:, several], np.sqrt(shared) * common[:, person[several]]
                drawn[:, several] = own + theirs
            drawn *= scale * width * np.exp(turn * place)
            yield drawn, plane @ terms


@dataclass(frozen=True, kw_only=True, slots=True)
class _Widths:
    """How wide residuals are by the reference signal u, as their root mean square: exp(level + slope·(u − centre)).

    u is limited to `limits`, its 5th to 95th percentile. error: the standard error of the slope.
    """

    level: float
    slope: float
    error: float
    centre: float
    limits: tuple[float, float]

    @classmethod
    def fit(cls, reference: Floats, residuals: Floats, *, person: NDArray[np.int64]) -> "_Widths":
        """Fit by maximum likelihood for normal residuals (Harvey, Econometrica 44, 1976), with sandwich errors by person, (n,).

        Of the mean square given the slope there is a closed form, and the likelihood left is concave: Newton's method finds it.
        """
        low, high = (float(q) for q in np.quantile(reference, [0.05, 0.95]))
        place = reference.clip(low, high)
        centre = float(place.mean())
        place, squares, slope = place - centre, residuals**2 + 1e-12, 0.0
        total = float(place @ place)
        deviation = math.sqrt(total / len(place))
        if total < 1e-12:
            return cls(
                level=math.log(float(squares.mean())) / 2, slope=0.0, error=0.0, centre=centre, limits=(low, high)
            )
        for _ in range(_NEWTON):
            shares = squares * np.exp(-2 * slope * place)
            shares /= shares.sum()
            mean = float(shares @ place)
            step = mean / max(2 * float(shares @ (place - mean) ** 2), 1e-12)
            before, slope = slope, slope + min(max(step, -1 / deviation), 1 / deviation)
            if slope == before:
                break
        squares = squares * np.exp(-2 * slope * place)
        score = np.bincount(person, weights=place * (squares / squares.mean() - 1))
        return cls(
            level=math.log(float(squares.mean())) / 2,
            slope=slope,
            error=float(np.sqrt(score @ score)) / (2 * total),
            centre=centre,
            limits=(low, high),
        )

    def place(self, reference: Floats) -> Floats:
        """Return u − centre, (n,), of references, (n,)."""
        value: Floats = reference.clip(*self.limits) - self.centre
        return value

    def at(self, reference: Floats) -> Floats:
        """Compute how wide residuals are, (n,)."""
        value: Floats = np.exp(self.level + self.slope * self.place(reference))
        return value


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Alike:
    """How alike one person's residuals are: the correlation of any two of them.

    shares: how probable each of `_CORRELATIONS` is, (k,), in sum 1. pairs: of one person's residuals, from which that is known.
    """

    shares: Floats
    pairs: int

    @classmethod
    def fit(cls, residuals: Floats, counts: NDArray[np.int64], person: NDArray[np.int64]) -> "Alike":
        """Estimate it from n residuals, (n,), with its error. counts, person: as of `of_several`.

        Each person's pairs weigh as one sample less than it has. The estimate counts as normal around the true correlation, with
        the variance that it has for normal residuals (Fisher, Statistical Methods for Research Workers, 1925), and each true one
        from 0 to 1 as equally probable before [ours].
        """
        products = (np.bincount(person, weights=residuals) ** 2 - np.bincount(person, weights=residuals**2)) / counts
        free = counts - 1
        found = float(products.sum()) / int(free.sum()) / max(float((residuals**2).mean()), 1e-12)
        own = (1 - _CORRELATIONS[:, None]) * (1 + _CORRELATIONS[:, None] * np.unique(free))
        sizes, people = np.unique(free, return_counts=True)
        variance = own**2 @ (2 * people * sizes / (sizes + 1)) / int(free.sum()) ** 2
        likely = -((found - _CORRELATIONS) ** 2) / (2 * variance) - np.log(variance) / 2
        shares = np.exp(likely - likely.max())
        return cls(shares=shares / shares.sum(), pairs=int((counts * free).sum()) // 2)

    @property
    def value(self) -> float:
        """Its mean, 0 to 1."""
        return float(self.shares @ _CORRELATIONS)

    def draw(self, draws: int, rng: np.random.Generator) -> Floats:
        """Draw it, (draws, 1)."""
        return rng.choice(_CORRELATIONS, size=(draws, 1), p=self.shares)


def in_parts(draws: int, samples: int) -> list[int]:
    """Divide so many draws, each of so many samples, into parts that memory has room for, at least one draw each."""
    parts = min(draws, -(-draws * samples // _AT_ONCE))
    return [draws // parts + (number < draws % parts) for number in range(parts)]


def _terms(reference: Floats, gap: Floats) -> Floats:
    """Return what the coefficients of a plane are multiplied by, (n, 3)."""
    return np.stack([np.ones(len(reference)), reference, gap], axis=1)


def of_several(people: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many of n samples each person has, (p,), and whom each sample belongs to, (n,), 0 to p − 1; empty if not known."""
    if people is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    return counts, person
