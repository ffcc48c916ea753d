#!/usr/bin/env python3
"""Opens in PEFT the adapters that the library wrote: python3 tests/python/test_adapters.py

The adapters are those that test_io_adapter_writer writes into the folder named by CATMERGE_ADAPTERS:

    CATMERGE_ADAPTERS=FOLDER test_io_adapter_writer && CATMERGE_ADAPTERS=FOLDER python3 tests/python/test_adapters.py

Prints one line per failure and 'N passed, N failed' at the end; exits 1 if anything failed.
Without the folder, peft, torch and transformers it says so and exits 0.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

from runner import main, skip_all, test

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "adapters"
FOLDER = os.environ.get("CATMERGE_ADAPTERS", "")
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

if not FOLDER:
    skip_all("test_adapters needs adapters that test_io_adapter_writer wrote", "CATMERGE_ADAPTERS is not set")
try:
    import torch
    from make_adapters import NETWORKS, load, over_zeros
    from peft import PeftConfig
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import load_file
except ImportError as error:
    skip_all("the adapters are opened by peft, torch and transformers", error)

CASES = json.loads((FIXTURES / "cases.json").read_text())
Tensors = dict[str, torch.Tensor]


def merged(network: str, name: str) -> Tensors:
    """What PEFT makes of a network of zeros with a written adapter. Any warning about keys is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*(missing adapter keys|did not match|pattern).*")
        return over_zeros(network, lambda zeros: load(zeros, Path(FOLDER) / name).merge_and_unload())


def require_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    for name, values in expected.items():
        # the same products in double, in another order
        assert (found[name] - values).abs().max() <= 1e-13 * values.abs().max(), name


@test
def every_kind_of_adapter_means_the_same_to_peft() -> None:
    for name, case in CASES.items():
        require_equal(merged(case["network"], name), load_file(FIXTURES / name / "expected.safetensors"))


@test
def each_module_has_its_rank_and_scale_1() -> None:
    for name, case in CASES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = load(NETWORKS[case["network"]](), Path(FOLDER) / name)
        found = {key.removeprefix("base_model.model."): [m.r["default"], m.scaling["default"]]
                 for key, m in model.named_modules() if isinstance(m, LoraLayer)}
        assert found == {module: [rank, 1.0] for module, (rank, _) in case["modules"].items()}, name


@test
def a_concatenation_is_the_sum_to_peft() -> None:
    expected: Tensors = {}
    for name in ("plain", "second", "patterns", "rslora_patterns"):
        for key, values in load_file(FIXTURES / name / "expected.safetensors").items():
            expected[key] = expected.get(key, 0) + values
    require_equal(merged("bert", "sum"), expected)
    assert len(PeftConfig.from_pretrained(str(Path(FOLDER) / "sum")).rank_pattern) > 1


if __name__ == "__main__":
    sys.exit(main())
