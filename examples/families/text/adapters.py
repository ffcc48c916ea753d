#!/usr/bin/env python3
"""Trains LoRA adapters for the committed family of text encoders: its tasks, from its base.

One adapter of PEFT's per task, on the attention and feed-forward linears of the encoder, with the
task's classifier head in it. Tasks, splits, head and steps are train.py's.

    python3 examples/families/text/adapters.py --root ROOT \\
        --family examples/families/text/family --out examples/families/text/adapters

ROOT is train.py's, without the packages that only the base was trained on. What is written below
--out:

    TASK/adapter_config.json            ranks, scales and modules, as PEFT writes them, keys sorted
    TASK/adapter_model.safetensors      lora_A, lora_B and classifier.*, F16

Samples, validation and test are the family's files. Where this run's own splits equal them, its
training texts are the family's. Where they don't, as the machine's packages are others, training
texts that are near-duplicates of one of the files' by train.py's rule are left out, and those with
the same token ids. A line per task says which it was.

Needs what train.py needs, and peft; it was run with Python 3.11, torch 2.15.0, transformers
5.24.0, peft 0.21.2, tokenizers 0.23.3, safetensors 0.8.0, numpy 2.4.6 and wordfreq 3.1.1.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import torch
import train
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import RobertaForSequenceClassification

SPLITS = ("samples", "validation", "test")
MODULES = ("query", "key", "value", "intermediate.dense", "output.dense")
# Ranks differ, and so do the ways to say how strong an adapter is, as a merge has to know them
# all. The strength is lora_alpha / r, with use_rslora lora_alpha / sqrt(r).
ADAPTERS: dict[str, dict] = {
    "language": {"r": 16, "lora_alpha": 8, "use_rslora": True},
    "topic": {"r": 16, "lora_alpha": 32},
    "section": {"r": 8, "lora_alpha": 16},
    "testament": {"r": 4, "lora_alpha": 8},
    "frequency": {
        "r": 8,
        "lora_alpha": 16,
        "rank_pattern": {"query": 4, "key": 4},
        "alpha_pattern": {"query": 4, "key": 4, "intermediate.dense": 24},
    },
}


def read_split(path: Path) -> train.Encoded:
    """A file of texts of the family."""
    tensors = load_file(path)
    ids, mask = tensors["input_ids"].long(), tensors["attention_mask"].long()
    return train.Encoded(ids, mask, tensors["labels"])


def same(one: train.Encoded, other: train.Encoded) -> bool:
    """Whether two splits have the same texts and labels in the same order."""
    pairs = ((one.ids, other.ids), (one.mask, other.mask), (one.labels, other.labels))
    return all(torch.equal(first, second) for first, second in pairs)


def without(
    examples: list[train.Example],
    known: list[train.Encoded],
    tokenizer: Tokenizer,
    task: train.Task,
) -> list[train.Example]:
    """The examples that are neither texts of known splits nor near-duplicates of one."""
    rows = [row for split in known for row in split.ids.tolist()]
    texts = [train.Example(tokenizer.decode(row), 0, "") for row in rows]
    kept = train.thin(texts + examples)
    kept = [example for example in kept if example not in texts]
    tokens = len(rows[0])
    ids = train.Encoded.of(kept, task, tokenizer, tokens, train.PAD).ids.tolist()
    taken = set(map(tuple, rows))
    return [example for example, row in zip(kept, ids) if tuple(row) not in taken]


def read_task(
    name: str, root: Path, seed: int, tokens: int, family: Path, tokenizer: Tokenizer
) -> dict[str, train.Encoded]:
    """The family's files of a task, and training texts that are not in them."""
    task, made = train.TASKS[name], train.make_splits(name, root, seed)

    def encode(split: str) -> train.Encoded:
        return train.Encoded.of(made[split], task, tokenizer, tokens, train.PAD)

    splits = {split: read_split(family / split / f"{name}.safetensors") for split in SPLITS}
    equal = all(same(encode(split), splits[split]) for split in SPLITS)
    count = len(made["train"])
    if not equal:
        made["train"] = without(made["train"], list(splits.values()), tokenizer, task)
    print(
        f"{name}: splits {'equal the' if equal else 'differ from the'} family's,"
        f" {len(made['train'])} of {count} training texts taken",
        flush=True,
    )
    return splits | {"train": encode("train")}


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes what `PeftModel.from_pretrained` reads: weights in F16, the config's keys sorted."""
    model.peft_config["default"].base_model_name_or_path = "family/base"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_model.safetensors"
    halves = {name: value.half().contiguous() for name, value in load_file(path).items()}
    save_file(halves, path, {"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # PEFT writes the modules, a set, in any order. To a sequence classifier's it adds the names
    # that heads have in transformers, "classifier" and "score".
    for key in ("target_modules", "modules_to_save"):
        config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Makes the adapters, and prints the table of their experts as train.py does."""
    parser = train.make_parser(__doc__.splitlines()[0])
    parser.set_defaults(expert_rate=2e-3)
    parser.add_argument("--family", type=Path, required=True, help="folder that train.py wrote")
    args = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    base = args.family / "base"
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    experts: dict[str, nn.Module] = {}
    data: dict[str, dict[str, train.Encoded]] = {}
    shared: dict[str, torch.Tensor] = {}
    for name in train.FAMILY:
        data[name] = read_task(name, args.root, args.seed, args.tokens, args.family, tokenizer)
        began, seed = time.monotonic(), args.seed + list(train.TASKS).index(name)
        torch.manual_seed(seed)
        model = RobertaForSequenceClassification.from_pretrained(
            base, num_labels=train.TASKS[name].outputs, dtype=torch.float32
        )
        shared = copy.deepcopy(train.encoder_of(model, train.PREFIX))
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS, target_modules=list(MODULES), **ADAPTERS[name]
        )
        adapted = get_peft_model(model, config)
        train.train_expert(
            adapted,
            f"base_model.model.{train.PREFIX}",
            data[name]["train"],
            seed,
            args.expert_steps,
            args.expert_batch,
            args.expert_rate,
            args.head_rate,
        )
        save_adapter(adapted, args.out / name)
        experts[name] = adapted.merge_and_unload()
        moved = train.distance(train.encoder_of(experts[name], train.PREFIX), shared)
        print(f"{name}: moved {moved:.2f} %, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{'':<26}" + "".join(f"{name:>11}" for name in [*experts, "mean"]))
    train.report(shared, experts, data, train.PREFIX)
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
