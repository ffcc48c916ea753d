"""LoRA adapters of PEFT in memory."""

from __future__ import annotations

import json
import os
from typing import Any, Mapping, Optional

from . import _core
from .checkpoint import open as open_checkpoint

_PREFIX = "base_model.model."


class Adapter:
    """A LoRA adapter: its configuration, and its tensors as PEFT saves them. An expert for `merge`.

    Parameters
    ----------
    config : peft.LoraConfig, mapping, or str
        What adapter_config.json holds; a str is its text. Patterns count in the order they have
        here. (PEFT sorts them when it saves.)
    tensors : mapping
        Names of adapter_model.safetensors, ``base_model.model.MODULE.lora_A.weight``, to arrays:
        what ``peft.get_peft_model_state_dict`` returns.

    Attributes
    ----------
    config : str
        The text of adapter_config.json.
    tensors : mapping

    Notes
    -----
    Keys of the configuration that change the result are honoured or refused by name, when the
    adapter is merged. Nothing is read from a layer's ``scaling``, which `scale_layer` changes.
    """

    def __init__(self, config: Any, tensors: Mapping[str, Any]) -> None:
        self.config = config if isinstance(config, str) else _text_of(config)
        self.tensors = tensors

    def __repr__(self) -> str:
        return f"<catmerge.Adapter of {len(self.tensors)} tensors>"

    @classmethod
    def of(cls, model: Any, name: Optional[str] = None) -> Adapter:
        """The adapter in a ``PeftModel``, or in a network that PEFT put one into.

        Parameters
        ----------
        model : peft.PeftModel, transformers.PreTrainedModel or torch.nn.Module with adapters
            Its tensors are used in place.
        name : str, optional
            Of the adapter. Default: the active one.

        Raises
        ------
        Error
            If the model has no such adapter, or if several are active and none is named.
        """
        from peft import get_peft_model_state_dict

        if not holds_adapters(model):
            raise _core.Error(f"Adapter.of: expected a PeftModel, found {type(model).__name__}")
        known = ", ".join(repr(one) for one in model.peft_config)
        if name is None:
            active = _active(model)
            if len(active) != 1:
                raise _core.Error(
                    f"the model has {len(active)} active adapters of {known}: "
                    "name one, Adapter.of(model, NAME)"
                )
            name = active[0]
        elif name not in model.peft_config:
            raise _core.Error(f"the model has no adapter {name!r}: it has {known}")
        tensors = get_peft_model_state_dict(model, adapter_name=name)
        if not any(key.startswith(_PREFIX) for key in tensors):  # no PeftModel around the network
            tensors = {_PREFIX + key: tensor for key, tensor in tensors.items()}
        return cls(model.peft_config[name], tensors)

    @classmethod
    def open(cls, folder: Any, like: str = "numpy") -> Adapter:
        """The adapter in a folder that ``save_pretrained`` wrote. Tensors are read lazily.

        Parameters
        ----------
        folder : path
        like : {"numpy", "torch"}
            As of `catmerge.open`.
        """
        with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
            config = file.read()
        weights = os.path.join(folder, "adapter_model.safetensors")
        return cls(config, open_checkpoint(weights, like))


def is_adapter_folder(path: Any) -> bool:
    """True for a folder that holds adapter_config.json."""
    return os.path.exists(os.path.join(path, "adapter_config.json"))


def holds_adapters(network: Any) -> bool:
    """True for a network with PEFT's adapters in it."""
    return isinstance(getattr(network, "peft_config", None), Mapping)


def name_in_base(model: Any, name: str) -> Optional[str]:
    """The name that a parameter of a network has without PEFT's adapters.

    None for factors, and for what stands in no place of the base's while the active adapter acts.
    """
    if not holds_adapters(model):
        return name
    parts = name.removeprefix(_PREFIX).split(".")
    if "original_module" in parts or any(part.startswith("lora_") for part in parts):
        return None
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")
        if parts[at + 1] not in _active(model):
            return None
        del parts[at : at + 2]
    return ".".join(part for part in parts if part != "base_layer")


def _active(model):
    # A model with injected adapters (peft.inject_adapter_in_model) tells no active ones.
    active = getattr(model, "active_adapters", list(model.peft_config))
    return active() if callable(active) else active


def _text_of(config):
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise _core.Error(
            f"Adapter: expected a LoraConfig, a mapping or the text of adapter_config.json, "
            f"found {type(config).__name__}"
        )
    return json.dumps(dict(config), default=_plain)


def _plain(value):
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise _core.Error(f"Adapter: the configuration holds {value!r}, which JSON has no form for")
