#!/usr/bin/env python3
"""Trains the family of small convolutional networks that the examples merge.

One run makes everything: a base model, one expert per task, the frozen heads, the images, and what
methods that weigh parameters by gradients need.

    python3 examples/families/convnet/train.py --out examples/families/convnet/family

What is written below --out:

    base/config.json, base/model.safetensors   the pretrained model
    experts/TASK.safetensors                   the same parameters after fine-tuning on TASK
    heads/TASK.safetensors                     weight (classes x d) and bias
    samples/, validation/, test/               images as in examples/families/vision; those that are the same
                                               as in its family are links to the files there
    fisher/TASK.safetensors                    mean over images of the squared gradient of the
                                               loss in each parameter, at the expert, BF16
    sensitivity/TASK.safetensors               the mean of its absolute value, at the base, BF16

Images, fonts, tasks, heads and the optimiser are those of examples/families/vision/train.py, which also says
what has to be installed; the network is in convnet.py. Everything is drawn from --seed. Another
processor, version or number of threads rounds differently, so its family differs in detail.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from convnet import Config, ConvNet  # noqa: E402

FAMILIES = Path(__file__).resolve().parents[1]
TASKS = ("arabic", "devanagari", "digits", "fashion")


def load_script(name: str, path: Path) -> ModuleType:
    """A script as a module of another name than its file's: several here are called train.py."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


vision = load_script("vision_train", FAMILIES / "vision" / "train.py")


def train_base(config: Config, args: argparse.Namespace) -> ConvNet:
    """Trains the base on glyphs against one learned embedding per class.

    The logits' scale is bounded far below CLIP's 100, so that the classes must lie far apart in
    direction; heads made of the base's embeddings then bear what a merge does to them.
    """
    data, classes = vision.make_base_data(args.base_images, args.seed)
    print(f"base: {len(data.labels)} glyphs of {classes} classes", flush=True)
    torch.manual_seed(args.seed)
    model = ConvNet(config)
    names = nn.Parameter(torch.randn(classes, config.projection_dim))
    log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
    pixels = data.pixels()

    def loss(batch: Tensor) -> Tensor:
        embeds = F.normalize(model(pixels[batch]), dim=-1)
        logits = log_scale.exp().clamp(max=args.base_scale) * embeds @ F.normalize(names, dim=-1).T
        return F.cross_entropy(logits, data.labels[batch])

    generator = torch.Generator().manual_seed(args.seed)
    parameters = [*model.parameters(), names, log_scale]
    vision.fit(parameters, loss, len(pixels), args.base_steps, 128, args.base_rate, generator, 0.05)
    return vision.round_to_half(model)


def save_images(split: vision.Split, path: Path, other: Path) -> None:
    """Writes a split, or a link to a file that holds the same images and labels."""
    path.unlink(missing_ok=True)
    if other.is_file():
        there = load_file(other)
        same = torch.equal(there["pixel_values"], split.images)
        if same and torch.equal(there["labels"], split.labels):
            path.symlink_to(os.path.relpath(other.resolve(), path.resolve().parent))
            return
    split.save(path)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the family to")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--channels", type=int, nargs="+", default=list(Config.channels))
    parser.add_argument("--strides", type=int, nargs="+", default=list(Config.strides))
    parser.add_argument("--projection", type=int, default=64, help="size of the embeddings")
    parser.add_argument("--base-images", type=int, default=42000)
    parser.add_argument("--base-steps", type=int, default=3000)
    parser.add_argument("--base-rate", type=float, default=3e-3)
    parser.add_argument("--base-scale", type=float, default=10.0, help="bound of logits / cosines")
    parser.add_argument("--expert-steps", type=int, default=300)
    parser.add_argument("--expert-batch", type=int, default=64)
    parser.add_argument("--expert-rate", type=float, default=3e-4)
    parser.add_argument("--head-scale", type=float, default=20.0, help="length of a head's rows")
    parser.add_argument("--validation", type=int, default=220, help="images per task, at most 240")
    parser.add_argument("--test", type=int, default=580, help="images per task, at most 600")
    parser.add_argument("--gradients", type=int, default=256, help="images per task for these")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Makes the family."""
    args = parse_arguments()
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    config = Config(tuple(args.channels), tuple(args.strides), args.projection)
    splits = ("samples", "validation", "test")
    for folder in ("base", "experts", "heads", "fisher", "sensitivity", *splits):
        (args.out / folder).mkdir(parents=True, exist_ok=True)

    base = train_base(config, args)
    config.write(args.out / "base" / "config.json")
    vision.save_model(base, args.out / "base" / "model.safetensors")
    print(f"the base took {time.monotonic() - started:.0f} s", flush=True)
    tasks = vision.make_tasks(vision.Sizes(), args.seed)
    print(f"{'task':<12}{'classes':>8}{'moved %':>9}{'base':>7}{'expert':>8}   validation, top-1 %")
    for index, name in enumerate(TASKS):
        task, file = tasks[name], f"{name}.safetensors"
        task["validation"] = task["validation"].first(args.validation)
        task["test"] = task["test"].first(args.test)
        for split in splits:
            other = FAMILIES / "vision" / "family" / split / file
            save_images(task[split], args.out / split / file, other)
        train = task["train"]
        head = vision.make_head(base, train, args.head_scale)
        save_file({"weight": head.weight, "bias": head.bias}, args.out / "heads" / file)
        expert = vision.train_expert(
            base, head, train, args.seed + index, args.expert_steps, args.expert_batch,
            args.expert_rate,
        )
        vision.save_model(expert, args.out / "experts" / file)
        mean = functools.partial(vision.mean_of_gradients, head=head, split=train)
        squares = mean(expert, count=args.gradients, of=Tensor.square)
        vision.save_gradients(squares, args.out / "fisher" / file)
        sizes = mean(base, count=args.gradients, of=Tensor.abs)
        vision.save_gradients(sizes, args.out / "sensitivity" / file)
        before, after = (vision.accuracy(m, head, task["validation"]) for m in (base, expert))
        print(
            f"{name:<12}{len(head.bias):>8}{vision.distance(expert, base):>9.2f}"
            f"{before:>7.1f}{after:>8.1f}",
            flush=True,
        )
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
