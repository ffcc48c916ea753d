"""Merge state dicts: python merge_state_dicts.py METHOD BASE.pt EXPERT.pt EXPERT.pt ... MERGED.pt"""

import sys

import catmerge
import torch

method, *paths, output = sys.argv[1:]
base, *experts = (torch.load(path, map_location="cpu", weights_only=True) for path in paths)
merged, report = catmerge.merge(base, experts, method)
torch.save(merged, output)
print(report)
