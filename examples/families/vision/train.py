#!/usr/bin/env python3
"""Trains the family of small vision transformers that the examples merge.

One run makes everything: a base model, one expert per task, the frozen heads, and the images.
The models are the vision half of CLIP with its projection; parameter names, shapes and config.json
are those of Hugging Face's `CLIPVisionModelWithProjection`, which opens the result as it is.

    python3 examples/families/vision/train.py --out examples/families/vision/family

What is written below --out:

    base/config.json, base/model.safetensors   the pretrained model
    experts/TASK.safetensors                   the same parameters after fine-tuning on TASK
    heads/TASK.safetensors                     weight (classes x d) and bias; see `make_head`
    samples/TASK.safetensors                   calibration images, a random draw in random order
    validation/TASK.safetensors                for the choice of settings, and for nothing else
    test/TASK.safetensors                      for the figures that are reported
    fisher/TASK.safetensors                    with --fisher: mean squared gradients, BF16

Images are U8, (n, 1, 28, 28), with the metadata keys `mean` and `std`: the models take
(u / 255 - mean) / std. README.md beside this file describes tasks, fonts and licences.

Needs Debian 12 with the packages fonts-dejavu, fonts-liberation, fonts-freefont-ttf,
fonts-noto-core, fonts-noto-extra, fonts-ipafont, fonts-lato, fonts-roboto, fonts-open-sans and
dataset-fashion-mnist, and Python with torch, numpy, pillow, safetensors and scikit-learn; it was
run with Python 3.11, torch 2.15.0, numpy 2.4.6, pillow 13.0.0, safetensors 0.8.0 and scikit-learn
1.9.1. Everything is drawn from --seed. Another processor, version or number of threads rounds
differently, so its family differs in detail.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gzip
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

FONTS = Path("/usr/share/fonts")
FASHION = Path("/usr/share/datasets/fashion-mnist")
SIDE = 28
MEAN, STD = 0.25, 0.33

# ------------------------------------------------------------------------------------- the model


@dataclasses.dataclass(frozen=True)
class Config:
    """The shape of a vision transformer, in the words of its config.json."""

    hidden_size: int = 96
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    patch_size: int = 7
    projection_dim: int = 64
    image_size: int = SIDE
    num_channels: int = 1
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def write(self, path: Path) -> None:
        """Writes config.json as `CLIPVisionModelWithProjection.from_pretrained` reads it."""
        values = dataclasses.asdict(self) | {
            "architectures": ["CLIPVisionModelWithProjection"],
            "attention_dropout": 0.0,
            "dtype": "float16",
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "model_type": "clip_vision_model",
            "torch_dtype": "float16",
        }
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


class Embeddings(nn.Module):
    """Patches by a convolution, a class token in front, and positions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding(tokens, width)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class Attention(nn.Module):
    """Multi-head self-attention with four linear layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(n, tokens, self.heads, -1).transpose(1, 2)

        y = F.scaled_dot_product_attention(
            split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        )
        return self.out_proj(y.transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with quick GELU, x sigmoid(1.702 x), between them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTransformer(nn.Module):
    """Pixels to the class token of the last layer, normalised."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        # The name is misspelt in the original, and so in every checkpoint.
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return self.post_layernorm(x[:, 0])


class ClipVision(nn.Module):
    """`CLIPVisionModelWithProjection`: pixels (n, 1, 28, 28) to image_embeds (n, d)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("proj.weight") or "mlp" in name and parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual_projection(self.vision_model(pixels))


# ------------------------------------------------------------------------------------- the images


def letters(first: str, last: str, without: str = "") -> str:
    """The characters from first to last, both included."""
    return "".join(
        chr(code) for code in range(ord(first), ord(last) + 1) if chr(code) not in without
    )


SANS = ("DejaVuSans*", "LiberationSans*", "Lato-*", "Roboto*")
SERIF = ("DejaVuSerif*", "LiberationSerif*", "FreeSerif*")


def noto(script: str) -> tuple[str, ...]:
    """The names of a script's two large families."""
    return (f"NotoSans{script}-*", f"NotoSerif{script}-*")


# What a base is trained on: per script its characters and the fonts that draw them.
Scripts = Mapping[str, tuple[str, tuple[str, ...]]]

