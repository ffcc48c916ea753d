"""Tiny networks of transformers, made with a seed, and experts of them."""

import copy
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest  # noqa: E402

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_DECODER = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=60,
    max_position_embeddings=32,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
_MIXTURE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
_IMAGES = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16
)

# name: (class, configuration)
_ALL = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", dict(_DECODER)),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", dict(_DECODER, head_dim=8)),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", dict(_DECODER, head_dim=8)),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", dict(_DECODER, head_dim=8, **_MIXTURE)),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        dict(
            n_embd=32,
            n_layer=2,
            n_head=4,
            vocab_size=60,
            n_positions=32,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    "vit": ("ViTModel", "ViTConfig", dict(_IMAGES, patch_size=4)),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        dict(
            d_model=32,
            d_ff=48,
            d_kv=8,
            num_layers=2,
            num_heads=4,
            vocab_size=60,
            feed_forward_proj="gated-gelu",  # as T5 1.1, which mergekit knows
            decoder_start_token_id=0,
        ),
    ),
}
NAMES = tuple(_ALL)


def make(name, seed=1):
    """A network with random weights; its norms are no identity."""
    model_class, configuration, settings = _ALL[name]
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(getattr(transformers, configuration)(**settings))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def tuned(model, seed, size=0.02):
    """A copy, every weight moved a little."""
    torch.manual_seed(seed)
    expert = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter += size * torch.randn_like(parameter)
    return expert.eval()


def samples(name, seed, count=3):
    """Keywords of the network's forward pass; texts have padding."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(count, 3, 16, 16, generator=generator)}
    ids = torch.randint(3, 60, (count, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, 5:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if name == "t5":
        given["labels"] = torch.randint(3, 60, (count, 4), generator=generator)
    return given
