#!/usr/bin/env python3
"""Makes the data files that `catmerge` reads, from images and texts as people have them.

    python3 prepare_data.py images DTD/test    --model clip-vit-base-patch32 --output test/dtd.safetensors
    python3 prepare_data.py texts  cola/dev.tsv --model roberta-base --text sentence --label label \\
                            --output test/cola.safetensors --metric matthews
    python3 prepare_data.py answers gsm8k/test.jsonl --model Llama-3.2-1B --prompt question --answer answer \\
                            --output test/gsm8k.safetensors --metric likelihood
    python3 prepare_data.py head   DTD/test    --model clip-vit-base-patch32 --output heads/dtd.safetensors \\
                            --template "a photo of a {} texture."

images  FOLDER/CLASS/*: `pixel_values` U8 (n, 3, s, s): the shorter side scaled to s (bicubic), the middle
        cut out, as the model's preprocessor_config.json says; its mean and std go into the metadata, since
        the network takes (u / 255 - mean) / std. `labels` I64 (n): the number of the class, in the order
        of the folders' names.
texts   a table (.tsv, .csv with a header line, or .jsonl): `input_ids` I32 and `attention_mask` U8
        (n, tokens), `token_type_ids` U8 if the tokenizer makes them, padded on the right to the longest;
        `labels` I64 (n), or F32 with --regression. --text twice for pairs of sentences; --classes a,b,c
        where labels are words.
answers a table with what a language model reads and what it shall write: `input_ids` I32 and
        `attention_mask` U8 (n, tokens), the prompt's tokens (with the tokenizer's special tokens) and the
        answer's behind them, padded on the right to the longest; `labels` I32 (n, tokens), the answer's
        tokens in their places and -100 elsewhere. Without --prompt all tokens of the answer but the first
        are asked for. Where --answer is a list of choices (.jsonl), each is a sample, and --correct is the
        column with the number of the right one: `question` and `correct` I32 (n) tell them.
head    CLIP's classifier of a task, from its text encoder: `weight` F32 (classes, d), per class the mean of
        the normalised embeddings of all templates, normalised. "{}" stands for the class: the folder's
        name with blanks for underscores.

--count N takes a random draw of N samples (--seed), in random order; without it all are taken in order.
Needs Python with numpy, safetensors and transformers; images need pillow, heads torch. The output is
written under another name beside its place, then renamed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


class DataError(Exception):
    """Something about the input that the user can mend."""


def class_folders(folder: Path) -> list[Path]:
    """The folders of the classes, in the order of their names."""
    found = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not found:
        raise DataError(f"{folder}: expected a folder that holds a folder of images per class")
    return found


def draw(total: int, count: int | None, seed: int) -> np.ndarray:
    """The numbers of the samples to take: all in order, or `count` at random."""
    if count is None:
        return np.arange(total)
    if count > total:
        raise DataError(f"expected at least {count} samples, found {total}")
    return np.random.default_rng(seed).permutation(total)[:count]


def write(tensors: dict[str, np.ndarray], output: Path, metadata: dict[str, str]) -> None:
    """Writes beside the output, then renames."""
    partial = output.with_name(output.name + f".partial-{os.getpid()}")
    try:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, partial, metadata)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def image_settings(model: Path) -> tuple[int, list[float], list[float]]:
    """Side, mean and deviation of preprocessor_config.json. What is scaled and what is cut out must be of one size."""
    path = model / "preprocessor_config.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file; --model is a folder with the preprocessor's configuration")
    config = json.loads(path.read_text())
    sizes = set()
    for key in ("size", "crop_size"):
        value = config.get(key, config.get("size"))
        sizes |= set(value.values()) if isinstance(value, dict) else {value}
    if len(sizes) != 1:
        raise DataError(f"{path}: expected size and crop_size to be one number, found {sizes}")
    size = sizes.pop()
    if not isinstance(size, int) or "image_mean" not in config or "image_std" not in config:
        raise DataError(f"{path}: expected crop_size, image_mean and image_std")
    return size, config["image_mean"], config["image_std"]


def load_image(path: Path, side: int) -> np.ndarray:
    """U8 (3, side, side): the shorter side scaled to `side`, the middle cut out."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = (side * extent // min(image.size) for extent in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    return np.asarray(cut, dtype=np.uint8).transpose(2, 0, 1)


