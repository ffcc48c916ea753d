#!/usr/bin/env python3
"""Writes the first inputs of the fuzz targets: small files that are right, one of each kind.

    python3 tests/fuzz/make_seeds.py FOLDER

The corpus (tests/fuzz/corpus) began with these; the rest was found by the fuzzer.
"""

import json
import pathlib
import struct
import sys


def safetensors(header: dict, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def npy(dictionary: str, values: bytes, major: int = 1) -> bytes:
    length = struct.pack("<H" if major == 1 else "<I", len(dictionary))
    return b"\x93NUMPY" + bytes([major, 0]) + length + dictionary.encode() + values


def tensor(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


CLIP = {"model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_channels": 3, "image_size": 12, "patch_size": 4, "projection_dim": 10,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "architectures": ["CLIPVisionModelWithProjection"]}
BERT = {"model_type": "roberta", "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 3, "vocab_size": 30, "max_position_embeddings": 12, "type_vocab_size": 1,
        "pad_token_id": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "position_embedding_type": "absolute",
        "is_decoder": False}
OPEN = {"model_cfg": {"embed_dim": 8, "quick_gelu": True, "vision_cfg": {
    "image_size": 8, "layers": 2, "width": 16, "patch_size": 4, "head_width": 8, "mlp_ratio": 2.0}}}

LLAMA = {"model_type": "llama", "hidden_size": 8, "vocab_size": 9, "num_attention_heads": 2, "num_key_value_heads": 1,
         "head_dim": 8, "num_hidden_layers": 1, "intermediate_size": 12, "max_position_embeddings": 16,
         "hidden_act": "silu", "tie_word_embeddings": True}
BLIP = {"model_type": "blip", "image_text_hidden_size": 6,
        "vision_config": {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "image_size": 8, "patch_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
        "text_config": {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "vocab_size": 9, "max_position_embeddings": 7, "is_decoder": True, "bos_token_id": 7,
                        "sep_token_id": 8, "pad_token_id": 0}}
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
FACTORS = {"base_model.model.a.q.lora_A.weight": tensor("F32", [2, 1], 0, 8),
           "base_model.model.a.q.lora_B.weight": tensor("F32", [1, 2], 8, 16)}


def adapter(config: dict, header: dict, values: bytes) -> bytes:
    return json.dumps(config).encode() + b"\0" + safetensors(header, values)


SEEDS = {
    "safetensors": [
        safetensors({}, b""),
        safetensors({"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 1], 0, 8), "b": tensor("I64", [], 8, 16),
                     "c": tensor("BF16", [0, 3], 16, 16)}, bytes(range(16))),
        safetensors({"x": tensor("F16", [3], 0, 6), "y": tensor("BOOL", [2], 6, 8), "z": tensor("F64", [1], 8, 16)},
                    bytes(16)),
        safetensors({"x": tensor("F4", [2, 3], 0, 3), "y": tensor("F6_E2M3", [4], 3, 6), "z": tensor("F8_E4M3FNUZ", [2], 6, 8),
                     "s": tensor("F8_E8M0", [], 8, 9)}, bytes(9)),
        b"PK\3\4" + bytes(22) + struct.pack("<HH", 16, 0) + b"archive/data.pkl",
        safetensors({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 4, 8)}, bytes(5)),
    ],
    "index": [json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                                                                        "b": "model-00002-of-00002.safetensors"}}).encode(),
              b'{"weight_map": {}}', b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
              b"<!DOCTYPE html>"],
    "adapter": [
        adapter(LORA, FACTORS, bytes(16)),
        adapter(LORA | {"r": 8, "use_rslora": True, "rank_pattern": {r"^a\.q": 2, "[a-c]+(x|.*\\d)?": 3},
                        "alpha_pattern": {"q": 2.5}, "fan_in_fan_out": True, "bias": "all", "modules_to_save": ["h"]},
                FACTORS | {"base_model.model.h.bias": tensor("F16", [1], 16, 18),
                           "base_model.model.h.original_module.bias": tensor("F16", [1], 18, 20),
                           "base_model.model.h.modules_to_save.bias": tensor("F16", [1], 20, 22),
                           "base_model.model.a.q.base_layer.bias": tensor("F16", [1], 22, 24)}, bytes(24)),
        adapter(LORA | {"lora_bias": True},
                {"base_model.model.c.lora_A.weight": tensor("BF16", [2, 1, 2, 1], 0, 8),
                 "base_model.model.c.lora_B.weight": tensor("BF16", [1, 2, 1, 1], 8, 12),
                 "base_model.model.c.lora_B.bias": tensor("BF16", [1], 12, 14)}, bytes(14)),
        adapter(LORA | {"init_lora_weights": "eva", "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
                {"base_model.model.e.lora_embedding_A": tensor("F64", [2, 1], 0, 16),
                 "base_model.model.e.lora_embedding_B": tensor("F64", [1, 2], 16, 32)}, bytes(32)),
        adapter(LORA | {"use_dora": True}, FACTORS, bytes(16)),
    ],
    "config": [json.dumps(c).encode() for c in (
        CLIP, {"model_type": "clip", "vision_config": CLIP, "projection_dim": 6}, BERT, OPEN, OPEN["model_cfg"],
        BERT | {"model_type": "bert", "type_vocab_size": 2},
        LLAMA, LLAMA | {"rope_scaling": {"type": "yarn", "factor": 4, "mscale": 1, "mscale_all_dim": 0.5}},
        LLAMA | {"model_type": "qwen3_moe", "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 3,
                 "mlp_only_layers": [1]},
        LLAMA | {"model_type": "gemma3_text", "sliding_window": 4, "query_pre_attn_scalar": 8, "layer_types":
                 ["full_attention"], "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8}}},
        LLAMA | {"model_type": "phi3", "partial_rotary_factor": 0.5, "original_max_position_embeddings": 8,
                 "rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [1, 2]}},
        BLIP, BLIP | {"tie_word_embeddings": False},
        {"model_type": "gpt2", "n_embd": 8, "vocab_size": 9, "n_positions": 5, "n_head": 2, "n_layer": 1})],
    "npy": [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", bytes(range(16))),
        npy("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3, 1), }  \n", bytes(range(12)), 2),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (), }\n", b"\1"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n", bytes(8), 3),
        npy("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 1), }\n", bytes(range(8))),
        npy("{'descr': '>c8', 'fortran_order': True, 'shape': (2, 1), }\n", bytes(range(16))),
    ],
    "statistics": [
        safetensors({"__metadata__": {"rows:w": "2", "alias:v": "w"}, "w": tensor("F32", [2, 1], 0, 8)}, bytes(8)),
        safetensors({"__metadata__": {"rows:w": "9"}, "w::gram": tensor("F64", [1, 1], 0, 8)}, bytes(8)),
        safetensors({"__metadata__": {"rows:g": "9"}, "g::second_moment": tensor("F64", [2], 0, 16)}, bytes(16)),
        safetensors({"__metadata__": {"rows:w": "5"}, "w::factor": tensor("F32", [1, 2], 0, 8)}, bytes(8)),
    ],
}


def main() -> None:
    for target, inputs in SEEDS.items():
        folder = pathlib.Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (folder / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
