"""Audit an unlearned model: measures, membership attacks, relearning, and the verdict."""

import itertools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearning.audit.comparison import (
    Comparison,
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
from unlearning.audit.findings import Findings, Histograms, Membership, Roc, Scope, Utility, limits
from unlearning.audit.generation import (
    Generated,
    GenerationSets,
    Sheet,
    measure_generation,
    prepare_generation,
    sheet,
    sheet_of_texts,
)
from unlearning.audit.intervals import Floats, Interval
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
from unlearning.audit.relearning import OriginalLosses, RelearnCase, Relearning, relearn_delay, run_count
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
from unlearning.data.near_copies import distinct_places, take_places
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
_BINS = 40
"""Of a histogram of losses."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Case:
    """What is audited, and how.

    models: copies by name: "original", "unlearned", and "reference" if there is a retrained one. sets: what the audit evaluates, by
    name. counted, judged: as of `_counted` and `_judged_samples`. distinct: the positions of those forgotten and held-out samples
    that are relearned, by the set, (k,). references: of the sets, or None. generation: what a model that generates is asked for, or
    None.
    """

    models: Mapping[str, nn.Module]
    sets: Mapping[str, SampleSet]
    objective: Objective
    spec: AuditSpec
    seed: int
    pairing: Pairing
    counted: Mapping[str, NDArray[np.bool_]]
    judged: Mapping[str, NDArray[np.int64]]
    distinct: Mapping[str, NDArray[np.int64]]
    references: AuditReferences | None
    generation: GenerationSets | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Observed:
    """What was observed of one model.

    features: the attack on its penultimate features. generated, shown: as `measure_generation` returns them.
    """

    signals: SignalsBySet
    measures: Measures
    attacks: Mapping[str, Attack]
    features: Attack | None
    extraction: Extraction | None
    generated: Generated | None
    shown: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _ByReferences:
    """What reference predictions show. tests: by model. others: tests of other signals, by attack. power: by size.

    All are empty without references, and with too few held-out samples.
    """

    tests: Mapping[str, ReferenceTest] = field(default_factory=dict)
    power: Mapping[int, float] = field(default_factory=dict)
    others: Mapping[str, ReferenceTest] = field(default_factory=dict)
    near: Nearness | None = None


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
    given = {"original": original, "unlearned": unlearned} | ({} if reference is None else {"reference": reference})
    sets = {"forget": forget, "remain": remain, "held_out": held_out, "test": test}
    started = time.perf_counter()
    case = _prepare(given, sets, objective=objective, spec=spec, seed=seed, references=references)
    objective = case.objective
    observed = yield from _observe_all(case)
    before, after = observed["original"].signals, observed["unlearned"].signals
    by_reference = _attacks_by_reference(case, observed)
    membership = _membership(case, observed, by_reference)
    change = measure_change(
        case.models["original"], case.models["unlearned"], before=before, after=after, thresholds=spec.thresholds
    )
    found = _test_by_references(case, observed, margin=membership.margin)
    membership_seconds = time.perf_counter() - started
    total = _observation_count(case) + 1
    auc = observed["unlearned"].attacks["loss"].auc.value
    yield Progress(phase=MEMBERSHIP, step=total, total=total, metrics={"auc": auc})

    started = time.perf_counter()
    checks = [*change_findings(change), *_findings_of_answers(case, observed, found, margin=membership.margin)]
    relearnings: tuple[Relearning, ...] = ()
    if not (until_failed and any(check.deciding and check.passed is False for check in checks)):
        relearnings = yield from _relearn_all(case, observed, tested=bool(found.tests), collapsed=change.collapsed)
    checks += _findings_of_behaviour(case, observed, relearnings, tested=bool(found.tests))
    reason = inconclusive_reason(
        checks,
        tests=found.tests,
        power=membership_power(case.pairing, spec.thresholds),
        relearned=relearnings[0].samples if relearnings else 0,
        thresholds=spec.thresholds,
    )
    return Findings(
        spec=spec,
        merit=objective.utility,
        samples={name: len(samples) for name, samples in case.sets.items()},
        measures={name: one.measures for name, one in observed.items()},
        membership=membership,
        reference_tests=found.tests,
        power_by_size=found.power,
        relearnings=relearnings,
        extraction=_each(observed, "extraction"),
        generation=_each(observed, "generated"),
        nearness=found.near,
        privacy_leakage=_privacy_leakage(observed) if objective.extraction else {},
        sheet=_sheet(case, observed),
        utility=Utility(
            per_class=per_class(before["test"], after["test"]),
            agreement=agreement(before["held_out"], after["held_out"]),
            jensen_shannon=jensen_shannon(before["held_out"].probabilities, after["held_out"].probabilities),
            drop=utility_drop(before, after, counted=case.counted, share=len(remain) / (len(remain) + len(forget))),
        ),
        change=change,
        comparison=_comparison(case, observed),
        verdict=judge(checks, forgotten=len(forget), thresholds=spec.thresholds, reason=reason),
        limits=limits(
            Scope(
                forget=forget,
                pairing=case.pairing,
                thresholds=spec.thresholds,
                retrained=reference is not None,
                reference_test=found.tests.get("unlearned"),
                erased_since=erased_since,
                aimed=aimed,
                compared=bool(found.tests) or (references is not None and bool(by_reference)),
                frozen=frozen_share(original),
                distinct=len(case.distinct["forget"]),
            )
        ),
        seconds={MEMBERSHIP: membership_seconds, RELEARN: time.perf_counter() - started},
    )


def _prepare(
    models: Mapping[str, nn.Module],
    sets: Mapping[str, SampleSet],
    *,
    objective: Objective,
    spec: AuditSpec,
    seed: int,
    references: AuditReferences | None,
) -> _Case:
    """Check what is to be audited, copy the models, and draw the samples. Raises as `audit`."""
    for name, samples in sets.items():
        if not len(samples):
            raise MethodRefused(f"The {name} set is empty; an audit needs at least one sample in it.")
        check_targets(samples, objective, name=name)
    if not any(p.requires_grad for p in models["original"].parameters()):
        raise MethodRefused(
            "No parameter of the model requires a gradient, so nothing can be relearned; unfreeze some in `build`."
        )
    forget, held_out = sets["forget"], sets["held_out"]
    classes = fully_forgotten_classes(forget, sets["remain"], classes=objective.classes)
    generation = prepare_generation(sets, objective=objective, spec=spec, seed=seed)
    remain, references = _drawn(sets["remain"], references, most=spec.remain_samples, seed=seed)
    drawn = {**sets, "remain": remain}
    counted = _counted(drawn, classes)
    if references is not None and objective.logits is not None:
        references = references.with_gone_classes(in_classes(forget.targets, classes).cpu().numpy())
    return _Case(
        models={name: audit_copy(model, forget) for name, model in models.items()},
        sets=drawn,
        objective=divided(objective),
        spec=spec,
        seed=seed,
        pairing=pair_sets(forget, held_out, objective=objective, spec=spec, seed=seed),
        counted=counted,
        judged=_judged_samples(drawn, counted=counted),
        distinct={name: distinct_places(drawn[name]) for name in ("forget", "held_out")},
        references=references,
        generation=generation,
    )


def _observation_count(case: _Case) -> int:
    """Compute how often `_observe_all` yields."""
    return len(case.models) * (3 + (case.generation is not None) + (case.objective.extraction is not None))


def _observe_all(case: _Case) -> Generator[Progress, None, dict[str, _Observed]]:
    """Observe each model, by name."""
    number, total = itertools.count(1), _observation_count(case) + 1
    observed: dict[str, _Observed] = {}
    for name, model in case.models.items():
        observed[name] = yield from map_progress(
            _observe(case, model), lambda _: Progress(phase=MEMBERSHIP, step=next(number), total=total)
        )
    return observed


def _observe(case: _Case, model: nn.Module) -> Generator[None, None, _Observed]:
    """Compute a model's signals and what follows from them, and what it generates; yields after each part."""
    sets, objective, spec, seed = case.sets, case.objective, case.spec, case.seed
    readers = feature_readers(model, sets, case.pairing, objective=objective, spec=spec, seed=seed)
    signals = observe_all(model, sets, objective=objective, batch_size=spec.batch_size, readers=readers)
    yield
    measures = measures_of(signals, spec=spec, seed=seed)
    yield
    attacks = evaluate_attacks(signals, case.pairing, spec=spec)
    features = feature_attack(readers, signals, case.pairing, classes=objective.classes, spec=spec)
    yield
    generated, shown = (None, None) if case.generation is None else measure_generation(model, case.generation)
    if generated is not None:
        yield
    extraction = None if objective.extraction is None else _extracted(case, model)
    if extraction is not None:
        yield
    return _Observed(
        signals=signals,
        measures=measures,
        attacks=attacks,
        features=features,
        extraction=extraction,
        generated=generated,
        shown=shown,
    )


def _extracted(case: _Case, model: nn.Module) -> Extraction:
    """Measure what the model gives away of the forgotten and the held-out set, and what it knows of these and the remaining one."""

    def measured(measure: Callable[..., Any], *names: str) -> Any:
        return measure(
            model,
            {name: case.sets[name] for name in names},
            objective=case.objective,
            max_samples=case.spec.extraction_samples,
            confidence=case.spec.confidence,
            seed=case.seed,
        )

    found: Extraction = measured(measure_extraction, "forget", "held_out")
    known: Mapping[str, Interval] = measured(measure_knowledge, "forget", "remain", "held_out")
    if not {"forget", "held_out"} <= known.keys():
        return found
    return {name: {**found.get(name, {}), "knowledge": share} for name, share in known.items()}


def _attacks_by_reference(case: _Case, observed: Mapping[str, _Observed]) -> dict[str, Attack]:
    """Attack models of texts by the losses of models that never saw these, by model; empty where no such losses are known.

    These are the losses of the references, else of the retrained model, which is then not attacked itself.
    """
    attacked = dict(observed)
    if case.objective.extraction is None:
        return {}
    if case.references is not None:
        losses = {name: -_unseen(rows) for name, rows in case.references.by_set.items()}
    elif (retrained := attacked.pop("reference", None)) is not None:
        losses = {name: found.loss for name, found in retrained.signals.items()}
    else:
        return {}
    return {
        name: attack_by_reference(one.signals, losses, case.pairing, spec=case.spec) for name, one in attacked.items()
    }


def _each(observed: Mapping[str, _Observed], part: str) -> dict[str, Any]:
    """Return a part of what was observed by model: of those that have it."""
    found = {name: getattr(one, part) for name, one in observed.items()}
    return {name: value for name, value in found.items() if value is not None}


def _membership(case: _Case, observed: Mapping[str, _Observed], by_reference: Mapping[str, Attack]) -> Membership:
    """Put the attacks together. Those that stand by themselves count where both the original and the new model have them."""
    before, after = observed["original"], observed["unlearned"]
    single = [each for each in (_each(observed, "features"), by_reference) if {"original", "unlearned"} <= each.keys()]

    def attacks(model: str) -> dict[str, Attack]:
        return {**observed[model].attacks} | {by_model[model].name: by_model[model] for by_model in single}

    return Membership(
        original=attacks("original"),
        unlearned=attacks("unlearned"),
        roc=_roc_curves(before.signals, after.signals, case.pairing),
        losses=_histograms(before.signals, after.signals),
        matched=case.pairing.matched,
        unmatched=case.pairing.unmatched,
        compared=len(case.pairing.forget),
        margin=membership_margin(case.pairing, case.spec.thresholds),
    )


def _test_by_references(case: _Case, observed: Mapping[str, _Observed], *, margin: float) -> _ByReferences:
    """Run the reference test on each model, and on the new one the tests of other signals and nearness.

    Where near-copies of all samples remain, the tests decide nothing.
    """
    references, judged, spec = case.references, case.judged, case.spec
    if references is None or not _has_reference_test(references, judged["held_out"]):
        return _ByReferences()
    beside = {
        model: {
            name: signals_by_reference(one.signals[name].margin, rows, subjects=case.sets[name].subjects).take(
                judged[name]
            )
            for name, rows in references.by_set.items()
        }
        for model, one in observed.items()
    }
    unlearned, unit = beside["unlearned"], case.objective.known_unit
    tests = {
        model: replace(reference_test(**signals, thresholds=spec.thresholds, seed=case.seed), unit=unit)
        for model, signals in beside.items()
    }
    power = power_by_size(
        held_out=unlearned["held_out"], remain=unlearned["remain"], thresholds=spec.thresholds, seed=case.seed
    )
    if not references.testable:
        nothing = {name: replace(test, samples=0, power=0.0, passed=None) for name, test in tests.items()}
        return _ByReferences(tests=nothing, power=power)
    near = nearness(
        forget=unlearned["forget"],
        original=beside["original"]["forget"].model,
        held_out=unlearned["held_out"],
        thresholds=spec.thresholds,
        unit=unit,
        seed=case.seed,
    )
    others = _tests_of_other_signals(case, observed["unlearned"].signals, references, beside=unlearned, margin=margin)
    return _ByReferences(tests=tests, power=power, others=others, near=near)


def _findings_of_answers(
    case: _Case, observed: Mapping[str, _Observed], found: _ByReferences, *, margin: float
) -> list[Finding]:
    """Make the findings on what the models answer: by attacks, and by references."""
    attacks, references = {name: one.attacks for name, one in observed.items()}, case.references
    forgotten = len(case.sets["forget"])
    findings = [
        *membership_findings(
            attacks["original"],
            attacks["unlearned"],
            reference=attacks.get("reference"),
            margin=margin,
            decides=not found.tests,
            comparable=case.pairing.comparable,
        ),
        *feature_findings(_each(observed, "features"), margin=margin),
    ]
    if references is None:
        return findings
    if not found.tests:
        findings.append(no_reference_test(len(case.judged["held_out"])))
    return [
        *findings,
        *reference_findings(found.tests, power=found.power, thresholds=case.spec.thresholds),
        *nearness_findings(found.near),
        *copies_findings(references.copied, of=forgotten + (references.copied if references.testable else 0)),
        *other_attack_findings(
            attacks["unlearned"],
            found.others if case.pairing.comparable else {},
            retrained=attacks.get("reference"),
            margin=margin,
        ),
    ]


def _findings_of_behaviour(
    case: _Case, observed: Mapping[str, _Observed], relearnings: Sequence[Relearning], *, tested: bool
) -> list[Finding]:
    """Make the findings on how the models relearn, what they give away and generate, and what they can still do.

    tested: whether the reference test decides.
    """
    spec, merit, counted = case.spec, case.objective.utility, case.counted["test"]
    before, after = (observed[name] for name in ("original", "unlearned"))
    on_test = [
        merit_of(one.signals["test"], among=counted, confidence=spec.confidence).scaled(100) for one in (before, after)
    ]
    return [
        *relearn_findings(
            relearnings,
            thresholds=spec.thresholds,
            must_pass=not tested,
            decides=case.references is None or case.references.testable,
        ),
        *extraction_findings(_each(observed, "extraction")),
        *generation_findings(_each(observed, "generated"), classes=case.objective.classes),
        *utility_findings(
            (before.measures.ra, after.measures.ra),
            (on_test[0], on_test[1]),
            merit=merit,
            whole_classes=not counted.all(),
            thresholds=spec.thresholds,
        ),
    ]


def _comparison(case: _Case, observed: Mapping[str, _Observed]) -> Comparison | None:
    """Compare with the retrained model; None without one."""
    if "reference" not in observed:
        return None
    new, retrained = (observed[name] for name in ("unlearned", "reference"))
    return compare_with_retrained(
        new.signals,
        retrained.signals,
        measures=new.measures.table,
        reference_measures=retrained.measures.table,
    )


def _sheet(case: _Case, observed: Mapping[str, _Observed]) -> Sheet | None:
    """Make the operator's sheet of what generating models write or draw; None for others."""
    if case.generation is None:
        return sheet_of_texts(case.models, case.sets["forget"], objective=case.objective)
    return sheet(case.generation, _each(observed, "shown"))


def _privacy_leakage(observed: Mapping[str, _Observed]) -> dict[str, float]:
    """Compute PrivLeak by Min-K% of the original and the new model; empty without a retrained model, or the attack."""
    aucs = {name: one.attacks["min_k"].auc.value for name, one in observed.items() if "min_k" in one.attacks}
    retrained = aucs.pop("reference", None)
    return {} if retrained is None else {name: privacy_leakage(value, retrained) for name, value in aucs.items()}


def _drawn(
    remain: SampleSet, references: AuditReferences | None, *, most: int, seed: int
) -> tuple[SampleSet, AuditReferences | None]:
    """Draw the remaining samples that the audit evaluates, with their references, in their order; all if there are no more."""
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


def _tests_of_other_signals(
    case: _Case,
    signals: SignalsBySet,
    references: AuditReferences,
    *,
    beside: Mapping[str, ReferenceSignals],
    margin: float,
) -> dict[str, ReferenceTest]:
    """Test each signal of the attacks that is no function of the reference test's own, by attack. beside: the model's margins.

    The level is shared among the signals (Bonferroni).
    """
    names, judged = signals["forget"].more, case.judged
    if not names:
        return {}
    thresholds = case.spec.thresholds
    thresholds = replace(thresholds, reference_level=thresholds.reference_level / len(names))
    unseen = None if case.objective.logits is None else _of_predictions(signals, references)

    def by_set(given: SignalsBySet, attack: str) -> dict[str, Floats]:
        return {name: given[name].membership(attack)[judged[name]] for name in beside}

    found = {
        attack: signal_beside_margin(
            by_set(signals, attack),
            beside,
            unseen=None if unseen is None else by_set(unseen, attack),
            thresholds=thresholds,
            margin=margin,
            seed=case.seed,
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


def _unseen(rows: References) -> Floats:
    return rows.unseen.double().cpu().numpy()


def _relearn_all(
    case: _Case, observed: Mapping[str, _Observed], *, tested: bool, collapsed: bool
) -> Generator[Progress, None, tuple[Relearning, ...]]:
    """Relearn with each relearner of the spec. tested: whether the reference test decides; controls are then as hard as D_f.

    Of equal samples one is relearned. A step on it is a step on all of its copies, so that a set of copies would be learned faster
    than as many different samples by a model that never saw either.
    """
    references, original = case.references, observed["original"].signals
    forget, held_out = case.distinct["forget"], case.distinct["held_out"]
    given = RelearnCase(
        models=case.models,
        forget=take_places(case.sets["forget"], forget),
        held_out=take_places(case.sets["held_out"], held_out),
        known=OriginalLosses(forget=original["forget"].loss[forget], held_out=original["held_out"].loss[held_out]),
        objective=case.objective,
        spec=case.spec,
        seed=case.seed,
        collapsed=collapsed,
        difficulty=None
        if references is None or not tested
        else Difficulty(forget=_unseen(references.forget)[forget], held_out=_unseen(references.held_out)[held_out]),
    )
    number, kinds = itertools.count(1), case.spec.relearners
    total = sum(run_count(given, kind) for kind in kinds)
    relearnings: list[Relearning] = []
    for kind in kinds:
        steps = relearn_delay(given, kind)
        relearnings.append(
            (yield from map_progress(steps, lambda _: Progress(phase=RELEARN, step=next(number), total=total)))
        )
    return tuple(relearnings)


def _histograms(before: SignalsBySet, after: SignalsBySet) -> Histograms:
    """Compute the loss histograms of the forget, held-out and remaining sets, before and after, over common bins.

    The last bin holds everything beyond the 99th percentile, so that a few large losses do not squeeze the rest into one bar.
    """
    names = ("forget", "held_out", "remain")
    largest = max(float(np.quantile(signals[name].loss, 0.99)) for signals in (before, after) for name in names)
    edges = np.linspace(0.0, largest or 1.0, _BINS + 1)

    def densities(signals: SignalsBySet) -> dict[str, tuple[float, ...]]:
        clipped = {name: signals[name].loss.clip(0, edges[-1]) for name in names}
        return {name: tuple(np.histogram(losses, edges, density=True)[0].tolist()) for name, losses in clipped.items()}

    return Histograms(bins=tuple(edges.tolist()), original=densities(before), unlearned=densities(after))


def _roc_curves(before: SignalsBySet, after: SignalsBySet, pairing: Pairing) -> Roc:
    """Compute the ROC curve of the attack by loss before and after."""
    original, unlearned = (
        roc_curve(-signals["forget"].loss, -signals["held_out"].loss, pairing) for signals in (before, after)
    )
    return Roc(attack="loss", original=original, unlearned=unlearned)
