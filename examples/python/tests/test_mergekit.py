"""catmerge's methods in mergekit: recipes run by mergekit itself."""

import json
import subprocess
import sys

import pytest

import catmerge
import networks

torch, transformers = networks.torch, networks.transformers
pytest.importorskip("mergekit")
yaml = pytest.importorskip("yaml")
import catmerge.mergekit  # noqa: E402


def family(folder, name):
    """Writes a tiny network, two experts and their features; returns the folder."""
    base = networks.make(name)
    base.save_pretrained(folder / "base")
    for seed, task in enumerate("ab", 2):
        expert = networks.tuned(base, seed)
        expert.save_pretrained(folder / task)
        with catmerge.record(expert) as recorded, torch.no_grad():
            expert(**networks.samples(name, seed))
        recorded.save(folder / f"{task}.features.safetensors")
    return folder


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    return family(tmp_path_factory.mktemp("llamas"), "llama")


def run(folder, out, method, parameters=None, features=False, by_command=False):
    """Run a recipe; return the merged tensors."""
    models = []
    for task in "ab":
        model = {"model": str(folder / task)}
        if features:
            model["parameters"] = {"statistics": str(folder / f"{task}.features.safetensors")}
        models.append(model)
    recipe = {
        "merge_method": method,
        "base_model": str(folder / "base"),
        "models": models,
        "parameters": parameters or {},
        "dtype": "float32",
    }
    if by_command:
        path = out.with_suffix(".yml")
        path.write_text(yaml.safe_dump(recipe))
        done = subprocess.run(
            [sys.executable, "-m", "catmerge.mergekit", str(path), str(out)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        run_merge(MergeConfiguration.model_validate(recipe), str(out), MergeOptions())
    return catmerge.open(out, like="torch")


def by_catmerge(folder, out, method, features=False, **settings):
    given = {}
    if features:
        given["features"] = {t: folder / f"{t}.features.safetensors" for t in "ab"}
    catmerge.merge_checkpoints(
        folder / "base", {t: folder / t for t in "ab"}, out, method, **given, **settings
    )
    return catmerge.open(out, like="torch")


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "method, features, parameters",
    [
        ("cat", True, {}),
        ("cat", True, {"alpha": 0.3, "lambda": 1, "rank": 4}),
        ("lot", True, {"ridge": 0.01}),
        ("regmean", True, {"off_diagonal": 0.5}),
        ("tsv_m", False, {}),
        ("iso_c", False, {"alpha": 0.7}),
        ("iso_cts", False, {}),
        ("wudi", False, {}),
        ("swudi", False, {}),
        ("dc_merge", False, {}),
    ],
)
def test_a_recipe_is_the_merge_of_catmerge_bit_for_bit(
    llamas, tmp_path, method, features, parameters
):
    by_command = parameters.get("rank") == 4
    found = run(llamas, tmp_path / "out", method, parameters, features, by_command)
    settings = {key + ("_" if key == "lambda" else ""): value for key, value in parameters.items()}
    wanted = by_catmerge(llamas, tmp_path / "own", method.replace("_", "-"), features, **settings)
    assert same(found, wanted)
    # What mergekit makes beside the weights.
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert (tmp_path / "out" / "README.md").exists()
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.isfinite(model(**networks.samples("llama", 9)).logits).all()


def stacked(tensors):
    """A mixture's experts one under the other, as mergekit has them."""
    merged = {name: tensors[name] for name in tensors if ".experts." not in name}
    for prefix in {name.split(".experts.")[0] for name in tensors if ".experts." in name}:
        one = [
            {p: tensors[f"{prefix}.experts.{e}.{p}_proj.weight"] for p in ("gate", "up", "down")}
            for e in range(4)
        ]
        merged[prefix + ".experts.gate_up_proj"] = torch.stack(
            [torch.cat([e["gate"], e["up"]]) for e in one]
        )
        merged[prefix + ".experts.down_proj"] = torch.stack([e["down"] for e in one])
    return merged


@pytest.mark.filterwarnings("error::catmerge.MergeWarning")
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "qwen3_moe", "gpt2", "vit", "t5"])
def test_cat_on_other_networks(name, tmp_path):
    folder = family(tmp_path, name)
    found = run(folder, tmp_path / "out", "cat", {}, features=True)
    wanted = by_catmerge(folder, tmp_path / "own", "cat", features=True)
    if name == "qwen3_moe":
        wanted = stacked(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in found)
    if name == "vit":
        # mergekit 0.1.5 leaves most of its tensors out, by its own methods as well.
        assert set(found) == set(run(folder, tmp_path / "linear", "linear", {"weight": 1.0}))
        return
    assert set(found) == set(wanted)
    model = type(networks.make(name)).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        output = model(**networks.samples(name, 9)).logits
    assert torch.isfinite(output).all()


def test_methods_of_both_agree(llamas, tmp_path):
    """Task Arithmetic is the same formula."""
    found = run(llamas, tmp_path / "ta", "task_arithmetic", {"weight": 0.4})
    wanted = by_catmerge(llamas, tmp_path / "own", "task-arithmetic", alpha=0.4)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-7)


def test_ties_of_both_agree_tensor_by_tensor(llamas, tmp_path):
    """catmerge takes the density from the whole model; from one tensor, it is mergekit's TIES."""
    found = run(llamas, tmp_path / "ties", "ties", {"weight": 1.0, "density": 0.5})
    base = catmerge.open(llamas / "base", like="torch")
    experts = [catmerge.open(llamas / task, like="torch") for task in "ab"]
    for name in base:
        wanted, _ = catmerge.merge_parameter(
            base[name], [e[name] for e in experts], "ties", "other", density=0.5, alpha=1
        )
        # Catmerge keeps the entry at the threshold, too, as the authors' code does.
        apart = (found[name] - wanted).abs() > 1e-6
        assert apart.sum() <= len(experts), name


def test_statistics_for_some_models_only_are_refused(llamas, tmp_path):
    recipe = {
        "merge_method": "cat",
        "base_model": str(llamas / "base"),
        "models": [
            {
                "model": str(llamas / "a"),
                "parameters": {"statistics": str(llamas / "a.features.safetensors")},
            },
            {"model": str(llamas / "b")},
        ],
        "dtype": "float32",
    }
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "catmerge.mergekit", str(path), str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "statistics: given for some models only" in done.stderr


def test_one_import_registers_the_methods():
    code = (
        "import catmerge.mergekit as m; from mergekit.merge_methods import get; "
        "assert get('cat').spec.pretty_name == 'CAT'; assert get('ties').__class__.__module__"
        ".startswith('mergekit'); print(sorted(m.registered()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("cat", "lot", "regmean", "tsv_m", "iso_cts", "aswudi", "pcb"):
        assert f"'{name}'" in done.stdout
