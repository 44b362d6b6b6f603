"""The membership attacks that a report may have, by code and by name. The audit's sentences call them the same.

Without pydantic, because the library imports this module.
"""

from enum import StrEnum


class AttackName(StrEnum):
    """What a membership attack reads, for each sample; a user's own objective may name others."""

    LOSS = "loss"
    CONFIDENCE = "confidence"
    """Probability of the right class."""
    ENTROPY = "entropy"
    """Entropy of the predicted distribution."""
    MODIFIED_ENTROPY = "modified_entropy"
    """Entropy that takes the right class into account (Song and Mittal, 2021)."""
    MARGIN = "margin"
    """Logit of the probability of the right class."""
    MIN_K = "min_k"
    """Mean log-probability of a text's least likely tokens (Min-K%, Shi et al., 2024)."""
    MIN_K_PLUS = "min_k_plus"
    """The same in standard deviations over the vocabulary (Min-K%++, Zhang et al., 2025)."""
    ZLIB = "zlib"
    """Loss of a text over the bytes that zlib compresses it to (Carlini et al., 2021)."""
    REFERENCE = "reference"
    """Loss of a text beside that of models which never saw it (Carlini et al., 2021)."""
    PROXIMAL = "proximal"
    """How much the noise changes that a model predicts for an image, once that noise is added to it (PIA, Kong et al., 2024)."""
    FEATURES = "features"
    """What enters the last layer, read by a probe."""


NAMES: dict[str, str] = {
    AttackName.ZLIB: "loss over compressed size",
    AttackName.REFERENCE: "loss beside that of models which never saw the samples",
    AttackName.MIN_K: "Min-K%",
    AttackName.MIN_K_PLUS: "Min-K%++",
    AttackName.PROXIMAL: "proximal initialisation",
}
"""The names of attacks, where they are no words already."""


def attack_name(name: str) -> str:
    """Give an attack's name; one that a user's own objective names is shown as it is."""
    return NAMES.get(name, name.replace("_", " "))
