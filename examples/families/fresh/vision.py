#!/usr/bin/env python3
"""Trains a family of small vision transformers for a single look by a finished method.

    python3 examples/families/fresh/vision.py --root ROOT --out FOLDER

Base, experts, heads and images are made by examples/families/vision/train.py, with other alphabets:
none of the tasks below is a task there. ROOT is a folder into which the packages of fonts that
README.md lists are unpacked. FOLDER gets train.py's layout and is not part of the repository.

The seed, 61, draws everything. The script prints what base and experts get on validation; it merges
nothing and scores nothing on the test split. It needs the Python packages of train.py but for
scikit-learn.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vision"))
import train  # noqa: E402
from train import SANS, SERIF, GlyphTask, letters, noto  # noqa: E402

BASE_SCRIPTS: train.Scripts = {
    "greek": (letters("α", "ω", "ς"), SANS + SERIF),
    "capitals": (letters("A", "Z"), SANS + SERIF),
    "arabic": (
        train.GLYPH_TASKS["arabic"].characters,
        ("NotoSansArabic-*", "NotoNaskhArabic-*", "NotoKufiArabic-*", "DejaVuSans*"),
    ),
    "devanagari": (train.GLYPH_TASKS["devanagari"].characters, noto("Devanagari")),
    "gurmukhi": (
        letters("\u0a15", "\u0a39", "\u0a29\u0a31\u0a33\u0a34\u0a36\u0a37"),
        noto("Gurmukhi"),
    ),
    "malayalam": (letters("\u0d15", "\u0d39", "\u0d29\u0d3a"), noto("Malayalam")),
    "sinhala": (letters("\u0d9a", "\u0dc6", "\u0db2\u0dbc\u0dbe\u0dbf"), noto("Sinhala")),
    "lao": ("ກຂຄງຈສຊຍດຕຖທນບປຜຝພຟມຢຣລວຫອຮ", noto("Lao")),
    "myanmar": (letters("\u1000", "\u1021", "\u1009"), noto("Myanmar")),
    "khmer": train.BASE_SCRIPTS["khmer"],
    "tifinagh": (letters("ⴰ", "ⵞ"), ("NotoSansTifinagh-*", "DejaVuSans*", "FreeSans*")),
    "canadian": ("ᐁᐃᐅᐊᐯᐱᐳᐸᑌᑎᑐᑕᑫᑭᑯᑲᒉᒋᒍᒐᒣᒥᒧᒪ", ("NotoSansCanadianAboriginal*", "DejaVuSans*")),
}

TASKS: dict[str, GlyphTask] = {
    "bengali": GlyphTask(
        train.BASE_SCRIPTS["bengali"][0],
        ("NotoSansBengali*",),
        ("FreeSans*",),
        ("NotoSerifBengali*",),
    ),
    "cherokee": GlyphTask(
        letters("Ꭰ", "Ᏼ")[::2],
        ("NotoSansCherokee*",),
        ("FreeSans*", "FreeMono*"),
        ("FreeSerif*",),
    ),
    "ethiopic": GlyphTask(
        "ሀለሐመሠረሰሸቀበተቸኀነኘአከኸወዐዘዠየደጀገጠጨጰጸፀፈፐ",
        ("NotoSansEthiopic*",),
        ("FreeSerif*",),
        ("NotoSerifEthiopic*",),
    ),
    "hebrew": GlyphTask(
        train.BASE_SCRIPTS["hebrew"][0],
        ("NotoSansHebrew*", "DejaVuSans*"),
        ("FreeSans*", "FreeMono*"),
        ("NotoSerifHebrew*", "FreeSerif*"),
    ),
    "lower": GlyphTask(
        letters("a", "z"),
        ("LiberationSans-*", "DejaVuSans*", "Roboto-*"),
        ("OpenSans*", "FreeSerif*"),
        ("Lato-*", "LiberationSerif*", "LiberationMono*"),
    ),
    "maths": GlyphTask(
        "∀∂∃∅∇∈∋∏∑∓∗√∝∞∠∧∨∩∪∫∴∼≅≈≠≡≤≥⊂⊃⊆⊇⊕⊗⊥",
        ("DejaVuSans*", "NotoSansMath*"),
        ("FreeMono*", "FreeSans*"),
        ("FreeSerif*",),
    ),
    "thai": GlyphTask(
        train.BASE_SCRIPTS["thai"][0],
        ("NotoSansThai-*", "NotoLoopedThai-*"),
        ("FreeSerif*",),
        ("NotoSerifThai*",),
    ),
}

# Points on the outline, and whether it is a star; each shape is a class filled and one outlined.
SHAPES = ((3, False), (4, False), (5, False), (6, False), (7, False), (5, True), (6, True))


def draw_shape(label: int, rng: np.random.Generator) -> np.ndarray:
    """A shape of any size, place and angle, at some contrast and with noise: 28 x 28 in [0, 1]."""
    points, star = SHAPES[label // 2]
    corners = 2 * points if star else points
    radius, turn = rng.uniform(13, 22), rng.uniform(0, 2 * math.pi)
    across, down = train.SIDE + rng.uniform(-5, 5, 2)
    outline = []
    for corner in range(corners):
        reach = radius / 2 if star and corner % 2 else radius
        angle = turn + 2 * math.pi * corner / corners
        outline.append((across + reach * math.cos(angle), down + reach * math.sin(angle)))
    canvas = Image.new("L", (2 * train.SIDE, 2 * train.SIDE))
    pen = ImageDraw.Draw(canvas)
    if label % 2:
        pen.polygon(outline, fill=255)
    else:
        pen.line(outline + outline[:2], fill=255, width=int(rng.integers(3, 6)))
    small = canvas.resize((train.SIDE, train.SIDE), Image.Resampling.BOX)
    image = np.asarray(small, np.float32) / 255 * rng.uniform(0.6, 1)
    return np.clip(image + rng.normal(0, 0.06, image.shape), 0, 1)


def shape_splits(sizes: train.Sizes, rng: np.random.Generator) -> dict[str, train.Split]:
    """The splits of the drawn shapes, all drawn alike."""
    splits = {}
    for name in ("train", "samples", "validation", "test"):
        labels = rng.permutation(np.arange(getattr(sizes, name)) % (2 * len(SHAPES)))
        images = np.stack([draw_shape(label, rng) for label in labels])
        splits[name] = train.Split.of(images, labels)
    return splits


def make_tasks(sizes: train.Sizes, seed: int) -> train.Tasks:
    """All splits of all tasks in alphabetical order; each task has a random stream of its own."""
    tasks = {}
    for index, name in enumerate(sorted([*TASKS, "shapes"])):
        rng = np.random.default_rng((seed, 1, index))
        if name == "shapes":
            tasks[name] = shape_splits(sizes, rng)
        else:
            tasks[name] = train.glyph_splits(TASKS[name], sizes, rng)
    return tasks


def main() -> None:
    """Makes the family."""
    parser = train.make_parser(__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="folder of unpacked packages")
    parser.set_defaults(
        seed=61, expert_steps=400, expert_rate=1e-4, validation=240, test=600, threads=1
    )
    args = parser.parse_args()
    train.FONTS = args.root / "usr/share/fonts"
    train.make_family(args, BASE_SCRIPTS, make_tasks)


if __name__ == "__main__":
    main()
