"""Keyword arguments as words of the command line, which the program reads by its own definition."""

import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from functools import lru_cache

from . import _core
from ._core import Error


def plain(text):
    """A sentence of the program with its options as keyword arguments: "--out-dtype", "out_dtype"."""
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found.group(1).replace("-", "_"), text)


@contextmanager
def plain_errors():
    """Raises the errors of the program in the words of Python."""
    try:
        yield
    except Error as problem:
        raise Error(plain(str(problem))) from None


def _key(name):
    """`lambda_`, `out_dtype` -> `lambda`, `out-dtype`."""
    return name.rstrip("_").replace("_", "-")


def _text(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value)


@lru_cache(maxsize=None)
def _options():
    return {option["name"]: option for option in _core.merge_options()}


# Options that a word of another name stands for.
_PLURALS = {
    "rules": "rule",
    "weights": "weight",
    "heads": "head",
    "experts": "expert",
}


def _sequence(value):
    if isinstance(value, (str, os.PathLike)) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def _option_words(option, name, value):
    """The words of one option; none for None, and for a flag that is False."""
    dashed = "--" + option["name"]
    if value is None:
        return []
    if option["flag"]:
        if not isinstance(value, bool):
            raise Error(f"{name}: expected True or False, found {value!r}")
        return [dashed] if value else []
    if isinstance(value, Mapping):
        if not option["list"]:
            raise Error(f"{name}: expected one value, found a mapping")
        items = [f"{key}={_text(item)}" for key, item in value.items()]
    else:
        items = [_text(item) for item in _sequence(value)] if option["list"] else [_text(value)]
    return [f"{dashed}={item}" for item in items]


def words_of(method, keywords, refused=()):
    """The words for a method and keyword arguments.

    A keyword is a setting of the method, if the method has one of that name, else an option of
    `catmerge merge`. Underscores stand for dashes; one at the end is left out (`lambda_`).

    Parameters
    ----------
    method : str
        "ties", or with settings "ties:density=0.1".
    keywords : dict
    refused : iterable of str
        Options that the call has no use for.
    """
    options = _options()
    own = set(_core.settings_of(method))
    settings, words = [], []
    for name, value in keywords.items():
        if value is None:
            continue
        key = _key(name)
        key = _PLURALS.get(key, key)
        is_option = key in options and key not in refused
        # alpha="auto" is an option; the method's setting is a number.
        if key in own and not (key == "alpha" and is_option):
            settings.append(f"{key}={_text(value)}")
        elif is_option:
            words += _option_words(options[key], name, value)
        elif key in options:
            raise Error(f"{name}: is an option of merge_checkpoints alone")
        else:
            known = sorted(own) or ["none"]
            raise Error(
                f"{name}: {method.split(':')[0]} has no such setting (it has {', '.join(known)}), "
                "and there is no such option"
            )
    if settings:
        method = _core.with_settings(method, ",".join(settings))
    return ["--method=" + method, *words]


def named_experts(experts):
    """The tasks' names and the experts: of a mapping, or of a sequence as "0", "1", ..."""
    if isinstance(experts, Mapping):
        names = [str(name) for name in experts]
        return names, list(experts.values())
    experts = list(experts)
    return [str(k) for k in range(len(experts))], experts


def per_task(what, given, tasks):
    """One value per task, in the tasks' order, of a mapping by task or of a sequence."""
    if isinstance(given, Mapping):
        given = {str(name): value for name, value in given.items()}
        for name in given:
            if name not in tasks:
                raise Error(f"{what}: there is no expert {name!r}")
        for task in tasks:
            if task not in given:
                raise Error(f"{what}: the expert {task!r} has none")
        return [given[task] for task in tasks]
    given = list(given)
    if len(given) != len(tasks):
        raise Error(f"{what}: of {len(given)} tasks for {len(tasks)} experts")
    return given


def stand_ins(tasks, statistics, importance):
    """The words of base, experts and their inputs that are no files."""
    for task in tasks:
        if not task or "=" in task:
            raise Error(f"experts: {task!r} cannot name a task")
    words = ["--base=base", "--output=merged.safetensors"]
    for task in tasks:
        words.append(f"--expert={task}=expert/{task}")
        if statistics:
            words.append(f"--features={task}=statistics/{task}")
        if importance:
            words.append(f"--importance={task}=importance/{task}")
    return words


# Options of whole checkpoints on the disk, without meaning for arrays.
FILES_ONLY = frozenset(
    "base expert output method features samples head importance sample-count config "
    "feature-coefficient heads-output task-heads resized rename contradictions report "
    "max-shard-size overwrite quiet verbose".split()
)
