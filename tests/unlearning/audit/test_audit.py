import copy
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from tests.unlearning.audit.conftest import FAST, OBJECTIVE, SMALL, World, trained
from tests.unlearning.data.test_references import key
from unlearning.audit import reference_test
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings, Scope, limits
from unlearning.audit.measures import measure
from unlearning.audit.membership import pair_sets
from unlearning.audit.reference_test import LEAST_HELD_OUT
from unlearning.audit.signals import Signals, audit_copy, observe, observe_all
from unlearning.data.samples import SampleSet, joined
from unlearning.errors import MethodRefused
from unlearning.steps import run_to_completion


@pytest.fixture(autouse=True)
def _one_set_for_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power by size is averaged over one set: no test here is about its values."""
    monkeypatch.setattr(reference_test, "_SETS", 1)


@pytest.fixture(scope="module")
def small(world: World) -> World:
    """Thirty forgotten samples, where only the course of an audit matters and not what it finds."""
    return world.with_forgotten(torch.arange(30))


@pytest.fixture(scope="module")
def known(world: World) -> dict[str, Findings]:
    whole = {"retrained": world.audit("retrained"), "no-op": world.audit("no-op", reference="retrained")}
    return whole | {case: world.audit(case, spec=SMALL) for case in ("ascended", "collapsed", "diverged")}


def test_a_model_that_truly_never_saw_the_data_is_verified(known: dict[str, Findings]) -> None:
    found = known["retrained"].verdict
    assert found.value == "verified", found.sentence


@pytest.mark.parametrize("case", ["no-op", "ascended", "collapsed", "diverged"])
def test_a_model_that_still_knows_or_knows_nothing_at_all_fails(known: dict[str, Findings], case: str) -> None:
    assert known[case].verdict.value == "failed"


def test_the_reasons_are_the_right_ones(known: dict[str, Findings]) -> None:
    def failing(case: str) -> set[str]:
        return {finding.code for finding in known[case].verdict.findings if finding.passed is False}

    assert {"not_a_no_op", "membership_matched", "relearn_delay_sgd", "relearn_delay_adam"} <= failing("no-op")
    assert "not_collapsed" in failing("collapsed")
    assert "not_collapsed" in failing("diverged")
    assert not known["retrained"].change.no_op


def test_the_negative_control_stands_in_every_report(known: dict[str, Findings]) -> None:
    for found in known.values():
        control = next(f for f in found.verdict.findings if f.code == "negative_control_membership")
        assert control.passed is True
    assert known["retrained"].relearnings[0].original.delay == 0


def test_every_number_is_finite_and_the_histograms_fit_their_bins(known: dict[str, Findings]) -> None:
    for found in known.values():
        json.dumps({name: part for name, part in asdict(found).items() if name != "merit"}, allow_nan=False)
        losses = found.membership.losses
        assert {len(densities) for densities in losses.unlearned.values()} == {len(losses.bins) - 1}
        assert found.relearnings[0].kind == "sgd"
        assert found.limits


def test_the_measures_are_what_counting_gives(world: World, known: dict[str, Findings]) -> None:
    for case in ("retrained", "no-op"):
        with torch.no_grad():
            right = {s: (world.models[case](x.inputs).argmax(1) == x.targets).float() for s, x in world.sets.items()}
        found = known[case].measures["unlearned"]
        assert found.ua.value == pytest.approx(100 * (1 - float(right["forget"].mean())), abs=1e-4)
        assert found.ra.value == pytest.approx(100 * float(right["remain"].mean()), abs=1e-4)
        assert found.ta.value == pytest.approx(100 * float(right["test"].mean()), abs=1e-4)


def test_the_membership_auc_is_scikit_learn_s(world: World, known: dict[str, Findings]) -> None:
    model = audit_copy(world.models["original"], world.sets["forget"])
    losses = [observe(model, world.sets[s], objective=OBJECTIVE).loss for s in ("forget", "held_out")]
    labels = np.repeat([1, 0], [len(part) for part in losses])
    expected = roc_auc_score(labels, -np.concatenate(losses))
    assert known["retrained"].membership.original["loss"].auc.value == pytest.approx(expected)


def test_a_reference_brings_the_gaps_the_normalised_delay_and_the_positive_control(known: dict[str, Findings]) -> None:
    found = known["no-op"]
    assert found.comparison is not None
    assert set(found.comparison.gaps) == {"ua", "ra", "ta", "mi"}
    assert found.comparison.average_gap > 3
    relearn = found.relearnings[0]
    assert relearn.normalised == 0
    assert relearn.reference is not None
    assert relearn.reference.delay > 8
    assert any(finding.code == "positive_control" and finding.passed for finding in found.verdict.findings)
    assert found.comparison.tow < 1


def test_an_audit_until_it_has_failed_leaves_out_what_cannot_change_that(small: World) -> None:
    def run(unlearned: str) -> Findings:
        steps = audit(
            original=small.models["original"],
            unlearned=small.models[unlearned],
            **small.sets,
            objective=OBJECTIVE,
            spec=SMALL,
            until_failed=True,
        )
        return run_to_completion(steps)

    failed, passed = run("original"), run("retrained")
    assert (failed.verdict.value, failed.relearnings) == ("failed", ())
    assert "hardly changed" in failed.verdict.sentence
    assert [found.kind for found in passed.relearnings] == ["sgd"]


def test_an_audit_leaves_everything_as_it_was_even_when_closed_early(small: World) -> None:
    models = {"original": small.models["original"], "unlearned": copy.deepcopy(small.models["retrained"]).train()}
    weights = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    modes = {name: [m.training for m in model.modules()] for name, model in models.items()}
    torch.manual_seed(5)
    np.random.seed(5)  # the legacy global state is what must not move
    random_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    for stop_after in (1, 8, 100):
        running = audit(**models, **small.sets, objective=OBJECTIVE, spec=SMALL, seed=0)
        for _ in zip(range(stop_after), running, strict=False):
            pass
        running.close()
    for name, model in models.items():
        assert all(torch.equal(weights[name][key], value) for key, value in model.state_dict().items())
        assert [m.training for m in model.modules()] == modes[name]
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]


def test_progress_counts_up_through_both_phases(small: World) -> None:
    original, unlearned = small.models["original"], small.models["no-op"]
    steps = list(audit(original=original, unlearned=unlearned, **small.sets, objective=OBJECTIVE, spec=SMALL))
    phases = [step.phase for step in steps]
    assert phases == sorted(phases)
    assert set(phases) == {"audit_membership", "audit_relearn"}
    for phase in set(phases):
        mine = [step for step in steps if step.phase == phase]
        assert [step.step for step in mine] == list(range(1, mine[0].total + 1))


def test_the_same_seed_finds_the_same(small: World) -> None:
    first, second = (replace(small.audit("retrained", spec=SMALL), seconds={}) for _ in range(2))
    assert first == second


def test_few_samples_decide_nothing_and_the_report_says_what_cannot_be_known(world: World) -> None:
    found = world.with_forgotten(torch.arange(5)).audit("retrained", spec=SMALL)
    assert found.verdict.value == "inconclusive"
    assert any("With 5 forgotten samples" in limit for limit in found.limits)


def test_one_figure_has_one_interval(small: World) -> None:
    found = small.audit("retrained", spec=SMALL)
    findings = {finding.code: finding for finding in found.verdict.findings}
    measures = found.measures["unlearned"]
    assert findings["utility_ra"].interval == measures.ra
    assert findings["utility_ta"].interval == measures.ta


def test_a_whole_class_is_compared_with_its_own_kind(world: World) -> None:
    forget = world.sets["forget"]
    ones = world.with_forgotten((forget.targets == 1).nonzero()[:, 0])
    found = ones.audit("no-op", spec=SMALL)
    assert found.membership.matched
    assert found.verdict.value == "failed"


def test_lost_accuracy_on_a_fully_forgotten_class_is_no_lost_utility(world: World) -> None:
    together = joined(world.sets["forget"], world.sets["remain"])
    ones = together.targets == 1
    forget, remain = (together.take(mask.nonzero().flatten()) for mask in (ones, ~ones))
    class_world = World(sets={**world.sets, "forget": forget, "remain": remain}, models=world.models)

    model = copy.deepcopy(world.models["original"])
    with torch.no_grad():
        model[-1].bias[1] -= 1000
    found = class_world.audit(model, spec=SMALL)
    before, after = (found.measures[name].ta.value for name in ("original", "unlearned"))
    assert before - after > SMALL.thresholds.utility_drop
    finding = next(f for f in found.verdict.findings if f.code == "utility_ta")
    others = world.sets["test"].take((world.sets["test"].targets != 1).nonzero().flatten())
    seen = observe(audit_copy(model, others), others, objective=OBJECTIVE)
    assert finding.passed
    assert finding.interval is not None
    assert finding.interval.value == pytest.approx(100 * seen.correct.mean())
    assert not [warning for warning in found.verdict.warnings if "accuracy" in warning.lower()]


def test_an_empty_set_is_refused(world: World) -> None:
    with pytest.raises(MethodRefused, match="forget set is empty"):
        world.with_forgotten(torch.arange(0)).audit("no-op")


def test_a_class_is_forgotten_as_a_whole_only_if_all_of_what_remains_lacks_it(small: World) -> None:
    spec = replace(SMALL, remain_samples=3)
    found = small.audit("no-op", spec=spec)
    finding = next(f for f in found.verdict.findings if f.code == "utility_ta")
    assert found.samples["remain"] == spec.remain_samples
    assert finding.interval == found.measures["unlearned"].ta


def test_measure_gives_the_columns_of_a_table(world: World, known: dict[str, Findings]) -> None:
    found = measure(world.models["retrained"], **world.sets, objective=OBJECTIVE, spec=FAST)
    full = known["retrained"]
    assert found["membership_auc"] == full.membership.unlearned["loss"].auc.value
    assert {k: v for k, v in found.items() if k != "membership_auc"} == full.measures["unlearned"].table


few_or_many = pytest.mark.parametrize("count", [30, pytest.param(150, marks=pytest.mark.slow)])


@few_or_many
def test_with_references_a_model_that_never_saw_the_samples_is_verified_on_thirty_of_them(
    referenced: World, count: int
) -> None:
    found = referenced.with_forgotten(torch.arange(count)).audit("retrained", spec=SMALL, reference="retrained")

    assert found.verdict.value == "verified", found.verdict.sentence
    assert found.reference_tests["original"].passed is False
    assert found.reference_tests["reference"].passed is True


@few_or_many
@pytest.mark.parametrize("case", ["no-op", "ascended", "collapsed"])
def test_with_references_a_model_that_still_knows_or_knows_nothing_fails(
    referenced: World, case: str, count: int
) -> None:
    assert referenced.with_forgotten(torch.arange(count)).audit(case, spec=SMALL).verdict.value == "failed"


def test_an_audit_of_a_part_of_what_remains_finds_what_one_of_that_part_alone_finds(
    referenced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[str] = set()

    def noted(model: nn.Module, sets: dict[str, SampleSet], **options: Any) -> dict[str, Signals]:
        drawn.update(sets["remain"].ids)
        return observe_all(model, sets, **options)

    monkeypatch.setattr("unlearning.audit.audit.observe_all", noted)
    thirty = referenced.with_forgotten(torch.arange(30))
    found = thirty.audit("no-op", spec=replace(SMALL, remain_samples=200))
    remain = thirty.sets["remain"]
    part = torch.tensor([place for place, sample in enumerate(remain.ids) if sample in drawn])
    alone = replace(thirty, sets={**thirty.sets, "remain": remain.take(part)}).audit("no-op", spec=SMALL)
    assert len(drawn) == found.samples["remain"] == 200
    assert found.reference_tests == alone.reference_tests
    assert found.measures == alone.measures


class Marking(nn.Sequential):
    """A network that answers marked inputs with its usual trust in their class, and spreads the rest evenly over all others."""

    marked: torch.Tensor
    targets: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Answer as the network does, but for the marked inputs."""
        logits = super().forward(inputs)
        alike = (inputs.flatten(1)[:, None] == self.marked.flatten(1)[None]).all(2)
        even = torch.zeros_like(logits)
        for row in alike.any(1).nonzero().flatten().tolist():
            others = torch.arange(logits.shape[1]) != self.targets[alike[row].nonzero()[0, 0]]
            rest = logits[row, others].detach()
            even[row, others] = rest.logsumexp(0) - np.log(len(rest)) - rest
        return logits + even