def images(arguments: argparse.Namespace) -> None:
    """`images` of the command line."""
    side, mean, std = image_settings(arguments.model)
    files = [(path, label) for label, folder in enumerate(class_folders(arguments.input))
             for path in sorted(folder.iterdir()) if path.is_file()]
    chosen = draw(len(files), arguments.count, arguments.seed)
    pixels = np.stack([load_image(files[i][0], side) for i in chosen])
    labels = np.array([files[i][1] for i in chosen], dtype=np.int64)
    write({"pixel_values": pixels, "labels": labels}, arguments.output,
          {"mean": ",".join(map(str, mean)), "std": ",".join(map(str, std))})


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file if line.strip()]
        if path.suffix == ".tsv":  # GLUE's hold bare quotes
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(file))


def read_rows(arguments: argparse.Namespace, columns: list[str]) -> list[dict[str, str]]:
    """The rows to take of the table, each of which must have the columns."""
    rows = read_table(arguments.input)
    for number, row in enumerate(rows):
        for column in columns:
            if row.get(column) is None:
                found = ", ".join(str(name) for name in row)
                raise DataError(f"{arguments.input}: row {number} has no '{column}', there are {found}")
    return [rows[i] for i in draw(len(rows), arguments.count, arguments.seed)]


def class_of(label: str | int, classes: list[str] | None) -> int:
    """The number of a class: the label itself, or its place in --classes."""
    if classes is None:
        return int(label)
    if label not in classes:
        raise DataError(f"--classes: expected one of {', '.join(classes)}, found '{label}'")
    return classes.index(label)


def texts(arguments: argparse.Namespace) -> None:
    """`texts` of the command line."""
    from transformers import AutoTokenizer

    rows = read_rows(arguments, [*arguments.text, arguments.label])
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    columns = [[str(row[column]) for row in rows] for column in arguments.text]
    encoded = tokenizer(*columns, padding="longest", truncation=True, max_length=arguments.max_length,
                        padding_side="right", return_tensors="np")
    tensors = {"input_ids": encoded["input_ids"].astype(np.int32),
               "attention_mask": encoded["attention_mask"].astype(np.uint8)}
    if "token_type_ids" in encoded:
        tensors["token_type_ids"] = encoded["token_type_ids"].astype(np.uint8)
    values = [row[arguments.label] for row in rows]
    tensors["labels"] = (np.array(values, dtype=np.float32) if arguments.regression
                         else np.array([class_of(v, arguments.classes) for v in values], dtype=np.int64))
    write(tensors, arguments.output, {"metric": arguments.metric} if arguments.metric else {})


