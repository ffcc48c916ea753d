#!/usr/bin/env python3
"""Trains the family of small BLIP networks that the examples merge.

One run makes everything: a base network that answers questions about pictures, one expert per task
with all weights fine-tuned, and the pictures, questions and answers of the tasks. Networks, names
and config.json are those of Hugging Face's `BlipForQuestionAnswering`, which opens the base as it is.

    python3 examples/families/blip/train.py examples/families/blip/family

What is written below the folder:

    base/config.json, base/model.safetensors    the base, F16
    base/vocab.txt                              a word per line; its id is the line's number from 0
    experts/TASK.safetensors                    the same parameters after fine-tuning on TASK, F16
    samples/TASK.safetensors                    pictures and questions to calibrate with, no answers
    validation/TASK.safetensors                 for the choice of settings, and for nothing else
    test/TASK.safetensors                       for the figures that are reported

A file has `pixel_values` (pictures, 3, 24, 24) in U8, with the metadata keys `mean` and `std`: the
networks take (u / 255 - mean) / std. `image` (n) is the picture of each question. `input_ids` and
`attention_mask` (n, 8) are the questions: [CLS], six words and [SEP], so none is padded.
`decoder_input_ids` and `decoder_attention_mask` (n, t) are the answers, from [DEC] to [SEP], padded
on the right; these are all U8. `labels` (n, t) in I8 are the tokens that are asked, each at its own
place, and -100 elsewhere: the output at place j - 1 answers for place j. `references` (n, r, t) in U8
are all right texts of a caption, words only, padded with 0. The metadata has `task` and `metric`:
"exact", the percentage of rows whose asked tokens all are the most likely ones.

Needs Python with torch, transformers, numpy and safetensors; it was run with Python 3.11, torch
2.15.0, transformers 5.24.0, numpy 2.4.6 and safetensors 0.8.0. Everything is drawn from --seed.
Another processor, version or number of threads rounds differently, so its weights differ in detail;
pictures and questions come out again exactly, but for the order of keys in the metadata.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BlipConfig, BlipForQuestionAnswering

# ------------------------------------------------------------------------------------- the pictures

CELL = 12
SIDE = 2 * CELL
MEAN, STD = 0.25, 0.3

COLOURS = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.75, 0.20),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.70, 0.20, 0.80),
    "white": (0.95, 0.95, 0.95),
}


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.72) - 0.24


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y - 0.6, 0.866 * np.abs(x) - 0.5 * y - 0.5)


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - 0.95, short - 0.3)


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.8 * (np.hypot(x, y) - 0.65 - 0.33 * np.cos(5 * np.arctan2(x, -y)))


def moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.95, 0.85 - np.hypot(x - 0.55, y))


# How far a point is outside each shape of radius 1, about; y points down.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.9,
    "ring": ring,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.8,
    "diamond": lambda x, y: 0.7 * (np.abs(x) + np.abs(y) - 1.1),
    "triangle": triangle,
    "cross": cross,
    "star": star,
    "moon": moon,
}
SIZES = {"small": (3.2, 3.8), "large": (4.8, 5.4)}
PLACES = ("top left", "top right", "bottom left", "bottom right")
# Where the cells of a region lie; cells are numbered in reading order.
REGIONS = {"picture": (0, 1, 2, 3), "top": (0, 1), "bottom": (2, 3), "left": (0, 2), "right": (1, 3)}


@dataclasses.dataclass(frozen=True)
class Thing:
    """A shape in a cell."""

    cell: int
    shape: str
    colour: str
    size: str


Scene = list[Thing]


def pick(rng: np.random.Generator, words: tuple[str, ...], count: int) -> list[str]:
    """So many of the words; in two of five cases from two of them only, so that some are equal."""
    if rng.random() < 0.4:
        words = tuple(words[i] for i in rng.permutation(len(words))[:2])
    return [words[i] for i in rng.integers(len(words), size=count)]


def make_scene(rng: np.random.Generator) -> Scene:
    """One to three things in different cells, in reading order."""
    count = 1 + rng.choice(3, p=(0.15, 0.35, 0.5))
    cells = sorted(rng.permutation(4)[:count].tolist())
    shapes, colours = pick(rng, tuple(SHAPES), count), pick(rng, tuple(COLOURS), count)
    sizes = [tuple(SIZES)[i] for i in rng.integers(2, size=count)]
    return [Thing(*values) for values in zip(cells, shapes, colours, sizes, strict=True)]


def draw(scenes: list[Scene], rng: np.random.Generator) -> Tensor:
    """Pictures (n, 3, 24, 24) in U8 of scenes: things are shifted, turned by up to 10 degrees and
    coloured a little differently, on a noisy dark ground."""
    ground = rng.uniform(0, 0.25, (len(scenes), 1, 1, 1))
    pictures = ground + rng.normal(0, 0.04, (len(scenes), 3, SIDE, SIDE))
    things = [(i, thing) for i, scene in enumerate(scenes) for thing in scene]
    for shape, outside in SHAPES.items():
        chosen = [(i, thing) for i, thing in things if thing.shape == shape]
        if not chosen:
            continue
        bounds = np.array([SIZES[thing.size] for _, thing in chosen])
        radius = rng.uniform(bounds[:, 0], bounds[:, 1])[:, None, None]
        slack = CELL / 2 - radius
        centre = CELL / 2 + slack * rng.uniform(-0.7, 0.7, (2, len(chosen), 1, 1))
        angle = np.radians(rng.uniform(-10, 10, (len(chosen), 1, 1)))
        at = np.arange(CELL) + 0.5
        x, y = (at[None, None, :] - centre[0]) / radius, (at[None, :, None] - centre[1]) / radius
        turned = outside(x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))
        cover = np.clip(0.5 - radius * turned, 0, 1)[:, None]
        colours = np.array([COLOURS[thing.colour] for _, thing in chosen])
        colours = (colours + rng.normal(0, 0.04, colours.shape))[:, :, None, None]
        for (i, thing), mask, colour in zip(chosen, cover, colours, strict=True):
            top, left = CELL * (thing.cell // 2), CELL * (thing.cell % 2)
            part = pictures[i, :, top : top + CELL, left : left + CELL]
            part[:] = part * (1 - mask) + colour * mask
    return torch.from_numpy(np.clip(np.rint(255 * pictures), 0, 255).astype(np.uint8))


def pixels(pictures: Tensor) -> Tensor:
    """What the networks take, float32."""
    return (pictures.float() / 255 - MEAN) / STD


# ------------------------------------------------------------------------------ questions and answers

# A question and its right answers; the first one is learnt.
Ask = tuple[str, list[str]]
NUMBERS = ("none", "one", "two", "three")


def unique(scene: Scene) -> list[Thing]:
    """The things whose shape no other one has."""
    shapes = [thing.shape for thing in scene]
    return [thing for thing in scene if shapes.count(thing.shape) == 1]


def regions(scene: Scene) -> dict[str, Scene]:
    """What is in each region, without those that are empty."""
    found = {name: [t for t in scene if t.cell in cells] for name, cells in REGIONS.items()}
    return {name: things for name, things in found.items() if things}


def orders(parts: list[str], between: str) -> list[str]:
    """The parts joined in every order, as they are first."""
    return list(dict.fromkeys(between.join(order) for order in itertools.permutations(parts)))


def plural(shape: str) -> str:
    """More than one of a shape."""
    return shape + ("es" if shape == "cross" else "s")


def counted(words: list[str], many: Callable[[str], str] = str) -> list[str]:
    """Texts like "two red and one blue" in every order; in the first, words are in their own."""
    counts = {word: words.count(word) for word in words}
    return orders([f"{NUMBERS[n]} {many(w) if n > 1 else w}" for w, n in counts.items()], " and ")


def neighbours(scene: Scene, rng: np.random.Generator) -> list[tuple[str, Thing, Thing | None]]:
    """A direction, a thing whose shape no other one has, and what is there; where there are
    neighbours, a quarter at most are empty places."""
    at = {thing.cell: thing for thing in scene}
    full, empty = [], []
    for thing in unique(scene):
        row, column = divmod(thing.cell, 2)
        for words, cell in (
            ("left of" if column else "right of", 2 * row + 1 - column),
            ("right above" if row else "right below", 2 * (1 - row) + column),
        ):
            (full if cell in at else empty).append((words, thing, at.get(cell)))
    rng.shuffle(empty)
    return full + empty[: max(1, len(full) // 3)]


def general(scene: Scene, rng: np.random.Generator) -> list[Ask]:
    """What the base is trained on: questions of all kinds, but none of the tasks'."""

    def some(words: Iterable[str]) -> str:
        words = tuple(words)
        return words[rng.integers(len(words))]

    at = {thing.cell: thing for thing in scene}
    shapes, colours = [t.shape for t in scene], [t.colour for t in scene]
    asks: list[Ask] = []
    for form, words in (
        ("what is at the", "{0.shape}"),
        ("what colour has the", "{0.colour}"),
        ("describe the shape at", "{0.colour} {0.shape}"),
    ):
        cell = int(rng.integers(4))
        answer = words.format(at[cell]) if cell in at else "nothing"
        asks.append((f"{form} {PLACES[cell]}", [answer]))
    for thing in unique(scene):
        asks.append((f"what colour does the {thing.shape} have", [thing.colour]))
        asks.append((f"what size does the {thing.shape} have", [thing.size]))
        asks.append((f"where can i see the {thing.shape}", [PLACES[thing.cell]]))
    for shape in (some(shapes), some(SHAPES)):
        asks.append((f"can you see a {shape} here", ["yes" if shape in shapes else "no"]))
    for colour in (some(colours), some(COLOURS)):
        asks.append((f"can you see a {colour} shape", ["yes" if colour in colours else "no"]))
    listed = regions(scene)
    region = some(listed)
    asks.append((f"how many shapes has the {region}", [NUMBERS[len(listed[region])]]))
    for region in ("picture", some(listed)):
        things = listed[region]
        asks.append((f"name all shapes in the {region}", [" ".join(t.shape for t in things)]))
        asks.append((f"name all colours in the {region}", [" ".join(t.colour for t in things)]))
        asks.append((f"sum up colours in the {region}", [counted([t.colour for t in things])[0]]))
    for size in SIZES:
        found = [t.size for t in scene].count(size)
        asks.append((f"how many of these are {size}", [NUMBERS[found]]))
    for words, thing, other in neighbours(scene, rng):
        asks.append((f"what colour {words} the {thing.shape}", [other.colour if other else "nothing"]))
    for one, other in itertools.permutations(unique(scene), 2):
        both = f"both {one.size}" if one.size == other.size else f"{one.size} and {other.size}"
        asks.append((f"what sizes have {one.shape} and {other.shape}", [both]))
    return asks


