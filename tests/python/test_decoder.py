#!/usr/bin/env python3
"""Tests examples/families/decoder: python3 tests/python/test_decoder.py

The functions of train.py on tiny data, and the files of the committed family: that transformers and
PEFT open them as what they claim to be, and that the experts are as good as they should be.
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, transformers, peft and safetensors it says so and exits 0.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from runner import Skipped, main, skip_all, test

DECODER = Path(__file__).resolve().parents[2] / "examples" / "families" / "decoder"
FAMILY = DECODER / "family"
sys.path.insert(0, str(DECODER))
sys.dont_write_bytecode = True

try:
    import torch
    import train
    from peft import LoraConfig, get_peft_model
    from safetensors import safe_open
    from safetensors.torch import load_file
    from torch import Tensor
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as error:
    skip_all("examples/families/decoder needs torch, transformers, peft and safetensors", error)

SEED = 2026  # the default of train.py's --seed, which the committed family has
# The least test figure of an expert, somewhat below what was measured.
FLOORS = {
    "french": 9.0,
    "german": 7.5,
    "lisp": 15.0,
    "verse": 17.0,
    "changelog": 16.0,
    "sort": 90.0,
}


def family_test(function: Callable[[], None]) -> Callable[[], None]:
    """Adds a test of the committed files."""

    @functools.wraps(function)
    def run() -> None:
        if not FAMILY.is_dir():
            raise Skipped("there is no examples/families/decoder/family")
        function()

    return test(run)


def tiny_decoder() -> LlamaForCausalLM:
    """A small decoder with random parameters."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def tiny_rows() -> train.Rows:
    """Rows whose answer, one byte, says whether the second byte is a or b."""
    return train.Rows.of([bytes([97 + i % 2, 98 + i % 5, 110 + i % 2]) for i in range(40)], 1)


def read_rows(split: str, name: str) -> train.Rows:
    """A committed file of windows."""
    tensors = load_file(FAMILY / split / f"{name}.safetensors")
    return train.Rows(tensors["input_ids"], tensors["labels"])


@test
def manual_pages_become_plain() -> None:
    page = (
        '.TH LS 1\n.SH "NAME"\n.B ls\n\\fB\\-a\\fR, \\f[I]all\\f[]\n.\\" a comment\n.Vb 1\nno\\&de'
    )
    assert train.plain_roff(page) == "\nNAME\nls\n-a, all\nnode"
    assert train.after_comment("/* a\n * licence */\nint x; /* y */") == "\nint x; /* y */"
    assert train.lisp_code(";;; x.el\n;;; Code:\n(defun x ())") == "\n(defun x ())"


@test
def windows_are_whole_and_in_order() -> None:
    text = "".join(f"{i} é\0 " for i in range(300))
    found, data = train.windows(text), text.encode().replace(b"\0", b"")
    assert {len(row) for row in found} == {train.WINDOW}
    assert b"".join(found) == data[: len(found) * train.WINDOW]
    assert len(data) - len(found) * train.WINDOW < train.WINDOW
    assert train.windows("a" * (train.WINDOW - 1)) == []


@test
def labels_are_the_bytes_that_are_asked() -> None:
    rows = train.Rows.of([b"dbca>abcd", b"ponm>mnop"], 4)
    assert rows.ids.tolist()[0] == [0, *b"dbca>abcd"]
    assert rows.labels.tolist()[1] == [-100] * 6 + list(b"mnop")
    assert rows.ids.dtype == torch.uint8 and rows.labels.dtype == torch.int16


