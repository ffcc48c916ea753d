"""Networks of transformers: features recorded, merged by CAT, loaded, run, saved."""

import numpy as np
import pytest

import catmerge
import networks
import support

torch, transformers = networks.torch, networks.transformers


def recording(model, **given):
    with catmerge.record(model) as recorded, torch.no_grad():
        model(**given)
    return recorded


def family(name):
    base = networks.make(name)
    experts = {task: networks.tuned(base, seed) for seed, task in enumerate("ab", 2)}
    recorded = {
        task: recording(expert, **networks.samples(name, ord(task)))
        for task, expert in experts.items()
    }
    return base, experts, recorded


def output_of(model, given):
    with torch.no_grad():
        result = model(**given)
    return result.logits if "logits" in result else result.last_hidden_state


@pytest.mark.parametrize("name", networks.NAMES)
def test_recorded_merged_loaded_and_run(name, tmp_path):
    base, experts, recorded = family(name)
    for one in recorded.values():
        assert all(why.startswith("merges leave it alone") for why in one.missed.values())
        assert all("norm" in how for how in one.norms.values())
        assert len(one) >= 12
    states = {task: expert.state_dict() for task, expert in experts.items()}
    # No statistics are left over, and no parameter lacks them: both would be warnings.
    merged, report = catmerge.merge(
        base.state_dict(), states, "cat", statistics=recorded, model_type=base.config.model_type
    )
    assert report.warnings == [], report.warnings
    plain, _ = catmerge.merge(
        base.state_dict(), states, "task-arithmetic", alpha=0.4, model_type=base.config.model_type
    )
    trimmed = [key for key in merged if not torch.equal(merged[key], plain[key])]
    assert len(trimmed) >= 12
    base.load_state_dict(merged)
    given = networks.samples(name, 9)
    output = output_of(base, given)
    assert torch.isfinite(output).all()
    # Saved and loaded again.
    base.save_pretrained(tmp_path)
    again = type(base).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(output_of(again, given), output)


def test_every_method_on_a_llama_is_the_programs_bit_for_bit(tmp_path):
    base, experts, recorded = family("llama")
    base.save_pretrained(tmp_path / "base")
    words = ["--base", tmp_path / "base"]
    for task, expert in experts.items():
        expert.save_pretrained(tmp_path / task)
        recorded[task].save(tmp_path / f"{task}.features")
        words += ["--expert", f"{task}={tmp_path / task}"]
    features = []
    for task in experts:
        features += ["--features", f"{task}={tmp_path / task}.features"]
    states = {task: expert.state_dict() for task, expert in experts.items()}
    names = [m["name"] for m in catmerge.methods() if not m["needs_importance"]]
    assert len(names) > 15
    for name in names:
        method = "mean:of=tsv-m+ties" if name == "mean" else name
        needs = next(m["needs_features"] for m in catmerge.methods() if m["name"] == name)
        out = tmp_path / f"{name}.safetensors"
        support.run_program(
            "merge", *words, *(features if needs else []), "--method", method, "--output", out
        )
        merged, _ = catmerge.merge(
            base.state_dict(),
            states,
            method,
            statistics=recorded if needs else None,
            model_type="llama",
        )
        written = catmerge.open(out, like="torch")
        assert set(written) == set(merged), name
        assert all(torch.equal(written[key], merged[key]) for key in merged), name


@pytest.mark.parametrize("name", networks.NAMES)
def test_saved_features_have_the_names_of_checkpoints(name, tmp_path):
    """The program takes them for the files, without one that it cannot use or lacks."""
    base, experts, recorded = family(name)
    base.save_pretrained(tmp_path / "base")
    features = {}
    for task, expert in experts.items():
        expert.save_pretrained(tmp_path / task)
        features[task] = tmp_path / f"{task}.features"
        recorded[task].save(features[task])
    report = catmerge.merge_checkpoints(
        tmp_path / "base",
        {t: tmp_path / t for t in experts},
        tmp_path / "out",
        features=features,
        method="cat",
    )
    assert report.warnings == []
    again = type(base).from_pretrained(tmp_path / "out").eval()
    merged, _ = catmerge.merge(
        base.state_dict(),
        {task: expert.state_dict() for task, expert in experts.items()},
        "cat",
        statistics=recorded,
        model_type=base.config.model_type,
    )
    base.load_state_dict(merged)
    given = networks.samples(name, 9)
    torch.testing.assert_close(output_of(again, given), output_of(base, given))


