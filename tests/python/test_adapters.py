#!/usr/bin/env python3
"""Opens in PEFT the adapters that the library wrote: python3 tests/python/test_adapters.py

The adapters are those that test_io_adapter_writer and test_harness_adapter_merge write into the folder named by
CATMERGE_ADAPTERS:

    export CATMERGE_ADAPTERS=FOLDER
    test_io_adapter_writer && test_harness_adapter_merge && python3 tests/python/test_adapters.py

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
    skip_all("test_adapters needs adapters that two tests wrote", "CATMERGE_ADAPTERS is not set")
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


def require_equal(found: Tensors, expected: Tensors, tolerance: float = 1e-13) -> None:
    """The default is for the same products in double, in another order."""
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    for name, values in expected.items():
        assert (found[name] - values).abs().max() <= tolerance * values.abs().max(), name


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


def sum_of_four() -> Tensors:
    expected: Tensors = {}
    for name in ("plain", "second", "patterns", "rslora_patterns"):
        for key, values in load_file(FIXTURES / name / "expected.safetensors").items():
            expected[key] = expected.get(key, 0) + values
    return expected


@test
def a_concatenation_is_the_sum_to_peft() -> None:
    require_equal(merged("bert", "sum"), sum_of_four())
    assert len(PeftConfig.from_pretrained(str(Path(FOLDER) / "sum")).rank_pattern) > 1


@test
def what_the_program_merged_is_the_sum_to_peft() -> None:
    # its factors are in float, and B is rounded once after the scale
    require_equal(merged("bert", "program"), sum_of_four(), 1e-6)
    assert len(PeftConfig.from_pretrained(str(Path(FOLDER) / "program")).rank_pattern) > 1


@test
def heads_and_biases_in_what_the_program_merged_reach_peft() -> None:
    for name in ("lora_bias", "bias_all", "modules_to_save", "mixed", "embedding", "convolution"):
        found = merged(CASES[name]["network"], f"program_{name}")
        require_equal(found, load_file(FIXTURES / name / "expected.safetensors"), 1e-6)


if __name__ == "__main__":
    sys.exit(main())
