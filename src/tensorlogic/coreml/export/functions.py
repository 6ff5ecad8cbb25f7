"""Public functions that MIL has an operation for: it is written, not what they are composed of.

So a softmax or a convolution stays one of float16, as Apple's runtime wants it. A call whose
options an operation has not (a dilated pool, weights that are known at the call only) is left to
the primitives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlogic import record
from tensorlogic.coreml.export.emitter import Arguments, Emitter
from tensorlogic.coreml.export.graphs import PublicCall
from tensorlogic.functions.windows import Slide, ints_of, slides_of
from tensorlogic.graph import Node
from tensorlogic.tensor import Tensor

Says = Callable[[Arguments], bool]
Emit = Callable[[Emitter, Arguments], Any]


def says(e: Emitter, call: PublicCall) -> bool:
    """Whether there is an operation for a call."""
    entry = _FUNCTIONS.get(call.function)
    return entry is not None and entry[0](call.arguments)


def emit_call(e: Emitter, call: PublicCall) -> Any:
    return _FUNCTIONS[call.function][1](e, call.arguments)


def _node(value: Tensor) -> Node:
    return value._node


def _shape(a: Arguments, name: str = "x") -> tuple[int, ...]:
    return _node(a[name]).shape


def _always(a: Arguments) -> bool:
    return True


def _constant(*names: str) -> Says:
    """These arguments, if they are given, depend on no input and have the dtype of x."""

    def holds(a: Arguments) -> bool:
        given = [_node(a[n]) for n in names if isinstance(a[n], Tensor)]
        return all(not n.traced and n.dtype is _node(a["x"]).dtype for n in given)

    return holds


def _and(*conditions: Says) -> Says:
    return lambda a: all(c(a) for c in conditions)


def _rank(*ranks: int) -> Says:
    return lambda a: len(_shape(a)) in ranks


def _given(e: Emitter, a: Arguments, **names: str) -> dict[str, Any]:
    """Arguments that are there, under MIL's names."""
    return {mil: e.var(_node(a[ours])) for mil, ours in names.items() if a[ours] is not None}


def _softmax(e: Emitter, a: Arguments) -> Any:
    return e.mb.softmax(x=e.var(_node(a["x"])), axis=a["axis"])


def _mean(e: Emitter, a: Arguments) -> Any:
    node = _node(a["x"])
    axes = list(record.normal_axes("mean", a["axis"], len(node.shape)))
    mean = e.mb.reduce_mean(x=e.var(node), axes=axes, keep_dims=True)
    if a["keepdims"]:
        return mean
    return e.reshape(mean, tuple(n for i, n in enumerate(node.shape) if i not in axes))


def _logsumexp(e: Emitter, a: Arguments) -> Any:
    node = _node(a["x"])
    axes = list(record.normal_axes("logsumexp", a["axis"], len(node.shape)))
    return e.mb.reduce_log_sum_exp(x=e.var(node), axes=axes, keep_dims=a["keepdims"])


def _has_axes(a: Arguments) -> bool:
    node = _node(a["x"])
    return bool(record.normal_axes("mean", a["axis"], len(node.shape))) and node.size > 0


def _layer_norm(e: Emitter, a: Arguments) -> Any:
    node = _node(a["x"])
    more = _given(e, a, gamma="weight", beta="bias")
    epsilon = e.number(a["eps"], node.dtype)
    return e.mb.layer_norm(x=e.var(node), axes=[-1], epsilon=epsilon, **more)


def _batch_norm(e: Emitter, a: Arguments) -> Any:
    node = _node(a["x"])
    more = _given(e, a, mean="mean", variance="var", gamma="weight", beta="bias")
    return e.mb.batch_norm(x=e.var(node), epsilon=e.number(a["eps"], node.dtype), **more)


def _matrix_product(e: Emitter, a: Arguments) -> Any:
    return e.mb.linear(x=e.var(_node(a["x"])), **_given(e, a, weight="weight", bias="bias"))


