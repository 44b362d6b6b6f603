"""Parameters of the baselines: other papers' methods as those define them, to compare with; no job runs them.

Their schedules are fixed, as in their papers: no calibrated stop ends them. A default that is not the paper's is [ours]
(docs/methods.md). A learning rate is SGD's unless its line says otherwise; Adam, for language models and image generators, takes a
fiftieth of it. All can be tuned by the same budgeted search (`unlearning/tuning.py`).
"""

from dataclasses import dataclass
from typing import Literal

from unlearning.specs.rules import (
    Count,
    LearningRate,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
    check_ranges,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTune:
    """Fine-tuning on the remaining set alone (Warnecke et al., NDSS 2023).

    epochs: of the remaining set. learning_rate: constant.
    """

    kind: Literal["fine_tune"] = "fine_tune"
    epochs: Count = 10
    learning_rate: LearningRate = 0.01
    batch_size: Count = 64

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomLabels:
    """Each epoch, random labels on the forget set, then the remaining set (Golatkar et al., CVPR 2020; RandL, RL).

    Labels are drawn anew in each epoch, uniformly over all classes; the true one is not excluded.
    """

    kind: Literal["random_labels"] = "random_labels"
    epochs: Count = 10
    learning_rate: LearningRate = 0.01
    batch_size: Count = 64

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AmnesiacRelabel:
    """The relabelling of "Amnesiac Machine Learning" (Graves et al., AAAI 2021): wrong labels, drawn once, mixed with D_r.

    It is what public code calls "amnesiac". The paper's other method subtracts the stored updates of the batches that contained
    forget samples. It needs a log of the training, which a trained model does not come with, so it is not offered.
    """

    kind: Literal["amnesiac_relabel"] = "amnesiac_relabel"
    epochs: Count = 3
    learning_rate: LearningRate = 0.01
    batch_size: Count = 64

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FisherNoise:
    """Noise on the weights that the remaining set does not need (Golatkar et al., CVPR 2020; "Fisher forgetting").

    noise: (λσ²)^¼, the factor of the noise F^(−¼)·ξ. floor: smaller Fisher information is raised to this, because weights that
    nothing depends on would get unbounded noise. batch_size: samples a forward pass, without effect on the result.
    """

    kind: Literal["fisher_noise"] = "fisher_noise"
    noise: Positive = 0.001
    floor: Positive = 1e-8
    batch_size: Count = 64

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SSD:
    """Selective synaptic dampening (Foster, Schoepf, Brintrup, AAAI 2024): shrink the weights that the forget set needs most.

    selection: α. A weight is dampened if its importance for the forget set is more than α times its importance for all training
        data.
    dampening: λ, of the factor min(λ·importance for all / importance for the forget set, 1).
    batch_size: samples a forward pass, without effect on the result.
    The paper's α = 10 selects almost no weight if the forget set is a random part of the data: tune it.
    """

    kind: Literal["ssd"] = "ssd"
    selection: Positive = 10.0
    dampening: NotNegative = 1.0
    batch_size: Count = 64

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadTeacher:
    """Bad teacher (Chundawat et al., AAAI 2023): distil random weights on the forget set and the original on remaining data.

    learning_rate: Adam's, constant. temperature: of the divergence. remain_share: the share of the remaining set that is used.
    """

    kind: Literal["bad_teacher"] = "bad_teacher"
    epochs: Count = 1
    learning_rate: LearningRate = 1e-4
    batch_size: Count = 64
    temperature: Positive = 1.0
    remain_share: PositiveShare = 0.3

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class NegGradPlus:
    """NegGrad+ (Kurmanji et al., NeurIPS 2023): descent on the remaining set and ascent on the forget set in the same step.

    epochs: of the remaining set; each step draws a forget batch too. remain_weight: β; the ascent has the weight 1 − β. It has no
    bound, so too small a β, or too many steps, destroy the model.
    """

    kind: Literal["neggrad_plus"] = "neggrad_plus"
    epochs: Count = 5
    learning_rate: LearningRate = 0.01
    batch_size: Count = 64
    remain_weight: PositiveShare = 0.95

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MSG:
    """Masked small gradients (Cadet et al., 2024): draw weights with small gradients anew, then train on the remaining set.

    epochs: of the remaining set. learning_rate: the highest, of SGD for every model; it rises over the first half of the epochs and
    falls over the second. redrawn: the share of a convolution's weights that is drawn anew. kept_gradient: the factor of the
    gradient of the others.
    """

    kind: Literal["msg"] = "msg"
    epochs: Count = 5
    learning_rate: LearningRate = 0.01
    batch_size: Count = 64
    redrawn: PositiveShare = 0.3
    kept_gradient: Share = 0.1

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SalUn:
    """Saliency unlearning (Fan et al., ICLR 2024): wrong labels on the forget set, then the remaining set, on salient weights only.

    saliency: the share of the weights that may change: those with the largest gradient of the forget set's loss on the original.
    """

    kind: Literal["salun"] = "salun"
    epochs: Count = 10
    learning_rate: LearningRate = 0.01
    batch_size: Count = 64
    saliency: PositiveShare = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class GradDiff:
    """Gradient difference (Liu, Liu, Stone, CoLLAs 2022; TOFU, Maini et al., COLM 2024): ascent on D_f, descent on D_r, by AdamW.

    epochs: of the forget set; each step takes as many remaining samples. forget_weight: γ of the ascent, which has no bound.
    """

    kind: Literal["grad_diff"] = "grad_diff"
    epochs: Count = 10
    learning_rate: LearningRate = 0.0003
    batch_size: Count = 64
    forget_weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class NPO:
    """Negative preference optimisation (Zhang et al., COLM 2024) with its retain loss, by AdamW.

    epochs: of the forget set; each step takes as many remaining samples. beta: β, in the paper 0.1: the smaller, the more like
    plain ascent. remain_weight: α of the remaining samples' loss.
    """

    kind: Literal["npo"] = "npo"
    epochs: Count = 10
    learning_rate: LearningRate = 0.001
    batch_size: Count = 64
    beta: Positive = 0.1
    remain_weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimNPO:
    """Simple NPO (Fan et al., 2024): NPO by the mean loss a token, without a reference model, by AdamW.

    epochs: of the forget set; each step takes as many remaining samples. beta: β. margin: γ, in the paper mostly 0.
    remain_weight: α of the remaining samples' loss.
    """

    kind: Literal["sim_npo"] = "sim_npo"
    epochs: Count = 10
    learning_rate: LearningRate = 0.001
    batch_size: Count = 64
    beta: Positive = 2.5
    margin: NotNegative = 0.0
    remain_weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RMU:
    """Representation misdirection for unlearning (Li et al., ICML 2024): hidden states of D_f towards a random vector, by AdamW.

    epochs: of the forget set; each step takes as many remaining samples. depth: the steered block, as a share of all blocks; in
    the paper the 7th of 32. It and the two before it change. steering: length of the random vector, in mean norms of the hidden
    states. remain_weight: α, by which the hidden states of remaining samples are held.
    """

    kind: Literal["rmu"] = "rmu"
    epochs: Count = 10
    learning_rate: LearningRate = 0.001
    batch_size: Count = 64
    depth: PositiveShare = 0.22
    steering: Positive = 2.0
    remain_weight: NotNegative = 30.0

    def __post_init__(self) -> None:
        check_ranges(self)
