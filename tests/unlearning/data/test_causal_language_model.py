"""The objective of causal language models, against published formulas computed token by token."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.kinds import OBJECTIVES, make_task
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, answers, causal_language_model
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.dry_run import dry_run
from unlearning.errors import InvalidWorkload, ReferencesUnusable, UnsupportedWorkload
from unlearning.specs import IEU
from unlearning.specs.training import Recipe
from unlearning.training.references import sample_signals

VOCABULARY, LENGTH = 11, 25
LENGTHS = [25, 2, 13, 25, 7, 20]
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(len(LENGTHS), LENGTH, VOCABULARY, generator=GENERATOR)
TOKENS = torch.randint(1, VOCABULARY, (len(LENGTHS), LENGTH), generator=GENERATOR)
MASK = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
LABELS = TOKENS.masked_fill(~MASK, -100)
OBJECTIVE = causal_language_model(VOCABULARY, context=LENGTH, named=8)
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
    by_token = causal_language_model(VOCABULARY, padding=0, named=8)
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


def compared(logits: Tensor, aims: Tensor, objective: Objective = OBJECTIVE) -> Tensor:
    """What these aims are compared with, from a model that gives these logits."""
    batch = Batch({"input_ids": TOKENS * MASK, "attention_mask": MASK.long()}, LABELS)
    found = answers(objective, lambda inputs: logits, batch, aims).outputs
    assert found is not None
    return found


def references_of(logits: Tensor, objective: Objective = OBJECTIVE) -> Tensor:
    """What references keep of a model that gives these logits, as a file and `for_method` give it back."""
    batch = Batch({"input_ids": TOKENS * MASK, "attention_mask": MASK.long()}, LABELS)
    model = nn.Identity()
    model.forward = lambda inputs: logits  # type: ignore[method-assign]
    every = SampleSet(ids=tuple(map(str, range(len(LENGTHS)))), inputs=batch.inputs, targets=batch.targets)
    return sample_signals(model, every, objective)[1].half().float()


def law(aims: Tensor, row: int, *, digits: int = 1) -> tuple[np.ndarray, list[dict[int, float]]]:
    """Read a row of references token by token: the true token's log-probability, and those of the other named tokens."""
    blocks = aims[row].reshape(-1, LENGTH - 1).double().numpy()
    named = blocks[2:].reshape(-1, 1 + digits, LENGTH - 1)
    numbers = sum(named[:, 1 + power] * 2048**power for power in range(digits))
    places = range(LENGTHS[row] - 1)
    return blocks[0], [dict(zip(numbers[:, at].astype(int), named[:, 0, at], strict=True)) for at in places]


def test_a_reference_has_the_loss_of_a_model_that_gives_it_and_is_at_distance_zero_from_it() -> None:
    aims = references_of(LOGITS)
    torch.testing.assert_close(PREDICTS.losses(aims, LABELS), FOUND.losses, rtol=1e-3, atol=1e-3)
    for temperature in (1.0, 2.0):
        assert PREDICTS.divergences(aims, compared(LOGITS, aims), temperature).abs().max() < 1e-4
        assert (PREDICTS.divergences(aims, compared(LOGITS.roll(1, 0), aims), temperature) > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("named", [1, 3, 8])
def test_the_divergence_is_that_of_the_named_tokens_and_the_rest_and_at_most_the_whole_one(
    named: int, temperature: float
) -> None:
    objective = causal_language_model(VOCABULARY, named=named)
    assert objective.predicts is not None
    model = 2 * torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(1))
    aims = references_of(LOGITS, objective)
    found = objective.predicts.divergences(aims, compared(model, aims, objective), temperature)
    wanted, whole = [], []
    for row in range(len(LENGTHS)):
        q, p = (part[row, : LENGTHS[row] - 1].double().softmax(-1).numpy() for part in (LOGITS, model))
        each = []
        for at, token in enumerate(TOKENS[row, 1 : LENGTHS[row]].tolist()):
            others = [number for number in np.argsort(-q[at]) if number != token][: named - 1]
            groups = [[token], *([number] for number in others)]
            rest = [number for number in range(VOCABULARY) if number != token and number not in others]
            laws = [
                np.array([part[at, group].sum() for group in [*groups, rest]]) ** (1 / temperature) for part in (q, p)
            ]
            first, second = (each_law / each_law.sum() for each_law in laws)
            each.append(temperature**2 * (first * np.log(first / second)).sum())
        wanted.append(np.mean(each))
        whole.append((q * np.log(q / p)).sum(1).mean())
    torch.testing.assert_close(found.double(), torch.tensor(wanted), rtol=2e-3, atol=2e-3)
    if temperature == 1.0:
        assert (found.double().numpy() <= np.array(whole) + 2e-3).all()


