"""Kinds of models that people bring: each a small network, the data that it takes, and what it is trained for."""

import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.small import with_references
from unlearning.data.batches import Batch, Inputs
from unlearning.data.objectives import (
    Forward,
    Merit,
    Objective,
    causal_language_model,
    classification,
    denoising_diffusion,
    multi_label,
    regression,
)
from unlearning.data.objectives.objective import fitted
from unlearning.data.samples import SampleSet, joined
from unlearning.data.stored import StoredSet
from unlearning.networks import copy_network
from unlearning.specs.training import Recipe
from unlearning.state import State
from unlearning.task import Task
from unlearning.training.loop import fit

CLASSES = 3
RECIPE = Recipe(epochs=2, batch_size=16, precision="float32")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kind:
    """build: the network. shape: of one sample. dtype: of the samples; integers are tokens from 0 to 9.

    shaped: makes the inputs that the network takes of the samples, one tensor. stored: whether they are read when they are needed.
    target: the targets of samples of these classes, with noise of their own for each. target_of: the targets of these inputs, in
    place of it.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (6,)
    dtype: torch.dtype = torch.float32
    shaped: Callable[[Tensor], Inputs] = lambda inputs: inputs
    stored: bool = False
    objective: Objective = field(default_factory=lambda: classification(CLASSES))
    target: Callable[[Tensor, torch.Generator], Tensor] = lambda labels, generator: labels
    target_of: Callable[[Inputs], Tensor] | None = None


def samples(kind: Kind, count: int, *, name: str, seed: int) -> SampleSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % (kind.objective.classes or CLASSES)
    if kind.dtype.is_floating_point:
        inputs = torch.randn(count, *kind.shape, generator=generator)
        inputs += labels.view(-1, *[1] * len(kind.shape)) - 1
    else:
        inputs = torch.randint(3, (count, *kind.shape), generator=generator)
        inputs += 3 * labels.view(-1, *[1] * len(kind.shape))
    inputs = kind.shaped(inputs.to(kind.dtype))
    targets = kind.target(labels, generator) if kind.target_of is None else kind.target_of(inputs)
    targets = kind.objective.convert_targets(targets, name=name)
    made = SampleSet(ids=tuple(f"{name}-{i}" for i in range(count)), inputs=inputs, targets=targets)
    if not kind.stored:
        return made
    items = [tuple(made.batch.take(number)) for number in range(count)]
    return StoredSet.of(items, ids=made.ids, training=items)


def make_task(kind: Kind, *, epochs: int = RECIPE.epochs) -> Task:
    """A model of the kind, trained for so long, that is to forget 9 of its 45 samples, with reference predictions."""
    made = _make_task(kind, epochs)
    return replace(made, model=copy_network(made.model), state=State())


@functools.cache
def _make_task(kind: Kind, epochs: int) -> Task:
    forget, remain = samples(kind, 9, name="forget", seed=1), samples(kind, 36, name="remain", seed=2)
    objective = fitted(kind.objective, joined(forget, remain).targets)
    task = Task(
        model=fit(kind.build, joined(forget, remain), replace(RECIPE, epochs=epochs), objective=objective, seed=0),
        build=kind.build,
        objective=objective,
        recipe=RECIPE,
        forget=forget,
        remain=remain,
        guide=samples(kind, 18, name="guide", seed=3),
        criterion=samples(kind, 18, name="criterion", seed=4),
    )
    return with_references(task)


class Wrapped(nn.Module):
    """A network whose forward pass is given by a function of itself and the inputs."""

    def __init__(self, forward: Callable[[Any, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        self.way = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, inputs: Tensor) -> object:
        return self.way(self, inputs)


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return Wrapped(
        lambda own, x: own.head(own.encoder(own.up(x)).mean(1)), up=nn.Linear(4, 8), encoder=layer, head=head(8)
    )


def head(width: int) -> nn.Linear:
    return nn.Linear(width, CLASSES)


def convolution(dimensions: int) -> Callable[[], nn.Module]:
    kinds: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

    def build() -> nn.Module:
        return nn.Sequential(
            kinds[dimensions](2, 4, 2), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), head(4)
        )

    return build


def viewing() -> nn.Module:
    """Flattens by `view`, which images that are laid out channels-last refuse."""
    return Wrapped(lambda own, x: own.head(own.conv(x).relu().view(len(x), -1)), conv=nn.Conv2d(2, 4, 2), head=head(36))


def normed(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older ones are deprecated, and in many trained models
            return nn.Sequential(wrap(nn.Linear(6, 12)), nn.ReLU(), head(12))

    return build


class Remembering(nn.Module):
    """Keeps its last features and a lock, neither of which `copy.deepcopy` copies."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.lock = nn.Linear(6, 12), head(12), threading.Lock()

    def forward(self, inputs: Tensor) -> Tensor:
        with self.lock:
            self.last = {"features": [self.body(inputs).relu()]}
        answers: Tensor = self.head(self.last["features"][0])
        return answers


