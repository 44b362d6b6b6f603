"""How language models forget: every method on every measure, beside the original and a second retrained model.

    python -m benchmarks.language --tune                          choose parameters on seed 20 (results/language_tuned.json)
    python -m benchmarks.language --seeds 100 101 102
    python -m benchmarks.language --named 1 4 16 --seeds 20 21 22   kinds of references (results/language_named.json)
    python -m benchmarks.language --play tinyshakespeare.txt      with a play (results/language_play.json), by the same parameters
    python -m benchmarks.language --many --tune                   five times as many authors (results/language_many_tuned.json)
    python -m benchmarks.language --many --seeds 100 101 102      the same methods on them (results/language_many.json)

The GPT of `examples/authors.py` on facts about made-up authors and, with a play, on passages of it. A tenth of the people is
forgotten with all of their texts, drawn by the seed. Methods whose row says "references" aim at reference predictions, whose cost
has a row of its own. Each method's parameters are the best of as many trials on a seed that no table reports. Times are processor
seconds. What is measured is stored at once, so that a run that is stopped goes on.
"""

import argparse
import functools
import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp  # type: ignore[import-untyped]  # scipy ships no type information
from torch import Tensor, nn

from benchmarks.cases import Case, case, cost_of_references, references_of, stored
from benchmarks.judging import Scale, judge_by_losses, losses, task_for
from benchmarks.machine import DEVICE
from benchmarks.writing import RESULTS, Row, metric_rows, write
from examples import authors
from unlearning.audit.comparison import privacy_leakage
from unlearning.audit.extraction import measure_extraction, measure_knowledge
from unlearning.audit.membership import auc
from unlearning.audit.relearning import Relearner, calibrate_relearner, mean_loss, relearn
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.batches import Batch
from unlearning.data.objectives import causal_language_model
from unlearning.data.objectives.targets import IGNORED
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.specs import IEU, LTU, NPO, RMU, GradDiff, GradientAscent, Matching, NegGradPlus, SimNPO, Spec
from unlearning.specs.parsing import parse_any
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.tuning import SPACES, Range, Space, search

MATCHING = "matching, references"
METHODS: dict[str, Spec] = {
    MATCHING: Matching(steps=20, batch_size=32, passes=0.0),
    "ieu, references": IEU(steps=20, repair_steps=40, batch_size=32, passes=0.0, noise=0.01),
    "ltu, references": LTU(order="first", steps=12, repair_steps=60, query_size=32, batch_size=32, passes=0.0),
    "ieu": IEU(steps=20, repair_steps=40, batch_size=32, passes=0.0, noise=0.01),
    "ltu": LTU(order="first", steps=20, repair_steps=60, query_size=32, batch_size=32, passes=0.0),
    "gradient_ascent": GradientAscent(steps=30, batch_size=32),
    "grad_diff": GradDiff(batch_size=32),
    "npo": NPO(batch_size=32),
    "sim_npo": SimNPO(batch_size=32),
    "rmu": RMU(batch_size=32),
    "neggrad_plus": NegGradPlus(batch_size=32, epochs=1),
}
"""Schedules are short: the whole training is some hundred steps of 32 texts. IEU's default noise destroys a GPT of many authors."""
_EPOCHS = Range(low=2, high=20, whole=True)
SPACES_OF: dict[str, Space] = {
    **SPACES,
    "ieu": {**SPACES["ieu"], "noise": Range(low=0.002, high=0.05)},
    "matching": {"learning_rate": Range(low=0.02, high=0.2), "steps": Range(low=10, high=60, whole=True)},
    "gradient_ascent": {"learning_rate": Range(low=0.003, high=0.1)},
    **{kind: {**SPACES[kind], "epochs": _EPOCHS} for kind in ("grad_diff", "npo", "sim_npo", "rmu")},
    "neggrad_plus": {
        "learning_rate": Range(low=0.003, high=0.1),
        "remain_weight": Range(low=0.5, high=1, scale="linear"),
    },
}
"""The ranges of the search, for such schedules."""
TUNED_ON = 20
"""The validation seed, which is in no table: one model and one forget set."""
FILES = {"authors": "language", "authors_and_play": "language_play", "many_authors": "language_many"}
"""By case: how its files begin. `….json` is the result, `…_tuned.json` has the parameters."""
MANY = 600
"""Authors with `--many`: retraining takes five times as long."""
PLAN = ReferencePlan(rounds=2, audit_rounds=1)
RELEARN_STEPS = 12
"""In about so many steps the original learns as many texts that it never saw."""
DRAWN = re.compile(r"\b(?:\d{4}|" + "|".join(map("|".join, authors.DRAWN)) + r")\b")
"""What is drawn at random in a fact, beside the author's name."""
FALSE_FACTS = 5
"""Of each fact, as TOFU has them."""
ATTACKS = {
    "loss": "membership_auc",
    "zlib": "zlib_auc",
    "min_k": "min_k_auc",
    "min_k_plus": "min_k_plus_auc",
    "reference": "reference_auc",
}
"""The metric of each attack's AUC."""
UNITS = {
    "forget_loss": "nats",
    "forget_loss_gap": "nats",
    "forget_ks": "",
    "forget_quality": "p",
    **dict.fromkeys(ATTACKS.values(), "AUC"),
    "privacy_leakage": "percent",
    "exact_memorisation": "percent",
    "extraction_strength": "percent",
    "greedy_extraction": "percent",
    "sampled_extraction": "percent",
    **dict.fromkeys(("knowledge_forget", "knowledge_remain", "knowledge_unseen"), "percent"),
    "relearn_delay_ratio_sgd": "ratio",
    "perplexity_ratio_remain": "ratio",
    "perplexity_ratio_test": "ratio",
    "seconds": "seconds",
    "retrain_ratio": "ratio",
    "token_bytes": "bytes",
}


