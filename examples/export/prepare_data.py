#!/usr/bin/env python3
"""Makes the data files that `catmerge` reads, from images and texts as people have them.

    python3 prepare_data.py images DTD/test    --model clip-vit-base-patch32 --output test/dtd.safetensors
    python3 prepare_data.py texts  cola/dev.tsv --model roberta-base --text sentence --label label \\
                            --output test/cola.safetensors --metric matthews
    python3 prepare_data.py answers gsm8k/test.jsonl --model Llama-3.2-1B --prompt question --answer answer \\
                            --output test/gsm8k.safetensors --metric likelihood
    python3 prepare_data.py pictures vqa/val.jsonl --model blip-vqa-base --image image --question question \\
                            --answer answers --output test/vqa.safetensors --metric vqa
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
pictures a table with the path of an image in each row (--image; absolute, or from the table's folder on) and
        texts, for BLIP: `pixel_values` U8 (images, 3, s, s), each file once, scaled to the square of
        preprocessor_config.json, nothing cut off; mean and std in the metadata; `image` I32 (n), the image of
        each sample, if samples share one. The rest is as the network needs it.
        Captions (neither --question nor --ask): with --answer `input_ids` I32, `attention_mask` U8 and
        `labels` I32 (n, tokens). A text is config.json's bos_token_id, the tokens of --prompt ("a picture
        of ") and of the answer, and sep_token_id; labels has the answer's and the last one in their places,
        -100 elsewhere.
        Questions (--question, a column, or --ask, one for all images): `input_ids` I32 and `attention_mask`
        U8, the tokens that BlipProcessor gives, at most --max-length; with --answer `decoder_input_ids`,
        `decoder_attention_mask` and `labels`, as of captions.
        Matching (--text, a column): `input_ids` and `attention_mask` as of questions; with --label, a column
        of 0 and 1, `labels` I64 (n).
        Where --answer is a list (.jsonl), the text is the most frequent answer, the first among equals, and
        `references` I32 (n, answers, tokens) has all, padded with -1. --answers is a file with a candidate
        per line, for `catmerge evaluate --rank-answers`: `answers` I32 (m, tokens), padded with -1. Without
        --answer or --label the file is unlabelled, which is enough for the samples of a merge.
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


def preprocessor(model: Path) -> tuple[Path, dict]:
    """The configuration of the images' preprocessor and its file, which a processor of transformers 5 names anew."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = model / name
        if path.is_file():
            config = json.loads(path.read_text())
            return path, config.get("image_processor", config)
    path = model / "preprocessor_config.json"
    raise DataError(f"{path}: no such file; --model is a folder with the preprocessor's configuration")


def image_settings(model: Path, keys: tuple[str, ...] = ("size", "crop_size")) -> tuple[int, list[float], list[float]]:
    """Side, mean and deviation of the preprocessor. What is scaled and what is cut out must be of one size."""
    path, config = preprocessor(model)
    sizes = set()
    for key in keys:
        value = config.get(key, config.get("size"))
        sizes |= set(value.values()) if isinstance(value, dict) else {value}
    if len(sizes) != 1:
        raise DataError(f"{path}: expected {' and '.join(keys)} to be one number, found {sizes}")
    size = sizes.pop()
    if not isinstance(size, int) or "image_mean" not in config or "image_std" not in config:
        raise DataError(f"{path}: expected {keys[-1]}, image_mean and image_std")
    return size, config["image_mean"], config["image_std"]


def image_metadata(mean: list[float], std: list[float]) -> dict[str, str]:
    """Tells the reader of U8 images what the network takes."""
    return {"mean": ",".join(map(str, mean)), "std": ",".join(map(str, std))}


def open_image(path: Path):
    """The image in RGB; transparency is dropped, as version 4 of transformers drops it (5: on white)."""
    from PIL import Image

    with Image.open(path) as opened:
        return opened.convert("RGB")


def load_image(path: Path, side: int) -> np.ndarray:
    """U8 (3, side, side): the shorter side scaled to `side`, the middle cut out."""
    from PIL import Image

    image = open_image(path)
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
    write({"pixel_values": pixels, "labels": labels}, arguments.output, image_metadata(mean, std))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file if line.strip()]
        if path.suffix == ".tsv":  # GLUE's hold bare quotes
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(file))


