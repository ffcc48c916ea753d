"""One parameter, by any method."""

from __future__ import annotations

import json
import warnings
from typing import Any, Mapping, Sequence, Tuple, Union

from . import _core
from ._words import FILES_ONLY, named_experts, per_task, plain, plain_errors, stand_ins, words_of
from .report import MergeWarning

Array = Any


def merge_parameter(
    base: Array,
    experts: Union[Mapping[str, Array], Sequence[Array]],
    method: str = "cat",
    kind: str = "linear",
    *,
    statistics: Any = None,
    importance: Any = None,
    parts: int = 1,
    name: str = "",
    report: bool = False,
    threads: int = 0,
    **settings: Any,
) -> Tuple[Array, dict]:
    """Merge one parameter by any method of the catalogue.

    Parameters
    ----------
    base : array
        theta_0: d_out x d_in, or d entries. Reshape what has more axes: a convolution's weight to
        (d_out, rest).
    experts : mapping of task names to arrays, or sequence of arrays
        theta_k, of base's shape. CAT trims by the tasks in this order.
    method : str
        A name of `methods`, with settings if need be: ``"ties:density=0.1"``.
    kind : {"linear", "scale", "shift", "other"}
        The parameter's effect on features.
    statistics : mapping by task or sequence, optional
        Per task rows (n x d_in), a `feature_statistics`, `moment_statistics` (for scales) or
        `statistics_view` of the inputs that reach the layer in the task's expert.
    importance : mapping by task or sequence of arrays of base's shape, optional
        How much each entry matters to the task, for ``fisher`` and ``tatr``.
    parts : int
        Of fused linears (q, k, v in one weight) and their shifts: equal blocks of rows.
    name : str
        The parameter's name, for messages and for methods that draw at random by it.
    report : bool
        Measure conflicts and the drift of outputs, too. It costs about as much as the merge.
    **settings
        Settings of the method (``density=0.1``; ``lambda_``), or options of `catmerge merge`:
        ``alpha``, ``before``, ``after``, ``weights``, ...

    Returns
    -------
    merged : array
        Of base's shape and family, in the type of its arithmetic (float64 for float64, else
        float32).
    report : dict
        What was done: ``kind``, ``trimmed``, ``merged_by``, and for CAT's trims the removed
        directions, as the program's reports have it.

    Raises
    ------
    Error
        For an unknown method or setting, if inputs that the method needs are missing, if shapes do
        not fit, or if a value is not finite.

    Notes
    -----
    A method that looks at the whole model (TIES, PCB, TATR) looks at this parameter alone.
    """
    tasks, values = named_experts(experts)
    # Shifts and other parameters have no features, whatever the method: it is not to ask for them.
    featureless = kind in ("shift", "other") and method.split(":")[0] != "auto"
    words = stand_ins(tasks, statistics is not None or featureless, importance is not None)
    words += words_of(method, settings, FILES_ONLY)
    if threads:
        words.append(f"--threads={threads}")
    if report:
        words.append("--report=report.json")
    if statistics is not None:
        statistics = per_task("statistics", statistics, tasks)
    if importance is not None:
        importance = per_task("importance", importance, tasks)
    with plain_errors():
        merged, text = _core.merge_parameter(
            name, base, values, tasks, kind, parts, statistics, importance, words
        )
    account = json.loads(text)
    for note in account.pop("notes"):
        if statistics is not None or not note.startswith("--features"):
            warnings.warn(plain(note), MergeWarning, stacklevel=2)
    return merged, account


def _call(name, method, kind, title, takes=""):
    """A function for one parameter and one method, called as in C++."""

    def call(base, experts, *given, **settings):
        if takes and given:
            settings[takes] = given[0]
            given = given[1:]
        if given:
            raise TypeError(f"{name}: too many arguments")
        return merge_parameter(base, experts, method, settings.pop("kind", kind), **settings)

    call.__name__ = call.__qualname__ = name
    inputs = f", {takes}" if takes else ""
    call.__doc__ = f"""{name}(base, experts{inputs}, **settings): {title}.

    Parameters, results and errors: `merge_parameter`, with ``method="{method}"`` and
    ``kind="{kind}"`` unless another is given.
    """
    return call


weight_average = _call("weight_average", "average", "other", "the mean of the experts")
task_arithmetic = _call("task_arithmetic", "task-arithmetic", "other", "theta_0 + alpha sum T_k")
fisher = _call(
    "fisher", "fisher", "other", "the mean of the experts, weighed by squared gradients", "importance"
)
regmean_linear = _call(
    "regmean_linear", "regmean", "linear", "least squares on the layer's outputs", "statistics"
)
ties = _call("ties", "ties", "other", "trim, elect signs, mean of those that agree")
breadcrumbs = _call("breadcrumbs", "breadcrumbs", "other", "the sum without outliers")
consensus = _call("consensus", "consensus", "other", "the sum, where masks of enough tasks agree")
pcb = _call("pcb", "pcb", "other", "weights by competition of parameters")
tatr = _call("tatr", "tatr", "other", "the sum inside a trust region", "importance")
lot_linear = _call(
    "lot_linear", "lot", "linear", "least drift of the layer's outputs", "statistics"
)
lot_scale = _call("lot_scale", "lot", "scale", "the same for a scale", "statistics")
tsv_m = _call("tsv_m", "tsv-m", "linear", "singular vectors of all tasks, decorrelated")
iso = _call("iso", "iso-c", "linear", "the sum with all singular values alike")
wudi = _call("wudi", "wudi", "linear", "least interference of linear layers, closed form")
dc_merge = _call("dc_merge", "dc-merge", "linear", "TIES in a basis of singular vectors of all")


def cat_linear(base, experts, features=None, **settings):
    """CAT Merging of one linear weight (Sun et al., ICML 2025).

    theta_0 + alpha sum_i T_i', T_i' = T_i projected off the removal bases of all other tasks.
    Parameters, results and errors: `merge_parameter`, with ``method="cat"``; ``features`` are its
    ``statistics``.
    """
    return merge_parameter(base, experts, "cat", "linear", statistics=features, **settings)


def cat_group(bases, experts, features, **settings):
    """CAT Merging of linear weights that share their input, such as q, k and v.

    Parameters
    ----------
    bases : sequence of P weights
    experts : sequence of K sequences of P weights
    features : sequence of K
        As for `cat_linear`.

    Returns
    -------
    list of P results of `cat_linear`
    """
    bases = list(bases)
    for k, weights in enumerate(experts):
        if len(weights) != len(bases):
            raise _core.Error(
                f"cat_group: expert {k} holds {len(weights)} weights and the base {len(bases)}"
            )
    return [
        cat_linear(base, [weights[p] for weights in experts], features, **settings)
        for p, base in enumerate(bases)
    ]


def cat_scale(base, experts, features=None, **settings):
    """CAT Merging of the scale of a normalisation: trimmed by `scale_mask`, then summed.

    ``features``: rows n_k x d of the *normalised* inputs, or statistics. Otherwise as `cat_linear`.
    """
    return merge_parameter(base, experts, "cat", "scale", statistics=features, **settings)


def cat_shift(base, experts, **settings):
    """CAT Merging of a shift, such as a bias: trimmed by `shift_mask`, then summed.

    Features are not used. Otherwise as `cat_linear`.
    """
    return merge_parameter(base, experts, "cat", "shift", **settings)
