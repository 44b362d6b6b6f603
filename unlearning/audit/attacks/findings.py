"""Audit with reference models: LiRA, U-LiRA, RMIA, KLoM and the forgetting score, for the original and the unlearned model."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from unlearning.audit.attacks.klom import ForgettingScore, forgetting_score, klom
from unlearning.audit.attacks.lira import attack_each, lira
from unlearning.audit.attacks.rmia import rmia, typical_offline, typical_online
from unlearning.audit.attacks.study import Known, Repeats, Shadows, Study, known_to, run_repeats, run_shadows
from unlearning.audit.intervals import Floats, Interval
from unlearning.audit.membership import Attack, Pairing, attack_by_scores, matched_targets, pair
from unlearning.data.samples import joined
from unlearning.specs.audit import ReferenceSpec
from unlearning.steps import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """KLoM over D_f: mean and 95th percentile in nats, and the same of retrained models against other retrained ones."""

    mean: float
    p95: float
    null_mean: float
    null_p95: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceFindings:
    """The findings of an audit with reference models.

    original, unlearned: the attacks by name; "u_lira" on the unlearned model only. each_shadow: the AUC of "lira" on the shadow
    models as trained, and of "u_lira" on them after unlearning (`attack_each`). klom, forgetting: None without repeats.
    shadows, repeats: how many models were used. samples: how many were compared, of "forget" and of "held_out".
    """

    original: Mapping[str, Attack]
    unlearned: Mapping[str, Attack]
    each_shadow: Mapping[str, Interval]
    klom: Distance | None
    forgetting: ForgettingScore | None
    shadows: int
    repeats: int
    samples: Mapping[str, int]


def audit_with_references(
    study: Study, *, unlearned: nn.Module, spec: ReferenceSpec, folder: Path
) -> Generator[Progress, None, ReferenceFindings]:
    """Audit `unlearned` and, as the negative control, the original of the study's task. See `estimate_cost` first.

    The results of the reference models are stored in `folder`, so an interrupted run continues from there. They contain margins of
    forgotten samples without their IDs: delete the folder with the job's other files.
    """
    seen = joined(study.pool, study.population)
    models = (study.task.model, unlearned)
    first, second = (known_to(model, seen, study.task.objective) for model in models)
    found = yield from run_shadows(study, count=spec.shadows, folder=folder)
    repeated = (yield from run_repeats(study, count=spec.repeats, folder=folder)) if spec.repeats else None
    pairing = pair(
        *(matched_targets(part, study.task.objective) for part in (study.task.forget, study.others)),
        max_samples=spec.audit.membership_samples,
        replicates=spec.audit.replicates,
        rng=np.random.default_rng([study.seed, 3]),
    )
    scores = scores_of(second, found, spec=spec) | {"u_lira": _likelihood(second.margins, found.after, found)}
    return ReferenceFindings(
        original=_attacks(scores_of(first, found, spec=spec), len(study.task.forget), pairing, spec),
        unlearned=_attacks(scores, len(study.task.forget), pairing, spec),
        each_shadow={
            name: attack_each(margins[:, : len(study.pool)], found.members, confidence=spec.audit.confidence)
            for name, margins in (("lira", found.before), ("u_lira", found.after))
        },
        klom=_distance(repeated) if repeated else None,
        forgetting=forgetting_score(repeated.unlearned, repeated.retrained, utility=repeated.utility)
        if repeated
        else None,
        shadows=spec.shadows,
        repeats=spec.repeats,
        samples={"forget": len(pairing.forget), "held_out": len(pairing.held_out)},
    )


def scores_of(target: Known, found: Shadows, *, spec: ReferenceSpec) -> dict[str, Floats]:
    """Compute the pool's scores, (n,), by LiRA and RMIA. target: of pool and population, (n + m,)."""
    n = found.members.shape[1]
    p, reference = target.likelihoods, found.likelihoods
    no_members = np.zeros((len(reference), len(p) - n), dtype=np.bool_)

    def score(typical: Floats, population: Floats) -> Floats:
        return rmia(p[:n], typical, population_target=p[n:], population_typical=population, gamma=spec.gamma)

    return {
        "lira": _likelihood(target.margins, found.before, found),
        "rmia_offline": score(
            typical_offline(reference[:, :n], found.members, a=spec.offline_a),
            typical_offline(reference[:, n:], no_members, a=spec.offline_a),
        ),
        "rmia": score(typical_online(reference[:, :n], found.members), reference[:, n:].mean(axis=0)),
    }


def _likelihood(target: Floats, shown: Floats, found: Shadows) -> Floats:
    n = found.members.shape[1]
    return lira(target[:n], shown[:, :n], found.members)


def _attacks(scores: Mapping[str, Floats], forgotten: int, pairing: Pairing, spec: ReferenceSpec) -> dict[str, Attack]:
    """Evaluate each score as an attack on D_f against the others. Thresholds: equal likelihoods, or half of RMIA's population."""
    return {
        name: attack_by_scores(
            name,
            values[:forgotten],
            values[forgotten:],
            pairing,
            threshold=0.5 if name.startswith("rmia") else 0.0,
            spec=spec.audit,
        )
        for name, values in scores.items()
    }


def _distance(found: Repeats) -> Distance:
    """Compare both with the second half of the retrained models, so that KLoM and its null use as many models."""
    half = len(found.retrained) // 2
    one = klom(found.unlearned[:half], found.retrained[half:])
    null = klom(found.retrained[:half], found.retrained[half:])
    p95, null_p95 = (float(np.quantile(values, 0.95)) for values in (one, null))
    return Distance(mean=float(one.mean()), p95=p95, null_mean=float(null.mean()), null_p95=null_p95)
