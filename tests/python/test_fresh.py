#!/usr/bin/env python3
"""Tests examples/families/fresh: python3 tests/python/test_fresh.py

The shapes that vision.py draws, and that its tasks are new. Not text.py: its texts come from
Debian's packages, and test_text.py tests the rest.
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, numpy, pillow and safetensors it says so and exits 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runner import main, skip_all, test

FRESH = Path(__file__).resolve().parents[2] / "examples" / "families" / "fresh"
sys.path.insert(0, str(FRESH))
sys.dont_write_bytecode = True

try:
    import numpy as np
    import torch
    import vision
except ImportError as error:
    skip_all("examples/families/fresh needs torch, numpy, pillow and safetensors", error)


@test
def tasks_are_new() -> None:
    used = set().union(*(characters for characters, _ in vision.BASE_SCRIPTS.values()))
    committed = vision.train.GLYPH_TASKS.values()
    used.update(*(task.characters for task in committed))
    for name, task in vision.TASKS.items():
        assert len(set(task.characters)) == len(task.characters), name
        assert not used.intersection(task.characters), name
        fonts = (set(task.train), set(task.validation), set(task.test))
        assert len(set.union(*fonts)) == sum(map(len, fonts)), f"{name}: splits share fonts"


@test
def shapes_fill_their_classes_and_repeat() -> None:
    sizes = vision.train.Sizes(28, 14, 14, 28)
    first, second = (vision.shape_splits(sizes, np.random.default_rng(1)) for _ in "ab")
    for split, count in (("train", 28), ("samples", 14), ("validation", 14), ("test", 28)):
        images, labels = first[split].images, first[split].labels
        assert images.shape == (count, 1, 28, 28) and images.dtype == torch.uint8
        assert torch.bincount(labels).tolist() == [count // 14] * 14
        assert torch.equal(images, second[split].images)


@test
def filled_shapes_are_brighter() -> None:
    outlined, filled = (
        np.mean([vision.draw_shape(label, np.random.default_rng(i)).mean() for i in range(20)])
        for label in (4, 5)
    )
    assert 0 < outlined < filled < 1


if __name__ == "__main__":
    sys.exit(main())