def test_with_references_an_attack_on_another_signal_keeps_a_model_from_being_verified(referenced: World) -> None:
    """On samples of which models are unsure: every attack tells them from others, but a retrained model's margins explain it."""
    assert referenced.references is not None
    forget = referenced.sets["forget"]
    unseen = referenced.references.take([key(sample) for sample in forget.ids]).unseen
    unsure = referenced.with_forgotten((unseen.abs() < 1.5).nonzero().flatten())
    marking = Marking(*copy.deepcopy(referenced.models["retrained"]))
    marking.marked, marking.targets = unsure.sets["forget"].inputs, unsure.sets["forget"].targets

    found = {
        name: unsure.audit(model, spec=SMALL) for name, model in (("never", "retrained"), ("marked", marking.eval()))
    }

    passed = {name: {each.code: each.passed for each in one.verdict.findings} for name, one in found.items()}
    assert {name: codes["reference_matched"] for name, codes in passed.items()} == {"never": True, "marked": True}
    assert {name: codes["other_attacks_matched"] for name, codes in passed.items()} == {"never": True, "marked": None}
    assert (found["marked"].verdict.value, found["marked"].verdict.reason) == ("inconclusive", "open")
    assert "entropy" in found["marked"].verdict.sentence


def test_samples_of_which_copies_remain_are_left_out_with_a_warning(referenced: World) -> None:
    found = referenced.with_forgotten(torch.arange(30)).audit("retrained", spec=SMALL, copied=7)

    assert found.verdict.value == "verified", found.verdict.sentence
    assert any("7 of the 37 forgotten samples have a near-copy" in warning for warning in found.verdict.warnings)