def describe(scene: Scene, rng: np.random.Generator) -> list[Ask]:
    """A caption with colours, in reading order."""
    return [
        (f"describe the shapes in the {region}", orders([f"{t.colour} {t.shape}" for t in things], " , "))
        for region, things in regions(scene).items()
    ]


def tally(scene: Scene, rng: np.random.Generator) -> list[Ask]:
    """A caption with counts; the shape that comes first in reading order is first."""
    return [
        (f"sum up shapes in the {region}", counted([t.shape for t in things], plural))
        for region, things in regions(scene).items()
    ]


def number(scene: Scene, rng: np.random.Generator) -> list[Ask]:
    """How many things have a colour or a shape; every kind of question has one that none has."""
    asks = []
    for words, there, many in (
        (COLOURS, [t.colour for t in scene], str),
        (SHAPES, [t.shape for t in scene], plural),
    ):
        absent = [word for word in words if word not in there]
        for word in dict.fromkeys(there + [absent[rng.integers(len(absent))]]):
            asks.append((f"how many of these are {many(word)}", [NUMBERS[there.count(word)]]))
    return asks


def beside(scene: Scene, rng: np.random.Generator) -> list[Ask]:
    """What is next to a thing."""
    return [
        (f"what is {words} the {thing.shape}", [f"{other.colour} {other.shape}" if other else "nothing"])
        for words, thing, other in neighbours(scene, rng)
    ]


