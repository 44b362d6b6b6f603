"""Audit an unlearned model: measures, membership attacks, relearning, and the verdict."""

import itertools
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearning.audit.comparison import (
    agreement,
    compare_with_retrained,
    jensen_shannon,
    measure_change,
    per_class,
    privacy_leakage,
    utility_drop,
)
from unlearning.audit.controls import Difficulty
from unlearning.audit.extraction import Extraction, measure_extraction, measure_knowledge
from unlearning.audit.feature_attack import feature_attack, feature_readers
from unlearning.audit.findings import Findings, Histograms, Membership, Roc, Utility, limits
from unlearning.audit.generation import Generated, measure_generation, prepare_generation, sheet, sheet_of_texts
from unlearning.audit.intervals import Floats
from unlearning.audit.measures import Measures, measures_of
from unlearning.audit.membership import (
    Attack,
    Pairing,
    attack_by_reference,
    evaluate_attacks,
    membership_margin,
    membership_power,
    pair_sets,
    roc_curve,
)
from unlearning.audit.nearness import Nearness, nearness
from unlearning.audit.reference_test import (
    LEAST_HELD_OUT,
    AuditReferences,
    ReferenceSignals,
    ReferenceTest,
    power_by_size,
    reference_test,
    signal_beside_margin,
    signals_by_reference,
)
from unlearning.audit.relearning import OriginalLosses, Relearning, relearn_delay, run_count
from unlearning.audit.signals import SignalsBySet, audit_copy, merit_of, observe_all, signals_of_probabilities
from unlearning.audit.verdict import (
    Finding,
    change_findings,
    copies_findings,
    extraction_findings,
    feature_findings,
    generation_findings,
    inconclusive_reason,
    judge,
    membership_findings,
    nearness_findings,
    no_reference_test,
    other_attack_findings,
    reference_findings,
    relearn_findings,
    utility_findings,
)
from unlearning.data.objectives import Objective, divided
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.data.workload import check_targets
from unlearning.errors import MethodRefused
from unlearning.networks import frozen_share
from unlearning.specs.audit import AuditSpec
from unlearning.steps import Progress, map_progress
from unlearning.stopping.criterion import fully_forgotten_classes, in_classes

MEMBERSHIP, RELEARN = "audit_membership", "audit_relearn"
"""The phases of an audit's progress."""


