"""Whole networks as mappings: equal to the program on files, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest

import catmerge
from support import same_bits, write_safetensors

METHODS = [one["name"] for one in catmerge.methods()]
NEEDS = {one["name"]: one for one in catmerge.methods()}


def arguments(vision, method, files):
    """The inputs that a method needs, as paths for the program or for `merge`."""
    given = {}
    if NEEDS[method]["needs_features"]:
        given["features" if files else "statistics"] = vision["features"]
    if NEEDS[method]["needs_importance"]:
        given["importance"] = vision["importance"]
    return given


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::catmerge.MergeWarning")
def test_equals_the_program(vision, tmp_path, method):
    """Each method by merge, by merge_checkpoints and by the program's own command line."""
    from support import run_program

    base, experts = vision["base"], vision["experts"]
    words = [f"--{name.replace('_', '-')}={task}={path}"
             for name, paths in arguments(vision, method, True).items()
             for task, path in paths.items()]
    run_program("merge", "--quiet", f"--base={base}", f"--output={tmp_path / 'by_program'}",
                f"--method={method}", *words, *[f"--expert={t}={p}" for t, p in experts.items()])
    report = catmerge.merge_checkpoints(
        base, experts, tmp_path / "by_module", method, **arguments(vision, method, True)
    )
    assert (tmp_path / "by_program/model.safetensors").read_bytes() == (
        tmp_path / "by_module/model.safetensors"
    ).read_bytes()

    merged, same = catmerge.merge(base, experts, method, **arguments(vision, method, False))
    written = catmerge.open(tmp_path / "by_program")
    assert list(merged) == list(catmerge.open(base))
    for name, array in merged.items():
        assert same_bits(array, written[name]), name
    assert same.summary == report.summary

    # As plain dicts of arrays, with statistics in memory.
    given = arguments(vision, method, False)
    loaded = {
        key: {t: dict((catmerge.open_statistics if key == "statistics" else catmerge.open)(p))
              for t, p in paths.items()}
        for key, paths in given.items()
    }
    again, _ = catmerge.merge(
        dict(catmerge.open(base)), {t: dict(catmerge.open(p)) for t, p in experts.items()}, method,
        model_type="clip_vision_model", threads=1, **loaded,
    )
    for name, array in again.items():
        assert same_bits(array, merged[name]), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::catmerge.MergeWarning")
def test_one_parameter_equals_the_program(vision, tmp_path, method):
    """merge_parameter equals a merge of files that merges this parameter alone."""
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    catmerge.merge_checkpoints(
        vision["base"], vision["experts"], tmp_path / "merged", method, include=[name],
        **arguments(vision, method, True),
    )
    given = {}
    if NEEDS[method]["needs_features"]:
        given["statistics"] = {
            t: catmerge.open_statistics(p)[name] for t, p in vision["features"].items()
        }
    if NEEDS[method]["needs_importance"]:
        given["importance"] = {t: catmerge.open(p)[name] for t, p in vision["importance"].items()}
    merged, _ = catmerge.merge_parameter(
        catmerge.open(vision["base"])[name],
        {t: catmerge.open(p)[name] for t, p in vision["experts"].items()},
        method, "linear", name=name, **given,
    )
    written = catmerge.open(tmp_path / "merged")[name]
    assert merged.dtype == np.float32 and same_bits(merged.astype(written.dtype), written)


@pytest.mark.filterwarnings("ignore::catmerge.MergeWarning")
@pytest.mark.parametrize(
    "method, options",
    [
        ("ties", dict(density=0.3, alpha=0.7, before=["dare:drop=0.5"], weights={"kana": 0.5})),
        ("cat", dict(lambda_=1, rank=2, set=["@scale:rank=1"], after="lines:first=0.5")),
        ("cat", dict(alpha=0.3, method_for=["@shift=average"], out_dtype="f16")),
        ("tsv-m", dict(exclude=["*class_embedding"], rules=["*.fc2.weight=untrimmed"])),
    ],
)
def test_options(vision, tmp_path, method, options):
    files = arguments(vision, method, True)
    report = catmerge.merge_checkpoints(
        vision["base"], vision["experts"], tmp_path / "out", method, report=True, **files, **options
    )
    merged, same = catmerge.merge(
        vision["base"], vision["experts"], method, report=True,
        **arguments(vision, method, False), **options,
    )
    written = catmerge.open(tmp_path / "out")
    for name, array in merged.items():
        assert same_bits(array, written[name]), name
    assert same.data["parameters"] == report.data["parameters"]
    assert same.data["catmerge"] == report.data["catmerge"]
    assert same.warnings == report.warnings
    assert "<html" in same.page() and "<iframe" in same._repr_html_()


