"""Causal language models: a sample is a sequence of tokens, each of which is predicted from those before it."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch, Inputs, sent
from unlearning.data.objectives.extraction import Ask, answered, continue_greedily, extract
from unlearning.data.objectives.named_tokens import NamedTokens
from unlearning.data.objectives.objective import Forward, Objective, at_least_float32, call, logits_of
from unlearning.data.objectives.prediction import Completion, Merit, Prediction, Read
from unlearning.data.objectives.targets import IGNORED, token_labels
from unlearning.errors import UnsupportedWorkload

_LEAST_KNOWN = 0.2
"""The share of a sequence's tokens that Min-K% reads (Shi et al., ICLR 2024: 20 %)."""
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Of a sequence's token losses, which LTU's guide attacks read."""
_BUCKETS = 4096
"""Tokens are counted in at most so many buckets where two sequences are compared."""
_STATISTICS = 2**24
"""Logits (64 MiB) whose mean and spread are computed at once."""

LOG_LIKELIHOOD = Merit(
    name="log-likelihood",
    complement="negative log-likelihood",
    of=lambda found: -100 * found.losses,
    unit="hundredths of a nat a token",
    bounds=(-1e6, 0.0),
)
"""One point is one percent of perplexity, which is the exponential of the mean loss."""


def causal_language_model(
    vocabulary: int,
    *,
    context: int | None = None,
    padding: int | None = None,
    spread: bool = False,
    text: Callable[[Tensor], str] | None = None,
    named: int = 1,
    questions: Ask | None = None,
) -> Objective:
    """Make the objective of a causal language model: the mean negative log-likelihood of a sequence's tokens, nats.

    The model returns logits (n, length, vocabulary), at each place for the token after it. Inputs are tokens (n, length), or a
    mapping with them as `input_ids` and, where sequences are padded, an `attention_mask`. Targets are the same tokens, not shifted,
    with -100 for those that the loss does not count, such as a prompt's. context: the longest sequence that the model takes.
    padding: the token with which shorter ones are filled up, counted nowhere. spread: how the model takes its inputs, see `call`.
    text: writes tokens (k,) as text, such as a tokenizer's `decode`. With it audits have the attack "zlib", and the operator's
    sheet has what the model completes. named: how many tokens a reference prediction names at each place, with their
    log-probabilities: the true one and the likeliest others, and all the rest as one. 1 names the true one alone. More bring the
    model nearer to the reference models altogether, also where they know remaining texts less well (decision 26).
    questions: makes of a text's tokens a question about it, in other words than the text's, and the answer. With it audits measure
    what the model knows (`unlearning.data.objectives.extraction`). It needs `text`.

    Outputs hold two numbers for each token after the first: the log-probability of the token itself, and the same standardised.
    References hold 2 bytes a token if they name 1 token, and 4 · `named` if more, or 6 · `named` − 2 of a vocabulary above 2,048.
    Of tokens that are padding they are 0.

    Raises UnsupportedWorkload for fewer than two tokens, none that is named, or questions without `text`, and later for other
    inputs, and logits of another shape.
    """
    if vocabulary < 2:
        raise UnsupportedWorkload(f"causal_language_model({vocabulary}) leaves nothing to predict.")
    if named < 1:
        raise UnsupportedWorkload(
            f"References of a language model name one token or more, the true one first; named is {named}."
        )
    if questions is not None and text is None:
        raise UnsupportedWorkload(
            "Answers to questions are compared as text: causal_language_model needs `text` with `questions`."
        )
    find = partial(token_logits, vocabulary=vocabulary, spread=spread)
    references = NamedTokens(
        vocabulary=vocabulary,
        count=min(named - 1, vocabulary - 2),
        logits=find,
        following=lambda inputs: (tokens_of(inputs)[:, 1:], _real(inputs, padding)),
    )

    def losses(forward: Forward, batch: Batch) -> Tensor:
        logits, labels = find(forward, batch.inputs)[:, :-1], batch.targets[:, 1:]
        each = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
        ).view_as(labels)
        return each.sum(1) / lengths(batch.targets)

    def outputs(forward: Forward, inputs: Inputs) -> Tensor:
        """Return the log-probability of each token after the first, and the same standardised, (n, 2·(length − 1))."""
        logits = find(forward, inputs)[:, :-1]
        following = tokens_of(inputs)[:, 1:]
        log_p = logits.gather(2, following[..., None]).squeeze(2) - logits.logsumexp(2)
        mean, deviation = _moments(logits)
        standard = (log_p.detach() - mean) / deviation
        ignored = ~_real(inputs, padding)
        return torch.cat([part.masked_fill(ignored, 0.0) for part in (log_p, standard)], 1)

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        drawn = sent(torch.randint(vocabulary, batch.targets.shape, generator=generator), batch.targets.device)
        return Batch(batch.inputs, torch.where(batch.targets == IGNORED, batch.targets, drawn))

    def completions(forward: Forward, batch: Batch) -> list[Completion]:
        """Write each text up to its second half, that half, and what the model puts in its place."""
        assert text is not None
        written, starts = continue_greedily(find, forward, batch)
        tokens, places = tokens_of(batch.inputs), torch.arange(written.shape[1], device=written.device)
        second = (batch.targets != IGNORED) & (places >= starts[:, None])
        first = real(batch.inputs) & (places < starts[:, None])
        return [
            Completion(*(_written(text, part) for part in (own[before], own[after], new[after])))
            for own, new, before, after in zip(tokens, written, first, second, strict=True)
        ]

    def knowledge(forward: Forward, batch: Batch) -> Tensor:
        assert questions is not None
        assert text is not None
        return answered(find, questions, text, forward, batch.inputs, tokens_of(batch.inputs), real(batch.inputs))

    def real(inputs: Inputs) -> Tensor:
        return functional.pad(_real(inputs, padding), (1, 0), value=True)

    return Objective(
        losses=losses,
        scramble=scramble,
        merit=LOG_LIKELIHOOD,
        outputs=outputs,
        prediction=_prediction(references, text),
        recorded=references.recorded if references.count else None,
        compared=references.compared,
        token_logits=lambda forward, inputs: (find(forward, inputs), real(inputs)),
        targets=lambda targets, name: token_labels(
            targets, vocabulary=vocabulary, context=context, padding=padding, name=name
        ),
        optimiser="adam",
        lengths=lengths,
        extraction=partial(extract, find),
        knowledge=None if questions is None else knowledge,
        completions=None if text is None else completions,
    )


def token_logits(forward: Forward, inputs: Inputs, *, vocabulary: int, spread: bool) -> Tensor:
    """Run a model on n sequences and return its logits, (n, length, vocabulary), at least float32.

    Raises UnsupportedWorkload for another shape.
    """
    found, tokens = logits_of(call(forward, inputs, spread=spread)), tokens_of(inputs)
    if found.dim() != 3 or found.shape[:2] != tokens.shape or found.shape[2] != vocabulary:
        raise UnsupportedWorkload(
            f"The model returns logits of shape {tuple(found.shape)} for tokens {tuple(tokens.shape)}; "
            f"causal_language_model({vocabulary}) needs (n, length, {vocabulary})."
        )
    return at_least_float32(found)


def tokens_of(inputs: Inputs) -> Tensor:
    """Find the tokens, (n, length), in the inputs. Raises UnsupportedWorkload where there are none."""
    found = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    if not isinstance(found, Tensor) or found.dim() != 2 or found.is_floating_point():
        raise UnsupportedWorkload(
            "causal_language_model needs tokens (n, length) of integers as inputs, or a mapping with them as `input_ids`."
        )
    return found


def lengths(targets: Tensor) -> Tensor:
    """Count the tokens that a sequence's loss is the mean of, (n,), at least 1."""
    return (targets[:, 1:] != IGNORED).sum(1).clamp(min=1)


