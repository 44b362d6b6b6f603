"""Values with confidence intervals."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy ships no type information

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its interval: low <= value <= high, except for the skewness of a bootstrap."""

    value: float
    low: float
    high: float

    def ends(self, form: str = ".2f") -> str:
        """Print the ends: 0.41 to 0.49."""
        return f"{self.low:{form}} to {self.high:{form}}"

    def scaled(self, factor: float) -> "Interval":
        """Convert to another unit; factor > 0."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def complement(self) -> "Interval":
        """Return 1 − value, e.g. an error from an accuracy."""
        return Interval(1 - self.value, 1 - self.high, 1 - self.low)

    def within(self, low: float, high: float) -> bool:
        """Return whether the whole interval lies in [low, high]."""
        return low <= self.low and self.high <= high

    def outside(self, low: float, high: float) -> bool:
        """Return whether no part of the interval lies in [low, high]."""
        return self.high < low or self.low > high


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Compute the share successes/n with Wilson's score interval (1927); n >= 1, the effective number for weighted samples."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def percentile(value: float, replicates: Floats, *, confidence: float) -> Interval:
    """Compute the bootstrap's percentile interval; replicates (b,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def student(confidence: float, degrees: int) -> float:
    """Compute Student's t within which `confidence` of the distribution lies, two-sided."""
    return float(stdtrit(degrees, (1 + confidence) / 2))


def mean_of(values: Floats, *, confidence: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Compute the mean of values, (n,), with Student's interval, both within `bounds`; one value alone says nothing."""
    mean, n = float(values.mean()), len(values)
    half = student(confidence, n - 1) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Interval(*(min(max(end, bounds[0]), bounds[1]) for end in (mean, mean - half, mean + half)))


def resamples(n: int, *, replicates: int, rng: np.random.Generator) -> Floats:
    """Draw how often each of n samples occurs in each bootstrap replicate, (replicates, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(np.float64)
