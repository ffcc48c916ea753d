"""The convolutional network of this family, in PyTorch: what train.py trains, and what the program
runs for a config.json whose model_type is `catmerge_convnet`.

Images (n, channels, side, side) go through stages, each a 3 x 3 convolution with zero padding 1, a
layer norm over the channels at each position, and ReLU; then the mean over all positions and a
linear projection give the embedding (n, d). There is no batch normalisation: its running means
and variances belong to one task's data and do not merge.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Config:
    """The shape of a network, in the words of its config.json."""

    channels: tuple[int, ...] = (24, 32, 48, 64)
    strides: tuple[int, ...] = (2, 1, 2, 1)
    projection_dim: int = 64
    image_size: int = 28
    num_channels: int = 1
    layer_norm_eps: float = 1e-5

    def write(self, path: Path) -> None:
        """Writes config.json."""
        values = dataclasses.asdict(self) | {"model_type": "catmerge_convnet"}
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Config:
        """Reads what `write` wrote."""
        values = json.loads(path.read_text())
        if values.pop("model_type") != "catmerge_convnet":
            raise ValueError(f"{path}: model_type is not catmerge_convnet")
        lists = {key: tuple(values[key]) for key in ("channels", "strides")}
        return cls(**(values | lists))


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels at each position of (n, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """A convolution, its norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm = LayerNorm2d(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Network(nn.Module):
    """The stages, the mean over positions, and the projection."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = (config.num_channels, *config.channels)
        self.stages = nn.ModuleList(
            Stage(*shape, config.layer_norm_eps)
            for shape in zip(widths[:-1], config.channels, config.strides, strict=True)
        )
        self.projection = nn.Linear(widths[-1], config.projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for stage in self.stages:
            x = stage(x)
        return self.projection(x.mean((2, 3)))


class ConvNet(nn.Module):
    """Pixels to embeddings. All names begin with `convnet.`, by which tools know the family."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.convnet = Network(config)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.convnet(pixels)