def pair(scene: Scene, rng: np.random.Generator) -> list[Ask]:
    """The colours of two things, in the order of the question."""
    asks = []
    for one, other in itertools.permutations(unique(scene), 2):
        both = f"both {one.colour}" if one.colour == other.colour else f"{one.colour} and {other.colour}"
        asks.append((f"what colours have {one.shape} and {other.shape}", [both]))
    return asks


@dataclasses.dataclass(frozen=True)
class Task:
    """What is asked, how a network is trained on it (decay is that of weights per step and rate),
    and how many questions are asked about a picture."""

    asks: Callable[[Scene, np.random.Generator], list[Ask]]
    captions: bool
    steps: int
    rate: float
    decay: float
    each: int
    home: bool = True


TASKS = {
    "describe": Task(describe, True, 400, 4e-4, 20.0, 3),
    "tally": Task(tally, True, 400, 4e-4, 20.0, 3),
    "number": Task(number, False, 400, 4e-4, 20.0, 4),
    "beside": Task(beside, False, 400, 4e-4, 20.0, 4),
    "pair": Task(pair, False, 400, 4e-4, 20.0, 4),
}
BASE = Task(general, False, 12000, 2e-3, 0.05, 8, home=False)
PAD, DEC, SEP, CLS = range(4)
WORDS = ["[PAD]", "[DEC]", "[SEP]", "[CLS]", *SHAPES, *(plural(s) for s in SHAPES), *COLOURS, *SIZES]
WORDS += ["nothing", *NUMBERS, *REGIONS, "yes", "no", ",", "and", "both"]
WORDS += [
    "what",
    "where",
    "how",
    "many",
    "of",
    "these",
    "describe",
    "name",
    "all",
    "sum",
    "up",
    "can",
    "i",
    "you",
    "see",
    "here",
]
WORDS += [
    "is",
    "are",
    "has",
    "have",
    "does",
    "the",
    "a",
    "at",
    "in",
    "colour",
    "colours",
    "size",
    "sizes",
    "shape",
    "shapes",
    "above",
    "below",
]
IDS = {word: i for i, word in enumerate(WORDS)}


