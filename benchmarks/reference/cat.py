#!/usr/bin/env python3
"""CAT Merging in NumPy, written straight from the formulas: dense G_k, full eigh, explicit B B^T.

An independent reference for the library, in float64. It shares no code with it and reads the same
files: checkpoints, and features as `catmerge features` writes them.

    python3 cat.py --base family/base/model.safetensors --expert dtd=dtd.safetensors ... \
        --features dtd=dtd-features.safetensors ... [--output merged.safetensors] [--summary out.json]

The summary holds, for each parameter, numbers that identify the merged values: the norm of their
difference from the base, its product with a fixed vector of signs, the conflict before and after and
the deviation of each task, and the removals. Run with NumPy 1.24 and 2.4.
"""

import argparse
import json
import struct
import sys
import time
from pathlib import Path

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "u1"}


def read(path, wanted=lambda name: True, real=float):
    """The tensors (floating-point ones as `real`) and the metadata of a safetensors file."""
    data = np.memmap(path, np.uint8, "r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + length].tobytes())
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if not wanted(name):
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[begin:end].tobytes(), TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = array.astype(real) if entry["dtype"].startswith("F") else array
    return tensors, metadata


def write(path, tensors):
    """A float32 safetensors file."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


class Features:
    """Gram matrices and second moments of one task, by parameter."""

    def __init__(self, path, real=float):
        self.tensors, self.metadata = read(path, real=real)

    def owner(self, name):
        return self.metadata.get(f"alias:{name}", name)

    def rows(self, name):
        name = self.owner(name)
        return int(self.metadata.get(f"rows:{name}", 0)) or len(self.tensors[name])

    def gram(self, name):
        name = self.owner(name)
        if name + "::gram" in self.tensors:
            return self.tensors[name + "::gram"]
        x = self.tensors[name] if name in self.tensors else self.tensors[name + "::factor"]
        return x.T @ x

    def moment(self, name):
        name = self.owner(name)
        if name + "::second_moment" in self.tensors:
            return self.tensors[name + "::second_moment"]
        return np.diag(self.gram(name)) / self.rows(name)


def kind_of(name):
    """The kind of a parameter of the Hugging Face CLIP vision model or of examples/families/convnet."""
    if "embedding" in name or name.startswith("visual_projection"):
        return "other"
    if name.endswith(".bias"):
        return "shift"
    return "scale" if "norm" in name or "layrnorm" in name else "linear"


def trim_linear(vectors, grams, rank, strength):
    tasks = range(len(vectors))
    bases = []
    for k in tasks:
        g = sum(vectors[i] @ (grams[k] - strength * grams[i]) @ vectors[i].T for i in tasks if i != k)
        values, basis = np.linalg.eigh((g + g.T) / 2)
        positive = int((values > len(g) * np.finfo(float).eps * np.abs(values).max()).sum())
        bases.append(basis[:, len(g) - min(rank, positive) :])
    trimmed = []
    for i in tasks:
        t = vectors[i]
        for k in tasks:
            if k != i:
                t = t - bases[k] @ bases[k].T @ t
        trimmed.append(t)
    energy = lambda k, t: float(np.sum((t @ grams[k]) * t))
    return trimmed, energy, [b.shape[1] for b in bases]


def time_linear(a, experts, features, in_full):
    """Prints the seconds of all linear weights in float32: of every one, or the quicker of two runs of one of
    each shape, times their number."""
    shapes = {}
    for name, start in read(a.base, lambda name: kind_of(name) == "linear", np.float32)[0].items():
        shapes.setdefault(start.shape, []).append(name)

    def seconds_of(name):
        one = lambda path: read(path, lambda other: other == name, np.float32)[0][name]
        start, tuned = one(a.base), [one(path) for path in experts]
        began = time.perf_counter()
        vectors = [t - start for t in tuned]
        grams = [f.gram(name) for f in features]
        trimmed, _, _ = trim_linear(vectors, grams, a.rank, a.strength)
        start + a.alpha * sum(trimmed)
        return time.perf_counter() - began

    total = 0
    for shape, names in shapes.items():
        if in_full:
            seconds = sum(seconds_of(name) for name in names)
        else:
            seconds = min(seconds_of(names[0]) for _ in range(2)) * len(names)
        print(f"{shape}: {len(names)} weights, {seconds:.1f} s", file=sys.stderr)
        total += seconds
    print(f"{total:.1f}")


def trim_masked(vectors, weights, strength, rank):
    """weights: per task the weight of a coordinate's square (ones for shifts, with strength 0)."""
    tasks = range(len(vectors))
    masks = []
    for k in tasks:
        score = sum((weights[k] - strength * weights[i]) * vectors[i] ** 2 for i in tasks if i != k)
        order = np.argsort(-score, kind="stable")[:rank]
        masks.append(sorted(int(j) for j in order if score[j] > 0))
    trimmed = []
    for i in tasks:
        t = vectors[i].copy()
        for k in tasks:
            if k != i:
                t[masks[k]] = 0
        trimmed.append(t)
    return trimmed, masks


def signs(size):
    """A fixed vector of signs: the top bit of i times Knuth's multiplier, modulo 2^32."""
    return np.where((np.arange(size, dtype=np.uint64) * 2654435761) & 0x80000000, 1.0, -1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--expert", action="append", required=True, metavar="NAME=F")
    parser.add_argument("--features", action="append", required=True, metavar="NAME=F")
    parser.add_argument("--alpha", type=float, default=0.4)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--strength", type=float, default=5, help="lambda of linear weights")
    parser.add_argument("--scale-rank", type=int, default=4)
    parser.add_argument("--scale-strength", type=float, default=10, help="lambda of scales")
    parser.add_argument("--shift-rank", type=int, default=4)
    parser.add_argument("--output")
    parser.add_argument("--summary")
    parser.add_argument(
        "--time",
        choices=("shapes", "all"),
        help="merge nothing: time only the trims and the sum of linear weights, one of every shape or all, in float32, "
        "and print the seconds of all of them",
    )
    a = parser.parse_args()

    tasks = [e.split("=", 1)[0] for e in a.expert]
    paths = dict(f.split("=", 1) for f in a.features)
    files = [e.split("=", 1)[1] for e in a.expert]
    if a.time:
        return time_linear(a, files, [Features(paths[t], np.float32) for t in tasks], a.time == "all")
    base, _ = read(a.base)
    experts = [read(f)[0] for f in files]
    features = [Features(paths[t]) for t in tasks]
    merged, summary = {}, {}
    for name, start in base.items():
        kind = kind_of(name)
        vectors = [e[name] - start for e in experts]
        if kind == "linear":  # a convolution is a matrix of d_out rows
            vectors = [t.reshape(len(t), -1) for t in vectors]
        notes = {"kind": kind}
        if kind == "other":
            trimmed = vectors
        elif kind == "linear":
            trimmed, energy, notes["taken"] = trim_linear(vectors, [f.gram(name) for f in features], a.rank, a.strength)
        else:
            scale = kind == "scale"
            weights = [f.moment(name) if scale else np.ones_like(start) for f in features]
            rows = [f.rows(name) if scale else 1 for f in features]
            trimmed, notes["masks"] = trim_masked(
                vectors, weights, a.scale_strength if scale else 0, a.scale_rank if scale else a.shift_rank
            )
            energy = lambda k, t: float(rows[k] * np.sum(weights[k] * t**2))
        if kind != "other":
            ks = range(len(tasks))
            notes["conflict_before"] = [sum(energy(k, vectors[i]) for i in ks if i != k) for k in ks]
            notes["conflict_after"] = [sum(energy(k, trimmed[i]) for i in ks if i != k) for k in ks]
            notes["deviation"] = [energy(i, vectors[i] - trimmed[i]) for i in ks]
        added = a.alpha * sum(trimmed).reshape(start.shape)
        notes["norm"] = float(np.linalg.norm(added))
        notes["signed_sum"] = float(added.ravel() @ signs(added.size))
        merged[name], summary[name] = start + added, notes
    if a.output:
        write(a.output, merged)
    if a.summary:
        Path(a.summary).write_text(json.dumps({"tasks": tasks, "parameters": summary}, indent=0) + "\n")


if __name__ == "__main__":
    main()