@pytest.mark.filterwarnings("ignore::catmerge.MergeWarning")
def test_other_tensors(tmp_path):
    """Integers are copied, stacks come apart, ties hold, convolutions are matrices."""

    def network(seed):
        g = np.random.default_rng(seed)
        table = g.standard_normal((20, 8)).astype("f4")
        return {
            "model.embed_tokens.weight": table,
            "model.layers.0.mlp.experts.gate_up_proj": g.standard_normal((3, 8, 6)).astype("f4"),
            "model.layers.0.self_attn.q_proj.weight": g.standard_normal((8, 8)).astype("f4"),
            "model.layers.0.input_layernorm.weight": g.standard_normal(8).astype("f4"),
            "conv.weight": g.standard_normal((4, 3, 2, 2)).astype("f4"),
            "steps": np.array(5),
            "lm_head.weight": table,
        }

    base, experts = network(0), {k: network(int(k)) for k in "12"}
    files = {}
    for key, one in {"base": base, **experts}.items():
        files[key] = write_safetensors(tmp_path / f"{key}.safetensors", one)
    rules = ["*.gate_up_proj=linear,in-out,stacked"]
    for method in ("task-arithmetic", "tsv-m", "ties"):
        out = tmp_path / f"{method}.safetensors"
        catmerge.merge_checkpoints(
            files["base"], {k: files[k] for k in "12"}, out, method, rules=rules
        )
        merged, report = catmerge.merge(base, experts, method, rules=rules)
        for name, array in catmerge.open(out).items():
            assert same_bits(array, np.asarray(merged[name])), (method, name)
        assert merged["steps"] is base["steps"]
        assert merged["lm_head.weight"] is merged["model.embed_tokens.weight"]
        assert "1 copied" in report.summary

    # The same through views that no file could have.
    flipped = {n: a[..., ::-1].copy()[..., ::-1] if a.ndim else a for n, a in base.items()}
    transposed = {
        k: {n: np.asfortranarray(a) if a.ndim else a for n, a in one.items()}
        for k, one in experts.items()
    }
    again, _ = catmerge.merge(flipped, transposed, "ties", rules=rules)
    for name, array in again.items():
        assert same_bits(np.ascontiguousarray(array), np.ascontiguousarray(merged[name])), name


@pytest.mark.filterwarnings("ignore::catmerge.MergeWarning")
def test_lazy_mappings():
    """Tensors are asked for one group at a time, and released."""

    class Lazy:
        def __init__(self, seed):
            self.seed, self.released, self.alive, self.most = seed, [], set(), 0

        def keys(self):
            return [f"layers.{i}.fc.weight" for i in range(5)]

        def __getitem__(self, name):
            self.alive.add(name)
            self.most = max(self.most, len(self.alive))
            g = np.random.default_rng([self.seed, int(name.split(".")[1])])
            return g.standard_normal((4, 4))

        def release(self, name):
            self.alive.discard(name)
            self.released.append(name)

    base, experts = Lazy(0), [Lazy(1), Lazy(2)]
    # (Types and shapes are read first; only what the merge asks for is released.)
    merged, _ = catmerge.merge(base, experts, "task-arithmetic", alpha=1)
    assert base.released == base.keys()
    for name in base.keys():
        expected = experts[0][name] + experts[1][name] - base[name]
        np.testing.assert_allclose(merged[name], expected, atol=1e-12)


@pytest.mark.filterwarnings("ignore:the task vector")
def test_differences():
    base = {"a.weight": np.zeros((2, 2)), "b.bias": np.zeros(2), "n": np.array(3)}
    expert = {name: array + 1.0 for name, array in base.items() if name != "n"}
    expert["n"] = np.array(3)
    refused = [
        ({"a.weight": expert["a.weight"]}, "'b.bias' is missing"),
        ({**expert, "c": np.zeros(2)}, "'c' is not in the base"),
        ({**expert, "b.bias": np.zeros(3)}, r"expected F64 \[2\], found F64 \[3\]"),
        ({**expert, "n": np.array(4)}, "1 tensor holds no floating-point weights"),
        ({**expert, "b.bias": [1, 2]}, "of type list"),
        ({**expert, "b.bias": np.array(["a", "b"])}, "NumPy array of <U1"),
        ([1, 2], "expected a mapping"),
    ]
    for wrong, words in refused:
        with pytest.raises(catmerge.Error, match=words):
            catmerge.merge(base, {"right": expert, "wrong": wrong}, "average")
    with pytest.warns(catmerge.MergeWarning, match="replaced by the base's"):
        merged, _ = catmerge.merge(
            base, {"right": expert, "short": {"a.weight": expert["a.weight"]}}, "average",
            missing="base",
        )
    np.testing.assert_array_equal(merged["b.bias"], [0.5, 0.5])
    for options, words in [
        (dict(rules="nothing=linear"), "nothing"),
        (dict(include="nothing"), "nothing"),
        (dict(set="nothing:alpha=1"), "nothing"),
        (dict(rename="a=b"), "merge_checkpoints alone"),
        (dict(out_dtype="f8"), "out_dtype"),
    ]:
        with pytest.raises(catmerge.Error, match=words):
            catmerge.merge(base, {"right": expert}, "task-arithmetic", **options)
    big = {"a": np.full(3, 60000.0, "f2")}
    with pytest.raises(catmerge.Error, match="choose a wider out_dtype"):
        catmerge.merge(big, {"x": {"a": big["a"] * np.float16(0.5)}}, "task-arithmetic", alpha=-1)


