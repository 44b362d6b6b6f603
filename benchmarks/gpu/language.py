"""A causal language model of some 100 million parameters on facts about made-up authors: how it forgets a tenth of the authors."""

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.gpu.cases import Bench
from benchmarks.gpu.quality import rows
from benchmarks.gpu.session import Budget, Session
from benchmarks.machine import DEVICE, seconds
from examples import authors
from unlearning.audit.extraction import measure_extraction
from unlearning.data.samples import SampleSet
from unlearning.data.workload import OwnTraining, split_held_out
from unlearning.errors import NotFinite
from unlearning.hardware import batched_answers
from unlearning.methods.registry import unlearn
from unlearning.networks import is_finite
from unlearning.specs import IEU, LTU, NPO, GradDiff, SimNPO, Spec
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit
from unlearning.training.run import TrainingRun

SEED = 100
FACTS = 5
"""Of each author."""
SPECS: Mapping[str, Spec] = {
    "ltu": LTU(order="first", batch_size=64, query_size=64),
    "ieu": IEU(batch_size=64),
    "grad_diff": GradDiff(epochs=3, learning_rate=1e-4),
    "npo": NPO(epochs=3, learning_rate=1e-4),
    "sim_npo": SimNPO(epochs=3, learning_rate=1e-4),
}
"""Of three, the rates are smaller than by default, as for larger models. None is tuned: nothing has run on a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A network, how many authors it learns of, and how: a one-cycle rate, in bf16 where the device gains from it."""

    width: int
    heads: int
    layers: int
    authors: int
    epochs: int
    batch: int
    rate: float

    def build(self) -> nn.Module:
        """Build the network."""
        return authors.GPT(self.width, heads=self.heads, layers=self.layers)

    def train(self, model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        """Train by AdamW."""
        optimiser = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=0.01)
        epochs = max(1, round(run.share * self.epochs))
        total = epochs * data.batch_count(self.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=total)
        order = torch.Generator().manual_seed(run.seed)
        for number, batch in enumerate((one for _ in range(epochs) for one in data.epoch(self.batch, order)), start=1):
            optimiser.zero_grad()
            with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.device.type == "cuda"):
                loss = authors.OBJECTIVE.losses(model, batch).mean()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            run.report(number, total, loss=loss)


LARGE = Size(width=768, heads=12, layers=14, authors=2000, epochs=20, batch=256, rate=3e-4)
SMALL = Size(width=16, heads=2, layers=1, authors=40, epochs=2, batch=32, rate=3e-3)
"""The dry run's."""


def language(bench: Bench, specs: Mapping[str, Spec], session: Session, budget: Budget) -> None:
    """Train the model, retrain it twice without the forgotten authors, unlearn them by each method, and note the figures."""
    size = SMALL if session.dry_run else LARGE
    train, held_out, test = sets(size.authors)
    tenth = torch.arange(len(train)) // FACTS % 10 == 0
    forget, remain = (train.take(chosen.nonzero().flatten()) for chosen in (tenth, ~tenth))
    parameters = sum(p.numel() for p in size.build().parameters())
    name = f"author facts, {parameters / 1e6:.3g} million parameters"
    session.facts["language"] = {
        "parameters": parameters, "samples": len(train), "forgotten": len(forget), "recipe": repr(size)
    }  # fmt: skip
    training = OwnTraining(trainer=size.train)
    models: dict[str, nn.Module] = {}
    taken: dict[str, float] = {}
    for label, samples, seed in (("original", train, SEED), ("retrained", remain, SEED), ("retrain", remain, SEED + 1)):
        if not budget.begins(label):
            return
        begun = seconds()
        models[label] = fit(size.build, samples, training, objective=authors.OBJECTIVE, seed=seed)
        taken[label] = seconds() - begun
    parts = {"forget": forget, "test": test}
    aim = measured(models["retrained"], parts)

    def note(method: str, model: nn.Module, spent: float) -> None:
        cost = {"seed": float(SEED), "seconds": spent, "retrain_ratio": spent / taken["retrained"]}
        bench.figures.setdefault(name, {})[method] = [compared(measured(model, parts), aim) | cost]
        session.rows = rows(bench.figures)
        session.write()

    note("original", models["original"], taken["original"])
    note("retrain", models["retrain"], taken["retrain"])
    split = split_held_out(held_out)
    for method, spec in specs.items():
        if not budget.begins(method):
            continue
        task = Task(
            model=copy.deepcopy(models["original"]), build=size.build, objective=authors.OBJECTIVE, recipe=training,
            forget=forget, remain=remain, guide=split.guide, criterion=split.criterion, seed=SEED,
        )  # fmt: skip
        begun = seconds()
        try:
            run_to_completion(unlearn(spec, task))
            spent = seconds() - begun
            if not is_finite(task.model):
                raise NotFinite("the weights are not finite")
        except Exception as error:
            print(f"  {method} failed: {type(error).__name__}: {error}", flush=True)
            failures = session.facts.setdefault("failed_methods", [])
            failures.append({"case": name, "method": method, "error": f"{type(error).__name__}: {error}"})
            session.write()
            continue
        note(method, task.model, spent)


def sets(count: int) -> tuple[SampleSet, ...]:
    """Make facts of authors on the device: the training set of eight tenths of them, the held-out and the test set of one each."""
    facts = list(authors.facts(count))
    tokens = authors.encode(one.text for one in facts)
    whole = SampleSet(ids=tuple(one.id for one in facts), inputs=tokens, targets=tokens).to(DEVICE)
    ends = [0, *(FACTS * (count * tenths // 10) for tenths in (8, 9)), len(facts)]
    return tuple(whole.take(torch.arange(start, end)) for start, end in itertools.pairwise(ends))


@torch.no_grad()
def measured(model: nn.Module, parts: Mapping[str, SampleSet]) -> dict[str, float]:
    """Measure the mean loss of forgotten and test texts, nats a token, and what can be extracted of the forgotten, percent."""
    losses = {
        name: float(batched_answers(authors.OBJECTIVE, model, parts[name]).losses.double().mean())
        for name in ("forget", "test")
    }
    extracted = measure_extraction(
        model, {"forget": parts["forget"]}, objective=authors.OBJECTIVE, max_samples=64, confidence=0.95, seed=SEED
    )["forget"]
    shares = {name: 100 * extracted[name].value for name in ("exact_memorisation", "greedy_extraction")}
    return {"forget_loss": losses["forget"], "test_loss": losses["test"], **shares}


def compared(found: Mapping[str, float], aim: Mapping[str, float]) -> dict[str, float]:
    """Compare a model's figures with those of the retrained one."""
    return {
        **{name: value for name, value in found.items() if name != "test_loss"},
        "forget_loss_gap": abs(found["forget_loss"] - aim["forget_loss"]),
        "perplexity_ratio_test": math.exp(found["test_loss"] - aim["test_loss"]),
    }