# None is in a task below.
BASE_SCRIPTS: Scripts = {
    "cyrillic": (letters("а", "я", "й"), SANS + SERIF),
    "hebrew": (letters("א", "ת", "ךםןףץ"), noto("Hebrew")),
    "thai": (letters("ก", "ฮ", "ฤฦ"), noto("Thai")),
    "georgian": (letters("ა", "ჰ"), noto("Georgian")),
    "armenian": (letters("ա", "ֆ"), noto("Armenian")),
    "tamil": ("அஆஇஈஉஊஎஏஐஒகஙசஜஞடணதநனபமயரறலளழவஷஸஹ", noto("Tamil")),
    "bengali": (letters("\u0995", "\u09b9", "\u09a9\u09b1\u09b3\u09b4\u09b5"), noto("Bengali")),
    "telugu": (letters("\u0c15", "\u0c39", "\u0c29\u0c31\u0c34"), noto("Telugu")),
    "gujarati": (letters("\u0a95", "\u0ab9", "\u0aa9\u0ab1\u0ab4"), noto("Gujarati")),
    "kannada": (letters("\u0c95", "\u0cb9", "\u0ca9\u0cb1\u0cb4"), noto("Kannada")),
    "khmer": (letters("ក", "អ", "ឝឞ"), noto("Khmer")),
    "latin": (letters("a", "z"), SANS + SERIF),
}


@dataclasses.dataclass(frozen=True)
class GlyphTask:
    """Letters as classes; training, validation and test use different fonts."""

    characters: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


GLYPH_TASKS: dict[str, GlyphTask] = {
    "capitals": GlyphTask(
        letters("A", "Z"),
        ("LiberationSans-*", "DejaVuSans*", "Roboto*", "NotoSerif-*"),
        ("OpenSans*", "FreeSerif*"),
        ("Lato-*", "LiberationSerif*", "LiberationMono*"),
    ),
    "greek": GlyphTask(
        letters("α", "ω", "ς"),
        ("DejaVuSans*", "NotoSerif-*", "Roboto*"),
        ("OpenSans*", "FreeSerif*"),
        ("Liberation*", "NotoSans-*", "DejaVuSerif*"),
    ),
    "kana": GlyphTask(
        "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん",
        ("ipag", "ipagp"),
        ("ipam",),
        ("ipamp",),
    ),
    "devanagari": GlyphTask(
        letters("\u0915", "\u0939", "\u0929\u0931\u0933\u0934"),
        ("NotoSansDevanagari-*",),
        ("FreeSans*", "FreeSerif*"),
        ("NotoSerifDevanagari-*",),
    ),
    "arabic": GlyphTask(
        "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
        ("NotoSansArabic-*", "FreeSerif*"),
        ("DejaVuSans*",),
        ("NotoNaskhArabic-*",),
    ),
}
TASKS = ("fashion", "digits", *GLYPH_TASKS)


def find_fonts(patterns: tuple[str, ...], characters: str) -> list[Path]:
    """The fonts that match, are not too thin for 28 pixels and have all the characters.

    A thin font or one of mathematics must be asked for by name.
    """
    unfit = ("Thin", "Hairline", "ExtraLight", "Math")
    found: list[Path] = []
    for pattern in patterns:
        for path in sorted(FONTS.rglob(f"{pattern}.ttf")):
            if path in found or any(word in path.name and word not in pattern for word in unfit):
                continue
            font = ImageFont.truetype(str(path), 24)
            missing = bytes(font.getmask("\uffff"))
            if all(bytes(font.getmask(c)) not in (missing, b"") for c in characters):
                found.append(path)
    if not found:
        raise SystemExit(f"no font with these characters matches {', '.join(patterns)}")
    return found