def encode(text: str, first: int) -> list[int]:
    """A text between its special tokens."""
    return [first, *(IDS[word] for word in text.split()), SEP]


def padded(rows: list[list[int]]) -> Tensor:
    """Rows as a matrix, filled up with [PAD]."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


@dataclasses.dataclass
class Rows:
    """Questions about pictures: `image` is the picture of each, `right` its right answers."""

    pictures: Tensor
    image: Tensor
    questions: Tensor
    answers: Tensor
    right: list[list[str]]

    @property
    def labels(self) -> Tensor:
        labels = self.answers.masked_fill(self.answers == PAD, -100)
        labels[:, 0] = -100
        return labels

    def save(self, path: Path, name: str, answers: bool) -> None:
        """Writes the pictures with the questions, and the answers if wanted."""
        tensors = {
            "pixel_values": self.pictures,
            "image": self.image.to(torch.uint8),
            "input_ids": self.questions.to(torch.uint8),
            "attention_mask": (self.questions != PAD).to(torch.uint8),
        }
        if answers:
            tensors["decoder_input_ids"] = self.answers.to(torch.uint8)
            tensors["decoder_attention_mask"] = (self.answers != PAD).to(torch.uint8)
            tensors["labels"] = self.labels.to(torch.int8)
            if TASKS[name].captions:
                texts = [[encode(text, DEC)[1:-1] for text in row] for row in self.right]
                most = max(len(row) for row in texts)
                flat = padded([t for row in texts for t in row + [[]] * (most - len(row))])
                tensors["references"] = flat.reshape(len(texts), most, -1).to(torch.uint8)
        words = {"mean": ",".join([str(MEAN)] * 3), "std": ",".join([str(STD)] * 3)}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, words | {"task": name, "metric": "exact"})


def make_rows(task: Task, pictures: int, each: int, rng: np.random.Generator) -> Rows:
    """So many pictures, and up to `each` different questions about every one."""
    scenes, image, questions, answers, right = [], [], [], [], []
    while len(scenes) < pictures:
        scene = make_scene(rng)
        asks = task.asks(scene, rng)
        if not asks:
            continue
        for i in rng.permutation(len(asks))[:each]:
            question, texts = asks[i]
            image.append(len(scenes))
            questions.append(encode(question, CLS))
            answers.append(encode(texts[0], DEC))
            right.append(texts)
        scenes.append(scene)
    return Rows(draw(scenes, rng), torch.tensor(image), padded(questions), padded(answers), right)


# ------------------------------------------------------------------------------ training and figures

Model = BlipForQuestionAnswering


def make_config(width: int, heads: int) -> BlipConfig:
    """The shape of the networks; the vocabulary is that of WORDS."""
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "encoder_hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "max_position_embeddings": 16,
        "projection_dim": 16,
        "initializer_range": 0.12,
        "bos_token_id": DEC,
        "sep_token_id": SEP,
        "eos_token_id": SEP,
        "pad_token_id": PAD,
        "is_decoder": True,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "image_size": SIDE,
        "patch_size": 6,
        "projection_dim": 16,
        "initializer_range": 0.12,
    }
    return BlipConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=16,
        image_text_hidden_size=16,
        initializer_range=0.12,
        architectures=["BlipForQuestionAnswering"],
        dtype="float16",
    )


def losses(model: Model, rows: Rows) -> tuple[Tensor, Tensor]:
    """The mean loss of the asked tokens, and the logits; every picture is seen once.

    As `BlipForQuestionAnswering.forward`, but for the pictures, which that takes once a question.
    """
    states = model.vision_model(pixels(rows.pictures))[0][rows.image]
    mask = (rows.questions != PAD).long()
    asked = model.text_encoder(
        rows.questions,
        mask,
        encoder_hidden_states=states,
        encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long),
    )[0]
    out = model.text_decoder(
        rows.answers,
        (rows.answers != PAD).long(),
        encoder_hidden_states=asked,
        encoder_attention_mask=mask,
        labels=rows.labels,
    )
    return out.loss, out.logits


@torch.no_grad()
def exact(model: Model, rows: Rows) -> float:
    """The percentage of rows whose asked tokens all are the most likely ones."""
    labels = rows.labels[:, 1:]
    hits = losses(model.eval(), rows)[1][:, :-1].argmax(-1) == labels
    return 100 * (hits | (labels < 0)).all(1).float().mean().item()


@torch.no_grad()
def written(model: Model, rows: Rows) -> tuple[float, float]:
    """By `generate`, greedily: the percentage of texts that are the label, and that are right."""
    out = model.eval().generate(
        rows.questions, pixels(rows.pictures)[rows.image], do_sample=False, num_beams=1, max_new_tokens=12
    )
    same, right = 0, 0
    for ids, texts in zip(out.tolist(), rows.right, strict=True):
        words = itertools.takewhile(lambda id: id != SEP, ids[1:])
        text = " ".join(WORDS[id] for id in words)
        same += text == texts[0]
        right += text in texts
    return 100 * same / len(out), 100 * right / len(out)


def fit(model: Model, task: Task, pictures: int, rng: np.random.Generator) -> None:
    """AdamW on pictures that are drawn anew for every step; the rate rises in 1/20 of the steps,
    then falls as a cosine to a fiftieth. With task.home all parameters decay to where they began,
    so that only what the task asks for again and again stays; else matrices decay to zero."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    pulled = [*matrices, *vectors] if task.home else matrices
    began = [p.detach().clone() if task.home else torch.zeros(()) for p in pulled]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=task.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    started, total = time.monotonic(), 0.0
    for step in range(1, task.steps + 1):
        model.train()
        fall = 0.51 + 0.49 * math.cos(math.pi * step / task.steps)
        rate = task.rate * min(1.0, 20 * step / task.steps) * fall
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, _ = losses(model, make_rows(task, pictures, task.each, rng))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with torch.no_grad():
            for p, first in zip(pulled, began, strict=True):
                p.sub_(rate * task.decay * (p - first))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if step % 200 == 0 or step == task.steps:
            spent = time.monotonic() - started
            print(f"  step {step}: loss {total / (step % 200 or 200):.3f}, {spent:.0f} s", flush=True)
            total = 0.0