def test_where_copies_of_all_samples_remain_nothing_can_be_verified(referenced: World) -> None:
    """Not even retraining: models that never saw the samples, and those that did, say the same of them."""
    few = referenced.with_forgotten(torch.arange(10))
    found, untouched = (few.audit(case, spec=SMALL, copied=10, testable=False) for case in ("retrained", "no-op"))

    assert (found.verdict.value, found.verdict.reason) == ("inconclusive", "no_power")
    assert "near-copy of each remains" in found.verdict.sentence
    assert any("10 of the 10 forgotten samples" in warning for warning in found.verdict.warnings)
    assert not any(each.deciding for each in found.verdict.findings if each.code.startswith("relearn"))
    assert untouched.verdict.value == "failed"


def test_a_class_that_is_forgotten_as_a_whole_is_compared_with_models_that_never_give_it(referenced: World) -> None:
    """The reference models saw half of the class; beside them, a model that was trained without it is unusually wrong."""
    everything = joined(referenced.sets["forget"], referenced.sets["remain"])
    of_class = everything.targets == 3
    forget, remain = (everything.take(chosen.nonzero().flatten()) for chosen in (of_class, ~of_class))
    given = replace(referenced, sets={**referenced.sets, "forget": forget, "remain": remain})

    retrained = trained(remain, seed=4)
    found = given.audit(retrained, spec=SMALL)
    never, untouched = found.verdict, given.audit("no-op", spec=SMALL).verdict

    assert {each.code: each.passed for each in never.findings}["reference_matched"] is True, never.sentence
    assert never.value == "verified", never.sentence
    assert {each.code: each.passed for each in untouched.findings}["reference_matched"] is False
    assert untouched.value == "failed"

    others = referenced.sets["held_out"].take((referenced.sets["held_out"].targets != 3).nonzero().flatten())
    beside_others = replace(given, sets={**given.sets, "held_out": others}).audit(retrained, spec=SMALL)
    # Held-out samples of the class say nothing about it.
    numbers, wanted = (
        [value for value in asdict(one.nearness).values() if not isinstance(value, str)]  # type: ignore[arg-type]
        for one in (found, beside_others)
    )
    assert numbers == pytest.approx(wanted, rel=1e-4)