def audit(
    *,
    original: nn.Module,
    unlearned: nn.Module,
    forget: SampleSet,
    remain: SampleSet,
    held_out: SampleSet,
    test: SampleSet,
    objective: Objective,
    spec: AuditSpec,
    seed: int = 0,
    reference: nn.Module | None = None,
    references: AuditReferences | None = None,
    erased_since: int = 0,
    aimed: bool = False,
    until_failed: bool = False,
) -> Generator[Progress, None, Findings]:
    """Audit `unlearned` against `original`, the negative control, and against a retrained `reference` if there is one.

    references: reference predictions; the reference test then decides, sample by sample, in place of the attacks on the set.
    erased_since: how many samples were erased earlier on which the reference models were trained; the limits say so, if the audit
    read what these predict, or `unlearned` comes from a method that aimed at it (`aimed`).
    until_failed: whether to leave out the relearning, which takes most of the time, if the verdict is `failed` without it.
    held_out: the part of D_v that nothing else has used. The audit works on copies and has random numbers of its own, from
    `seed`: the models, their modes and buffers, and the process's random state do not change. Raises MethodRefused for an empty
    set or a model that is frozen as a whole, and InvalidWorkload for targets that do not suit the objective.
    """
    sets = {"forget": forget, "remain": remain, "held_out": held_out, "test": test}
    for name, samples in sets.items():
        if not len(samples):
            raise MethodRefused(f"The {name} set is empty; an audit needs at least one sample in it.")
        check_targets(samples, objective, name=name)
    given = {"original": original, "unlearned": unlearned} | ({} if reference is None else {"reference": reference})
    if not any(p.requires_grad for p in original.parameters()):
        raise MethodRefused(
            "No parameter of the model requires a gradient, so nothing can be relearned; unfreeze some in `build`."
        )
    objective = divided(objective)
    models = {name: audit_copy(model, forget) for name, model in given.items()}
    started = time.perf_counter()
    asked = prepare_generation(sets, objective=objective, spec=spec, seed=seed)
    forgotten_classes = fully_forgotten_classes(forget, remain, classes=objective.classes)
    sets["remain"], references = _drawn(remain, references, most=spec.remain_samples, seed=seed)
    extracts, generates = objective.extraction is not None, asked is not None
    total = (3 + extracts + generates) * len(models) + 1
    signals: dict[str, SignalsBySet] = {}
    measures: dict[str, Measures] = {}
    attacks: dict[str, Mapping[str, Attack]] = {}
    extraction: dict[str, Extraction] = {}
    generation: dict[str, Generated] = {}
    shown: dict[str, Tensor] = {}
    probed: dict[str, Attack] = {}
    by_reference: dict[str, Attack] = {}
    pairing = pair_sets(forget, held_out, objective=objective, spec=spec, seed=seed)
    step = 0
    for name, model in models.items():
        readers = feature_readers(model, sets, pairing, objective=objective, spec=spec, seed=seed)
        signals[name] = observe_all(model, sets, objective=objective, batch_size=spec.batch_size, readers=readers)
        yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
        measures[name] = measures_of(signals[name], spec=spec, seed=seed)
        yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
        attacks[name] = evaluate_attacks(signals[name], pairing, spec=spec)
        probe = feature_attack(readers, signals[name], pairing, classes=objective.classes, spec=spec)
        if probe is not None:
            probed[name] = probe
        yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
        if asked is not None:
            generation[name], shown[name] = measure_generation(model, asked)
            yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
        if extracts:
            extraction[name] = _extracted(model, sets, objective=objective, spec=spec, seed=seed)
            yield Progress(phase=MEMBERSHIP, step=(step := step + 1), total=total)
    before, after = signals["original"], signals["unlearned"]
    if extracts and (losses := _reference_losses(signals, references)) is not None:
        by_reference = {
            name: attack_by_reference(found, losses, pairing, spec=spec)
            for name, found in signals.items()
            if name != "reference" or references is not None
        }
    counted = _counted(sets, forgotten_classes)
    membership = Membership(
        original=_with_others(attacks["original"], probed, by_reference, model="original"),
        unlearned=_with_others(attacks["unlearned"], probed, by_reference, model="unlearned"),
        roc=_roc_curves(before, after, pairing),
        losses=_histograms(before, after),
        matched=pairing.matched,
        unmatched=pairing.unmatched,
        compared=len(pairing.forget),
        margin=membership_margin(pairing, spec.thresholds),
    )
    if references is not None and objective.logits is not None:
        references = references.with_gone_classes(in_classes(forget.targets, forgotten_classes).cpu().numpy())
    change = measure_change(
        models["original"], models["unlearned"], before=before, after=after, thresholds=spec.thresholds
    )
    judged = _judged_samples(sets, counted=counted)
    testable, copied = (True, 0) if references is None else (references.testable, references.copied)
    tests: dict[str, ReferenceTest] = {}
    power: dict[int, float] = {}
    others: dict[str, ReferenceTest] = {}
    near = None
    if references is not None and _has_reference_test(references, judged["held_out"]):
        beside = {name: _beside_references(found, references, sets, judged=judged) for name, found in signals.items()}
        tests, power = _reference_tests(beside, spec=spec, unit=objective.known_unit, seed=seed)
        others = _tests_of_other_signals(
            after,
            references,
            beside["unlearned"],
            judged=judged,
            objective=objective,
            spec=spec,
            margin=membership.margin,
            seed=seed,
        )
        if testable:
            near = _nearness(beside, spec=spec, unit=objective.known_unit, seed=seed)
    membership_seconds = time.perf_counter() - started
    if not testable:
        tests, others = {name: replace(test, samples=0, power=0.0, passed=None) for name, test in tests.items()}, {}
    yield Progress(phase=MEMBERSHIP, step=total, total=total, metrics={"auc": attacks["unlearned"]["loss"].auc.value})

    started = time.perf_counter()
    checks: list[Finding] = [
        *change_findings(change),
        *membership_findings(
            attacks["original"],
            attacks["unlearned"],
            reference=attacks.get("reference"),
            margin=membership.margin,
            decides=not tests,
            comparable=pairing.comparable,
        ),
        *feature_findings(probed, margin=membership.margin),
        *reference_findings(tests, power=power, thresholds=spec.thresholds),
        *([] if references is None or tests else [no_reference_test(len(judged["held_out"]))]),
        *nearness_findings(near),
        *copies_findings(copied, of=len(forget) + (copied if testable else 0)),
        *other_attack_findings(
            attacks["unlearned"],
            others if pairing.comparable else {},
            retrained=attacks.get("reference"),
            margin=membership.margin,
        ),
    ]
    relearnings: tuple[Relearning, ...] = ()
    if not (until_failed and any(check.deciding and check.passed is False for check in checks)):
        relearnings = yield from _relearn_all(
            models,
            sets,
            known=OriginalLosses(forget=before["forget"].loss, held_out=before["held_out"].loss),
            objective=objective,
            spec=spec,
            seed=seed,
            collapsed=change.collapsed,
            difficulty=None
            if references is None or not tests
            else Difficulty(forget=_unseen(references.forget), held_out=_unseen(references.held_out)),
        )
    checks += [
        *relearn_findings(relearnings, thresholds=spec.thresholds, must_pass=not tests, decides=testable),
        *extraction_findings(extraction),
        *generation_findings(generation, classes=objective.classes),
        *utility_findings(
            (measures["original"].ra, measures["unlearned"].ra),
            (
                merit_of(before["test"], among=counted["test"], confidence=spec.confidence).scaled(100),
                merit_of(after["test"], among=counted["test"], confidence=spec.confidence).scaled(100),
            ),
            merit=objective.utility,
            whole_classes=not counted["test"].all(),
            thresholds=spec.thresholds,
        ),
    ]
    reason = inconclusive_reason(
        checks,
        tests=tests,
        power=membership_power(pairing, spec.thresholds),
        relearned=relearnings[0].samples if relearnings else 0,
        thresholds=spec.thresholds,
    )
    verdict = judge(checks, forgotten=len(forget), thresholds=spec.thresholds, reason=reason)
    return Findings(
        spec=spec,
        merit=objective.utility,
        samples={name: len(samples) for name, samples in sets.items()},
        measures=measures,
        membership=membership,
        reference_tests=tests,
        power_by_size=power,
        relearnings=relearnings,
        extraction=extraction,
        generation=generation,
        nearness=near,
        privacy_leakage=_privacy_leakage(attacks) if extracts else {},
        sheet=sheet_of_texts(models, forget, objective=objective) if asked is None else sheet(asked, shown),
        utility=Utility(
            per_class=per_class(before["test"], after["test"]),
            agreement=agreement(before["held_out"], after["held_out"]),
            jensen_shannon=jensen_shannon(before["held_out"].probabilities, after["held_out"].probabilities),
            drop=utility_drop(before, after, counted=counted, share=len(remain) / (len(remain) + len(forget))),
        ),
        change=change,
        comparison=compare_with_retrained(
            after,
            signals["reference"],
            measures=measures["unlearned"].table,
            reference_measures=measures["reference"].table,
            models=(models["unlearned"], models["reference"]),
        )
        if "reference" in models
        else None,
        verdict=verdict,
        limits=limits(
            membership=membership,
            pairing=pairing,
            forget=len(forget),
            spec=spec,
            reference=reference is not None,
            reference_test=bool(tests),
            people=sum(count > 1 for count in Counter(forget.subjects or ()).values()),
            pairs=tests["unlearned"].pairs if tests else 0,
            erased_since=erased_since,
            aimed=aimed,
            compared=bool(tests) or (references is not None and bool(by_reference)),
            frozen=frozen_share(original),
        ),
        seconds={MEMBERSHIP: membership_seconds, RELEARN: time.perf_counter() - started},
    )