@test
def splits_of_a_text_are_disjoint_blocks() -> None:
    rng = random.Random(1)
    text = "".join(rng.choices("abcdef ", k=60_000)) + "x" * 2_000
    splits = train.split_text(text, random.Random(2))
    assert splits == train.split_text(text, random.Random(2))
    assert {name: len(splits[name]) for name in train.SPLITS} == {
        name: count * train.PLACES for name, count in train.SPLITS.items()
    }
    taken = [set(part) for part in splits.values()]
    assert sum(map(len, taken)) == len(set.union(*taken))
    # each place's block of test is where the place begins
    rows = train.windows(text)
    size = len(rows) // train.PLACES
    blocks = [rows[p * size + i] for p in range(train.PLACES) for i in range(8)]
    assert sorted(splits["test"]) == sorted(blocks)


@test
def a_window_that_repeats_is_not_trained_on() -> None:
    text = "".join(chr(97 + i % 26) * train.WINDOW for i in range(26 * 8))
    splits = train.split_text(text, random.Random(2))
    held = {row for name in train.SPLITS for row in splits[name]}
    assert splits["train"] and not held & set(splits["train"])


@test
def no_question_of_sort_is_asked_twice() -> None:
    splits = train.make_sort(train.generator_of(SEED, "sort"))
    rows = [row.decode() for part in splits.values() for row in part]
    assert {name: len(part) for name, part in splits.items()} == train.SORT_ROWS
    questions, answers = zip(*(row.split(">") for row in rows))
    assert len(set(questions)) == len(rows)
    assert all(list(answer) == sorted(question) for question, answer in zip(questions, answers))
    assert all(len(set(q)) == train.SORTED and set(q) <= set(train.LETTERS) for q in questions)


class Parrot(torch.nn.Module):
    """Gives the byte that it has just read the logit log 3 and others 0, of four bytes."""

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        logits = torch.full((*input_ids.shape, 256), -math.inf)
        logits[..., :4] = 0.0
        logits.scatter_(2, input_ids[..., None], math.log(3.0))
        return SimpleNamespace(logits=logits)


@test
def figures_are_what_they_say() -> None:
    rows = train.Rows.of([bytes([1, 1, 1]), bytes([1, 2, 2]), bytes([3, 3, 1])], 2)
    found = train.measure(Parrot(), rows)
    # six bytes are asked; the parrot is right on four, in one row on both
    bits = -(4 * math.log2(3 / 6) + 2 * math.log2(1 / 6)) / 6
    assert abs(found.bits - bits) < 1e-6
    assert abs(found.likelihood - 100 * 2**-bits) < 1e-4
    assert abs(found.bytes - 100 * 4 / 6) < 1e-9 and abs(found.exact - 100 / 3) < 1e-9
    assert found.of("exact") == found.exact and found.of("likelihood") == found.likelihood


@test
def training_learns_and_repeats() -> None:
    rows, base = tiny_rows(), tiny_decoder()
    config = LoraConfig(target_modules=list(train.MODULES), r=4, lora_alpha=8)
    models = []
    for _ in "ab":
        torch.manual_seed(3)
        model = get_peft_model(copy.deepcopy(base), config)
        train.fit(model, rows, 5, 60, 8, 3e-3, 0.0)
        models.append(model.merge_and_unload())
    before, after, again = (train.flat(train.linears(m)) for m in (base, *models))
    assert torch.equal(after, again) and not torch.equal(after, before)
    assert torch.equal(models[0].model.embed_tokens.weight, base.model.embed_tokens.weight)
    figures = [train.measure(model, rows) for model in (base, models[0])]
    assert figures[0].exact < 60 and figures[1].exact == 100, figures