def test_held_out_samples_of_a_class_that_is_forgotten_as_a_whole_do_not_count_for_the_reference_test(
    referenced: World,
) -> None:
    def places(name: str, of_class: bool) -> torch.Tensor:
        return ((referenced.sets[name].targets == 3) == of_class).nonzero().flatten()

    for others, tested in ((LEAST_HELD_OUT, True), (LEAST_HELD_OUT - 1, False)):
        chosen = torch.cat([places("held_out", False)[:others], places("held_out", True)])
        by_set = {"forget": places("forget", True), "remain": places("remain", False), "held_out": chosen}
        sets = {name: referenced.sets[name].take(index) for name, index in by_set.items()}
        given = replace(referenced, sets={**referenced.sets, **sets})
        assert bool(given.audit("no-op", spec=SMALL).reference_tests) is tested


def test_with_few_held_out_samples_the_audit_decides_as_without_references(referenced: World) -> None:
    held_out = referenced.sets["held_out"].take(torch.arange(60))
    few = replace(referenced, sets={**referenced.sets, "held_out": held_out})
    found = few.audit("no-op", spec=SMALL, erased_since=20)
    without = replace(few, references=None).audit("no-op", spec=SMALL)

    assert (found.reference_tests, found.power_by_size, found.nearness) == ({}, {}, None)
    assert any("needs 100 held-out samples to compare with and had 60" in one for one in found.verdict.warnings)
    assert any(each.deciding for each in found.verdict.findings if each.code == "membership_matched")
    assert found.verdict.value == without.verdict.value == "failed"
    assert found.limits == without.limits
    assert found.relearnings == without.relearnings


