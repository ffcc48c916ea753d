"""Whole networks: mappings of names to arrays."""

from __future__ import annotations

import os
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple, Union

from . import _core
from ._words import FILES_ONLY, named_experts, per_task, plain_errors, stand_ins, words_of
from .adapter import Adapter, holds_adapters, is_adapter_folder
from .checkpoint import open as open_checkpoint
from .checkpoint import open_statistics
from .report import Report

Network = Any


def merge(
    base: Network,
    experts: Union[Mapping[str, Network], Sequence[Network]],
    method: str = "auto",
    *,
    statistics: Any = None,
    importance: Any = None,
    model_type: Optional[str] = None,
    tied: Optional[bool] = None,
    partial: bool = False,
    report: bool = False,
    progress: Optional[Callable[[str, int, int], None]] = None,
    threads: int = 0,
    **settings: Any,
) -> Tuple[dict, Report]:
    """Merge networks that are mappings of names to arrays.

    Parameters
    ----------
    base : mapping, or path
        theta_0: a state dict, a network that `open` opened, or anything with ``keys()`` and
        ``__getitem__``. A tensor is asked for when its turn comes, and let go of afterwards; by
        methods that look at the whole model, several times. A path is opened.
    experts : mapping of task names to such networks, or sequence
        CAT trims by the tasks in this order. An expert may be a LoRA adapter of the base: a
        ``PeftModel``, an `Adapter`, or the path of an adapter's folder.
    method : str
        A name of `methods`, with settings if need be: ``"ties:density=0.1"``. (``"auto"`` has no
        samples here to choose its alphas by: they are constants.)
    statistics : mapping by task or sequence, optional
        Per task a mapping of parameter names to rows (n x d_in), `feature_statistics`,
        `moment_statistics` or `statistics_view` of the inputs that reach the parameter in the
        task's expert; or the path of a file that `catmerge features` wrote. Parameters that share
        an input may share the object.
    importance : mapping by task or sequence, optional
        Per task a mapping of names to arrays, or a path, for ``fisher`` and ``tatr``.
    model_type : str, optional
        The network's ``model_type`` in config.json, where names alone do not tell how tensors are
        stored. Default: that of an opened base, if it has one.
    tied : bool, optional
        Whether the output is tied to the table of tokens (``tie_word_embeddings``), likewise.
    partial : bool
        The mappings are parts of networks, such as one shard or one tensor: statistics of other
        parameters and the sizes of task vectors are no reason for a warning, nor is it an error if
        the part does not change.
    report : bool
        Make the full report: conflicts, drift of outputs, removed directions.
    progress : callable, optional
        Called as ``progress(phase, done, total)``. What it raises ends the merge.
    threads : int
        0: one per processor. The result does not depend on it.
    **settings
        Settings of the method (``density=0.1``; ``lambda_``), or options of `catmerge merge`:
        ``alpha``, ``rules`` (kinds by names: ``"*.proj.weight=linear"``), ``before``, ``after``,
        ``weights`` (a mapping by task), ``method_for``, ``set``, ``include``, ``exclude``,
        ``drop``, ``missing``, ``out_dtype``, and the settings of CAT's trims.

    Returns
    -------
    merged : dict
        All tensors of the base by name, in its order, with base's shapes and types (or
        ``out_dtype``), in the library that base's tensor came from. A tensor that is not merged is
        the base's own object; of tied tensors both names have the same object.
    report : Report

    Raises
    ------
    Error
        For an unknown method or setting, if an input that the method needs is missing, if an
        expert does not fit the base (the message lists the differences), and for values that are
        not finite.

    Notes
    -----
    The results are those of `catmerge merge` on the same networks, bit for bit.
    """
    tasks, networks = named_experts(experts)
    words = stand_ins(tasks, statistics is not None, importance is not None)
    words += words_of(method, settings, FILES_ONLY)
    if threads:
        words.append(f"--threads={threads}")
    if report:
        words.append("--report=report.json")
    base = _opened(base)
    statistics = (
        []
        if statistics is None
        else [_known(one) for one in per_task("statistics", statistics, tasks)]
    )
    importance = (
        []
        if importance is None
        else [_opened(one) for one in per_task("importance", importance, tasks)]
    )
    if model_type is None:
        model_type = getattr(base, "model_type", None) or ""
    if tied is None:
        tied = getattr(base, "tied", None)
    networks = [_expert(network) for network in networks]
    adapts = [isinstance(network, Adapter) for network in networks]
    with plain_errors():
        merged, summary, warnings, text = _core.merge(
            base,
            [one.tensors if is_one else one for one, is_one in zip(networks, adapts)],
            [one.config if is_one else None for one, is_one in zip(networks, adapts)],
            tasks,
            statistics,
            importance,
            model_type,
            tied,
            partial,
            words,
            progress,
        )
    return merged, Report(summary, warnings, text)


def _expert(network):
    if holds_adapters(network):
        return Adapter.of(network)
    if isinstance(network, (str, os.PathLike)) and is_adapter_folder(network):
        return Adapter.open(network)
    return _opened(network)


def _opened(network):
    return open_checkpoint(network) if isinstance(network, (str, os.PathLike)) else network


def _known(statistics):
    return open_statistics(statistics) if isinstance(statistics, (str, os.PathLike)) else statistics
