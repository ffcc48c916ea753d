"""catmerge's methods in mergekit's recipes.

Importing this module registers the methods that mergekit lacks, by their names with underscores:
``merge_method: cat``, ``lot``, ``regmean``, ``tsv_m``, ``iso_c``, ... The command does both::

    python -m catmerge.mergekit recipe.yml out [options of mergekit-yaml]

A recipe has a ``base_model``, and the settings of the method as ``parameters`` (`catmerge.methods`
lists them; ``lambda`` as it is). ``statistics`` of a model are a file that `catmerge features` or
`catmerge.record` wrote, ``importance`` a checkpoint for ``fisher`` and ``tatr``::

    merge_method: cat
    base_model: base
    models:
      - model: cars
        parameters: {statistics: cars.features.safetensors}
      - model: signs
        parameters: {statistics: signs.features.safetensors}
    parameters: {alpha: 0.4}
    dtype: bfloat16

mergekit merges tensor by tensor. So do methods that look at the whole model elsewhere (PCB,
consensus): as mergekit's TIES does, they look at one tensor at a time. Tokenizers, shards and the
card are mergekit's.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping

try:
    from mergekit.merge_methods import registry
    from mergekit.merge_methods.base import (
        BasePolicy,
        FunctionalGroupMergeMethod,
        InputContract,
        MergeMethodSpec,
        OptionalTensorPolicy,
        ParameterScope,
        ParameterSpec,
    )
except ImportError as problem:
    raise ImportError(
        "catmerge.mergekit needs mergekit 0.1.5 or newer: " + str(problem)
    ) from problem

from . import merge, methods, open, open_statistics
from ._core import Error

__all__ = ["main", "registered"]

_TYPES = {"number": float, "count": int, "flag": bool}


def registered() -> list:
    """The names of catmerge's methods in recipes."""
    return [name for name, method in registry._METHODS.items() if hasattr(method, "catmerge_name")]


def _parameters(method):
    """The settings of a method as mergekit declares parameters; None leaves the default."""
    from typing import Optional

    for setting in method["settings"]:
        kind = _TYPES.get(setting["type"], str)
        yield ParameterSpec(
            name=setting["name"].replace("-", "_"),
            value_type=Optional[kind],
            scope=ParameterScope.SHARED,
            default=None,
            description=setting["help"],
        )
    for name in ("statistics", "importance"):
        yield ParameterSpec(
            name=name, value_type=Optional[str], scope=ParameterScope.NON_BASE, default=None
        )


# mergekit stacks the experts of a mixture, whose checkpoint has them one by one: each part of a
# stacked weight has the input of its first part.
_STACKED = {"gate_up_proj": ("gate_proj", "w1"), "down_proj": ("down_proj", "w2")}


class _WithStacks(Mapping):
    """Statistics with names for the members of stacks: "experts.down_proj[3]"."""

    def __init__(self, statistics):
        self._statistics = statistics

    def _known(self, name):
        stack = re.fullmatch(r"(.*\.experts)\.(\w+)\[(\d+)\]", name)
        if name in self._statistics or not stack:
            return name
        for part in _STACKED.get(stack[2], ()):
            alone = f"{stack[1]}.{stack[3]}.{part}.weight"
            if alone in self._statistics:
                return alone
        return name

    def __contains__(self, name):
        return self._known(name) in self._statistics

    def __getitem__(self, name):
        return self._statistics[self._known(name)]

    def __iter__(self):
        return iter(self._statistics)

    def __len__(self):
        return len(self._statistics)


@functools.lru_cache(maxsize=None)
def _statistics(path):
    return _WithStacks(open_statistics(path))


@functools.lru_cache(maxsize=None)
def _checkpoint(path):
    return open(path)


@functools.lru_cache(maxsize=None)
def _model_type(model):
    """model_type of a model's config.json; empty if it has none (a bare file)."""
    try:
        return model.config().model_type
    except (AttributeError, OSError, ValueError):
        return ""


def _files(which, opened, experts, given):
    """One opened file per expert, or None."""
    paths = [given[which][entry.id] for entry in experts]
    if all(path is None for path in paths):
        return None
    for path, entry in zip(paths, experts):
        if path is None:
            raise Error(f"{which}: given for some models only, not for {entry.id}")
    return [opened(path) for path in paths]


def _kernel(name):
    def merge_group(group, **parameters):
        base, experts = group.base, group.non_base
        tensor = group.metadata.name or "parameter"
        inputs = {
            "statistics": _files("statistics", _statistics, experts, parameters),
            "importance": _files("importance", _checkpoint, experts, parameters),
        }
        settings = {
            key: value
            for key, value in parameters.items()
            if value is not None and key not in inputs
        }
        merged, _ = merge(
            {tensor: base.tensor},
            {str(entry.id).replace("=", " "): {tensor: entry.tensor} for entry in experts},
            name,
            model_type=_model_type(base.id),
            partial=True,
            **inputs,
            **settings,
        )
        return merged[tensor]

    return merge_group


def _register():
    for method in methods():
        name = method["name"].replace("-", "_")
        if method["name"] in ("auto", "mean") or name in registry._METHODS:
            continue
        spec = MergeMethodSpec(
            name=name,
            pretty_name=method["label"],
            reference_url=method.get("url") or None,
            parameters=tuple(_parameters(method)),
            contract=InputContract(base=BasePolicy.REQUIRED, min_inputs=2, min_non_base=1),
            optional_tensor_policy=OptionalTensorPolicy.PASSTHROUGH_BASE_SINGLETON,
            uses_accelerator=False,
        )
        made = FunctionalGroupMergeMethod(spec, _kernel(method["name"]))
        made.catmerge_name = method["name"]
        registry.register(made)


_register()


def main() -> None:
    """``python -m catmerge.mergekit``: mergekit's own command, with catmerge's methods."""
    from mergekit.scripts.run_yaml import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
