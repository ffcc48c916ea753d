#!/usr/bin/env python3
"""Opens what `catmerge merge` writes with the transformers library:

    python3 tests/python/test_from_pretrained.py [PROGRAM]      (default: build/examples/harness/catmerge)

Small random models are saved by transformers, merged by the program into folders, in one file and in
shards, in several types, and opened by from_pretrained: no parameter missing, none unexpected, the
values those of Task Arithmetic computed here. It was run with Python 3.11, torch 2.15.0, transformers
5.23.0 and safetensors 0.8.0. Prints one line per failure and 'N passed, N failed' at the end; exits 1
if anything failed. Without torch, transformers or the program it says so and exits 0.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runner import main, skip_all, test

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/examples/harness/catmerge")

try:
    import torch
    from transformers import (BertConfig, BertModel, CLIPConfig, CLIPModel, CLIPVisionConfig,
                              CLIPVisionModelWithProjection, PreTrainedModel, RobertaConfig,
                              RobertaForMaskedLM, RobertaForSequenceClassification)

    if not PROGRAM.is_file():
        raise ImportError(f"{PROGRAM} is not built")
except ImportError as error:
    skip_all("needs torch, transformers and the program", error)

ALPHA = 0.3
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 8, "patch_size": 4, "projection_dim": 8}
TEXT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 20}


def randomise(model: PreTrainedModel, seed: int, around: PreTrainedModel | None = None) -> PreTrainedModel:
    """Every parameter random, or random around those of the same name in another model."""
    generator = torch.Generator().manual_seed(seed)
    others = dict(around.named_parameters()) if around is not None else {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(others[name] + 0.05 * noise if name in others else 0.2 * noise)
    return model.eval()


def merge(folder: Path, tasks: list[str], *options: object) -> Path:
    """Runs the program on folder/base and folder/TASK; returns folder/merged."""
    output = folder / "merged"
    command = [PROGRAM, "merge", "--base", folder / "base", "--output", output, "--method", "task-arithmetic",
               "--alpha", ALPHA, *options]
    for task in tasks:
        command += ["--expert", f"{task}={folder / task}"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def opened(kind: type[PreTrainedModel], folder: Path, **options: object) -> PreTrainedModel:
    """The model of a folder; nothing may be missing or unexpected."""
    model, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(what), f"{what}: {info[what]}"
    return model


def check_sum(merged: PreTrainedModel, base: PreTrainedModel, experts: list[PreTrainedModel], tolerance: float) -> None:
    """theta_0 + alpha sum (theta_k - theta_0), for every parameter of the merged model."""
    origin = dict(base.named_parameters())
    parameters = [dict(expert.named_parameters()) for expert in experts]
    for name, p in merged.named_parameters():
        start = origin[name].double()
        expected = start + ALPHA * sum(other[name].double() - start for other in parameters)
        worst = (p.double() - expected).abs().max().item()
        assert worst <= tolerance, f"{name}: {worst}"


@test
def clip_vision_in_one_file_and_in_shards(folder: Path) -> None:
    config = CLIPVisionConfig(**VISION)
    models = [randomise(CLIPVisionModelWithProjection(config), 1)]
    models += [randomise(CLIPVisionModelWithProjection(config), k, models[0]) for k in (2, 3)]
    for model, name in zip(models, ("base", "a", "b"), strict=True):
        model.save_pretrained(folder / name, max_shard_size="8KB" if name == "b" else "5GB")
    (folder / "base" / "preprocessor_config.json").write_text("{}")
    for options in ((), ("--max-shard-size", "6KB", "--overwrite")):
        output = merge(folder, ["a", "b"], *options)
        check_sum(opened(CLIPVisionModelWithProjection, output), models[0], models[1:], 1e-6)
        assert (output / "preprocessor_config.json").read_text() == "{}"
    assert (output / "model.safetensors.index.json").is_file()


@test
def a_whole_clip_in_half_precision(folder: Path) -> None:
    config = CLIPConfig(vision_config=VISION, text_config=TEXT | {"projection_dim": 8}, projection_dim=8)
    models = [randomise(CLIPModel(config), 1)]
    models += [randomise(CLIPModel(config), k, models[0]) for k in (2, 3)]
    for model, name in zip(models, ("base", "a", "b"), strict=True):
        model.half().save_pretrained(folder / name)
    output = merge(folder, ["a", "b"])
    merged = opened(CLIPModel, output, dtype="auto")
    assert merged.dtype == torch.float16
    check_sum(merged, models[0], models[1:], 1e-3)  # half has 11 bits; values are below 2
    wide = opened(CLIPModel, merge(folder, ["a", "b"], "--out-dtype", "f32", "--overwrite"), dtype="auto")
    assert wide.dtype == torch.float32
    check_sum(wide, models[0], models[1:], 1e-6)


@test
def roberta_with_tied_embeddings(folder: Path) -> None:
    config = RobertaConfig(**TEXT, type_vocab_size=1, pad_token_id=1)
    models = [randomise(RobertaForMaskedLM(config), 1)]
    models += [randomise(RobertaForMaskedLM(config), k, models[0]) for k in (2, 3)]
    for model, name in zip(models, ("base", "a", "b"), strict=True):
        model.save_pretrained(folder / name)
    merged = opened(RobertaForMaskedLM, merge(folder, ["a", "b"]))
    assert merged.lm_head.decoder.weight is merged.roberta.embeddings.word_embeddings.weight
    check_sum(merged, models[0], models[1:], 1e-6)


@test
def experts_with_heads_of_their_own(folder: Path) -> None:
    base = randomise(RobertaForMaskedLM(RobertaConfig(**TEXT, type_vocab_size=1, pad_token_id=1)), 1)
    base.save_pretrained(folder / "base")
    experts = []
    for number, (name, labels) in enumerate((("a", 2), ("b", 3))):
        config = RobertaConfig(**TEXT, type_vocab_size=1, pad_token_id=1, num_labels=labels)
        experts.append(randomise(RobertaForSequenceClassification(config), number + 2, base))
        experts[-1].save_pretrained(folder / name)
    output = merge(folder, ["a", "b"], "--drop", "lm_head.*", "--task-heads", "classifier.*", "--heads-output",
                   folder / "heads")
    from safetensors.torch import load_file

    for expert, name, labels in zip(experts, ("a", "b"), (2, 3), strict=True):
        model, info = RobertaForSequenceClassification.from_pretrained(output, num_labels=labels,
                                                                       output_loading_info=True)
        assert all(key.startswith("classifier.") for key in info["missing_keys"]), info["missing_keys"]
        assert not info["unexpected_keys"], info["unexpected_keys"]
        left = model.load_state_dict(load_file(folder / "heads" / f"{name}.safetensors"), strict=False)
        assert not left.unexpected_keys
        assert torch.equal(model.classifier.out_proj.weight, expert.classifier.out_proj.weight)
        check_sum(model.roberta, base.roberta, [other.roberta for other in experts], 1e-6)


@test
def bert_in_bfloat16(folder: Path) -> None:
    config = BertConfig(**TEXT)
    models = [randomise(BertModel(config), 1)]
    models += [randomise(BertModel(config), k, models[0]) for k in (2, 3)]
    for model, name in zip(models, ("base", "a", "b"), strict=True):
        model.bfloat16().save_pretrained(folder / name)
    merged = opened(BertModel, merge(folder, ["a", "b"]), dtype="auto")
    assert merged.dtype == torch.bfloat16
    check_sum(merged, models[0], models[1:], 8e-3)  # bfloat16 has 8 bits; values are below 2


if __name__ == "__main__":
    sys.exit(main())
