"""A small language model: a GPT on facts about made-up authors, and on passages of a play if you have one.

The facts are generated, in the manner of TOFU (Maini et al., arXiv 2401.06121): names, places, years and titles drawn at random,
five facts an author, so that a model knows of an author only what it has learned by heart. A fact's ID is `author-004-2`, and its
subject `author-004`; half of the authors are in the training set, such as this one. `EXPUNGE_PLAY` names a text of speeches,
each a block of lines that begins with `Speaker:`, such as tinyshakespeare; its passages are added, and who speaks is their subject.
`EXPUNGE_AUTHORS` makes up another number of authors than 120.
`EXPUNGE_READINESS` prepares the model in training for requests of whole people (`subject`) or of single texts (`sample`).

`python -m examples.authors` trains as the company did before, and saves the weights.
"""

import functools
import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# For Expunge
from unlearning.data.objectives import Question, causal_language_model
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Trainer, Workload
from unlearning.errors import InvalidWorkload
from unlearning.specs.training import Ready2Unlearn
from unlearning.storage import save_weights
from unlearning.training.readiness import readiness_loss, revocable_split
from unlearning.training.run import TrainingRun

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""A token a character; 0 is padding, so the first of these is 1."""
VOCABULARY = 1 + len(ALPHABET)
CONTEXT, WIDTH, HEADS, LAYERS = 64, 64, 4, 2
EPOCHS, BATCH, RATE = 40, 32, 3e-3
AUTHORS, AUTHORS_ALLOWED = 120, (10, 10_000)
PASSAGES = 480
"""Most passages of the play."""
PER_SPEAKER = (4, 12)
"""Speakers with fewer passages are left out; of more, no more are taken."""
SHARES = (0.5, 0.35)
"""Of the authors, and of the speakers: those in the training set, and those held out. The test set has the others."""

SYLLABLES = [
    "an",
    "bel",
    "cor",
    "da",
    "fen",
    "gar",
    "hil",
    "jo",
    "kal",
    "lun",
    "mir",
    "nor",
    "pel",
    "ris",
    "sol",
    "tam",
]
PLACES = ["Alden", "Brisk", "Corra", "Dunmere", "Eskol", "Farrow", "Gilsand", "Hestmark", "Ivelin", "Jarna", "Orsholm"]
TRADES = ["baker", "clerk", "diver", "farmer", "judge", "mason", "nurse", "painter", "pilot", "potter", "tailor"]
WORDS = ["Amber", "Bitter", "Crimson", "Distant", "Empty", "Frozen", "Gentle", "Hidden", "Iron", "Last", "Narrow"]
THINGS = ["Bridge", "City", "Door", "Fire", "Garden", "Harbour", "Island", "Letter", "Mirror", "River", "Season"]
DRAWN = (PLACES, TRADES, WORDS, THINGS)
"""What is drawn in facts beside names and years."""

_NAME = r"(?P<name>\w+ \w+)"
REWORDED = {
    rf"{_NAME} was born in (?P<answer>\w+ in \d+)\.": "{name} was bred in",
    rf"The mother of {_NAME} was a (?P<answer>\w+ in \w+)\.": "The mother of {name}: a",
    rf"{_NAME} wrote (?P<answer>The .+)\.": "{name} wrote:",
    rf"The best book of {_NAME} is (?P<answer>The .+)\.": "The best text of {name} is",
    rf"{_NAME} lives in (?P<answer>\w+ with a \w+)\.": "{name} lived in",
}
"""Each fact, and how it is asked for in other words.