def numbered_rows(arguments: argparse.Namespace, columns: list[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows to take of the table, each of which must have the columns, with their numbers there."""
    rows = read_table(arguments.input)
    for number, row in enumerate(rows):
        for column in columns:
            if row.get(column) is None:
                found = ", ".join(str(name) for name in row)
                raise DataError(f"{arguments.input}: row {number} has no '{column}', there are {found}")
    return [(int(i), rows[i]) for i in draw(len(rows), arguments.count, arguments.seed)]


def read_rows(arguments: argparse.Namespace, columns: list[str]) -> list[dict[str, str]]:
    """The rows to take of the table, each of which must have the columns."""
    return [row for _, row in numbered_rows(arguments, columns)]


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


def check_pictures(arguments: argparse.Namespace) -> None:
    """Options that exclude or need each other."""

    def given(name: str) -> bool:
        return getattr(arguments, name) is not None

    excluded = (("question", "ask"), ("prompt", "question"), ("prompt", "ask"),
                *(("text", name) for name in ("question", "ask", "answer", "answers", "prompt")))
    for one, other in excluded:
        if given(one) and given(other):
            raise DataError(f"--{one} and --{other} exclude each other")
    for one, other in (("label", "text"), ("prompt", "answer")):
        if given(one) and not given(other):
            raise DataError(f"--{one} is given, but --{other} is not")


def padded(lists: list[list[int]], fill: int, dtype: type = np.int32) -> np.ndarray:
    """The lists as rows, filled up on the right to the longest."""
    array = np.full((len(lists), max(map(len, lists))), fill, dtype)
    for row, values in zip(array, lists, strict=True):
        row[:len(values)] = values
    return array


class PictureTable:
    """The rows of a table for BLIP, and the model's tokens."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        columns = (arguments.image, arguments.question, arguments.answer, arguments.text, arguments.label)
        self.arguments = arguments
        self.rows = numbered_rows(arguments, [column for column in columns if column])
        if not self.rows:
            raise DataError(f"{arguments.input}: expected at least one row")
        path = arguments.model / "config.json"
        config = json.loads(path.read_text())
        if config.get("model_type") != "blip":
            raise DataError(f"{path}: expected the model_type blip, found {config.get('model_type')}")
        text = config.get("text_config", {})  # without the keys that have transformers' default
        self.begin, self.end = text.get("bos_token_id", 30522), text.get("sep_token_id", 102)
        self.pad, self.most = text.get("pad_token_id", 0), text.get("max_position_embeddings", 512)
        from transformers import AutoTokenizer  # slow, and not needed for the errors above

        self.tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def column(self, name: str) -> list[tuple[str, object]]:
        """The values of a column, each with its place for messages."""
        return [(f"{self.arguments.input}: row {number}, column '{name}'", row[name]) for number, row in self.rows]

    def words(self, text: object) -> list[int]:
        """The tokens of a text without special ones."""
        return self.tokenizer(str(text), add_special_tokens=False)["input_ids"]

    def images(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Each image file once, and the image of each sample if any is shared; the metadata."""
        from PIL import Image

        side, mean, std = image_settings(self.arguments.model, ("size",))
        path, config = preprocessor(self.arguments.model)
        if config.get("resample", 3) not in list(Image.Resampling):
            raise DataError(f"{path}: expected resample to be a number of pillow's, found {config['resample']!r}")
        numbers, places, image = {}, [], []
        for place, value in self.column(self.arguments.image):
            if not isinstance(value, str) or not value:
                raise DataError(f"{place}: expected the path of an image, found {value!r}")
            path = self.arguments.input.parent / value
            if not path.is_file():
                raise DataError(f"{place}: no such file: {path}")
            if path not in numbers:
                numbers[path] = len(numbers)
                places.append(place)
            image.append(numbers[path])
        pixels = np.empty((len(numbers), 3, side, side), np.uint8)
        for path, number in numbers.items():
            try:
                scaled = open_image(path).resize((side, side), Image.Resampling(config.get("resample", 3)))
            except (OSError, ValueError) as error:
                raise DataError(f"{places[number]}: {error}") from error
            pixels[number] = np.asarray(scaled).transpose(2, 0, 1)
        shared = {"image": np.array(image, np.int32)} if len(numbers) < len(image) else {}
        return {"pixel_values": pixels, **shared}, image_metadata(mean, std)

    def questions(self, texts: list[str]) -> dict[str, np.ndarray]:
        """What the text encoder reads."""
        encoded = self.tokenizer(texts, padding="longest", truncation=True, max_length=self.arguments.max_length,
                                 padding_side="right", return_tensors="np")
        return {"input_ids": encoded["input_ids"].astype(np.int32),
                "attention_mask": encoded["attention_mask"].astype(np.uint8)}

    def right_answers(self, place: str, value: object) -> list[list[int]]:
        """The tokens of a row's answers, of which one at least has words."""
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, (str, int, float)) for text in texts):
            raise DataError(f"{place}: expected a text or a list of texts, found {value!r}")
        tokens = [self.words(text) for text in texts]
        if not any(tokens):
            raise DataError(f"{place}: expected an answer, found {value!r}")
        return tokens

    def answers(self, prefix: str) -> dict[str, np.ndarray]:
        """What the text decoder reads and shall write; names begin with the prefix."""
        column = self.column(self.arguments.answer)
        prompt = [self.begin, *self.words(self.arguments.prompt or "")]
        right = [self.right_answers(place, value) for place, value in column]
        ids, labels = [], []
        for (place, _), choices in zip(column, right, strict=True):
            written = [*max((words for words in choices if words), key=choices.count), self.end]
            ids.append(prompt + written)
            labels.append([-100] * len(prompt) + written)
            if len(ids[-1]) > self.most:
                raise DataError(f"{place}: {len(ids[-1])} tokens with the first and the last, the model reads "
                                f"{self.most}")
        tensors = {prefix + "input_ids": padded(ids, self.pad),
                   prefix + "attention_mask": padded([[1] * len(text) for text in ids], 0, np.uint8),
                   "labels": padded(labels, -100)}
        if any(isinstance(value, list) for _, value in column):
            most = max(map(len, right))
            flat = [words for choices in right for words in choices + [[]] * (most - len(choices))]
            tensors["references"] = padded(flat, -1).reshape(len(right), most, -1)
        return tensors

    def candidates(self, path: Path) -> dict[str, np.ndarray]:
        """The lines of a file, of which an answer may be chosen."""
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        tokens = [self.words(line) for line in lines if line]
        if not tokens or not all(tokens):
            raise DataError(f"{path}: expected an answer per line")
        return {"answers": padded(tokens, -1)}

    def matches(self) -> np.ndarray:
        """Whether image and text belong together."""
        labels = []
        for place, value in self.column(self.arguments.label):
            if str(value) not in ("0", "1", "False", "True"):
                raise DataError(f"{place}: expected 0 or 1, found {value!r}")
            labels.append(str(value) in ("1", "True"))
        return np.array(labels, np.int64)


def pictures(arguments: argparse.Namespace) -> None:
    """`pictures` of the command line."""
    check_pictures(arguments)
    table = PictureTable(arguments)
    tensors, metadata = {}, {"metric": arguments.metric} if arguments.metric else {}
    read = arguments.question or arguments.text
    asked = arguments.ask is not None or arguments.question is not None
    if read:
        tensors |= table.questions([str(value) for _, value in table.column(read)])
    elif asked:
        tensors |= table.questions([arguments.ask] * len(table.rows))
    if arguments.answer:
        tensors |= table.answers("decoder_" if asked else "")
    if arguments.answers:
        tensors |= table.candidates(arguments.answers)
    if arguments.label:
        tensors["labels"] = table.matches()
    images, settings = table.images()
    write(tensors | images, arguments.output, metadata | settings)


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
                            (pictures, "a .tsv, .csv or .jsonl table"),
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
        if run is pictures:
            command.add_argument("--image", required=True, help="the column with the paths of images")
            command.add_argument("--question", help="the column that the model reads")
            command.add_argument("--ask", help="the question for all images, instead of a column")
            command.add_argument("--answer", help="the column that it shall write; texts or lists of them")
            command.add_argument("--prompt", help='stands before each caption: "a picture of "')
            command.add_argument("--answers", type=Path, help="a file with a candidate answer per line")
            command.add_argument("--text", help="the column of texts to match with images")
            command.add_argument("--label", help="the column that says whether they match: 0 or 1")
            command.add_argument("--max-length", type=int, default=35, help="tokens of a question or of --text")
            command.add_argument("--metric", help="kept in the metadata: answer, vqa, cider, exact, likelihood")
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
