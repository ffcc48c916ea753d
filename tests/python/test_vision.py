#!/usr/bin/env python3
"""Tests examples/families/vision: python3 tests/python/test_vision.py

The model and heads of train.py on a tiny configuration, and the files of the committed family.
With `transformers` installed, the outputs are compared with its CLIPVisionModelWithProjection.
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, numpy, pillow and safetensors it says so and exits 0.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from runner import Skipped, main, skip_all, test

VISION = Path(__file__).resolve().parents[2] / "examples" / "families" / "vision"
FAMILY = VISION / "family"
sys.path.insert(0, str(VISION))
sys.dont_write_bytecode = True

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import train
    from safetensors import safe_open
except ImportError as error:
    skip_all("examples/families/vision needs torch, numpy, pillow and safetensors", error)

TINY = train.Config(16, 24, 2, 2, 7, 8)


def tiny_split(count: int = 12, classes: int = 3) -> train.Split:
    """Random images."""
    rng = np.random.default_rng(3)
    return train.Split.of(rng.uniform(0, 1, (count, 28, 28)), np.arange(count) % classes)


@test
def agrees_with_transformers() -> None:
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError as error:
        raise Skipped("transformers is not installed") from error
    torch.manual_seed(1)
    model = train.round_to_half(train.ClipVision(TINY))
    with tempfile.TemporaryDirectory() as folder:
        TINY.write(Path(folder) / "config.json")
        train.save_model(model, Path(folder) / "model.safetensors")
        other, info = CLIPVisionModelWithProjection.from_pretrained(
            folder, output_loading_info=True
        )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    pixels = tiny_split().pixels()
    with torch.no_grad():
        theirs = other.float().eval()(pixel_values=pixels).image_embeds
        assert (theirs - model(pixels)).abs().max() <= 1e-5


@test
def heads_are_centred_cosines() -> None:
    torch.manual_seed(2)
    model, split = train.ClipVision(TINY), tiny_split()
    head = train.make_head(model, split, 20.0)
    embeds = train.embed(model, split.pixels())
    assert torch.allclose(embeds.norm(dim=-1), torch.ones(12))
    centre = embeds.mean(0)
    for c in range(3):
        direction = F.normalize(embeds[split.labels == c].mean(0) - centre, dim=-1)
        assert torch.allclose(head(embeds)[:, c], 20 * (embeds - centre) @ direction, atol=1e-4)


@test
def training_learns_and_repeats() -> None:
    torch.manual_seed(3)
    base, split = train.ClipVision(TINY), tiny_split()
    head = train.make_head(base, split, 20.0)
    first, second = (
        train.train_expert(base, head, split, 5, steps=30, batch=8, rate=3e-3) for _ in "ab"
    )
    assert train.accuracy(first, head, split) >= train.accuracy(base, head, split)
    assert train.distance(first, base) > 0 and train.distance(first, second) == 0
    assert all(torch.equal(p, p.half().float()) for p in first.parameters())
    squares = train.mean_of_gradients(first, head, split, 4, torch.square)
    assert squares.keys() == dict(first.named_parameters()).keys()
    assert all((value >= 0).all() for value in squares.values())


@test
def the_family_is_complete() -> None:
    if not FAMILY.is_dir():
        raise Skipped("there is no examples/families/vision/family")
    config = json.loads((FAMILY / "base" / "config.json").read_text())
    assert config["architectures"] == ["CLIPVisionModelWithProjection"]
    files = [path for path in FAMILY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000

    def shapes(path: Path) -> dict[str, tuple[list[int], str]]:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: (s.get_shape(), s.get_dtype()) for name, s in slices.items()}

    base = shapes(FAMILY / "base" / "model.safetensors")
    names = sorted(path.name for path in (FAMILY / "experts").iterdir())
    assert names == sorted(f"{name}.safetensors" for name in train.TASKS)
    for name in names:
        assert shapes(FAMILY / "experts" / name) == base, name
        classes = shapes(FAMILY / "heads" / name)["weight"][0][0]
        drawn = set()
        for split, least in (("samples", 64), ("validation", 200), ("test", 500)):
            with safe_open(FAMILY / split / name, "np") as file:
                images, labels = file.get_tensor("pixel_values"), file.get_tensor("labels")
                assert set(file.metadata()) == {"mean", "std"}
            assert images.dtype == np.uint8 and images.shape == (len(labels), 1, 28, 28)
            assert labels.dtype == np.int64 and 0 <= labels.min() <= labels.max() < classes
            assert len(labels) >= least, (split, name)
            found = {image.tobytes() for image in images}
            assert not found & drawn, f"{split}/{name} shares images with another split"
            drawn |= found


if __name__ == "__main__":
    sys.exit(main())
