"""Norms of any class, recognised by what they do to their first input."""

from __future__ import annotations

import torch

# A norm's output and its formula may differ by this, relative to the norm of the output, in units
# of the precision of the output: some roundings of each entry, and of float32's sums.
_SLACK = 16

# Defaults where a class keeps eps to itself.
_COMMON_EPS = (1e-5, 1e-6, 1e-12, 1e-8, 0.0)


class found:
    """How to find what a norm multiplies by its scale. text: a sentence on the norm."""

    def __init__(self, text, normalise):
        self.text = text
        self._normalise = normalise

    def rows(self, module, x, output):
        """The input of the scale in float64, the scale's axis last."""
        return self._normalise(module, x.double(), output.double())


def recognise(module, x, output, by_rule):
    """How a module with a weight of one axis uses it, or None. by_rule: a rule calls it a scale."""
    # (Many norms compute in float32, whatever the type of their output.)
    precision = max(torch.finfo(output.dtype).eps, torch.finfo(torch.float32).eps)
    best, least = None, _SLACK * precision
    for text, normalise in _candidates(module, x):
        unit = normalise(module, x.double(), None)
        if unit.shape[-1] == module.weight.shape[0]:
            error = _error(module, unit, output.double())
            if error <= least and (best is None or error < least):
                best, least = found(text, normalise), error
    if best is None and by_rule:
        return found("no norm, a scale by a rule: (output - bias) / weight", _from_output)
    return best


def _candidates(module, x):
    given = [
        value
        for name in ("eps", "variance_epsilon", "epsilon", "layer_norm_eps")
        if isinstance(value := getattr(module, name, None), (int, float))
    ]
    all_eps = given or [*_COMMON_EPS, torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0]
    for axis, place in ((-1, ""), (1, " over channels")):
        if axis == 1 and x.dim() < 3:
            continue
        for eps in all_eps:
            yield f"layer norm{place}, eps {eps:g}", _formula(axis, eps, True)
            yield f"RMS norm{place}, eps {eps:g}", _formula(axis, eps, False)
    if getattr(module, "running_mean", None) is not None and x.dim() >= 2:
        yield "batch norm by its running statistics", _by_running_statistics
    if isinstance(module, torch.nn.GroupNorm):
        yield "group norm", _by_groups


def _formula(axis, eps, centred):
    def normalise(module, x, output):
        # Rows without padding have lost the axis of samples: only the last one is then left.
        x = x.movedim(1, -1) if axis == 1 else x
        if centred:
            x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)

    return normalise


def _by_running_statistics(module, x, output):
    x = x.movedim(1, -1)
    return (x - module.running_mean.double()) / torch.sqrt(module.running_var.double() + module.eps)


def _by_groups(module, x, output):
    unit = torch.nn.functional.group_norm(x, module.num_groups, eps=module.eps)
    return unit.movedim(1, -1)


def _from_output(module, x, output):
    weight, bias = module.weight.double(), getattr(module, "bias", None)
    if bias is not None:
        output = output - bias.double()
    return torch.where(weight == 0, torch.zeros_like(output), output / weight)


def _error(module, unit, output):
    """How far weight (or 1 + weight, as Gemma has it) and bias are from making the output."""
    bias = getattr(module, "bias", None)
    shift = 0.0 if bias is None else bias.detach().double()
    weight = module.weight.detach().double()
    size = output.norm().item() or 1.0
    least = float("inf")
    for scale in (weight, 1 + weight):
        made = unit * scale + shift
        for one in (made, made.movedim(-1, 1) if made.dim() > 2 else made):
            if one.shape == output.shape:
                least = min(least, (one - output).norm().item() / size)
    return least