def test_references_that_name_the_token_alone_say_how_likely_it_is_and_nothing_else() -> None:
    """Those of older versions do, and an objective that names more reads them."""
    plain = causal_language_model(VOCABULARY)
    assert references_of(LOGITS, plain).shape == (len(LENGTHS), LENGTH - 1)
    torch.testing.assert_close(references_of(LOGITS)[:, : LENGTH - 1], references_of(LOGITS, plain))
    aims = torch.full((len(LENGTHS), LENGTH - 1), math.log(0.3)).masked_fill(~MASK[:, 1:], 0.0)
    wanted = []
    for row in range(len(LENGTHS)):
        p = np.exp(of_tokens(row))
        wanted.append((0.3 * np.log(0.3 / p) + 0.7 * np.log(0.7 / (1 - p))).mean())
    found = PREDICTS.divergences(aims, compared(LOGITS, aims), 1.0)
    torch.testing.assert_close(found.double(), torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        PREDICTS.losses(aims, LABELS), torch.full((len(LENGTHS),), -math.log(0.3)), rtol=1e-5, atol=1e-5
    )


def test_a_references_numbers_of_tokens_are_exact_in_half_precision() -> None:
    """Of 150,000 tokens, the likeliest have the largest numbers and those where a digit begins."""
    vocabulary = 150_000
    objective = causal_language_model(vocabulary, named=5)
    logits, likely = torch.zeros(1, 3, vocabulary), [149_999, 147_456, 2_048, 2_047]
    logits[..., likely] = torch.tensor([9.0, 8.0, 7.0, 6.0])
    tokens = torch.tensor([[1, 149_999, 5]])
    assert objective.recorded is not None
    assert objective.predicts is not None
    aims = objective.recorded(lambda inputs: logits, tokens).half().float()

    blocks = aims.reshape(-1, 2)
    numbers = blocks[3::3] + 2048 * blocks[4::3]
    assert numbers[:3, 0].tolist() == likely[1:]
    assert numbers[:, 1].tolist() == likely
    same = answers(objective, lambda inputs: logits, Batch(tokens, tokens), aims).outputs
    assert same is not None
    assert objective.predicts.divergences(aims, same, 1.0).abs().max() < 1e-4


def test_models_that_name_other_tokens_are_averaged() -> None:
    """The true token by the geometric mean; the others by the mean of what each gives, or shares out evenly, scaled to the rest."""
    second = 2 * torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(2))
    objective = causal_language_model(VOCABULARY, named=4)
    assert objective.predicts is not None
    kept = torch.stack([references_of(part, objective) for part in (LOGITS, second, LOGITS)])
    weights = torch.tensor([[0.5], [0.5], [0.0]]).expand(3, len(LENGTHS))
    mean = objective.predicts.averaged(kept, weights)
    for row in range(len(LENGTHS)):
        of_models = [law(each, row) for each in kept[:2]]
        true, others = law(mean, row)
        for at, token in enumerate(TOKENS[row, 1 : LENGTHS[row]].tolist()):
            wanted_true = np.mean([found[0][at] for found in of_models])
            whole = np.zeros(VOCABULARY)
            for given_true, named in ((found[0][at], found[1][at]) for found in of_models):
                p = {number: math.exp(value) for number, value in named.items()}
                left = 1 - math.exp(given_true) - sum(p.values())
                for number in set(range(VOCABULARY)) - {token}:
                    whole[number] += p.get(number, left / (VOCABULARY - 4)) / 2
            whole *= (1 - math.exp(wanted_true)) / whole.sum()
            assert true[at] == pytest.approx(wanted_true)
            assert sorted(others[at].values()) == pytest.approx(np.sort(np.log(whole[whole > 0]))[-3:], abs=0.01)
            for number, value in others[at].items():
                assert value == pytest.approx(math.log(whole[number]), abs=0.01)


