"""torch tensors in and out, without copies; skipped where there is no torch."""

import subprocess
import sys

import numpy as np
import pytest

import catmerge

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_types(dtype):
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    base, expert = torch.randn(4, 6).to(kind), torch.randn(4, 6).to(kind)
    result = torch.float64 if dtype == "float64" else torch.float32
    for view in (lambda t: t, lambda t: t.T, lambda t: t[::2, 1:], lambda t: t[:1].expand(4, 6)):
        vector = catmerge.task_vector(view(base), view(expert))
        assert isinstance(vector, torch.Tensor) and vector.dtype == result
        assert torch.equal(vector, view(expert).to(result) - view(base).to(result))


def test_in_place_and_shared():
    base, expert = torch.randn(3, 4), torch.randn(3, 4)
    before = expert.clone()
    catmerge.subtract_base(base, expert)
    assert torch.equal(expert, before - base)
    assert isinstance(catmerge.cat_shift(base[0], [expert[0], expert[1]])[0], torch.Tensor)
    # The first argument decides.
    assert isinstance(catmerge.task_vector(base.numpy(), expert), np.ndarray)
    assert isinstance(catmerge.task_vector(base, expert.numpy()), torch.Tensor)


def test_parameters_and_modules():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(6, 4)
            self.norm = torch.nn.BatchNorm1d(4)

    base, experts = Net(), [Net(), Net()]
    vector = catmerge.task_vector(base.fc.weight, experts[0].fc.weight)  # they require gradients
    assert torch.equal(vector, (experts[0].fc.weight - base.fc.weight).detach())
    with pytest.warns(catmerge.MergeWarning):
        merged, _ = catmerge.merge(
            base.state_dict(), [e.state_dict() for e in experts], "task-arithmetic", alpha=0.5
        )
    expected = base.fc.weight + 0.5 * sum(e.fc.weight - base.fc.weight for e in experts)
    torch.testing.assert_close(merged["fc.weight"], expected.detach())
    assert merged["norm.num_batches_tracked"].dtype == torch.int64
    base.load_state_dict(merged)


def test_half_networks_equal_numpy():
    """bfloat16 state dicts give the bits of the same numbers in NumPy, rounded."""
    torch.manual_seed(1)
    shapes = {"layers.0.fc.weight": (8, 6), "layers.0.fc.bias": (8,)}
    base = {n: torch.randn(s).bfloat16() for n, s in shapes.items()}
    experts = [
        {n: (t + 0.1 * torch.randn(t.shape)).bfloat16() for n, t in base.items()} for _ in "ab"
    ]
    merged, _ = catmerge.merge(base, experts, "ties")
    wide, _ = catmerge.merge(
        {n: t.float().numpy() for n, t in base.items()},
        [{n: t.float().numpy() for n, t in e.items()} for e in experts],
        "ties",
    )
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, torch.from_numpy(wide[name]).bfloat16())


def test_refused():
    good = torch.zeros(2, 2)
    refused = [
        (torch.zeros(2, 2, dtype=torch.int64), "a torch tensor of int64"),
        (torch.zeros(2, 2).to_sparse(), "layout"),
        (torch.zeros(2, 2, device="meta"), "on meta"),
    ]
    if torch.cuda.is_available():
        refused.append((good.cuda(), "on cuda:0"))
    for wrong, words in refused:
        with pytest.raises(catmerge.Error, match=words):
            catmerge.task_vector(good, wrong)


def test_open_as_torch(vision):
    opened = catmerge.open(vision["base"], like="torch")
    name = "vision_model.embeddings.class_embedding"
    assert isinstance(opened[name], torch.Tensor)
    np.testing.assert_array_equal(opened[name].numpy(), catmerge.open(vision["base"])[name])


def test_torch_is_not_imported():
    code = "import sys, numpy as np, catmerge; catmerge.task_vector(np.zeros(2), np.zeros(2)); "
    code += "catmerge.methods(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
