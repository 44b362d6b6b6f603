"""Extraction: how much of a text a language model gives away, and what it knows of what a text says.

Both are measured by a share of each text, and never by the text itself.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch, Inputs, map_tree, sent
from unlearning.data.objectives.objective import Forward
from unlearning.data.objectives.targets import IGNORED

SAMPLED = 4
"""Continuations that are drawn of each text; the one that gives away most counts [ours]."""

_WORD = re.compile(r"[a-z0-9]+")

Logits = Callable[[Forward, Inputs], Tensor]
"""(forward, inputs) → (n, length, vocabulary)."""


def extract(logits: Logits, forward: Forward, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
    """Measure by name, (n,), 0 to 1, how much of each text a model gives away. batch: inputs are tokens, or hold `input_ids`.

    exact_memorisation: the share of tokens that are the likeliest ones, each after the true ones before it (Tirumala et al.,
        NeurIPS 2022).
    extraction_strength: 1 − k/n, with k the shortest prefix from which greedy decoding gives the rest (Carlini et al., USENIX
        Security 2021).
    greedy_extraction: ROUGE-L recall of the second half of the text, of its counted tokens, by a greedy continuation of what
        precedes it (MUSE, Shi et al., ICLR 2025). sampled_extraction: the same, the best of four continuations drawn at
        temperature 1: greedy decoding alone hides what sampling finds.
    """
    hits, counted = _hits(logits, forward, batch)
    starts = _second_halves(batch.targets)
    return {
        "exact_memorisation": (hits & counted).sum(1) / counted.sum(1).clamp(min=1),
        "extraction_strength": extraction_strength(hits, counted),
        "greedy_extraction": _recall(batch, continue_from(logits, forward, batch.inputs, starts, None), starts),
        "sampled_extraction": torch.stack(
            [
                _recall(batch, continue_from(logits, forward, batch.inputs, starts, generator), starts)
                for _ in range(SAMPLED)
            ]
        ).amax(0),
    }


def continue_greedily(logits: Logits, forward: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
    """Complete the second half of each text's counted tokens greedily; return the tokens, (n, length), and its place, (n,)."""
    starts = _second_halves(batch.targets)
    return continue_from(logits, forward, batch.inputs, starts, None), starts


def extraction_strength(hits: Tensor, counted: Tensor) -> Tensor:
    """Compute the share of a text's counted tokens, (n,), that follow its last one which is not the likeliest. Both (n, length)."""
    behind = (hits | ~counted).flip(1).cumprod(1).flip(1).bool() & counted
    return behind.sum(1) / counted.sum(1).clamp(min=1)


def longest_common_subsequence(first: Tensor, second: Tensor) -> Tensor:
    """Compute the length of the longest common subsequence of each pair of rows, (n,). first, second: (n, k) and (n, m)."""
    longest = torch.zeros_like(second)
    for token in first.T:
        with_token = (token[:, None] == second) * (functional.pad(longest[:, :-1], (1, 0)) + 1)
        longest = torch.maximum(longest, with_token).cummax(1).values
    return longest[:, -1]