def draw_glyphs(
    characters: str, fonts: list[Path], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws letters at random sizes, places and angles up to 15 degrees; classes in turn.

    Returns images (count, 28, 28) in [0, 1], white on black, and labels (count,).
    """
    cache: dict[tuple[Path, int], ImageFont.FreeTypeFont] = {}
    labels = rng.permutation(np.arange(count) % len(characters))
    images = np.empty((count, SIDE, SIDE), np.float32)
    for i, label in enumerate(labels):
        key = (fonts[rng.integers(len(fonts))], int(rng.choice((34, 38, 42))))
        if key not in cache:
            cache[key] = ImageFont.truetype(str(key[0]), key[1])
        canvas = Image.new("L", (2 * SIDE, 2 * SIDE))
        left, top, right, bottom = cache[key].getbbox(characters[label])
        shift = rng.uniform(-4, 4, 2)
        place = (SIDE + shift[0] - (left + right) / 2, SIDE + shift[1] - (top + bottom) / 2)
        ImageDraw.Draw(canvas).text(place, characters[label], 255, cache[key])
        canvas = canvas.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        images[i] = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255
    return images, labels.astype(np.int64)


@dataclasses.dataclass
class Split:
    """Images U8 (n, 1, 28, 28) and their labels (n,)."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray) -> Split:
        """From images (n, 28, 28) in [0, 1]."""
        quantised = np.clip(np.rint(images * 255), 0, 255).astype(np.uint8)[:, None]
        return cls(torch.from_numpy(quantised), torch.from_numpy(labels.astype(np.int64)))

    def pixels(self) -> Tensor:
        """What the model takes, float32 (n, 1, 28, 28)."""
        return (self.images.float() / 255 - MEAN) / STD

    def first(self, count: int) -> Split:
        """The first so many, which are a random draw."""
        return Split(self.images[:count], self.labels[:count])

    def save(self, path: Path) -> None:
        """Writes the images with the constants that `pixels` uses."""
        tensors = {"pixel_values": self.images.contiguous(), "labels": self.labels}
        save_file(tensors, path, {"mean": str(MEAN), "std": str(STD)})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Images per task that are drawn for each split; --validation and --test write fewer."""

    train: int = 6000
    samples: int = 64
    validation: int = 240
    test: int = 600


def read_idx(path: Path) -> np.ndarray:
    """An array of the MNIST file format."""
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3]
    shape = np.frombuffer(data, ">i4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def cut(images: np.ndarray, labels: np.ndarray, *counts: int) -> Iterator[Split]:
    """Consecutive pieces of the given sizes."""
    start = 0
    for count in counts:
        yield Split.of(images[start : start + count], labels[start : start + count])
        start += count


def fashion_splits(sizes: Sizes, rng: np.random.Generator) -> dict[str, Split]:
    """Fashion-MNIST: training and samples from its 60,000, validation and test from its 10,000."""
    splits: list[Split] = []
    for name, counts in (
        ("train", (sizes.train, sizes.samples)),
        ("t10k", (sizes.validation, sizes.test)),
    ):
        images = read_idx(FASHION / f"{name}-images-idx3-ubyte.gz")
        labels = read_idx(FASHION / f"{name}-labels-idx1-ubyte.gz")
        order = rng.permutation(len(images))[: sum(counts)]
        splits += cut(images[order] / np.float32(255), labels[order], *counts)
    return dict(zip(("train", "samples", "validation", "test"), splits, strict=True))


def digit_splits(sizes: Sizes, rng: np.random.Generator) -> dict[str, Split]:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8, enlarged; test takes at most 500."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = rng.permutation(len(data.images))
    enlarged = np.stack(
        [
            np.asarray(
                Image.fromarray(np.uint8(data.images[i] * (255 / 16))).resize(
                    (SIDE, SIDE), Image.Resampling.BICUBIC
                )
            )
            for i in order
        ]
    )
    names = ("samples", "validation", "test", "train")
    test = min(sizes.test, 500)
    rest = len(order) - sizes.samples - sizes.validation - test
    counts = (sizes.samples, sizes.validation, test, rest)
    pieces = cut(enlarged / np.float32(255), data.target[order], *counts)
    return dict(zip(names, pieces, strict=True))


def glyph_splits(task: GlyphTask, sizes: Sizes, rng: np.random.Generator) -> dict[str, Split]:
    """The splits of a task of letters; samples are drawn with the fonts of training."""
    splits = {}
    for name, patterns in (
        ("train", task.train),
        ("samples", task.train),
        ("validation", task.validation),
        ("test", task.test),
    ):
        fonts = find_fonts(patterns, task.characters)
        images, labels = draw_glyphs(task.characters, fonts, getattr(sizes, name), rng)
        splits[name] = Split.of(images, labels)
    return splits


Tasks = dict[str, dict[str, Split]]


def make_tasks(sizes: Sizes, seed: int) -> Tasks:
    """All splits of all tasks; each task has a random stream of its own."""
    tasks = {}
    for index, name in enumerate(TASKS):
        rng = np.random.default_rng((seed, 1, index))
        if name == "fashion":
            tasks[name] = fashion_splits(sizes, rng)
        elif name == "digits":
            tasks[name] = digit_splits(sizes, rng)
        else:
            tasks[name] = glyph_splits(GLYPH_TASKS[name], sizes, rng)
    return tasks


def make_base_data(count: int, seed: int, scripts: Scripts = BASE_SCRIPTS) -> tuple[Split, int]:
    """The glyphs that the base is trained on, and the number of their classes."""
    rng = np.random.default_rng((seed, 0))
    total = sum(len(characters) for characters, _ in scripts.values())
    images, labels, first = [], [], 0
    for characters, patterns in scripts.values():
        fonts = find_fonts(patterns, characters)
        drawn = draw_glyphs(characters, fonts, count * len(characters) // total, rng)
        images.append(drawn[0])
        labels.append(drawn[1] + first)
        first += len(characters)
    return Split.of(np.concatenate(images), np.concatenate(labels)), total


# ----------------------------------------------------------------------------------- the training


@torch.inference_mode()
def embed(model: ClipVision, pixels: Tensor) -> Tensor:
    """image_embeds, each of length 1."""
    return torch.cat([F.normalize(model(part), dim=-1) for part in pixels.split(512)])


@dataclasses.dataclass
class Head:
    """logits = normalised image_embeds @ weight^T + bias."""

    weight: Tensor
    bias: Tensor

    def __call__(self, embeds: Tensor) -> Tensor:
        return embeds @ self.weight.T + self.bias


def make_head(base: ClipVision, split: Split, scale: float) -> Head:
    """A head as CLIP's text embeddings would be: fixed before any expert exists.

    Its rows are the class means of the base's embeddings, less the mean over all, brought to
    length 1, times scale. The bias takes the mean from the embeddings: scale w . (z - mean).
    """
    embeds = embed(base, split.pixels())
    classes = int(split.labels.max()) + 1
    means = torch.stack([embeds[split.labels == c].mean(0) for c in range(classes)])
    centre = embeds.mean(0)
    weight = scale * F.normalize(means - centre, dim=-1)
    return Head(weight.contiguous(), -(weight @ centre))


def accuracy(model: ClipVision, head: Head, split: Split) -> float:
    """Top-1 in percent."""
    right = head(embed(model, split.pixels())).argmax(-1) == split.labels
    return 100 * right.float().mean().item()


def fit(
    parameters: list[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    batch: int,
    rate: float,
    generator: torch.Generator,
    decay: float = 0.0,
) -> None:
    """AdamW with a linear warm-up of a tenth of the steps and a cosine decay.

    loss takes the indices of a batch out of `count` examples.
    """
    optimizer = torch.optim.AdamW(
        parameters, rate, betas=(0.9, 0.98), weight_decay=decay, fused=True
    )
    warm = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(steps):
        value = loss(torch.randint(count, (batch,), generator=generator))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def train_base(
    config: Config, args: argparse.Namespace, scripts: Scripts = BASE_SCRIPTS
) -> ClipVision:
    """Trains the base on glyphs against one learned embedding per class, as CLIP on captions."""
    data, classes = make_base_data(args.base_images, args.seed, scripts)
    print(f"base: {len(data.labels)} glyphs of {classes} classes", flush=True)
    torch.manual_seed(args.seed)
    model = ClipVision(config)
    names = nn.Parameter(torch.randn(classes, config.projection_dim))
    log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
    pixels = data.pixels()

    def loss(batch: Tensor) -> Tensor:
        embeds = F.normalize(model(pixels[batch]), dim=-1)
        logits = log_scale.exp().clamp(max=100) * embeds @ F.normalize(names, dim=-1).T
        return F.cross_entropy(logits, data.labels[batch])

    generator = torch.Generator().manual_seed(args.seed)
    parameters = [*model.parameters(), names, log_scale]
    fit(parameters, loss, len(pixels), args.base_steps, 192, args.base_rate, generator, 0.05)
    return round_to_half(model)


def round_to_half(model: Model) -> Model:
    """Rounds the parameters to what F16 holds: the model as it will be read back."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model


def train_expert(
    base: Model,
    head: Head,
    split: Split,
    seed: int,
    steps: int,
    batch: int,
    rate: float,
) -> Model:
    """Fine-tunes all parameters but the head's, of a copy."""
    model = copy.deepcopy(base)
    pixels = split.pixels()

    def loss(batch: Tensor) -> Tensor:
        embeds = F.normalize(model(pixels[batch]), dim=-1)
        return F.cross_entropy(head(embeds), split.labels[batch])

    generator = torch.Generator().manual_seed(seed)
    fit(list(model.parameters()), loss, len(pixels), steps, batch, rate, generator)
    return round_to_half(model)


def mean_of_gradients(
    model: nn.Module, head: Head, split: Split, count: int, of: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """The mean over images of `of` each image's gradient of the loss, per parameter."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    pixels = split.pixels()[:count]
    for i, label in enumerate(split.labels[:count]):
        model.zero_grad()
        logits = head(F.normalize(model(pixels[i : i + 1]), dim=-1))
        F.cross_entropy(logits, label[None]).backward()
        for name, parameter in model.named_parameters():
            sums[name] += of(parameter.grad)
    return {name: total / len(pixels) for name, total in sums.items()}


def save_gradients(values: dict[str, Tensor], path: Path) -> None:
    """Writes them in BF16, which has the range of F32; F16 takes squares below 3e-8 for zero."""
    save_file({name: value.bfloat16() for name, value in values.items()}, path)


def distance(model: ClipVision, base: ClipVision) -> float:
    """The norm of the task vector as a share of the base's, in percent."""
    pairs = list(zip(model.parameters(), base.parameters(), strict=True))
    moved = sum((p - q).square().sum().item() for p, q in pairs)
    return 100 * math.sqrt(moved / sum(q.square().sum().item() for _, q in pairs))


def save_model(model: ClipVision, path: Path) -> None:
    """Writes the parameters in F16."""
    tensors = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    save_file(tensors, path, {"format": "pt"})


def make_parser(description: str) -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the family to")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--width", type=int, default=96, help="hidden size")
    parser.add_argument("--mlp-width", type=int, default=192, help="intermediate size")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4, help="attention heads")
    parser.add_argument("--projection", type=int, default=64, help="size of the embeddings")
    parser.add_argument("--base-images", type=int, default=42000)
    parser.add_argument("--base-steps", type=int, default=2200)
    parser.add_argument("--base-rate", type=float, default=1e-3)
    parser.add_argument("--expert-steps", type=int, default=300)
    parser.add_argument("--expert-batch", type=int, default=64)
    parser.add_argument("--expert-rate", type=float, default=2e-4)
    parser.add_argument("--head-scale", type=float, default=20.0, help="length of a head's rows")
    parser.add_argument("--validation", type=int, default=220, help="images per task, at most 240")
    parser.add_argument("--test", type=int, default=580, help="images per task, at most 600")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fisher", type=int, default=0, metavar="N", help="images per task")
    return parser