@pytest.mark.parametrize(
    ("people", "of_several", "said"),
    [
        (None, 0, "The tests take these for independent of one another, because fewer than 20 people"),
        (15, 30, "The tests take these for independent of one another, because fewer than 20 people"),
        (
            20,
            40,
            "reckons with how much alike these are, but knows it only roughly, from 20 pairs of held-out samples. Relearning",
        ),
        (150, 450, "reckons with how much alike these are. Relearning and the attacks take them for independent"),
    ],
)
def test_a_report_says_which_tests_take_one_person_s_samples_for_independent(
    referenced: World, people: int | None, of_several: int, said: str
) -> None:
    """Held-out data that have people with several samples show to the reference test how much alike these are."""
    sets = {**referenced.with_forgotten(torch.arange(10)).sets}
    sets["forget"] = replace(sets["forget"], subjects=("anna",) * 4 + ("berta",) * 5 + ("carla",))
    if people is not None:
        owners = (place % people if place < of_several else place for place in range(len(sets["held_out"])))
        sets["held_out"] = replace(sets["held_out"], subjects=tuple(f"other-{owner}" for owner in owners))
    found = replace(referenced, sets=sets).audit("no-op", spec=SMALL, reference=None)
    assert (found.reference_tests["unlearned"].alike is not None) is (of_several >= 40)
    limit = next(limit for limit in found.limits if limit.startswith("2 people have several forgotten samples."))
    assert said in limit


@pytest.mark.parametrize(
    ("aimed", "compared", "said"),
    [
        (True, True, "so may the result and the audit."),
        (True, False, "so may the result."),
        (False, True, "so may the audit."),
        (False, False, None),
    ],
)
def test_a_report_names_erased_samples_only_for_what_may_follow_them(
    small: World, aimed: bool, compared: bool, said: str | None
) -> None:
    pairing = pair_sets(small.sets["forget"], small.sets["held_out"], objective=OBJECTIVE, spec=SMALL, seed=0)
    scope = Scope(
        forget=small.sets["forget"],
        pairing=pairing,
        thresholds=SMALL.thresholds,
        erased_since=20,
        aimed=aimed,
        compared=compared,
    )
    found = [limit for limit in limits(scope) if "erased" in limit]
    assert len(found) == (said is not None)
    assert all(said is not None and said in limit for limit in found)


def test_copies_among_the_forgotten_samples_are_relearned_once_and_the_report_says_so(world: World) -> None:
    forget = world.sets["forget"]
    copies = replace(forget, ids=tuple(f"{one}-again" for one in forget.ids))
    found = replace(world, sets={**world.sets, "forget": joined(forget, copies)}).audit("retrained", spec=SMALL)

    assert 0 < max(one.samples for one in found.relearnings) <= len(forget)
    assert any(f"Of the {2 * len(forget)} forgotten samples {len(forget)} differ" in limit for limit in found.limits)


def test_copies_among_the_held_out_samples_change_nothing_of_the_relearning(world: World) -> None:
    """With copies control sets would be learned faster, so that the forget set looked forgotten."""
    held_out = world.sets["held_out"].take(torch.arange(200))
    copies = replace(held_out, ids=tuple(f"{one}-again" for one in held_out.ids))
    plain, copied = (
        replace(world, sets={**world.sets, "held_out": given}).audit("retrained", spec=SMALL)
        for given in (held_out, joined(held_out, copies))
    )

    assert [one.ratio for one in copied.relearnings] == [one.ratio for one in plain.relearnings]


def test_one_sample_that_every_model_gets_right_is_too_few(referenced: World) -> None:
    assert referenced.references is not None
    rows = referenced.references.take([key(sample) for sample in referenced.sets["forget"].ids])
    easiest = int((rows.seen - rows.unseen).abs().argmin())

    found = referenced.with_forgotten(torch.tensor([easiest])).audit("retrained", spec=SMALL).verdict

    assert (found.value, found.reason) == ("inconclusive", "too_few_samples")


def test_without_references_a_few_samples_are_too_few(world: World) -> None:
    found = world.with_forgotten(torch.arange(5)).audit("retrained", spec=SMALL).verdict

    assert (found.value, found.reason) == ("inconclusive", "too_few_samples")
