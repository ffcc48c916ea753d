"""`catmerge.record` on networks of PyTorch: each row against the definition."""

import copy
import pathlib

import numpy as np
import pytest

import catmerge

torch = pytest.importorskip("torch")
nn = torch.nn


def rows_of(statistics):
    assert statistics.form == "rows"
    return torch.from_numpy(np.array(statistics.data))


def randomised(model):
    """Weights and biases of norms that are no identity."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def inputs_of(model, run):
    """The first input of each module in one pass, by names."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda m, given, name=name: seen.update({name: given[0]}))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen


class Attention(nn.Module):
    """q and k share an input, out has its own, and a norm stands before all."""

    def __init__(self, width=40):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-3)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.out = nn.Linear(width, 3, bias=False)

    def forward(self, x, attention_mask=None):
        y = self.norm(x)
        return self.out(self.q_proj(y) * self.k_proj(y).sigmoid())


def test_rows_of_linears_and_norms():
    torch.manual_seed(1)
    model, x = randomised(Attention()), torch.randn(3, 5, 40)
    with catmerge.record(model) as recorded, torch.no_grad():
        model(x)
    seen = inputs_of(model, lambda: model(x))
    for name in ("q_proj", "k_proj", "out"):
        assert torch.equal(
            rows_of(recorded[name + ".weight"]), seen[name].reshape(-1, seen[name].shape[-1])
        )
    statistics = recorded.statistics()
    assert statistics["k_proj.weight"] is statistics["q_proj.weight"]
    assert statistics["out.weight"] is not statistics["q_proj.weight"]
    flat = x.reshape(-1, 40).double()
    unit = flat - flat.mean(1, keepdim=True)
    unit = unit / (unit.square().mean(1, keepdim=True) + 1e-3).sqrt()
    np.testing.assert_allclose(
        statistics["norm.weight"].data, unit.square().mean(0).numpy(), rtol=1e-12
    )
    assert recorded.norms == {"norm.weight": "layer norm, eps 0.001"}
    assert recorded.missed == {}
    # It is a mapping, as `merge` takes it.
    assert set(recorded) == set(statistics) and len(recorded) == 4


def test_more_rows_become_gram_matrices():
    torch.manual_seed(2)
    model, batches = randomised(Attention()), [torch.randn(4, 5, 40) for _ in range(5)]
    with catmerge.record(model) as recorded, torch.no_grad():
        for batch in batches:
            model(batch)
    rows = []
    for batch in batches:
        seen = inputs_of(model, lambda batch=batch: model(batch))
        rows.append(seen["q_proj"].reshape(-1, 40).double())
    x = torch.cat(rows)
    found = recorded["q_proj.weight"]
    assert (found.form, found.count) == ("gram", 100)
    np.testing.assert_allclose(found.data, (x.T @ x).numpy(), rtol=1e-12, atol=1e-12)


def test_padding_is_left_out():
    torch.manual_seed(3)
    model, x = randomised(Attention()), torch.randn(2, 6, 40)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    with catmerge.record(model) as recorded, torch.no_grad():
        model(x, attention_mask=mask)
    seen = inputs_of(model, lambda: model(x))
    assert torch.equal(rows_of(recorded["out.weight"]), seen["out"][mask.bool()])
    assert recorded["norm.weight"].count == 10


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.b = nn.Conv2d(4, 20, (3, 2), dilation=(2, 1), padding="same")
        self.n = nn.BatchNorm2d(20)
        self.g = nn.GroupNorm(5, 20)
        self.d = nn.Conv2d(20, 20, 3, groups=20)
        self.c = nn.Conv1d(20, 6, 3, padding=1, padding_mode="circular")
        self.e = nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1))

    def forward(self, x):
        y = self.c(self.d(self.g(self.n(self.b(self.a(x))))).flatten(2))
        return self.e(torch.stack([y, -y], 1)[..., None])