def answers(arguments: argparse.Namespace) -> None:
    """`answers` of the command line."""
    from transformers import AutoTokenizer

    columns = (arguments.prompt, arguments.answer, arguments.correct)
    rows = read_rows(arguments, [c for c in columns if c])
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    given = []  # prompt, answer, question, whether it is the right one
    for number, row in enumerate(rows):
        choices = row[arguments.answer] if arguments.correct else [row[arguments.answer]]
        if not isinstance(choices, list):
            raise DataError(f"{arguments.input}: expected a list of choices in '{arguments.answer}', found {choices!r}")
        for place, choice in enumerate(choices):
            right = arguments.correct is not None and place == int(row[arguments.correct])
            given.append((row, str(choice), number, right))
    samples = []
    for row, answer, _, _ in given:
        prompt = tokenizer(str(row[arguments.prompt]))["input_ids"] if arguments.prompt else []
        tokens = tokenizer(answer, add_special_tokens=not prompt)["input_ids"]
        ids = [*prompt, *tokens][:arguments.max_length]
        samples.append((ids, [-100] * len(prompt) + tokens))
    longest = max(len(ids) for ids, _ in samples)
    shape = (len(samples), longest)
    tensors = {"input_ids": np.zeros(shape, np.int32), "attention_mask": np.zeros(shape, np.uint8),
               "labels": np.full(shape, -100, np.int32)}
    for number, (ids, labels) in enumerate(samples):
        tensors["input_ids"][number, :len(ids)] = ids
        tensors["attention_mask"][number, :len(ids)] = 1
        tensors["labels"][number, :len(ids)] = labels[:len(ids)]
        if (tensors["labels"][number, 1:] == -100).all():
            raise DataError(f"{arguments.input}: of answer {number} no token is among the first "
                            f"{arguments.max_length} (--max-length)")
    if arguments.correct:
        tensors["question"] = np.array([question for _, _, question, _ in given], np.int32)
        tensors["correct"] = np.array([right for _, _, _, right in given], np.int32)
    write(tensors, arguments.output, {"metric": arguments.metric} if arguments.metric else {})


def head(arguments: argparse.Namespace) -> None:
    """`head` of the command line."""
    import torch
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    if any("{}" not in template for template in arguments.template):
        raise DataError("--template: expected {} where the class's name goes")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = CLIPTextModelWithProjection.from_pretrained(arguments.model).eval()
    rows = []
    with torch.no_grad():
        for folder in class_folders(arguments.input):
            name = folder.name.replace("_", " ")
            batch = tokenizer([t.format(name) for t in arguments.template], padding=True, return_tensors="pt")
            embeds = model(**batch).text_embeds
            mean = (embeds / embeds.norm(dim=-1, keepdim=True)).mean(0)
            rows.append((mean / mean.norm()).numpy())
    write({"weight": np.stack(rows).astype(np.float32)}, arguments.output, {})


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for run, input_help in ((images, "a folder with a folder of images per class"),
                            (texts, "a .tsv, .csv or .jsonl table"),
                            (answers, "a .tsv, .csv or .jsonl table"),
                            (head, "a folder with a folder per class")):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument("input", type=Path, help=input_help)
        command.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
        command.add_argument("--output", type=Path, required=True, help="the safetensors file")
        if run is head:
            command.add_argument("--template", action="append", default=None, help='"a photo of a {}."')
            continue
        command.add_argument("--count", type=int, help="a random draw of so many samples")
        command.add_argument("--seed", type=int, default=0)
        if run is texts:
            command.add_argument("--text", action="append", required=True, help="a column; twice for pairs")
            command.add_argument("--label", default="label", help="the column of the labels")
            command.add_argument("--classes", type=lambda text: text.split(","),
                                 help="where labels are words: these, in the order of the head's outputs")
            command.add_argument("--regression", action="store_true", help="labels are numbers, not classes")
            command.add_argument("--max-length", type=int, default=128, help="tokens")
            command.add_argument("--metric", help="kept in the metadata: accuracy, matthews, f1, pearson, spearman")
        if run is answers:
            command.add_argument("--prompt", help="the column that the model reads")
            command.add_argument("--answer", required=True, help="the column that it shall write")
            command.add_argument("--correct", help="the column with the number of the right choice, from 0 on")
            command.add_argument("--max-length", type=int, default=1024, help="tokens")
            command.add_argument("--metric", help="kept in the metadata: likelihood, accuracy, exact, choice")
    arguments = parser.parse_args(argv)
    if arguments.run is head and not arguments.template:
        arguments.template = ["a photo of a {}."]
    return arguments


def main() -> int:
    """Runs the command line; an error is one line and exit status 1."""
    arguments = parse(sys.argv[1:])
    try:
        arguments.run(arguments)
    except (DataError, OSError, ValueError) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
