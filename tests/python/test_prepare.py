#!/usr/bin/env python3
"""Tests examples/export/prepare_data.py on tiny models: python3 tests/python/test_prepare.py

Compares with what the image processors, tokenizers, CLIP's text model and BLIP's processor of
transformers give.
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, transformers, tokenizers and pillow it says so and exits 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from runner import main, skip_all, test

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "export" / "prepare_data.py"

try:
    import numpy as np
    import torch
    from PIL import Image
    from safetensors import safe_open
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (BertTokenizerFast, BlipProcessor, CLIPTextConfig,
                              CLIPTextModelWithProjection, PreTrainedTokenizerFast)
    from transformers.models.blip import BlipImageProcessor
    from transformers.models.clip import CLIPImageProcessor
except ImportError as error:
    skip_all("examples/export needs torch, transformers, tokenizers and pillow", error)

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "photo", "of", "dog", "red", "cat", "runs", "."]


def prepare(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the script."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def well(*arguments: object) -> None:
    """Runs the script and expects success."""
    done = prepare(*arguments)
    assert done.returncode == 0, done.stderr


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, saved into the folder."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>", unk_token="<unk>")
    made.save_pretrained(folder)
    return made


def class_images(folder: Path) -> list[Path]:
    """Two classes with random images of odd sizes."""
    rng = np.random.default_rng(1)
    files = []
    for name, sizes in (("cat", [(30, 41), (16, 16)]), ("red_dog", [(50, 21), (45, 40)])):
        (folder / name).mkdir(parents=True)
        for number, (width, height) in enumerate(sizes):
            path = folder / name / f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
            files.append(path)
    return files


@test
def images_are_what_the_processor_gives(folder: Path) -> None:
    files = class_images(folder / "data")
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(folder / "model")
    output = folder / "out.safetensors"
    well("images", folder / "data", "--model", folder / "model", "--output", output)
    made = load_file(output)
    assert made["labels"].tolist() == [0, 0, 1, 1]
    with safe_open(output, "np") as file:
        mean, std = ([float(x) for x in file.metadata()[k].split(",")] for k in ("mean", "std"))
    shape = (1, 3, 1, 1)
    pixels = (made["pixel_values"] / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
    expected = processor([Image.open(path) for path in files], return_tensors="np")["pixel_values"]
    # The resize of other versions and backends differs in the last of 256 steps, here and there.
    assert np.abs(pixels - expected).max() < 2.1 / 255 / min(std), np.abs(pixels - expected).max()
    assert np.abs(pixels - expected).mean() < 0.3 / 255 / min(std)


@test
def a_draw_is_random_and_repeats(folder: Path) -> None:
    class_images(folder / "data")
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        folder / "model")
    draws = []
    for seed in (0, 0, 3):
        well("images", folder / "data", "--model", folder / "model", "--count", 2, "--seed", seed,
             "--output", folder / "out.safetensors")
        draws.append(load_file(folder / "out.safetensors")["pixel_values"].tobytes())
    assert draws[0] == draws[1] != draws[2]
    done = prepare("images", folder / "data", "--model", folder / "model", "--count", 5, "--output",
                   folder / "none.safetensors")
    assert done.returncode == 1 and "expected at least 5 samples, found 4" in done.stderr
    assert not (folder / "none.safetensors").exists()


@test
def texts_are_what_the_tokenizer_gives(folder: Path) -> None:
    made = tokenizer(folder / "model")
    table = folder / "t.tsv"
    table.write_text("one\ttwo\tlabel\na red \"dog\ta cat\t1\nruns\ta photo of a cat .\t0\n")
    output = folder / "out.safetensors"
    well("texts", table, "--model", folder / "model", "--text", "one", "--text", "two", "--metric", "f1",
         "--output", output)
    found = load_file(output)
    expected = made(['a red "dog', "runs"], ["a cat", "a photo of a cat ."], padding=True)
    assert found["input_ids"].tolist() == expected["input_ids"]
    assert found["attention_mask"].tolist() == expected["attention_mask"]
    assert found["labels"].tolist() == [1, 0] and found["labels"].dtype == np.int64
    with safe_open(output, "np") as file:
        assert file.metadata() == {"metric": "f1"}
    lines = folder / "t.jsonl"
    lines.write_text('{"one": "a dog", "score": 2.5}\n{"one": "cat", "score": -1}\n')
    well("texts", lines, "--model", folder / "model", "--text", "one", "--label", "score", "--regression",
         "--output", output)
    assert load_file(output)["labels"].tolist() == [2.5, -1.0]
    done = prepare("texts", lines, "--model", folder / "model", "--text", "three", "--label", "score", "--output",
                   output)
    assert done.returncode == 1 and "row 0 has no 'three'" in done.stderr
    table.write_text("one\ttwo\tlabel\na\tdog\tentailment\ncat\truns\tneutral\n")
    well("texts", table, "--model", folder / "model", "--text", "one", "--classes", "neutral,entailment",
         "--output", output)
    assert load_file(output)["labels"].tolist() == [1, 0]
    table.write_text("one\ttwo\tlabel\na\tdog\n")
    done = prepare("texts", table, "--model", folder / "model", "--text", "one", "--output", output)
    assert done.returncode == 1 and "row 0 has no 'label'" in done.stderr


@test
def answers_have_labels_where_they_stand(folder: Path) -> None:
    tokenizer(folder / "model")
    lines = folder / "t.jsonl"
    lines.write_text('{"q": "a photo of", "a": "a red dog"}\n{"q": "dog", "a": "runs ."}\n')
    output = folder / "out.safetensors"
    well("answers", lines, "--model", folder / "model", "--prompt", "q", "--answer", "a", "--metric", "exact",
         "--output", output)
    found = load_file(output)
    # <s> a photo of </s> a red dog; <s> dog </s> runs .
    assert found["input_ids"].tolist() == [[0, 4, 5, 6, 2, 4, 8, 7], [0, 7, 2, 10, 11, 0, 0, 0]]
    assert found["attention_mask"].tolist() == [[1] * 8, [1] * 5 + [0] * 3]
    assert found["labels"].tolist() == [[-100] * 5 + [4, 8, 7], [-100] * 3 + [10, 11] + [-100] * 3]
    with safe_open(output, "np") as file:
        assert file.metadata() == {"metric": "exact"}
    well("answers", lines, "--model", folder / "model", "--answer", "a", "--output", output)
    assert load_file(output)["labels"].tolist() == [[0, 4, 8, 7, 2], [0, 10, 11, 2, -100]]
    done = prepare("answers", lines, "--model", folder / "model", "--prompt", "q", "--answer", "a", "--max-length",
                   3, "--output", folder / "none.safetensors")
    assert done.returncode == 1 and "of answer 0 no token" in done.stderr
    assert not (folder / "none.safetensors").exists()
    lines.write_text('{"q": "a", "c": ["dog", "red cat"], "r": 1}\n{"q": "cat", "c": ["runs", "."], "r": 0}\n')
    well("answers", lines, "--model", folder / "model", "--prompt", "q", "--answer", "c", "--correct", "r", "--output",
         output)
    found = load_file(output)
    assert found["input_ids"].tolist() == [[0, 4, 2, 7, 0], [0, 4, 2, 8, 9], [0, 9, 2, 10, 0], [0, 9, 2, 11, 0]]
    assert found["question"].tolist() == [0, 0, 1, 1] and found["correct"].tolist() == [0, 1, 1, 0]
    done = prepare("answers", lines, "--model", folder / "model", "--answer", "q", "--correct", "r", "--output", output)
    assert done.returncode == 1 and "expected a list of choices in 'q'" in done.stderr


@test
def heads_are_mean_text_embeddings(folder: Path) -> None:
    class_images(folder / "data")
    made = tokenizer(folder / "model")
    torch.manual_seed(5)
    config = CLIPTextConfig(vocab_size=len(WORDS), hidden_size=8, intermediate_size=16, num_hidden_layers=1,
                            num_attention_heads=2, max_position_embeddings=12, projection_dim=6,
                            bos_token_id=0, pad_token_id=1, eos_token_id=2)
    model = CLIPTextModelWithProjection(config).eval()
    model.save_pretrained(folder / "model")
    well("head", folder / "data", "--model", folder / "model", "--template", "a photo of a {} .",
         "--template", "a {}", "--output", folder / "head.safetensors")
    found = load_file(folder / "head.safetensors")["weight"]
    for row, name in zip(found, ("cat", "red dog"), strict=True):
        units = []
        for template in ("a photo of a {} .", "a {}"):  # one by one: no padding
            with torch.no_grad():
                embeds = model(**made(template.format(name), return_tensors="pt")).text_embeds[0]
            units.append((embeds / embeds.norm()).numpy())
        mean = np.mean(units, axis=0)
        assert np.abs(row - mean / np.linalg.norm(mean)).max() < 1e-5


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "this", "?", "a", "dog", "red", "cat", "run", "##s", "of",
          "picture", "[DEC]"]
DEC, SEP = 16, 3


def blip(folder: Path, processor: str = "image") -> BlipProcessor:
    """BLIP's processor for images of 16 x 16, saved whole or the image's part alone, and a configuration."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    made = BlipProcessor(images, BertTokenizerFast(str(folder / "vocab.txt")))
    if processor == "image":
        images.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    else:
        made.save_pretrained(folder)
    text = {"bos_token_id": DEC, "sep_token_id": SEP, "pad_token_id": 0, "max_position_embeddings": 12}
    (folder / "config.json").write_text(json.dumps({"model_type": "blip", "text_config": text}))
    return made