def _with_others(attacks: Mapping[str, Attack], *others: Mapping[str, Attack], model: str) -> dict[str, Attack]:
    """Add to a model's attacks those that stand by themselves, by model, where both the original and the new model have them."""
    added = (by_model[model] for by_model in others if {"original", "unlearned"} <= by_model.keys())
    return {**attacks} | {attack.name: attack for attack in added}


def _reference_losses(
    signals: Mapping[str, SignalsBySet], references: AuditReferences | None
) -> Mapping[str, Floats] | None:
    """Return the losses of texts, nats, by set, of models that never saw them: the references', else the retrained model's."""
    if references is not None:
        return {name: -_unseen(rows) for name, rows in references.by_set.items()}
    retrained = signals.get("reference")
    return None if retrained is None else {name: found.loss for name, found in retrained.items()}


def _privacy_leakage(attacks: Mapping[str, Mapping[str, Attack]], *, attack: str = "min_k") -> dict[str, float]:
    """Compute PrivLeak of the original and the new model; empty without a retrained model, or the attack."""
    aucs = {name: found[attack].auc.value for name, found in attacks.items() if attack in found}
    retrained = aucs.pop("reference", None)
    return {} if retrained is None else {name: privacy_leakage(value, retrained) for name, value in aucs.items()}


