"""Networks with PEFT's adapters as experts: equal to merge_checkpoints with what PEFT saves."""

import warnings

import numpy as np
import pytest

import catmerge

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

ATTENTION = ["query", "value"]
BERT = {
    "plain": {"target_modules": [*ATTENTION, "dense"]},
    "rslora": {"use_rslora": True, "target_modules": ATTENTION},
    "patterns": {
        "target_modules": [*ATTENTION, "dense"],
        "rank_pattern": {"value": 5, "attention.output.dense": 2},
        "alpha_pattern": {r"layer\.1\..*": 3},
    },
    "heads": {"task_type": "SEQ_CLS", "target_modules": ATTENTION},
    "modules": {"modules_to_save": ["pooler", "classifier"], "target_modules": ["query"]},
    "biases": {"bias": "all", "lora_bias": False, "target_modules": ATTENTION},
    "bias of B": {"lora_bias": True, "target_modules": ATTENTION},
}
GPT2 = {"fan in, fan out": {"fan_in_fan_out": True, "target_modules": ["c_attn", "c_fc", "c_proj"]}}


def bert():
    torch.manual_seed(5)
    config = transformers.BertConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=20,
        max_position_embeddings=8,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def gpt2():
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=20, n_positions=8, num_labels=3, pad_token_id=0
    )
    return transformers.GPT2ForSequenceClassification(config)