def test_members_of_a_stack_have_the_rows_that_the_router_sends():
    model = networks.make("qwen3_moe")
    given = networks.samples("qwen3_moe", 5)
    del given["attention_mask"]
    recorded = recording(model, **given)
    inputs = {}
    for name, module in model.named_modules():
        if name.endswith("mlp.experts"):
            module.register_forward_pre_hook(
                lambda m, arguments, name=name: inputs.update({name: arguments})
            )
    with torch.no_grad():
        model(**given)
    for name, (hidden, chosen, _) in inputs.items():
        module = model.get_submodule(name)
        for e in range(4):
            rows = hidden[(chosen == e).any(-1)]
            found = recorded[f"{name}.gate_up_proj[{e}]"]
            assert found.count == len(rows)
            x = torch.from_numpy(np.array(found.data))
            if found.form == "rows":
                x = x.T @ x
            torch.testing.assert_close(
                x.double(), rows.T.double() @ rows.double(), rtol=1e-5, atol=1e-5
            )
            gate, up = torch.nn.functional.linear(rows, module.gate_up_proj[e]).chunk(2, -1)
            inner = (module.act_fn(gate) * up).detach()
            down = recorded[f"{name}.down_proj[{e}]"]
            x = torch.from_numpy(np.array(down.data))
            if down.form == "rows":
                x = x.T @ x
            torch.testing.assert_close(
                x.double(), inner.T.double() @ inner.double(), rtol=1e-4, atol=1e-5
            )


def features_of_program(family, task, tmp_path, count):
    out = tmp_path / "features.safetensors"
    support.run_program(
        "features",
        "--model",
        family / "experts" / f"{task}.safetensors",
        "--config",
        family / "base" / "config.json",
        "--samples",
        family / "samples" / f"{task}.safetensors",
        "--sample-count",
        count,
        "--output",
        out,
    )
    return catmerge.open_statistics(out)


def gram(statistics):
    x = np.asarray(statistics.data, dtype="float64")
    return x.T @ x if statistics.form == "rows" else x


def same_features(recorded, program, tolerance):
    assert set(recorded) == set(program)
    for name, found in recorded.statistics().items():
        wanted = program[name]
        assert (found.form, found.count) == (wanted.form, wanted.rows), name
        a, b = gram(found), gram(wanted)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name


@pytest.mark.parametrize("count", [2, 16])
def test_features_of_clip_are_those_of_the_program(tmp_path, count):
    config = transformers.CLIPVisionConfig.from_pretrained(support.FAMILY / "base")
    model = transformers.CLIPVisionModelWithProjection(config)
    state = catmerge.open(support.FAMILY / "experts" / "kana.safetensors", like="torch")
    model.load_state_dict({name: state[name].float() for name in state}, strict=False)
    model.float()
    samples = catmerge.open(support.FAMILY / "samples" / "kana.safetensors", like="torch")
    mean, std = (float(samples.metadata[key]) for key in ("mean", "std"))
    pixels = (samples["pixel_values"][:count].float() / 255 - mean) / std
    recorded = recording(model.eval(), pixel_values=pixels)
    program = features_of_program(support.FAMILY, "kana", tmp_path, count)
    same_features(recorded, program, 1e-4)


@pytest.mark.parametrize("count", [1, 12])
def test_features_of_roberta_are_those_of_the_program(tmp_path, count):
    family = support.FAMILY.parents[1] / "text" / "family"
    config = transformers.RobertaConfig.from_pretrained(family / "base")
    model = transformers.RobertaModel(config, add_pooling_layer=False)
    state = catmerge.open(family / "experts" / "language.safetensors", like="torch")
    prefix = "roberta."
    model.load_state_dict(
        {name[len(prefix) :]: state[name].float() for name in state if name.startswith(prefix)},
        strict=False,
    )
    model.float()
    samples = catmerge.open(family / "samples" / "language.safetensors", like="torch")
    recorded = recording(
        model.eval(),
        input_ids=samples["input_ids"][:count].long(),
        attention_mask=samples["attention_mask"][:count].long(),
    )
    program = features_of_program(family, "language", tmp_path, count)
    named = {prefix + name: one for name, one in recorded.statistics().items()}
    assert set(named) == set(program)
    for name, found in named.items():
        wanted = program[name]
        assert (found.form, found.count) == (wanted.form, wanted.rows), name
        a, b = gram(found), gram(wanted)
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max(), name