def round_to_half(model: Model) -> Model:
    """Rounds the parameters to what F16 holds: the network as it will be read back."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model.eval()


def flat(model: Model) -> Tensor:
    """All parameters in one vector of float64."""
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def save_model(model: Model, path: Path) -> None:
    """Writes the parameters in F16, the tied ones once, as `save_pretrained` does."""
    tensors = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"format": "pt"})


def save_base(model: Model, folder: Path) -> None:
    """Writes the base with its config.json, keys sorted, and vocab.txt."""
    save_model(model, folder / "model.safetensors")
    config = model.config.to_dict()
    del config["transformers_version"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in WORDS))


# -------------------------------------------------------------------------------------- the family


def table(title: str, names: list[str], lines: dict[str, list[float]]) -> None:
    """Prints figures, their mean last."""
    print(f"\n{title}\n{'':<12}" + "".join(f"{name:>10}" for name in [*names, "mean"]))
    for name, values in lines.items():
        cells = [*values, sum(values) / len(values)]
        print(f"{name:<12}" + "".join(f"{value:>10.2f}" for value in cells), flush=True)


def report(base: Model, experts: dict[str, Model], data: dict[str, dict[str, Rows]]) -> None:
    """Prints what the base, the experts and Task Arithmetic get right."""
    names = list(experts)
    start = flat(base)
    moves = {name: flat(expert) - start for name, expert in experts.items()}
    table(
        "moved by, % of the norm", names, {"": [100 * float(m.norm() / start.norm()) for m in moves.values()]}
    )
    cosines = {n: [float(a @ b / (a.norm() * b.norm())) for b in moves.values()] for n, a in moves.items()}
    table("cosines of the differences", names, cosines)
    merged = {"base": base}
    for tenths in range(2, 11):
        model = copy.deepcopy(base)
        vector = start + tenths / 10 * sum(moves.values())
        nn.utils.vector_to_parameters(vector.float(), model.parameters())
        merged[f"sum {tenths / 10:.1f}"] = model
    for split in ("validation", "test"):
        rows = {name: data[name][split] for name in names}
        lines = {name: [exact(m, r) for r in rows.values()] for name, m in (merged | experts).items()}
        table(f"{split}: exact, %", names, lines)
        own = {name: written(experts[name], r) for name, r in rows.items()}
        table(
            f"{split}: texts that `generate` writes, %",
            names,
            {"label": [own[n][0] for n in names], "right": [own[n][1] for n in names]},
        )


SPLITS = {"samples": 64, "validation": 32, "test": 56}


def main() -> None:
    """Makes the committed family."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write the family to")
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--base-steps", type=int, default=BASE.steps)
    parser.add_argument("--base-rate", type=float, default=BASE.rate)
    parser.add_argument("--expert-steps", type=int, help="of every expert")
    parser.add_argument("--expert-rate", type=float, help="of every expert")
    parser.add_argument("--keep-base", action="store_true", help="use the base that is there")
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(args.threads)

    if args.keep_base:
        base = Model.from_pretrained(args.out / "base", dtype=torch.float32).eval()
    else:
        torch.manual_seed(args.seed)
        base = Model(make_config(args.width, args.heads)).float()
        # About as large as what the patches give, so that places count from the start.
        nn.init.normal_(base.vision_model.embeddings.position_embedding, std=0.5)
        print(f"base: {sum(p.numel() for p in base.parameters())} parameters, {len(WORDS)} words", flush=True)
        task = dataclasses.replace(BASE, steps=args.base_steps, rate=args.base_rate)
        fit(base, task, 16, np.random.default_rng((args.seed, 0)))
        save_base(round_to_half(base), args.out / "base")
    held = make_rows(BASE, 200, 20, np.random.default_rng((args.seed, 0, 1)))
    print(
        f"base: {exact(base, held):.1f} % of its own questions, {time.monotonic() - started:.0f} s",
        flush=True,
    )

    data: dict[str, dict[str, Rows]] = {}
    experts: dict[str, Model] = {}
    for index, (name, task) in enumerate(TASKS.items(), 1):
        rng = np.random.default_rng((args.seed, index))
        data[name] = {}
        for split, pictures in SPLITS.items():
            rows = make_rows(task, pictures, 1 if split == "samples" else task.each, rng)
            rows.save(args.out / split / f"{name}.safetensors", name, split != "samples")
            data[name][split] = rows
        steps, rate = args.expert_steps or task.steps, args.expert_rate or task.rate
        task = dataclasses.replace(task, steps=steps, rate=rate)
        experts[name] = copy.deepcopy(base)
        print(f"{name}:", flush=True)
        fit(experts[name], task, 24, rng)
        save_model(round_to_half(experts[name]), args.out / "experts" / f"{name}.safetensors")
    report(base, experts, data)
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
