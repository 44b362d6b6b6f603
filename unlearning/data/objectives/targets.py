"""Targets as they come, checked and converted once: labels, multi-hot rows, numbers, tokens. Messages never name a sample."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from unlearning.errors import InvalidWorkload, UnsupportedWorkload

IGNORED = -100
"""The label of a token that the loss does not count, as in PyTorch and in Hugging Face's models."""


def number_labels(labels: Sequence[Hashable] | Tensor, names: Sequence[Hashable]) -> Tensor:
    """Number labels of any kind, such as texts or integers from 1, by their places in `names`: (n,) int64 from 0.

    names: every label once, in the order of the model's outputs. Raises InvalidWorkload, with a position, for a label that is not
    among them.
    """
    places = {name: place for place, name in enumerate(names)}
    if len(places) != len(names):
        raise InvalidWorkload(f"{len(names)} names of labels were given, and only {len(places)} of them differ.")
    given = labels.tolist() if isinstance(labels, Tensor) else labels
    for position, label in enumerate(given):
        if label not in places:
            raise InvalidWorkload(
                f"The label at position {position} is none of the {len(names)} names that were given."
            )
    return torch.tensor([places[label] for label in given], dtype=torch.int64)


def class_labels(targets: Tensor, *, classes: int, name: str) -> Tensor:
    """Return targets as labels, (n,) int64 from 0 to classes − 1. name: of the set, for the message.

    Integers and booleans of any width, whole floats, columns (n, 1) and one-hot rows (n, classes) are converted. Raises
    UnsupportedWorkload for anything else of another shape, and InvalidWorkload for a label outside the classes.
    """
    given = targets
    if given.dim() == 2 and given.shape[1] == 1:
        given = given.squeeze(1)
    elif given.dim() == 2 and given.shape[1] == classes and _is_binary(given) and bool((given.sum(1) == 1).all()):
        given = given.float().argmax(1)
    if (
        given.dim() != 1
        or given.is_complex()
        or (given.is_floating_point() and not bool((given == given.long()).all()))
    ):
        raise UnsupportedWorkload(
            f"The {name} set's targets, {_kind(targets)}, are no labels of {classes} classes. One label a sample is needed, (n,) "
            "integers. Several labels a sample take the objective multi_label(labels), numbers regression(outputs), and the tokens "
            "of a text causal_language_model(vocabulary)."
        )
    labels = given.long()
    low, high = (int(end) for end in labels.aminmax())
    if low == IGNORED:
        raise InvalidWorkload(
            f"{int((labels == low).sum())} samples of the {name} set have the label -100, which training ignores. Leave them out."
        )
    if low < 0 or high >= classes:
        hint = " Subtract 1." if (low, high) == (1, classes) else " `number_labels` makes these of others."
        raise InvalidWorkload(
            f"The {name} set has labels from {low} to {high}; {classes} classes have the labels 0 to {classes - 1}.{hint}"
        )
    return labels


def multi_hot(targets: Tensor, *, labels: int, name: str) -> Tensor:
    """Return targets as multi-hot rows, (n, labels) float32 of 0 and 1. name: of the set, for the message.

    Booleans, integers and floats are converted; (n,) will do for one label. Raises UnsupportedWorkload for another shape, and
    InvalidWorkload for other values, NaN included.
    """
    given = targets[:, None] if labels == 1 and targets.dim() == 1 else targets
    if given.dim() != 2 or given.shape[1] != labels or given.is_complex():
        raise UnsupportedWorkload(
            f"The {name} set's targets, {_kind(targets)}, are no labels of multi_label({labels}), which needs (n, {labels}): a row "
            "a sample, with 1 for each label that it has and 0 for the others."
        )
    if not _is_binary(given):
        raise InvalidWorkload(
            f"The {name} set's targets have values other than 0 and 1; multi_label({labels}) needs 1 for each label that a sample "
            "has and 0 for the others."
        )
    return given.float()


def numbers(targets: Tensor, *, outputs: int, name: str) -> Tensor:
    """Return targets as numbers, (n, outputs) float32, or float64 as they are. name: of the set, for the message.

    Integers and short floats are converted; (n,) will do for one output. Raises UnsupportedWorkload for another shape, and
    InvalidWorkload for NaN and infinite targets, with their number.
    """
    given = targets[:, None] if outputs == 1 and targets.dim() == 1 else targets
    if given.dim() != 2 or given.shape[1] != outputs or given.is_complex():
        raise UnsupportedWorkload(
            f"The {name} set's targets, {_kind(targets)}, are no numbers of regression({outputs}), which needs (n, {outputs})"
            f"{', or (n,)' if outputs == 1 else ''}."
        )
    converted = given if given.dtype == torch.float64 else given.float()
    wrong = int((~converted.isfinite().all(1)).sum())
    if wrong:
        raise InvalidWorkload(
            f"{wrong} samples of the {name} set have targets that are NaN or infinite. Leave them out or fill them in."
        )
    return converted


def token_labels(targets: Tensor, *, vocabulary: int, context: int | None, padding: int | None, name: str) -> Tensor:
    """Return targets as the tokens of each sequence, (n, length) int64, with -100 for padding. name: of the set, for the message.

    Raises UnsupportedWorkload for another shape, and InvalidWorkload, with their number, for sequences that are longer than the
    context or leave no token to predict, and for tokens outside the vocabulary.
    """
    if targets.dim() != 2 or targets.is_floating_point() or targets.is_complex():
        raise UnsupportedWorkload(
            f"The {name} set's targets, {_kind(targets)}, are no tokens; causal_language_model({vocabulary}) needs (n, length) "
            "integers: the tokens of the inputs, not shifted, with -100 for those that the loss does not count."
        )
    if context is not None and targets.shape[1] > context:
        raise InvalidWorkload(
            f"The {name} set has sequences of {targets.shape[1]:,} tokens; the model's context is {context:,}. Cut them, or make "
            "several samples of one."
        )
    labels = targets.long()
    if padding is not None:
        labels = labels.masked_fill(labels == padding, IGNORED)
    wrong = int((((labels < 0) | (labels >= vocabulary)) & (labels != IGNORED)).any(1).sum())
    if wrong:
        raise InvalidWorkload(
            f"{wrong:,} samples of the {name} set have tokens outside 0 to {vocabulary - 1:,}, which are those of "
            f"causal_language_model({vocabulary}). Was the text made into tokens by the tokenizer that the model was trained with?"
        )
    empty = int((labels[:, 1:] == IGNORED).all(1).sum())
    if empty:
        raise InvalidWorkload(
            f"{empty:,} samples of the {name} set have no token to predict: a sequence needs two, because nothing precedes the "
            "first. Leave them out."
        )
    return labels


def finite(targets: Tensor, *, name: str) -> Tensor:
    """Return targets as they are. Raises InvalidWorkload for NaN and infinite ones, with their number."""
    if targets.is_floating_point():
        wrong = (
            int((~targets.flatten(1).isfinite().all(1)).sum())
            if targets.dim() > 1
            else int((~targets.isfinite()).sum())
        )
        if wrong:
            raise InvalidWorkload(f"{wrong} samples of the {name} set have targets that are NaN or infinite.")
    return targets


def _is_binary(targets: Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


def _kind(targets: Tensor) -> str:
    return f"{tuple(targets.shape)} {targets.dtype}"
