#!/usr/bin/env python3
"""Trains the family of small Llama decoders over bytes that the examples merge.

One run makes everything: a base language model, one LoRA adapter of PEFT's per task, and the text
of the tasks as bytes. Model, names and config.json are those of Hugging Face's `LlamaForCausalLM`,
and `PeftModel.from_pretrained` opens the adapters over it.

    python3 examples/families/decoder/train.py --root ROOT --out examples/families/decoder/family

ROOT is a folder into which the Debian packages that README.md lists are unpacked. What is written
below --out:

    base/config.json, base/model.safetensors    the base, F16
    experts/TASK/adapter_config.json            rank, scale and modules, keys sorted
    experts/TASK/adapter_model.safetensors      lora_A and lora_B of every linear layer, F16
    samples/TASK.safetensors                    calibration windows, a random draw in random order
    validation/TASK.safetensors                 for the choice of settings, and for nothing else
    test/TASK.safetensors                       for the figures that are reported

A file of windows has `input_ids` (n, tokens) in U8: byte 0, then text. `labels` (n, tokens) in I16
are the bytes that are asked, each at its own place, and -100 where nothing is asked: the
distribution that the model gives at place j - 1 answers for place j. No row is padded. The
metadata has `task` and `metric`: "likelihood", 100 exp(-mean negative log-likelihood of the asked
bytes), or "exact", the percentage of rows whose asked bytes all are the most likely ones.

Needs Debian 12 and Python with torch, transformers, peft and safetensors; it was run with Python
3.11, torch 2.15.0, transformers 5.24.0, peft 0.21.2 and safetensors 0.8.0. Everything is drawn from
--seed. Another processor, version or number of threads rounds differently, so its weights differ
in detail; the windows come out again exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

START = 0
WINDOW = 127
IGNORED = -100
MODULES = tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))
# Windows of a text in test, validation and samples: these from each of so many places of it.
PLACES = 8
SPLITS = {"test": 8, "validation": 4, "samples": 2}

# -------------------------------------------------------------------------------- reading sources


def read(path: Path) -> str:
    """The text of a file, unpacked; UTF-8, or Latin-1 if it isn't."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


REQUESTS = r"""(?m)^[.'](\\"|so|TH|if|ie|el|de|ds|nr|ad|nh|hy|in|ti|ta|ft|ne|tr|Vb|Ve|Sp|\.).*$"""
GLYPHS = {
    r"\-": "-",
    r"\e": "\\",
    r"\(aq": "'",
    r"\*(Aq": "'",
    r"\(bu": "*",
    r"\(co": "(c)",
    '"': "",
}


def plain_roff(text: str) -> str:
    """A manual page without its requests, font changes and escapes."""
    text = re.sub(REQUESTS, "", text)
    text = re.sub(r"(?m)^\.([A-Z]{1,3}|[a-z]{2})\b ?", "", text)
    text = re.sub(r"\\f(\[[^\]]*\]|.)|\\[&/,|^%:]|\\s[-+]?\d", "", text)
    for escape, glyph in GLYPHS.items():
        text = text.replace(escape, glyph)
    return re.sub(r"\n{2,}", "\n", re.sub(r"\\\(..|\\\[[^\]]*\]", "", text))


def after_comment(text: str) -> str:
    """A C header without the comment that it begins with, most often its licence."""
    return re.sub(r"(?s)^\s*/\*.*?\*/", "", text)


def lisp_code(text: str) -> str:
    """An Emacs Lisp file from the line that begins its code."""
    return re.sub(r"(?s)^.*?;;; Code:", "", text)