def test_errors_of_mappings_pass_through():
    class Broken(dict):
        def __getitem__(self, name):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        catmerge.merge(Broken(a=np.zeros(2)), [{"a": np.zeros(2)}], "average")

    class LaterBroken(dict):
        reads = 0

        def __getitem__(self, name):
            self.reads += 1
            if self.reads > 2:
                raise OSError("the disk is gone")
            return super().__getitem__(name)

    base = {"a": np.zeros(2), "b": np.zeros(2)}
    with pytest.raises(OSError, match="the disk is gone"):
        catmerge.merge(base, [LaterBroken(a=np.ones(2), b=np.ones(2))], "average")


def test_statistics(rng):
    base = {"layers.0.q_proj.weight": rng.standard_normal((4, 6))}
    name = next(iter(base))
    experts = {k: {name: base[name] + 0.1 * rng.standard_normal((4, 6))} for k in "ab"}
    rows = {k: {name: rng.standard_normal((3, 6))} for k in "ab"}
    merged, _ = catmerge.merge(base, experts, "cat", statistics=rows)
    alone, _ = catmerge.cat_linear(
        base[name], [e[name] for e in experts.values()], [x[name] for x in rows.values()]
    )
    assert same_bits(merged[name], alone)
    with pytest.warns(catmerge.MergeWarning, match="have no features"):
        catmerge.merge(base, experts, "cat", statistics={"a": rows["a"], "b": {}})
    rows["a"]["other"] = np.zeros((2, 2))
    with pytest.warns(catmerge.MergeWarning, match="given and not used for 1 parameter: other"):
        catmerge.merge(base, experts, "cat", statistics=rows)
    rows["a"][name][0, 0] = np.inf
    with pytest.raises(catmerge.Error, match="not finite"):
        catmerge.merge(base, experts, "cat", statistics=rows)


def test_no_copies_of_networks():
    """A merge of networks takes the memory of its result and of its work on one parameter."""
    code = """
import resource
import numpy as np
import catmerge

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

shape = (512, 512)
def network(seed):
    rng = np.random.default_rng(seed)
    return {f"layer.{i}.weight": rng.standard_normal(shape, "f4") for i in range(64)}

base, experts = network(0), {k: network(int(k)) for k in "1234"}
size = sum(a.nbytes for a in base.values())
small = {"layer.0.weight": base["layer.0.weight"]}
catmerge.merge(small, [small, small], "ties")
before = peak()
merged, _ = catmerge.merge(base, experts, "task-arithmetic")
more = peak() - before
assert more < 1.5 * size, (more, size)
assert not any(np.shares_memory(merged[n], base[n]) for n in base)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_open(vision, tmp_path):
    opened = catmerge.open(str(vision["base"]))
    assert len(opened) == 72 and opened.model_type == "clip_vision_model"
    array = opened["vision_model.embeddings.class_embedding"]
    assert not array.flags.writeable and "nothing" not in opened
    with pytest.raises(KeyError):
        opened["nothing"]
    with pytest.raises(catmerge.Error):
        catmerge.open(tmp_path / "nothing")
    with pytest.raises(catmerge.Error, match="like"):
        catmerge.open(vision["base"], like="jax")
    del opened
    assert array.sum() != 0  # the array keeps the file
    path = tmp_path / "half.safetensors"
    write_safetensors(path, {"w": np.arange(4, dtype="f2"), "n": np.arange(3)})
    opened = catmerge.open(path)
    np.testing.assert_array_equal(opened["w"], np.arange(4, dtype="f2"))
    np.testing.assert_array_equal(opened["n"], [0, 1, 2])