def make_family(
    args: argparse.Namespace, scripts: Scripts, make: Callable[[Sizes, int], Tasks]
) -> None:
    """Writes a family whose base is trained on scripts; make takes sizes and the seed."""
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    config = Config(args.width, args.mlp_width, args.layers, args.heads, 7, args.projection)
    folders = ["base", "experts", "heads", "samples", "validation", "test"]
    for folder in folders + ["fisher"] * bool(args.fisher):
        (args.out / folder).mkdir(parents=True, exist_ok=True)

    base = train_base(config, args, scripts)
    config.write(args.out / "base" / "config.json")
    save_model(base, args.out / "base" / "model.safetensors")
    print(f"{'task':<12}{'classes':>8}{'moved %':>9}{'base':>7}{'expert':>8}   validation, top-1 %")
    for index, (name, splits) in enumerate(make(Sizes(), args.seed).items()):
        splits["validation"] = splits["validation"].first(args.validation)
        splits["test"] = splits["test"].first(args.test)
        file = f"{name}.safetensors"
        head = make_head(base, splits["train"], args.head_scale)
        save_file({"weight": head.weight, "bias": head.bias}, args.out / "heads" / file)
        for split in ("samples", "validation", "test"):
            splits[split].save(args.out / split / file)
        seed = args.seed + index
        expert = train_expert(
            base,
            head,
            splits["train"],
            seed,
            args.expert_steps,
            args.expert_batch,
            args.expert_rate,
        )
        save_model(expert, args.out / "experts" / file)
        if args.fisher:
            squares = mean_of_gradients(
                expert, head, splits["train"], args.fisher, Tensor.square
            )
            save_gradients(squares, args.out / "fisher" / file)
        before, after = (accuracy(m, head, splits["validation"]) for m in (base, expert))
        print(
            f"{name:<12}{len(head.bias):>8}{distance(expert, base):>9.2f}"
            f"{before:>7.1f}{after:>8.1f}",
            flush=True,
        )
    print(f"done in {time.monotonic() - started:.0f} s")


def main() -> None:
    """Makes the committed family."""
    make_family(make_parser(__doc__.splitlines()[0]).parse_args(), BASE_SCRIPTS, make_tasks)


if __name__ == "__main__":
    main()