def main() -> None:
    """Tune on the validation seed, or run all methods on all seeds and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--play", help="a text of speeches, whose passages are learned too (examples/authors.py)")
    parser.add_argument("--many", action="store_true", help=f"{MANY} authors")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--budget", type=int, default=4, help="trials of each method in a tuning")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="those to tune")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument(
        "--named", nargs="+", type=int, help="match references that name so many tokens a place, and other kinds, alone"
    )
    given = parser.parse_args()
    if given.play and (given.tune or given.named or given.many):
        parser.error("Parameters are chosen on facts alone: leave out --play.")
    if given.play:
        os.environ["EXPUNGE_PLAY"] = given.play
    if given.many:
        os.environ["EXPUNGE_AUTHORS"] = str(MANY)
    if given.tune:
        tune(given.methods, budget=given.budget)
        return
    if given.named:
        compare_named(given.named, given.seeds, budget=given.budget)
        return
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in given.seeds:
        for name, figures in everything(seed).items():
            runs.setdefault(name, []).append(figures)
        write(FILES[case_name()], rows(runs))


def case_name() -> str:
    """Name the case: with a play, or with more authors, it is another one."""
    if os.environ.get("EXPUNGE_PLAY"):
        return "authors_and_play"
    return "many_authors" if os.environ.get("EXPUNGE_AUTHORS") else "authors"


def tuned_file() -> Path:
    """Return the file of the chosen parameters. A play has those of the facts without it."""
    return RESULTS / f"{FILES['authors' if case_name() == 'authors_and_play' else case_name()]}_tuned.json"


def rows(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Row]:
    """Make a row for each figure that all runs of a method have."""
    return [
        row for name, every in runs.items() for row in metric_rows(every, case=case_name(), method=name, units=UNITS)
    ]


def everything(seed: int) -> dict[str, dict[str, float]]:
    """Run all methods on a seed: each one's figures, with both ends of the scale and the cost of references."""
    prepared = authors_case(seed)
    retraining, scale = prepared.retrained.seconds, LanguageScale(prepared)
    made = references_of(prepared, plan=PLAN)
    found = {
        "original": scale.of_model(prepared.original.model),
        "retrain": {**scale.of_model(prepared.again.model), "seconds": retraining},
    }
    if (cost := cost_of_references(made)) is not None:
        found = {"references": {"seconds": cost, "retrain_ratio": cost / retraining}, **found}
    for name, spec in tuned().items():
        figures = scale.of_method(name, spec, made)
        found[name] = {**figures, "retrain_ratio": figures["seconds"] / retraining}
        print(f"{seed} {name}: {figures['seconds']:.1f} s, gap {figures['forget_loss_gap']:.2f}", flush=True)
    return found