class FrozenNorm(nn.Module):
    """A pretrained layer and batch norm that fine-tuning leaves as they are, then batch norm that it moves."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.kept, self.moved, self.head = (
            nn.Linear(6, 12),
            nn.BatchNorm1d(12),
            nn.BatchNorm1d(12),
            head(12),
        )
        self.backbone.requires_grad_(False)
        self.kept.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self.kept.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.head(self.moved(self.kept(self.backbone(inputs))).relu())
        return answers


class NormEverywhere(nn.Module):
    """Batch norm first, between, of channels and on the logits; an integer buffer that counts in training, and a boolean mask."""

    seen: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.channels = nn.BatchNorm1d(6), nn.BatchNorm1d(12), nn.BatchNorm1d(2)
        self.body, self.conv, self.head, self.last = (
            nn.Linear(6, 12),
            nn.Conv1d(1, 2, 3),
            head(20),
            nn.BatchNorm1d(CLASSES),
        )
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.arange(20) % 5 > 0)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen += len(inputs)
        hidden = self.middle(self.body(self.first(inputs))).relu()
        features = self.channels(self.conv(hidden[:, None])).flatten(1).where(self.mask, 0.0)
        answers: Tensor = self.last(self.head(features))
        return answers


def recurrent(cell: type[nn.RNNBase], width: int = 4, classes: int = CLASSES) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return Wrapped(
            lambda own, x: own.head(own.cell(x)[0][:, -1]),
            cell=cell(width, 8, batch_first=True),
            head=nn.Linear(8, classes),
        )

    return build


class CudnnLSTM(nn.LSTM):
    """An LSTM whose gradient keeps cuDNN's rules on a CPU: refused after a forward pass in evaluation mode, and never twice.

    As in PyTorch, they hold for forward passes while `torch.backends.cudnn.enabled` is set.
    """

    def forward(self, *inputs: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Answer as LSTM does."""
        found, state = super().forward(*inputs)
        return _CudnnGradient.apply(found, self.training) if torch.backends.cudnn.enabled else found, state


class _CudnnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, training: bool) -> Tensor:
        ctx.training = training
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if not ctx.training:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        return _CudnnSecondGradient.apply(gradient), None


class _CudnnSecondGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise NotImplementedError("the derivative for '_cudnn_rnn_backward' is not implemented.")


def tokens() -> nn.Module:
    return Wrapped(lambda own, x: own.head(own.table(x).mean(1)), table=nn.Embedding(10, 8), head=head(8))


def padded(inputs: Tensor) -> dict[str, Tensor]:
    """Tokens with their mask, as tokenizers give them; each sample is as long as its number says."""
    mask = torch.arange(inputs.shape[1]) < 2 + torch.arange(len(inputs))[:, None] % 4
    return {"input_ids": inputs * mask, "attention_mask": mask.long()}


class Encoder(nn.Module):
    """Takes tokens and their mask by name, and returns an object, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), head(8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> object:
        seen = attention_mask[..., None].to(self.head.weight.dtype)
        hidden = self.layer(self.table(input_ids), src_key_padding_mask=attention_mask == 0) * seen
        return SimpleNamespace(logits=self.head(hidden.sum(1) / seen.sum(1)), loss=None)


class Pair(NamedTuple):
    words: Tensor
    numbers: list[Tensor]


def two_towers() -> nn.Module:
    """Takes a named tuple with a list in it, as its only argument."""
    return Wrapped(
        lambda own, x: own.head(own.norm(own.table(x.words).mean(1) + own.up(torch.cat(x.numbers, -1)))),
        table=nn.Embedding(10, 8),
        up=nn.Linear(5, 8),
        norm=nn.BatchNorm1d(8),
        head=head(8),
    )


class Several(nn.Module):
    """Takes two tensors as two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head(6)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        answers: Tensor = self.head(torch.cat([first, second], -1))
        return answers


def tied() -> nn.Module:
    body = nn.Linear(6, 6)
    return nn.Sequential(body, nn.ReLU(), body, head(6))


def two_heads() -> nn.Module:
    """Defines last a layer of the head's shape that is not the head, and uses the head twice."""
    return Wrapped(
        lambda own, x: own.head(own.body(x).relu() + 0 * own.side(own.head(own.body(x))).sum(1, keepdim=True)),
        head=head(12),
        body=nn.Linear(6, 12),
        side=nn.Linear(CLASSES, CLASSES),
    )