def _slides(fn: str, a: Arguments) -> list[Slide]:
    taps = _shape(a, "weight")[2:]
    return slides_of(fn, _node(a["x"]), taps, a["stride"], a["padding"], a["dilation"])


def _pads(slides: list[Slide]) -> list[int]:
    return [side for s in slides for side in (s.before, s.after)]


def _conv(fn: str) -> Emit:
    def emitted(e: Emitter, a: Arguments) -> Any:
        slides = _slides(fn, a)
        return e.mb.conv(
            x=e.var(_node(a["x"])),
            strides=[s.stride for s in slides],
            dilations=[s.dilation for s in slides],
            pad_type="custom",
            pad=_pads(slides),
            groups=a["groups"],
            **_given(e, a, weight="weight", bias="bias"),
        )

    return emitted


def _transposed_pads(fn: str, a: Arguments, rank: int) -> list[tuple[int, int]]:
    paddings = ints_of(fn, "padding", a["padding"], rank, 0)
    extras = ints_of(fn, "output_padding", a["output_padding"], rank, 0)
    return [(p, p - e) for p, e in zip(paddings, extras, strict=True)]


def _conv_transpose(fn: str, rank: int) -> tuple[Says, Emit]:
    def said(a: Arguments) -> bool:
        return all(after >= 0 for _, after in _transposed_pads(fn, a, rank))

    def emitted(e: Emitter, a: Arguments) -> Any:
        return e.mb.conv_transpose(
            x=e.var(_node(a["x"])),
            strides=list(ints_of(fn, "stride", a["stride"], rank)),
            dilations=list(ints_of(fn, "dilation", a["dilation"], rank)),
            pad_type="custom",
            pad=[side for pair in _transposed_pads(fn, a, rank) for side in pair],
            groups=a["groups"],
            **_given(e, a, weight="weight", bias="bias"),
        )

    return _and(_constant("weight", "bias"), said), emitted


def _pool(fn: str, op: str, rank: int) -> tuple[Says, Emit]:
    def said(a: Arguments) -> bool:
        dilations = ints_of(fn, "dilation", a.get("dilation", 1), rank)
        return len(_shape(a)) == rank + 2 and set(dilations) == {1} and not a["ceil_mode"]

    def emitted(e: Emitter, a: Arguments) -> Any:
        taps = ints_of(fn, "kernel", a["kernel"], rank)
        pads = ints_of(fn, "padding", a["padding"], rank, 0)
        more: dict[str, Any] = {}
        if "count_include_pad" in a:
            more["exclude_padding_from_average"] = not a["count_include_pad"]
        return getattr(e.mb, op)(
            x=e.var(_node(a["x"])),
            kernel_sizes=list(taps),
            strides=list(ints_of(fn, "stride", taps if a["stride"] is None else a["stride"], rank)),
            pad_type="custom",
            pad=[p for p in pads for _ in range(2)],
            **more,
        )

    return said, emitted


_WEIGHTS = _constant("weight", "bias")
_FUNCTIONS: dict[str, tuple[Says, Emit]] = {
    "softmax": (_always, _softmax),
    "mean": (_has_axes, _mean),
    "logsumexp": (_has_axes, _logsumexp),
    "layer_norm": (_WEIGHTS, _layer_norm),
    "batch_norm": (_and(_constant("mean", "var", "weight", "bias"), _rank(3, 4, 5)), _batch_norm),
    "linear": (_and(_WEIGHTS, _rank(1, 2, 3)), _matrix_product),
    "conv1d": (_WEIGHTS, _conv("conv1d")),
    "conv2d": (_WEIGHTS, _conv("conv2d")),
    "conv_transpose1d": _conv_transpose("conv_transpose1d", 1),
    "conv_transpose2d": _conv_transpose("conv_transpose2d", 2),
    "max_pool1d": _pool("max_pool1d", "max_pool", 1),
    "max_pool2d": _pool("max_pool2d", "max_pool", 2),
    "avg_pool1d": _pool("avg_pool1d", "avg_pool", 1),
    "avg_pool2d": _pool("avg_pool2d", "avg_pool", 2),
}
"""For each function, whether a call can be said, and how it is."""
