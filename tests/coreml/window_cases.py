"""Cases: convolutions and pooling over 1 to 3 axes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

from tests.coreml.cases import Array, case, normal
from tests.coreml.elementwise_cases import torched

SIZES = {1: (11,), 2: (9, 8), 3: (5, 6, 7)}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
BACK = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def same(sizes: tuple[int, ...], spans: list[int], strides: list[int], lower: bool) -> list[int]:
    """Padding (before, after, before, after, ...), as TensorFlow's SAME has it."""
    out = []
    for n, k, s in zip(sizes, spans, strides, strict=True):
        total = max((int(np.ceil(n / s)) - 1) * s + k - n, 0)
        out += [total - total // 2, total // 2] if lower else [total // 2, total - total // 2]
    return out


def padded(x: torch.Tensor, pad: list[int], value: float = 0.0) -> torch.Tensor:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=value)


# ---- convolutions ------------------------------------------------------------------------------

for rank, sizes in SIZES.items():
    x, bias = normal(2, 4, *sizes), normal(6)
    for kind, groups in itertools.product(("valid", "same", "same_lower", "custom"), (1, 2)):
        weight = normal(6, 4 // groups, *[3, 2, 3][:rank])
        strides, dilations = [2, 1, 2][:rank], [1, 2, 1][:rank]
        spans = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
        pad = [1, 2, 0, 3, 2, 1][: 2 * rank]
        if kind.startswith("same"):
            pad = same(sizes, spans, strides, kind == "same_lower")
        if kind == "valid":
            pad = [0] * 2 * rank

        def convolved(x: Array, r=rank, w=weight, b=bias, p=pad, s=strides, d=dilations, g=groups):  # type: ignore[no-untyped-def]
            t = padded(torch.from_numpy(x), p)
            return CONV[r](t, torch.from_numpy(w), torch.from_numpy(b), s, 0, d, g).numpy()

        case(
            "conv",
            {"x": x},
            convolved,
            opset=16,
            weight=weight,
            bias=bias,
            strides=strides,
            pad_type=kind,
            dilations=dilations,
            groups=groups,
            ulps=32,
            half=False,
            name=f"{rank}d-{kind}-{groups}",
            **({"pad": pad} if kind == "custom" else {}),
        )
case(
    "conv",
    {"x": normal(1, 4, 6, 6), "weight": normal(3, 4, 3, 3)},
    torched(F.conv2d),
    ulps=32,
    name="weight-of-a-call",
)
case(
    "conv",
    {"x": normal(1, 4, 7, 7)},
    torched(lambda t: F.conv2d(t, torch.ones(4, 1, 3, 3), groups=4)),
    weight=np.ones((4, 1, 3, 3), np.float32),
    groups=4,
    name="depthwise",
    ulps=32,
)

for rank, groups in itertools.product((1, 2, 3), (1, 2)):
    x, weight, bias = (
        normal(2, 4, *[5, 4, 3][:rank]),
        normal(4, 3, *[3, 2, 3][:rank]),
        normal(3 * groups),
    )
    strides, dilations = [2, 3, 2][:rank], [1, 2, 1][:rank]
    for kind in ("valid", "custom", "same", "shape"):
        before = after = [0] * rank
        full = [
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(x.shape[2:], strides, weight.shape[2:], dilations, strict=True)
        ]
        wanted = full
        if kind == "custom":
            before, after = [1, 0, 2][:rank], [0, 2, 1][:rank]
            wanted = [n - a - b for n, a, b in zip(full, before, after, strict=True)]
        elif kind == "same":
            wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
            before = [max(n - w, 0) // 2 for n, w in zip(full, wanted, strict=True)]
        elif kind == "shape":
            before, wanted = [1] * rank, [n + 1 for n in full]

        def transposed(
            x: Array,
            r=rank,
            w=weight,
            b=bias,
            s=strides,
            d=dilations,
            g=groups,
            start=before,
            size=wanted,
        ):  # type: ignore[no-untyped-def]
            t = BACK[r](torch.from_numpy(x), torch.from_numpy(w), None, s, 0, 0, g, d)
            t = F.pad(t, [0, 9] * r)
            t = t[(..., *(slice(a, a + n) for a, n in zip(start, size, strict=True)))]
            return (t + torch.from_numpy(b).reshape(-1, *[1] * r)).numpy()

        extra = {}
        if kind in ("custom", "shape"):
            extra["pad"] = [
                n
                for p in zip(before, after if kind == "custom" else before, strict=True)
                for n in p
            ]
        if kind == "shape":
            extra["output_shape"] = [2, 3 * groups, *wanted]
        case(
            "conv_transpose",
            {"x": x},
            transposed,
            weight=weight,
            bias=bias,
            strides=strides,
            dilations=dilations,
            groups=groups,
            ulps=32,
            half=False,
            pad_type="custom" if kind == "shape" else kind,
            name=f"{rank}d-{kind}-{groups}",
            **extra,
        )

# ---- pooling -----------------------------------------------------------------------------------

for rank, sizes in SIZES.items():
    x = normal(2, 3, *sizes)
    kernel, strides = [3, 2, 3][:rank], [2, 1, 2][:rank]
    taps = math.prod(kernel)
    for kind in ("valid", "same", "same_lower", "custom"):
        pad = [0] * 2 * rank
        if kind == "custom":
            pad = [1, 0, 0, 1, 1, 1][: 2 * rank]
        elif kind != "valid":
            pad = same(sizes, kernel, strides, kind == "same_lower")
        given = {"pad": pad} if kind == "custom" else {}
        fixed = {"kernel_sizes": kernel, "strides": strides, "pad_type": kind, **given}
        name = f"{rank}d-{kind}"
        case(
            "max_pool",
            {"x": x},
            opset=16,
            name=name,
            **fixed,
            expected=torched(
                lambda t, r=rank, p=pad, k=kernel, s=strides: MAX[r](padded(t, p, -np.inf), k, s)
            ),
        )

        def averaged(x: Array, r=rank, p=pad, k=kernel, s=strides, exclude=False):  # type: ignore[no-untyped-def]
            t = torch.from_numpy(x)
            total = AVG[r](padded(t, p), k, s)
            if exclude:
                total = total / AVG[r](padded(torch.ones_like(t), p), k, s)
            return total.numpy()

        for exclude in (False, True):
            case(
                "avg_pool",
                {"x": x},
                opset=16,
                name=f"{name}-{exclude}",
                exclude_padding_from_average=exclude,
                **fixed,
                expected=lambda x, f=averaged, e=exclude: f(x, exclude=e),
            )
        if rank < 3:
            case(
                "l2_pool",
                {"x": x},
                opset=16,
                name=name,
                **fixed,
                expected=lambda x, f=averaged, n=taps: np.sqrt(f(x * x) * n),
            )
for exclude, pad in itertools.product((False, True), (0, 1)):
    fixed = {"kernel_sizes": [3, 3], "strides": [2, 2], "ceil_mode": True, "pad": [pad] * 4}
    x = normal(1, 2, 8, 10)
    case(
        "avg_pool",
        {"x": x},
        torched(lambda t, e=exclude, p=pad: F.avg_pool2d(t, 3, 2, p, True, not e)),
        exclude_padding_from_average=exclude,
        pad_type="custom",
        name=f"ceil-{exclude}-{pad}",
        **fixed,
    )
    case(
        "max_pool",
        {"x": x},
        torched(lambda t, p=pad: F.max_pool2d(t, 3, 2, p, 1, True)),
        pad_type="custom",
        name=f"ceil-{pad}-{exclude}",
        **fixed,
    )