def test_convolutions_meet_patches():
    torch.manual_seed(4)
    model = randomised(Convolutions())
    model.n.running_mean.uniform_()
    model.n.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 7, 7)
    outputs = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda m, i, o, name=name: outputs.update({name: (i[0], o)}))
    # (By the library's rules merges leave a convolution of one channel per group alone.)
    with catmerge.record(model, {"d.weight": "conv"}) as recorded, torch.no_grad():
        model(x)
    for name in "abce":
        module, (_, output) = getattr(model, name), outputs[name]
        found = recorded[name + ".weight"]
        weight = module.weight.detach().flatten(1).double()
        wanted = (output.detach() - module.bias.reshape(-1, *[1] * (output.dim() - 2))).double()
        wanted = wanted.movedim(1, -1).reshape(-1, output.shape[1])
        if found.form == "rows":
            torch.testing.assert_close(
                rows_of(found).double() @ weight.T, wanted, rtol=1e-5, atol=1e-5
            )
        else:
            # tr(W S W^T) is the energy of the outputs.
            gram = torch.from_numpy(found.data)
            torch.testing.assert_close(
                weight @ gram @ weight.T, wanted.T @ wanted, rtol=1e-4, atol=1e-4
            )
    x, output = outputs["n"]
    wanted = (output - model.n.bias[:, None, None]) / model.n.weight[:, None, None]
    np.testing.assert_allclose(
        recorded["n.weight"].data, wanted.square().mean((0, 2, 3)).detach().numpy(), rtol=1e-5
    )
    assert recorded.norms["g.weight"] == "group norm"
    assert recorded.missed == {"d.weight": "a convolution of several groups"}


def test_other_products_with_parameters():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_out = nn.Parameter(torch.randn(6, 5))
            self.right = nn.Parameter(torch.randn(4, 6))
            self.fused = nn.Parameter(torch.randn(12, 6))
            self.stack = nn.Parameter(torch.randn(3, 6, 2))
            self.unused = nn.Parameter(torch.randn(2, 2))

        def forward(self, x):
            a = torch.addmm(torch.zeros(5), x, self.in_out)
            b = (self.right @ x.T).T
            c = [nn.functional.linear(x, self.fused[4 * i : 4 * i + 4]) for i in range(3)]
            d = torch.bmm(torch.stack([x, 2 * x, 3 * x]), self.stack)
            e = x[:1] @ self.stack[1]
            return a, b, c, d, e

    torch.manual_seed(5)
    model, x = Products(), torch.randn(3, 6)
    with catmerge.record(model) as recorded, torch.no_grad():
        model(x)
    for name in ("in_out", "right", "fused", "stack[0]"):
        assert torch.equal(rows_of(recorded[name]), x), name
    assert torch.equal(rows_of(recorded["stack[2]"]), 3 * x)
    assert torch.equal(rows_of(recorded["stack[1]"]), torch.cat([2 * x, x[:1]]))
    assert recorded.missed == {"unused": "no product with it was seen"}


def test_parts_of_a_fused_weight():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Parameter(torch.randn(12, 40))

        def forward(self, q, kv):
            parts = [self.qkv[4 * i : 4 * i + 4] for i in range(3)]
            return [nn.functional.linear(x, w) for x, w in zip((q, kv, kv), parts)]

    torch.manual_seed(12)
    model, x, y = Fused(), torch.randn(3, 40), torch.randn(3, 40)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x, y):
            return self.inner(x, x), self.inner(y, y)

    with catmerge.record(Twice()) as recorded, torch.no_grad():
        recorded._model(x, y)
    assert torch.equal(rows_of(recorded["inner.qkv"]), torch.cat([x, y]))
    with catmerge.record(model) as recorded, torch.no_grad():
        model(x, y)
    assert len(recorded) == 0
    assert recorded.missed == {"qkv": "its parts have different inputs"}


def test_torch_attention_in_an_encoder():
    torch.manual_seed(6)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    model = randomised(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    x = torch.randn(2, 4, 16)
    with catmerge.record(model) as recorded, torch.no_grad():
        output = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), output)
    first = model.layers[0]
    # (Inside, tokens come before samples.)
    tokens_first = x.transpose(0, 1).reshape(-1, 16)
    assert torch.equal(rows_of(recorded["layers.0.self_attn.in_proj_weight"]), tokens_first)
    with torch.no_grad():
        attended = first.self_attn(x, x, x, need_weights=False)[0].transpose(0, 1).reshape(-1, 16)
    rows = rows_of(recorded["layers.0.self_attn.out_proj.weight"])
    made = rows @ first.self_attn.out_proj.weight.T + first.self_attn.out_proj.bias
    torch.testing.assert_close(made, attended, rtol=1e-5, atol=1e-6)
    assert recorded.missed == {}


