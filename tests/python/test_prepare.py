#!/usr/bin/env python3
"""Tests examples/export/prepare_data.py on tiny models: python3 tests/python/test_prepare.py

Compares with what the image processor, tokenizers and CLIP's text model of transformers give.
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, transformers, tokenizers and pillow it says so and exits 0.
"""

from __future__ import annotations

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
    from transformers import (CLIPTextConfig, CLIPTextModelWithProjection,
                              PreTrainedTokenizerFast)
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


if __name__ == "__main__":
    sys.exit(main())
