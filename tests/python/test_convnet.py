#!/usr/bin/env python3
"""Tests examples/families/convnet: python3 tests/python/test_convnet.py

The network and the functions of train.py on a tiny configuration, and the files of the committed
family. (The rows that enter its layers: examples/python/tests/test_record.py.)
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, numpy, pillow and safetensors it says so and exits 0.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

from runner import Skipped, main, skip_all, test

ROOT = Path(__file__).resolve().parents[2]
FAMILY = ROOT / "examples" / "families" / "convnet" / "family"
FIXTURES = ROOT / "tests" / "fixtures" / "convnet"
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "examples" / "families" / "convnet"))

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import train
    from convnet import Config, ConvNet
    from safetensors import safe_open
    from safetensors.torch import load_file
    from torch import Tensor
except ImportError as error:
    skip_all("examples/families/convnet needs torch, numpy, pillow and safetensors", error)

TINY = Config((4, 6), (2, 2), 5)
# The least lead of an expert over the base on test, in points: some less than was measured.
LEADS = {"arabic": 12.0, "devanagari": 0.0, "digits": 18.0, "fashion": 18.0}
SPLITS = (("samples", 64), ("validation", 200), ("test", 400))


def tiny_split(count: int = 12, classes: int = 3) -> train.vision.Split:
    """Random images."""
    rng = np.random.default_rng(3)
    return train.vision.Split.of(rng.uniform(0, 1, (count, 28, 28)), np.arange(count) % classes)


def tiny_model(seed: int) -> ConvNet:
    """Random weights, as F16 holds them."""
    torch.manual_seed(seed)
    return train.vision.round_to_half(ConvNet(TINY))


def open_network(folder: Path, weights: Path) -> ConvNet:
    """The network of a folder's config.json, with the parameters of a file, behind any prefix."""
    model = ConvNet(Config.read(folder / "config.json"))
    tensors = {name[name.index("convnet.") :]: t for name, t in load_file(weights).items()}
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


@test
def configurations_are_read_as_written(folder: Path) -> None:
    config = Config((3, 5, 7), (1, 2, 1), 9, 16, 3, 1e-3)
    config.write(folder / "config.json")
    assert Config.read(folder / "config.json") == config
    text = (folder / "config.json").read_text().replace("catmerge_convnet", "resnet")
    (folder / "config.json").write_text(text)
    try:
        Config.read(folder / "config.json")
    except ValueError as error:
        assert "catmerge_convnet" in str(error)
    else:
        raise AssertionError("another network's configuration was read")


@test
def training_learns_and_repeats() -> None:
    base, split = tiny_model(3), tiny_split()
    head = train.vision.make_head(base, split, 20.0)
    before = copy.deepcopy(base.state_dict())
    first, second = (
        train.vision.train_expert(base, head, split, 5, steps=30, batch=8, rate=1e-2) for _ in "ab"
    )
    with torch.no_grad():
        losses = [
            F.cross_entropy(head(train.vision.embed(m, split.pixels())), split.labels)
            for m in (base, first)
        ]
    assert losses[1] < losses[0]
    assert train.vision.distance(first, base) > 0
    assert train.vision.distance(first, second) == 0
    assert all(torch.equal(base.state_dict()[name], p) for name, p in before.items())
    assert all(torch.equal(p, p.half().float()) for p in first.parameters())


@test
def means_of_gradients_are_over_single_images() -> None:
    model, split = tiny_model(4), tiny_split()
    head = train.vision.make_head(model, split, 20.0)
    each: list[Tensor] = []
    for i in range(4):
        embeds = F.normalize(model(split.pixels()[i : i + 1]), dim=-1)
        loss = F.cross_entropy(head(embeds), split.labels[i : i + 1])
        each.append(torch.autograd.grad(loss, model.convnet.projection.weight)[0])
    gradients = torch.stack(each)
    for of in (Tensor.square, Tensor.abs):
        means = train.vision.mean_of_gradients(model, head, split, 4, of)
        assert means.keys() == dict(model.named_parameters()).keys()
        found = means["convnet.projection.weight"]
        assert torch.allclose(found, of(gradients).mean(0), rtol=1e-5, atol=1e-12)


@test
def equal_images_are_linked(folder: Path) -> None:
    split, other = tiny_split(), tiny_split(6)
    (folder / "there").mkdir()
    split.save(folder / "there" / "a")
    train.save_images(split, folder / "same", folder / "there" / "a")
    train.save_images(other, folder / "different", folder / "there" / "a")
    train.save_images(split, folder / "alone", folder / "there" / "nothing")
    assert [p.name for p in folder.iterdir() if p.is_symlink()] == ["same"]
    assert (folder / "same").readlink() == Path("there/a")
    assert torch.equal(load_file(folder / "alone")["labels"], split.labels)
    assert torch.equal(load_file(folder / "different")["pixel_values"], other.images)
    train.save_images(other, folder / "same", folder / "there" / "a")  # takes the link's place
    assert not (folder / "same").is_symlink()
    assert torch.equal(load_file(folder / "there" / "a")["pixel_values"], split.images)


@test
def the_family_is_complete() -> None:
    if not FAMILY.is_dir():
        raise Skipped("there is no examples/families/convnet/family")
    files = [path for path in FAMILY.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000

    def shapes(path: Path) -> dict[str, list[int]]:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}

    base = shapes(FAMILY / "base" / "model.safetensors")
    assert base.keys() == ConvNet(Config.read(FAMILY / "base" / "config.json")).state_dict().keys()
    names = sorted(f"{name}.safetensors" for name in train.TASKS)
    for folder in ("experts", "heads", "fisher", "sensitivity", "samples", "validation", "test"):
        assert sorted(path.name for path in (FAMILY / folder).iterdir()) == names, folder
    for name in names:
        assert shapes(FAMILY / "experts" / name) == base, name
        for folder in ("fisher", "sensitivity"):
            assert shapes(FAMILY / folder / name) == base, name
            tensors = load_file(FAMILY / folder / name).values()
            assert all((t >= 0).all() and t.isfinite().all() for t in tensors)
            assert all(t.dtype == torch.bfloat16 and (t > 0).any() for t in tensors)
        for split, least in SPLITS:
            tensors = load_file(FAMILY / split / name)
            assert len(tensors["labels"]) >= least, (split, name)
            assert tensors["pixel_values"].shape == (len(tensors["labels"]), 1, 28, 28)


@test
def experts_are_better_than_the_base() -> None:
    if not FAMILY.is_dir():
        raise Skipped("there is no examples/families/convnet/family")
    torch.set_num_threads(1)
    base = open_network(FAMILY / "base", FAMILY / "base" / "model.safetensors")
    for name in train.TASKS:
        file = f"{name}.safetensors"
        head = train.vision.Head(**load_file(FAMILY / "heads" / file))
        images = load_file(FAMILY / "test" / file)
        split = train.vision.Split(images["pixel_values"], images["labels"])
        expert = open_network(FAMILY / "base", FAMILY / "experts" / file)
        before, after = (train.vision.accuracy(m, head, split) for m in (base, expert))
        assert after >= before + LEADS[name], (name, before, after)


if __name__ == "__main__":
    sys.exit(main())