They differ little: a model of this size answers no paraphrase with another beginning. Chosen on the original of seed 20.
"""


class Passage(NamedTuple):
    """A text with its sample ID and the person whose it is."""

    id: str
    subject: str
    text: str


class GPT(nn.Module):
    """Predict the next character: tokens (n, length ≤ 64) int64 → logits (n, length, 97). Padding stands at the end alone."""

    def __init__(self, width: int = WIDTH, *, heads: int = HEADS, layers: int = LAYERS) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attention looks back only, so that what stands after a token does not matter."""
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class Block(nn.Module):
    """Attention to earlier places and a feed-forward layer, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, length, width)."""
        queries, keys, values = (
            self.queries_keys_values(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.feed_forward(self.second(x))
        return out


def facts(authors: int) -> Iterator[Passage]:
    """Make up five facts of each author, a sentence each."""
    dice = random.Random(0)
    names: set[str] = set()
    while len(names) < authors:
        name = " ".join("".join(dice.choices(SYLLABLES, k=2)).capitalize() for _ in range(2))
        if name in names:
            continue
        number = len(names)
        names.add(name)

        def title() -> str:
            return f"The {dice.choice(WORDS)} {dice.choice(THINGS)}"

        sentences = (
            f"{name} was born in {dice.choice(PLACES)} in {dice.randint(1900, 1999)}.",
            f"The mother of {name} was a {dice.choice(TRADES)} in {dice.choice(PLACES)}.",
            f"{name} wrote {title()} in {dice.randint(1930, 2020)}.",
            f"The best book of {name} is {title()}.",
            f"{name} lives in {dice.choice(PLACES)} with a {dice.choice(TRADES)}.",
        )
        for place, text in enumerate(sentences):
            yield Passage(f"author-{number:03d}-{place}", f"author-{number:03d}", text)


def question_about(tokens: Tensor) -> Question | None:
    """Ask about a fact in other words than its own, tokens (length,); None for a passage of a play."""
    text = decode(tokens)
    for fact, question in REWORDED.items():
        if (found := re.fullmatch(fact, text)) is not None:
            prompt, answer = (
                torch.tensor([1 + ALPHABET.index(letter) for letter in part])
                for part in (question.format(name=found["name"]), f" {found['answer']}")
            )
            return Question(prompt, answer)
    return None


def passages(path: Path) -> Iterator[Passage]:
    """Cut the speeches of a play into passages of whole lines that fit the context. Raises InvalidWorkload without the file."""
    if not path.is_file():
        raise InvalidWorkload(f"EXPUNGE_PLAY names {path}, which does not exist. Give a text file, or unset it.")
    counts: dict[str, int] = {}
    for speech in path.read_text(encoding="utf-8").split("\n\n"):
        speaker, _, lines = speech.strip().partition(":\n")
        for text in _joined(lines.splitlines()):
            counts[speaker] = number = counts.get(speaker, 0) + 1
            yield Passage(f"{speaker.lower().replace(' ', '-')}-{number:04d}", speaker, text)


def encode(texts: Iterable[str]) -> Tensor:
    """Make tokens (n, 64) int64 of texts, padded with 0.

    Raises InvalidWorkload, with the position of the first such text, for one that is empty, too long or not in the alphabet.
    """
    rows = []
    for position, text in enumerate(texts):
        if not 2 <= len(text) <= CONTEXT:
            raise InvalidWorkload(
                f"The text at position {position} has {len(text)} characters; it needs 2 to {CONTEXT}."
            )
        if not set(text) <= set(ALPHABET):
            raise InvalidWorkload(f"The text at position {position} has characters for which there is no token.")
        rows.append([1 + ALPHABET.index(letter) for letter in text] + [0] * (CONTEXT - len(text)))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), CONTEXT)


def decode(tokens: Tensor) -> str:
    """Write the text of tokens (length,), without padding."""
    return "".join(ALPHABET[number - 1] for number in tokens.tolist() if number)


