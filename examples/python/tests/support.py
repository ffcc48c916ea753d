"""What several tests need: files without a library, and the family of vision transformers."""

import json
import pathlib
import subprocess
import sys

import numpy as np

FAMILY = pathlib.Path(__file__).resolve().parents[2] / "families" / "vision" / "family"
TASKS = ("digits", "greek", "kana")

_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64"}


def write_safetensors(path, tensors, metadata=None):
    """Write a safetensors file; the names in their order."""
    header, offset, parts = {}, 0, []
    if metadata:
        header["__metadata__"] = metadata
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    return path


def run_program(*words):
    """Run the program as the module has it, in a process of its own; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "catmerge", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_bits(a, b):
    """True if two arrays have the same shape, type and bits."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
