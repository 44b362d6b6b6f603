"""The objective of diffusion models, against the paper's formulas written out, and models whose answers are known."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no type information
from torch import Tensor, nn

from tests.unlearning.kinds import OBJECTIVES, Denoiser, make_task
from tests.unlearning.small import flat, start
from unlearning.data.batches import Batch
from unlearning.data.objectives import answers, denoising_diffusion
from unlearning.data.objectives.denoising_diffusion import keys_of, normal_noise, uniform_numbers
from unlearning.data.samples import SampleSet, joined
from unlearning.data.workload import Workload, check_data
from unlearning.dry_run import dry_run
from unlearning.errors import InvalidWorkload, MethodRefused, UnsupportedWorkload
from unlearning.methods.aims import matching_loss, reference_aims, remaining_losses
from unlearning.methods.ltu import method
from unlearning.methods.ltu.feedback import ForgetBatch, forgetting_feedback
from unlearning.methods.ltu.guide_attacks import GuideAttack
from unlearning.methods.salun import as_other_class, saliency_masks
from unlearning.specs import IEU, LTU, RMU, Matching, SalUn
from unlearning.specs.training import Recipe
from unlearning.steps import run_to_completion
from unlearning.stopping.criterion import calibrate, check, other_class_answers
from unlearning.task import Task

STEPS, SHAPE, CLASSES = 40, (1, 4, 4), 3
BETAS = torch.linspace(0.005, 0.4, STEPS, dtype=torch.float64)
SIGNAL = (1 - BETAS).cumprod(0)
OBJECTIVE = denoising_diffusion(CLASSES, SHAPE, betas=BETAS, levels=[3, 20, 38])
GENERATION = OBJECTIVE.generation
PREDICTS = OBJECTIVE.predicts
assert GENERATION is not None
assert PREDICTS is not None
IMAGES = torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = torch.arange(7) % CLASSES
BATCH = Batch({"images": IMAGES, "classes": LABELS}, LABELS)


def linear(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
    """A made-up model that uses everything that it is given."""
    factor = 0.5 + 0.01 * levels + 0.1 * classes
    return factor.view(-1, 1, 1, 1) * noisy


def knowing(image: Tensor, signal: Tensor = SIGNAL) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The best model of data that are one image: ε = (x_t − √ᾱ x_0) / √(1 − ᾱ)."""

    def forward(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        left = signal.float()[levels].view(-1, 1, 1, 1)
        return (noisy - left.sqrt() * image) / (1 - left).sqrt()

    return forward


def samples(images: Tensor = IMAGES, labels: Tensor = LABELS, name: str = "a") -> SampleSet:
    inputs = {"images": images, "classes": labels}
    return SampleSet(ids=tuple(f"{name}-{i}" for i in range(len(images))), inputs=inputs, targets=labels)


def test_the_losses_are_those_of_equation_14_at_each_level_with_noise_added_by_equation_4() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def recording(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        seen.append((noisy, levels, classes))
        return linear(noisy, levels, classes)

    outputs = OBJECTIVE.read(recording, BATCH.inputs)  # type: ignore[misc]
    noisy, levels, classes = seen[0]
    assert levels.tolist() == [3, 20, 38] * 7
    assert classes.tolist() == LABELS.repeat_interleave(3).tolist()
    for row in range(21):
        left, image = float(SIGNAL[levels[row]]), IMAGES[row // 3].double()
        noise = (noisy[row].double() - math.sqrt(left) * image) / math.sqrt(1 - left)
        wanted = ((noise - linear(noisy, levels, classes)[row].double()) ** 2).mean()
        assert float(outputs[row // 3, row % 3]) == pytest.approx(float(wanted), rel=1e-3)
    torch.testing.assert_close(OBJECTIVE.losses(linear, BATCH), outputs[:, :3].mean(1))
    found = answers(OBJECTIVE, linear, BATCH)
    torch.testing.assert_close(PREDICTS.losses(PREDICTS.predictions(found.outputs), LABELS), found.losses)


def test_the_papers_schedule_is_the_default() -> None:
    seen: list[Tensor] = []

    def keep(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        seen.append(noisy)
        return noisy

    given = denoising_diffusion(1, SHAPE, levels=[0, 999])
    zero = torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.int64)
    given.losses(keep, Batch({"images": zero[0], "classes": zero[1]}, zero[1]))
    noise = normal_noise(keys_of(zero[0], salt=0), 32).view(2, *SHAPE)
    torch.testing.assert_close(seen[0][0], math.sqrt(1e-4) * noise[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[0][1], noise[1], rtol=1e-3, atol=1e-3)


def test_the_noise_is_standard_normal_and_belongs_to_the_image_alone() -> None:
    keys = keys_of(IMAGES, salt=0)
    noise = normal_noise(keys, 20_000)
    assert stats.kstest(noise.flatten()[:100_000].numpy(), "norm").pvalue > 0.001
    assert abs(float(torch.corrcoef(noise)[0, 1])) < 0.03
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 0.01
    order = torch.tensor([4, 2, 6])
    assert torch.equal(normal_noise(keys_of(IMAGES[order], salt=0), 50), noise[order, :50])
    assert torch.equal(keys_of(IMAGES.double(), salt=0), keys)
    assert not bool((keys_of(IMAGES, salt=1) == keys).any())
    many = uniform_numbers(keys_of(torch.rand(4000, *SHAPE, generator=torch.Generator().manual_seed(1)), salt=5))
    assert stats.kstest(many.numpy(), "uniform").pvalue > 0.001


def test_a_loss_is_the_same_each_time_and_in_each_batch_and_a_step_draws_anew() -> None:
    first = OBJECTIVE.losses(linear, BATCH)
    torch.testing.assert_close(OBJECTIVE.losses(linear, BATCH.take(torch.tensor([5]))), first[5:6])
    torch.manual_seed(3)
    steps = [OBJECTIVE.for_step() for _ in range(2)]
    drawn = [step.losses(linear, BATCH) for step in steps]
    assert not bool((drawn[0] == drawn[1]).any())
    torch.testing.assert_close(steps[0].losses(linear, BATCH), drawn[0])
    torch.manual_seed(3)
    torch.testing.assert_close(OBJECTIVE.for_step().losses(linear, BATCH), drawn[0])
    # Of a model that says "no noise" the loss is the noise's square, at whatever level.
    silent = torch.stack([OBJECTIVE.for_step().losses(lambda x, *_: torch.zeros_like(x), BATCH) for _ in range(300)])
    assert float(silent.mean()) == pytest.approx(1.0, abs=0.03)


def test_a_model_that_knows_the_image_explains_all_noise() -> None:
    one = Batch({"images": IMAGES[:1], "classes": LABELS[:1]}, LABELS[:1])
    found = answers(OBJECTIVE, knowing(IMAGES[:1]), one)
    assert float(OBJECTIVE.utility.of(found)) == pytest.approx(100, abs=0.01)


def test_a_guess_knows_the_level_and_the_bounds_alone() -> None:
    guess = OBJECTIVE.guessed(LABELS)
    assert guess is not None
    assert guess.losses.tolist() == pytest.approx([float(SIGNAL[[3, 20, 38]].mean())] * 7)

    def share(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        return (1 - SIGNAL.float()[levels]).sqrt().view(-1, 1, 1, 1) * noisy

    many = torch.where(torch.rand(500, *SHAPE, generator=torch.Generator().manual_seed(2)) < 0.5, -1.0, 1.0)
    labels = torch.zeros(500, dtype=torch.int64)
    found = OBJECTIVE.losses(share, Batch({"images": many, "classes": labels}, labels))
    assert float(found.mean()) == pytest.approx(float(guess.losses[0]), rel=0.02)


def test_the_divergence_is_that_of_normal_laws_with_the_losses_as_variances() -> None:
    outputs = OBJECTIVE.read(linear, BATCH.inputs)  # type: ignore[misc]
    aim = PREDICTS.predictions(outputs)
    assert PREDICTS.divergences(aim, outputs, 1.0).abs().max() < 1e-5
    laws = [torch.distributions.Normal(0.0, values.double().sqrt()) for values in (2 * aim.roll(1, 0), aim)]
    wanted = torch.distributions.kl_divergence(*laws).mean(1)
    torch.testing.assert_close(
        PREDICTS.divergences(2 * aim.roll(1, 0), outputs, 1.0).double(), wanted, rtol=1e-4, atol=1e-5
    )


def test_the_proximal_attack_is_the_papers() -> None:
    outputs = OBJECTIVE.read(linear, BATCH.inputs)  # type: ignore[misc]
    level = STEPS // 5
    left = float(SIGNAL[level])
    for row in range(7):
        image, label = IMAGES[row : row + 1], LABELS[row : row + 1]
        start = linear(image, torch.zeros(1), label)
        moved = linear(math.sqrt(left) * image + math.sqrt(1 - left) * start, torch.tensor([level]), label)
        wanted = (np.abs((start - moved).numpy()) ** 4).mean() ** 0.25
        assert float(outputs[row, -1]) == pytest.approx(float(wanted), rel=1e-3)
    assert torch.equal(PREDICTS.signals["proximal"](outputs, LABELS), outputs[:, -1])


def test_what_is_generated_follows_the_law_that_the_model_has_learned() -> None:
    """For normal data with the deviation s the best prediction is √(1 − ᾱ) x / (ᾱ s² + 1 − ᾱ).

    Each step is then linear, by eq. 11 with the variance β̃, and so the samples' variance is known; it is near s².
    """
    spread, betas = 0.4, torch.linspace(5e-4, 0.1, 200, dtype=torch.float64)
    signal, variance = (1 - betas).cumprod(0), 1.0
    for t in reversed(range(200)):
        left, before, beta = float(signal[t]), float(signal[t - 1]) if t else 1.0, float(betas[t])
        factor = (1 - beta / (left * spread**2 + 1 - left)) / math.sqrt(1 - beta)
        variance = factor**2 * variance + (1 - before) / (1 - left) * beta

    def best(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        left = signal.float()[levels].view(-1, 1, 1, 1)
        return (1 - left).sqrt() * noisy / (left * spread**2 + 1 - left)

    given = denoising_diffusion(1, SHAPE, betas=betas, sampling_steps=200, bounds=(-100.0, 100.0)).generation
    assert given is not None
    classes = torch.zeros(1500, dtype=torch.int64)
    found = given.generate(best, classes, torch.Generator().manual_seed(0))
    assert float(found.std()) == pytest.approx(math.sqrt(variance), rel=0.02)
    assert math.sqrt(variance) == pytest.approx(spread, rel=0.06)
    assert abs(float(found.mean())) < 0.02
    assert torch.equal(found, given.generate(best, classes, torch.Generator().manual_seed(0)))


def test_a_model_that_knows_one_image_generates_it_within_the_bounds() -> None:
    image = torch.full((1, *SHAPE), 0.7)
    found = GENERATION.generate(knowing(image), LABELS[:2], torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, image.expand(2, *SHAPE), rtol=1e-3, atol=1e-3)
    loud = GENERATION.generate(knowing(5 * image), LABELS[:2], torch.Generator().manual_seed(0))
    assert float(loud.max()) == 1.0


def forget_class_two(given: Task) -> None:
    """Let the task's forget set be all samples of the class 2, and leave none of it."""
    of_two, others = (given.forget.targets == 2, given.remain.targets != 2)
    given.forget, given.remain = (
        part.take(chosen.nonzero().flatten()) for part, chosen in ((given.forget, of_two), (given.remain, others))
    )


def test_samples_of_a_forgotten_class_aim_at_what_the_model_says_of_them_as_of_another() -> None:
    given = make_task(OBJECTIVES["denoising diffusion"])
    forget_class_two(given)
    references = given.references
    assert references is not None
    given.references = type(references)(predictions=references.predictions[2::3], losses=references.losses[2::3])
    aims = reference_aims(given)
    every = torch.ones(len(given.forget), dtype=torch.bool)
    found = other_class_answers(given, every)
    assert aims is not None
    torch.testing.assert_close(aims.losses, found.losses)
    as_one = given.objective.losses(
        given.model, Batch({**given.forget.inputs, "classes": 0 * given.forget.targets}, 0 * given.forget.targets)
    )
    as_two = given.objective.losses(
        given.model,
        Batch({**given.forget.inputs, "classes": 0 * given.forget.targets + 1}, 0 * given.forget.targets + 1),
    )
    assert torch.minimum((found.losses - as_one).abs(), (found.losses - as_two).abs()).max() < 1e-5
    criterion = calibrate(given, IEU().stop)
    assert criterion.other_class_losses is not None
    assert math.isfinite(check(criterion, given.model).score)


def test_what_is_predicted_of_a_forgotten_class_is_drawn_to_what_is_predicted_of_another_class() -> None:
    given = make_task(OBJECTIVES["denoising diffusion"])
    forget_class_two(given)
    given.references = None
    with torch.no_grad():
        given.model.classes.weight.mul_(5)
    aims, batch, index = reference_aims(given), given.forget.batch, torch.arange(len(given.forget))
    assert aims is not None
    assert aims.other_classes is not None
    assert set(aims.other_classes.tolist()) == {0, 1}
    objective = given.objective.for_step()
    generation, parameters = objective.generation, list(given.model.parameters())
    assert generation is not None
    own, as_others = (
        generation.predicted(given.model, generation.relabelled(batch, classes))
        for classes in (batch.targets, aims.other_classes)
    )
    wanted = ((own - as_others.detach()) ** 2).mean((1, 2, 3)) / (2 * aims.losses)
    found = aims.as_other_classes(objective, given.model, batch, index)
    torch.testing.assert_close(found, wanted)
    gradients = (torch.autograd.grad(each.sum(), parameters) for each in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    stays = replace(aims, other_classes=torch.where(index > 0, aims.other_classes, -1))
    assert stays.as_other_classes(objective, given.model, batch, index)[0].item() == 0.0

    run_to_completion(start(Matching(steps=60, learning_rate=0.1), given))
    after = aims.as_other_classes(objective, given.model, batch, index)
    # The three samples have two classes as their aims, and one name cannot be both: half of the distance stays.
    assert after.mean().item() < 0.6 * found.mean().item()


def test_how_far_a_model_has_moved_is_half_the_squared_difference_over_the_originals_error() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def original(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        seen.append((noisy, levels, classes))
        return linear(noisy, levels, classes)

    def other(noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        return linear(noisy, levels, classes) + 0.2 * noisy

    objective = OBJECTIVE.for_step()
    assert objective.generation is not None
    found = objective.generation.moved(other, original, BATCH)
    ((noisy, levels, classes),) = seen
    left = SIGNAL.float()[levels].view(-1, 1, 1, 1)
    noise = (noisy - left.sqrt() * IMAGES) / (1 - left).sqrt()
    error = ((linear(noisy, levels, classes) - noise) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(found, (0.2 * noisy).square().mean((1, 2, 3)) / (2 * error), rtol=1e-3, atol=1e-5)


def test_remaining_samples_pull_a_generator_to_what_the_original_predicts() -> None:
    given = make_task(OBJECTIVES["denoising diffusion"])
    batch, parameters = given.remain.batch, list(given.model.parameters())
    remaining = remaining_losses(given, None)

    def gradients() -> Tensor:
        torch.manual_seed(5)
        found = torch.autograd.grad(remaining(given.model, batch).mean(), parameters, allow_unused=True)
        return torch.cat([each.flatten() for each in found if each is not None])

    assert not gradients().any()  # the objective's own loss has the gradient of the noise that happened to be drawn
    with torch.no_grad():
        given.model.classes.weight.add_(0.5)
    assert gradients().any()
    assert bool((remaining(given.model, batch) > 0).all())


@pytest.mark.parametrize(
    "spec",
    [
        IEU(steps=6, repair_steps=6, passes=0.0, ascent=0.0, decay=0.0, noise=0.0),
        LTU(steps=3, repair_steps=3, passes=0.0, order="first", forgetting=False, scramble_weight=0.0, meta=False),
    ],
    ids=["ieu", "ltu"],
)
def test_without_what_forgets_a_method_leaves_a_generator_as_it_is(
    spec: IEU | LTU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "rehearsal_count", lambda spec, latest: 2)  # also where nothing is lost
    given = make_task(OBJECTIVES["denoising diffusion"])
    given.references = None
    before = flat(given.model)
    run_to_completion(start(spec, given))
    assert torch.equal(
        flat(given.model), before
    )  # the objective's own loss would move it with every noise that is drawn


def test_matching_keeps_what_a_generator_predicts_of_remaining_samples() -> None:
    given = make_task(OBJECTIVES["denoising diffusion"])
    aims = reference_aims(given)
    assert aims is not None
    remaining = remaining_losses(given, aims)
    index, batch = torch.arange(len(given.forget)), given.remain.batch
    assert matching_loss(given, aims, index, batch, remaining=remaining, weight=0.0).item() == 0.0
    with torch.no_grad():
        for weights in given.model.parameters():
            weights.add_(0.1)
    assert matching_loss(given, aims, index, batch, remaining=remaining, weight=0.0).item() > 0.0


def test_where_no_class_stays_nothing_says_what_the_forgotten_ones_should_look_like() -> None:
    given = make_task(OBJECTIVES["denoising diffusion"])
    given.forget, given.remain = joined(given.forget, given.remain), given.remain.take(torch.arange(1))
    with pytest.raises(MethodRefused, match="a class that stays"):
        calibrate(given, IEU().stop)


def test_saluns_generative_form_learns_what_is_predicted_of_another_class_and_moves_salient_weights_alone() -> None:
    given = make_task(OBJECTIVES["denoising diffusion"])
    forget, others = given.forget.batch, (given.forget.targets + 1) % 3
    parameters = list(given.model.parameters())
    torch.manual_seed(5)
    generation = given.objective.for_step().generation
    assert generation is not None
    with torch.no_grad():
        aim = generation.predicted(given.model, generation.relabelled(forget, others))
    wanted = ((generation.predicted(given.model, forget) - aim) ** 2).mean()
    torch.manual_seed(5)
    loss = as_other_class(given, forget, others)(given.model)
    torch.testing.assert_close(loss, wanted)
    for found, expected in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(found, expected)

    spec = SalUn(epochs=3, learning_rate=0.05, batch_size=16)
    masks = saliency_masks(given, share=spec.saliency, batch_size=16)
    before = {name: p.detach().clone() for name, p in given.model.named_parameters()}
    run_to_completion(start(spec, given))
    for name, p in given.model.named_parameters():
        assert torch.equal(p[~masks[name]], before[name][~masks[name]])
    assert not torch.equal(given.model.body[0].weight, before["body.0.weight"])


def test_no_step_fits_the_noise_at_which_a_model_is_measured() -> None:
    """RMU's hidden states and LTU's guide attacks, too, are read at noise that each step draws."""
    given = make_task(OBJECTIVES["denoising diffusion"])
    fixed = given.objective
    given.objective = replace(fixed, losses=not_differentiated(fixed.losses), outputs=not_differentiated(fixed.outputs))
    run_to_completion(start(RMU(epochs=1), given))

    attack = GuideAttack(
        features=lambda outputs, targets: outputs[:, :1],
        mean=torch.zeros(1),
        scale=torch.ones(1),
        head=nn.Linear(1, 1),
        accuracy=1.0,
    )
    forget, generator = given.forget.batch, torch.Generator().manual_seed(0)
    whole = ForgetBatch(forget, torch.arange(forget.size), torch.ones(forget.size))
    found = forgetting_feedback(LTU(), given, (attack, attack), whole, generator)
    assert bool(found.any())


def not_differentiated(compute: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    def checked(*given: object) -> Tensor:
        assert compute is not None
        found = compute(*given)
        assert not found.requires_grad
        return found

    return checked


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"betas": [0.1]}, "two or more"),
        ({"betas": [0.1, 1.0]}, "between 0 and 1"),
        ({"betas": [0.5, math.nan]}, "between 0 and 1"),
        ({"betas": [0.01] * 20}, "leaves 82% of the image"),
        ({"steps": 1}, "two noise levels"),
        ({"levels": [1000]}, "0 to 999"),
        ({"levels": []}, "0 to 999"),
        ({"bounds": (1.0, -1.0)}, "rising"),
    ],
)
def test_a_wrong_schedule_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedWorkload, match=message):
        denoising_diffusion(3, SHAPE, **given)  # type: ignore[arg-type]


def test_no_class_and_no_shape_are_refused() -> None:
    with pytest.raises(UnsupportedWorkload, match="one class or more, not 0"):
        denoising_diffusion(0, SHAPE)
    with pytest.raises(UnsupportedWorkload, match="shape"):
        denoising_diffusion(3, (1, 0, 4))


def test_images_of_another_size_integers_and_inputs_without_classes_are_refused() -> None:
    larger = Batch({"images": torch.zeros(7, 1, 5, 5), "classes": LABELS}, LABELS)
    with pytest.raises(UnsupportedWorkload, match=r"\(1, 5, 5\); the objective's are \(1, 4, 4\)"):
        OBJECTIVE.losses(linear, larger)
    with pytest.raises(UnsupportedWorkload, match="floats"):
        OBJECTIVE.losses(linear, Batch({"images": IMAGES.long(), "classes": LABELS}, LABELS))
    with pytest.raises(UnsupportedWorkload, match="mapping"):
        OBJECTIVE.losses(linear, Batch(IMAGES, LABELS))
    with pytest.raises(UnsupportedWorkload, match="Learned variances"):
        OBJECTIVE.losses(lambda noisy, *_: torch.cat([noisy, noisy], 1), BATCH)


def workload(train: SampleSet) -> Workload:
    return Workload(
        name="images",
        build=Denoiser,
        train=train,
        held_out=samples(name="b"),
        test=samples(name="c"),
        objective=denoising_diffusion(CLASSES, SHAPE, steps=20),
        recipe=Recipe(epochs=1, batch_size=4),
    )


def test_a_class_that_does_not_exist_and_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InvalidWorkload, match="labels from 0 to 3; 3 classes"):
        workload(samples(labels=torch.tensor([0, 1, 2, 3, 0, 1, 2])))
    broken = IMAGES.clone()
    broken[4, 0, 1, 1] = math.inf
    with pytest.raises(InvalidWorkload, match="position 4 that are not finite"):
        check_data(workload(samples(broken)))


def test_a_rehearsal_finds_classes_that_are_not_the_targets_and_images_of_another_size() -> None:
    good = workload(samples(torch.randn(40, *SHAPE), torch.arange(40) % 3))
    model: nn.Module = Denoiser()
    assert dry_run(good, model, policy=[IEU()]) == ()
    shifted = samples(torch.randn(40, *SHAPE), torch.arange(40) % 3)
    inputs = {"images": shifted.inputs["images"], "classes": (shifted.targets + 1) % 3}
    wrong = workload(SampleSet(ids=shifted.ids, inputs=inputs, targets=shifted.targets))
    with torch.no_grad():
        model.classes.weight.mul_(20)  # type: ignore[operator, union-attr]
    assert [fault.step for fault in dry_run(wrong, model, policy=[])] == ["losses by sample"]
    larger = samples(torch.randn(40, 1, 5, 5), torch.arange(40) % 3)
    assert [fault.step for fault in dry_run(workload(larger), model, policy=[])][:1] == ["forward pass"]