def test_norms_of_any_class_are_recognised():
    class OddNorm(nn.Module):
        """Gemma's: x / rms(x), times 1 + weight, without a telling name."""

        def __init__(self, eps_name, eps):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(32))
            self.hidden = eps
            if eps_name:
                setattr(self, eps_name, eps)

        def forward(self, x):
            unit = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.hidden)
            return (unit * (1 + self.weight.float())).type_as(x)

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(32))

        def forward(self, x):
            return x * self.weight.sigmoid()

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.manual_seed(7)
        model = nn.Sequential(OddNorm("variance_epsilon", 1e-4), OddNorm("", 1e-6), Gate()).to(
            dtype
        )
        x = (torch.randn(8, 32) + 0.5).to(dtype)
        with catmerge.record(model) as recorded, torch.no_grad():
            model(x)
        assert recorded.norms["0.weight"] == "RMS norm, eps 0.0001"
        assert recorded.norms["1.weight"].startswith("RMS norm")
        assert recorded.missed == {"2.weight": "Gate is no norm that is known"}
        unit = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-4).sqrt()
        np.testing.assert_allclose(recorded["0.weight"].data, unit.square().mean(0), rtol=1e-12)
        with catmerge.record(model, {"2.weight": "scale"}) as recorded, torch.no_grad():
            output = model(x)
        wanted = output.double() / model[2].weight.double()
        np.testing.assert_allclose(
            recorded["2.weight"].data, wanted.square().mean(0).detach(), rtol=1e-12
        )


def test_rules_and_defaults_skip():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, 6)
            self.patch_embed = nn.Linear(6, 6)
            self.inner = nn.Linear(6, 6)
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.inner(self.patch_embed(self.embed(tokens))))

    model = Tied()
    tokens = torch.tensor([[1, 2, 3]])
    rules = {"inner.*": "untrimmed", "head.weight": "linear"}
    with catmerge.record(model, rules) as recorded:
        with torch.no_grad():
            model(tokens)
    assert set(recorded) == {"head.weight"}
    left_alone = "merges leave it alone"
    assert recorded.missed == {
        "embed.weight": f"{left_alone} (embedding)",
        "patch_embed.weight": f"{left_alone} (embedding)",
        "inner.weight": f"{left_alone} (embedding)",
    }


def test_hooks_are_gone_afterwards_and_errors_say_what_is_wrong():
    model = randomised(Attention())
    with pytest.raises(RuntimeError):
        with catmerge.record(model) as recorded:
            raise RuntimeError("the user's own")
    assert not model._forward_pre_hooks and not model.norm._forward_hooks
    with pytest.raises(catmerge.Error, match="nothing was recorded"):
        recorded.statistics()
    with pytest.raises(catmerge.Error, match="torch.nn.Module"):
        catmerge.record({"weight": 1})
    with pytest.raises(catmerge.Error, match="expected PATTERN=linear"):
        catmerge.record(model, {"*": "gate"})


def test_saved_files_open_again(tmp_path):
    torch.manual_seed(8)
    model = randomised(Attention())
    with catmerge.record(model) as recorded, torch.no_grad():
        for n in (1, 9):
            model(torch.randn(n, 5, 40))
    path = tmp_path / "features.safetensors"
    recorded.save(path)
    opened = catmerge.open_statistics(path)
    assert set(opened) == set(recorded)
    for name, statistics in recorded.statistics().items():
        assert (opened[name].form, opened[name].rows) == (statistics.form, statistics.count)
        assert np.array_equal(opened[name].data, statistics.data)


def test_a_merge_takes_a_recording():
    torch.manual_seed(9)
    base = randomised(Attention())
    experts, recordings = {}, {}
    for task in ("a", "b"):
        model = copy.deepcopy(base)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        with catmerge.record(model) as recorded, torch.no_grad():
            model(torch.randn(2, 5, 40))
        experts[task], recordings[task] = model.state_dict(), recorded
    given = {task: recorded.statistics() for task, recorded in recordings.items()}
    rules = "*_proj.weight=linear"
    merged, _ = catmerge.merge(base.state_dict(), experts, "cat", statistics=given, rules=rules)
    again, _ = catmerge.merge(base.state_dict(), experts, "cat", statistics=recordings, rules=rules)
    plain, _ = catmerge.merge(base.state_dict(), experts, "task-arithmetic", alpha=0.4)
    assert all(torch.equal(merged[name], again[name]) for name in merged)
    assert not torch.equal(merged["q_proj.weight"], plain["q_proj.weight"])