def _real(inputs: Inputs, padding: int | None) -> Tensor:
    """Mark the tokens after the first that are not padding, (n, length − 1) bool."""
    tokens = tokens_of(inputs)[:, 1:]
    real = torch.ones_like(tokens, dtype=torch.bool) if padding is None else tokens != padding
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return real if mask is None else real & (mask[:, 1:] != 0)


@torch.no_grad()
def _moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of the log-probability of a token drawn from the model, (n, length) each.

    A few sequences at a time: beside the logits of a large vocabulary there is no room for their probabilities.
    """
    found = []
    for part in torch.split(logits.detach(), max(1, _STATISTICS // max(1, logits[0].numel()))):
        log_p = part.log_softmax(2)
        p = log_p.exp()
        mean = (p * log_p).sum(2)
        found.append((mean, ((p * log_p**2).sum(2) - mean**2).clamp(min=1e-12).sqrt()))
    means, deviations = zip(*found, strict=True)
    return torch.cat(means), torch.cat(deviations)


def _log_probabilities(outputs: Tensor) -> Tensor:
    return outputs[:, : outputs.shape[1] // 2]


def _of_tokens(values: Tensor, targets: Tensor) -> Tensor:
    """Read the log-probability of each token after the first, with which rows of outputs and of predictions begin."""
    return values[:, : targets.shape[1] - 1]


def _losses(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Compute the losses, (n,), from rows that begin with the log-probability of each token after the first."""
    counted = targets[:, 1:] != IGNORED
    return -(_of_tokens(log_probabilities, targets) * counted).sum(1) / lengths(targets)


def _least_known(values: Tensor, targets: Tensor) -> Tensor:
    """Compute minus the mean of the lowest fifth of a sequence's values, at least one, (n,)."""
    counted = targets[:, 1:] != IGNORED
    order = values.masked_fill(~counted, torch.inf).sort(1).values
    number = (_LEAST_KNOWN * lengths(targets)).long().clamp(min=1)
    lowest = torch.arange(order.shape[1], device=order.device) < number[:, None]
    return -order.masked_fill(~lowest, 0.0).sum(1) / number


