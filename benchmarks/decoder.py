#!/usr/bin/env python3
"""The program on layers of a 7-billion-parameter Llama's shapes: seconds and memory, per layer.

    python3 benchmarks/decoder.py PROGRAM [--layers 1 2] [--samples 8] [--tokens 256] [--folder F]

Needs NumPy alone. Makes random networks of the given numbers of layers (width 4096, feed-forward
width 11008, 32 heads, 32,000 tokens, BF16) and three experts of each, and merges them by CAT from
samples and from features, and by Task Arithmetic. Prints wall seconds and peak memory (MB) of each
run; with two numbers of layers also what a layer adds, and from this the whole network of 32.
A network of n layers takes 0.53 + 0.41 n GB on the disk, four times.
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import tempfile
import time

import numpy as np

WIDTH, INNER, HEADS, WORDS = 4096, 11008, 32, 32000
TASKS = ("a", "b", "c")


def bfloat(x):
    """BF16 of a float32 array, cut off."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write(path, tensors):
    """A safetensors file of {name: (type, shape, function of the values)}, one in memory at a time."""
    header, at = {}, 0
    for name, (kind, shape, _) in tensors.items():
        size = int(np.prod(shape)) * {"BF16": 2, "I32": 4}[kind]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, values in tensors.values():
            values().tofile(file)


def parameters(layers):
    """{name: shape}"""
    shapes = {"model.embed_tokens.weight": (WORDS, WIDTH), "model.norm.weight": (WIDTH,),
              "lm_head.weight": (WORDS, WIDTH)}
    for n in range(layers):
        at = f"model.layers.{n}."
        shapes |= {f"{at}self_attn.{p}_proj.weight": (WIDTH, WIDTH) for p in "qkvo"}
        shapes |= {f"{at}mlp.{p}_proj.weight": (INNER, WIDTH) for p in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (WIDTH, INNER)
        shapes |= {f"{at}{p}_layernorm.weight": (WIDTH,) for p in ("input", "post_attention")}
    return shapes


def values(seed, shape, task):
    """Of the base, or of an expert: the base and 2 % of noise."""
    def make():
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
        if len(shape) == 1:
            x += 1
        if task is not None:
            noise = np.random.default_rng([seed, 1 + task])
            x += np.float32(0.02 / np.sqrt(shape[-1])) * noise.standard_normal(shape, np.float32)
        return bfloat(x)
    return make


def make(folder, layers, samples, tokens):
    """The base, the experts and their samples."""
    config = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
              "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": WORDS,
              "num_hidden_layers": layers, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
              "hidden_act": "silu", "tie_word_embeddings": False}
    for task, name in enumerate((None, *TASKS)):
        to = folder / (name or "base")
        to.mkdir()
        (to / "config.json").write_text(json.dumps(config))
        write(to / "model.safetensors",
              {p: ("BF16", shape, values(seed, shape, task - 1 if task else None))
               for seed, (p, shape) in enumerate(parameters(layers).items())})
        if name:
            ids = np.random.default_rng(100 + task).integers(0, WORDS, (samples, tokens), np.int32)
            write(folder / f"{name}.samples", {"input_ids": ("I32", ids.shape, lambda ids=ids: ids)})


def run(label, words):
    """Runs the program in a process of its own; (seconds, MB)."""
    start = time.time()
    child = subprocess.Popen(words)
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        raise SystemExit(f"{label}: the program failed")
    seconds, megabytes = time.time() - start, usage.ru_maxrss / 1024
    print(f"{label:28} {seconds:8.1f} s {megabytes:8.0f} MB", flush=True)
    return seconds


def measure(program, folder, layers):
    """{what: seconds}"""
    merge = [program, "merge", "--quiet", "--base", folder / "base", "--overwrite",
             "--output", folder / "merged"]
    for task in TASKS:
        merge += ["--expert", f"{task}={folder / task}"]
    found = {}
    for what, method, given in (("Task Arithmetic", "task-arithmetic", None), ("CAT from samples", "cat", "samples"),
                                ("CAT from features", "cat", "features")):
        if given == "features":
            found["features of an expert"] = run(f"{layers} layers, features", [
                program, "features", "--model", folder / "a", "--samples", folder / "a.samples", "--output",
                folder / "a.features", "--overwrite"])
            for task in TASKS[1:]:
                subprocess.run([program, "features", "--model", folder / task, "--samples",
                                folder / f"{task}.samples", "--output", folder / f"{task}.features", "--overwrite"],
                               check=True)
        inputs = [f for t in TASKS for f in (f"--{given}", f"{t}={folder / t}.{given}")] if given else []
        found[what] = run(f"{layers} layers, {what}", [*merge, "--method", method, *inputs])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--folder", type=pathlib.Path)
    arguments = parser.parse_args()
    found = {}
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            make(pathlib.Path(folder), layers, arguments.samples, arguments.tokens)
            found[layers] = measure(arguments.program, pathlib.Path(folder), layers)
    if len(found) > 1:
        few, many = min(found), max(found)
        for what in found[few]:
            each = (found[many][what] - found[few][what]) / (many - few)
            print(f"{what}: {each:.1f} s a layer, {found[few][what] + each * (32 - few):.0f} s for 32 layers")


if __name__ == "__main__":
    main()