def tune(methods: Sequence[str], *, budget: int) -> None:
    """Choose each method's parameters: the best of `budget` trials by the mean gap of the losses to a retrained model's."""
    prepared = authors_case(TUNED_ON)
    made = references_of(prepared, plan=PLAN) if any(name.endswith("references") for name in methods) else None
    judge = judge_by_losses(prepared)
    setting, file = {"seed": TUNED_ON, "budget": budget}, tuned_file()
    found = json.loads(file.read_text()) if file.exists() else {}
    same = all(found.get(name) == value for name, value in setting.items())
    content = {**setting, "methods": found["methods"] if same else {}}
    for name in methods:
        if name in content["methods"]:
            continue
        spec = METHODS[name]

        def task(name: str = name) -> Task:
            return task_for(prepared, name, made)

        result = run_to_completion(search(spec, task, judge, budget=budget, seed=TUNED_ON, space=SPACES_OF[spec.kind]))
        scores = [round(trial.score, 4) for trial in result.trials]
        print(f"{name}: {scores}", flush=True)
        content["methods"][name] = {"spec": asdict(result.spec), "scores": scores}
        file.write_text(json.dumps(content, indent=2) + "\n")


def compare_named(counts: Sequence[int], seeds: Sequence[int], *, budget: int) -> None:
    """Match references of several kinds, each by the best of `budget` trials on the validation seed.

    They name so many tokens at each place, all from the same reference models; or one, and are not calibrated by held-out texts, or
    come from reference models that are trained to the end.
    """
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in (TUNED_ON, *(seed for seed in seeds if seed != TUNED_ON)):
        kinds = _kinds_of_references(seed, counts)
        specs = {name: _best_for(name, *given, budget=budget) for name, given in kinds.items()}
        if seed not in seeds:
            continue
        prepared = authors_case(seed)
        scale = LanguageScale(prepared)
        for name, end in {"original": prepared.original, "retrain": prepared.retrained}.items():
            runs.setdefault(name, []).append(scale.of_model(end.model))
        for name, (given, aims) in kinds.items():
            figures = LanguageScale(given).of_method(f"{name}, references", specs[name], aims)
            figures["retrain_ratio"] = figures["seconds"] / prepared.retrained.seconds
            figures["token_bytes"] = (
                aims.predictions[0].numel() * aims.predictions.element_size() / (authors.CONTEXT - 1)
            )
            runs.setdefault(f"matching, {name}", []).append(figures)
            print(f"{seed} {name}: {figures}", flush=True)
        write("language_named", rows(runs))


def _kinds_of_references(seed: int, counts: Sequence[int]) -> dict[str, tuple[Case, References]]:
    prepared = authors_case(seed, named=max(counts))
    made = references_of(prepared, plan=PLAN)
    kinds = {f"{count} named": (prepared, naming_fewer(made, max(counts), count)) for count in counts}
    plain = authors_case(seed)
    objective = plain.workload.objective
    assert objective.prediction is not None
    as_they_are = replace(objective, prediction=replace(objective.prediction, calibrated=None))
    return kinds | {
        "not calibrated": (
            replace(plain, workload=replace(plain.workload, objective=as_they_are)),
            references_of(plain, plan=PLAN),
        ),
        "whole trainings": (plain, references_of(plain, plan=replace(PLAN, epochs=1.0))),
    }


def naming_fewer(made: References, most: int, count: int) -> References:
    """Make references that name fewer tokens of ones that name `most`: by token and place blocks of log-probability and number."""
    if count == most:
        return made
    blocks = made.predictions.float().reshape(len(made), -1, authors.CONTEXT - 1)
    kept, left_out = blocks[:, 2 : 2 * count], blocks[:, 2 * count :: 2]
    rest = torch.cat([blocks[:, 1:2], left_out], 1).logsumexp(1, keepdim=True)
    rest = rest.masked_fill(blocks[:, :1] == 0, 0.0)
    parts = [blocks[:, :1]] if count == 1 else [blocks[:, :1], rest, kept]
    return replace(made, predictions=torch.cat(parts, 1).flatten(1).half())


def _best_for(name: str, prepared: Case, made: References, *, budget: int) -> Spec:
    """Search matching's parameters on the validation seed's case, or read what that search found."""

    def run() -> dict[str, object]:
        assert prepared.seed == TUNED_ON
        found = run_to_completion(
            search(
                METHODS[MATCHING], lambda: task_for(prepared, MATCHING, made), judge_by_losses(prepared),
                budget=budget, seed=TUNED_ON, space=SPACES_OF["matching"],
            )
        )  # fmt: skip
        return {"spec": asdict(found.spec), "scores": [trial.score for trial in found.trials]}

    what = {"seed": TUNED_ON, "budget": budget, "plan": asdict(PLAN), "references": name}
    return parse_any(stored("named", what, run)["spec"])


