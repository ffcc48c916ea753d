"""LoRA adapters as experts, and merged into an adapter. The folders are those that PEFT wrote."""

import json

import numpy as np
import pytest

import catmerge
from support import FAMILY, run_program, write_safetensors

ADAPTERS = FAMILY.parents[3] / "tests" / "fixtures" / "adapters"
TASKS = ("plain", "second")


def difference(folder, module, scale):
    """s B A of a module."""
    file = catmerge.open(folder / "adapter_model.safetensors")
    a = np.asarray(file[f"base_model.model.{module}.lora_A.weight"], dtype=np.float64)
    b = np.asarray(file[f"base_model.model.{module}.lora_B.weight"], dtype=np.float64)
    return scale * b @ a


@pytest.fixture(scope="module")
def modules():
    """Modules of the two adapters: rank and scale, as PEFT gave them."""
    cases = json.loads((ADAPTERS / "cases.json").read_text())
    return {task: cases[task]["modules"] for task in TASKS}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    shapes = json.loads((ADAPTERS / "bases.json").read_text())["bert"]
    rng = np.random.default_rng(11)
    path = tmp_path_factory.mktemp("adapters") / "base.safetensors"
    write_safetensors(path, {name: rng.normal(size=shape) for name, shape in shapes.items()})
    return path


def test_adapters_are_experts(base, modules, tmp_path):
    experts = {task: ADAPTERS / task for task in TASKS}
    out = tmp_path / "merged.safetensors"
    catmerge.merge_checkpoints(base, experts, out, "task-arithmetic", alpha=0.5)
    before, merged = catmerge.open(base), catmerge.open(out)
    for module in modules["plain"]:
        expected = np.array(before[f"{module}.weight"])
        for task in TASKS:
            expected = expected + 0.5 * difference(
                ADAPTERS / task, module, modules[task][module][1]
            )
        np.testing.assert_allclose(merged[f"{module}.weight"], expected, atol=1e-13)


def test_adapters_into_an_adapter_without_a_base(modules, tmp_path):
    experts = {task: ADAPTERS / task for task in TASKS}
    report = catmerge.merge_checkpoints(
        None, experts, tmp_path / "sum", "task-arithmetic", alpha=1, adapter=True, report=True
    )
    assert report.data["parameters"]
    config = json.loads((tmp_path / "sum" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    scale = config["lora_alpha"] / config["r"]
    for module in modules["plain"]:
        expected = sum(
            difference(ADAPTERS / task, module, modules[task][module][1]) for task in TASKS
        )
        found = difference(tmp_path / "sum", module, scale)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    words = [f"--expert={task}={path}" for task, path in experts.items()]
    run_program(
        "merge",
        "--adapter",
        *words,
        "--method",
        "task-arithmetic:alpha=1",
        "--output",
        str(tmp_path / "again"),
    )
    name = "adapter_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "sum" / name).read_bytes()


def test_a_base_is_needed_for_a_network(tmp_path):
    with pytest.raises(catmerge.Error, match="base is required"):
        catmerge.merge_checkpoints(None, [ADAPTERS / "plain"], tmp_path / "out", "average")
