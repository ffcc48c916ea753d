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

SEEDS = {
    "safetensors": [
        safetensors({}, b""),
        safetensors({"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 1], 0, 8), "b": tensor("I64", [], 8, 16),
                     "c": tensor("BF16", [0, 3], 16, 16)}, bytes(range(16))),
        safetensors({"x": tensor("F16", [3], 0, 6), "y": tensor("BOOL", [2], 6, 8), "z": tensor("F64", [1], 8, 16)},
                    bytes(16)),
        safetensors({"x": tensor("F4", [2, 3], 0, 3), "y": tensor("F6_E2M3", [4], 3, 6), "z": tensor("F8_E4M3FNUZ", [2], 6, 8),
                     "s": tensor("F8_E8M0", [], 8, 9)}, bytes(9)),
    ],
    "index": [json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                                                                        "b": "model-00002-of-00002.safetensors"}}).encode(),
              b'{"weight_map": {}}'],
    "config": [json.dumps(c).encode() for c in (
        CLIP, {"model_type": "clip", "vision_config": CLIP, "projection_dim": 6}, BERT, OPEN, OPEN["model_cfg"],
        BERT | {"model_type": "bert", "type_vocab_size": 2})],
    "npy": [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", bytes(range(16))),
        npy("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3, 1), }  \n", bytes(range(12)), 2),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (), }\n", b"\1"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n", bytes(8), 3),
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
