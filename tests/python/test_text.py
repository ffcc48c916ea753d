#!/usr/bin/env python3
"""Tests examples/families/text: python3 tests/python/test_text.py

The functions of train.py on tiny data, and the files of the committed family: that transformers
opens them as what they claim to be, and that the experts are as good as they should be.
Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch, transformers, tokenizers, numpy and safetensors it says so and exits 0.
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from runner import Skipped, main, skip_all, test

TEXT = Path(__file__).resolve().parents[2] / "examples" / "families" / "text"
FAMILY = TEXT / "family"
sys.path.insert(0, str(TEXT))
sys.dont_write_bytecode = True

try:
    import numpy as np
    import torch
    import train
    from safetensors import safe_open
    from safetensors.torch import load_file
    from torch import Tensor
    from transformers import (
        AutoTokenizer,
        RobertaConfig,
        RobertaForMaskedLM,
        RobertaForSequenceClassification,
    )
except ImportError as error:
    skip_all("examples/families/text needs torch, transformers, tokenizers and safetensors", error)

SPLITS = (("samples", 64), ("validation", 200), ("test", 500))
# The least test figure of an expert, some points below what was measured.
FLOORS = {"language": 82.0, "topic": 40.0, "section": 48.0, "testament": 42.0, "frequency": 40.0}
COLOURS = ("red", "green", "blue")


def family_test(function: Callable[[], None]) -> Callable[[], None]:
    """Adds a test of the committed files."""

    @functools.wraps(function)
    def run() -> None:
        if not FAMILY.is_dir():
            raise Skipped("there is no examples/families/text/family")
        function()

    return test(run)


def tiny_examples(count: int = 60) -> list[train.Example]:
    """Texts of a colour and a number, the colour being the class; two texts a group."""
    return [
        train.Example(f"the {COLOURS[i % 3]} ball {i} of {i * i}", i % 3, str(i // 2))
        for i in range(count)
    ]


TINY = train.Task(lambda _: tiny_examples(), COLOURS, "accuracy", 100)


def tiny_classifier(outputs: int) -> RobertaForSequenceClassification:
    """A small classifier with random parameters."""
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=18,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=outputs,
    )
    return RobertaForSequenceClassification(config)


def tiny_split() -> train.Encoded:
    """The tiny examples as token ids."""
    examples = tiny_examples()
    tokenizer = train.train_tokenizer([example.text for example in examples], 300)
    return train.Encoded.of(examples, TINY, tokenizer, 16, train.PAD)


@test
def manual_pages_become_plain() -> None:
    assert train.plain_roff(r"\fB\-a\fP, \fI\-\-all\fR  all") == "-a, --all all"
    assert train.plain_roff(r"a\f[B]bold\f[] word") == "abold word"
    assert train.wordy("six words are in this line", 6)
    assert not train.wordy("five words in this line", 6)
    assert not train.wordy("a table: 1 2 3 4 5 6 7 8 9", 6)


@test
def texts_are_framed_cut_and_padded() -> None:
    texts = ["Red ball", "green green green " * 20]
    tokenizer = train.train_tokenizer(texts, 300)
    assert [tokenizer.token_to_id(token) for token in train.SPECIAL] == list(range(5))
    examples = [train.Example(text, 0, "") for text in texts]
    split = train.Encoded.of(examples, TINY, tokenizer, 12, train.PAD)
    check_frames(split.ids, split.mask)
    assert split.mask[1].all() and not split.mask[0].all()
    assert split.batch(torch.tensor([0]))["input_ids"].shape[1] == split.mask[0].sum()
    assert tokenizer.decode(split.ids[0].tolist()).strip() == "red ball"


def check_frames(ids: Tensor, mask: Tensor) -> None:
    """Rows are <s> text </s> and then padding, which the mask leaves out."""
    lengths = mask.sum(1)
    places = torch.arange(ids.shape[1])
    assert torch.equal(mask.bool(), places < lengths[:, None])
    assert (ids[:, 0] == train.START).all() and (lengths >= 3).all()
    assert (ids[torch.arange(len(ids)), lengths - 1] == train.END).all()
    assert torch.equal(ids == train.PAD, mask == 0)


@test
def near_duplicates_go() -> None:
    texts = ["one two three four five", "One, two three four six", "one two three", "six", "six"]
    kept = train.thin([train.Example(text, 0, "") for text in texts])
    assert [example.text for example in kept] == [texts[0], texts[3]]


@test
def splits_keep_groups_apart() -> None:
    sizes = train.Sizes(samples=8, validation=10, test=12)
    splits = train.split_task(TINY, Path(), sizes, np.random.default_rng(1))
    again = train.split_task(TINY, Path(), sizes, np.random.default_rng(1))
    assert splits == again
    assert [len(splits[name]) for name in ("samples", "validation", "test")] == [8, 10, 12]
    groups = {name: {example.group for example in split} for name, split in splits.items()}
    assert not groups["test"] & groups["validation"]
    assert not (groups["train"] | groups["samples"]) & (groups["test"] | groups["validation"])
    texts = [example.text for split in splits.values() for example in split]
    assert len(set(texts)) == len(texts)


@test
def masking_follows_bert() -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 1000, (400, 100), generator=generator)
    hidden, chosen = train.hide(ids, 1000, generator)
    assert torch.equal(hidden[~chosen], ids[~chosen])
    assert (ids[chosen] >= len(train.SPECIAL)).all()
    assert abs(chosen.float().mean().item() - 0.15) < 0.01
    assert abs((hidden[chosen] == train.MASK).float().mean().item() - 0.8) < 0.02
    assert abs((hidden[chosen] == ids[chosen]).float().mean().item() - 0.1) < 0.02


@test
def metrics_are_what_they_say() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    guesses = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])
    logits = torch.nn.functional.one_hot(guesses, 2).float()
    true, false = 3 * 3, 1 * 1
    expected = 100 * (true - false) / (4 * 4)
    assert abs(train.score("matthews", logits, labels) - expected) < 1e-6
    assert train.score("matthews", torch.zeros(8, 2), labels) == 0.0
    assert train.score("accuracy", logits, labels) == 75.0
    values = torch.tensor([0.5, -1.0, 2.0])
    assert abs(train.score("pearson", 3 * values[:, None] + 1, values) - 100) < 1e-5


@test
def training_learns_and_repeats() -> None:
    split, base = tiny_split(), tiny_classifier(3)
    first, second = (
        train.train_expert(copy.deepcopy(base), "roberta.", split, 5, 150, 16, 1e-2, 1e-2)
        for _ in "ab"
    )
    before, after, again = (train.encoder_of(model, "roberta.") for model in (base, first, second))
    figures = [
        train.score("accuracy", train.predict(model, split), split.labels)
        for model in (base, first)
    ]
    assert figures[1] > figures[0] + 20, figures
    assert train.distance(after, before) > 0 and train.distance(after, again) == 0
    assert all(torch.equal(p, p.half().float()) for p in first.parameters())
    # Alpha 1 on a single expert gives it back; on none at all, the base.
    merged = train.arithmetic(before, [after], 1.0)
    assert all(torch.allclose(merged[name], value, atol=1e-6) for name, value in after.items())
    assert train.distance(train.arithmetic(before, [after], 0.0), before) == 0


@test
def ratings_are_learnt_by_least_squares() -> None:
    split = tiny_split()
    split.labels = split.labels.float() - 1
    model = train.train_expert(tiny_classifier(1), "roberta.", split, 5, 60, 16, 3e-3, 3e-3)
    assert train.score("pearson", train.predict(model, split), split.labels) > 60


@family_test
def the_family_is_complete_and_small() -> None:
    files = [path for path in FAMILY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    names = sorted(f"{name}.safetensors" for name in train.FAMILY)
    for folder in ("experts", *(split for split, _ in SPLITS)):
        assert sorted(path.name for path in (FAMILY / folder).iterdir()) == names, folder


@family_test
def the_texts_are_sound() -> None:
    config = json.loads((FAMILY / "base" / "config.json").read_text())
    for name in train.FAMILY:
        task = train.TASKS[name]
        seen: set[bytes] = set()
        for split, least in SPLITS:
            path = FAMILY / split / f"{name}.safetensors"
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            data = load_file(path)
            assert set(data) == {"input_ids", "attention_mask", "labels"}
            assert metadata["task"] == name and metadata["metric"] == task.metric
            assert metadata["classes"] == ",".join(task.classes)
            assert metadata["pad_token_id"] == str(config["pad_token_id"]) == "1"
            ids, mask, labels = data["input_ids"], data["attention_mask"], data["labels"]
            assert ids.dtype == torch.uint16 and mask.dtype == torch.uint8
            assert ids.shape == mask.shape and len(ids) == len(labels) >= least
            assert ids.shape[1] + train.PAD + 1 <= config["max_position_embeddings"]
            ids = ids.long()
            assert ids.max() < config["vocab_size"]
            check_frames(ids, mask.long())
            if task.classes:
                assert labels.dtype == torch.int64
                assert set(labels.tolist()) <= set(range(len(task.classes)))
                assert split == "samples" or len(labels.unique()) == len(task.classes)
            else:
                assert labels.dtype == torch.float32 and labels.std() > 0.5
            found = {row.numpy().tobytes() for row in ids}
            assert len(found) == len(ids), f"{split}/{name} repeats texts"
            assert not found & seen, f"{split}/{name} shares texts with another split"
            seen |= found


@family_test
def the_base_is_a_masked_language_model() -> None:
    model, info = RobertaForMaskedLM.from_pretrained(
        FAMILY / "base", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / "base")
    assert tokenizer.mask_token_id == train.MASK and tokenizer.pad_token_id == train.PAD
    inputs = tokenizer("Install the <mask> with the command below.", return_tensors="pt")
    check_frames(inputs["input_ids"], inputs["attention_mask"])
    assert len(tokenizer) == model.config.vocab_size
    data = load_file(FAMILY / "test" / "topic.safetensors")
    ids, mask = data["input_ids"].long(), data["attention_mask"].long()
    generator = torch.Generator().manual_seed(1)
    hidden, chosen = train.hide(ids, model.config.vocab_size, generator)
    with torch.no_grad():
        logits = model(hidden, mask).logits[chosen]
    loss = torch.nn.functional.cross_entropy(logits, ids[chosen]).item()
    # Guessing at random has log 1024 = 6.9.
    assert loss < 4.6, f"guesses cost {loss:.2f}"


@family_test
def the_experts_classify() -> None:
    config = RobertaConfig.from_pretrained(FAMILY / "base")
    base = load_file(FAMILY / "base" / "model.safetensors")
    shared = {n: v.float() for n, v in base.items() if n.startswith(train.PREFIX)}
    assert all(name.startswith("lm_head.") for name in base.keys() - shared.keys())
    for name in train.FAMILY:
        task = train.TASKS[name]
        state = load_file(FAMILY / "experts" / f"{name}.safetensors")
        assert all(value.dtype == torch.float16 for value in state.values())
        assert {n for n in state if not n.startswith("classifier.")} == set(shared)
        config.num_labels = task.outputs
        model = RobertaForSequenceClassification(config).eval()
        model.load_state_dict({n: value.float() for n, value in state.items()}, strict=True)
        moved = train.distance(train.encoder_of(model, train.PREFIX), shared)
        assert 1.0 <= moved <= 6.0, f"{name} moved by {moved:.2f} %"
        data = load_file(FAMILY / "test" / f"{name}.safetensors")
        split = train.Encoded(
            data["input_ids"].long(), data["attention_mask"].long(), data["labels"]
        )
        figure = train.score(task.metric, train.predict(model, split), split.labels)
        assert figure >= FLOORS[name], f"{name}: {figure:.1f}"


if __name__ == "__main__":
    sys.exit(main())
