"""The objective of causal language models, against published formulas computed token by token."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.unlearning.kinds import OBJECTIVES, make_task
from unlearning.data.batches import Batch
from unlearning.data.objectives import answers, causal_language_model
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.dry_run import dry_run
from unlearning.errors import InvalidWorkload, UnsupportedWorkload
from unlearning.specs import IEU
from unlearning.specs.training import Recipe

VOCABULARY, LENGTH = 11, 25
LENGTHS = [25, 2, 13, 25, 7, 20]
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(len(LENGTHS), LENGTH, VOCABULARY, generator=GENERATOR)
TOKENS = torch.randint(1, VOCABULARY, (len(LENGTHS), LENGTH), generator=GENERATOR)
MASK = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
LABELS = TOKENS.masked_fill(~MASK, -100)
OBJECTIVE = causal_language_model(VOCABULARY, context=LENGTH)
PREDICTS = OBJECTIVE.predicts
assert PREDICTS is not None
FOUND = answers(
    OBJECTIVE, lambda inputs: LOGITS, Batch({"input_ids": TOKENS * MASK, "attention_mask": MASK.long()}, LABELS)
)


def token_log_probabilities(row: int) -> np.ndarray:
    """log p of each token of a sequence given those before it, over the whole vocabulary: (length − 1, vocabulary)."""
    return LOGITS[row, : LENGTHS[row] - 1].double().log_softmax(-1).numpy()


def of_tokens(row: int) -> np.ndarray:
    following = TOKENS[row, 1 : LENGTHS[row]].numpy()
    return token_log_probabilities(row)[np.arange(len(following)), following]


def test_a_loss_is_the_mean_negative_log_likelihood_of_the_tokens_after_the_first() -> None:
    wanted = [-of_tokens(row).mean() for row in range(len(LENGTHS))]
    torch.testing.assert_close(FOUND.losses.double(), torch.tensor(wanted))
    assert OBJECTIVE.lengths is not None
    assert OBJECTIVE.lengths(LABELS).tolist() == [length - 1 for length in LENGTHS]


def test_padding_changes_nothing_whether_a_mask_or_a_token_says_what_it_is() -> None:
    by_token = causal_language_model(VOCABULARY, padding=0)
    given = Batch(TOKENS * MASK, by_token.convert_targets(TOKENS * MASK, name="train"))
    found = answers(by_token, lambda inputs: LOGITS, given)

    assert torch.equal(given.targets, LABELS)
    torch.testing.assert_close(found.losses, FOUND.losses)
    torch.testing.assert_close(found.outputs, FOUND.outputs)
    assert FOUND.outputs is not None
    assert FOUND.outputs[1].count_nonzero() == 2


@pytest.mark.parametrize("plus", [False, True])
def test_min_k_and_min_k_plus_are_the_papers(plus: bool) -> None:
    """The mean over the 20 % least likely tokens of log p; with ++ of (log p − E log p) / σ over the vocabulary."""
    wanted = []
    for row in range(len(LENGTHS)):
        scores, every = of_tokens(row), token_log_probabilities(row)
        if plus:
            mean = (np.exp(every) * every).sum(1)
            scores = (scores - mean) / np.sqrt((np.exp(every) * (every - mean[:, None]) ** 2).sum(1))
        wanted.append(-np.sort(scores)[: max(1, int(0.2 * len(scores)))].mean())
    assert FOUND.outputs is not None
    signal = PREDICTS.signals["min_k_plus" if plus else "min_k"](FOUND.outputs, LABELS)
    torch.testing.assert_close(signal.double(), torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_zlib_is_the_loss_over_the_bytes_of_the_compressed_text() -> None:
    """Carlini et al., USENIX Security 2021: the log of the perplexity over the length of the text that zlib compresses."""

    def text(tokens: Tensor) -> str:
        return " ".join(map(str, tokens.tolist()))

    objective = causal_language_model(VOCABULARY, text=text)
    assert objective.predicts is not None
    assert FOUND.outputs is not None
    wanted = []
    for row, length in enumerate(LENGTHS):
        log_perplexity = np.log(np.exp(-of_tokens(row).mean()))
        wanted.append(log_perplexity / len(zlib.compress(bytes(text(TOKENS[row, :length]), "utf-8"))))
    signal = objective.predicts.signals["zlib"](FOUND.outputs, LABELS)
    torch.testing.assert_close(signal.double(), torch.tensor(wanted), rtol=1e-4, atol=1e-6)
    assert "zlib" not in PREDICTS.signals


def test_a_reference_has_the_loss_of_a_model_that_gives_it_and_is_at_distance_zero_from_it() -> None:
    assert FOUND.outputs is not None
    aim = PREDICTS.predictions(FOUND.outputs)
    torch.testing.assert_close(PREDICTS.losses(aim, LABELS), FOUND.losses)
    other = answers(OBJECTIVE, lambda inputs: LOGITS.roll(1, 0), Batch(TOKENS, LABELS)).outputs
    for temperature in (1.0, 2.0):
        assert PREDICTS.divergences(aim.half(), FOUND.outputs, temperature).abs().max() < 1e-4
        assert (PREDICTS.divergences(aim, other, temperature) > 0).all()


def test_the_divergence_is_that_of_the_token_against_all_others() -> None:
    assert FOUND.outputs is not None
    aim = torch.full((len(LENGTHS), LENGTH - 1), math.log(0.3)).masked_fill(~MASK[:, 1:], 0.0)
    wanted = []
    for row in range(len(LENGTHS)):
        p = np.exp(of_tokens(row))
        wanted.append((0.3 * np.log(0.3 / p) + 0.7 * np.log(0.7 / (1 - p))).mean())
    torch.testing.assert_close(
        PREDICTS.divergences(aim, FOUND.outputs, 1.0).double(), torch.tensor(wanted), rtol=1e-4, atol=1e-4
    )


def test_the_guess_knows_how_often_each_token_occurs_and_no_context() -> None:
    guess = OBJECTIVE.guessed(LABELS)
    assert guess is not None
    counts = np.bincount(LABELS[:, 1:][MASK[:, 1:]].numpy(), minlength=VOCABULARY)
    row = LABELS[0, 1:].numpy()
    assert float(guess.losses[0]) == pytest.approx(float(-np.log(counts[row] / counts.sum()).mean()))


def test_what_guide_attacks_read_are_quantiles_mean_and_spread_of_the_token_losses() -> None:
    assert FOUND.outputs is not None
    quantiles, moments = (read(FOUND.outputs, LABELS) for read in PREDICTS.features)
    for row in range(len(LENGTHS)):
        token_losses = np.sort(-of_tokens(row))
        assert float(quantiles[row, 0]) == pytest.approx(token_losses[0], rel=1e-4, abs=1e-5)
        assert float(quantiles[row, -1]) == pytest.approx(token_losses[-1], rel=1e-4)
        assert moments[row].tolist() == pytest.approx([token_losses.mean(), token_losses.std()], rel=1e-3, abs=1e-4)


def test_no_gradient_is_wrong_at_padding_or_at_a_certain_token() -> None:
    logits = torch.where(functional.one_hot(TOKENS.roll(-1, 1), VOCABULARY).bool(), 200.0, LOGITS).requires_grad_()
    found = answers(
        OBJECTIVE, lambda inputs: logits, Batch({"input_ids": TOKENS, "attention_mask": MASK.long()}, LABELS)
    )
    assert found.outputs is not None
    aim = torch.full((len(LENGTHS), LENGTH - 1), -1.0)
    for value in (
        found.losses,
        PREDICTS.divergences(aim, found.outputs, 2.0),
        *(read(found.outputs, LABELS) for read in PREDICTS.features),
    ):
        assert torch.autograd.grad(value.sum(), logits, retain_graph=True)[0].isfinite().all()


def test_scrambled_tokens_are_drawn_from_the_vocabulary_and_what_is_ignored_stays_so() -> None:
    many = Batch(TOKENS.repeat(200, 1), LABELS.repeat(200, 1))
    drawn = OBJECTIVE.scrambled(many, torch.Generator().manual_seed(1))
    counted = drawn.targets != -100
    shares = torch.bincount(drawn.targets[counted], minlength=VOCABULARY) / counted.sum()

    assert torch.equal(counted, many.targets != -100)
    assert shares.sub(1 / VOCABULARY).abs().max() < 0.01
    assert torch.equal(drawn.inputs, many.inputs)


def test_sequences_with_the_same_words_are_alike() -> None:
    assert PREDICTS.likeness is not None
    likeness = PREDICTS.likeness(LABELS, LABELS.flip(1))
    torch.testing.assert_close(likeness.diagonal(), torch.ones(len(LENGTHS)))
    assert likeness[0, 1] < 0.9


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (torch.ones(3, LENGTH + 1, dtype=torch.int64), InvalidWorkload, "26 tokens; the model's context is 25"),
        (
            torch.tensor([[5, -100], [-100, 5], [-100, -100]]),
            InvalidWorkload,
            "2 samples of the train set have no token",
        ),
        (torch.tensor([[5]]), InvalidWorkload, "1 samples of the train set have no token to predict"),
        (
            torch.tensor([[5, 11], [-1, 2], [3, 4]]),
            InvalidWorkload,
            "2 samples of the train set have tokens outside 0 to 10",
        ),
        (torch.rand(3, 4), UnsupportedWorkload, r"needs \(n, length\) integers"),
        (torch.ones(3, dtype=torch.int64), UnsupportedWorkload, r"needs \(n, length\) integers"),
    ],
    ids=["too long", "empty", "a single token", "another tokenizer", "floats", "labels"],
)
def test_targets_that_do_not_suit_are_refused_with_what_is_needed(
    targets: Tensor, error: type[InvalidWorkload], message: str
) -> None:
    with pytest.raises(error, match=message):
        OBJECTIVE.convert_targets(targets, name="train")


@pytest.mark.parametrize("logits", [LOGITS[:, 0], LOGITS[:, 1:], LOGITS[..., 1:]])
def test_logits_of_another_shape_are_refused(logits: Tensor) -> None:
    with pytest.raises(UnsupportedWorkload, match=r"needs \(n, length, 11\)"):
        OBJECTIVE.losses(lambda inputs: logits, Batch(TOKENS, LABELS))


@pytest.mark.parametrize("inputs", [TOKENS.float(), (TOKENS,), {"tokens": TOKENS}, TOKENS[0]])
def test_inputs_without_tokens_are_refused(inputs: object) -> None:
    with pytest.raises(UnsupportedWorkload, match="input_ids"):
        OBJECTIVE.losses(lambda inputs: LOGITS, Batch(inputs, LABELS))


def test_a_vocabulary_of_one_token_is_refused() -> None:
    with pytest.raises(UnsupportedWorkload, match="nothing to predict"):
        causal_language_model(1)


def test_the_dry_run_finds_targets_that_are_shifted_already() -> None:
    kind = OBJECTIVES["causal language model"]
    given = make_task(kind)
    sets = {"train": given.remain, "held_out": given.guide, "test": given.criterion}
    with torch.no_grad():
        given.model.head.weight *= 20  # a model that has learned something is sure of its answers

    def workload(shift: int) -> Workload:
        moved = {
            name: SampleSet(ids=part.ids, inputs=part.inputs, targets=part.targets.roll(shift, 1))
            for name, part in sets.items()
        }
        return Workload(
            name="shifted", build=kind.build, objective=kind.objective, recipe=Recipe(epochs=1, batch_size=16), **moved
        )

    assert dry_run(workload(0), given.model, policy=[IEU()]) == ()
    (fault,) = dry_run(workload(-1), given.model, policy=[IEU()])
    assert fault.step == "losses by sample"
    assert "not shifted" in str(fault.error)