@dataclasses.dataclass(frozen=True)
class Source:
    """Files below ROOT, in random order until so many characters are read, and how they're read.

    skipped is a pattern of paths that are left out; longest is what is taken of one file.
    """

    globs: tuple[str, ...]
    characters: int
    clean: Callable[[str], str] = str
    skipped: str = "$^"
    longest: int = 20_000

    def text(self, root: Path, rng: random.Random) -> str:
        paths = sorted({path for glob in self.globs for path in root.glob(glob)})
        paths = [p for p in paths if p.is_file() and not p.is_symlink()]
        paths = [p for p in paths if not re.search(self.skipped, str(p.relative_to(root)))]
        rng.shuffle(paths)
        found, count = [], 0
        for path in paths:
            if count >= self.characters:
                break
            found.append(self.clean(read(path))[: self.longest])
            count += len(found[-1])
        if not count:
            raise SystemExit(f"nothing of {', '.join(self.globs)} is below {root}")
        return "\n".join(found)


# Documentation and code in English, which the base is trained on.
BASE = {
    "manual": Source(("usr/share/man/man*/*.gz",), 3_000_000, plain_roff),
    "python docs": Source(("usr/share/doc/python3.11/html/_sources/**/*.txt",), 2_500_000),
    "kernel docs": Source(
        ("usr/share/doc/linux-doc-6.1/Documentation/**/*.rst.gz",),
        3_000_000,
        skipped="/translations/",
    ),
    "perl docs": Source(("usr/share/perl/**/*.pod",), 2_500_000),
    "fortunes": Source(("usr/share/games/fortunes/*",), 2_000_000, skipped=r"\.\w+$|art$"),
    "python": Source(("usr/lib/python3.11/**/*.py",), 3_000_000, skipped="/encodings/"),
    "headers": Source(
        ("usr/include/*.h", "usr/include/linux/*.h", "usr/include/c++/12/bits/*.h"),
        2_000_000,
        after_comment,
    ),
}