@family_test
def the_family_is_complete_and_small() -> None:
    files = [path for path in FAMILY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_500_000
    names = sorted(train.TASKS)
    assert sorted(path.name for path in (FAMILY / "experts").iterdir()) == names
    for split in train.SPLITS:
        found = sorted(path.name for path in (FAMILY / split).iterdir())
        assert found == [f"{name}.safetensors" for name in names], split


@family_test
def the_windows_are_sound() -> None:
    for name, task in train.TASKS.items():
        seen: set[bytes] = set()
        for split in train.SPLITS:
            with safe_open(FAMILY / split / f"{name}.safetensors", "pt") as file:
                assert set(file.keys()) == {"input_ids", "labels"}
                assert file.metadata() == {"task": name, "metric": task.metric}
            rows = read_rows(split, name)
            assert rows.ids.dtype == torch.uint8 and rows.labels.dtype == torch.int16
            assert (rows.ids[:, 0] == train.START).all() and (rows.ids[:, 1:] != train.START).all()
            asked = torch.arange(rows.ids.shape[1]) >= rows.ids.shape[1] - task.asked
            expected = torch.where(asked, rows.ids.to(torch.int16), train.IGNORED)
            assert torch.equal(rows.labels, expected), f"{split}/{name}"
            found = {row.numpy().tobytes() for row in rows.ids}
            assert len(found) == len(rows.ids), f"{split}/{name} repeats windows"
            assert not found & seen, f"{split}/{name} shares windows with another split"
            seen |= found
            if task.metric == "likelihood":
                count = train.PLACES * train.SPLITS[split]
                assert rows.ids.shape == (count, 1 + train.WINDOW)


@family_test
def sort_comes_out_again() -> None:
    made = train.make_task("sort", Path(), SEED)
    for split in train.SPLITS:
        rows = read_rows(split, "sort")
        assert torch.equal(rows.ids, made[split].ids), split
        assert torch.equal(rows.labels, made[split].labels), split


@family_test
def the_base_is_a_causal_language_model() -> None:
    stored = load_file(FAMILY / "base" / "model.safetensors")
    assert all(value.dtype == torch.float16 for value in stored.values())
    model, info = LlamaForCausalLM.from_pretrained(
        FAMILY / "base", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    config = json.loads((FAMILY / "base" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    # All bytes alike would cost 8 bits.
    assert train.measure(model, read_rows("test", "verse")).bits < 3.5


@family_test
def the_adapters_are_of_every_linear_layer() -> None:
    base = train.read_base(FAMILY / "base")
    weights = train.linears(base)
    assert len(weights) == len(train.MODULES) * base.config.num_hidden_layers
    for name in train.TASKS:
        folder = FAMILY / "experts" / name
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA" and config["target_modules"] == list(train.MODULES)
        factors = load_file(folder / "adapter_model.safetensors")
        assert len(factors) == 2 * len(weights)
        assert all(value.dtype == torch.float16 for value in factors.values())
        merged = train.linears(train.read_expert(FAMILY, name))
        for weight, value in weights.items():
            key = f"base_model.model.{weight.removesuffix('.weight')}"
            down, up = (factors[f"{key}.lora_{x}.weight"].float() for x in "AB")
            assert down.shape[0] == up.shape[1] == config["r"]
            expected = value + config["lora_alpha"] / config["r"] * (up @ down)
            assert (merged[weight] - expected).abs().max() <= 1e-6, f"{name}: {weight}"


@family_test
def the_experts_know_their_tasks() -> None:
    base = train.read_base(FAMILY / "base")
    start = train.flat(train.linears(base))
    tests = {name: read_rows("test", name) for name in train.TASKS}
    found: dict[str, dict[str, train.Figures]] = {}
    for name in train.TASKS:
        model = train.read_expert(FAMILY, name)
        moved = 100 * (train.flat(train.linears(model)) - start).norm() / start.norm()
        assert 2.0 <= moved <= 6.0, f"{name} moved by {moved:.2f} %"
        found[name] = {task: train.measure(model, rows) for task, rows in tests.items()}
    for task, rows in tests.items():
        before = train.measure(base, rows).bits
        best = min(train.TASKS, key=lambda name: found[name][task].bits)
        assert best == task and found[task][task].bits < before, task
        figure = found[task][task].of(train.TASKS[task].metric)
        assert figure >= FLOORS[task], f"{task}: {figure:.1f}"


if __name__ == "__main__":
    sys.exit(main())
