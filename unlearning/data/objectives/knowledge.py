"""Knowledge: how a language model answers questions about what a text says, asked in other words than the text's own."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from unlearning.data.batches import Inputs
from unlearning.data.objectives.extraction import Logits, continue_from
from unlearning.data.objectives.objective import Forward

_WORD = re.compile(r"[a-z0-9]+")


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
