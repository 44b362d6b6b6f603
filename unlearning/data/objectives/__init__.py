"""Objectives: what a model is trained for, as functions. Methods and audits know the modality only through these."""

from unlearning.data.objectives.causal_language_model import causal_language_model
from unlearning.data.objectives.classification import classification
from unlearning.data.objectives.denoising_diffusion import denoising_diffusion
from unlearning.data.objectives.extraction import Question
from unlearning.data.objectives.multi_label import multi_label
from unlearning.data.objectives.objective import Forward, Objective, answers, call, divided, logits_of, undivided
from unlearning.data.objectives.prediction import Answers, Completion, Generation, Merit, Prediction
from unlearning.data.objectives.regression import regression
from unlearning.data.objectives.targets import number_labels

__all__ = [
    "Answers",
    "Completion",
    "Forward",
    "Generation",
    "Merit",
    "Objective",
    "Prediction",
    "Question",
    "answers",
    "call",
    "causal_language_model",
    "classification",
    "denoising_diffusion",
    "divided",
    "logits_of",
    "multi_label",
    "number_labels",
    "regression",
    "undivided",
]