def _min_k(outputs: Tensor, targets: Tensor) -> Tensor:
    """Read Min-K% (Shi et al., ICLR 2024, arXiv 2310.16789): the mean log-probability of the least likely tokens, negated."""
    return _least_known(_log_probabilities(outputs), targets)


def _min_k_plus(outputs: Tensor, targets: Tensor) -> Tensor:
    """Read Min-K%++ (Zhang et al., ICLR 2025, arXiv 2404.02936): Min-K% of (log p − μ) / σ, over the whole vocabulary."""
    return _least_known(outputs[:, outputs.shape[1] // 2 :], targets)


def _written(text: Callable[[Tensor], str], tokens: Tensor) -> str:
    """Write tokens as text for the operator's sheet. A part of a text, or what a model writes, may have none: no erasure fails."""
    try:
        return text(tokens.cpu())
    except Exception as error:
        return f"({type(error).__name__} in the objective's `text`)"


def _zlib(text: Callable[[Tensor], str], outputs: Tensor, targets: Tensor) -> Tensor:
    """Read the loss over the bytes that zlib compresses the text to (Carlini et al., USENIX Security 2021, §5.2).

    A text that is easy for everybody, such as a repeated word, compresses well; the loss alone would take it for a known one.
    """
    sizes = [len(zlib.compress(text(row[row != IGNORED]).encode(errors="replace"))) for row in targets.cpu()]
    losses = _losses(_log_probabilities(outputs), targets)
    return losses / torch.tensor(sizes, dtype=losses.dtype, device=losses.device)


def _quantiles(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return quantiles of a sequence's token losses, (n, 7)."""
    counted = targets[:, 1:] != IGNORED
    order = (-_of_tokens(outputs, targets)).masked_fill(~counted, torch.inf).sort(1).values
    shares = torch.tensor(_QUANTILES, device=order.device)
    places = (shares * (lengths(targets)[:, None] - 1)).round().long()
    return order.gather(1, places)


def _mean_and_spread(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of a sequence's token losses and their standard deviation, (n, 2)."""
    counted, token_losses = targets[:, 1:] != IGNORED, -_of_tokens(outputs, targets)
    mean = _losses(-token_losses, targets)
    squares = ((token_losses - mean[:, None]) ** 2 * counted).sum(1) / lengths(targets)
    return torch.stack([mean, (squares + 1e-12).sqrt()], 1)


def _guess(targets: Tensor) -> Tensor:
    """Answer each token by the logarithm of its share among all of them, (n, 2·(length − 1)): what no context tells."""
    following = targets[:, 1:]
    counted = following != IGNORED
    counts = torch.bincount(following[counted], minlength=1).double()
    log_p = (counts / counts.sum()).log()[following.masked_fill(~counted, 0)].masked_fill(~counted, 0.0)
    return torch.cat([log_p, torch.zeros_like(log_p)], 1)


def _distributions(outputs: Tensor) -> Tensor:
    """Return the probabilities of each token and of all others, (n·(length − 1), 2)."""
    p = _log_probabilities(outputs).exp().clamp(0.0, 1.0).flatten()
    return torch.stack([p, 1 - p], 1)


def _likeness(targets: Tensor, others: Tensor) -> Tensor:
    """Compute the cosine of how often each token occurs, (m, n)."""
    first, second = (functional.normalize(_counts(part), dim=1) for part in (targets, others))
    return first @ second.T


def _counts(targets: Tensor) -> Tensor:
    counted = (targets != IGNORED).float()
    counts = torch.zeros(len(targets), _BUCKETS, device=targets.device)
    return counts.scatter_add_(1, targets.clamp(min=0) % _BUCKETS, counted)


def _prediction(references: NamedTokens, text: Callable[[Tensor], str] | None) -> Prediction:
    """Make what can be read from the log-probabilities of a sequence's tokens. A guess names no token but the true one."""
    signals: dict[str, Read] = {"min_k": _min_k, "min_k_plus": _min_k_plus}
    if text is not None:
        signals["zlib"] = partial(_zlib, text)
    return Prediction(
        predictions=_log_probabilities,
        divergences=references.divergences,
        averaged=references.averaged,
        calibrated=references.calibrated,
        kind=f"{references.count} other tokens",
        losses=_losses,
        known=lambda outputs, targets: -_losses(outputs, targets),
        guess=_guess,
        distributions=_distributions,
        counted=lambda targets: (targets[:, 1:] != IGNORED).flatten(),
        likeness=_likeness,
        signals=signals,
        features=(_quantiles, _mean_and_spread),
        answered=lambda predictions: predictions,
        stored=torch.float16,
        unit="nats a token",
    )
