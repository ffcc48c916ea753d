#!/usr/bin/env python3
"""Records what enters the layers of a PyTorch model, for CAT Merging.

As a module:

    from record_features import FeatureRecorder

    with FeatureRecorder(model) as recorder, torch.no_grad():
        for batch in samples:
            model(batch)
    recorder.save("features.safetensors")

As a command, for a Hugging Face folder of a vision model and a file of samples:

    python3 record_features.py --model FOLDER --class CLIPVisionModelWithProjection \\
        --samples samples.safetensors --output features.safetensors --count 3

Recorded are the inputs of every nn.Linear and nn.Conv2d, and of every Conv1D of the transformers
library (GPT-2's linear layers, whose weight is stored d_in x d_out), whose weight they meet, and of
every nn.LayerNorm and RMSNorm (nn.RMSNorm, or a class whose name ends so), for its scale: there the
normalised input, (x - mean) / sqrt(var + eps) or x / sqrt(mean(x^2) + eps), computed directly
from x. A convolution's rows are the patches under its window, one per sample and position, columns
in the order channel, row, column, as its weight (d_out, ...) has them. Convolutions of several
groups are left out. So is a vision transformer's patch embedding, by its name, because merges leave
it alone; `keep` replaces that. Norms of the channels at each position are understood (LayerNorm2d,
as torchvision and timm call it, or data_format = "channels_first").

The statistics file (safetensors, F32) holds for a parameter NAME one of
    NAME                  the rows themselves, n x d_in, while they are at most d_in
    NAME::gram            X^T X, d_in x d_in, once a linear weight's rows are more than that
    NAME::second_moment   the mean of the squares per coordinate, d, likewise for a scale
and in its metadata "rows:NAME" = n, and "alias:NAME" = the parameter whose entries NAME shares,
because the very same input enters both, as with a transformer's q, k and v.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def is_rms_norm(module: nn.Module) -> bool:
    """Whether it divides by the root of the mean square, by its type or its name."""
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight")


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is a Conv1D of the transformers library, by its name: y = x W, W d_in x d_out."""
    return type(module).__name__ == "Conv1D" and getattr(module, "weight", None) is not None


def is_layer_norm_2d(module: nn.Module) -> bool:
    """Whether it is one of the channels of (n, channels, height, width), by its name."""
    return type(module).__name__.endswith("LayerNorm2d") and hasattr(module, "weight")


def is_layer_norm(module: nn.Module) -> bool:
    """Whether it subtracts the mean, too."""
    return isinstance(module, nn.LayerNorm) or is_layer_norm_2d(module)


def normalised(module: nn.Module, x: Tensor) -> Tensor:
    """What a LayerNorm or an RMSNorm multiplies by its scale, the normalised axis last."""
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if eps is None:  # nn.RMSNorm's default
        eps = torch.finfo(x.dtype).eps
    x = x.double()
    if is_layer_norm_2d(module) or getattr(module, "data_format", None) == "channels_first":
        x = x.movedim(1, -1)
    if is_layer_norm(module):
        x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


def patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """What a convolution's weight, as (d_out, rest), multiplies: (n, positions, rest)."""
    if x.dim() == 3:  # one image
        x = x[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # Where "same" pads, and how much, only this knows.
    x = F.pad(x, module._reversed_padding_repeated_twice, mode)
    unfolded = F.unfold(x, module.kernel_size, module.dilation, stride=module.stride)
    return unfolded.transpose(1, 2)


def window_of(module: nn.Module) -> tuple[object, ...]:
    """What besides the input decides about the rows: nothing, or a convolution's window."""
    names = ("kernel_size", "stride", "dilation", "padding", "padding_mode")
    return tuple(getattr(module, name, None) for name in names)


def is_no_patch_embedding(name: str) -> bool:
    """Whether a parameter's name is not that of a vision transformer's patch embedding."""
    return "patch_embed" not in name


class Statistics:
    """Of the rows that enter one parameter: themselves while few, then their sums of squares."""

    def __init__(self, scale: bool) -> None:
        self.scale = scale
        self.count = 0
        self._rows: list[Tensor] = []
        self._squares: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Takes rows (n, d)."""
        self.count += len(x)
        if self._squares is None:
            self._rows.append(x)
            if self.count <= x.shape[-1]:
                return
            x, self._rows = torch.cat(self._rows), []
            self._squares = self._square(x)
        else:
            self._squares += self._square(x)

    def _square(self, x: Tensor) -> Tensor:
        x = x.double()
        return x.square().sum(0) if self.scale else x.T @ x

    def entry(self, name: str) -> tuple[str, Tensor]:
        """The name and the tensor that stand for these rows in the file."""
        if self._squares is None:
            return name, torch.cat(self._rows).float()
        if self.scale:
            return f"{name}::second_moment", (self._squares / self.count).float()
        return f"{name}::gram", self._squares.float()


class FeatureRecorder:
    """Hooks every linear layer, convolution and norm of a model for as long as it is open.

    Rows are the positions of the input: a tensor (n, tokens, d) gives n x tokens of them, and
    (n, channels, height, width) a row per image and place of the window. `keep` chooses by
    parameter name. Layers without a weight are passed over.
    """

    def __init__(
        self, model: nn.Module, keep: Callable[[str], bool] = is_no_patch_embedding
    ) -> None:
        self.statistics: dict[str, Statistics] = {}
        self.aliases: dict[str, str] = {}
        self._inputs: dict[str, list[tuple[object, ...]]] = {}
        self._alive: list[Tensor] = []
        self._handles = [model.register_forward_pre_hook(self._begin)]
        for module_name, module in model.named_modules():
            conv = isinstance(module, nn.Conv2d) and module.groups == 1
            linear = isinstance(module, nn.Linear) or is_transposed_linear(module) or conv
            norm = is_layer_norm(module) or is_rms_norm(module)
            name = f"{module_name}.weight" if module_name else "weight"
            if (linear or norm) and module.weight is not None and keep(name):
                hook = self._hook(name, scale=not linear)
                self._handles.append(module.register_forward_pre_hook(hook))

    def __enter__(self) -> FeatureRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the hooks out again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._alive.clear()

    def _begin(self, module: nn.Module, inputs: object) -> None:
        self._alive.clear()

    def _hook(self, name: str, scale: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            if not scale:
                # Kept until the next pass, so that one address means one tensor.
                self._alive.append(x)
                version = 0 if x.is_inference() else x._version
                seen = (x.data_ptr(), version, x.shape, x.dtype, window_of(module))
                self._inputs.setdefault(name, []).append(seen)
            if scale:
                x = normalised(module, x)
            elif isinstance(module, nn.Conv2d):
                x = patches(module, x)
            rows = x.reshape(-1, x.shape[-1]).cpu()
            self.statistics.setdefault(name, Statistics(scale)).update(rows.clone())

        return record

    def find_aliases(self) -> dict[str, str]:
        """Linear weights whose every input was the very tensor that another had before them."""
        first: dict[tuple[object, ...], str] = {}
        aliases = {}
        for name, inputs in self._inputs.items():
            other = first.setdefault(tuple(inputs), name)
            if other != name:
                aliases[name] = other
        return aliases

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the statistics file, under another name first."""
        path = Path(path)
        aliases = self.find_aliases()
        tensors: dict[str, Tensor] = {}
        metadata = {f"alias:{name}": other for name, other in aliases.items()}
        for name, statistics in self.statistics.items():
            if name not in aliases:
                key, tensor = statistics.entry(name)
                tensors[key] = tensor.contiguous()
                metadata[f"rows:{name}"] = str(statistics.count)
        if not tensors:
            raise ValueError("nothing was recorded: no pass through the model, or nothing to keep")
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        try:
            save_file(tensors, temporary, metadata)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_samples(path: Path, count: int | None) -> Tensor:
    """pixel_values of a file of samples; U8 becomes (u / 255 - mean) / std."""
    with safe_open(path, "pt") as file:
        pixels = file.get_tensor("pixel_values")[:count]
        metadata = file.metadata() or {}
    if pixels.dtype != torch.uint8:
        return pixels.float()
    mean, std = (
        torch.tensor([float(part) for part in metadata[key].split(",")]).view(1, -1, 1, 1)
        for key in ("mean", "std")
    )
    return (pixels.float() / 255 - mean) / std


def main(arguments: Iterable[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--class", dest="class_name", default="CLIPVisionModelWithProjection")
    parser.add_argument("--samples", type=Path, required=True, help="file with pixel_values")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, help="take the first so many samples")
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args(None if arguments is None else list(arguments))
    try:
        import transformers

        model = getattr(transformers, args.class_name).from_pretrained(args.model).float().eval()
        pixels = read_samples(args.samples, args.count)
        with FeatureRecorder(model) as recorder, torch.no_grad():
            for part in pixels.split(args.batch):
                model(pixel_values=part)
        recorder.save(args.output)
    except Exception as error:  # whatever a library raises, the user gets one line
        print(f"record_features: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(recorder.statistics)} parameters, {len(pixels)} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
