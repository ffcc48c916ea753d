#!/usr/bin/env python3
"""Tests examples/export/export_checkpoint.py: python3 tests/python/test_export.py

Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without torch and safetensors there is nothing to test: it says so and exits 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from runner import main, skip_all, test

EXPORT = Path(__file__).resolve().parents[2] / "examples" / "export"
sys.dont_write_bytecode = True

try:
    import numpy as np
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from torch import nn
except ImportError as error:
    skip_all("examples/export needs torch, numpy and safetensors", error)


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs export_checkpoint.py."""
    command = [sys.executable, str(EXPORT / "export_checkpoint.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return file.metadata()


STATE = {
    "net.a.weight": torch.arange(6.0).view(2, 3),
    "net.a.bias": torch.tensor([0.5, -1.5], dtype=torch.bfloat16),
    "net.steps": torch.tensor(7),
    "net.half": torch.tensor([1.5, 2.5], dtype=torch.float16),
}


@test
def state_dict_to_safetensors(folder: Path) -> None:
    torch.save(STATE, folder / "a.pt")
    result = export(folder / "a.pt", folder / "a.safetensors")
    assert result.returncode == 0, result.stderr
    tensors = load_file(folder / "a.safetensors")
    assert tensors.keys() == STATE.keys()
    for name, value in STATE.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value), name
    assert metadata_of(folder / "a.safetensors") == {"format": "pt"}
    assert sorted(p.name for p in folder.iterdir()) == ["a.pt", "a.safetensors"]


@test
def nested_checkpoint_and_prefix(folder: Path) -> None:
    for key in ("state_dict", "model"):
        checkpoint = {"epoch": 3, key: {**STATE, "net.note": "text"}}
        torch.save(checkpoint, folder / "a.pth")
        result = export(folder / "a.pth", folder / "a.safetensors", "--strip", "net.")
        assert result.returncode == 0, result.stderr
        names = set(load_file(folder / "a.safetensors"))
        assert names == {"a.weight", "a.bias", "steps", "half"}
        assert "net.note" in result.stdout


@test
def colliding_names_are_an_error(folder: Path) -> None:
    torch.save({"m.x": torch.ones(1), "x": torch.zeros(1)}, folder / "a.pt")
    result = export(folder / "a.pt", folder / "a.safetensors", "--strip", "m.")
    assert result.returncode == 1 and "same" in result.stderr
    assert not (folder / "a.safetensors").exists()


@test
def npy_folder(folder: Path) -> None:
    torch.save(STATE, folder / "a.bin")
    result = export(folder / "a.bin", folder / "out", "--format", "npy")
    assert result.returncode == 0, result.stderr
    assert "float32: net.a.bias" in result.stdout
    assert sorted(p.name for p in (folder / "out").iterdir()) == sorted(f"{n}.npy" for n in STATE)
    for name, value in STATE.items():
        array = np.load(folder / "out" / f"{name}.npy")
        assert array.shape == tuple(value.shape)
        assert torch.equal(torch.from_numpy(array).to(value.dtype), value), name
    assert np.load(folder / "out" / "net.a.bias.npy").dtype == np.float32
    again = export(folder / "a.bin", folder / "out", "--format", "npy")
    assert again.returncode == 1 and "no empty folder" in again.stderr


@test
def hugging_face_folder_in_parts(folder: Path) -> None:
    source = folder / "model"
    source.mkdir()
    save_file({"a": torch.ones(2)}, source / "part-1.safetensors")
    save_file({"b": torch.zeros(3)}, source / "part-2.safetensors")
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    result = export(source, folder / "a.safetensors")
    assert result.returncode == 0, result.stderr
    assert set(load_file(folder / "a.safetensors")) == {"a", "b"}


@test
def shared_memory_is_written_twice(folder: Path) -> None:
    x = torch.ones(2, 2)
    torch.save({"a": x, "b": x}, folder / "a.pt")
    assert export(folder / "a.pt", folder / "a.safetensors").returncode == 0
    assert set(load_file(folder / "a.safetensors")) == {"a", "b"}


@test
def bad_inputs_leave_nothing(folder: Path) -> None:
    torch.save({"epoch": 1}, folder / "empty.pt")
    (folder / "broken.pt").write_bytes(b"no checkpoint")
    torch.save(nn.Linear(2, 2), folder / "code.pt")  # a pickled module would run code
    before = sorted(folder.iterdir())
    for name in ("empty.pt", "broken.pt", "code.pt", "missing.pt"):
        result = export(folder / name, folder / "out.safetensors")
        assert result.returncode == 1, name
        assert result.stderr.startswith("export_checkpoint: "), result.stderr
    result = export(folder / "empty.pt")
    assert result.returncode == 2
    assert sorted(folder.iterdir()) == before


if __name__ == "__main__":
    sys.exit(main())
