"""catmerge's methods as algorithms of FusionBench.

An algorithm per method (`Cat`, `Lot`, `Regmean`, `TsvM`, `IsoC`, ...) with a configuration each. The
command writes them to a folder, which FusionBench's program searches::

    python -m catmerge.fusion_bench configurations
    fusion_bench --config-dir configurations method=catmerge/cat modelpool=... taskpool=...

A configuration has the method's settings with their defaults (`catmerge.methods` explains them),
the number of samples, and the batch size. In a program of your own::

    merged = catmerge.fusion_bench.Cat(alpha=0.4).run(modelpool)

Methods that need features record them (`catmerge.record`) from the model pool's
``load_train_dataset`` of each model's name, as RegMean of FusionBench does: data sets of image and
label go through the pool's processor, dictionaries are the model's keywords.
"""

from __future__ import annotations

import os
import sys
from typing import Any

try:
    import torch
    from fusion_bench.method import BaseAlgorithm
    from fusion_bench.modelpool import BaseModelPool
except ImportError as problem:
    raise ImportError(
        "catmerge.fusion_bench needs fusion_bench 0.2.33 or newer: " + str(problem)
    ) from problem

from . import merge, methods, record
from ._core import Error

__all__ = ["Algorithm", "main", "write_configurations"]

_NUMBERS = {"number": float, "count": int}


class Algorithm(BaseAlgorithm):
    """A method of catmerge. Subclasses have `catmerge_name`, one of `catmerge.methods`.

    Parameters
    ----------
    num_samples : int
        Of each model's training data set, for methods that need features.
    batch_size : int
    **settings
        Of the method, or options of `catmerge.merge`. None leaves the default.
    """

    catmerge_name = ""

    def __init__(self, num_samples: int = 8, batch_size: int = 8, **settings: Any) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.settings = {key: value for key, value in settings.items() if value is not None}

    @torch.no_grad()
    def run(self, modelpool: Any) -> Any:
        """Merge the pool's models into a copy of ``_pretrained_``; the report is `self.report`."""
        if not isinstance(modelpool, BaseModelPool):
            modelpool = BaseModelPool(modelpool)
        if not modelpool.has_pretrained:
            raise Error(f"{type(self).__name__}: the model pool has no _pretrained_ model")
        base = modelpool.load_model("_pretrained_")
        experts = {name: modelpool.load_model(name) for name in modelpool.model_names}
        statistics = None
        if self._entry()["needs_features"]:
            statistics = {
                name: self._features(modelpool, name, model) for name, model in experts.items()
            }
        merged, self.report = merge(
            base.state_dict(),
            {name: model.state_dict() for name, model in experts.items()},
            self.catmerge_name,
            statistics=statistics,
            model_type=getattr(getattr(base, "config", None), "model_type", None),
            **self.settings,
        )
        base.load_state_dict(merged)
        return base

    def _entry(self):
        return next(m for m in methods() if m["name"] == self.catmerge_name)

    def _features(self, modelpool, name, model):
        if not modelpool.has_train_dataset:
            raise Error(f"{self.catmerge_name}: the model pool has no train_datasets")
        samples = modelpool.load_train_dataset(name)
        if hasattr(modelpool, "load_processor"):
            from fusion_bench.dataset.clip_dataset import CLIPDataset

            samples = CLIPDataset(samples, modelpool.load_processor())
        count = min(self.num_samples, len(samples))
        loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(samples, range(count)), batch_size=self.batch_size
        )
        model.eval()
        with record(model) as recorded:
            for batch in loader:
                if isinstance(batch, dict):
                    model(**batch)
                else:
                    model(batch[0] if isinstance(batch, (tuple, list)) else batch)
        return recorded.statistics()


def _class_name(method):
    return "".join(part.capitalize() for part in method.split("-"))


for _method in methods():
    if _method["name"] not in ("auto", "mean") and not _method["needs_importance"]:
        _name = _class_name(_method["name"])
        globals()[_name] = type(
            _name,
            (Algorithm,),
            {
                "catmerge_name": _method["name"],
                "__doc__": f"{_method['label']}: {_method['summary']}.",
                "__module__": __name__,
            },
        )
        __all__.append(_name)


def write_configurations(folder: Any) -> list:
    """Write a configuration per algorithm to FOLDER/method/catmerge. Returns the paths."""
    target = os.path.join(os.fspath(folder), "method", "catmerge")
    os.makedirs(target, exist_ok=True)
    paths = []
    for method in methods():
        name = _class_name(method["name"])
        if name not in __all__:
            continue
        lines = [
            f"# {method['label']}: {method['summary']}",
            f"_target_: catmerge.fusion_bench.{name}",
        ]
        if method["needs_features"]:
            lines += ["# of each model's training data set", "num_samples: 8", "batch_size: 8"]
        for setting in method["settings"]:
            key, default = setting["name"].replace("-", "_"), setting["default"]
            lines += [f"# {setting['help']}", f"{key}: {_as_yaml(setting['type'], default)}"]
        path = os.path.join(target, method["name"].replace("-", "_") + ".yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        paths.append(path)
    return paths


def _as_yaml(kind, default):
    if default == "":
        return "null"
    if kind in _NUMBERS:
        return repr(_NUMBERS[kind](default))
    return f'"{default}"'


def main() -> int:
    """``python -m catmerge.fusion_bench FOLDER``."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m catmerge.fusion_bench FOLDER", file=sys.stderr)
        return 2
    for path in write_configurations(sys.argv[1]):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