def _beside_references(
    signals: SignalsBySet,
    references: AuditReferences,
    sets: Mapping[str, SampleSet],
    *,
    judged: Mapping[str, NDArray[np.int64]],
) -> dict[str, ReferenceSignals]:
    """Put a model's margins beside those of the reference models, by set. judged: as of `_judged_samples`."""
    return {
        name: signals_by_reference(signals[name].margin, rows, subjects=sets[name].subjects).take(judged[name])
        for name, rows in references.by_set.items()
    }


def _drawn(
    remain: SampleSet, references: AuditReferences | None, *, most: int, seed: int
) -> tuple[SampleSet, AuditReferences | None]:
    """Draw the remaining samples that the audit looks at, with their references, in their order; all if there are no more."""
    if len(remain) <= most:
        return remain, references
    chosen = torch.randperm(len(remain), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    if references is not None:
        keys = [references.remain.keys[place] for place in chosen.tolist()]
        references = replace(references, remain=references.remain.take(keys))
    return remain.take(chosen), references


def tested_by_references(
    references: AuditReferences, *, forget: SampleSet, remain: SampleSet, held_out: SampleSet, objective: Objective
) -> bool:
    """Return whether the audit of these sets has the reference test, or leaves it out, with too few held-out samples to judge."""
    sets = {"forget": forget, "remain": remain, "held_out": held_out}
    counted = _counted(sets, fully_forgotten_classes(forget, remain, classes=objective.classes))
    return _has_reference_test(references, _judged_samples(sets, counted=counted)["held_out"])


def _has_reference_test(references: AuditReferences, held_out: NDArray[np.int64]) -> bool:
    """Return whether the audit has the reference test. held_out: positions of the judged samples, (k,).

    If near-copies of all samples remain, the test says so, however many held-out samples there are.
    """
    return len(held_out) >= LEAST_HELD_OUT or not references.testable


def _counted(sets: Mapping[str, SampleSet], forgotten_classes: Tensor | None) -> dict[str, NDArray[np.bool_]]:
    """Mark the samples, (n,) by set, that are of no fully forgotten class: of all sets but the forget set."""
    others = (name for name in sets if name != "forget")
    return {name: ~in_classes(sets[name].targets, forgotten_classes).cpu().numpy() for name in others}


def _judged_samples(
    sets: Mapping[str, SampleSet], *, counted: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.int64]]:
    """Return the positions of the samples that references are compared on, (k,) by set: all of the forget set.

    counted: as of `_counted`. A model that never saw a class finds it unusual, so its held-out and remaining samples say nothing
    about the others. They are left out, unless there are no others.
    """
    places = {name: np.arange(len(samples)) for name, samples in sets.items()}
    chosen = {name: np.flatnonzero(counted[name]) for name in ("held_out", "remain")}
    return places | {name: index for name, index in chosen.items() if len(index)}


def _reference_tests(
    by_model: Mapping[str, Mapping[str, ReferenceSignals]], *, spec: AuditSpec, unit: str, seed: int
) -> tuple[dict[str, ReferenceTest], dict[int, float]]:
    """Run the reference test on each model, and compute its power by size. by_model: as of `_beside_references`."""
    tests = {
        model: replace(
            reference_test(
                forget=sets["forget"],
                held_out=sets["held_out"],
                remain=sets["remain"],
                thresholds=spec.thresholds,
                seed=seed,
            ),
            unit=unit,
        )
        for model, sets in by_model.items()
    }
    unlearned = by_model["unlearned"]
    power = power_by_size(
        held_out=unlearned["held_out"], remain=unlearned["remain"], thresholds=spec.thresholds, seed=seed
    )
    return tests, power


def _nearness(
    by_model: Mapping[str, Mapping[str, ReferenceSignals]], *, spec: AuditSpec, unit: str, seed: int
) -> Nearness:
    """Compare the new model's answers with the original's and the references'. by_model: as of `_beside_references`."""
    return nearness(
        forget=by_model["unlearned"]["forget"],
        original=by_model["original"]["forget"].model,
        held_out=by_model["unlearned"]["held_out"],
        thresholds=spec.thresholds,
        unit=unit,
        seed=seed,
    )