def _hits(logits: Logits, forward: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mark the tokens after the first that are the likeliest ones, and those that count, (n, length − 1) bool each."""
    labels = batch.targets[:, 1:]
    return logits(forward, batch.inputs)[:, :-1].argmax(2) == labels, labels != IGNORED


def _second_halves(targets: Tensor) -> Tensor:
    """Return the place at which the second half of a text's counted tokens begins, (n,); the first token has none before it."""
    counted = targets != IGNORED
    counted[:, 0] = False
    places = counted.cumsum(1)
    return (places > (places[:, -1:] // 2)).int().argmax(1)


def continue_from(
    logits: Logits, forward: Forward, inputs: Inputs, starts: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Continue each text from its place in `starts`, (n,), greedily, or by drawing with a generator; return tokens (n, length).

    One token a pass, of all texts together: the texts that have not come to their place keep their own token.
    """
    written = map_tree(torch.clone, inputs)
    tokens: Tensor = written["input_ids"] if isinstance(written, Mapping) else written
    for place in range(int(starts.min()), tokens.shape[1]):
        last = logits(forward, map_tree(partial(_begin, place=place), written))[:, -1]
        if generator is None:
            following = last.argmax(1)
        else:
            draws = sent(torch.rand(len(last), generator=generator), last.device)
            below = last.softmax(1).cumsum(1) < draws[:, None]
            following = below.sum(1).clamp(max=last.shape[1] - 1)
        tokens[:, place] = torch.where(place >= starts, following, tokens[:, place])
    return tokens


def _begin(tensor: Tensor, *, place: int) -> Tensor:
    return tensor[:, :place]


def _recall(batch: Batch, written: Tensor, starts: Tensor) -> Tensor:
    """Compute ROUGE-L recall, (n,): the longest common subsequence with the true tokens from `starts` on, over their number."""
    places = torch.arange(written.shape[1], device=written.device)
    true = (batch.targets != IGNORED) & (places >= starts[:, None])
    first = int(starts.min())
    wanted, found = (part.masked_fill(~true, mark)[:, first:] for part, mark in ((batch.targets, -1), (written, -2)))
    return longest_common_subsequence(wanted, found) / true.sum(1).clamp(min=1)


class Question(NamedTuple):
    """A question about a text. prompt: the tokens before the answer, (k,) int64, one or more. answer: its tokens, (m,) int64."""

    prompt: Tensor
    answer: Tensor


Ask = Callable[[Tensor], Question | None]
"""A text's tokens (length,), without padding → a question about it; None if nothing is asked about it."""


def answered(
    logits: Logits,
    ask: Ask,
    text: Callable[[Tensor], str],
    forward: Forward,
    inputs: Inputs,
    tokens: Tensor,
    real: Tensor,
) -> Tensor:
    """Score the answers to a question about each text, (n,), 0 to 1; NaN for a text about which nothing is asked.

    The score is ROUGE-L of the model's greedy answer, of as many tokens as the true one has, against that (MUSE's knowledge
    memorisation: Shi et al., ICLR 2025, arXiv 2407.06460, §3.1). tokens, real: those in the inputs, (n, length), and which are not
    padding. Questions that do not fit the length of the texts are not asked: it is all that the model is known to take.
    """
    found = [ask(own[mask].cpu()) for own, mask in zip(tokens, real, strict=True)]
    fitting = {
        place: question
        for place, question in enumerate(found)
        if question is not None
        and len(question.prompt)
        and len(question.prompt) + len(question.answer) <= tokens.shape[1]
    }
    scores = torch.full((len(tokens),), torch.nan, device=tokens.device)
    if not fitting:
        return scores
    rows = [torch.cat(question) for question in fitting.values()]
    padded, mask = (
        torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(tokens.device)
        for part in (rows, [torch.ones_like(row) for row in rows])
    )
    asked: Inputs = padded
    if isinstance(inputs, Mapping):
        asked = {"input_ids": padded} | ({"attention_mask": mask} if "attention_mask" in inputs else {})
    starts = torch.tensor([len(question.prompt) for question in fitting.values()], device=tokens.device)
    written = continue_from(logits, forward, asked, starts, None).cpu()
    for row, (place, (prompt, answer)) in enumerate(fitting.items()):
        given = written[row, len(prompt) : len(prompt) + len(answer)]
        scores[place] = rouge_l(text(answer), text(given))
    return scores


def rouge_l(true: str, given: str) -> float:
    """Compute ROUGE-L, the F-measure of the longest common subsequence of two texts' words (Lin, 2004).

    Words are as in the package rouge-score: runs of the letters a to z and digits, in lower case.
    """
    first, second = (_WORD.findall(text.lower()) for text in (true, given))
    if not first or not second:
        return 0.0
    lengths = [0] * (1 + len(second))
    for word in first:
        before = lengths
        lengths = [0]
        for place, other in enumerate(second, start=1):
            lengths.append(before[place - 1] + 1 if word == other else max(before[place], lengths[place - 1]))
    return 2 * lengths[-1] / (len(first) + len(second))