def head_per_token() -> nn.Module:
    return Wrapped(lambda own, x: own.head(x).mean(1), head=head(4))


class Outputs(NamedTuple):
    logits: Tensor
    auxiliary: Tensor | None


def network(outputs: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, outputs))


def returning(convert: Callable[[Tensor], object]) -> Callable[[], nn.Module]:
    return lambda: Wrapped(lambda own, x: convert(own.body(x)), body=network())


def unwrapping() -> Objective:
    """An own objective, that pre-processes the inputs and takes the logits out of an object, as `Forward` invites to."""

    def logits(forward: Forward, inputs: Tensor) -> Tensor:
        found: Tensor = forward(inputs * 1.0).answers
        return found

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(logits(forward, batch.inputs), batch.targets, reduction="none")

    return Objective(losses=losses, logits=logits, scramble=classification(CLASSES).scramble, classes=CLASSES)


def distances() -> Objective:
    """An own objective in a few lines: the absolute error of one number, as a model of waiting times may have it."""

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return (forward(batch.inputs)[:, 0] - batch.targets).abs()

    def shuffled(batch: Batch, generator: torch.Generator) -> Batch:
        return Batch(batch.inputs, batch.targets[torch.randperm(len(batch.targets), generator=generator)])

    hits = Merit(
        name="share of good answers", complement="share of bad answers", of=lambda found: 100.0 * (found.losses < 1)
    )
    return Objective(losses=losses, scramble=shuffled, merit=hits)


def losses_alone() -> Objective:
    """All that an objective must offer."""
    return Objective(losses=distances().losses)


def noisy_number(labels: Tensor, generator: torch.Generator) -> Tensor:
    return labels + torch.randn(len(labels), generator=generator)


