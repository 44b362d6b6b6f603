"""Which methods suit which objective: what a method needs, and what the given objectives offer."""

from collections.abc import Collection
from enum import StrEnum


class Need(StrEnum):
    """What a method may need that not every objective or model offers."""

    CLASSES = "classes"
    """One label a sample: the method relabels samples."""
    CLASS_PROBABILITIES = "class_probabilities"
    """A model that predicts the label: the method reads its logits."""
    RANDOM_TARGETS = "random_targets"
    """`Objective.scramble`. LTU takes reference predictions in their place."""
    REFERENCES = "references"
    """Reference predictions of the model, which are prepared once (`expunge references`)."""
    SLICES = "slices"
    """A model that was trained in slices, with the weights between them."""
    RANDOM_ACCESS = "random_access"
    """A training set whose samples can be read in any order, which those of a stream cannot."""
    ADAPTERS = "adapters"
    """A model with adapters, each trained on samples of its own."""
    WHOLE_MODEL = "whole_model"
    """The whole model in each process, not a part of its parameters: the method differentiates twice, or sample by sample, or reads
    single parameters or layers."""
    CONVEX_LOSS = "convex_loss"
    """`Objective.curvature`: a loss that is convex in the outputs."""
    CONVOLUTIONS = "convolutions"
    """A model with convolutions whose kernels are square."""
    HEAD = "head"
    """A model of which training moves one linear layer alone, which gives the outputs."""


NEEDS: dict[str, frozenset[Need]] = {
    "ltu": frozenset({Need.RANDOM_TARGETS, Need.RANDOM_ACCESS, Need.WHOLE_MODEL}),
    "ieu": frozenset({Need.RANDOM_ACCESS}),
    "matching": frozenset({Need.REFERENCES, Need.RANDOM_ACCESS}),
    "gradient_ascent": frozenset(),
    "retrain": frozenset(),
    "rewind": frozenset({Need.SLICES}),
    "drop_adapter": frozenset({Need.ADAPTERS, Need.WHOLE_MODEL}),
    "certified": frozenset({Need.CONVEX_LOSS, Need.HEAD, Need.WHOLE_MODEL}),
    "fine_tune": frozenset(),
    "neggrad_plus": frozenset(),
    "grad_diff": frozenset({Need.RANDOM_ACCESS}),
    "npo": frozenset({Need.RANDOM_ACCESS}),
    "sim_npo": frozenset({Need.RANDOM_ACCESS}),
    "rmu": frozenset({Need.RANDOM_ACCESS, Need.WHOLE_MODEL}),
    "random_labels": frozenset({Need.RANDOM_TARGETS}),
    "amnesiac_relabel": frozenset({Need.CLASSES, Need.RANDOM_ACCESS}),
    "fisher_noise": frozenset({Need.CLASS_PROBABILITIES, Need.WHOLE_MODEL}),
    "ssd": frozenset({Need.WHOLE_MODEL}),
    "bad_teacher": frozenset({Need.CLASS_PROBABILITIES, Need.RANDOM_ACCESS}),
    "salun": frozenset({Need.CLASSES, Need.WHOLE_MODEL}),
    "msg": frozenset({Need.WHOLE_MODEL}),
    "ct": frozenset({Need.CONVOLUTIONS, Need.WHOLE_MODEL}),
}
"""By method. Every method needs the losses, which every objective has."""

OFFERS: dict[str, frozenset[Need]] = {
    "classification": frozenset({Need.CLASSES, Need.CLASS_PROBABILITIES, Need.RANDOM_TARGETS, Need.CONVEX_LOSS}),
    "multi_label": frozenset({Need.RANDOM_TARGETS, Need.CONVEX_LOSS}),
    "regression": frozenset({Need.RANDOM_TARGETS, Need.CONVEX_LOSS}),
    "causal_language_model": frozenset({Need.RANDOM_TARGETS}),
    "denoising_diffusion": frozenset({Need.CLASSES, Need.RANDOM_TARGETS}),
}
"""By objective. Reference predictions can be prepared for each."""

_OF_OBJECTIVES = frozenset[Need]().union(*OFFERS.values())
"""Needs that the objective decides. The others depend on the model and its data."""


_LACKS: dict[Need, str] = {
    Need.CLASSES: "an objective with one label a sample",
    Need.CLASS_PROBABILITIES: "an objective whose outputs are logits of classes",
    Need.RANDOM_TARGETS: "the objective's `scramble`, or reference predictions (`expunge references`)",
    Need.REFERENCES: "reference predictions (`expunge references`)",
    Need.SLICES: "a training in slices, with the weights between them",
    Need.RANDOM_ACCESS: "a training set that can be read in any order, which that of a stream cannot",
    Need.ADAPTERS: "an adapter for each group of samples (`adapters` of the workload)",
    Need.WHOLE_MODEL: "the whole model in each process, and the workload's is sharded",
    Need.CONVEX_LOSS: "an objective with `curvature`, whose loss is convex in the outputs",
    Need.CONVOLUTIONS: "convolutions with square kernels that training moves",
    Need.HEAD: "a model of which training moves one linear layer alone, which gives the outputs",
}


def why_unsuitable(method: str, lacks: Collection[str]) -> str | None:
    """Say what a method needs that a model lacks; None if it lacks nothing of it. LTU takes references for random targets."""
    missing = NEEDS[method] & set(lacks)
    if method == "ltu" and Need.REFERENCES not in lacks:
        missing -= {Need.RANDOM_TARGETS}
    return f"{method} needs {' and '.join(_LACKS[need] for need in sorted(missing))}" if missing else None


def suits(method: str, objective: str) -> bool:
    """Return whether a method serves a given objective, for a model that has what the method needs of it."""
    return NEEDS[method] & _OF_OBJECTIVES <= OFFERS[objective]