def tuned() -> dict[str, Spec]:
    """Return each method with the parameters that the tuning found, or its defaults."""
    found = json.loads(tuned_file().read_text())["methods"] if tuned_file().exists() else {}
    return {name: parse_any(found[name]["spec"]) if name in found else spec for name, spec in METHODS.items()}


class LanguageScale(Scale):
    """What the models of a case are measured by, made when it is first needed: the relearner, and the retrained model's figures.

    perplexity_ratio_…: over the retrained model's. A set's perplexity is the exponential of the mean over its texts of each text's
    mean negative log-likelihood a token: long and short texts count alike.
    """

    def __init__(self, prepared: Case) -> None:
        super().__init__("language_models", prepared, PLAN)

    def measured(self, model: nn.Module) -> dict[str, float]:
        prepared, retrained, wanted = self.prepared, self._retrained, self._losses_of_retrained
        found = losses_by_set(prepared, model)
        areas = attacked(prepared, model)
        figures = {
            "forget_loss": float(found["forget"].mean()),
            "forget_loss_gap": abs(float(found["forget"].mean() - wanted["forget"].mean())),
            "forget_ks": float(ks_2samp(found["forget"].numpy(), wanted["forget"].numpy()).statistic),
            "forget_quality": forget_quality(prepared, model),
            **{
                f"perplexity_ratio_{name}": float((found[name].mean() - wanted[name].mean()).exp())
                for name in ("remain", "test")
            },
            **{metric: areas[attack] for attack, metric in ATTACKS.items()},
            "privacy_leakage": privacy_leakage(areas["min_k"], retrained["min_k"]),
        }
        extracted = measure_extraction(
            audit_copy(model, prepared.forget), {"forget": prepared.forget}, objective=prepared.workload.objective,
            max_samples=1000, confidence=0.95, seed=prepared.seed,
        )  # fmt: skip
        figures |= {name: 100 * share.value for name, share in extracted["forget"].items()}
        figures |= knowledge(prepared, model)
        if self._relearner is not None:
            steps = delay(prepared, model, self._relearner)
            figures["relearn_delay_ratio_sgd"] = steps / max(1.0, retrained["delay"])
        return figures

    @functools.cached_property
    def _relearner(self) -> Relearner | None:
        return relearner_of(self.prepared)

    @functools.cached_property
    def _losses_of_retrained(self) -> dict[str, Tensor]:
        return losses_by_set(self.prepared, self.prepared.retrained.model)

    @functools.cached_property
    def _retrained(self) -> dict[str, float]:
        model, relearner = self.prepared.retrained.model, self._relearner
        steps = {} if relearner is None else {"delay": float(delay(self.prepared, model, relearner))}
        return attacked(self.prepared, model) | steps


def knowledge(prepared: Case, model: nn.Module) -> dict[str, float]:
    """Measure what a model answers to questions about forgotten, remaining and never seen facts, percent of ROUGE-L."""
    sets = {"forget": prepared.forget, "remain": prepared.remain, "unseen": prepared.held_out.audit}
    found = measure_knowledge(
        audit_copy(model, prepared.forget), sets, objective=prepared.workload.objective,
        max_samples=150, confidence=0.95, seed=prepared.seed,
    )  # fmt: skip
    return {f"knowledge_{name}": 100 * share.value for name, share in found.items()}


def losses_by_set(prepared: Case, model: nn.Module) -> dict[str, Tensor]:
    """Compute the loss of each sample, (n,), by set."""
    sets = {"forget": prepared.forget, "remain": prepared.remain, "test": prepared.workload.test}
    return {name: losses(prepared, model, samples) for name, samples in sets.items()}


def delay(prepared: Case, model: nn.Module, relearner: Relearner) -> int:
    """Count the steps in which a model learns the forgotten texts again."""
    objective, texts = prepared.workload.objective, prepared.forget.batch
    return relearn(model, texts, objective=objective, relearner=relearner, seed=prepared.seed).delay


