"""LoRA adapters as experts, and merged into an adapter. The folders are those that PEFT wrote."""

import json

import numpy as np
import pytest

import catmerge
from support import FAMILY, run_program, same_bits, write_safetensors

pytestmark = pytest.mark.filterwarnings("ignore::catmerge.MergeWarning")  # of random tensors' sizes

ADAPTERS = FAMILY.parents[3] / "tests" / "fixtures" / "adapters"
TASKS = ("plain", "second")
CASES = json.loads((ADAPTERS / "cases.json").read_text())


def difference(folder, module, scale):
    """s B A of a module."""
    file = catmerge.open(folder / "adapter_model.safetensors")
    a = np.asarray(file[f"base_model.model.{module}.lora_A.weight"], dtype=np.float64)
    b = np.asarray(file[f"base_model.model.{module}.lora_B.weight"], dtype=np.float64)
    return scale * b @ a


@pytest.fixture(scope="module")
def modules():
    """Modules of the two adapters: rank and scale, as PEFT gave them."""
    return {task: CASES[task]["modules"] for task in TASKS}


def random_base(path, network, dtype="float64"):
    """A file of a network's names and shapes."""
    shapes = json.loads((ADAPTERS / "bases.json").read_text())[network]
    rng = np.random.default_rng(11)
    tensors = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return write_safetensors(path, tensors)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_base(tmp_path_factory.mktemp("adapters") / "base.safetensors", "bert")


def in_memory(name):
    """A committed adapter as mappings."""
    config = json.loads((ADAPTERS / name / "adapter_config.json").read_text())
    tensors = dict(catmerge.open(ADAPTERS / name / "adapter_model.safetensors"))
    return catmerge.Adapter(config, tensors)


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


def merged_by_files(base, experts, path, method, **options):
    report = catmerge.merge_checkpoints(base, experts, path, method, **options)
    return dict(catmerge.open(path)), report


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_adapters_of_every_kind_in_memory(case, dtype, tmp_path):
    """Equal to the merge of their folders, bit for bit, beside a whole network."""
    pytest.importorskip("ml_dtypes")  # of the base in bfloat16
    base = random_base(tmp_path / "base.safetensors", CASES[case]["network"], dtype)
    whole = {name: array + array.dtype.type(0.25) for name, array in catmerge.open(base).items()}
    write_safetensors(tmp_path / "whole.safetensors", whole)
    files = {"adapter": ADAPTERS / case, "whole": tmp_path / "whole.safetensors"}
    method = "task-arithmetic:alpha=0.5"
    expected, report = merged_by_files(base, files, tmp_path / "out.safetensors", method)
    for adapter in (in_memory(case), catmerge.Adapter.open(ADAPTERS / case), ADAPTERS / case):
        given = {"adapter": adapter, "whole": whole}
        merged, same = catmerge.merge(dict(catmerge.open(base)), given, method)
        assert list(merged) == list(catmerge.open(base))
        for name, array in merged.items():
            assert same_bits(array, expected[name]), name
        assert same.summary == report.summary
    changed = [name for name in merged if not same_bits(merged[name], whole[name])]
    assert {f"{module}.weight" for module in CASES[case]["modules"]} <= set(changed)


@pytest.mark.parametrize("method", ["cat:alpha=0.7", "ties", "tsv-m"])
def test_adapters_in_memory_by_other_methods(base, method, rng, tmp_path):
    names = ("plain", "patterns")
    rows = {
        f"{module}.weight": rng.normal(size=(6, catmerge.open(base)[f"{module}.weight"].shape[1]))
        for module in CASES["plain"]["modules"]
    }
    features = {}
    for k, name in enumerate(names):
        path = tmp_path / f"{name}.features.safetensors"
        features[name] = write_safetensors(path, {key: (k + 1) * x for key, x in rows.items()})
    has = {"features": features} if method.startswith("cat") else {}
    expected, _ = merged_by_files(
        base, {name: ADAPTERS / name for name in names}, tmp_path / "out.safetensors", method, **has
    )
    merged, _ = catmerge.merge(
        base,
        {name: in_memory(name) for name in names},
        method,
        statistics=features if has else None,
    )
    for name, array in merged.items():
        assert same_bits(array, expected[name]), name


class Lazy:
    """A base that lets go of each tensor once."""

    def __init__(self, path):
        self.file = catmerge.open(path)
        self.released = set()

    def keys(self):
        return list(self.file)

    def __getitem__(self, name):
        return np.array(self.file[name])

    def release(self, name):
        assert name not in self.released
        self.released.add(name)


def test_the_base_of_adapters_is_let_go_of_once(base):
    lazy = Lazy(base)
    catmerge.merge(lazy, [in_memory(name) for name in TASKS], "average")
    assert lazy.released == set(lazy.keys())


def test_adapters_that_cannot_be_merged(base):
    adapter = in_memory("plain")
    config = json.loads(adapter.config)

    def refused(config, tensors, words):
        with pytest.raises(catmerge.Error, match=words):
            catmerge.merge(base, {"task": catmerge.Adapter(config, tensors)}, "average")

    refused({**config, "use_dora": True}, adapter.tensors, "expert 'task': use_dora: is set")
    refused({**config, "kasa_config": {"a": 1}}, adapter.tensors, "kasa_config: is set")
    refused({**config, "peft_type": "IA3"}, adapter.tensors, "expected 'LORA', found 'IA3'")
    refused({**config, "r": 4}, adapter.tensors, "expected the rank 4 of adapter_config.json")
    one = next(iter(adapter.tensors))
    fewer = {name: array for name, array in adapter.tensors.items() if name != one}
    refused(config, fewer, "has no partner: expected a tensor '" + one)
    own_names = {
        name.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"): array
        for name, array in adapter.tensors.items()
    }
    refused(config, own_names, "get_peft_model_state_dict leave the adapter's own name out")
    renamed = {name.replace("query", "q"): array for name, array in adapter.tensors.items()}
    refused(
        config, renamed, r"the base in memory has no parameter 'bert\.encoder.*self\.q\.weight'"
    )
    refused(3, adapter.tensors, "expected a LoraConfig, a mapping or the text")
    refused({**config, "x": object()}, adapter.tensors, "which JSON has no form for")
    wide = {
        name: np.concatenate([array, array], axis=-1) if "lora_A" in name else array
        for name, array in adapter.tensors.items()
    }
    refused(config, wide, "of the base in memory: use the base that the adapter was trained on")


def test_one_of_two_tied_tensors_is_not_changed_alone(rng):
    shapes = json.loads((ADAPTERS / "bases.json").read_text())["llama"]
    base = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    base["lm_head.weight"] = base["model.embed_tokens.weight"]
    rows, columns = shapes["lm_head.weight"]
    factors = {
        "base_model.model.lm_head.lora_A.weight": rng.normal(size=(2, columns)),
        "base_model.model.lm_head.lora_B.weight": rng.normal(size=(rows, 2)),
    }
    adapter = catmerge.Adapter({"peft_type": "LORA", "r": 2, "lora_alpha": 4}, factors)
    with pytest.raises(catmerge.Error, match="expert '0': the adapter changes 'lm_head.weight'"):
        catmerge.merge(base, [adapter], "average")
