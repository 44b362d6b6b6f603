"""A Hugging Face causal language model from a folder, fine-tuned whole or by LoRA on the texts of a file.

    EXPUNGE_LM_FOLDER   the base model as `save_pretrained` writes it: config.json, model.safetensors and the tokenizer's files
    EXPUNGE_LM_TEXTS    JSON lines, each {"id": …, "subject": …, "text": …, "split": "train" | "held_out" | "test"}
    EXPUNGE_LM_LORA     rank of the adapter; without it all weights are fine-tuned

The original script trains the base model on all texts. What it needs for Expunge is marked. `transformers`, and for LoRA `peft`,
are installed where the worker runs (docs/models-and-data.md). Nothing is fetched from a hub.

`python -m examples.hugging_face` trains as the company did before, and saves the weights.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

# For Expunge
from unlearning.data.objectives import causal_language_model
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.errors import InvalidWorkload
from unlearning.files import content_sha256, file_sha256
from unlearning.storage import save_weights
from unlearning.training.run import TrainingRun

EPOCHS, BATCH, RATE = 3, 8, 2e-4
SPLITS = ("train", "held_out", "test")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"),
)
"""Files that determine which tokens a text becomes. A newer version may write the settings beside them in another way."""
WORKLOAD = "examples.hugging_face:workload"
"""The name under which this factory is registered: change it in a copy of this file."""


def build() -> nn.Module:
    """Build the model that is fine-tuned: the base model with its weights, and on it the adapter, if there is to be one.

    Raises InvalidWorkload for a rank that is none, and where the folder holds no safetensors: a pickled file may run any code when
    it is read.
    """
    folder, rank = _folder(), os.environ.get("EXPUNGE_LM_LORA")
    if rank is not None and not (rank.isascii() and rank.isdigit() and int(rank)):
        raise InvalidWorkload(f"EXPUNGE_LM_LORA is {rank!r}; it must be the rank of the adapter, 1 or more, or unset.")
    if not any(folder.glob("*.safetensors")):
        raise InvalidWorkload(
            f"{folder} has no *.safetensors file. Expunge loads no pickled weights (*.bin): load them once where you trust them, "
            "and write the folder anew with save_pretrained(…, safe_serialization=True)."
        )
    from transformers import AutoModelForCausalLM

    base: nn.Module = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    if rank is None:
        return base
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=int(rank), lora_alpha=2 * int(rank), target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: nn.Module = get_peft_model(base, lora)
    return adapted


def train(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    """Fine-tune by AdamW.

    For Expunge: the seed and the share of the epochs come from the run, each step is reported to it, and the state of each epoch's
    end is kept, so that a training whose worker is killed goes on from there.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01)
    epochs, per_epoch = max(1, round(run.share * EPOCHS)), data.batch_count(BATCH)
    order, first = torch.Generator().manual_seed(run.seed), 0
    if (saved := run.resume()) is not None:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        order.set_state(saved["order"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        for number, batch in enumerate(data.epoch(BATCH, order), start=1):
            optimiser.zero_grad()
            loss = model(**batch.inputs, labels=batch.targets).loss
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            run.report(epoch * per_epoch + number, epochs * per_epoch, loss=loss)
        run.checkpoint(
            model=model.state_dict(), optimiser=optimiser.state_dict(), order=order.get_state(), epoch=epoch + 1
        )


# For Expunge


def workload() -> Workload:
    """Make the workload of the folder and the texts.

    Raises InvalidWorkload if a folder, a file or a field is missing, a text is empty or longer than the context, or the tokenizer
    has tokens that the model does not know. Another tokenizer may have as many tokens; only its fingerprint shows it.
    """
    folder = _folder()
    tokenizer_files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not tokenizer_files:
        raise InvalidWorkload(f"{folder} has no tokenizer. Save the one that the model was trained with into it.")
    texts = _texts()
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InvalidWorkload("The tokenizer has no token for the end of a text (eos_token).")
    if len(tokenizer) > config.vocab_size:
        raise InvalidWorkload(
            f"The tokenizer has {len(tokenizer):,} tokens and the model {config.vocab_size:,}: it is not the model's own."
        )
    train_set, held_out, test = (
        _samples([one for one in texts if one["split"] == split], tokenizer, context=_context(config))
        for split in SPLITS
    )
    return Workload(
        name="language-model",
        build=build,
        train=train_set,
        held_out=held_out,
        test=test,
        objective=causal_language_model(
            config.vocab_size,
            context=_context(config),
            spread=True,
            text=partial(tokenizer.decode, skip_special_tokens=True),
        ),
        trainer=train,
        fingerprints={"tokenizer": _digest(tokenizer_files)},
    )


def _digest(files: Iterable[Path]) -> str:
    """Compute the SHA-256, as hex, of the names and the contents of files."""
    return content_sha256("".join(f"{file_sha256(file)}  {file.name}\n" for file in files).encode())


def _folder() -> Path:
    return _path("EXPUNGE_LM_FOLDER", Path.is_dir, "a folder that save_pretrained wrote")


def _path(name: str, exists: Callable[[Path], bool], what: str) -> Path:
    path = Path(os.environ.get(name, ""))
    if name not in os.environ or not exists(path):
        raise InvalidWorkload(f"{name} must name {what}; it is {os.environ.get(name)!r}.")
    return path


def _texts() -> list[Mapping[str, str]]:
    """Read the texts. Errors name a line and quote none."""
    found: list[Mapping[str, str]] = []
    lines = _path("EXPUNGE_LM_TEXTS", Path.is_file, "a file of JSON lines").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            one = json.loads(line)
        except ValueError:
            one = None
        if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in ("id", "subject", "text")):
            raise InvalidWorkload(f'Line {number} of the texts needs "id", "subject" and "text", each a string.')
        if one.get("split") not in SPLITS:
            raise InvalidWorkload(f'Line {number} of the texts needs a "split": {", ".join(SPLITS)}.')
        found.append({**one, "line": str(number)})
    return found


def _samples(texts: list[Mapping[str, str]], tokenizer: Any, *, context: int) -> SampleSet:
    """Make tokens of texts, with the end token, padded on the right to the longest."""
    rows = [[*tokenizer(one["text"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for one in texts]
    for one, row in zip(texts, rows, strict=True):
        if not 2 <= len(row) <= context:
            raise InvalidWorkload(
                f"The text in line {one['line']} has {len(row) - 1:,} tokens; it needs 1 to {context - 1:,}. Make several samples "
                "of one subject of a longer one."
            )
    longest = max(map(len, rows), default=0)
    tokens = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return SampleSet(
        ids=tuple(one["id"] for one in texts),
        inputs={"input_ids": tokens, "attention_mask": mask},
        targets=tokens.masked_fill(mask == 0, -100),
        subjects=tuple(one["subject"] for one in texts),
    )


def _context(config: Any) -> int:
    """Read the longest sequence that the model takes, in tokens; configurations of GPT-2 name it otherwise."""
    return int(config.max_position_embeddings if hasattr(config, "max_position_embeddings") else config.n_positions)


def main() -> None:
    """Train as the company did before, and save the weights in `weights/`.

    For Expunge: a file beside them says with which tokenizer, as `expunge train` does. `expunge register` reads it.
    """
    made = workload()
    torch.manual_seed(0)
    model = build()
    train(model, made.train, TrainingRun(seed=0))
    path, _ = save_weights(model, Path("weights"))
    recorded = {"workload": WORKLOAD, "fingerprints": dict(made.fingerprints)}
    path.with_suffix(".json").write_text(json.dumps(recorded))
    print(path)


if __name__ == "__main__":
    main()
