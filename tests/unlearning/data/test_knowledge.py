"""How a language model answers questions, against the package rouge-score and answers written out by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch
from unlearning.data.objectives import Question, causal_language_model
from unlearning.data.objectives.extraction import rouge_l
from unlearning.errors import UnsupportedWorkload

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def written(tokens: Tensor) -> str:
    return " ".join(WORDS[number] for number in tokens.tolist())


def asked(tokens: Tensor) -> Question | None:
    """Ask for what follows a text's second token; nothing about one that begins with 9, and too much about one with 8."""
    match int(tokens[0]):
        case 9:
            return None
        case 8:
            return Question(tokens[:6], tokens)
    return Question(tokens[1:2], tokens[2:])


class Counting(nn.Module):
    """Finds the next number likeliest after a token, and remembers the longest text and the masks that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0
        self.masks: list[Tensor] = []

    def forward(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        tokens = inputs if isinstance(inputs, Tensor) else inputs["input_ids"]
        if not isinstance(inputs, Tensor):
            self.masks.append(inputs["attention_mask"])
        self.longest = max(self.longest, tokens.shape[1])
        return functional.one_hot((tokens + 1) % 10, 10).float()


@pytest.mark.parametrize(
    ("true", "given", "score"),
    [
        ("Alden in 1950.", "Alden, in 1951", 2 / 3),
        ("The Amber Bridge", "the amber BRIDGE!", 1.0),
        ("a pilot in Farrow", "pilot pilot in in Farrow", 2 / 3),
        ("Café 12-3 don't", "cafe 12 3 dont", 4 / 9),
        (" one two three four", "four one three two", 0.5),
        ("the cat sat on the mat", "the mat the cat on sat", 0.5),
        ("x", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_l_is_that_of_the_package_rouge_score(true: str, given: str, score: float) -> None:
    """The scores are what rouge-score 0.1.2 gives: RougeScorer(["rougeL"], use_stemmer=False).score(true, given)["rougeL"]."""
    assert rouge_l(true, given) == pytest.approx(score)


@pytest.mark.parametrize("masked", [False, True])
def test_a_text_has_the_score_of_the_greedy_answer_of_as_many_tokens_as_the_true_one(masked: bool) -> None:
    texts = [[0, 3, 4, 5, 6, 7], [1, 3, 4, 9, 9, 6], [9, 3, 4, 5, 6, 7], [8, 3, 4, 5, 6, 7], [2, 5, 6, 0, 0, 0]]
    tokens = torch.tensor(texts)
    real = torch.tensor([[1] * 6] * 4 + [[1, 1, 1, 0, 0, 0]])
    model = Counting()
    objective = causal_language_model(10, text=written, questions=asked, padding=None if masked else 0)
    assert objective.knowledge is not None
    inputs = {"input_ids": tokens, "attention_mask": real} if masked else tokens
    found = objective.knowledge(model, Batch(inputs, tokens.masked_fill(real == 0, -100)))

    # "four nine nine six" against "four five six seven"; the last text is asked for its one token that is not padding.
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, torch.nan, torch.nan, 1.0]), equal_nan=True)
    assert model.longest == 4
    assert bool(model.masks) is masked


def test_nothing_is_asked_of_a_batch_without_questions_and_questions_need_the_text() -> None:
    model, tokens = Counting(), torch.full((3, 4), 9)
    objective = causal_language_model(10, text=written, questions=asked)
    assert objective.knowledge is not None
    assert objective.knowledge(model, Batch(tokens, tokens)).isnan().all()
    assert model.longest == 0
    assert causal_language_model(10, text=written).knowledge is None
    with pytest.raises(UnsupportedWorkload, match="needs `text`"):
        causal_language_model(10, questions=asked)
