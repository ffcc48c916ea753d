"""The products of a forward pass: what PyTorch's functions multiply by which weight."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def part_of(parameter, weight):
    """The part of a parameter that a weight in its memory is: (member of a stack, first row).

    The member is None for a matrix and for a convolution's weight. None if it is another part, as
    some columns of a matrix.
    """
    offset = weight.storage_offset() - parameter.storage_offset()
    if _same_layout(parameter, weight):
        return (None, 0) if offset == 0 else None
    if parameter.dim() == 3 and weight.dim() == 2:
        number, rest = divmod(offset, parameter.stride(0))
        if rest == 0 and 0 <= number < parameter.shape[0] and _same_layout(parameter[0], weight):
            return number, 0
        return None
    if parameter.dim() == 2 and weight.dim() == 2:
        for w in (weight, weight.t()):
            row, rest = divmod(offset, parameter.stride(0))
            if rest == 0 and w.stride() == parameter.stride() and w.shape[1] == parameter.shape[1]:
                return None, row
    return None


def _same_layout(parameter, weight):
    return any(
        w.shape == parameter.shape and w.stride() == parameter.stride()
        for w in ((weight, weight.t()) if weight.dim() == 2 else (weight,))
    )


def rows_as_they_are(x):
    return x


def columns(x):
    return x.transpose(-1, -2)


class patches:
    """The rows that a convolution's weight (d_out, rest) meets: n, positions and then the rest."""

    def __init__(self, kernel, stride, padding, dilation):
        self.window = (tuple(kernel), stride, padding, dilation)

    def __call__(self, x):
        kernel, stride, padding, dilation = self.window
        axes = len(kernel)
        if x.dim() == axes + 1:  # one sample
            x = x[None]
        stride, dilation = _each(stride, axes), _each(dilation, axes)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel)]
        if padding == "valid":
            padding = 0
        if padding == "same":  # more at the end, as torch has it
            sides = [(r // 2, r - r // 2) for r in reach]
        else:
            sides = [(p, p) for p in _each(padding, axes)]
        x = F.pad(x, [side for pair in reversed(sides) for side in pair])
        for axis in range(axes):
            x = x.unfold(2 + axis, reach[axis] + 1, stride[axis])
        # n, channels, positions, windows
        x = x[(...,) + tuple(slice(None, None, d) for d in dilation)]
        order = [0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes)]
        return x.permute(order).flatten(1 + axes)


def _each(value, axes):
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * axes if len(values) == 1 else values


def _bound(names, arguments, keywords, defaults=()):
    values = dict(defaults)
    values.update(zip(names, arguments))
    values.update(keywords)
    return values


_MATMULS = {
    torch.matmul,
    torch.mm,
    torch.Tensor.matmul,
    torch.Tensor.mm,
    torch.Tensor.__matmul__,
}
_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}
_GROUPED = {
    getattr(place, name)
    for place, name in ((F, "grouped_mm"), (torch, "_grouped_mm"))
    if hasattr(place, name)
}


class watch(TorchFunctionMode):
    """Calls on_product(x, weight, rows_of, member) for each product, before it is computed.

    refuse(weight, reason): for products that are not understood.
    """

    def __init__(self, on_product, refuse):
        super().__init__()
        self._on_product = on_product
        self._refuse = refuse
        self._fast_path = None

    def __enter__(self):
        # The fast path of nn.TransformerEncoderLayer is one function with all weights.
        self._fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()

    def __exit__(self, *exception):
        torch.backends.mha.set_fastpath_enabled(self._fast_path)
        return super().__exit__(*exception)

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        if function is F.linear:
            given = _bound(("input", "weight", "bias"), arguments, keywords)
            self._on_product(given["input"], given["weight"], rows_as_they_are)
        elif function in (torch.addmm, torch.Tensor.addmm):
            given = _bound(("input", "mat1", "mat2"), arguments, keywords)
            self._on_product(given["mat1"], given["mat2"], rows_as_they_are)
        elif function in _MATMULS:
            self._on_matmul(*_bound(("input", "other"), arguments, keywords).values())
        elif function in (torch.bmm, torch.Tensor.bmm):
            self._on_batch(*_bound(("input", "mat2"), arguments, keywords).values())
        elif function in _CONVOLUTIONS:
            self._on_convolution(arguments, keywords)
        elif function in _GROUPED:
            self._on_groups(arguments, keywords)
        elif function is F.multi_head_attention_forward:
            self._on_attention(arguments, keywords)
        return function(*arguments, **keywords)

    def _on_matmul(self, a, b):
        if b.dim() == 2:
            self._on_product(a, b, rows_as_they_are)
        if a.dim() == 2 and b.dim() >= 2:
            self._on_product(b, a, columns)
        if a.dim() == 3 and b.dim() == 3:
            self._on_batch(a, b)

    def _on_batch(self, a, b):
        for x, weight, rows_of in ((a, b, rows_as_they_are), (b, a, columns)):
            for member in range(min(len(weight), len(x))):
                self._on_product(x[member], weight[member], rows_of)

    def _on_convolution(self, arguments, keywords):
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = _bound(
            names, arguments, keywords, {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        )
        weight = given["weight"]
        if given["groups"] != 1:
            return self._refuse(weight, "a convolution of several groups")
        window = [
            tuple(v) if isinstance(v, list) else v
            for v in (given["stride"], given["padding"], given["dilation"])
        ]
        self._on_product(given["input"], weight, patches(weight.shape[2:], *window))

    def _on_groups(self, arguments, keywords):
        """Rows of x are sorted by members; member e has those up to offs[e]."""
        given = _bound(("input", "mat2"), arguments, keywords)
        x, weight, offsets = given["input"], given["mat2"], given.get("offs")
        if offsets is None or x.dim() != 2 or weight.dim() != 3:
            return self._refuse(weight, "a grouped product of an unknown form")
        first = 0
        for member, end in enumerate(offsets.tolist()):
            if end > first:
                self._on_product(x[first:end], weight[member], rows_as_they_are)
            first = end

    def _on_attention(self, arguments, keywords):
        """nn.MultiheadAttention: its second product's input is its output with the identity."""
        names = (
            "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v "
            "add_zero_attn dropout_p out_proj_weight out_proj_bias"
        ).split()
        given = _bound(names, arguments, keywords)
        query, key, value = given["query"], given["key"], given["value"]
        if given["in_proj_weight"] is not None:
            if query is key and key is value:
                self._on_product(query, given["in_proj_weight"], rows_as_they_are)
            else:
                self._refuse(given["in_proj_weight"], "its parts have different inputs")
        for x, weight in (
            (query, "q_proj_weight"),
            (key, "k_proj_weight"),
            (value, "v_proj_weight"),
        ):
            if given.get(weight) is not None:
                self._on_product(x, given[weight], rows_as_they_are)
        out = given["out_proj_weight"]
        given["out_proj_weight"] = torch.eye(out.shape[1], dtype=out.dtype, device=out.device)
        given["out_proj_bias"] = None
        mixed = F.multi_head_attention_forward(**given)[0]
        self._on_product(mixed, out, rows_as_they_are)