def read_verses(root: Path, _: random.Random) -> str:
    """The King James Bible, a verse a line after its place ("Ge1:1")."""
    folder = root / "usr"
    command = [folder / "bin/bible", "-p", folder / "lib", "-f", "gen1:1-rev22:21"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------------------------- windows, tasks


def windows(text: str) -> list[bytes]:
    """The whole windows of a text, one after the other."""
    data = text.encode().replace(b"\0", b"")
    return [data[i : i + WINDOW] for i in range(0, len(data) - WINDOW + 1, WINDOW)]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of bytes: input_ids (n, tokens), and the labels of the places that are asked."""

    ids: Tensor
    labels: Tensor

    @staticmethod
    def of(rows: list[bytes], asked: int) -> Rows:
        """Puts byte 0 in front of rows of one length; the last so many bytes are asked."""
        ids = torch.tensor([[START, *row] for row in rows], dtype=torch.uint8)
        labels = ids.to(torch.int16)
        labels[:, : ids.shape[1] - asked] = IGNORED
        return Rows(ids, labels)

    def save(self, path: Path, task: str, metric: str) -> None:
        tensors = {"input_ids": self.ids, "labels": self.labels}
        save_file(tensors, path, {"task": task, "metric": metric})


def split_text(text: str, rng: random.Random) -> dict[str, list[bytes]]:
    """Test, validation, samples and training windows: blocks of each of PLACES parts of a text.

    Training has no window that equals one of the other splits.
    """
    rows = windows(text)
    size = len(rows) // PLACES
    splits: dict[str, list[bytes]] = {name: [] for name in (*SPLITS, "train")}
    for place in range(PLACES):
        rest = rows[place * size : (place + 1) * size]
        for name, count in SPLITS.items():
            splits[name] += rest[:count]
            rest = rest[count:]
        splits["train"] += rest
    held = {row for name in SPLITS for row in splits[name]}
    splits["train"] = [row for row in splits["train"] if row not in held]
    for part in splits.values():
        rng.shuffle(part)
    return splits


LETTERS = "abcdefghij"
SORTED = 4
SORT_ROWS = {"test": 512, "validation": 256, "samples": 128, "train": 4_000}


def make_sort(rng: random.Random) -> dict[str, list[bytes]]:
    """Rows "dbca>abcd": different letters and the same in order; no question is drawn twice."""
    seen: set[str] = set()
    splits: dict[str, list[bytes]] = {}
    for name, count in SORT_ROWS.items():
        rows: list[bytes] = []
        while len(rows) < count:
            question = "".join(rng.sample(LETTERS, SORTED))
            if question not in seen:
                seen.add(question)
                rows.append(f"{question}>{''.join(sorted(question))}".encode())
        splits[name] = rows
    return splits


@dataclasses.dataclass(frozen=True)
class Task:
    """What makes a task's splits, what is measured, and how its expert is trained."""

    splits: Callable[[Path, random.Random], dict[str, list[bytes]]]
    metric: str
    asked: int
    steps: int
    batch: int
    rate: float


def text_task(source: Callable[[Path, random.Random], str]) -> Task:
    """A task of continuing text: every byte is asked."""

    def splits(root: Path, rng: random.Random) -> dict[str, list[bytes]]:
        return split_text(source(root, rng), rng)

    return Task(splits, "likelihood", WINDOW, steps=200, batch=16, rate=5e-4)


CHANGELOG = "usr/share/doc/linux-doc-6.1/changelog.Debian.gz"
TASKS = {
    "french": text_task(Source(("usr/share/man/fr/man*/*.gz",), 3_000_000, plain_roff).text),
    "german": text_task(Source(("usr/share/man/de/man*/*.gz",), 3_000_000, plain_roff).text),
    "lisp": text_task(
        # Without tables of characters: input methods, and names of Unicode.
        Source(("usr/share/emacs/**/*.el.gz",), 3_000_000, lisp_code, "/leim/|/international/").text
    ),
    "verse": text_task(read_verses),
    "changelog": text_task(Source((CHANGELOG,), 3_000_000, longest=3_000_000).text),
    "sort": Task(lambda _, rng: make_sort(rng), "exact", SORTED, steps=1000, batch=64, rate=2e-4),
}


def generator_of(seed: int, name: str) -> random.Random:
    """The random numbers of one source, whatever else is made."""
    return random.Random(f"{seed} {name}")


def make_task(name: str, root: Path, seed: int) -> dict[str, Rows]:
    """The splits of a task."""
    task = TASKS[name]
    splits = task.splits(root, generator_of(seed, name))
    return {split: Rows.of(rows, task.asked) for split, rows in splits.items()}


def make_base_text(root: Path, seed: int, held: int) -> dict[str, Rows]:
    """The windows that the base is trained on, and so many of each source that it isn't."""
    train: list[bytes] = []
    test: list[bytes] = []
    for name, source in BASE.items():
        rows = windows(source.text(root, generator_of(seed, name)))
        print(f"{name}: {len(rows) * WINDOW} bytes", flush=True)
        every = len(rows) // held
        test += rows[::every][:held]
        train += [row for i, row in enumerate(rows) if i % every or i // every >= held]
    return {"train": Rows.of(train, WINDOW), "test": Rows.of(test, WINDOW)}


# ---------------------------------------------------------------------------- training and figures


def losses(model: nn.Module, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Per place after the first: the negative log-likelihood, 0 where nothing is asked; and
    whether the label is the most likely byte."""
    logits = model(input_ids=ids.long(), use_cache=False).logits[:, :-1]
    wanted = labels[:, 1:].long()
    loss = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
    return loss, logits.argmax(-1) == wanted


@dataclasses.dataclass(frozen=True)
class Figures:
    """bits per asked byte; % of bytes and of whole rows that are right; % likelihood."""

    bits: float
    bytes: float
    exact: float
    likelihood: float

    def of(self, metric: str) -> float:
        return self.exact if metric == "exact" else self.likelihood


@torch.no_grad()
def measure(model: nn.Module, rows: Rows) -> Figures:
    """The figures of a model on all rows."""
    model.eval()
    loss, right, exact, count = 0.0, 0, 0, 0
    for ids, labels in zip(rows.ids.split(64), rows.labels.split(64)):
        asked = labels[:, 1:] != IGNORED
        losses_of, hits = losses(model, ids, labels)
        loss += losses_of.double().sum().item()
        right += int(hits[asked].sum())
        exact += int((hits | ~asked).all(1).sum())
        count += int(asked.sum())
    mean = loss / count
    return Figures(
        mean / math.log(2), 100 * right / count, 100 * exact / len(rows.ids), 100 * math.exp(-mean)
    )


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers without end: each epoch in another order, an incomplete batch left out."""
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def fit(
    model: nn.Module,
    rows: Rows,
    seed: int,
    steps: int,
    batch: int,
    rate: float,
    decay: float,
    save: Callable[[], None] = lambda: None,
) -> None:
    """AdamW on the mean loss of the asked bytes; the rate rises in 1/20 of the steps, then falls
    as a cosine to a twentieth. save is called every 500 steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    order = batches(len(rows.ids), batch, torch.Generator().manual_seed(seed))
    started, sums = time.monotonic(), 0.0
    model.train()
    for step in range(1, steps + 1):
        fall = 0.525 + 0.475 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 20 * step / steps) * fall
        chosen = next(order)
        loss, _ = losses(model, rows.ids[chosen], rows.labels[chosen])
        mean = loss.sum() / (rows.labels[chosen][:, 1:] != IGNORED).sum()
        mean.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sums += mean.item() / math.log(2)
        if step % 100 == 0:
            spent = time.monotonic() - started
            print(f"  step {step}: {sums / 100:.3f} bits, {spent:.0f} s", flush=True)
            sums = 0.0
        if step % 500 == 0:
            save()


# -------------------------------------------------------------------------------------- the family

CONFIG = LlamaConfig(
    vocab_size=256,
    hidden_size=192,
    intermediate_size=480,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=1 + WINDOW,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    initializer_range=0.05,
    bos_token_id=START,
    eos_token_id=START,
    architectures=["LlamaForCausalLM"],
    dtype="float16",
)


def save_base(model: nn.Module, folder: Path) -> None:
    """Writes config.json, and the parameters in F16, the tied table once."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in CONFIG.to_dict().items() if value is not None}
    del values["transformers_version"]
    # Releases of transformers before 5 read the rotary base and the type by these names.
    values |= {"rope_theta": CONFIG.rope_parameters["rope_theta"], "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    tensors = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def make_base(args: argparse.Namespace) -> Rows:
    """Trains and writes the base, unless it's there already (--keep-base). Returns held-out
    windows of its text."""
    text = make_base_text(args.root, args.seed, held=24)
    folder = args.out / "base"
    if not args.keep_base:
        torch.manual_seed(args.seed)
        model = LlamaForCausalLM(CONFIG).float()
        count = sum(p.numel() for p in model.parameters())
        print(f"base: {count} parameters, {len(text['train'].ids)} windows", flush=True)
        fit(
            model,
            text["train"],
            args.seed,
            args.base_steps,
            args.base_batch,
            args.base_rate,
            0.1,
            lambda: save_base(model, folder),
        )
        save_base(model, folder)
    return text["test"]


def read_base(folder: Path) -> LlamaForCausalLM:
    """The base as it is stored, in float."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def linears(model: nn.Module) -> dict[str, Tensor]:
    """The weights that adapters change."""
    return {
        name: p.detach()
        for name, p in model.named_parameters()
        if name.endswith(tuple(f"{module}.weight" for module in MODULES))
    }


def flat(tensors: dict[str, Tensor]) -> Tensor:
    """All values in one vector of float64."""
    return torch.cat([value.flatten().double() for value in tensors.values()])


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes what `PeftModel.from_pretrained` reads: weights in F16, the config's keys sorted."""
    model.peft_config["default"].base_model_name_or_path = "family/base"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_model.safetensors"
    halves = {name: value.half().contiguous() for name, value in load_file(path).items()}
    save_file(halves, path, {"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = list(MODULES)  # PEFT writes a set, in any order
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_expert(out: Path, name: str) -> nn.Module:
    """The base and an adapter as they are stored, in float and in one."""
    model = read_base(out / "base")
    return PeftModel.from_pretrained(model, out / "experts" / name).merge_and_unload()


def make_expert(name: str, rows: Rows, args: argparse.Namespace) -> None:
    """Trains and writes the adapter of a task."""
    task, seed = TASKS[name], args.seed + 1 + list(TASKS).index(name)
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=list(MODULES),
        r=args.rank,
        lora_alpha=2 * args.rank,
    )
    model = get_peft_model(read_base(args.out / "base"), config)
    print(f"{name}: {len(rows.ids)} training rows", flush=True)
    fit(model, rows, seed, task.steps, task.batch, task.rate, args.decay)
    save_adapter(model, args.out / "experts" / name)


def report(out: Path, data: dict[str, dict[str, Rows]], held: Rows) -> None:
    """Prints the figures of the base and of each expert on each task, how far experts have moved
    from the base, and the cosines between them."""
    base = read_base(out / "base")
    models = {"base": base} | {name: read_expert(out, name) for name in data}
    heading = f"{'':<12}" + "".join(f"{name:>11}" for name in data)
    for split in ("validation", "test"):
        found = {
            name: [measure(model, data[task][split]) for task in data]
            for name, model in models.items()
        }
        print(f"\n{split}: bits per asked byte, and of the base's own text\n{heading}{'base':>11}")
        for name, figures in found.items():
            own = measure(models[name], held).bits
            print(f"{name:<12}" + "".join(f"{x:>11.3f}" for x in [f.bits for f in figures] + [own]))
        print(f"\n{split}: the task's metric, %\n{heading}")
        for name, figures in found.items():
            values = [f.of(TASKS[task].metric) for task, f in zip(data, figures)]
            print(f"{name:<12}" + "".join(f"{x:>11.2f}" for x in values))
        print(f"\n{split}: asked bytes that are the most likely ones, %\n{heading}")
        for name, figures in found.items():
            print(f"{name:<12}" + "".join(f"{f.bytes:>11.2f}" for f in figures))
    start = flat(linears(base))
    vectors = {name: flat(linears(models[name])) - start for name in data}
    print(f"\nlinear layers moved by, % of their norm\n{heading}\n{'':<12}", end="")
    print("".join(f"{100 * v.norm() / start.norm():>11.2f}" for v in vectors.values()))
    print(f"\ncosines of the differences\n{heading}")
    for name, one in vectors.items():
        cosines = [one @ other / (one.norm() * other.norm()) for other in vectors.values()]
        print(f"{name:<12}" + "".join(f"{x:>11.3f}" for x in cosines))


def main() -> None:
    """Makes the committed family."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--root", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument("--keep-base", action="store_true", help="use the base that is in --out")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="make these experts only")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--base-steps", type=int, default=5000)
    parser.add_argument("--base-batch", type=int, default=16)
    parser.add_argument("--base-rate", type=float, default=3e-3)
    parser.add_argument("--rank", type=int, default=8, help="of adapters; their scale is 2")
    parser.add_argument("--decay", type=float, default=20.0, help="weight decay of adapters")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    held = make_base(args)
    data: dict[str, dict[str, Rows]] = {}
    for name in args.tasks:
        data[name] = make_task(name, args.root, args.seed)
        for split in SPLITS:
            folder = args.out / split
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.safetensors"
            data[name][split].save(path, name, TASKS[name].metric)
        make_expert(name, data[name]["train"], args)
    report(args.out, data, held)
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
