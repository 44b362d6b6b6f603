"""The task that an unlearning method gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from unlearning.data.objectives import Objective, divided
from unlearning.data.references import ReferencePredictions
from unlearning.data.samples import SampleSet
from unlearning.data.workload import OwnTraining, check_targets
from unlearning.errors import MethodRefused
from unlearning.specs.training import Recipe
from unlearning.state import State
from unlearning.training.slices import KeepSlice, SliceCheckpoint


@dataclass(kw_only=True, slots=True, eq=False)
class Task:
    """The input of a method. The method changes `model` in place, and nothing else.

    forget: D_f, which is read into memory. remain: D_r, without any sample forgotten earlier. guide: the part of D_v that guide
        attacks are trained on.
    criterion: the part of D_v that the calibrated stop compares with. build, recipe: how to train the model anew; the recipe is the
    workload's `training`.
    references: reference predictions of the forget set, in its order, or None. They may find those of remaining samples too.
    objective: divides each batch among the ranks of the job, if there are several.
    checkpoint: the latest weights of the model's training in slices that saw none of the forget set, or None. keep_slice: keeps the
        weights after a slice of a new training.
    adapters: the adapter that learned from each training sample, by the sample's ID; None where all parameters learn from all.
    state: the parts of the run that a training checkpoint holds; a resumed run starts from their saved values.
    """

    model: nn.Module
    build: Callable[[], nn.Module]
    objective: Objective
    recipe: Recipe | OwnTraining
    forget: SampleSet
    remain: SampleSet
    guide: SampleSet
    criterion: SampleSet
    seed: int = 0
    references: ReferencePredictions | None = None
    checkpoint: SliceCheckpoint | None = None
    keep_slice: KeepSlice | None = None
    adapters: Mapping[str, str] | None = None
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.forget, self.objective = self.forget.in_memory(), divided(self.objective)

    def check(self) -> None:
        """Check that the sets have targets for the objective, are not empty and disjoint, and that some parameter can be trained.

        Raises MethodRefused, or InvalidWorkload for targets that do not suit the objective.
        """
        sets = {"forget": self.forget, "remaining": self.remain, "guide": self.guide, "criterion": self.criterion}
        for name, samples in sets.items():
            if not len(samples):
                raise MethodRefused(f"The {name} set is empty; unlearning needs at least one sample in it.")
            check_targets(samples, self.objective, name=name)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise MethodRefused(
                "No parameter of the model requires a gradient, so nothing can be unlearned; unfreeze some in `build`."
            )
        if self.references is not None and len(self.references) != len(self.forget):
            rows = len(self.references)
            raise MethodRefused(f"There are {rows} reference predictions for {len(self.forget)} forget samples.")
        seen: dict[str, str] = {}
        for name, samples in sets.items():
            for sample in samples.ids:
                if sample in seen:
                    raise MethodRefused(
                        f"The {name} set and the {seen[sample]} set share a sample; they must be disjoint."
                    )
                seen[sample] = name
