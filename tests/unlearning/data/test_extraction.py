"""What can be extracted from a language model, against the published definitions followed literally, text by text."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import causal_language_model
from unlearning.data.objectives.causal_language_model import token_logits
from unlearning.data.objectives.extraction import extract, longest_common_subsequence

VOCABULARY, LENGTH = 7, 12
LENGTHS = [12, 2, 9, 12, 5, 3]


class Model(nn.Module):
    """Finds a token likely after the sum of those before it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table, self.head = nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = 4 * self.head(self.table(tokens).cumsum(1).sin())
        return logits


MODEL = Model().eval()


def greedy(prefix: list[int], count: int) -> list[int]:
    """Continue a prefix by the likeliest tokens."""
    text = list(prefix)
    for _ in range(count):
        text.append(int(MODEL(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prefix) :]


def texts() -> list[list[int]]:
    """Random texts of which some end as the model would end them."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for number, length in enumerate(LENGTHS):
        text = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
        kept = length if number == 3 else max(1, length // 2 - 1)
        rows.append(text[:kept] + greedy(text[:kept], length - kept))
    return rows


def batch() -> Batch:
    tokens = torch.zeros(len(LENGTHS), LENGTH, dtype=torch.int64)
    for row, text in zip(tokens, texts(), strict=True):
        row[: len(text)] = torch.tensor(text)
    real = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
    return Batch(tokens, tokens.masked_fill(~real, -100))


def common(first: list[int], second: list[int]) -> int:
    """The longest common subsequence by its recursion."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + common(first[:-1], second[:-1])
    return max(common(first[:-1], second), common(first, second[:-1]))


@pytest.fixture(scope="module")
def found() -> dict[str, Tensor]:
    read = partial(token_logits, vocabulary=VOCABULARY, spread=False)
    with torch.no_grad():
        return dict(extract(read, MODEL, batch(), torch.Generator().manual_seed(2)))


def test_exact_memorisation_is_the_share_of_first_choices(found: dict[str, Tensor]) -> None:
    """Tirumala et al., NeurIPS 2022: the mean of 1[argmax p(· | the true text before) = the token]."""
    for row, text in enumerate(texts()):
        right = [greedy(text[:place], 1)[0] == text[place] for place in range(1, len(text))]
        assert float(found["exact_memorisation"][row]) == pytest.approx(sum(right) / len(right))


def test_extraction_strength_is_what_greedy_decoding_gives_behind_the_shortest_prefix(found: dict[str, Tensor]) -> None:
    """Carlini et al., USENIX Security 2021: 1 − min{k: decoding from the first k tokens gives all others} / n."""
    for row, text in enumerate(texts()):
        n = len(text) - 1  # the first token has none before it
        shortest = next(k for k in range(n + 1) if greedy(text[: k + 1], n - k) == text[k + 1 :])
        assert float(found["extraction_strength"][row]) == pytest.approx(1 - shortest / n)
    assert found["extraction_strength"].max() > 0.5
    assert found["extraction_strength"].min() < 0.5


def test_greedy_extraction_is_the_recall_of_the_second_half_by_the_longest_common_subsequence(
    found: dict[str, Tensor],
) -> None:
    for row, text in enumerate(texts()):
        start = 1 + (len(text) - 1) // 2
        written = greedy(text[:start], len(text) - start)
        assert float(found["greedy_extraction"][row]) == pytest.approx(
            common(text[start:], written) / (len(text) - start)
        )


def test_drawn_completions_follow_the_models_probabilities() -> None:
    """Of a text with one token to complete, the best of four draws is right with probability 1 − (1 − p)⁴."""
    many = 4000
    second = int(MODEL(torch.tensor([[1]]))[0, 0].sort().indices[-2])
    tokens = torch.tensor([[1, second]]).repeat(many, 1)
    read = partial(token_logits, vocabulary=VOCABULARY, spread=False)
    with torch.no_grad():
        p = float(MODEL(tokens[:1])[0, 0].softmax(0)[second])
        hits = extract(read, MODEL, Batch(tokens, tokens), torch.Generator().manual_seed(3))["sampled_extraction"]
    assert 0.02 < p < 0.98
    assert float(hits.mean()) == pytest.approx(1 - (1 - p) ** 4, abs=4 * 0.5 / many**0.5)


def test_a_prompt_is_given_and_not_asked_for() -> None:
    """What the loss does not count is a prompt: the measures are about the answer alone."""
    given = batch()
    row = texts()[0]
    prompted = given.targets.clone()
    prompted[0, :8] = -100
    read = partial(token_logits, vocabulary=VOCABULARY, spread=False)
    with torch.no_grad():
        of_answer = extract(read, MODEL, Batch(given.inputs, prompted), torch.Generator().manual_seed(2))
    written = greedy(row[:10], 2)
    assert float(of_answer["greedy_extraction"][0]) == pytest.approx(common(row[10:], written) / 2)
    assert float(of_answer["exact_memorisation"][0]) == pytest.approx(
        sum(greedy(row[:place], 1)[0] == row[place] for place in range(8, 12)) / 4
    )


def test_inputs_with_a_mask_are_completed_too_and_stay_as_they_were() -> None:
    given = batch()
    named = {"input_ids": given.inputs, "attention_mask": (given.targets != -100).long()}
    objective = causal_language_model(VOCABULARY, spread=True)
    assert objective.extraction is not None
    before = given.inputs.clone()
    with torch.no_grad():
        masked = objective.extraction(
            lambda *, input_ids, attention_mask: MODEL(input_ids),
            Batch(named, given.targets),
            torch.Generator().manual_seed(2),
        )
        plain = objective.extraction(MODEL, given, torch.Generator().manual_seed(2))
    assert all(torch.equal(masked[name], plain[name]) for name in plain)
    assert torch.equal(given.inputs, before)


def test_a_text_is_completed_as_greedy_decoding_does_from_its_second_half_on() -> None:
    given = batch()
    prompted = given.targets.clone()
    prompted[0, :8] = -100
    named = {"input_ids": given.inputs, "attention_mask": (given.targets != -100).long()}
    objective = causal_language_model(VOCABULARY, spread=True, text=lambda tokens: "".join(map(str, tokens.tolist())))
    assert objective.completions is not None
    with torch.no_grad():
        found = objective.completions(lambda *, input_ids, attention_mask: MODEL(input_ids), Batch(named, prompted))
    for row, (text, one) in enumerate(zip(texts(), found, strict=True)):
        start = 10 if row == 0 else 1 + (len(text) - 1) // 2
        assert one.beginning == "".join(map(str, text[:start]))
        assert one.true == "".join(map(str, text[start:]))
        assert one.written == "".join(map(str, greedy(text[:start], len(text) - start)))
    assert causal_language_model(VOCABULARY).completions is None


def test_what_cannot_be_written_as_text_is_said_in_its_place() -> None:
    """Half of a text may end within a character, and a model may write tokens that a tokenizer does not have."""

    def write(tokens: Tensor) -> str:
        raise ValueError("quotes a person")

    completions = causal_language_model(VOCABULARY, text=write).completions
    assert completions is not None
    with torch.no_grad():
        found = completions(MODEL, batch())
    assert {part for one in found for part in (one.beginning, one.true, one.written)} == {
        "(ValueError in the objective's `text`)"
    }


def test_the_longest_common_subsequence_is_that_of_its_recursion() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randint(4, (30, length), generator=generator) for length in (8, 6))
    wanted = [common(one.tolist(), other.tolist()) for one, other in zip(first, second, strict=True)]
    assert longest_common_subsequence(first, second).tolist() == wanted
