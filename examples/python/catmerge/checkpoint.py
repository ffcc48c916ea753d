"""Checkpoints and statistics on the disk, opened lazily, and the merge of whole checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Callable, Iterator, Optional

from . import _core
from ._arrays import from_bits
from ._words import named_experts, per_task, plain_errors, words_of
from .report import Report


class _Stored(Mapping):
    """What a file on the disk holds, by names."""

    def __init__(self, path, like, stored):
        if like not in ("numpy", "torch"):
            raise _core.Error(f"like: expected numpy or torch, found {like!r}")
        self.path = os.fspath(path)
        self.like = like
        self._stored = stored(self.path)
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


class Checkpoint(_Stored):
    """Named tensors on the disk, by `open`: a mapping of names to read-only arrays.

    Only headers are read until a tensor's elements are touched; nothing is copied. An array keeps
    the file open.
    """

    def __init__(self, path, like="numpy"):
        super().__init__(path, like, _core.stored_checkpoint)

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


class StatisticsFile(_Stored):
    """Statistics of one task on the disk, by `open_statistics`: names to `statistics_view`."""

    def __init__(self, path, like="numpy"):
        super().__init__(path, like, _core.stored_statistics)

    def __getitem__(self, name):
        data = super().__getitem__(name)
        return _core.statistics_view(self._stored.form(name), data, float(self._stored.rows(name)))

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


# Keyword arguments that take a path per task.
_PER_TASK = {
    "features": "features",
    "samples": "samples",
    "heads": "head",
    "head": "head",
    "importance": "importance",
}


def merge_checkpoints(
    base: Any,
    experts: Any,
    output: Any,
    method: str = "auto",
    *,
    report: Any = None,
    progress: Optional[Callable[[str, int, int], None]] = None,
    **options: Any,
) -> Report:
    """Merge checkpoints on the disk into one: the command `catmerge merge`, with all its options.

    Parameters
    ----------
    base : path or None
        The pretrained network: a safetensors file, a folder of .npy files or a Hugging Face folder.
        None is possible with ``adapter=True``.
    experts : mapping of task names to paths, or sequence of paths
        The fine-tuned networks, or folders of PEFT's LoRA adapters. CAT trims by the tasks in this
        order.
    output : path
        A file if the name ends in .safetensors, else in the format of the base. With
        ``adapter=True`` an adapter that PEFT opens.
    method : str
        A name of `methods`, with settings if need be. ``"auto"`` needs none: with ``samples`` (and
        ``heads``) it chooses everything.
    report : bool, path or sequence of paths, optional
        True: the full report in `Report.data`. Paths that end in .html or .json: written there, too.
    progress : callable, optional
        Called as ``progress(phase, done, total)``, in this thread, after each parameter. What it
        raises ends the merge.
    **options
        Settings of the method, or options of `catmerge merge` (its ``--help`` explains them) with
        underscores for dashes: ``samples={"cars": "cars.safetensors"}``, ``features``, ``heads``,
        ``importance``, ``weights`` (mappings by task), ``max_shard_size="2GB"``,
        ``overwrite=True``, ``out_dtype="bf16"``, ``rules``, ``alpha``, ``before``, ``after``,
        ``method_for``, ``set``, ``include``, ``exclude``, ``drop``, ``rename``, ``threads``,
        ``adapter=True``, ``adapter_rank=8``, ...

    Returns
    -------
    Report

    Raises
    ------
    Error
        For options that contradict each other, and for files that cannot be merged. Nothing is
        then half written, nor after Ctrl-C.
    """
    tasks, paths = named_experts(experts)
    words = [f"--output={os.fspath(output)}"]
    if base is not None:
        words.append(f"--base={os.fspath(base)}")
    words += [f"--expert={task}={os.fspath(path)}" for task, path in zip(tasks, paths)]
    for name, option in _PER_TASK.items():
        given = options.pop(name, None)
        if given is not None:
            values = per_task(name, given, tasks)
            words += [f"--{option}={task}={os.fspath(one)}" for task, one in zip(tasks, values)]
    words += words_of(method, options, ("quiet", "verbose"))
    wanted = report is True
    if report is not None and not isinstance(report, bool):
        wanted = True
        files = [report] if isinstance(report, (str, os.PathLike)) else report
        words += [f"--report={os.fspath(file)}" for file in files]
    with plain_errors():
        result = _core.merge_checkpoints(words, wanted, progress)
    return Report(*result)
