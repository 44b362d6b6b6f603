"""References of texts: at each place the true token and the likeliest others, each with its log-probability.

Predictions, (n, j), are blocks of a text's length − 1 numbers. The first has the log-probability of the true token at each place.
Where other tokens are named, the second has that of all the rest together; then follow, for each named token, its log-probability
and its number, in digits. A row of the first block alone names no other token; so are the references of older versions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unlearning.data.batches import Inputs
from unlearning.data.objectives.extraction import Logits
from unlearning.data.objectives.objective import Forward
from unlearning.errors import ReferencesUnusable

_BASE = 2048
"""Half precision holds each whole number up to this one: the base of the digits of a token's number."""
_LEAST = -20.0
"""A log-probability below this counts as this, so that a divergence stays finite."""
_SURE = 1e-6
"""Minus the largest log-probability of a token: 0 means padding."""
_STEPS = 1001
"""Quantiles between which a law is mapped to another in a straight line."""
_AT_ONCE = 2**24
"""Logits (64 MiB) of which a model's likeliest tokens are found at once."""


class Law(NamedTuple):
    """What a prediction says of each place. true, rest: log-probabilities, (n, length). others: of named tokens, (n, length, m).

    tokens: the numbers of these, (n, length, m) int64.
    """

    true: Tensor
    rest: Tensor
    others: Tensor
    tokens: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedTokens:
    """How references of a language model are kept, averaged and compared with a model.

    vocabulary: number of tokens. count: how many others than the true one a reference names, at most vocabulary − 2, so that the
    rest is never empty. logits: finds those of a pass. following: (inputs) → the tokens after the first, (n, length − 1), and which
    are not padding, bool.
    """

    vocabulary: int
    count: int
    logits: Logits
    following: Callable[[Inputs], tuple[Tensor, Tensor]]

    @property
    def digits(self) -> int:
        """How many numbers below 2,048 name a token."""
        return next(power for power in range(1, 64) if _BASE**power >= self.vocabulary)

    @torch.no_grad()
    def recorded(self, forward: Forward, inputs: Inputs) -> Tensor:
        """Compute what a reference keeps of a model's answer, (n, j); a few sequences at a time, beside the logits."""
        logits, (tokens, real) = self.logits(forward, inputs)[:, :-1], self.following(inputs)
        size = max(1, _AT_ONCE // max(1, logits[0].numel()))
        parts = zip(*(torch.split(each, size) for each in (logits, tokens, real)), strict=True)
        return torch.cat([self._pack(self._law(*part)) for part in parts])

    def _law(self, logits: Tensor, tokens: Tensor, real: Tensor) -> Law:
        log_p, true = logits.log_softmax(2), tokens[..., None]
        chosen = log_p.gather(2, true).squeeze(2)
        log_p = log_p.scatter(2, true, -torch.inf)
        others, named = log_p.topk(self.count)
        rest = log_p.scatter(2, named, -torch.inf).logsumexp(2)
        ignored = ~real
        return Law(
            chosen.masked_fill(ignored, 0.0),
            rest.clamp(min=_LEAST).masked_fill(ignored, 0.0),
            others.clamp(min=_LEAST).masked_fill(ignored[..., None], 0.0),
            named.masked_fill(ignored[..., None], 0),
        )

    def compared(self, forward: Forward, inputs: Inputs, aims: Tensor) -> Tensor:
        """Compute the log-probabilities of what `aims`, (n, j), name, differentiable: (n, length − 1, 2 + m).

        They are those of the true token, of all that is not named, and of the named tokens; 0 where there is padding. The rest is
        summed over the logits: one minus the others would lose all digits where a model is sure.
        """
        logits, (following, real) = self.logits(forward, inputs)[:, :-1], self.following(inputs)
        named = self._read(aims, length=following.shape[1]).tokens.clamp(max=self.vocabulary - 1)
        tokens = torch.cat([following[..., None], named], 2)
        rest = logits.scatter(2, tokens, -torch.inf).logsumexp(2, keepdim=True)
        chosen = logits.gather(2, tokens)
        found = torch.cat([chosen[..., :1], rest, chosen[..., 1:]], 2) - logits.logsumexp(2, keepdim=True)
        return found.masked_fill(~real[..., None], 0.0)

    def divergences(self, aims: Tensor, compared: Tensor, temperature: float) -> Tensor:
        """Compute the mean over the tokens of T² KL(q ‖ p), (n,), nats, of the laws of the named tokens and the rest.

        As any law of groups it is at most the divergence of the whole distributions (data processing inequality).
        """
        law = self._read(aims, length=compared.shape[1])
        real = (law.true != 0) | (compared[..., 0] != 0)
        given = torch.cat([law.true[..., None], law.rest[..., None], law.others], 2)
        q, p = ((part.to(compared).clamp(min=_LEAST) / temperature).log_softmax(2) for part in (given, compared))
        each = (q.exp() * (q - p)).sum(2)
        return temperature**2 * (each * real).sum(1) / real.sum(1).clamp(min=1)

    def averaged(self, predictions: Tensor, weights: Tensor) -> Tensor:
        """Average what m models say of n samples, (m, n, j), by weights (m, n) that sum to 1; return (n, j) float64.

        Of the true token log-probabilities are averaged, so that the loss of the mean is the mean loss. Of the others
        probabilities are, scaled to what the true one leaves, and the likeliest are kept. A token that a model does not name has an
        even share of that model's rest.
        """
        weights = weights.double()
        most = int((weights > 0).sum(0).max())
        weights, models = weights.topk(most, dim=0)
        length = predictions.shape[2] // (2 + self.count * (1 + self.digits) if self.count else 1)
        laws = [self._read(predictions[row, torch.arange(len(row))].double(), length=length) for row in models]
        shares = [weight[:, None] for weight in weights]
        true = torch.stack([share * law.true for share, law in zip(shares, laws, strict=True)]).sum(0)
        if not self.count:
            return true
        tokens = torch.cat([law.tokens for law in laws], 2)
        means, total = torch.zeros_like(tokens, dtype=torch.float64), torch.zeros_like(true)
        for share, law in zip(shares, laws, strict=True):
            rest = law.rest.exp()
            total = total + share * (law.others.exp().sum(2) + rest)
            same = tokens[..., :, None] == law.tokens[..., None, :]
            own = (same * law.others.exp()[..., None, :]).sum(3)
            spread = (rest / (self.vocabulary - 1 - self.count))[..., None]
            means = means + share[..., None] * torch.where(same.any(3), own, spread)
        again = (tokens[..., :, None] == tokens[..., None, :]).tril(-1).any(3)
        found, places = means.masked_fill(again, -1.0).topk(self.count)
        left = _logarithm(-torch.expm1(true)) - _logarithm(total)
        others, rest = (
            _logarithm(part) + scale for part, scale in ((found, left[..., None]), (total - found.sum(2), left))
        )
        padding = true == 0
        return self._pack(
            Law(
                true,
                rest.clamp(_LEAST, 0.0).masked_fill(padding, 0.0),
                others.clamp(_LEAST, 0.0).masked_fill(padding[..., None], 0.0),
                tokens.gather(2, places),
            )
        )

    def calibrated(self, predictions: Tensor, references: Tensor, own: Tensor) -> Tensor:
        """Map the log-probabilities of true tokens, (n, j), to those that the model gives on data never seen, quantile by quantile.

        references, (m, j), own, (m, length): what the references and the model say of the same sequences. Reference models are
        trained for a shorter time, and averaged: they are less often very sure or very wrong than one model that was trained to its
        end. The other tokens are scaled to what the true one leaves [ours].
        """
        length = own.shape[1]
        given = self._read(references.float(), length=length).true
        counted = (given != 0) & (own != 0)
        if not bool(counted.any()):
            return predictions
        law = self._read(predictions.float(), length=length)
        padding = law.true == 0
        true = _quantile_map(law.true, given[counted], own[counted].to(given)).clamp(max=-_SURE)
        left = _logarithm(-torch.expm1(true)) - _logarithm(-torch.expm1(law.true.clamp(max=-_SURE)))
        return self._pack(
            Law(
                true.masked_fill(padding, 0.0),
                (law.rest + left).clamp(_LEAST, 0.0).masked_fill(padding, 0.0),
                (law.others + left[..., None]).clamp(_LEAST, 0.0).masked_fill(padding[..., None], 0.0),
                law.tokens,
            )
        )

    def _pack(self, law: Law) -> Tensor:
        if not law.tokens.shape[2]:
            return law.true
        digits = [law.tokens // _BASE**power % _BASE for power in range(self.digits)]
        named = torch.stack([law.others, *(digit.to(law.others) for digit in digits)], 3)
        blocks = torch.cat([law.true[..., None], law.rest[..., None], named.flatten(2)], 2)
        return blocks.transpose(1, 2).flatten(1)

    def _read(self, predictions: Tensor, *, length: int) -> Law:
        """Read predictions of texts of `length` + 1 tokens. Raises ReferencesUnusable for rows of another width."""
        count, over = divmod(predictions.shape[1], length)
        per_token = 1 + self.digits
        if over or (count > 1 and (count - 2) % per_token) or not count:
            raise ReferencesUnusable(
                f"their rows have {predictions.shape[1]} numbers, which do not fit texts of {length + 1} tokens of a vocabulary of "
                f"{self.vocabulary}; prepare them again"
            )
        blocks = predictions.reshape(-1, count, length).transpose(1, 2)
        true = blocks[..., 0]
        if count == 1:
            rest = _logarithm(-torch.expm1(true.float().clamp(_LEAST, -1e-7)))
            return Law(true, rest, blocks[..., 1:], blocks[..., 1:].long())
        named = blocks[..., 2:].reshape(*true.shape, -1, per_token)
        tokens = sum(named[..., 1 + power].round().long() * _BASE**power for power in range(self.digits))
        return Law(true, blocks[..., 1], named[..., 0], torch.as_tensor(tokens))


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=1e-12).log()


def _quantile_map(values: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """Map values so that those with the law of `given`, (k,), get the law of `wanted`, (k,); beyond their ends as at the ends."""
    places = torch.linspace(0, len(given) - 1, min(_STEPS, len(given)), device=given.device).round().long()
    x, y = given.sort().values[places], wanted.sort().values[places]
    above = torch.searchsorted(x, values.contiguous()).clamp(max=len(x) - 1)
    below = (above - 1).clamp(min=0)
    share = ((values - x[below]) / (x[above] - x[below]).clamp(min=1e-12)).clamp(0, 1)
    return y[below] + share * (y[above] - y[below])