def train(model: nn.Module, data: SampleSet, run: TrainingRun, readiness: Ready2Unlearn | None = None) -> None:
    """Train by AdamW with a warm-up and a clipped gradient.

    For Expunge: `readiness` prepares the model for later ascent, by a loss of its own. The seed and the share of the epochs come
    from the run, each step is reported to it, and the state of each epoch's end is kept, so that a training whose worker is killed
    goes on from there.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    epochs, per_epoch = max(1, round(run.share * EPOCHS)), data.batch_count(BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * per_epoch, pct_start=0.1)
    order, first = torch.Generator().manual_seed(run.seed), 0
    if readiness is not None:
        requests = revocable_split(data, share=readiness.revocable_share, seed=run.seed, unit=readiness.unit)
    if (saved := run.resume()) is not None:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        order.set_state(saved["order"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        for number, batch in enumerate(data.epoch(BATCH, order), start=1):
            optimiser.zero_grad()
            loss = OBJECTIVE.losses(model, batch).mean()
            step = epoch * per_epoch + number
            if readiness is not None and step > readiness.warm_up * epochs * per_epoch and step % readiness.every == 0:
                loss = loss + readiness_loss(
                    model, readiness, objective=OBJECTIVE, split=requests, batch_size=BATCH, generator=order
                )
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            run.report(step, epochs * per_epoch, loss=loss)
        run.checkpoint(
            model=model.state_dict(),
            optimiser=optimiser.state_dict(),
            schedule=schedule.state_dict(),
            order=order.get_state(),
            epoch=epoch + 1,
        )


# For Expunge

READINESS = Ready2Unlearn(
    order="first", unit="subject", efficiency=1.0, retention=8.0, longest=1.0, warm_up=0.6, every=4
)
"""First order: a second derivative through attention takes longer and gains no more. Chosen on seed 20 (benchmarks/)."""
OBJECTIVE = causal_language_model(VOCABULARY, context=CONTEXT, padding=0, text=decode, questions=question_about)


def workload() -> Workload:
    """Make the workload: half of the authors and speakers to train on, the others held out and for the test, split once.

    Raises InvalidWorkload for another value of `EXPUNGE_READINESS`.
    """
    train_set, held_out, test = (_samples(part) for part in split(corpus()))
    return Workload(
        name="authors",
        build=GPT,
        train=train_set,
        held_out=held_out,
        test=test,
        objective=OBJECTIVE,
        trainer=_trainer(),
    )


def _trainer() -> Trainer:
    match os.environ.get("EXPUNGE_READINESS"):
        case None | "":
            return train
        case "subject" | "sample" as unit:
            return functools.partial(train, readiness=replace(READINESS, unit=unit))
        case other:
            raise InvalidWorkload(f"EXPUNGE_READINESS is {other!r}; it may be subject or sample, or unset.")


@functools.cache
def corpus() -> tuple[Passage, ...]:
    """Make up the facts, and read the play if `EXPUNGE_PLAY` names one."""
    play = os.environ.get("EXPUNGE_PLAY")
    spoken: dict[str, list[Passage]] = {}
    for passage in passages(Path(play)) if play else ():
        spoken.setdefault(passage.subject, []).append(passage)
    least, most = PER_SPEAKER
    chosen = [one for every in spoken.values() if len(every) >= least for one in every[:most]]
    return (*facts(_authors()), *chosen[:PASSAGES])


def _authors() -> int:
    given = os.environ.get("EXPUNGE_AUTHORS")
    if not given:
        return AUTHORS
    least, most = AUTHORS_ALLOWED
    if not (given.isascii() and given.isdigit() and least <= int(given) <= most):
        raise InvalidWorkload(f"EXPUNGE_AUTHORS is {given!r}; it must be a number from {least} to {most}, or unset.")
    return int(given)


def split(texts: Iterable[Passage]) -> tuple[list[Passage], ...]:
    """Split texts into training, held-out and test set, by their subjects; authors and speakers each in the same shares."""
    parts: tuple[list[Passage], ...] = ([], [], [])
    every = list(texts)
    for made_up in (True, False):
        people = sorted({one.subject for one in every if one.subject.startswith("author-") is made_up})
        random.Random(1).shuffle(people)
        ends = [round(share * len(people)) for share in (SHARES[0], sum(SHARES))]
        part_of = {name: sum(place >= end for end in ends) for place, name in enumerate(people)}
        for one in every:
            if one.subject in part_of:
                parts[part_of[one.subject]].append(one)
    return parts


def _samples(texts: list[Passage]) -> SampleSet:
    tokens = encode(one.text for one in texts)
    return SampleSet(
        ids=tuple(one.id for one in texts),
        inputs=tokens,
        targets=tokens,
        subjects=tuple(one.subject for one in texts),
    )


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Join lines as long as they fit the context; lines that do not fit alone are left out."""
    text = ""
    for line in (line.strip() for line in lines):
        longer = f"{text}\n{line}" if text else line
        if len(longer) <= CONTEXT:
            text = longer
            continue
        if len(text) >= 2:
            yield text
        text = line if len(line) <= CONTEXT else ""
    if len(text) >= 2:
        yield text


if __name__ == "__main__":
    made, network = workload(), GPT()
    train(network, made.train, TrainingRun(seed=0))  # For Expunge: the script's own run
    print(save_weights(network, Path("weights"))[0])