def noisy_numbers(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Two numbers of very different size."""
    return torch.stack([noisy_number(labels, generator), 20_000 + 300 * noisy_number(labels, generator)], -1)


def noisy_labels(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Three labels, of which the class gives one, and chance others."""
    given = functional.one_hot(labels, CLASSES).bool() | (torch.rand(len(labels), CLASSES, generator=generator) < 0.2)
    return given.to(torch.uint8)


def next_token() -> nn.Module:
    """A language model of ten tokens."""
    return Wrapped(
        lambda own, x: own.head(own.cell(own.table(x))[0]),
        table=nn.Embedding(10, 8),
        cell=nn.GRU(8, 8, batch_first=True),
        head=nn.Linear(8, 10),
    )


class Decoder(nn.Module):
    """The same as a transformer that takes tokens and their mask by name, and returns an object, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> object:
        later = torch.ones(2 * input_ids.shape[-1:], dtype=torch.bool).triu(1)
        hidden = self.layer(self.table(input_ids), src_mask=later, src_key_padding_mask=attention_mask == 0)
        return SimpleNamespace(logits=self.head(hidden), loss=None)


class Denoiser(nn.Module):
    """Predicts the noise of images of 16 numbers from the noisy image, its noise level of 20, and its class."""

    def __init__(self) -> None:
        super().__init__()
        self.levels, self.classes = nn.Embedding(20, 16), nn.Embedding(CLASSES, 16)
        self.body = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))

    def forward(self, noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        given = noisy.flatten(1) + self.levels(levels) + self.classes(classes)
        noise: Tensor = self.body(given).view_as(noisy)
        return noise


def with_classes(images: Tensor) -> dict[str, Tensor]:
    """Images with the classes that `samples` gives them."""
    return {"images": images, "classes": torch.arange(len(images)) % CLASSES}


class Scaled(nn.Module):
    """Gives two numbers in the size of `noisy_numbers`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(outputs=2)

    def forward(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.body(inputs) * torch.tensor([1.0, 300.0]) + torch.tensor([0.0, 20_000.0])
        return values


def convert(dtype: torch.dtype) -> Callable[[], nn.Module]:
    return lambda: network().to(dtype)


KINDS: dict[str, Kind] = {
    "attention": Kind(build=attention, shape=(5, 4)),
    "Conv1d": Kind(build=convolution(1), shape=(2, 6)),
    "Conv2d": Kind(build=convolution(2), shape=(2, 4, 4)),
    "Conv3d": Kind(build=convolution(3), shape=(2, 3, 3, 3)),
    "reshaping by view": Kind(build=viewing, shape=(2, 4, 4)),
    "old weight norm": Kind(build=normed(torch.nn.utils.weight_norm)),
    "new weight norm": Kind(build=normed(torch.nn.utils.parametrizations.weight_norm)),
    "old spectral norm": Kind(build=normed(torch.nn.utils.spectral_norm)),
    "new spectral norm": Kind(build=normed(torch.nn.utils.parametrizations.spectral_norm)),
    "features kept and a lock": Kind(build=Remembering),
    "frozen batch norm": Kind(build=FrozenNorm),
    "batch norm everywhere, integer and boolean buffers": Kind(build=NormEverywhere),
    "LSTM as on cuDNN": Kind(build=recurrent(CudnnLSTM), shape=(5, 4)),
    "GRU": Kind(build=recurrent(nn.GRU), shape=(5, 4)),
    "tokens": Kind(build=tokens, shape=(5,), dtype=torch.int64),
    "a dict with a mask, by name": Kind(
        build=Encoder, shape=(5,), dtype=torch.int64, shaped=padded, objective=classification(CLASSES, spread=True)
    ),
    "a dict with a mask": Kind(
        build=lambda: Wrapped(lambda own, x: own.body(**x), body=Encoder()),
        shape=(5,),
        dtype=torch.int64,
        shaped=lambda inputs: OrderedDict(padded(inputs)),
    ),
    "a named tuple of inputs": Kind(
        build=two_towers,
        shape=(5,),
        dtype=torch.int64,
        shaped=lambda inputs: Pair(inputs, [inputs[:, :2].float(), inputs[:, 2:].float()]),
    ),
    "two arguments": Kind(
        build=Several, shaped=lambda inputs: inputs.split(3, 1), objective=classification(CLASSES, spread=True)
    ),
    "a data set that is read": Kind(build=lambda: nn.Sequential(nn.BatchNorm1d(6), network()), stored=True),
    "a data set of dicts with a mask": Kind(
        build=Encoder,
        shape=(5,),
        dtype=torch.int64,
        shaped=padded,
        stored=True,
        objective=classification(CLASSES, spread=True),
    ),
    "tied weights": Kind(build=tied),
    "two layers of the head's shape": Kind(build=two_heads),
    "a head a token": Kind(build=head_per_token, shape=(5, 4)),
    "float64": Kind(build=convert(torch.float64), dtype=torch.float64),
    "bfloat16": Kind(build=convert(torch.bfloat16), dtype=torch.bfloat16),
    "one output": Kind(build=lambda: network(outputs=1), objective=classification(2)),
    "a named tuple": Kind(build=returning(lambda logits: Outputs(logits, None))),
    "a dict": Kind(build=returning(lambda logits: {"loss": None, "logits": logits})),
    "a tuple": Kind(build=returning(lambda logits: (logits, [logits]))),
    "an object that an own objective unwraps": Kind(
        build=returning(lambda logits: SimpleNamespace(answers=logits)), objective=unwrapping()
    ),
}

OBJECTIVES: dict[str, Kind] = {
    "classification": Kind(build=network),
    "classification, one logit": Kind(build=lambda: network(outputs=1), objective=classification(2, weights=[1, 3])),
    "classification, weights and smoothing": Kind(
        build=network, objective=classification(CLASSES, weights=[1, 2, 3], label_smoothing=0.1)
    ),
    "multi-label": Kind(build=network, objective=multi_label(CLASSES), target=noisy_labels),
    "multi-label, one": Kind(
        build=lambda: network(outputs=1),
        objective=multi_label(1),
        target=lambda labels, generator: noisy_labels(labels, generator)[:, 0].bool(),
    ),
    "regression": Kind(build=lambda: network(outputs=1), objective=regression(), target=noisy_number),
    "regression, two outputs and Huber": Kind(build=Scaled, objective=regression(2, huber=1.0), target=noisy_numbers),
    "regression, in a dict": Kind(
        build=returning(lambda values: {"logits": values[:, :1]}), objective=regression(scale=2.0), target=noisy_number
    ),
    "causal language model": Kind(
        build=next_token,
        shape=(6,),
        dtype=torch.int64,
        objective=causal_language_model(10, context=6),
        target_of=lambda inputs: inputs,
    ),
    "causal language model, padded": Kind(
        build=Decoder,
        shape=(6,),
        dtype=torch.int64,
        shaped=padded,
        objective=causal_language_model(10, spread=True, named=4),
        target_of=lambda inputs: inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100),
    ),
    "denoising diffusion": Kind(
        build=Denoiser,
        shape=(1, 4, 4),
        objective=denoising_diffusion(CLASSES, (1, 4, 4), steps=20),
        shaped=with_classes,
    ),
    "an own objective": Kind(build=lambda: network(outputs=1), objective=distances(), target=noisy_number),
    "losses alone": Kind(build=lambda: network(outputs=1), objective=losses_alone(), target=noisy_number),
}
"""What models are trained for: each objective that is given, and a user's own."""
