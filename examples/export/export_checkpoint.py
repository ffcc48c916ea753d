#!/usr/bin/env python3
"""Turns a PyTorch checkpoint into safetensors, or into a folder of .npy files.

    python3 export_checkpoint.py checkpoint.pt model.safetensors
    python3 export_checkpoint.py checkpoint.pt model-npy --format npy
    python3 export_checkpoint.py some/hugging-face-folder model.safetensors

The input is a .pt, .pth or .bin file with a state dictionary, at the top or under the key
"state_dict", "model" or "model_state_dict"; or a folder with model.safetensors or
pytorch_model.bin, in one file or in parts that an index lists. Pickled files are read with
weights_only: they can hold tensors and plain containers, but run no code. What is no tensor is
left out and named.

A folder of .npy files holds one file per parameter, NAME.npy. NumPy has no bfloat16, so such
parameters become float32 there, which loses nothing; they are named.

The output appears whole or not at all: it is written under another name beside its place, then
renamed. Parameters that share memory are written once each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

NESTED = ("state_dict", "model", "model_state_dict")


class ExportError(Exception):
    """Something about the input or the output that the user can mend."""


def load_folder(folder: Path) -> Mapping[str, object]:
    """The parameters of a Hugging Face folder, in one file or in parts."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return {key: value for part in parts for key, value in load_any(folder / part).items()}
        if (folder / name).is_file():
            return load_any(folder / name)
    raise ExportError(f"{folder}: neither model.safetensors nor pytorch_model.bin is in it")


def load_any(path: Path) -> Mapping[str, object]:
    """A state dictionary, from wherever in the file or folder it lies."""
    if path.is_dir():
        return load_folder(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(content, Mapping):
        if any(isinstance(value, Tensor) for value in content.values()):
            return content
        inner = [content[key] for key in NESTED if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    raise ExportError(f"{path}: no state dictionary at the top or under {', '.join(NESTED)}")


def load_state(path: Path, strip: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by name, without the prefix `strip`, and the names of what is no tensor."""
    if not path.exists():
        raise ExportError(f"{path}: no such file or folder")
    content = load_any(path)
    tensors = {
        name.removeprefix(strip): value.detach().contiguous()
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if len(tensors) + len(others) < len(content):
        raise ExportError(f"{path}: two names are the same without the prefix '{strip}'")
    return tensors, others


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One file, renamed into place once it is complete."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        # Copies: safetensors refuses tensors that share memory.
        save_file({key: value.clone() for key, value in tensors.items()}, name, {"format": "pt"})
        os.chmod(name, 0o666 & ~current_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_npy(tensors: Mapping[str, Tensor], path: Path) -> list[str]:
    """A folder of NAME.npy, renamed into place; returns the names that became float32."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ExportError(f"{path}: exists and is no empty folder")
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    widened = []
    try:
        for name, value in tensors.items():
            if "/" in name or name in (".", ".."):
                raise ExportError(f"'{name}' can't be the name of a file")
            if value.dtype == torch.bfloat16:
                widened.append(name)
                value = value.float()
            np.save(folder / f"{name}.npy", value.numpy())
        os.chmod(folder, 0o777 & ~current_umask())
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return widened


def current_umask() -> int:
    """The permission bits that new files go without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Turns a PyTorch checkpoint into safetensors or a folder of .npy files.",
        epilog="Exit status: 0, 1 if it could not be done, 2 for a wrong command line.",
    )
    parser.add_argument("input", type=Path, help=".pt, .pth, .bin, .safetensors, or a folder")
    parser.add_argument("output", type=Path, help="the file, or with --format npy the folder")
    parser.add_argument("--format", choices=("safetensors", "npy"), default="safetensors")
    parser.add_argument("--strip", default="", metavar="PREFIX", help="cut this off the names")
    args = parser.parse_args()
    try:
        tensors, others = load_state(args.input, args.strip)
        if args.format == "npy":
            widened = write_npy(tensors, args.output)
        else:
            widened = []
            write_safetensors(tensors, args.output)
    except Exception as error:  # whatever a reader or writer raises, the user gets one line
        print(f"export_checkpoint: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(tensors)} tensors")
    if widened:
        print(f"bfloat16 written as float32: {', '.join(widened)}")
    if others:
        print(f"left out, no tensors: {', '.join(others)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