def windows(x, conv, border):
    """The patches of images by definition: one window after another, cut out of the padded image."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = nn.functional.pad(x, border, mode)
    (height, width), (down, right), (dy, dx) = conv.kernel_size, conv.stride, conv.dilation
    rows = []
    for image in x:
        for top in range(0, x.shape[2] - (height - 1) * dy, down):
            for left in range(0, x.shape[3] - (width - 1) * dx, right):
                ys = slice(top, top + (height - 1) * dy + 1, dy)
                xs = slice(left, left + (width - 1) * dx + 1, dx)
                rows.append(image[:, ys, xs].flatten())
    return torch.stack(rows)


def test_patches_are_cut_out_window_by_window():
    torch.manual_seed(10)
    x = torch.randn(3, 2, 5, 6)
    for conv, border in (
        (nn.Conv2d(2, 8, 3, 2, padding=1), (1, 1, 1, 1)),
        (nn.Conv2d(2, 8, (3, 2), (1, 2), padding=(0, 1)), (1, 1, 0, 0)),
        (nn.Conv2d(2, 8, (2, 3), padding="same", dilation=(1, 2)), (2, 2, 0, 1)),
        (nn.Conv2d(2, 8, 3, padding=2, padding_mode="circular"), (2, 2, 2, 2)),
        (nn.Conv2d(2, 8, 1, bias=False), (0, 0, 0, 0)),
    ):
        with catmerge.record(conv, {"weight": "conv"}) as recorded, torch.no_grad():
            conv(x)
        rows = windows(x, conv, border).double()
        found = recorded["weight"]
        assert (found.form, found.count) == ("gram", len(rows))
        np.testing.assert_allclose(found.data, rows.T @ rows, rtol=1e-12, atol=1e-12)
    conv = nn.Conv2d(2, 3, 3)  # few rows are kept, of one image without a batch, too
    for image in (x[:1, :, :4, :5], x[0, :, :4, :5]):
        with catmerge.record(conv, {"weight": "conv"}) as recorded, torch.no_grad():
            conv(image)
        assert torch.equal(
            rows_of(recorded["weight"]), windows(x[:1, :, :4, :5], conv, (0, 0, 0, 0))
        )


def test_convolutions_share_an_input_only_with_the_same_window():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(4, 4, 3, padding=1)
            self.b = nn.Conv2d(4, 2, 3, padding=1)
            self.short = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.a(x) * self.b(x).mean() + self.short(x)

    model = Residual()
    with catmerge.record(model) as recorded, torch.no_grad():
        model(torch.randn(2, 4, 4, 4))
    statistics = recorded.statistics()
    assert statistics["b.weight"] is statistics["a.weight"]
    assert statistics["short.weight"] is not statistics["a.weight"]


def test_norms_of_channels():
    class LayerNorm2d(nn.LayerNorm):  # as torchvision's and timm's
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3))
            self.eps = 1e-2

        def forward(self, x):
            centred = x - x.mean(1, keepdim=True)
            root = (centred.square().mean(1, keepdim=True) + self.eps).sqrt()
            return self.weight.view(1, -1, 1, 1) * centred / root

    torch.manual_seed(11)
    x = torch.randn(2, 3, 3, 3)  # equal extents: the wrong axis would not be noticed by its length
    for norm in (LayerNorm2d(3, eps=1e-2), Plain()):
        with catmerge.record(norm, {"weight": "scale"}) as recorded, torch.no_grad():
            output = norm(x)
        assert recorded.norms["weight"] == "layer norm over channels, eps 0.01"
        rows = (output.permute(0, 2, 3, 1).reshape(-1, 3) / norm.weight.detach()).double()
        assert recorded["weight"].count == 18
        np.testing.assert_allclose(recorded["weight"].data, rows.square().mean(0), rtol=1e-5)


def test_rows_of_the_convolutional_network_are_the_fixtures(monkeypatch):
    """The program's rows equal the same fixtures, in tests/networks/convnet_test.cpp."""
    root = pathlib.Path(__file__).resolve().parents[3]
    monkeypatch.syspath_prepend(str(root / "examples" / "families" / "convnet"))
    from convnet import Config, ConvNet

    for folder in sorted((root / "tests" / "fixtures" / "convnet").iterdir()):
        model = ConvNet(Config.read(folder / "config.json"))
        state = catmerge.open(folder / "model.safetensors", like="torch")
        model.load_state_dict(
            {name[name.index("convnet.") :]: state[name].float() for name in state}
        )
        expected = catmerge.open(folder / "expected.safetensors", like="torch")
        prefix = "model." if folder.name == "colour" else ""
        with catmerge.record(model.eval(), {"*.conv.weight": "conv"}) as recorded, torch.no_grad():
            embeds = model(expected["pixel_values"].clone())
        torch.testing.assert_close(embeds, expected["image_embeds"], rtol=1e-4, atol=1e-5)
        assert len(recorded) == 2 * len(model.config.channels) + 1
        for name, found in recorded.statistics().items():
            rows = expected[prefix + name].double()
            assert found.count == len(rows), name
            wanted = {
                "rows": rows,
                "gram": rows.T @ rows,
                "second_moment": rows.square().mean(0),
            }[found.form]
            # Rows are rounded to float32 twice, and entries here are at most some tens.
            data = torch.from_numpy(np.array(found.data)).double()
            assert (data - wanted).abs().max() <= 1e-6 * wanted.abs().max() + 1e-5, name