def trained(parameters, seed):
    """Changes what is trained, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))


def adapted(make, seed, **settings):
    settings = {"r": 4, "lora_alpha": 6, **settings}
    model = peft.get_peft_model(make(), peft.LoraConfig(**settings))
    trained(model.parameters(), seed)
    return model


def saved(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


def stored(network, folder):
    network.save_pretrained(folder)
    return folder


def assert_same(merged, path):
    written = catmerge.open(path, like="torch")
    assert list(merged) and set(written) == set(merged)
    for name, tensor in merged.items():
        assert tensor.dtype == written[name].dtype
        assert torch.equal(tensor, written[name]), name


@pytest.mark.parametrize("case", [*BERT, *GPT2])
def test_peft_models_are_experts(case, tmp_path):
    make = gpt2 if case in GPT2 else bert
    settings = {**BERT, **GPT2}[case]
    models = {task: adapted(make, seed, **settings) for seed, task in enumerate("ab")}
    folders = {task: saved(model, tmp_path / task) for task, model in models.items()}
    path = tmp_path / "merged.safetensors"
    catmerge.merge_checkpoints(stored(make(), tmp_path / "base"), folders, path, "tsv-m")
    state = make().state_dict()
    merged, _ = catmerge.merge(state, models, "tsv-m", model_type=make().config.model_type)
    assert_same(merged, path)
    assert make().load_state_dict(merged).missing_keys == []

    # By hand, and from the disk.
    by_hand = {
        task: catmerge.Adapter(model.peft_config["default"], peft.get_peft_model_state_dict(model))
        for task, model in models.items()
    }
    model_type = make().config.model_type
    for experts in (by_hand, folders):
        again, _ = catmerge.merge(state, experts, "tsv-m", model_type=model_type)
        assert all(torch.equal(again[name], merged[name]) for name in merged)


def test_one_adapter_alone_is_what_peft_merges():
    for make, settings in (
        (bert, BERT["patterns"]),
        (bert, BERT["heads"]),
        (gpt2, {"fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj"]}),
    ):
        model = adapted(make, 3, **settings)
        merged, _ = catmerge.merge(
            make().state_dict(),
            [model],
            "task-arithmetic:alpha=1",
            model_type=make().config.model_type,
        )
        expected = model.merge_and_unload().state_dict()
        assert set(expected) == set(merged)
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-7)


def test_several_adapters_of_one_model(tmp_path):
    """They share a base, which the model gives back."""
    model = adapted(bert, 1, target_modules=ATTENTION)
    model.add_adapter("other", peft.LoraConfig(r=2, lora_alpha=8, target_modules=["key"]))
    model.set_adapter("other")
    trained(model.parameters(), 2)
    saved(model, tmp_path / "adapters")
    base = peft.get_base_model_state_dict(model)
    experts = {name: catmerge.Adapter.of(model, name) for name in ("default", "other")}
    merged, _ = catmerge.merge(base, experts, "task-arithmetic:alpha=0.5")
    path = tmp_path / "merged.safetensors"
    folders = {"default": tmp_path / "adapters", "other": tmp_path / "adapters" / "other"}
    catmerge.merge_checkpoints(
        stored(bert(), tmp_path / "base"), folders, path, "task-arithmetic:alpha=0.5"
    )
    assert_same(merged, path)

    # The active one, without a name.
    active, _ = catmerge.merge(base, [model], "average")
    named, _ = catmerge.merge(base, [experts["other"]], "average")
    assert all(torch.equal(active[name], named[name]) for name in named)
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(catmerge.Error, match="2 active adapters of 'default', 'other'"):
        catmerge.merge(base, [model], "average")
    with pytest.raises(catmerge.Error, match="has no adapter 'x': it has 'default', 'other'"):
        catmerge.Adapter.of(model, "x")
    with pytest.raises(catmerge.Error, match="expected a PeftModel, found Linear"):
        catmerge.Adapter.of(torch.nn.Linear(2, 2))


def test_adapters_in_a_network_that_is_no_peft_model():
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION)
    network = peft.inject_adapter_in_model(config, bert(), "mine")
    trained((p for name, p in network.named_parameters() if "lora_" in name), 4)
    experts = [catmerge.Adapter.of(network, "mine")]
    model = adapted(bert, 0, target_modules=ATTENTION)
    peft.set_peft_model_state_dict(model, dict(experts[0].tensors))
    merged, _ = catmerge.merge(bert().state_dict(), experts, "average")
    expected, _ = catmerge.merge(bert().state_dict(), [model], "average")
    assert all(torch.equal(merged[name], expected[name]) for name in expected)

    alone = torch.nn.Sequential(torch.nn.Linear(3, 3))
    base = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), alone)
    trained(alone.parameters(), 5)
    merged, _ = catmerge.merge(base, [alone], "task-arithmetic:alpha=1")
    factors = alone[0].lora_B["default"].weight @ alone[0].lora_A["default"].weight
    expected = base["0.weight"] + alone[0].scaling["default"] * factors.detach()
    torch.testing.assert_close(merged["0.weight"], expected)


def test_adapters_that_are_no_sum_of_products_are_refused():
    base = bert().state_dict()

    def refused(words, config):
        model = peft.get_peft_model(bert(), config)
        with pytest.raises(catmerge.Error, match=words):
            catmerge.merge(base, {"task": model}, "average")

    refused(
        "expert 'task': use_dora: is set",
        peft.LoraConfig(r=4, use_dora=True, target_modules=ATTENTION),
    )
    refused(
        "init_lora_weights: is 'pissa'",
        peft.LoraConfig(r=4, init_lora_weights="pissa", target_modules=ATTENTION),
    )
    refused(
        "peft_type: expected 'LORA', found 'IA3'",
        peft.IA3Config(target_modules=ATTENTION, feedforward_modules=[]),
    )


def test_features_of_a_network_with_an_adapter():
    """By the base's names, with the values that the merged network gives."""
    models = {
        "a": adapted(bert, 1, target_modules=ATTENTION, modules_to_save=["pooler", "LayerNorm"]),
        "b": adapted(bert, 2, target_modules=["key", "dense"]),
    }
    base = {name: tensor.clone() for name, tensor in bert().state_dict().items()}
    tokens = torch.arange(24).reshape(4, 6) % 19 + 1
    recorded, of_merged = {}, {}
    for task, model in models.items():
        model.eval()
        with catmerge.record(model) as recorded[task], torch.no_grad():
            model(input_ids=tokens)
    merged, report = catmerge.merge(base, models, "cat:alpha=0.5", statistics=recorded)
    assert set(merged) == set(base)
    assert not any("statistics" in text for text in report.warnings)
    for task, model in models.items():
        network = model.merge_and_unload()
        with catmerge.record(network) as of_merged[task], torch.no_grad():
            network(input_ids=tokens)
        assert set(recorded[task]) == set(of_merged[task]) and len(recorded[task]) > 10
        for name in recorded[task]:
            found, expected = recorded[task][name].data, of_merged[task][name].data
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
