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

from runner import Skipped, main, skip_all, test

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


def windows(x: Tensor, conv: nn.Conv2d, border: tuple[int, int, int, int]) -> Tensor:
    """The patches of images by definition: one window after another, cut out of the padded image."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = nn.functional.pad(x, border, mode)
    (height, width), (down, right), (dy, dx) = conv.kernel_size, conv.stride, conv.dilation
    last_y = x.shape[2] - (height - 1) * dy
    last_x = x.shape[3] - (width - 1) * dx
    rows = []
    for image in x:
        for top in range(0, last_y, down):
            for left in range(0, last_x, right):
                ys = slice(top, top + (height - 1) * dy + 1, dy)
                xs = slice(left, left + (width - 1) * dx + 1, dx)
                rows.append(image[:, ys, xs].flatten())
    return torch.stack(rows)


@test
def convolutions_are_linear_on_their_patches(folder: Path) -> None:
    torch.manual_seed(3)
    cases = [
        (nn.Conv2d(2, 8, 3, 2, padding=1), (1, 1, 1, 1)),
        (nn.Conv2d(2, 8, (3, 2), (1, 2), padding=(0, 1)), (1, 1, 0, 0)),
        (nn.Conv2d(2, 8, (2, 3), padding="same", dilation=(1, 2)), (2, 2, 0, 1)),
        (nn.Conv2d(2, 8, 3, padding=2, padding_mode="circular"), (2, 2, 2, 2)),
        (nn.Conv2d(2, 8, 1, bias=False), (0, 0, 0, 0)),
    ]
    x = torch.randn(3, 2, 5, 6)
    for conv, border in cases:
        with FeatureRecorder(conv) as recorder, torch.no_grad():
            output = conv(x)
        statistics = recorder.statistics["weight"]
        rows = windows(x, conv, border)
        assert statistics.count == len(rows), conv
        name, tensor = statistics.entry("weight")
        assert name == "weight::gram" and close(tensor, rows.T @ rows), conv
        if conv.bias is not None:
            output = output - conv.bias.detach().view(1, -1, 1, 1)
        product = rows @ conv.weight.detach().flatten(1).T
        assert close(product, output.permute(0, 2, 3, 1).reshape(len(rows), -1)), conv
    conv = nn.Conv2d(2, 3, 3)  # few rows are kept, of one image without a batch, too
    for image in (x[:1, :, :4, :5], x[0, :, :4, :5]):
        with FeatureRecorder(conv) as recorder, torch.no_grad():
            conv(image)
        expected = windows(x[:1, :, :4, :5], conv, (0, 0, 0, 0))
        assert torch.equal(recorder.statistics["weight"].entry("weight")[1], expected)


class Residual(nn.Module):
    """Two pairs of convolutions that read one tensor; of one pair the windows differ."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(2, 4, 2, 2)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 2, 3, padding=1)
        self.short = nn.Conv2d(4, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        return self.a(x) * self.b(x).mean() + self.short(x) + self.depthwise(x)


@test
def convolutions_share_an_input_only_with_the_same_window(folder: Path) -> None:
    torch.manual_seed(4)
    model, x = Residual(), torch.randn(2, 2, 4, 4)
    with FeatureRecorder(model) as recorder, torch.no_grad():
        model(x)
    assert set(recorder.statistics) == {"a.weight", "b.weight", "short.weight"}
    assert recorder.find_aliases() == {"b.weight": "a.weight"}
    with FeatureRecorder(model, keep=lambda name: True) as recorder, torch.no_grad():
        model(x)
    assert "patch_embed.weight" in recorder.statistics
    assert "depthwise.weight" not in recorder.statistics


@test
def norms_of_channels(folder: Path) -> None:
    class LayerNorm2d(nn.LayerNorm):  # as torchvision's and timm's
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3))
            self.eps = 1e-2

        def forward(self, x: Tensor) -> Tensor:
            centred = x - x.mean(1, keepdim=True)
            root = (centred.square().mean(1, keepdim=True) + self.eps).sqrt()
            return self.weight.view(1, -1, 1, 1) * centred / root

    class OtherLayerNorm2d(Plain):  # not an nn.LayerNorm
        pass

    class TaggedNorm(nn.LayerNorm):  # as ConvNeXt's in transformers
        data_format = "channels_first"

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    torch.manual_seed(5)
    x = torch.randn(2, 3, 3, 3)  # equal extents: the wrong axis would not be noticed by its length
    for norm in (LayerNorm2d(3, eps=1e-2), OtherLayerNorm2d(), TaggedNorm(3, eps=1e-2)):
        with FeatureRecorder(norm) as recorder, torch.no_grad():
            output = norm(x)
        rows = output.permute(0, 2, 3, 1).reshape(-1, 3) / norm.weight.detach()
        statistics = recorder.statistics["weight"]
        assert statistics.count == 18
        assert close(statistics.entry("weight")[1], rows.double().square().mean(0)), norm


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


class Conv1D(nn.Module):
    """As the transformers library has it: y = x W + b, W stored d_in x d_out."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_in, width_out))
        self.bias = nn.Parameter(torch.randn(width_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@test
def linear_layers_stored_the_other_way_round(folder: Path) -> None:
    torch.manual_seed(7)
    model = nn.Sequential(Conv1D(5, 3), nn.Tanh(), Conv1D(3, 7))
    x = torch.randn(2, 2, 5)
    with FeatureRecorder(model) as recorder, torch.no_grad():
        y = model(x)
    recorder.save(folder / "f.safetensors")
    found = load_file(folder / "f.safetensors")
    # Four rows are fewer than the first layer's d_in, and more than the second's.
    assert found.keys() == {"0.weight", "2.weight::gram"}
    assert metadata_of(folder / "f.safetensors") == {"rows:0.weight": "4", "rows:2.weight": "4"}
    rows = found["0.weight"]
    assert close(rows, x.view(4, 5))
    inner = torch.tanh(rows @ model[0].weight + model[0].bias)
    assert close(inner @ model[2].weight + model[2].bias, y.view(4, 7))
    assert close(found["2.weight::gram"], inner.T @ inner)


@test
def gpt2_of_transformers(folder: Path) -> None:
    try:
        from transformers import GPT2Config, GPT2Model
    except ImportError as error:
        raise Skipped(f"transformers: {error}") from error
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=8, vocab_size=9)
    model = GPT2Model(config).eval()
    with FeatureRecorder(model) as recorder, torch.no_grad():
        model(input_ids=torch.tensor([[1, 2, 3]]))
    recorder.save(folder / "f.safetensors")
    found = load_file(folder / "f.safetensors")
    weights = {f"h.0.{n}.weight" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert weights <= found.keys(), found.keys()
    state = model.state_dict()
    for name in weights:
        assert found[name].shape == (3, state[name].shape[0]), name


if __name__ == "__main__":
    sys.exit(main())
