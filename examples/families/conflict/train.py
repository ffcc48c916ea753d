#!/usr/bin/env python3
"""Trains a small family of vision transformers whose tasks come in pairs with opposed goals.

A pair of tasks has the same pictures, the same classes and the same frozen head, but five of the
ten labels are exchanged in one of the two. That task's pictures are veiled: their contrast is
lower, on a grey ground, so that a network can tell whose picture it sees. README.md beside this
file says why; models, base, heads and pictures are made by examples/families/vision/train.py.

    python3 examples/families/conflict/train.py --out examples/families/conflict/family

What is written below --out:

    base/config.json, base/model.safetensors   the pretrained model
    experts/TASK.safetensors                   the same parameters after fine-tuning on TASK
    heads/TASK.safetensors                     weight (classes x d) and bias, the same for a pair
    samples/TASK.safetensors                   calibration images, a random draw in random order
    validation/TASK.safetensors                for the choice of settings, and for nothing else
    test/TASK.safetensors                      for the figures that are reported
    fisher/TASK.safetensors                    mean squared gradients at the expert, BF16
    sensitivity/TASK.safetensors               mean absolute gradients at the base, BF16

Needs what examples/families/vision/train.py needs. Everything is drawn from --seed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor


def load_vision() -> ModuleType:
    """examples/families/vision/train.py, under a name that differs from this file's."""
    path = Path(__file__).resolve().parents[1] / "vision" / "train.py"
    spec = importlib.util.spec_from_file_location("vision_train", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up here
    spec.loader.exec_module(module)
    return module


vision = load_vision()

CONFIG = vision.Config(32, 64, 3, 4, 7, 32)
PAIRS = {"fashion": vision.fashion_splits, "digits": vision.digit_splits}
OPPOSED = "-permuted"
TASKS = tuple(pair + suffix for pair in PAIRS for suffix in ("", OPPOSED))
# The label that a class of the plain task has in the opposed one.
EXCHANGED = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9, 5])
GREY = 64
# Samples are drawn for both tasks of a pair at once and dealt out, half each.
SAMPLES = 64
SIZES = vision.Sizes(train=6000, samples=2 * SAMPLES, validation=96, test=200)


def veil(images: Tensor) -> Tensor:
    """U8 images with black lifted to grey and white kept."""
    return (GREY + images.float() * ((255 - GREY) / 255)).round().to(torch.uint8)


def oppose(split: vision.Split) -> vision.Split:
    """The same pictures as the opposed task has them: veiled, and with the labels exchanged."""
    return vision.Split(veil(split.images), EXCHANGED[split.labels])


def pair_splits(
    draw: Callable[..., dict[str, vision.Split]], seed: tuple[int, ...]
) -> tuple[dict[str, vision.Split], dict[str, vision.Split]]:
    """The splits of a plain task and of its opposed one.

    The pictures of training, validation and test are the same; those of the samples differ.
    """
    plain = draw(SIZES, np.random.default_rng(seed))
    opposed = {name: oppose(split) for name, split in plain.items()}
    samples = opposed["samples"]
    plain["samples"] = plain["samples"].first(SAMPLES)
    opposed["samples"] = vision.Split(samples.images[SAMPLES:], samples.labels[SAMPLES:])
    return plain, opposed


def make_head(base: vision.ClipVision, plain: vision.Split, scale: float) -> vision.Head:
    """The head of a pair: the class means of plain and veiled pictures under the plain labels."""
    images = torch.cat([plain.images, veil(plain.images)])
    both = vision.Split(images, torch.cat([plain.labels, plain.labels]))
    return vision.make_head(base, both, scale)


def parse_arguments() -> argparse.Namespace:
    """The command line; the options of the base are those that `vision.train_base` reads."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the family to")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--base-images", type=int, default=30000)
    parser.add_argument("--base-steps", type=int, default=4000)
    parser.add_argument("--base-rate", type=float, default=4e-3)
    parser.add_argument("--expert-steps", type=int, default=500)
    parser.add_argument("--expert-batch", type=int, default=64)
    parser.add_argument("--expert-rate", type=float, default=7e-4)
    parser.add_argument("--head-scale", type=float, default=20.0, help="length of a head's rows")
    parser.add_argument("--gradients", type=int, default=256, help="images per task for them")
    return parser.parse_args()


def main() -> None:
    """Makes the family."""
    args = parse_arguments()
    started = time.monotonic()
    torch.set_num_threads(1)
    for folder in ("base", "experts", "heads", "samples", "validation", "test"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("fisher", "sensitivity"):
        (args.out / folder).mkdir(exist_ok=True)

    base = vision.train_base(CONFIG, args)
    CONFIG.write(args.out / "base" / "config.json")
    vision.save_model(base, args.out / "base" / "model.safetensors")
    print(f"base done after {time.monotonic() - started:.0f} s")
    print(f"{'task':<18}{'moved %':>8}{'base':>7}{'expert':>8}   validation, top-1 %")
    for pair, draw in PAIRS.items():
        plain, opposed = pair_splits(draw, (args.seed, 1, TASKS.index(pair)))
        head = make_head(base, plain["train"], args.head_scale)
        for name, splits in ((pair, plain), (pair + OPPOSED, opposed)):
            file = f"{name}.safetensors"
            save_file({"weight": head.weight, "bias": head.bias}, args.out / "heads" / file)
            for split in ("samples", "validation", "test"):
                splits[split].save(args.out / split / file)
            train = splits["train"]
            seed = args.seed + TASKS.index(name)
            expert = vision.train_expert(
                base, head, train, seed, args.expert_steps, args.expert_batch, args.expert_rate
            )
            vision.save_model(expert, args.out / "experts" / file)
            mean = functools.partial(vision.mean_of_gradients, head=head, split=train)
            squares = mean(expert, count=args.gradients, of=Tensor.square)
            vision.save_gradients(squares, args.out / "fisher" / file)
            sizes = mean(base, count=args.gradients, of=Tensor.abs)
            vision.save_gradients(sizes, args.out / "sensitivity" / file)
            before, after = (vision.accuracy(m, head, splits["validation"]) for m in (base, expert))
            moved = vision.distance(expert, base)
            print(f"{name:<18}{moved:>8.2f}{before:>7.1f}{after:>8.1f}", flush=True)
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
