"""Noise that is drawn by what it is added to: the same numbers for the same image, on every device and in any batch.

A counter-based generator (splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) in int64,
which wraps around alike everywhere. torch's own generators give other numbers in other batches and on other devices.
"""

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_FIXED_POINT = 2**16
"""An image's numbers are distinguished down to 1/65,536."""


def keys_of(images: Tensor, *, salt: int) -> Tensor:
    """Compute a key of each image, (n,) int64. salt: with another one all keys are others."""
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
