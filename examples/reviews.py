"""Short reviews: a transformer that is trained by a loop of its own, from scratch or on frozen embeddings.

The reviews are generated: words of praise and of blame among neutral ones. A sixth of the labels is wrong, so that a network must
memorise the training reviews to be right about all of them. What a plain training script needs for Expunge is marked.
"""

import functools
import random
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

# For Expunge: a set has IDs, a workload names its parts, and the loop tells a run how far it is.
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import Workload
from unlearning.training.run import TrainingRun

PRAISE = ["brilliant", "charming", "clever", "delightful", "fresh", "funny", "graceful", "honest", "lovely", "superb"]
BLAME = ["awful", "bland", "clumsy", "dull", "empty", "forced", "hollow", "lifeless", "messy", "stale"]
NEUTRAL = [f"word{number}" for number in range(120)]
VOCABULARY = {word: number for number, word in enumerate(["", *PRAISE, *BLAME, *NEUTRAL])}
"""Numbers of the words; 0 is padding."""

LENGTH, WIDTH, HEADS = 12, 32, 4
EPOCHS, BATCH, RATE = 24, 50, 3e-3


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
        self.words, self.places = nn.Embedding(len(VOCABULARY), WIDTH), nn.Embedding(LENGTH, WIDTH)
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
    """Make the workload: 600 reviews to train on, 400 held out, 200 for the test, split once from one seed."""
    train_set, held_out, test = partition(_samples(), (600, 400, 200), seed=0)
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
    tokens = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [VOCABULARY[word] for word in text.split()]
        row[: len(numbers)] = torch.tensor(numbers)
    return {"tokens": tokens, "mask": tokens != 0}


@functools.cache
def _samples() -> SampleSet:
    dice = random.Random(0)
    texts, labels = zip(*(review(dice) for _ in range(1200)), strict=True)
    return SampleSet(
        ids=tuple(f"review-{number:04d}" for number in range(len(texts))),
        inputs=encode(list(texts)),
        targets=torch.tensor(labels),
    )


if __name__ == "__main__":
    made, network = workload(), Transformer()
    train(network, made.train, TrainingRun())  # For Expunge: the script's own run
    hits = network.eval()(**made.test.inputs).argmax(-1) == made.test.targets
    print(f"right about {hits.float().mean():.0%} of the test")
