#!/usr/bin/env python3
"""Tests examples/export on tiny models: python3 tests/python/test_export.py

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
sys.path.insert(0, str(EXPORT))
sys.dont_write_bytecode = True

try:
    import numpy as np
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from torch import Tensor, nn
except ImportError as error:
    skip_all("examples/export needs torch, numpy and safetensors", error)

from record_features import FeatureRecorder, read_samples  # noqa: E402


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs export_checkpoint.py."""
    command = [sys.executable, str(EXPORT / "export_checkpoint.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return file.metadata()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Same shape, and equal up to the tolerance relative to the largest entry."""
    if a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    return bool((a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item()))


class Attention(nn.Module):
    """q and k share an input, out has its own, and norm stands before all."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-3)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.uniform_(self.norm.bias, -1.0, 1.0)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.out = nn.Linear(width, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.out(self.q_proj(y) * self.k_proj(y).sigmoid())


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
    torch.save(Attention(), folder / "code.pt")  # a pickled module would run code
    before = sorted(folder.iterdir())
    for name in ("empty.pt", "broken.pt", "code.pt", "missing.pt"):
        result = export(folder / name, folder / "out.safetensors")
        assert result.returncode == 1, name
        assert result.stderr.startswith("export_checkpoint: "), result.stderr
    result = export(folder / "empty.pt")
    assert result.returncode == 2
    assert sorted(folder.iterdir()) == before


@test
def rows_are_recorded(folder: Path) -> None:
    torch.manual_seed(1)
    model, x = Attention(), torch.randn(2, 2, 6)
    with FeatureRecorder(model) as recorder, torch.no_grad():
        model(x)
    recorder.save(folder / "f.safetensors")
    tensors = load_file(folder / "f.safetensors")
    assert set(tensors) == {"norm.weight", "q_proj.weight", "out.weight"}, set(tensors)
    rows = x.reshape(-1, 6).double()
    centred = rows - rows.mean(1, keepdim=True)
    unit = centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt()
    assert close(tensors["norm.weight"], unit)
    y = unit * model.norm.weight.double() + model.norm.bias.double()
    assert close(tensors["q_proj.weight"], y.detach())
    expected = {"alias:k_proj.weight": "q_proj.weight"}
    expected |= {f"rows:{name}": "4" for name in tensors}
    assert metadata_of(folder / "f.safetensors") == expected


@test
def many_rows_become_sums(folder: Path) -> None:
    torch.manual_seed(2)
    model, batches = Attention(), [torch.randn(3, 2, 6) for _ in range(4)]
    inputs: list[Tensor] = []
    model.q_proj.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    for mode in (torch.no_grad, torch.inference_mode):
        inputs.clear()
        with FeatureRecorder(model) as recorder, mode():
            for batch in batches:
                model(batch)
        recorder.save(folder / "f.safetensors")
        tensors = load_file(folder / "f.safetensors")
        x = torch.cat(inputs).reshape(-1, 6).double()
        assert set(tensors) == {
            "norm.weight::second_moment",
            "q_proj.weight::gram",
            "out.weight::gram",
        }
        assert close(tensors["q_proj.weight::gram"], x.T @ x)
        unit = (x - model.norm.bias.double()) / model.norm.weight.double()
        assert close(tensors["norm.weight::second_moment"], unit.square().mean(0).detach())
        metadata = metadata_of(folder / "f.safetensors")
        assert metadata["rows:q_proj.weight"] == "24"
        assert metadata["alias:k_proj.weight"] == "q_proj.weight"


@test
def rms_norm(folder: Path) -> None:
    class TinyRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4))
            self.variance_epsilon = 1e-2

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt()

    x = torch.randn(3, 4)
    model = nn.Sequential(TinyRMSNorm())
    with FeatureRecorder(model) as recorder, torch.no_grad():
        model(x)
    unit = x.double() / (x.double().square().mean(1, keepdim=True) + 1e-2).sqrt()
    assert close(recorder.statistics["0.weight"].entry("0.weight")[1], unit)


@test
def chosen_layers_and_no_hooks_left(folder: Path) -> None:
    model = Attention()
    with FeatureRecorder(model, keep=lambda name: name == "out.weight") as recorder:
        model(torch.randn(1, 2, 6))
    model(torch.randn(1, 2, 6))
    assert list(recorder.statistics) == ["out.weight"]
    assert recorder.statistics["out.weight"].count == 2
    try:
        FeatureRecorder(model).save(folder / "none.safetensors")
    except ValueError as error:
        assert "nothing was recorded" in str(error)
    else:
        raise AssertionError("an empty recording was saved")
    assert not list(folder.iterdir())


@test
def samples_are_scaled(folder: Path) -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    metadata = {"mean": "0.5,0.25", "std": "0.5,0.75"}
    save_file({"pixel_values": pixels}, folder / "s.safetensors", metadata)
    assert torch.equal(read_samples(folder / "s.safetensors", None).flatten(), Tensor([-1, 1]))


if __name__ == "__main__":
    sys.exit(main())