@pytest.mark.parametrize("named", [1, 4])
def test_calibrated_references_have_the_law_of_the_models_own_answers_to_data_never_seen(named: int) -> None:
    objective = causal_language_model(VOCABULARY, named=named)
    assert objective.predicts is not None
    assert objective.predicts.calibrated is not None
    assert FOUND.outputs is not None
    given, own = references_of(LOGITS / 2, objective), objective.predicts.predictions(FOUND.outputs)
    found = objective.predicts.calibrated(given, given, own)
    assert found.shape == given.shape
    true, before = (part[:, : LENGTH - 1] for part in (found, given))
    counted = MASK[:, 1:]
    assert not true[~counted].any()
    # Some references are equal after rounding to half precision, and then get one value.
    torch.testing.assert_close(true[counted].sort().values, own[counted].sort().values, rtol=0, atol=0.05)
    order = before[counted].argsort()
    assert (true[counted][order].diff() >= -1e-3).all()
    if named == 1:
        return
    for row in range(len(LENGTHS)):
        rest = found[row].reshape(-1, LENGTH - 1)[1, : LENGTHS[row] - 1].double().exp().numpy()
        chosen, others = law(found, row)
        named_before = law(given, row)[1]
        for at in range(LENGTHS[row] - 1):
            assert others[at].keys() == named_before[at].keys()
            assert math.exp(chosen[at]) + sum(map(math.exp, others[at].values())) + rest[at] == pytest.approx(
                1, abs=0.01
            )


def test_calibrating_by_a_model_that_answers_as_the_references_do_changes_nothing() -> None:
    objective = causal_language_model(VOCABULARY, named=3)
    assert objective.predicts is not None
    assert objective.predicts.calibrated is not None
    given = references_of(LOGITS, objective)
    found = objective.predicts.calibrated(given, given, given[:, : LENGTH - 1])
    torch.testing.assert_close(found, given, rtol=1e-2, atol=1e-2)


def test_references_of_texts_of_another_length_are_refused() -> None:
    for width in (LENGTH, 3 * (LENGTH - 1), 2 * LENGTH):
        with pytest.raises(ReferencesUnusable, match="do not fit texts of 25 tokens"):
            compared(LOGITS, torch.zeros(len(LENGTHS), width))


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
    batch = Batch({"input_ids": TOKENS, "attention_mask": MASK.long()}, LABELS)
    aims = torch.full((len(LENGTHS), LENGTH - 1), -1.0), references_of(LOGITS), torch.zeros_like(references_of(LOGITS))
    asked = [(aim, answers(OBJECTIVE, lambda inputs: logits, batch, aim).outputs) for aim in aims]
    for value in (
        found.losses,
        *(PREDICTS.divergences(aim, outputs, 2.0) for aim, outputs in asked if outputs is not None),
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


def test_a_vocabulary_of_one_token_and_references_that_name_none_are_refused() -> None:
    with pytest.raises(UnsupportedWorkload, match="nothing to predict"):
        causal_language_model(1)
    with pytest.raises(UnsupportedWorkload, match="named is 0"):
        causal_language_model(VOCABULARY, named=0)


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
