"""The names that a network's parameters have in its checkpoints, where its modules call them
otherwise."""

from __future__ import annotations

import sys


def stored_names(model):
    """Names in checkpoints by names in the model, for the parameters whose names differ.

    From version 5 on, transformers renames parameters when it loads a network, and stacks the
    experts of mixtures: "mlp.experts.gate_up_proj[3]" is stored as "mlp.experts.3.gate_proj.weight"
    and "mlp.experts.3.up_proj.weight". It undoes that when it saves; here it does so to small
    tensors that are filled with numbers, which show where each came from.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return {}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 has no other names
        return {}
    import torch

    origins, marked = [], {}
    for name, parameter in model.named_parameters():
        members = parameter.shape[0] if parameter.dim() == 3 else 1
        first = len(origins)
        origins += [f"{name}[{e}]" for e in range(members)] if parameter.dim() == 3 else [name]
        numbers = torch.arange(first, first + members, dtype=torch.float64)
        sizes = [members if parameter.dim() == 3 else 2] + [2] * (parameter.dim() - 1)
        shape = [members] + [1] * (len(sizes) - 1) if sizes else []
        marked[name] = numbers.reshape(shape).expand(sizes)
    found = {}
    for stored, tensor in revert_weight_conversion(model, marked).items():
        for number in tensor.unique().long().tolist():
            found.setdefault(origins[number], []).append(stored)
            # (A stack that is stored as a stack has the same members.)
            if tensor.dim() == 3 and len(tensor) > 1:
                found[origins[number]][-1] = f"{stored}[{number - int(tensor.min())}]"
    return {name: names for name, names in found.items() if names != [name]}
