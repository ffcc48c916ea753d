#!/usr/bin/env python3
"""Tests examples/families/conflict: python3 tests/python/test_conflict.py

What makes the tasks of a pair opposed, the gradients that are stored, and the committed family.
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, numpy, pillow and safetensors it says so and exits 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from runner import Skipped, main, skip_all, test

CONFLICT = Path(__file__).resolve().parents[2] / "examples" / "families" / "conflict"
FAMILY = CONFLICT / "family"
sys.path.insert(0, str(CONFLICT))
sys.dont_write_bytecode = True

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import train
    from safetensors import safe_open
    from safetensors.torch import load_file
except ImportError as error:
    skip_all("examples/families/conflict needs torch, numpy, pillow and safetensors", error)

TINY = train.vision.Config(16, 24, 2, 2, 7, 8)


def drawn(sizes: train.vision.Sizes, rng: np.random.Generator) -> dict[str, train.vision.Split]:
    """Splits of noise in ten classes, in place of those of a data set."""
    return {
        name: train.vision.Split.of(
            rng.uniform(0, 1, (count, 28, 28)), rng.permutation(np.arange(count) % 10)
        )
        for name, count in (("train", 20), ("samples", sizes.samples), ("test", 20))
    }


def tiny_case() -> tuple[train.vision.ClipVision, train.vision.Head, train.vision.Split]:
    """A model that is not trained, a head with logits of some size, and images."""
    torch.manual_seed(4)
    model = train.vision.ClipVision(TINY)
    split = drawn(train.SIZES, np.random.default_rng(4))["train"]
    return model, train.make_head(model, split, 20.0), split


def file_of(folder: str, task: str) -> dict[str, torch.Tensor]:
    """A file of the committed family."""
    if not FAMILY.is_dir():
        raise Skipped("there is no examples/families/conflict/family")
    return load_file(FAMILY / folder / f"{task}.safetensors")


def split_of(folder: str, task: str) -> train.vision.Split:
    """Images and labels of the committed family."""
    file = file_of(folder, task)
    return train.vision.Split(file["pixel_values"], file["labels"])


@test
def five_labels_are_exchanged() -> None:
    moved = train.EXCHANGED != torch.arange(10)
    assert train.EXCHANGED.sort().values.equal(torch.arange(10))
    assert moved.tolist() == [False] * 5 + [True] * 5


@test
def the_veil_lifts_black_and_keeps_white_and_order() -> None:
    veiled = train.veil(torch.arange(256, dtype=torch.uint8))
    assert veiled.dtype == torch.uint8
    assert veiled[0] == train.GREY and veiled[255] == 255
    assert (veiled[1:].int() - veiled[:-1].int()).unique().tolist() == [0, 1]


@test
def a_pair_shares_pictures_but_not_samples() -> None:
    plain, opposed = train.pair_splits(drawn, (1, 2))
    for name in ("train", "test"):
        assert train.veil(plain[name].images).equal(opposed[name].images), name
        assert train.EXCHANGED[plain[name].labels].equal(opposed[name].labels), name
    every = drawn(train.SIZES, np.random.default_rng((1, 2)))["samples"]
    assert plain["samples"].images.equal(every.images[: train.SAMPLES])
    assert opposed["samples"].images.equal(train.veil(every.images[train.SAMPLES :]))
    assert opposed["samples"].labels.equal(train.EXCHANGED[every.labels[train.SAMPLES :]])
    assert len(plain["samples"].labels) == len(opposed["samples"].labels) == train.SAMPLES


@test
def sensitivity_is_the_mean_absolute_gradient() -> None:
    model, head, split = tiny_case()
    found = train.vision.mean_of_gradients(model, head, split, 5, torch.abs)
    logits = head(F.normalize(model(split.first(5).pixels()), dim=-1))
    losses = F.cross_entropy(logits, split.labels[:5], reduction="none")
    parameters = dict(model.named_parameters())
    each = [torch.autograd.grad(loss, parameters.values(), retain_graph=True) for loss in losses]
    means = [torch.stack(gradients).abs().mean(0) for gradients in zip(*each, strict=True)]
    # A batch of five sums in another order. F32 rounds a term by 6e-8 of it, and an entry is a sum
    # over 17 tokens, of terms as large as the largest gradient (zero, in the biases of keys).
    rounding = 17 * 6e-8 * max(mean.max() for mean in means)
    assert found.keys() == parameters.keys()
    for name, expected in zip(parameters, means, strict=True):
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=rounding), name


@test
def squares_are_at_least_the_squared_mean() -> None:
    # Jensen: mean g^2 >= (mean |g|)^2, both over the same gradients.
    model, head, split = tiny_case()
    means = train.vision.mean_of_gradients(model, head, split, 6, torch.abs)
    squares = train.vision.mean_of_gradients(model, head, split, 6, torch.square)
    for name, mean in means.items():
        assert (squares[name] >= mean.square() * (1 - 1e-5)).all(), name
    assert any((squares[name] > 1.1 * mean.square()).any() for name, mean in means.items())


@test
def small_gradients_survive_their_file(folder: Path) -> None:
    train.vision.save_gradients({"g": torch.tensor([1e-12, 3.0])}, folder / "g.safetensors")
    read = load_file(folder / "g.safetensors")["g"]
    assert read.dtype == torch.bfloat16
    # BF16 keeps 8 bits of a number, so it is off by at most 2^-9 of it.
    assert torch.allclose(read.float(), torch.tensor([1e-12, 3.0]), rtol=2**-9, atol=0)


@test
def the_family_is_complete() -> None:
    if not FAMILY.is_dir():
        raise Skipped("there is no examples/families/conflict/family")
    config = json.loads((FAMILY / "base" / "config.json").read_text())
    assert config["architectures"] == ["CLIPVisionModelWithProjection"]
    files = [path for path in FAMILY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    names = sorted(f"{task}.safetensors" for task in train.TASKS)
    for folder in FAMILY.iterdir():
        if folder.name != "base":
            assert sorted(path.name for path in folder.iterdir()) == names, folder
    base = load_file(FAMILY / "base" / "model.safetensors")
    for task in train.TASKS:
        for kind, dtype in (
            ("experts", torch.float16),
            ("fisher", torch.bfloat16),
            ("sensitivity", torch.bfloat16),
        ):
            tensors = file_of(kind, task)
            assert tensors.keys() == base.keys()
            for name, value in tensors.items():
                assert value.shape == base[name].shape and value.dtype == dtype, (task, name)
                assert value.isfinite().all(), (kind, task, name)
                assert kind == "experts" or (value >= 0).all(), (kind, task, name)
                # The bias of keys moves all scores of a query alike: its gradient is zero.
                assert value.any() or name.endswith("k_proj.bias"), (kind, task, name)


@test
def the_files_of_a_pair_are_opposed() -> None:
    for pair in train.PAIRS:
        opposed = pair + train.OPPOSED
        heads = [file_of("heads", task) for task in (pair, opposed)]
        assert all(heads[0][name].equal(heads[1][name]) for name in ("weight", "bias"))
        for folder, count in (("validation", train.SIZES.validation), ("test", train.SIZES.test)):
            ours, theirs = split_of(folder, pair), split_of(folder, opposed)
            assert len(ours.labels) == count
            expected = train.oppose(ours)
            assert theirs.images.equal(expected.images) and theirs.labels.equal(expected.labels)
        # Veiled, no picture of the samples is another's, nor one of validation or test.
        folders = ("samples", "validation", "test")
        parts = [train.veil(split_of(folder, pair).images) for folder in folders]
        parts.append(split_of("samples", opposed).images)
        every = [picture.numpy().tobytes() for part in parts for picture in part]
        assert len(set(every)) == len(every), pair
        for task in (pair, opposed):
            assert len(split_of("samples", task).labels) == train.SAMPLES
            with safe_open(FAMILY / "samples" / f"{task}.safetensors", "np") as file:
                assert set(file.metadata()) == {"mean", "std"}


@test
def experts_are_good_and_opposed() -> None:
    def expert(task: str) -> train.vision.ClipVision:
        model = train.vision.ClipVision(train.CONFIG)
        model.load_state_dict({n: v.float() for n, v in file_of("experts", task).items()})
        return model

    for pair in train.PAIRS:
        head = train.vision.Head(**file_of("heads", pair))
        tasks = (pair, pair + train.OPPOSED)
        splits = [split_of("test", task) for task in tasks]
        for index, task in enumerate(tasks):
            model = expert(task)
            own, other = (train.vision.accuracy(model, head, splits[i]) for i in (index, 1 - index))
            assert own >= 70 and other <= 60, (task, own, other)


if __name__ == "__main__":
    sys.exit(main())
