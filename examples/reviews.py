"""Short reviews: a transformer that is trained by a loop of its own, from scratch or on frozen embeddings.

`EXPUNGE_REVIEWS` names the archive of the sentence polarity data (Pang and Lee, ACL 2005; 10,662 sentences on films). Without it
reviews are generated: words of praise and of blame among neutral ones. A sixth of their labels is wrong, so that a network must
memorise the training reviews to be right about all of them. What a plain training script needs for Expunge is marked.
"""

import functools
import os
import random
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

# For Expunge: a set has IDs, a workload names its parts, and the loop tells a run how far it is.
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import Workload
from unlearning.errors import InvalidWorkload
from unlearning.training.run import TrainingRun

PRAISE = ["brilliant", "charming", "clever", "delightful", "fresh", "funny", "graceful", "honest", "lovely", "superb"]
BLAME = ["awful", "bland", "clumsy", "dull", "empty", "forced", "hollow", "lifeless", "messy", "stale"]
NEUTRAL = [f"word{number}" for number in range(120)]
LENGTH, MAX_LENGTH = 12, 40
"""Words of a review that is generated, at most, and of one that is read: the rest is cut off."""
UNKNOWN = " "
"""Stands for the words without a number; no word is a blank."""
RARE = 3
"""A word of the archive that occurs less often counts as unknown."""
WIDTH, HEADS = 32, 4
EPOCHS, BATCH, RATE = 24, 50, 3e-3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Corpus:
    """Reviews with their labels, 1 for praise. vocabulary: the words' numbers; 0 is padding and 1 an unknown word."""

    ids: tuple[str, ...]
    texts: Sequence[str]
    labels: Sequence[int]
    vocabulary: Mapping[str, int]
    length: int


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.queries_keys_values, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Transform words, (n, length, width); mask: (n, length) bool, False for padding."""
        parts = self.queries_keys_values(self.first(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None, :])
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.feed_forward(self.second(x))
        return out


class Transformer(nn.Module):
    """Classify reviews: tokens (n, length) int64 and their mask → logits (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(len(corpus().vocabulary), WIDTH), nn.Embedding(corpus().length, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Average over the words that are no padding."""
        x = self.words(tokens) + self.places.weight
        for block in self.blocks:
            x = block(x, mask)
        share = mask.to(x.dtype)[..., None]
        logits: Tensor = self.head((x * share).sum(1) / share.sum(1))
        return logits


def on_frozen_embeddings() -> nn.Module:
    """Build the transformer on word embeddings that are given and do not train, as those of a downloaded encoder.

    For Expunge: `build` freezes what training leaves as it is.
    """
    model = Transformer()
    with torch.no_grad():
        model.words.weight.normal_(generator=torch.Generator().manual_seed(7))
    model.words.requires_grad_(False)
    return model


def train(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    """Train by AdamW with a warm-up and a clipped gradient.

    For Expunge: the seed and the share of the epochs come from the run, each step is reported to it, and the state of each epoch's
    end is kept, so that a training whose worker is killed goes on from there.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01)
    epochs, per_epoch = max(1, round(run.share * EPOCHS)), data.batch_count(BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * per_epoch, pct_start=0.1)
    order, first = torch.Generator().manual_seed(run.seed), 0
    if (saved := run.resume()) is not None:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        order.set_state(saved["order"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        for number, batch in enumerate(data.epoch(BATCH, order), start=1):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(**batch.inputs), batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            run.report(epoch * per_epoch + number, epochs * per_epoch, loss=loss)
        run.checkpoint(
            model=model.state_dict(),
            optimiser=optimiser.state_dict(),
            schedule=schedule.state_dict(),
            order=order.get_state(),
            epoch=epoch + 1,
        )


def workload() -> Workload:
    """Make the workload: half of the reviews to train on, a third held out, the others for the test, split once from one seed."""
    everything = _samples()
    half, third = len(everything) // 2, len(everything) // 3
    train_set, held_out, test = partition(everything, (half, third, len(everything) - half - third), seed=0)
    return Workload(
        name="reviews",
        build=Transformer,
        train=train_set,
        held_out=held_out,
        test=test,
        objective=classification(2, spread=True),
        trainer=train,
    )


def frozen_workload() -> Workload:
    """Make the same workload for a transformer on frozen embeddings."""
    return replace(workload(), name="reviews-frozen", build=on_frozen_embeddings)


def review(dice: random.Random) -> tuple[str, int]:
    """Write a review of 5 to 12 words; return it with its label, 1 for praise."""
    label = dice.randrange(2)
    words = dice.choices((BLAME, PRAISE)[label], k=2) + dice.choices(NEUTRAL, k=dice.randint(3, LENGTH - 2))
    dice.shuffle(words)
    return " ".join(words), label if dice.random() > 1 / 6 else 1 - label


def encode(texts: list[str]) -> dict[str, Tensor]:
    """Return tokens (n, length) int64, padded with 0, and their mask (n, length) bool."""
    vocabulary, length = corpus().vocabulary, corpus().length
    tokens = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [vocabulary.get(word, 1) for word in text.split()[:length]]
        row[: len(numbers)] = torch.tensor(numbers)
    return {"tokens": tokens, "mask": tokens != 0}


def corpus() -> Corpus:
    """Return the reviews of the archive that `EXPUNGE_REVIEWS` names, or generated ones."""
    return _corpus(os.environ.get("EXPUNGE_REVIEWS"))


@functools.cache
def _corpus(archive: str | None) -> Corpus:
    if archive is not None:
        return _read(archive)
    dice = random.Random(0)
    texts, labels = zip(*(review(dice) for _ in range(1200)), strict=True)
    ids = tuple(f"review-{number:04d}" for number in range(len(texts)))
    words = ["", UNKNOWN, *PRAISE, *BLAME, *NEUTRAL]
    return Corpus(ids=ids, texts=texts, labels=labels, vocabulary=_numbered(words), length=LENGTH)


def _read(archive: str) -> Corpus:
    """Read the archive; a sample's ID is its label and its line. Raises InvalidWorkload if it is none."""
    try:
        with zipfile.ZipFile(archive) as found:
            names = {Path(name).name: name for name in found.namelist()}
            lines = {
                label: found.read(names[f"rt-polarity.{label}"]).decode("latin-1").splitlines()
                for label in ("neg", "pos")
            }
    except (OSError, zipfile.BadZipFile, KeyError):
        lines = {"neg": [], "pos": []}
    if not all(lines.values()):
        raise InvalidWorkload(
            f"EXPUNGE_REVIEWS must name a zip archive with rt-polarity.neg and rt-polarity.pos; {archive} is none."
        )
    ids, texts = zip(
        *((f"{label}-{number:04d}", text) for label in lines for number, text in enumerate(lines[label], start=1)),
        strict=True,
    )
    counts = Counter(word for text in texts for word in text.split())
    words = ["", UNKNOWN, *(word for word, count in counts.most_common() if count >= RARE)]
    labels = [int(sample.startswith("pos")) for sample in ids]
    return Corpus(ids=ids, texts=texts, labels=labels, vocabulary=_numbered(words), length=MAX_LENGTH)


def _numbered(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def _samples() -> SampleSet:
    found = corpus()
    return SampleSet(ids=found.ids, inputs=encode(list(found.texts)), targets=torch.tensor(found.labels))


if __name__ == "__main__":
    made, network = workload(), Transformer()
    train(network, made.train, TrainingRun())  # For Expunge: the script's own run
    hits = network.eval()(**made.test.inputs).argmax(-1) == made.test.targets
    print(f"right about {hits.float().mean():.0%} of the test")
