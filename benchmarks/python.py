#!/usr/bin/env python3
"""catmerge beside mergekit and plain PyTorch, on the same files, in one run.

    python benchmarks/python.py [--size small] [--program CATMERGE] [--folder F] [METHOD ...]

In an environment with the Python module, torch, transformers and mergekit
(examples/python/tests/run.sh --frameworks makes one). Makes a Llama of 150 million parameters in
BF16 with a seed, and three experts, then merges them by each contender in a process of its own:

- program: the `catmerge` of the module, or --program, another build of it;
- module: catmerge.merge_checkpoints;
- peer: mergekit's command (Task Arithmetic, TIES, DARE), or the method in plain PyTorch, layer by
  layer in float32 (TSV-M, Iso-C, RegMean, WUDI), as FusionBench and the authors compute it. WUDI's
  300 steps of Adam take more than an hour at full size, so it runs where it is named.

Prints seconds of processor time, wall time and peak memory (MB), and the ratios peer : module.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

SIZES = {
    "small": dict(hidden_size=256, intermediate_size=704, num_hidden_layers=4, vocab_size=4000),
    "full": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=16, vocab_size=32000),
}
TASKS = ("a", "b", "c")

# method: (catmerge's method, its other options, mergekit's recipe or None for plain PyTorch)
METHODS = {
    "task-arithmetic": ("task-arithmetic:alpha=0.4", {}, ("task_arithmetic", {"weight": 0.4})),
    "ties": ("ties:density=0.2,alpha=1", {}, ("ties", {"weight": 1.0, "density": 0.2})),
    "dare": (
        "task-arithmetic:alpha=0.4",
        {"before": "dare:drop=0.5"},
        ("dare_linear", {"weight": 0.4, "density": 0.5}),
    ),
    "tsv-m": ("tsv-m", {}, None),
    "iso-c": ("iso-c", {}, None),
    "regmean": ("regmean", {"features": True}, None),
    "wudi": ("wudi", {}, None),
}
SLOW = {"wudi"}


def make(folder, size):
    """The checkpoints and files of features."""
    import catmerge
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **SIZES[size], num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=64
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).eval()
    print(f"{sum(p.numel() for p in base.parameters()) / 1e6:.0f} million parameters")
    base.to(torch.bfloat16).save_pretrained(folder / "base")
    state = {name: value.float() for name, value in base.state_dict().items()}
    for seed, task in enumerate(TASKS, 1):
        torch.manual_seed(seed)
        moved = {n: v + 0.1 * v.std() * torch.randn_like(v) for n, v in state.items()}
        base.load_state_dict(moved)
        base.save_pretrained(folder / task)
        with catmerge.record(base.float()) as recorded, torch.no_grad():
            base(input_ids=torch.randint(config.vocab_size, (32, 64)))
        base.to(torch.bfloat16)
        recorded.save(folder / f"{task}.features")


def measured(command):
    """(processor seconds, wall seconds, peak MB) of a command."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            sys.exit(log.read().decode(errors="replace")[-2000:])
    wall = time.perf_counter() - begin
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def by_program(folder, out, method, options, program):
    words = [*program, "merge", "--base", folder / "base", "--method", method, "--output", out]
    for task in TASKS:
        words += ["--expert", f"{task}={folder / task}"]
        if options.get("features"):
            words += ["--features", f"{task}={folder / task}.features"]
    if "before" in options:
        words += ["--before", options["before"]]
    return [*words, "--quiet"]


def by_module(folder, out, method, options):
    given = dict(options)
    if given.pop("features", False):
        given["features"] = {task: str(folder / f"{task}.features") for task in TASKS}
    experts = {task: str(folder / task) for task in TASKS}
    arguments = json.dumps([str(folder / "base"), experts, str(out), method, given])
    code = (
        "import catmerge, json, sys; b, e, o, m, g = json.loads(sys.argv[1]); "
        "catmerge.merge_checkpoints(b, e, o, m, **g)"
    )
    return [sys.executable, "-c", code, arguments]


def by_mergekit(folder, out, recipe):
    import yaml

    method, parameters = recipe
    path = folder / f"{method}.yml"
    models = [{"model": str(folder / task)} for task in TASKS]
    path.write_text(
        yaml.safe_dump(
            {
                "merge_method": method,
                "base_model": str(folder / "base"),
                "models": models,
                "parameters": parameters,
                "dtype": "float32",
                "out_dtype": "bfloat16",
            }
        )
    )
    return [sys.executable, "-m", "mergekit.scripts.run_yaml", path, out]


