"""Checkpoints and statistics on the disk, opened lazily."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Iterator

from . import _core
from ._arrays import from_bits


class Checkpoint(Mapping):
    """Named tensors on the disk, by `open`: a mapping of names to read-only arrays.

    Only headers are read until a tensor's elements are touched; nothing is copied. An array keeps
    the file open.
    """

    def __init__(self, path, like="numpy"):
        if like not in ("numpy", "torch"):
            raise _core.Error(f"like: expected numpy or torch, found {like!r}")
        self.path = os.fspath(path)
        self.like = like
        self._stored = _core.stored_checkpoint(self.path)
        self._names = self._stored.names()

    def __getitem__(self, name):
        if not self._stored.has(name):
            raise KeyError(name)
        return from_bits(self._stored.bits(name), self._stored.type(name), self.like)

    def __contains__(self, name):
        return isinstance(name, str) and self._stored.has(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def __repr__(self):
        return f"<catmerge.Checkpoint {self.path!r} of {len(self)} tensors>"

    @property
    def model_type(self):
        """``model_type`` of config.json beside the weights; empty without one."""
        return self._stored.model_type()

    @property
    def tied(self):
        """``tie_word_embeddings`` of config.json; None if it does not say."""
        return self._stored.tied()

    @property
    def metadata(self):
        """The metadata of the safetensors files."""
        return self._stored.metadata()

    def release(self, name):
        """Let the system take a tensor's memory back; it is read again when it is touched."""
        self._stored.release(name)


class StatisticsFile(Mapping):
    """Statistics of one task on the disk, by `open_statistics`: names to `statistics_view`."""

    def __init__(self, path, like="numpy"):
        self.path = os.fspath(path)
        self.like = like
        self._stored = _core.stored_statistics(self.path)
        self._names = self._stored.names()

    def __getitem__(self, name):
        if not self._stored.has(name):
            raise KeyError(name)
        data = from_bits(self._stored.bits(name), self._stored.type(name), self.like)
        return _core.statistics_view(self._stored.form(name), data, float(self._stored.rows(name)))

    def __contains__(self, name):
        return isinstance(name, str) and self._stored.has(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def __repr__(self):
        return f"<catmerge.StatisticsFile {self.path!r} of {len(self)} parameters>"


def open(path, like: str = "numpy") -> Checkpoint:  # noqa: A001
    """Open a checkpoint: a safetensors file, an index, a Hugging Face folder or .npy files.

    Parameters
    ----------
    path : path
    like : {"numpy", "torch"}
        The library of the arrays. NumPy needs the package ml_dtypes for bfloat16.

    Raises
    ------
    Error
        If there is no checkpoint, or if a file breaks its format.
    """
    return Checkpoint(path, like)


def open_statistics(path, like: str = "numpy") -> StatisticsFile:
    """Open a file of features, as `catmerge features` writes them.

    Raises
    ------
    Error
        If there is none, or if it breaks the format.
    """
    return StatisticsFile(path, like)
