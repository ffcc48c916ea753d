"""Features of any PyTorch network: the rows that enter its layers.

`record` watches the products of a forward pass, not the classes of modules: each linear, convolution
and matrix product whose weight is a parameter of the model, a transposed one (GPT-2's Conv1D), part
of one, or a member of a stack of experts. Norms are recognised by what they do to their input.
PyTorch is imported when a recording begins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

from . import _core
from ._core import Error, feature_statistics, moment_statistics
from ._stored_names import stored_names
from .adapter import name_in_base

__all__ = ["record"]


class record:
    """Record what enters the layers of a PyTorch model, as long as the context is open.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode: dropout and the like would be part of what is recorded.
    rules : mapping, str or sequence of str, optional
        Kinds by patterns of names, as in `merge`: ``{"*.router.weight": "fixed"}``. Parameters
        that merges leave alone by these rules, or by those of the library, are not recorded:
        tables of tokens and layers tied to them, heads, patch embeddings. ``"scale"`` takes
        (output - bias) / weight of a module that is no norm for the input of its scale.
    model_type : str, optional
        The network's ``model_type``. Default: that of ``model.config``, if it has one.
    mask : str
        The keyword of the model's forward pass with the padding mask, n x tokens: rows of tokens
        with 0 are left out (but for rows that a router has sorted by experts).

    Examples
    --------
    >>> with catmerge.record(model) as recorded, torch.no_grad():
    ...     for batch in samples:
    ...         model(**batch)
    >>> recorded.save("cars.features.safetensors")
    >>> merged, report = catmerge.merge(base, experts, "cat", statistics=[recorded, ...])

    Notes
    -----
    Rows of a linear weight are its inputs, n x d_in: a tensor n x tokens x d gives n x tokens rows;
    of a convolution the patches under its window, as its weight (d_out, rest) meets them; of the
    scale of a norm the normalised input. Up to d_in rows are kept, more become their Gram matrix
    (`feature_statistics`, `moment_statistics`). Parameters that are given the very same tensors
    share their statistics. The recording is a mapping of parameter names to statistics; of a network
    with PEFT's adapters, to which its active adapter belongs, the names are those of its base.

    Attributes
    ----------
    missed : dict
        Parameters that have no statistics, but could, with the reason.
    norms : dict
        How the norms were recognised, by the names of their scales.
    """

    def __init__(
        self,
        model: Any,
        rules: Any = None,
        *,
        model_type: Optional[str] = None,
        mask: str = "attention_mask",
    ) -> None:
        import torch

        if not isinstance(model, torch.nn.Module):
            raise Error(f"record: expected a torch.nn.Module, found {type(model).__name__}")
        if model_type is None:
            model_type = getattr(getattr(model, "config", None), "model_type", None) or ""
        self._model = model
        self._mask_name = mask
        self._names = {}  # of parameters in the merged network, by those in the model
        self._named = {}  # parameters by the former
        for name, parameter in model.named_parameters(remove_duplicate=False):
            in_base = name_in_base(model, name)
            if in_base is not None:
                self._names[name] = in_base
                self._named[in_base] = parameter
        self._scales_by_rule = set()
        self._skipped = self._find_skipped(torch.nn.Embedding, model_type, _rule_words(rules))
        self._by_memory = {}
        for name, parameter in self._named.items():
            if name not in self._skipped and parameter.dim() > 1:
                memory = parameter.untyped_storage().data_ptr()
                self._by_memory.setdefault(memory, []).append((name, parameter))
        self._accumulators = {}
        self._inputs = {}  # of each parameter, what identifies the tensors it was given
        self._norms = {}  # how to find a scale's input; a sentence on what was not understood
        self._refused = {}
        self._shared = {}  # parameters whose every input another one was given, too
        self._begin_pass(None)

    # The context.

    def __enter__(self) -> "record":
        import torch

        from ._products import watch

        self._handles = [self._model.register_forward_pre_hook(self._on_pass, with_kwargs=True)]
        for name, module in self._model.named_modules():
            scale = self._names.get(f"{name}.weight" if name else "weight")
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.dim() == 1 and scale is not None:
                if scale not in self._skipped:
                    self._handles.append(module.register_forward_hook(self._norm_hook(scale)))
        self._watch = watch(self._on_product, self._refuse)
        self._watch.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._watch.__exit__(*exception)
        for handle in self._handles:
            handle.remove()
        del self._watch, self._handles
        self._begin_pass(None)
        self._find_shared()

    def _on_pass(self, module, arguments, keywords):
        mask = keywords.get(self._mask_name)
        fits = mask is not None and hasattr(mask, "dim") and mask.dim() == 2
        self._begin_pass(mask.detach().bool() if fits else None)

    def _begin_pass(self, mask):
        self._mask = mask
        self._alive = []  # inputs are kept for the pass, so that one address means one tensor
        self._last = {}  # the last input of each parameter in this pass, and the part it met

    # The results, a mapping.

    def statistics(self) -> dict:
        """The statistics by parameter names; parameters with the same inputs share an object.

        Raises
        ------
        Error
            If nothing was recorded.
        """
        if not self._accumulators:
            raise Error("record: nothing was recorded: did the model run inside the context?")
        return {name: self[name] for name in self._accumulators}

    def keys(self):
        """The names of the parameters that have statistics."""
        return self._accumulators.keys()

    def __getitem__(self, name: str):
        return self._accumulators[self._shared.get(name, name)]

    def __iter__(self):
        return iter(self._accumulators)

    def __len__(self) -> int:
        return len(self._accumulators)

    def __contains__(self, name: object) -> bool:
        return name in self._accumulators

    @property
    def missed(self) -> dict:
        reasons = {}
        recorded = {name.partition("[")[0] for name in self._accumulators}
        for name, parameter in self._named.items():
            if name in recorded:
                continue
            if name in self._skipped:
                if parameter.dim() > 1:
                    reasons[name] = self._skipped[name]
            elif name in self._refused:
                reasons[name] = self._refused[name]
            elif parameter.dim() > 1:
                reasons[name] = "no product with it was seen"
        return reasons

    @property
    def norms(self) -> dict:
        return {name: found.text for name, found in self._norms.items()}

    def save(self, path: Any) -> None:
        """Write the statistics to a safetensors file, as `catmerge features` does.

        Names are those of the model's checkpoints: transformers has others in memory for some
        networks.

        Raises
        ------
        Error
            If nothing was recorded, or if the file cannot be written; nothing is then half written.
        """
        self.statistics()
        stored = stored_names(self._model)
        metadata, names, arrays = {}, [], []
        for name in self._accumulators:
            owner = self._shared.get(name, name)
            entry = stored.get(owner, [owner])[0]
            for one in stored.get(name, [name]):
                if one != entry:
                    metadata[f"alias:{one}"] = entry
            if name != owner:
                continue
            accumulator = self._accumulators[name]
            form = accumulator.form
            names.append(entry if form == "rows" else f"{entry}::{form}")
            arrays.append(accumulator.data)
            metadata[f"rows:{entry}"] = str(accumulator.count)
        _core.write_arrays(os.fspath(path), names, arrays, metadata)

    def _find_shared(self):
        first = {}
        self._shared = {}
        for name, inputs in self._inputs.items():
            owner = first.setdefault(tuple(inputs), name)
            if owner != name:
                self._shared[name] = owner

    # What is recorded.

    def _find_skipped(self, embedding, model_type, rules):
        names = list(self._named)
        shapes = [list(self._named[name].shape) for name in names]
        tables = {
            module.weight.data_ptr()
            for module in self._model.modules()
            if isinstance(module, embedding)
        }
        skipped = {}
        for name, (kind, trim, source) in zip(names, _core.roles(names, shapes, model_type, rules)):
            if kind == "scale" and source == "user":
                self._scales_by_rule.add(name)
            if not trim and kind != "unknown":
                skipped[name] = f"merges leave it alone ({kind})"
            elif source != "user" and self._named[name].data_ptr() in tables:
                skipped[name] = "a table of tokens, or tied to one"
        return skipped

    def _refuse(self, weight, reason):
        for name, _ in self._by_memory.get(weight.untyped_storage().data_ptr(), ()):
            self._refused[name] = reason

    def _on_product(self, x, weight, rows_of, member=None):
        """Takes the rows of x that meet a weight; member: its number in a stack, if it is whole."""
        from ._products import part_of

        for name, parameter in self._by_memory.get(weight.untyped_storage().data_ptr(), ()):
            part = part_of(parameter, weight) if member is None else (member, 0)
            if part is None:
                continue
            number, first_row = part
            full = name if number is None else f"{name}[{number}]"
            seen = _identity(x, rows_of)
            last = self._last.get(full)
            self._last[full] = (seen, first_row)
            # Parts of one weight (q, k and v in one) meet the same tensor one after the other, and
            # the first of them begins another call of the layer.
            if last is not None and last[0] == seen and last[1] != first_row:
                continue
            if last is not None and last[1] < first_row:
                self._refused[name] = "its parts have different inputs"
                self._accumulators.pop(full, None)
                self._inputs.pop(full, None)
            if name in self._refused:
                continue
            self._alive.append(x)
            self._inputs.setdefault(full, []).append(seen)
            self._add(full, feature_statistics, rows_of(self._unpadded(x.detach())))

    def _norm_hook(self, scale):
        from . import _norms

        def hook(module, arguments, output):
            x = arguments[0] if arguments else None
            if not hasattr(x, "detach") or not hasattr(output, "detach"):
                self._refused[scale] = "its module does not map one tensor to one tensor"
                return
            x = x.detach()
            if scale not in self._norms:
                by_rule = scale in self._scales_by_rule
                found = _norms.recognise(module, x, output.detach(), by_rule)
                if found is None:
                    self._refused[scale] = f"{type(module).__name__} is no norm that is known"
                    return
                self._norms[scale] = found
            rows = self._norms[scale].rows(
                module, self._unpadded(x), self._unpadded(output.detach())
            )
            self._add(scale, moment_statistics, rows)

        return hook

    def _unpadded(self, x):
        """The rows of tokens that are no padding; x if it has no axes of samples and tokens."""
        mask = self._mask
        if mask is None or bool(mask.all()):
            return x
        mask = mask.to(x.device)
        if x.dim() >= 3 and x.shape[:2] == mask.shape:
            return x[mask]
        if x.dim() == 2 and x.shape[0] == mask.numel():
            return x[mask.reshape(-1)]
        return x

    def _add(self, name, accumulator, rows):
        rows = rows.reshape(-1, rows.shape[-1])
        if rows.shape[0] > 0:
            self._accumulators.setdefault(name, accumulator()).update(rows.cpu())


def _identity(x, rows_of):
    version = 0 if x.is_inference() else x._version
    window = getattr(rows_of, "window", None)
    return (x.data_ptr(), version, tuple(x.shape), tuple(x.stride()), str(x.dtype), window)


def _rule_words(rules):
    if rules is None:
        return []
    if isinstance(rules, str):
        return [rules]
    if isinstance(rules, Mapping):
        return [f"{pattern}={kind}" for pattern, kind in rules.items()]
    return list(rules)