def plain_torch(method, folder, out):
    """The method layer by layer; all else is the mean of the experts."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = [safe_open(folder / name / "model.safetensors", "pt") for name in ("base", *TASKS)]
    features = None
    if method == "regmean":
        features = [safe_open(folder / f"{task}.features", "pt") for task in TASKS]
    merged = {}
    for name in files[0].keys():
        base, *experts = (file.get_tensor(name) for file in files)
        vectors = [expert.float() - base.float() for expert in experts]
        if base.dim() < 2 or "embed" in name or "lm_head" in name:
            tau = sum(vectors) / len(vectors)
        elif method == "tsv-m":
            tau = tsv_m(torch, vectors)
        elif method == "iso-c":
            u, s, v = torch.linalg.svd(sum(vectors), full_matrices=False)
            tau = s.mean() * (u @ v)
        elif method == "wudi":
            tau = wudi(torch, vectors)
        else:
            tau = regmean(features, name, experts) - base.float()
        merged[name] = (base.float() + tau).to(base.dtype)
    os.makedirs(out, exist_ok=True)
    save_file(merged, out / "model.safetensors")


def tsv_m(torch, vectors):
    us, ss, vs = [], [], []
    for vector in vectors:
        u, s, v = torch.linalg.svd(vector, full_matrices=False)
        kept = len(s) // len(vectors)
        us, ss, vs = us + [u[:, :kept]], ss + [s[:kept]], vs + [v[:kept]]
    polar = []
    for basis in (torch.cat(us, 1), torch.cat(vs, 0)):
        u, _, v = torch.linalg.svd(basis, full_matrices=False)
        polar.append(u @ v)
    return polar[0] @ torch.diag(torch.cat(ss)) @ polar[1]


def wudi(torch, vectors):
    tau = sum(vectors).clone().requires_grad_()
    adam = torch.optim.Adam([tau], lr=1e-5)
    for _ in range(300):
        adam.zero_grad()
        loss = sum(((tau - v) @ v.T).square().sum() / v.square().sum() for v in vectors)
        loss.backward()
        adam.step()
    return tau.detach()


def regmean(features, name, experts):
    total = weighted = 0
    for file, expert in zip(features, experts):
        owner = (file.metadata() or {}).get(f"alias:{name}", name)
        if f"{owner}::gram" in file.keys():
            gram = file.get_tensor(f"{owner}::gram").float()
        else:
            rows = file.get_tensor(owner).float()
            gram = rows.T @ rows
        gram = 0.9 * gram + 0.1 * gram.diag().diag()
        total = total + gram
        weighted = weighted + gram @ expert.float().T
    return (total.inverse() @ weighted).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--program", help="a build of the program in place of the module's own")
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the checkpoints for other runs")
    # Parts that run in processes of their own: a child's peak memory counts from its parent's.
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    given = parser.parse_args()
    if given.plain:
        method, folder, out = given.plain
        return plain_torch(method, pathlib.Path(folder), pathlib.Path(out))
    if given.make:
        return make(pathlib.Path(given.make), given.size)
    for method in given.methods:
        if method not in METHODS:
            parser.error(f"expected {', '.join(METHODS)}, found {method}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or pathlib.Path(temporary)) / given.size
        if not (folder / f"{TASKS[-1]}.features").exists():
            folder.mkdir(parents=True, exist_ok=True)
            words = [sys.executable, __file__, "--make", folder, "--size", given.size]
            subprocess.run(words, check=True)
        program = [given.program] if given.program else [sys.executable, "-m", "catmerge"]
        titles = ("program", "module", "peer", "peer : module")
        print(f"{'':18}" + "".join(f"{title:>24}" for title in titles))
        for name in given.methods or [name for name in METHODS if name not in SLOW]:
            method, options, recipe = METHODS[name]
            out = pathlib.Path(temporary)
            commands = [
                by_program(folder, out / f"{name}-program", method, options, program),
                by_module(folder, out / f"{name}-module", method, options),
                by_mergekit(folder, out / f"{name}-peer", recipe)
                if recipe
                else [sys.executable, __file__, "--plain", name, folder, out / f"{name}-peer"],
            ]
            found = [measured(command) for command in commands]
            cells = [f"{cpu:7.1f} {wall:7.1f} {memory:6.0f}" for cpu, wall, memory in found]
            ratios = [peer / own for own, peer in zip(found[1], found[2])]
            cells.append(" ".join(f"{ratio:6.1f}x" for ratio in ratios))
            print(f"{name:18}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
        print("cells: seconds of processor time, wall seconds, peak MB")


if __name__ == "__main__":
    main()