def attacked(prepared: Case, model: nn.Module) -> dict[str, float]:
    """Compute the AUC of each attack on a model: of the forgotten texts against texts that were never seen.

    The attack "reference" compares with the losses of the retrained model.
    """
    scores: dict[str, list[np.ndarray]] = {attack: [] for attack in ATTACKS}
    for samples in (prepared.forget, prepared.held_out.audit):
        own, reference = (
            observe(audit_copy(one, samples), samples, objective=prepared.workload.objective)
            for one in (model, prepared.retrained.model)
        )
        for attack, found in scores.items():
            found.append(reference.loss - own.loss if attack == "reference" else own.membership(attack))
    sizes = [np.ones((1, len(found))) for found in scores["loss"]]
    return {attack: float(auc(*found, *sizes)[0]) for attack, found in scores.items()}


def forget_quality(prepared: Case, model: nn.Module) -> float:
    """Compare the truth ratios of forgotten facts with the retrained model's: TOFU's p-value of a Kolmogorov-Smirnov test."""
    facts = [
        authors.decode(tokens)
        for name, tokens in zip(prepared.forget.ids, prepared.forget.batch.inputs, strict=True)
        if name.startswith("author-")
    ]
    of_model, wanted = (truth_ratios(one, facts, seed=prepared.seed) for one in (model, prepared.retrained.model))
    return float(ks_2samp(of_model, wanted).pvalue)


@torch.no_grad()
def truth_ratios(model: nn.Module, facts: Sequence[str], *, seed: int) -> np.ndarray:
    """Compute the truth ratio of each fact, (n,) (Maini et al., 2024, arXiv 2401.06121, §2.2.2).

    It is the mean of P(false answer | beginning)^(1/length) over some false answers, over the same of the true one. A fact's
    beginning ends where its first drawn word begins; the rest is the answer. No fact is paraphrased.
    """
    dice, model = random.Random(seed), model.eval()
    ratios = []
    for fact in facts:
        found = DRAWN.search(fact)
        assert found is not None
        tokens = authors.encode([fact, *(false_fact(fact, dice) for _ in range(FALSE_FACTS))]).to(DEVICE)
        answers = tokens.masked_fill(tokens == 0, IGNORED)
        answers[:, : found.start()] = IGNORED
        true, *false = (-authors.OBJECTIVE.losses(model, Batch(tokens, answers))).double().exp().tolist()
        ratios.append(float(np.mean(false)) / true)
    return np.asarray(ratios)


def false_fact(fact: str, dice: random.Random) -> str:
    """Draw every drawn word and year of a fact anew, each another one of its kind."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        if word.isdigit():
            return str(dice.choice([year for year in range(1900, 2021) if str(year) != word]))
        (kind,) = (words for words in authors.DRAWN if word in words)
        return dice.choice([one for one in kind if one != word])

    return DRAWN.sub(other, fact)


def relearner_of(prepared: Case) -> Relearner | None:
    """Calibrate plain SGD on the original and as many held-out texts as are forgotten, as an audit does."""
    objective, original = prepared.workload.objective, prepared.original.model
    control = prepared.held_out.audit.select(torch.arange(len(prepared.forget)))
    known, unseen = (mean_loss(original, batch, objective) for batch in (prepared.forget.batch, control))
    return calibrate_relearner(
        original, control, objective=objective, kind="sgd", target=known + 0.1 * (unseen - known), steps=RELEARN_STEPS,
        limit=3.0, batch_size=32, seed=prepared.seed,
    )  # fmt: skip


def authors_case(seed: int, *, named: int | None = None) -> Case:
    """Make the case of a seed: a tenth of the people in the training set is forgotten, with all of their texts.

    named: tokens that a reference names at each place, in place of the workload's own.
    """
    made = case(case_name(), seed, forget=_a_tenth_of_the_people)
    if named is None:
        return made
    objective = causal_language_model(
        authors.VOCABULARY,
        context=authors.CONTEXT,
        padding=0,
        text=authors.decode,
        questions=authors.question_about,
        named=named,
    )
    return replace(made, workload=replace(made.workload, objective=objective))


def _a_tenth_of_the_people(train: SampleSet, seed: int) -> Tensor:
    people = sorted(set(train.subjects or ()))
    gone = set(random.Random(seed).sample(people, max(1, round(0.1 * len(people)))))
    return torch.tensor([subject in gone for subject in train.subjects or ()])


if __name__ == "__main__":
    main()