def _tests_of_other_signals(
    signals: SignalsBySet,
    references: AuditReferences,
    beside: Mapping[str, ReferenceSignals],
    *,
    judged: Mapping[str, NDArray[np.int64]],
    objective: Objective,
    spec: AuditSpec,
    margin: float,
    seed: int,
) -> dict[str, ReferenceTest]:
    """Test each signal of the attacks that is no function of the reference test's own, by attack. beside: the model's margins.

    The level is shared among the signals (Bonferroni).
    """
    names = signals["forget"].more
    if not names:
        return {}
    thresholds = replace(spec.thresholds, reference_level=spec.thresholds.reference_level / len(names))
    unseen = None if objective.logits is None else _of_predictions(signals, references)
    found = {
        attack: signal_beside_margin(
            {name: signals[name].membership(attack)[judged[name]] for name in beside},
            beside,
            unseen=None if unseen is None else {name: unseen[name].membership(attack)[judged[name]] for name in beside},
            thresholds=thresholds,
            margin=margin,
            seed=seed,
        )
        for attack in names
    }
    return {attack: test for attack, test in found.items() if test is not None}


def _of_predictions(signals: SignalsBySet, references: AuditReferences) -> SignalsBySet:
    """Compute the signals of the reference predictions, which are probabilities of classes, as if a model had given them."""
    return {
        name: signals_of_probabilities(rows.predictions, signals[name].targets)
        for name, rows in references.by_set.items()
    }


def _extracted(
    model: nn.Module, sets: Mapping[str, SampleSet], *, objective: Objective, spec: AuditSpec, seed: int
) -> Extraction:
    """Measure what the model gives away of the forgotten and the held-out set, and what it knows of these and the remaining one."""
    confidence, most = spec.confidence, spec.extraction_samples
    found = measure_extraction(
        model,
        {name: sets[name] for name in ("forget", "held_out")},
        objective=objective,
        max_samples=most,
        confidence=confidence,
        seed=seed,
    )
    known = measure_knowledge(
        model,
        {name: sets[name] for name in ("forget", "remain", "held_out")},
        objective=objective,
        max_samples=most,
        confidence=confidence,
        seed=seed,
    )
    if not {"forget", "held_out"} <= known.keys():
        return found
    return {name: {**found.get(name, {}), "knowledge": share} for name, share in known.items()}


def _unseen(rows: References) -> Floats:
    return rows.unseen.double().cpu().numpy()


def _relearn_all(
    models: Mapping[str, nn.Module],
    sets: Mapping[str, SampleSet],
    *,
    known: OriginalLosses,
    objective: Objective,
    spec: AuditSpec,
    seed: int,
    collapsed: bool,
    difficulty: Difficulty | None,
) -> Generator[Progress, None, tuple[Relearning, ...]]:
    """Relearn with each relearner of the spec."""
    relearnings: list[Relearning] = []
    number = itertools.count(1)
    total = sum(
        run_count(spec, kind, forgotten=len(sets["forget"]), reference="reference" in models)
        for kind in spec.relearners
    )
    for kind in spec.relearners:
        running = relearn_delay(
            original=models["original"],
            unlearned=models["unlearned"],
            reference=models.get("reference"),
            forget=sets["forget"],
            held_out=sets["held_out"],
            known=known,
            objective=objective,
            spec=spec,
            kind=kind,
            seed=seed,
            collapsed=collapsed,
            difficulty=difficulty,
        )
        relearnings.append(
            (yield from map_progress(running, lambda _: Progress(phase=RELEARN, step=next(number), total=total)))
        )
    return tuple(relearnings)


def _histograms(before: SignalsBySet, after: SignalsBySet, *, bins: int = 40) -> Histograms:
    """Compute the loss histograms of the forget, held-out and remaining sets, before and after, over common bins.

    The last bin holds everything beyond the 99th percentile, so that a few large losses do not squeeze the rest into one bar.
    """
    names = ("forget", "held_out", "remain")
    largest = max(float(np.quantile(signals[name].loss, 0.99)) for signals in (before, after) for name in names)
    edges = np.linspace(0.0, largest or 1.0, bins + 1)

    def densities(signals: SignalsBySet) -> dict[str, tuple[float, ...]]:
        clipped = {name: signals[name].loss.clip(0, edges[-1]) for name in names}
        return {name: tuple(np.histogram(losses, edges, density=True)[0].tolist()) for name, losses in clipped.items()}

    return Histograms(bins=tuple(edges.tolist()), original=densities(before), unlearned=densities(after))


def _roc_curves(before: SignalsBySet, after: SignalsBySet, pairing: Pairing, *, attack: str = "loss") -> Roc:
    """Compute the ROC curve of one attack before and after."""
    original, unlearned = (
        roc_curve(signals["forget"].membership(attack), signals["held_out"].membership(attack), pairing)
        for signals in (before, after)
    )
    return Roc(attack=attack, original=original, unlearned=unlearned)