def picture_table(folder: Path, rows: list[dict]) -> Path:
    """A table of the rows, beside images in a folder of their own."""
    class_images(folder / "images")
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


CAT, DOG = "images/cat/0.png", "images/red_dog/0.png"


@test
def pictures_and_questions_are_what_blip_processor_gives(folder: Path) -> None:
    output = folder / "out.safetensors"
    rows = [{"f": DOG, "q": "What is this?", "a": ["cat", "Dog", "a red dog", "dog"]},
            {"f": CAT, "q": "runs", "a": "cat"},
            {"f": DOG, "q": "is this a dog of a cat?", "a": ["", "runs", "is"]}]
    table = picture_table(folder, rows)
    processor = blip(folder / "model")
    well("pictures", table, "--model", folder / "model", "--image", "f", "--question", "q", "--answer", "a",
         "--max-length", 7, "--metric", "vqa", "--output", output)
    made = load_file(output)
    expected = processor([Image.open(folder / row["f"]) for row in rows], [row["q"] for row in rows],
                         padding=True, truncation=True, max_length=7, return_tensors="np")
    with safe_open(output, "np") as file:
        metadata = file.metadata()
    mean, std = (np.reshape([float(x) for x in metadata.pop(k).split(",")], (1, 3, 1, 1)) for k in ("mean", "std"))
    assert metadata == {"metric": "vqa"}
    assert made["pixel_values"].shape == (2, 3, 16, 16) and made["image"].tolist() == [0, 1, 0]
    steps = (expected["pixel_values"] * std + mean) * 255
    # Without torchvision the processor scales with pillow, too. Torchvision's last step differs here and there.
    differ = np.abs(np.rint(steps) - made["pixel_values"][made["image"]])
    assert differ.max() <= ("Pil" not in type(processor.image_processor).__name__), differ.max()
    assert differ.mean() < 0.1
    assert made["input_ids"].tolist() == expected["input_ids"].tolist()
    assert made["attention_mask"].tolist() == expected["attention_mask"].tolist()
    assert made["attention_mask"].sum(axis=1).tolist() == [6, 4, 7]
    assert made["decoder_input_ids"].tolist() == [[DEC, 9, SEP, 0], [DEC, 11, SEP, 0], [DEC, 12, 13, SEP]]
    assert made["decoder_attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert made["labels"].tolist() == [[-100, 9, SEP, -100], [-100, 11, SEP, -100], [-100, 12, 13, SEP]]
    none = [-1, -1, -1]
    assert made["references"].tolist() == [[[11, -1, -1], [9, -1, -1], [8, 10, 9], [9, -1, -1]],
                                           [[11, -1, -1], none, none, none],
                                           [none, [12, 13, -1], [5, -1, -1], none]]
    types = {name: str(array.dtype) for name, array in made.items()}
    assert types == {"pixel_values": "uint8", "image": "int32", "input_ids": "int32", "attention_mask": "uint8",
                     "decoder_input_ids": "int32", "decoder_attention_mask": "uint8", "labels": "int32",
                     "references": "int32"}


@test
def captions_and_matching_texts_go_where_blip_reads_them(folder: Path) -> None:
    output = folder / "out.safetensors"
    table = picture_table(folder, [{"f": CAT, "c": "A cat runs", "m": 1}, {"f": DOG, "c": "a dog", "m": False}])
    processor = blip(folder / "model", "whole")
    command = ("pictures", table, "--model", folder / "model", "--image", "f", "--output", output)
    well(*command)
    assert set(load_file(output)) == {"pixel_values"}  # no image is shared
    candidates = folder / "answers.txt"
    candidates.write_text("a cat\ndog\n\n")
    well(*command, "--answer", "c", "--prompt", "a picture of ", "--answers", candidates)
    made = load_file(output)
    assert made["input_ids"].tolist() == [[DEC, 8, 15, 14, 8, 11, 12, 13, SEP], [DEC, 8, 15, 14, 8, 9, SEP, 0, 0]]
    assert made["attention_mask"].tolist() == [[1] * 9, [1] * 7 + [0] * 2]
    assert made["labels"].tolist() == [[-100] * 4 + [8, 11, 12, 13, SEP], [-100] * 4 + [8, 9, SEP, -100, -100]]
    assert made["answers"].tolist() == [[8, 11], [9, -1]] and "references" not in made
    well(*command, "--ask", "what is this?")
    made = load_file(output)
    assert set(made) == {"pixel_values", "input_ids", "attention_mask"}
    assert made["input_ids"].tolist() == [processor(text="what is this?")["input_ids"]] * 2
    well(*command, "--ask", "what is this?", "--answer", "c")
    assert load_file(output)["decoder_input_ids"].tolist() == [[DEC, 8, 11, 12, 13, SEP], [DEC, 8, 9, SEP, 0, 0]]
    well(*command, "--text", "c", "--label", "m")
    made = load_file(output)
    assert made["input_ids"].tolist() == processor(text=["A cat runs", "a dog"], padding=True)["input_ids"]
    assert made["labels"].tolist() == [1, 0] and made["labels"].dtype == np.int64
    comma = folder / "t.csv"
    comma.write_text(f"f,m\n{folder / CAT},0\n{DOG},1\n{DOG},1\n")
    well("pictures", comma, "--model", folder / "model", "--image", "f", "--text", "m", "--label", "m", "--count", 2,
         "--seed", 1, "--output", output)
    chosen = np.random.default_rng(1).permutation(3)[:2]
    assert load_file(output)["labels"].tolist() == [[0, 1, 1][i] for i in chosen]


@test
def pictures_say_what_does_not_fit(folder: Path) -> None:
    table = picture_table(folder, [{"f": CAT, "q": "a", "c": ["cat"], "m": 1, "none": "x.png", "long": "a"},
                                   {"f": DOG, "q": 5, "c": [" "], "m": 2, "none": 4, "long": "a " * 11}])
    blip(folder / "model")
    command = ("pictures", table, "--model", folder / "model", "--output", folder / "none.safetensors")

    def fails(message: str, *arguments: object) -> None:
        done = prepare(*command, *arguments)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert not (folder / "none.safetensors").exists()

    image = ("--image", "f")
    empty = folder / "empty.txt"
    empty.write_text("\n")
    fails("--question and --ask exclude each other", *image, "--question", "q", "--ask", "a")
    fails("--prompt and --question exclude each other", *image, "--question", "q", "--answer", "c", "--prompt", "a")
    fails("--prompt and --ask exclude each other", *image, "--ask", "q", "--answer", "c", "--prompt", "a")
    for option in ("--question", "--ask", "--answer", "--answers", "--prompt"):
        fails(f"--text and {option} exclude each other", *image, "--text", "q", option, "c")
    fails("--label is given, but --text is not", *image, "--label", "m")
    fails("--prompt is given, but --answer is not", *image, "--prompt", "a")
    fails("row 0 has no 'z'", *image, "--question", "z")
    fails(f"{table}: row 0, column 'none': no such file: {folder / 'x.png'}", "--image", "none")
    fails(f"{table}: row 1, column 'c': expected an answer, found [' ']", *image, "--answer", "c")
    fails(f"{table}: row 1, column 'm': expected 0 or 1, found 2", *image, "--text", "q", "--label", "m")
    fails(f"{table}: row 1, column 'long': 13 tokens with the first and the last, the model reads 12", *image,
          "--answer", "long")
    fails(f"{empty}: expected an answer per line", *image, "--answers", empty)
    (folder / "x.png").write_text("no image")
    fails(f"{table}: row 1, column 'none': expected the path of an image, found 4", "--image", "none")
    (folder / CAT).write_text("no image")
    fails(f"{table}: row 0, column 'f': cannot identify image file", *image)
    (folder / "model" / "config.json").write_text('{"model_type": "blip-2"}')
    fails("expected the model_type blip, found blip-2", *image)
    table.write_text("")
    fails("expected at least one row", *image)


if __name__ == "__main__":
    sys.exit(main())
